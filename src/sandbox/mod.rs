//! Processes that run what a tenant sent us, fenced in by the kernel: what a sandbox is made from, what it can be asked, and how it ends. This
//! floor knows no HTTP, no tenants and no agents. docs/sandbox.md says what the fence promises and what it does not.

mod error;
mod spec;

pub use error::{ExitCause, Result, SandboxError, StopReason};
pub use spec::{BuiltIns, PythonTool, SandboxId, SandboxLimits, SandboxSpec, Secrets, Start, Usage};
