//! The server's face: the only folder that names hyper.

mod accept;
mod answer;
mod assets;
mod body;
pub mod call;
pub mod codes;
mod cookie;
mod cors;
mod credential;
mod crowd;
mod docs;
mod door;
pub mod endpoint;
mod file;
mod handlers;
mod limit;
mod openapi;
mod peer;
pub mod problem;
mod query;
mod refused;
mod route;
mod server;
mod slow;
pub mod sse;
mod tls;
mod trace;

pub use openapi::document;
pub use route::{Table, table};
pub use server::serve;
