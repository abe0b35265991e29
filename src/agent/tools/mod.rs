//! Tools that the server runs: from a model's call to what the model is told. A tool is never run outside a sandbox, and what it says is cut,
//! and cleaned of its secrets, before a model, a log or a client can see it.
//!
//! - [`offer`]: which tools a config offers, and whether a call fits what was pinned, pure;
//! - [`redact`]: secrets out of text, pure;
//! - `session`: one running sandbox and the MCP client that talks to it;
//! - `slot`, `status`: what is known of one config's sandbox, and what of it is shown;
//! - `yard`: which sandboxes there are: started at the first call, stopped when idle, bounded a tenant and a server;
//! - `intake`: bundles on their way in, and what each starts;
//! - `describe`: a bundle tried out in a sandbox that is thrown away;
//! - `images`: container images of configs;
//! - `workspaces`, `files`: the files that outlive processes, and how people look at them;
//! - `snapshots`, `shelf`: copies of those files, made and put back, and where they lie;
//! - `run`: a turn's step of tools.

mod describe;
mod files;
mod images;
mod intake;
pub mod offer;
pub mod redact;
mod run;
mod session;
mod shelf;
mod slot;
mod snapshots;
mod status;
mod workspaces;
mod yard;

pub use yard::Yard;
