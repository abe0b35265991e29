//! The launcher: makes the namespaces, starts init in them and ends. It is a process of its own because namespaces for processes hold for
//! children alone, and because the spawner must stay outside.

use super::{
    raw,
    wire::{Step, expect, send},
};
use rustix::{
    io::Errno,
    process::{Signal, getuid, set_parent_process_death_signal},
    thread::{CapabilitySet, UnshareFlags, capabilities, configure_capability_in_ambient_set, set_capabilities, set_thread_groups},
};
use std::{
    os::fd::BorrowedFd,
    process::{Command, Stdio},
};

pub(super) fn run(socket: BorrowedFd<'_>) {
    let last = match prepare(socket) {
        Ok(pid) => Step::Born(pid),
        Err(why) => Step::Failed(why),
    };
    // Whoever does not hear it is gone.
    drop(send(socket, &last, &[]));
}

fn prepare(socket: BorrowedFd<'_>) -> Result<i32, String> {
    let said = |error: super::SandboxError| error.to_string();
    let (Step::Go, _) = expect(socket).map_err(said)? else { return Err("the spawner said something else than go".to_owned()) };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| format!("PR_SET_PDEATHSIG: {error}"))?;
    if getuid().is_root() {
        set_thread_groups(&[]).map_err(|error| format!("the server's groups could not be left: {error}"))?;
    }
    let all = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    raw::unshare(all).map_err(|error| {
        format!(
            "this system gives us no namespaces (unshare: {error}): unprivileged user namespaces are off, or a container's or AppArmor's \
             rules forbid them; start the server as root, or allow them"
        )
    })?;
    send(socket, &Step::Unshared, &[]).map_err(|error| error.to_string())?;
    let (Step::Mapped, _) = expect(socket).map_err(said)? else { return Err("the spawner said something else than mapped".to_owned()) };
    keep_capabilities_over_exec().map_err(|error| format!("the namespace's capabilities: {error}"))?;
    // The exec happens while files are still looked at as the server's user; init then takes the sandbox's.
    let init = Command::new("/proc/self/exe")
        .args([super::COMMAND, "init"])
        .env_clear()
        .stdin(Stdio::inherit())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("init could not be started: {error}"))?;
    i32::try_from(init.id()).map_err(|error| error.to_string())
}

/// The capabilities are those of the new user namespace alone; init needs them for its mounts, and drops them all before anything foreign runs.
fn keep_capabilities_over_exec() -> Result<(), Errno> {
    let mut sets = capabilities(None)?;
    sets.inheritable = sets.permitted;
    let held = sets.permitted;
    set_capabilities(None, sets)?;
    for one in held.iter().flat_map(single) {
        configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

/// A set as sets of one: bits that have no name yet come together.
fn single(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit)).filter(move |one| set.contains(*one))
}
