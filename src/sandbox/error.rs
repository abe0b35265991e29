//! Why a sandbox ended, and why something could not be done with one. The texts are for the operator's log; clients and models are told by
//! whoever asked, in words of their own.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What this module's functions return.
pub type Result<T> = std::result::Result<T, SandboxError>;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxError {
    /// This machine cannot fence a process in, or not as strictly as the operator wants. Nothing was run.
    Unavailable(String),
    /// No more sandboxes can be had now.
    Capacity(String),
    /// It took too long.
    Deadline,
    /// The sandbox had no memory left and was killed.
    OomKilled,
    /// The process ended by itself. The text is the end of what it wrote to stderr.
    Crashed(String),
    /// The workspace is full.
    DiskFull,
    /// What came out of the sandbox is not what was agreed.
    Protocol(String),
    /// Not in the state this needs: it is being destroyed, or the path is none of the workspace's.
    Denied(String),
    /// What was asked for has more than so many bytes.
    TooLong(u64),
    /// A fault of ours or of the machine.
    Internal(String),
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "sandboxes are unavailable: {why}"),
            Self::Capacity(why) => write!(f, "no sandbox is free: {why}"),
            Self::Deadline => f.write_str("the sandbox took too long"),
            Self::OomKilled => f.write_str("the sandbox ran out of memory"),
            Self::Crashed(stderr) if stderr.is_empty() => f.write_str("the sandbox's process ended"),
            Self::Crashed(stderr) => write!(f, "the sandbox's process ended; its last words: {stderr}"),
            Self::DiskFull => f.write_str("the sandbox's workspace is full"),
            Self::Protocol(what) => write!(f, "the sandbox did not answer as agreed: {what}"),
            Self::Denied(why) => write!(f, "the sandbox refused: {why}"),
            Self::TooLong(most) => write!(f, "it has more than {most} bytes"),
            Self::Internal(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SandboxError {}

/// Why we end a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Nobody called it for a while, or the server stops.
    Idle,
    /// A call took too long.
    Deadline,
    /// It wrote more than its workspace may hold, where the kernel could not say no.
    DiskFull,
    /// It used more memory than it may, where the kernel could not say no.
    Oom,
    /// Its key, config or tenant is gone.
    Revoked,
}

/// How a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCause {
    /// Its process ended with this code.
    Exit(i32),
    /// Its process was ended by this signal, which was not ours.
    Signal(i32),
    /// It ran out of memory.
    Oom,
    /// We ended it.
    Stopped(StopReason),
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Oom | Self::Stopped(StopReason::Oom) => f.write_str("ran out of memory"),
            Self::Stopped(StopReason::DiskFull) => f.write_str("filled its workspace"),
            Self::Stopped(StopReason::Deadline) => f.write_str("took too long"),
            Self::Stopped(StopReason::Idle) => f.write_str("was stopped while idle"),
            Self::Stopped(StopReason::Revoked) => f.write_str("was stopped because its owner is gone"),
        }
    }
}
