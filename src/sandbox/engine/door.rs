//! The door of a container that may reach something: the same as every sandbox's, a socket that listens inside its network namespace and is handed to
//! the server. The container has no network but loopback, no mount for it and nothing to run: the keeper opens it from outside, before what
//! runs in there is told anything.

use crate::sandbox::native::open_door;
use bollard::Docker;
use rustix::{
    fs::{Mode, OFlags, fstat, open, openat},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
};

/// Where a door is put, once the container stands.
pub(super) type Place = Arc<Mutex<Option<OwnedFd>>>;

/// Bytes that are read of a process's list of groups.
const GROUPS_BYTES_MAX: u64 = 16 * 1024;

/// Opens the door of a container that runs.
pub(super) async fn open_in(docker: &Docker, name: &str) -> Result<OwnedFd, String> {
    let told = docker.inspect_container(name, None).await.map_err(|error| error.to_string())?;
    let pid = told.state.and_then(|state| state.pid).filter(|pid| *pid > 0).ok_or("it does not run")?;
    let id = told.id.filter(|id| id.len() >= 32).ok_or("it has no id")?;
    // A thread of its own, which ends there: a namespace is a thread's.
    let opening = move || std::thread::spawn(move || enter(pid, &id)).join().map_err(|_| "a thread fell".to_owned())?;
    tokio::task::spawn_blocking(opening).await.map_err(|error| error.to_string())?
}

/// In the network namespace of this process, if it is this container's. All that is looked at of it is looked at through one descriptor, which
/// stays this process's whoever has its number next.
fn enter(pid: i64, container: &str) -> Result<OwnedFd, String> {
    let said = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let process = open(format!("/proc/{pid}"), flags | OFlags::DIRECTORY, Mode::empty()).map_err(said("its process"))?;
    let namespace = openat(&process, "ns/net", flags, Mode::empty()).map_err(said("its network"))?;
    let mut groups = String::new();
    let file = openat(&process, "cgroup", flags, Mode::empty()).map_err(said("its groups"))?;
    File::from(file).take(GROUPS_BYTES_MAX).read_to_string(&mut groups).map_err(|error| format!("its groups: {error}"))?;
    if !groups.contains(container) {
        return Err("the process that the engine names is not in the container's group: does the engine run on this machine?".to_owned());
    }
    let own = open("/proc/self/ns/net", flags, Mode::empty()).map_err(said("our network"))?;
    let (theirs, ours) = (fstat(&namespace).map_err(said("its network"))?, fstat(&own).map_err(said("our network"))?);
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
        return Err("it has the host's network".to_owned());
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(said("its network cannot be entered"))?;
    open_door()
}
