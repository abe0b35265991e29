//! The server's end of the spawner's socket. The spawner is started at the first question, and again should it ever end: a server that runs no
//! sandboxes pays for none.

use super::{
    Result, SandboxError,
    native::{
        COMMAND,
        wire::{Ask, Told, pair, receive, send},
    },
};
use crate::config::SandboxSettings;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{
    ffi::OsString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// One question takes no longer, or the spawner is given up: its end ends every sandbox, and the next question starts another.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(super) struct Spawner {
    inner: Arc<Inner>,
}

/// Which process is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// What makes sandboxes itself.
    Spawner,
    /// What has a container engine make them.
    Keeper,
}

struct Inner {
    part: Part,
    settings: SandboxSettings,
    data: PathBuf,
    /// One question at a time. Whoever waits for this waits without a thread.
    link: Arc<Mutex<Option<Link>>>,
}

struct Link {
    part: Part,
    /// Closed before the process is waited for.
    socket: Option<OwnedFd>,
    process: Option<Child>,
}

/// How long a spawner may take to end what it started, once its socket is closed.
const FAREWELL: Duration = Duration::from_secs(2);

impl Drop for Link {
    fn drop(&mut self) {
        self.socket = None;
        let Some(process) = self.process.take() else { return };
        match self.part {
            Part::Spawner => see_off(process, FAREWELL),
            // Killed, it would leave its containers behind, and ending them takes a while.
            Part::Keeper => drop(std::thread::spawn(move || see_off(process, PATIENCE))),
        }
    }
}

fn see_off(mut process: Child, patience: Duration) {
    let until = Instant::now() + patience;
    while matches!(process.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    // Where it hangs, this is what is left; for one that has ended it does nothing.
    drop(process.kill());
    drop(process.wait());
}

impl Spawner {
    pub(super) fn new(part: Part, settings: SandboxSettings, data: PathBuf) -> Self {
        Self { inner: Arc::new(Inner { part, settings, data, link: Arc::default() }) }
    }

    /// The other end of a sandbox's second descriptor: who ends it, and how.
    pub(super) fn part(&self) -> Part {
        self.inner.part
    }

    /// Whether there is a process to ask.
    pub(super) async fn runs(&self) -> bool {
        self.inner.link.lock().await.is_some()
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&self, ask: Ask, fds: Vec<OwnedFd>) -> Result<(Told, Vec<OwnedFd>)> {
        let mut link = Arc::clone(&self.inner.link).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let asked = tokio::task::spawn_blocking(move || {
            let mut now = match link.take() {
                Some(link) => link,
                None => inner.start()?,
            };
            let told = now.ask(&ask, &fds)?;
            *link = Some(now);
            Ok(told)
        });
        match asked.await.map_err(|error| SandboxError::Internal(error.to_string()))?? {
            (Told::Failed(error), _) => Err(error),
            told => Ok(told),
        }
    }
}

impl Inner {
    fn start(&self) -> Result<Link> {
        let trouble = |error: std::io::Error| SandboxError::Unavailable(format!("the spawner could not be started: {error}"));
        let data = std::path::absolute(&self.data).map_err(trouble)?;
        let (socket, theirs) = pair().map_err(trouble)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(|error| trouble(error.into()))?;
        let process = Command::new(&self.settings.program)
            .args(self.part_and_its_arguments(data.into_os_string()))
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(trouble)?;
        Ok(Link { part: self.part, socket: Some(socket), process: Some(process) })
    }
}

impl Inner {
    fn part_and_its_arguments(&self, data: OsString) -> Vec<OsString> {
        let settings = &self.settings;
        match self.part {
            Part::Spawner => {
                vec![COMMAND.into(), "spawner".into(), data, settings.uid_base.to_string().into(), settings.rootfs.clone().into_os_string()]
            }
            Part::Keeper => {
                let socket = settings.engine_socket.clone().unwrap_or_else(super::images::socket_of_this_machine);
                vec![COMMAND.into(), "keeper".into(), data, socket.into_os_string(), settings.engine_runtime.clone().into()]
            }
        }
    }
}

impl Link {
    fn ask(&mut self, ask: &Ask, fds: &[OwnedFd]) -> Result<(Told, Vec<OwnedFd>)> {
        let trouble = |error: std::io::Error| SandboxError::Internal(format!("the spawner does not answer: {error}"));
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let socket = self.socket.as_ref().ok_or_else(|| trouble(std::io::ErrorKind::NotConnected.into()))?;
        send(socket, ask, &fds).map_err(trouble)?;
        receive(socket).map_err(trouble)?.ok_or_else(|| SandboxError::Internal("the spawner ended".to_owned()))
    }
}
