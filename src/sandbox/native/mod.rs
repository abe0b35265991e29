//! The native backend: a spawner beside the server, and for each sandbox a launcher that makes its namespaces and an init that builds its walls
//! from inside. All are this same binary, started anew under a hidden name, so that nothing foreign runs in a copy of the server's memory.
//!
//! ```text
//! server ──socket──▶ spawner ──▶ launcher (ends) ──▶ init (PID 1) ──▶ the tenant's program
//! ```

mod cgroup;
mod disk;
mod fence;
mod init;
mod launcher;
mod mounts;
mod network;
mod pace;
mod raw;
mod rest;
mod seccomp;
mod spawner;
pub(super) mod wire;

pub(super) use network::{PORT, open_door};
pub(super) use seccomp::profile as seccomp_profile;

use super::{SandboxError, runner};
use std::{os::fd::AsFd, process::ExitCode};

/// The hidden command under which the binary starts itself.
pub(super) const COMMAND: &str = "__sandbox";

/// Plays a part of the backend, if this process was started for one. Its socket is descriptor 0.
pub(super) fn stage() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    let part = args.next()?;
    if raw::close_inherited().is_err() {
        return Some(ExitCode::FAILURE);
    }
    let stdin = std::io::stdin();
    match part.to_str()? {
        "spawner" => spawner::run(stdin.as_fd(), args.collect()),
        "launcher" => launcher::run(stdin.as_fd()),
        "init" => init::run(stdin.as_fd()),
        "sweeper" => disk::sweep_away(args.collect()),
        "keeper" => super::engine::run(stdin.as_fd(), args.collect()),
        _ => return Some(ExitCode::FAILURE),
    }
    Some(ExitCode::SUCCESS)
}
