//! The server's face: the only folder that names hyper.

pub mod call;
pub mod endpoint;
mod handlers;
