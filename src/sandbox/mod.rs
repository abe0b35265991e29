//! Processes that run what a tenant sent us, fenced in by the kernel: what a sandbox is made from, what it can be asked, and how it ends. This
//! floor knows no HTTP, no tenants and no agents. docs/sandbox.md says what the fence promises and what it does not.
//!
//! Where a sandbox cannot be fenced in, nothing runs: there is no way around the fence.

mod engine;
mod error;
mod files;
mod images;
mod native;
mod probe;
mod runner;
mod running;
mod spawn;
mod spec;
mod watchdog;

pub use error::{ExitCause, Result, SandboxError, StopReason};
pub use files::Entry;
pub use images::ImageRefused;
pub use probe::{Probe, Rung};
pub use running::Running;
pub use spec::{BuiltIns, PythonTool, SandboxId, SandboxLimits, SandboxSpec, Secrets, Start, Usage};

use crate::config::{Config, Limits, SandboxSettings};
use native::wire::{Ask, Contain, Launch, Told};
use running::Ends;
use rustix::pipe::{PipeFlags, pipe_with};
use spawn::{Part, Spawner};
use std::{
    collections::HashSet,
    net::TcpListener,
    os::fd::OwnedFd,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};

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
    keeper: Spawner,
    serial: AtomicU64,
    probe: Mutex<Option<(Arc<Probe>, Instant)>>,
    engine_probe: Mutex<Option<(Arc<Probe>, Instant)>>,
    usual_image: OnceCell<String>,
}

impl Sandboxes {
    /// For this configuration and its data directory.
    pub fn new(config: &Config) -> Self {
        let (settings, data) = (config.sandbox.clone(), config.data.clone());
        let spawner = Spawner::new(Part::Spawner, settings.clone(), data.clone());
        let keeper = Spawner::new(Part::Keeper, settings.clone(), data.clone());
        let inner = Inner {
            settings,
            data,
            boot: config.limits.sandbox_boot_ms,
            limits: SandboxLimits::usual(&config.limits),
            spawner,
            keeper,
            serial: AtomicU64::new(0),
            probe: Mutex::default(),
            engine_probe: Mutex::default(),
            usual_image: OnceCell::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What this machine can do for sandboxes that name no image, found out by doing: once where it works, and now and then where it does not.
    pub async fn probe(&self) -> Arc<Probe> {
        let mut known = self.inner.probe.lock().await;
        if let Some(probe) = still_known(known.as_ref()) {
            return probe;
        }
        let probe = Arc::new(self.probe_now(self.inner.limits, None).await);
        *known = Some((Arc::clone(&probe), Instant::now()));
        probe
    }

    /// The same for those that name an image, with the first of the operator's images; none where there are no images.
    pub async fn engine_probe(&self) -> Option<Arc<Probe>> {
        let image = self.inner.settings.images.first()?;
        let mut known = self.inner.engine_probe.lock().await;
        if let Some(probe) = still_known(known.as_ref()) {
            return Some(probe);
        }
        let probe = Arc::new(match self.image_pin(image).await {
            Ok(image) => self.probe_now(self.inner.limits, Some(image)).await,
            Err(refused) => Probe::none(&SandboxError::Unavailable(refused.to_string())),
        });
        *known = Some((Arc::clone(&probe), Instant::now()));
        Some(probe)
    }

    /// Starts a sandbox: its workspace is made if it is not there, its program runs when this returns. Its start is bounded; talking to it is
    /// the caller's to bound.
    pub async fn boot(&self, spec: &SandboxSpec, secrets: Secrets) -> Result<Running> {
        let (this, spec) = (self.clone(), spec.clone());
        self.in_time(async move {
            let image = this.image_of(spec.image.as_deref()).await?;
            let work = match &spec.start {
                Start::Python { .. } => this.python(&[], image.is_some()),
                Start::Command { command, args, env } => command_work(command, args, env, &secrets, image.is_some()),
            };
            let mut running = this.launch(&spec, image, spec.bundle.clone(), work).await?;
            if let Some(task) = runner::task(&spec, &secrets) {
                running.tell(&task).await?;
            }
            Ok(running)
        })
        .await
    }

    /// The runner, to do one piece of work on the workspace and end.
    async fn boot_for_files(&self, spec: &SandboxSpec, work: &[&str]) -> Result<Running> {
        let (this, spec) = (self.clone(), spec.clone());
        let words: Vec<String> = work.iter().map(|word| (*word).to_owned()).collect();
        self.in_time(async move {
            let image = this.image_of(spec.image.as_deref()).await?;
            let work = this.python(&words, image.is_some());
            this.launch(&spec, image, None, work).await
        })
        .await
    }

    /// Starts it in a task of its own: when the caller's patience ends before the spawner's answer comes, what then stands is dropped, and so
    /// ended.
    async fn in_time(&self, booting: impl Future<Output = Result<Running>> + Send + 'static) -> Result<Running> {
        match timeout(self.inner.boot, tokio::spawn(booting)).await {
            Ok(booted) => booted.map_err(|error| SandboxError::Internal(error.to_string()))?,
            Err(_) => Err(SandboxError::Deadline),
        }
    }

    fn python(&self, work: &[String], contained: bool) -> Work {
        let args = ["-I", "-B", runner::MAIN].map(str::to_owned).into_iter().chain(work.iter().cloned()).collect();
        // Where an image has its Python, its PATH knows.
        let program = if contained { "python3".to_owned() } else { self.inner.settings.python.to_string_lossy().into_owned() };
        Work { program, args, env: Vec::new(), secrets: Vec::new() }
    }

    async fn launch(&self, spec: &SandboxSpec, image: Option<String>, bundle: Option<PathBuf>, work: Work) -> Result<Running> {
        let inner = &self.inner;
        let serial = inner.serial.fetch_add(1, Ordering::Relaxed);
        let run = format!("{}-{serial}", spec.id);
        let bundle = bundle.map(std::path::absolute).transpose().map_err(|error| SandboxError::Internal(error.to_string()))?;
        let Work { program, args, env, secrets } = work;
        let mut launch = Launch {
            run: run.clone(),
            id: spec.id.clone(),
            bundle,
            program,
            args,
            env: plain_environment().chain(if spec.network { proxy_environment() } else { Vec::new() }).chain(env).collect(),
            limits: spec.limits,
            rootfs: inner.settings.rootfs.clone(),
            strict: inner.settings.strict,
            network: spec.network,
        };
        let contained = image.is_some();
        let (maker, ask) = match image {
            None => {
                launch.env.extend(secrets);
                (&inner.spawner, Ask::Boot(launch))
            }
            Some(image) => {
                let asked = inner.spawner.ask(Ask::Provision { id: spec.id.clone() }, Vec::new()).await?;
                let (Told::Place(place), _) = asked else {
                    return Err(SandboxError::Internal("the spawner answered something else".to_owned()));
                };
                (&inner.keeper, Ask::Contain(Contain { launch, image, place, secrets }))
            }
        };
        let ([stdin, stdout, stderr, status], theirs) = pipes()?;
        let (booted, handle, door) = match maker.ask(ask, theirs).await? {
            (Told::Booted(booted), mut fds) if fds.len() == 1 + usize::from(spec.network && !contained) => {
                (booted, fds.remove(0), fds.pop())
            }
            _ => return Err(SandboxError::Internal("the spawner answered something else".to_owned())),
        };
        let workspace = self.place(&spec.id).join("workspace");
        let ends = Ends { stdin, stdout, stderr, status, door: door.map(TcpListener::from) };
        let mut running = Running::take_over(maker.clone(), run.clone(), booted, handle, ends).await?;
        if contained && spec.network {
            match maker.ask(Ask::Door { run }, Vec::new()).await? {
                (Told::Door, mut fds) if fds.len() == 1 => running.set_door(fds.pop().map(TcpListener::from)),
                _ => return Err(SandboxError::Internal("the engine's keeper answered something else".to_owned())),
            }
        }
        running.watch(spec.limits, workspace);
        Ok(running)
    }

    /// Ends whatever runs on a workspace and deletes it. There may be none.
    pub async fn destroy(&self, id: &SandboxId) -> Result<()> {
        if self.inner.keeper.runs().await {
            self.inner.keeper.ask(Ask::Destroy { id: id.clone() }, Vec::new()).await?;
        }
        self.inner.spawner.ask(Ask::Destroy { id: id.clone() }, Vec::new()).await.map(drop)
    }

    /// Deletes every workspace but these, as a starting server does, and says which there were.
    pub async fn sweep(&self, live: &HashSet<SandboxId>) -> Result<Vec<SandboxId>> {
        if !self.inner.data.join("sandboxes").exists() {
            return Ok(Vec::new());
        }
        // Containers of an earlier life still use their workspaces; meeting the engine again removes them.
        if self.inner.data.join("engine").exists()
            && let Err(error) = self.engine_facts().await
        {
            tracing::warn!(%error, "containers of an earlier life may still run");
        }
        match self.inner.spawner.ask(Ask::Sweep { live: live.iter().cloned().collect() }, Vec::new()).await? {
            (Told::Swept(gone), _) => Ok(gone),
            _ => Err(SandboxError::Internal("the spawner answered something else".to_owned())),
        }
    }

    fn place(&self, id: &SandboxId) -> PathBuf {
        self.inner.data.join("sandboxes").join(id.as_str())
    }

    fn settings(&self) -> &SandboxSettings {
        &self.inner.settings
    }

    fn keeper(&self) -> &Spawner {
        &self.inner.keeper
    }

    fn usual_image(&self) -> &OnceCell<String> {
        &self.inner.usual_image
    }

    fn engine_socket(&self) -> PathBuf {
        self.inner.settings.engine_socket.clone().unwrap_or_else(images::socket_of_this_machine)
    }

    fn patience(&self) -> Duration {
        self.inner.boot
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
            disk_bytes_per_second: limits.sandbox_disk_bytes_per_second_max as u64,
            disk_operations_per_second: limits.sandbox_disk_operations_per_second_max as u64,
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
            disk_bytes_per_second: self.disk_bytes_per_second.min(limits.sandbox_disk_bytes_per_second_max as u64),
            disk_operations_per_second: self.disk_operations_per_second.min(limits.sandbox_disk_operations_per_second_max as u64),
        }
    }
}

fn still_known(known: Option<&(Arc<Probe>, Instant)>) -> Option<Arc<Probe>> {
    let (probe, at) = known?;
    (probe.available() || at.elapsed() < PROBE_AGAIN).then(|| Arc::clone(probe))
}

/// What is to run.
struct Work {
    program: String,
    args: Vec<String>,
    /// What its environment holds beside the plain.
    env: Vec<(String, String)>,
    secrets: Vec<(String, String)>,
}

/// A bundle's own program. One without a path is the system's, or the image's.
fn command_work(command: &str, args: &[String], env: &[(String, String)], secrets: &Secrets, contained: bool) -> Work {
    let program = match command {
        path if path.starts_with('/') => path.to_owned(),
        path if path.contains('/') => format!("/bundle/{path}"),
        name if contained => name.to_owned(),
        name => format!("/usr/bin/{name}"),
    };
    let secrets = secrets.iter().map(|(name, secret)| (name.clone(), secret.expose().to_owned())).collect();
    Work { program, args: args.to_vec(), env: env.to_vec(), secrets }
}

/// What every program inside is told of its surroundings. Nothing of the server's own environment is in it.
fn plain_environment() -> impl Iterator<Item = (String, String)> {
    [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/workspace"), ("TMPDIR", "/tmp"), ("LANG", "C.UTF-8"), ("USER", "sandbox")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Where programs that reach out find the proxy.
fn proxy_environment() -> Vec<(String, String)> {
    let proxy = format!("http://127.0.0.1:{}", native::PORT);
    ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"].map(|name| (name.to_owned(), proxy.clone())).to_vec()
}

/// The server's ends of stdin, stdout, stderr and status, and the sandbox's.
fn pipes() -> Result<([OwnedFd; 4], Vec<OwnedFd>)> {
    let make = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| SandboxError::Internal(format!("no pipe can be had: {error}")));
    let ((stdin_theirs, stdin), (stdout, stdout_theirs)) = (make()?, make()?);
    let ((stderr, stderr_theirs), (status, status_theirs)) = (make()?, make()?);
    Ok(([stdin, stdout, stderr, status], vec![stdin_theirs, stdout_theirs, stderr_theirs, status_theirs]))
}
