//! The spawner: a process beside the server that makes sandboxes and keeps what privilege the server was started with. It has one thread, no
//! network business and no environment; it ends when the server does, and everything that it started ends with it.

use super::{
    cgroup::{Cgroups, Group},
    disk::{self, Disk, Room, Seen},
    mounts,
    pace::{self, Pace},
    raw,
    rest::{self, Rest},
    wire::{Ask, Booted, Launch, Place, Step, Told, expect, pair, receive, send},
};
use crate::sandbox::{Result, SandboxError, SandboxId, Usage};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    mount::{MountPropagationFlags, mount_change},
    net::sockopt::{Timeout, set_socket_timeout},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, getuid, pidfd_open, pidfd_send_signal, set_child_subreaper, setsid, waitid,
    },
    thread::UnshareFlags,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// No step between launcher and init may take longer.
const STEP: Duration = Duration::from_secs(10);

struct Spawner {
    cgroups: Cgroups,
    disk: Disk,
    pace: Pace,
    next_look: Instant,
    runs: BTreeMap<String, Run>,
    /// What deletes workspaces; each is waited for when it is done.
    sweepers: Vec<Child>,
}

struct Run {
    id: SandboxId,
    pidfd: OwnedFd,
    group: Option<Group>,
    rest: Rest,
}

pub(super) fn run(socket: BorrowedFd<'_>, args: Vec<OsString>) {
    let [data, uid_base, rootfs] = args.as_slice() else { return };
    let Some(uid_base) = uid_base.to_str().and_then(|text| text.parse().ok()) else { return };
    // A signal to the terminal's processes is the server's to act on; and orphans of the launcher are to be ours.
    let _ = setsid();
    if set_child_subreaper(Some(getpid())).is_err() {
        return;
    }
    if getuid().is_root() {
        // Workspaces are mounted where only we see them, and are unmounted by our end, whatever it is.
        let parted = raw::unshare(UnshareFlags::NEWNS)
            .and_then(|()| Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?));
        if parted.is_err() {
            return;
        }
        mounts::let_go(&[Path::new(data), Path::new(rootfs)]);
    }
    let mut spawner = Spawner {
        cgroups: Cgroups::find(),
        disk: Disk::new(&PathBuf::from(data), uid_base),
        pace: Pace::find(),
        next_look: Instant::now(),
        runs: BTreeMap::new(),
        sweepers: Vec::new(),
    };
    while let Ok(Some((ask, fds))) = spawner.next(socket) {
        let (told, fds) = spawner.answer(ask, &fds).unwrap_or_else(|error| (Told::Failed(error), Vec::new()));
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        if send(socket, &told, &fds).is_err() {
            break;
        }
    }
    spawner.end_all();
}

impl Spawner {
    /// What the server asks next; until it does, who rests is looked for.
    fn next(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<(Ask, Vec<OwnedFd>)>> {
        while self.runs.values().any(|run| run.group.is_some()) {
            let left = self.next_look.saturating_duration_since(Instant::now());
            let asked = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&left.try_into().map_err(io::Error::other)?));
            if asked.is_ok_and(|ready| ready > 0) && !left.is_zero() {
                break;
            } else if self.next_look <= Instant::now() {
                self.next_look = rest::look(self.runs.values_mut().filter_map(|run| Some((run.group.as_ref()?, &mut run.rest))));
            }
        }
        receive(socket)
    }

    fn answer(&mut self, ask: Ask, fds: &[OwnedFd]) -> Result<(Told, Vec<OwnedFd>)> {
        let told = match ask {
            Ask::Boot(launch) => {
                let (booted, fds) = self.boot(launch, fds)?;
                return Ok((Told::Booted(booted), fds));
            }
            Ask::Collect { run } => self.collect(&run),
            Ask::Usage { run } => Told::Usage(self.runs.get(&run).and_then(|run| run.group.as_ref()).map(Group::usage).unwrap_or_default()),
            Ask::Destroy { id } => {
                self.destroy(&id)?;
                Told::Done
            }
            Ask::Provision { id } => {
                let room = self.disk.provision(&id, 0, Seen::ByTheHost)?;
                Told::Place(Place { workspace: room.workspace, uid: room.uid, gid: room.gid, own_uid: room.own_uid })
            }
            Ask::Contain(_) | Ask::Door { .. } | Ask::Engine | Ask::Image { .. } => {
                return Err(SandboxError::Internal("the spawner was asked what is the engine's keeper's to do".to_owned()));
            }
            Ask::Sweep { live } => {
                let (there, gone) = self.disk.all();
                for folder in gone {
                    self.sweepers.extend(disk::sweeper(&folder));
                }
                let orphans: Vec<_> = there.into_iter().filter(|id| !live.contains(id)).collect();
                orphans.iter().try_for_each(|id| self.destroy(id))?;
                Told::Swept(orphans)
            }
        };
        self.sweepers.retain_mut(|sweeper| !matches!(sweeper.try_wait(), Ok(Some(_))));
        Ok((told, Vec::new()))
    }

    /// Answers the pidfd and, where it has one, the door.
    fn boot(&mut self, launch: Launch, fds: &[OwnedFd]) -> Result<(Booted, Vec<OwnedFd>)> {
        let internal = |what: &str, error: &dyn std::fmt::Display| SandboxError::Internal(format!("{what}: {error}"));
        let room = self.disk.provision(&launch.id, launch.limits.workspace_bytes, Seen::Here)?;
        let group = self.cgroups.make(&launch.run, &launch.limits);
        let group = match group {
            Ok(None) | Err(_) if launch.strict => {
                return Err(SandboxError::Unavailable(
                    "the kernel's limits for memory and processes (cgroups) cannot be had: start the server as root or with systemd's \
                     Delegate=yes, or accept softer limits with sandbox.strict = false"
                        .to_owned(),
                ));
            }
            Ok(group) => group,
            Err(_) => None,
        };
        let paced_disk = pace::device(&room.workspace).is_some_and(|disk| {
            group.as_ref().is_some_and(|group| group.pace(&disk, &launch.limits)) || room.hard && self.pace.bound(&disk, &launch.limits)
        });
        let started = start(&launch, &room, group.as_ref(), fds);
        let (pid, pidfd, door) = match started {
            Ok(started) => started,
            Err(error) => {
                if let Some(group) = group {
                    group.remove();
                }
                return Err(error);
            }
        };
        let ours = pidfd.try_clone().map_err(|error| internal("a descriptor", &error))?;
        let booted = Booted { pid, hard_memory: group.is_some(), hard_disk: room.hard, own_uid: room.own_uid, paced_disk };
        self.runs.insert(launch.run, Run { id: launch.id, pidfd: ours, group, rest: Rest::default() });
        Ok((booted, std::iter::once(pidfd).chain(door).collect()))
    }

    fn collect(&mut self, run: &str) -> Told {
        let Some(run) = self.runs.remove(run) else { return Told::Ended { oom: false, usage: Usage::default() } };
        end(&run);
        let (oom, usage) = run.group.as_ref().map(|group| (group.oom(), group.usage())).unwrap_or_default();
        if let Some(group) = run.group {
            group.remove();
        }
        Told::Ended { oom, usage }
    }

    fn destroy(&mut self, id: &SandboxId) -> Result<()> {
        let runs: Vec<String> = self.runs.iter().filter(|(_, run)| run.id == *id).map(|(name, _)| name.clone()).collect();
        for run in runs {
            self.collect(&run);
        }
        // What it has not written yet goes to a device that is free again.
        if let Some(disk) = pace::device(&self.disk.workspace(id)) {
            self.pace.free(&disk);
        }
        self.sweepers.extend(self.disk.destroy(id)?);
        Ok(())
    }

    fn end_all(&mut self) {
        let runs: Vec<String> = self.runs.keys().cloned().collect();
        for run in runs {
            self.collect(&run);
        }
    }
}

/// Kills a run's init, and with it its whole namespace, and waits until it is gone.
fn end(run: &Run) {
    let _ = pidfd_send_signal(&run.pidfd, Signal::KILL);
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(run.pidfd.as_fd()), WaitIdOptions::EXITED) {}
}

/// Starts launcher and init and sees them through their steps.
fn start(launch: &Launch, room: &Room, group: Option<&Group>, fds: &[OwnedFd]) -> Result<(i32, OwnedFd, Option<OwnedFd>)> {
    let internal = |error: std::io::Error| SandboxError::Internal(format!("a sandbox could not be started: {error}"));
    let (ours, theirs) = pair().map_err(internal)?;
    set_socket_timeout(&ours, Timeout::Recv, Some(STEP)).map_err(|error| internal(error.into()))?;
    let mut launcher = Command::new("/proc/self/exe")
        .args([super::COMMAND, "launcher"])
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(internal)?;
    let born = usher(&ours, launcher.id(), room, group);
    if born.is_err() {
        drop(launcher.kill());
    }
    launcher.wait().map_err(internal)?;
    let pid = born?;
    // Init is our child now and cannot be reaped by anyone else: its number is its own.
    let pidfd = Pid::from_raw(pid).ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let pidfd = pidfd.map_err(|error| internal(error.into()))?;
    let armed = arm(&ours, launch, room, group.is_some(), fds);
    if armed.is_err() {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    }
    armed.map(|door| (pid, pidfd, door))
}

/// The launcher's way, until it says which process init is.
fn usher(ours: &OwnedFd, launcher: u32, room: &Room, group: Option<&Group>) -> Result<i32> {
    let internal = |error: std::io::Error| SandboxError::Internal(format!("a sandbox could not be started: {error}"));
    if let Some(group) = group {
        group.add(launcher).map_err(internal)?;
    }
    send(ours, &Step::Go, &[]).map_err(internal)?;
    next(ours, |step| matches!(step, Step::Unshared))?;
    let proc = PathBuf::from(format!("/proc/{launcher}"));
    let (uids, gids) = room.maps();
    let mapped = [("setgroups", "deny"), ("uid_map", &uids), ("gid_map", &gids)]
        .into_iter()
        .try_for_each(|(file, text)| fs::write(proc.join(file), text));
    mapped.map_err(|error| SandboxError::Unavailable(format!("the sandbox's user could not be mapped: {error}")))?;
    send(ours, &Step::Mapped, &[]).map_err(internal)?;
    match next(ours, |step| matches!(step, Step::Born(_)))?.0 {
        Step::Born(pid) => Ok(pid),
        step => Err(SandboxError::Internal(format!("{step:?} came too early"))),
    }
}

/// Hands init its task, and waits until it is bound to our life. Answers its door, where it has one.
fn arm(ours: &OwnedFd, launch: &Launch, room: &Room, hard_memory: bool, fds: &[OwnedFd]) -> Result<Option<OwnedFd>> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let step = Step::Launch { launch: Box::new(launch.clone()), workspace: room.workspace.clone(), hard_memory };
    send(ours, &step, &fds).map_err(|error| SandboxError::Internal(format!("init could not be told its task: {error}")))?;
    next(ours, |step| matches!(step, Step::Armed)).map(|(_, mut fds)| fds.pop())
}

fn next(ours: &OwnedFd, right: impl Fn(&Step) -> bool) -> Result<(Step, Vec<OwnedFd>)> {
    match expect(ours)? {
        (Step::Failed(why), _) => Err(SandboxError::Unavailable(why)),
        (step, fds) if right(&step) => Ok((step, fds)),
        (step, _) => Err(SandboxError::Internal(format!("{step:?} was not expected"))),
    }
}
