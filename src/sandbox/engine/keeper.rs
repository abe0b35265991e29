//! The keeper: the process beside the server that holds the engine's socket. It has no environment and no network business, answers the spawner's
//! questions, and removes every container when the server is gone, whatever ended it.

use super::{
    SandboxError, container, door,
    ground::{self, Ground},
    life::{self, Ends},
};
use crate::sandbox::{
    Result, Usage,
    native::wire::{Ask, Booted, Contain, EngineFacts, Told, receive, send},
};
use bollard::{
    Docker,
    query_parameters::{CreateImageOptionsBuilder, StatsOptionsBuilder},
};
use futures_util::StreamExt;
use rustix::pipe::{PipeFlags, pipe_with};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// All containers end within it, when the server is gone.
const END: Duration = Duration::from_secs(15);
/// What a container uses is told by then, or not at all.
const USAGE: Duration = Duration::from_secs(3);

struct Keeper {
    data: PathBuf,
    socket: String,
    runtime: String,
    engine: Option<(Docker, Ground)>,
    runs: BTreeMap<String, Run>,
    /// Of images, by digest: what volumes they want.
    volumes: BTreeMap<String, Vec<String>>,
    pulls: Arc<Mutex<Pulls>>,
}

/// Images on their way here, and what kept the last ones from coming.
#[derive(Default)]
struct Pulls {
    running: BTreeSet<String>,
    failed: BTreeMap<String, String>,
}

struct Run {
    container: String,
    id: crate::sandbox::SandboxId,
    /// Ends with it, and says whether memory was the reason.
    life: JoinHandle<bool>,
    /// Ends it, as the server's cord does.
    stop: oneshot::Sender<()>,
    /// Once it stands: its door, if it has one.
    door: door::Place,
}

pub(in crate::sandbox) fn run(socket: BorrowedFd<'_>, args: Vec<OsString>) {
    let Ok([data, engine, runtime]) = <[OsString; 3]>::try_from(args) else { return };
    let (Some(engine), Some(runtime)) = (engine.to_str(), runtime.to_str()) else { return };
    // A signal to the terminal's processes is the server's to act on.
    let _ = rustix::process::setsid();
    let Ok(tokio) = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() else { return };
    let mut keeper = Keeper {
        data: data.into(),
        socket: engine.to_owned(),
        runtime: runtime.to_owned(),
        engine: None,
        runs: BTreeMap::new(),
        volumes: BTreeMap::new(),
        pulls: Arc::default(),
    };
    while let Ok(Some((ask, fds))) = receive(socket) {
        let answer = tokio.block_on(keeper.answer(ask, fds));
        let (told, fds) = answer.unwrap_or_else(|error| (Told::Failed(error), Vec::new()));
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        if send(socket, &told, &fds).is_err() {
            break;
        }
    }
    tokio.block_on(keeper.end_all());
}

impl Keeper {
    async fn answer(&mut self, ask: Ask, fds: Vec<OwnedFd>) -> Result<(Told, Vec<OwnedFd>)> {
        let told = match ask {
            Ask::Contain(contain) => {
                let (booted, cord) = self.contain(contain, fds).await?;
                return Ok((Told::Booted(booted), vec![cord]));
            }
            Ask::Collect { run } => match self.runs.remove(&run) {
                Some(run) => Told::Ended { oom: end(run).await, usage: Usage::default() },
                None => Told::Ended { oom: false, usage: Usage::default() },
            },
            Ask::Door { run } => {
                let door = self.runs.get(&run).and_then(|run| run.door.lock().unwrap_or_else(PoisonError::into_inner).take());
                let door = door.ok_or_else(|| SandboxError::Internal("a container that stands has no door".to_owned()))?;
                return Ok((Told::Door, vec![door]));
            }
            Ask::Usage { run } => Told::Usage(self.usage(&run).await),
            Ask::Destroy { id } => {
                let names: Vec<String> = self.runs.iter().filter(|(_, run)| run.id == id).map(|(name, _)| name.clone()).collect();
                for run in names.iter().filter_map(|name| self.runs.remove(name)).collect::<Vec<_>>() {
                    end(run).await;
                }
                Told::Done
            }
            Ask::Engine => {
                let (_, ground) = self.engine().await?;
                Told::Engine(EngineFacts { name: ground.name.clone(), runtime: ground.runtime.clone(), doors: ground.doors() })
            }
            Ask::Image { name, pull } => Told::Image(self.image(&name, pull).await?),
            Ask::Boot(_) | Ask::Provision { .. } | Ask::Sweep { .. } => {
                return Err(SandboxError::Internal("the keeper of the engine was asked what is the spawner's to do".to_owned()));
            }
        };
        Ok((told, Vec::new()))
    }

    /// The engine, met at the first question that needs it.
    async fn engine(&mut self) -> Result<&(Docker, Ground)> {
        if self.engine.is_none() {
            let docker = ground::connect(&self.socket)?;
            // Engines speak older versions of their language than this client may know.
            let docker = docker.negotiate_version().await.map_err(|error| ground::silent(&self.socket, &error))?;
            let ground = Ground::find(&docker, &self.socket, &self.data, &self.runtime).await?;
            self.engine = Some((docker, ground));
        }
        self.engine.as_ref().ok_or_else(|| SandboxError::Internal("the engine was met and is not there".to_owned()))
    }

    async fn contain(&mut self, contain: Contain, fds: Vec<OwnedFd>) -> Result<(Booted, OwnedFd)> {
        let (docker, ground) = self.engine().await?.clone();
        let volumes = match self.volumes.get(&contain.image) {
            Some(volumes) => volumes,
            None => {
                let image = docker.inspect_image(&contain.image).await;
                let image = image.map_err(|error| SandboxError::Unavailable(format!("the image {}: {error}", contain.image)))?;
                let volumes = image.config.and_then(|config| config.volumes).unwrap_or_default();
                self.volumes.entry(contain.image.clone()).or_insert(volumes)
            }
        };
        let body = container::body(&contain, &ground, volumes)?;
        if contain.launch.network && !ground.doors() {
            let why = "containers of this engine, or of this runtime, have no way out that could be bounded".to_owned();
            return Err(SandboxError::Unavailable(why));
        }
        let trouble = |error: rustix::io::Errno| SandboxError::Internal(format!("no pipe can be had: {error}"));
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(trouble)?;
        let name = format!("nimblesite-{}-{}", &ground.server[..8], contain.launch.run);
        let (stop, stopped) = oneshot::channel();
        let ends = Ends::new(fds, ours, stopped)?;
        let door = door::Place::default();
        let way_out = contain.launch.network.then(|| Arc::clone(&door));
        let life = tokio::spawn(life::live(docker, name.clone(), body, container::preamble(&contain), way_out, ends));
        self.runs.insert(contain.launch.run, Run { container: name, id: contain.launch.id, life, stop, door });
        Ok((Booted { pid: 0, hard_memory: true, hard_disk: false, own_uid: contain.place.own_uid, paced_disk: false }, theirs))
    }

    async fn usage(&mut self, run: &str) -> Usage {
        let (Some((docker, _)), Some(run)) = (&self.engine, self.runs.get(run)) else { return Usage::default() };
        let once = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let asking = docker.stats(&run.container, Some(once));
        futures_util::pin_mut!(asking);
        let Ok(Some(Ok(told))) = timeout(USAGE, asking.next()).await else { return Usage::default() };
        let memory = told.memory_stats.unwrap_or_default();
        let used = memory.usage.unwrap_or_default();
        let cpu = told.cpu_stats.and_then(|cpu| cpu.cpu_usage).and_then(|cpu| cpu.total_usage).unwrap_or_default();
        Usage {
            memory_bytes: used,
            memory_peak_bytes: memory.max_usage.unwrap_or_default().max(used),
            cpu_ms: cpu / 1_000_000,
            pids: told.pids_stats.and_then(|pids| pids.current).unwrap_or_default(),
        }
    }

    /// An image's digest. None while it is being pulled, which goes on whoever asks.
    async fn image(&mut self, name: &str, pull: bool) -> Result<Option<String>> {
        let pulls = Arc::clone(&self.pulls);
        let (docker, _) = self.engine().await?;
        match docker.inspect_image(name).await {
            Ok(image) => return image.id.map(Some).ok_or_else(|| SandboxError::Protocol(format!("the image {name} has no digest"))),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) if pull => {}
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                return Err(SandboxError::Denied(format!("the image {name} is not on this machine, and sandbox.engine_pull is \"never\"")));
            }
            Err(error) => return Err(SandboxError::Unavailable(format!("the image {name}: {error}"))),
        }
        let mut now = pulls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = now.failed.remove(name) {
            return Err(SandboxError::Denied(format!("the image {name} could not be pulled: {why}")));
        }
        if now.running.insert(name.to_owned()) {
            tokio::spawn(fetch(docker.clone(), name.to_owned(), Arc::clone(&pulls)));
        }
        Ok(None)
    }

    async fn end_all(&mut self) {
        let runs = std::mem::take(&mut self.runs);
        let ending: Vec<_> = runs.into_values().map(|run| tokio::spawn(end(run))).collect();
        let ended = timeout(END, futures_util::future::join_all(ending)).await.is_ok();
        // Whatever is still there would have been found by the next life.
        if let (false, Some((docker, ground))) = (ended, &self.engine) {
            drop(timeout(END, ground.clear(docker)).await);
        }
    }
}

async fn end(run: Run) -> bool {
    drop(run.stop);
    run.life.await.unwrap_or(false)
}

async fn fetch(docker: Docker, name: String, pulls: Arc<Mutex<Pulls>>) {
    let what = CreateImageOptionsBuilder::default().from_image(&name).build();
    let pulling = docker.create_image(Some(what), None, None);
    futures_util::pin_mut!(pulling);
    let mut failed = None;
    while let Some(piece) = pulling.next().await {
        if let Err(error) = piece {
            failed = Some(error.to_string());
        }
    }
    let mut now = pulls.lock().unwrap_or_else(PoisonError::into_inner);
    now.running.remove(&name);
    if let Some(why) = failed {
        now.failed.insert(name, why);
    }
}
