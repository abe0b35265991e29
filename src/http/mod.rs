//! The server's face: the only folder that names hyper.

mod accept;
mod answer;
mod body;
pub mod call;
pub mod codes;
mod credential;
mod door;
pub mod endpoint;
mod handlers;
mod limit;
pub mod problem;
mod query;
mod refused;
mod route;
mod server;
pub mod sse;
mod tls;
mod trace;

pub use route::{Table, table};
pub use server::serve;
