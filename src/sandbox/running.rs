//! A sandbox that runs: its tool channel, its last words, and how it ended. Dropping it ends it.

use super::{
    ExitCause, Result, SandboxError, StopReason, Usage,
    native::wire::{Ask, Booted, Status, Told},
    spawn::{Part, Spawner},
    watchdog,
};
use rustix::process::{Signal, pidfd_send_signal};
use std::{
    collections::VecDeque,
    net::TcpListener,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
    sync::{oneshot, watch},
    task::JoinHandle,
};

/// What is kept of stderr.
const STDERR_BYTES_MAX: usize = 64 * 1024;

/// A sandbox that runs.
pub struct Running {
    channel: Option<(pipe::Receiver, pipe::Sender)>,
    life: Arc<Life>,
    end: watch::Receiver<Option<ExitCause>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    watching: Option<JoinHandle<()>>,
    landlock: bool,
    door: Option<TcpListener>,
}

/// What its tasks share.
pub(super) struct Life {
    pub(super) run: String,
    pub(super) booted: Booted,
    /// A pidfd of init, or a container's cord.
    handle: OwnedFd,
    spawner: Spawner,
    /// Why we ended it, if we did: the first reason counts.
    why: OnceLock<StopReason>,
}

impl Life {
    /// Ends it at once. What was said first of why stays.
    pub(super) fn kill(&self, why: StopReason) {
        let _ = self.why.set(why);
        // It may be gone already.
        match self.spawner.part() {
            Part::Spawner => _ = pidfd_send_signal(&self.handle, Signal::KILL),
            Part::Keeper => _ = rustix::io::write(&self.handle, b"!"),
        }
    }
}

/// The ends of its pipes that the server holds.
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) status: OwnedFd,
    pub(super) door: Option<TcpListener>,
}

impl Running {
    /// Takes over what the spawner made, and waits until init has let the program go.
    pub(super) async fn take_over(spawner: Spawner, run: String, booted: Booted, handle: OwnedFd, ends: Ends) -> Result<Self> {
        let trouble = |error: std::io::Error| SandboxError::Internal(format!("a sandbox's pipe: {error}"));
        let stdin = pipe::Sender::from_owned_fd(ends.stdin).map_err(trouble)?;
        let stdout = pipe::Receiver::from_owned_fd(ends.stdout).map_err(trouble)?;
        let errors = pipe::Receiver::from_owned_fd(ends.stderr).map_err(trouble)?;
        let status = pipe::Receiver::from_owned_fd(ends.status).map_err(trouble)?;
        let life = Arc::new(Life { run, booted, handle, spawner, why: OnceLock::new() });
        let stderr = Arc::<Mutex<VecDeque<u8>>>::default();
        let reading = tokio::spawn(keep_last(errors, Arc::clone(&stderr)));
        let (ready, is_ready) = oneshot::channel();
        let (ended, end) = watch::channel(None);
        tokio::spawn(follow(Arc::clone(&life), status, ready, ended, reading));
        let mut running = Self { channel: Some((stdout, stdin)), life, end, stderr, watching: None, landlock: false, door: ends.door };
        match is_ready.await {
            Ok(Ok(landlock)) => {
                running.landlock = landlock;
                Ok(running)
            }
            Ok(Err(why)) => Err(SandboxError::Unavailable(why)),
            Err(_) => Err(SandboxError::Crashed(running.stderr_tail())),
        }
    }

    /// Looks after it where the kernel does not.
    pub(super) fn watch(&mut self, limits: super::SandboxLimits, workspace: std::path::PathBuf) {
        let booted = self.life.booted;
        if !booted.hard_memory || !booted.hard_disk {
            self.watching = Some(tokio::spawn(watchdog::watch(Arc::clone(&self.life), limits, workspace)));
        }
    }

    /// Writes to its stdin before anyone else does.
    pub(super) async fn tell(&mut self, line: &[u8]) -> Result<()> {
        let Some((_, stdin)) = &mut self.channel else { return Err(SandboxError::Internal("the channel is taken".to_owned())) };
        stdin.write_all(line).await.map_err(|_| SandboxError::Crashed(self.stderr_tail()))
    }

    /// What it stands on.
    pub(super) fn booted(&self) -> Booted {
        self.life.booted
    }

    /// Whether Landlock is around it.
    pub(super) fn landlock(&self) -> bool {
        self.landlock
    }

    /// Its stdout to read and its stdin to write, once. Dropping the second asks it to end.
    pub fn tool_channel(&mut self) -> Option<(pipe::Receiver, pipe::Sender)> {
        self.channel.take()
    }

    /// Where what it sends out arrives, once; none where it may reach nothing.
    pub fn door(&mut self) -> Option<TcpListener> {
        self.door.take()
    }

    /// Gives it the door that was opened once it stood.
    pub(super) fn set_door(&mut self, door: Option<TcpListener>) {
        self.door = door;
    }

    /// How it ended, when it has.
    pub async fn exited(&self) -> ExitCause {
        let mut end = self.end.clone();
        let cause = end.wait_for(Option::is_some).await.ok().and_then(|cause| *cause);
        // Whoever would tell us is gone only after it has told.
        cause.unwrap_or(ExitCause::Signal(9))
    }

    /// Ends it now, and does not wait for that.
    pub fn end(&self, why: StopReason) {
        self.life.kill(why);
    }

    /// Ends it now.
    pub async fn kill(&self, why: StopReason) -> ExitCause {
        self.life.kill(why);
        self.exited().await
    }

    /// Closes its stdin, gives it this long, and ends it.
    pub async fn stop(&mut self, grace: Duration) -> ExitCause {
        self.channel = None;
        match tokio::time::timeout(grace, self.exited()).await {
            Ok(cause) => cause,
            Err(_) => self.kill(StopReason::Idle).await,
        }
    }

    /// The end of what it wrote to stderr: for the operator, never for a client.
    pub fn stderr_tail(&self) -> String {
        let bytes: Vec<u8> = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What it uses now.
    pub async fn usage(&self) -> Result<Usage> {
        if !self.life.booted.hard_memory {
            return Ok(watchdog::usage(self.life.booted.pid));
        }
        match self.life.spawner.ask(Ask::Usage { run: self.life.run.clone() }, Vec::new()).await? {
            (Told::Usage(usage), _) => Ok(usage),
            _ => Err(SandboxError::Internal("the spawner answered something else".to_owned())),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.life.kill(StopReason::Idle);
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

/// Reads what init tells, to the end, and then what is left of the run.
async fn follow(
    life: Arc<Life>,
    status: pipe::Receiver,
    ready: oneshot::Sender<std::result::Result<bool, String>>,
    ended: watch::Sender<Option<ExitCause>>,
    reading: JoinHandle<()>,
) {
    let mut ready = Some(ready);
    let mut cause = None;
    let mut lines = BufReader::new(status).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Status::Ready { landlock }) => drop(ready.take().map(|ready| ready.send(Ok(landlock)))),
            Ok(Status::Failed(why)) => drop(ready.take().map(|ready| ready.send(Err(why)))),
            Ok(Status::Exit(code)) => cause = Some(ExitCause::Exit(code)),
            Ok(Status::Signal(signal)) => cause = Some(ExitCause::Signal(signal)),
            Err(error) => tracing::warn!(%error, "a sandbox's init said something that is no status"),
        }
    }
    // Nothing runs any more. The spawner reaps init, and knows why the kernel ended it, if it did.
    let collected = life.spawner.ask(Ask::Collect { run: life.run.clone() }, Vec::new()).await;
    let oom = matches!(collected, Ok((Told::Ended { oom: true, .. }, _)));
    drop(reading.await);
    let cause = match (life.why.get(), cause) {
        (Some(StopReason::Oom), _) => ExitCause::Oom,
        (Some(why), None) => ExitCause::Stopped(*why),
        (_, None | Some(ExitCause::Signal(9))) if oom => ExitCause::Oom,
        (_, Some(cause)) => cause,
        (None, None) => ExitCause::Signal(9),
    };
    ended.send_replace(Some(cause));
}

async fn keep_last(mut from: pipe::Receiver, into: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&buffer[..read]);
        let excess = kept.len().saturating_sub(STDERR_BYTES_MAX);
        kept.drain(..excess);
    }
}
