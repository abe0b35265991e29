//! The engine backend: sandboxes that are containers of Docker or Podman. A keeper beside the server, this same binary started anew, is the one
//! process that talks to the engine; it understands the spawner's questions, so that the server needs not know who runs what.
//!
//! ```text
//! server ──socket──▶ keeper ──engine's socket──▶ engine ──▶ container
//! ```
//!
//! Whoever reaches an engine's socket is root of the host. So the keeper is never told what to say there: it is given a sandbox's facts, and what
//! the container is made of stands in `container.rs`.

mod container;
mod door;
mod ground;
mod keeper;
mod life;

pub(super) use keeper::run;

use super::{SandboxError, runner};
