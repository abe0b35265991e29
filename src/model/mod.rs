//! The product's nouns: what is stored, what the API shows and what the command line prints are one set of types, those of the contract's
//! "Shapes". Pure data: no clock, no I/O, no storage, no HTTP.

mod account;
mod agent;
mod audit;
mod billing;
mod chat;
mod duplicates;
mod failure;
mod list;
mod objects;
mod sandbox;

pub use account::*;
pub use agent::*;
pub use audit::*;
pub use billing::*;
pub use chat::*;
pub use duplicates::duplicate_key;
pub use failure::*;
pub use list::*;
pub use sandbox::*;

/// Any JSON value whose shape is the caller's own.
pub type Json = serde_json::Value;
/// A JSON object whose fields are the caller's own.
pub type JsonObject = serde_json::Map<String, Json>;
