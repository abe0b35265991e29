//! Init, PID 1 of a sandbox: builds the walls around itself, starts the tenant's program behind them, and reaps until that ends. The order of
//! the steps is what makes them hold; each says why it stands where it stands.

use super::{
    fence, mounts, network, seccomp,
    wire::{Launch, Status, Step, expect, send},
};
use crate::sandbox::SandboxLimits;
use rustix::{
    fs::Mode,
    process::{
        DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, nice, prlimit, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit, umask, wait,
    },
    system::sethostname,
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs, set_thread_res_gid, set_thread_res_uid,
    },
};
use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
};

/// The user inside.
const USER: u32 = 1000;
/// No core dump is that short; and of all sizes, only this one keeps it from the host's own program for dumps, which asks for no size.
const CORE_BYTES_MAX: u64 = 1;
const FILE_BYTES_MAX: u64 = 256 << 20;
const FILES_OPEN_MAX: u64 = 512;
const LOCKED_BYTES_MAX: u64 = 64 << 10;
/// Where no cgroup counts processor time, one process may not take more than this.
const CPU_SECONDS_MAX: u64 = 3600;

pub(super) fn run(socket: BorrowedFd<'_>) {
    let Ok((Step::Launch { launch, workspace, hard_memory }, fds)) = expect(socket) else { return };
    let Ok([stdin, stdout, stderr, status]) = <[OwnedFd; 4]>::try_from(fds) else { return };
    let mut status = File::from(status);
    // Until now the launcher's end, which is meant to end, would have ended us too.
    let door = match wall_in(&launch, &workspace, hard_memory) {
        Ok(door) => door,
        Err(why) => return drop(send(socket, &Step::Failed(why), &[])),
    };
    let given: Vec<BorrowedFd<'_>> = door.iter().map(AsFd::as_fd).collect();
    if send(socket, &Step::Armed, &given).is_err() {
        // The spawner ended before it could take us along.
        return;
    }
    drop(door);
    let started = lock(&launch).and_then(|landlock| {
        let program = start(&launch, stdin, stdout, stderr)?;
        if !hard_memory {
            bound_address_space(program, launch.limits.memory_bytes)?;
        }
        Ok((landlock, program))
    });
    match started {
        Ok((landlock, program)) => {
            tell(&mut status, &Status::Ready { landlock });
            let end = reap(program);
            tell(&mut status, &end);
        }
        Err(why) => tell(&mut status, &Status::Failed(why)),
    }
}

/// One line; whoever should read it may be gone.
fn tell(status: &mut File, what: &Status) {
    if let Ok(mut line) = serde_json::to_vec(what) {
        line.push(b'\n');
        drop(status.write_all(&line));
    }
}

/// Everything that needs the namespace's capabilities, and then their end.
fn wall_in(launch: &Launch, workspace: &Path, hard_memory: bool) -> Result<Option<OwnedFd>, String> {
    umask(Mode::from_raw_mode(0o022));
    mounts::part_from_host()?;
    // Opened as the server's user, who may pass the data directory; everything after is done as the sandbox's.
    let sources = mounts::Sources::open(&launch.rootfs, launch.bundle.as_deref(), workspace)?;
    let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
    set_thread_res_gid(gid, gid, gid).map_err(|error| format!("the sandbox's group: {error}"))?;
    set_thread_res_uid(uid, uid, uid).map_err(|error| format!("the sandbox's user: {error}"))?;
    sources.become_root()?;
    sethostname(b"sandbox").map_err(|error| format!("the sandbox's name: {error}"))?;
    let door = if launch.network { Some(network::open_door()?) } else { None };
    limit(&launch.limits, hard_memory)?;
    drop_capabilities().map_err(|error| format!("the capabilities could not be dropped: {error}"))?;
    // Changing the user forgot it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| format!("PR_SET_PDEATHSIG: {error}"))?;
    Ok(door)
}

fn limit(limits: &SandboxLimits, hard_memory: bool) -> Result<(), String> {
    let mut wanted = vec![
        (Resource::Fsize, FILE_BYTES_MAX),
        (Resource::Nofile, FILES_OPEN_MAX),
        (Resource::Core, CORE_BYTES_MAX),
        (Resource::Memlock, LOCKED_BYTES_MAX),
        (Resource::Msgqueue, 0),
        (Resource::Nproc, limits.pids),
        (Resource::Rtprio, 0),
        (Resource::Nice, 0),
    ];
    if !hard_memory {
        wanted.push((Resource::Cpu, CPU_SECONDS_MAX));
        nice(10).map_err(|error| format!("nice: {error}"))?;
    }
    for (resource, most) in wanted {
        // What the server itself may not have, it cannot give.
        let most = getrlimit(resource).maximum.map_or(most, |ours| ours.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| format!("a limit ({resource:?}): {error}"))?;
    }
    Ok(())
}

fn drop_capabilities() -> rustix::io::Result<()> {
    for bit in 0..64 {
        // The kernel knows fewer than 64; the first that it does not know is the end.
        if remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)).is_err() {
            break;
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// The locks that need no capability. They hold for init too: it has nothing to do any more that they forbid.
fn lock(launch: &Launch) -> Result<bool, String> {
    // Nobody inside may look into this process, whatever user it has.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| format!("PR_SET_DUMPABLE: {error}"))?;
    set_no_new_privs(true).map_err(|error| format!("PR_SET_NO_NEW_PRIVS: {error}"))?;
    let landlock = fence::put_up(launch.network)?;
    if launch.strict && !landlock {
        return Err("this kernel has no Landlock, and sandbox.strict asks for it".to_owned());
    }
    seccomp::restrict()?;
    Ok(landlock)
}

fn start(launch: &Launch, stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Result<Pid, String> {
    let child = Command::new(&launch.program)
        .args(&launch.args)
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr))
        .spawn()
        .map_err(|error| format!("{} could not be started in the sandbox: {error}", launch.program))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| "the program has no process".to_owned())
}

/// The program's alone, and all that it starts: our own allocator reserves more than a small sandbox may, and uses none of it.
fn bound_address_space(program: Pid, memory_bytes: u64) -> Result<(), String> {
    let most = memory_bytes.saturating_mul(4);
    let most = getrlimit(Resource::As).maximum.map_or(most, |ours| ours.min(most));
    prlimit(Some(program), Resource::As, Rlimit { current: Some(most), maximum: Some(most) })
        .map(drop)
        .map_err(|error| format!("the program's address space: {error}"))
}

/// Waits for every orphan, until the program itself ends. With our own end the kernel ends all that is left.
fn reap(program: Pid) -> Status {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => {
                if let Some(code) = status.exit_status() {
                    return Status::Exit(code);
                }
                if let Some(signal) = status.terminating_signal() {
                    return Status::Signal(signal);
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Status::Failed(format!("the program could not be waited for: {error}")),
        }
    }
}
