//! Processes that run what a tenant sent us, fenced in by the kernel: what a sandbox is made from, what it can be asked, and how it ends. This
//! floor knows no HTTP, no tenants and no agents. docs/sandbox.md says what the fence promises and what it does not.
//!
//! Where a sandbox cannot be fenced in, nothing runs: there is no way around the fence.

mod error;
mod files;
mod native;
mod probe;
mod runner;
mod running;
mod spawn;
mod spec;
mod watchdog;

pub use error::{ExitCause, Result, SandboxError, StopReason};
pub use files::Entry;
pub use probe::{Probe, Rung};
pub use running::Running;
pub use spec::{BuiltIns, PythonTool, SandboxId, SandboxLimits, SandboxSpec, Secrets, Start, Usage};

use crate::config::{Config, Limits, SandboxSettings};
use native::wire::{Ask, Launch, Told};
use running::Ends;
use rustix::pipe::{PipeFlags, pipe_with};
use spawn::Spawner;
use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Mutex, time::timeout};
use zeroize::Zeroizing;

/// A machine that had no sandboxes is asked again after this time: it may have been busy, or mended.
const PROBE_AGAIN: Duration = Duration::from_secs(60);

/// Plays a part of the backend if this process was started for one: to be asked before anything else in `main`.
pub fn stage() -> Option<ExitCode> {
    native::stage()
}

/// All sandboxes of a server. Cheap to clone; nothing runs until one is asked for.
#[derive(Clone)]
pub struct Sandboxes {
    inner: Arc<Inner>,
}

struct Inner {
    settings: SandboxSettings,
    data: PathBuf,
    boot: Duration,
    limits: SandboxLimits,
    spawner: Spawner,
    serial: AtomicU64,
    probe: Mutex<Option<(Arc<Probe>, Instant)>>,
}

impl Sandboxes {
    /// For this configuration and its data directory.
    pub fn new(config: &Config) -> Self {
        let (settings, data) = (config.sandbox.clone(), config.data.clone());
        let spawner = Spawner::new(settings.clone(), data.clone());
        let inner = Inner {
            settings,
            data,
            boot: config.limits.sandbox_boot_ms,
            limits: SandboxLimits::usual(&config.limits),
            spawner,
            serial: AtomicU64::new(0),
            probe: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What this machine can do, found out by doing: once where it works, and now and then where it does not.
    pub async fn probe(&self) -> Arc<Probe> {
        let mut known = self.inner.probe.lock().await;
        if let Some((probe, at)) = &*known
            && (probe.available() || at.elapsed() < PROBE_AGAIN)
        {
            return Arc::clone(probe);
        }
        let probe = Arc::new(self.probe_now(self.inner.limits).await);
        *known = Some((Arc::clone(&probe), Instant::now()));
        probe
    }

    /// Starts a sandbox: its workspace is made if it is not there, its program runs when this returns. Its start is bounded; talking to it is
    /// the caller's to bound.
    pub async fn boot(&self, spec: &SandboxSpec, secrets: Secrets) -> Result<Running> {
        if !spec.network.is_empty() {
            return Err(SandboxError::Unavailable("this backend lets no sandbox reach the network".to_owned()));
        }
        let (program, args, env) = match &spec.start {
            Start::Python { .. } => self.python(&[]),
            Start::Command { command, args, env } => {
                let program = match command.as_str() {
                    path if path.starts_with('/') => path.to_owned(),
                    path if path.contains('/') => format!("/bundle/{path}"),
                    name => format!("/usr/bin/{name}"),
                };
                let secrets = secrets.iter().map(|(name, secret)| (name.clone(), secret.expose().to_owned()));
                (program, args.clone(), plain_environment().chain(env.iter().cloned()).chain(secrets).collect())
            }
        };
        let task = runner::task(spec, &secrets);
        self.in_time(self.launch(spec, spec.bundle.clone(), program, args, env)?, task).await
    }

    /// The runner, to do one piece of work on the workspace and end.
    async fn boot_for_files(&self, spec: &SandboxSpec, work: &[&str]) -> Result<Running> {
        let (program, args, env) = self.python(work);
        self.in_time(self.launch(spec, None, program, args, env)?, None).await
    }

    /// Starts it in a task of its own: when the caller's patience ends before the spawner's answer comes, what then stands is dropped, and so
    /// ended.
    async fn in_time(&self, launch: Launch, task: Option<Zeroizing<Vec<u8>>>) -> Result<Running> {
        let this = self.clone();
        let booting = tokio::spawn(async move {
            let mut running = this.start(launch).await?;
            if let Some(task) = task {
                running.tell(&task).await?;
            }
            Ok(running)
        });
        match timeout(self.inner.boot, booting).await {
            Ok(booted) => booted.map_err(|error| SandboxError::Internal(error.to_string()))?,
            Err(_) => Err(SandboxError::Deadline),
        }
    }

    fn python(&self, work: &[&str]) -> (String, Vec<String>, Vec<(String, String)>) {
        let args = ["-I", "-B", native::RUNNER].iter().chain(work).map(|arg| (*arg).to_owned()).collect();
        (self.inner.settings.python.to_string_lossy().into_owned(), args, plain_environment().collect())
    }

    fn launch(
        &self,
        spec: &SandboxSpec,
        bundle: Option<PathBuf>,
        program: String,
        args: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Result<Launch> {
        let serial = self.inner.serial.fetch_add(1, Ordering::Relaxed);
        let bundle = bundle.map(std::path::absolute).transpose().map_err(|error| SandboxError::Internal(error.to_string()))?;
        Ok(Launch {
            run: format!("{}-{serial}", spec.id),
            id: spec.id.clone(),
            bundle,
            program,
            args,
            env,
            limits: spec.limits,
            rootfs: self.inner.settings.rootfs.clone(),
            strict: self.inner.settings.strict,
        })
    }

    async fn start(&self, launch: Launch) -> Result<Running> {
        let (run, limits) = (launch.run.clone(), launch.limits);
        let workspace = self.inner.data.join("sandboxes").join(launch.id.as_str()).join("workspace");
        let ([stdin, stdout, stderr, status], theirs) = pipes()?;
        let (booted, pidfd) = match self.inner.spawner.ask(Ask::Boot(launch), theirs).await? {
            (Told::Booted(booted), mut fds) if fds.len() == 1 => (booted, fds.remove(0)),
            _ => return Err(SandboxError::Internal("the spawner answered something else".to_owned())),
        };
        let ends = Ends { stdin, stdout, stderr, status };
        let mut running = Running::take_over(self.inner.spawner.clone(), run, booted, pidfd, ends).await?;
        running.watch(limits, workspace);
        Ok(running)
    }

    /// Ends whatever runs on a workspace and deletes it. There may be none.
    pub async fn destroy(&self, id: &SandboxId) -> Result<()> {
        self.inner.spawner.ask(Ask::Destroy { id: id.clone() }, Vec::new()).await.map(drop)
    }

    /// Deletes every workspace but these, as a starting server does, and says which there were.
    pub async fn sweep(&self, live: &HashSet<SandboxId>) -> Result<Vec<SandboxId>> {
        if !self.inner.data.join("sandboxes").exists() {
            return Ok(Vec::new());
        }
        match self.inner.spawner.ask(Ask::Sweep { live: live.iter().cloned().collect() }, Vec::new()).await? {
            (Told::Swept(gone), _) => Ok(gone),
            _ => Err(SandboxError::Internal("the spawner answered something else".to_owned())),
        }
    }

    fn settings(&self) -> &SandboxSettings {
        &self.inner.settings
    }
}

impl SandboxLimits {
    /// What a sandbox gets that asks for nothing else.
    pub fn usual(limits: &Limits) -> Self {
        Self {
            memory_bytes: limits.sandbox_memory_bytes as u64,
            pids: limits.sandbox_processes as u64,
            workspace_bytes: limits.sandbox_workspace_bytes as u64,
            cpu_millis: limits.sandbox_cpu_millis_max as u64,
        }
    }

    /// Not more than the operator allows.
    #[must_use]
    pub fn within(self, limits: &Limits) -> Self {
        Self {
            memory_bytes: self.memory_bytes.min(limits.sandbox_memory_bytes_max as u64),
            pids: self.pids.min(limits.sandbox_processes_max as u64),
            workspace_bytes: self.workspace_bytes.min(limits.sandbox_workspace_bytes_max as u64),
            cpu_millis: self.cpu_millis.min(limits.sandbox_cpu_millis_max as u64),
        }
    }
}

/// What every program inside is told of its surroundings. Nothing of the server's own environment is in it.
fn plain_environment() -> impl Iterator<Item = (String, String)> {
    [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/workspace"), ("TMPDIR", "/tmp"), ("LANG", "C.UTF-8"), ("USER", "sandbox")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// The server's ends of stdin, stdout, stderr and status, and the sandbox's.
fn pipes() -> Result<([OwnedFd; 4], Vec<OwnedFd>)> {
    let make = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| SandboxError::Internal(format!("no pipe can be had: {error}")));
    let ((stdin_theirs, stdin), (stdout, stdout_theirs)) = (make()?, make()?);
    let ((stderr, stderr_theirs), (status, status_theirs)) = (make()?, make()?);
    Ok(([stdin, stdout, stderr, status], vec![stdin_theirs, stdout_theirs, stderr_theirs, status_theirs]))
}
