//! What this machine can do for sandboxes, found out by doing: one is started, looks around, and says what it could not do.

use super::{Result, SandboxError, SandboxId, SandboxLimits, SandboxSpec, Sandboxes, Start, native::wire::EngineFacts};
use serde::Serialize;
use std::{fs::DirEntry, time::Duration};

/// How far a sandbox is from the host, from the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// There are no sandboxes here.
    None,
    /// The host's kernel, behind namespaces, Landlock and a list of system calls: one hole in the kernel ends it.
    Kernel,
    /// A container engine's containers, with its usual runtime: the same kernel, and walls that others built.
    Engine,
    /// Containers with a runtime that the operator chose, such as one with a kernel of its own.
    #[serde(rename = "engine+runtime")]
    EngineRuntime,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// How far a sandbox is from the host.
    pub rung: Rung,
    /// Why there are none.
    pub trouble: Option<String>,
    /// The container engine and its version, where one is used.
    pub engine: Option<String>,
    /// The kernel bounds memory, processes and processor time.
    pub hard_memory: bool,
    /// The kernel bounds workspaces.
    pub hard_disk: bool,
    /// The kernel bounds how fast a workspace's disk is.
    pub paced_disk: bool,
    /// Each sandbox has a user id of its own.
    pub own_uids: bool,
    /// Landlock stands behind the mounts.
    pub landlock: bool,
    /// What would be better, and how to get it.
    pub advice: Vec<String>,
}

impl Probe {
    /// Whether sandboxes can be had.
    pub fn available(&self) -> bool {
        self.rung != Rung::None
    }

    pub(super) fn none(why: &SandboxError) -> Self {
        Self {
            rung: Rung::None,
            trouble: Some(why.to_string()),
            engine: None,
            hard_memory: false,
            hard_disk: false,
            paced_disk: false,
            own_uids: false,
            landlock: false,
            advice: Vec::new(),
        }
    }
}

impl Sandboxes {
    /// Starts a sandbox with Python in it and takes it away again.
    pub(super) async fn probe_now(&self, limits: SandboxLimits, image: Option<String>) -> Probe {
        match self.try_one(limits, image).await {
            Ok(probe) => probe,
            Err(error) => Probe::none(&error),
        }
    }

    async fn try_one(&self, limits: SandboxLimits, image: Option<String>) -> Result<Probe> {
        let name = format!("probe-{}-{}", if image.is_some() { "image" } else { "usual" }, std::process::id());
        let id = SandboxId::new(&name).ok_or_else(|| SandboxError::Internal("the probe has no name".to_owned()))?;
        let spec = SandboxSpec {
            id: id.clone(),
            bundle: None,
            start: Start::Python { module: String::new(), path: Vec::new(), tools: Vec::new() },
            limits,
            network: false,
            built_ins: super::BuiltIns::default(),
            secrets_in_shell: false,
            result_bytes_max: 1024,
            image,
        };
        let tried = self.look_inside(&spec).await;
        let cleaned = self.destroy(&id).await;
        self.swept(&id).await;
        let probe = tried?;
        cleaned.map(|()| probe)
    }

    /// Waits, for two seconds at most, until nothing of it lies there any more: who asks a machine what it can do leaves no trace.
    async fn swept(&self, id: &SandboxId) {
        let (home, ending) = (self.inner.data.join("sandboxes"), format!("-{id}"));
        let lies = |entry: DirEntry| entry.file_name().to_string_lossy().ends_with(&ending);
        for _ in 0..200 {
            if !std::fs::read_dir(&home).into_iter().flatten().flatten().any(lies) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn look_inside(&self, spec: &SandboxSpec) -> Result<Probe> {
        // Whether Python is there and works: an empty workspace is listed.
        self.file_list(spec, "", 1).await?;
        let running = self.boot(spec, Vec::new()).await?;
        let (booted, landlock) = (running.booted(), running.landlock());
        let contained = self.image_of(spec.image.as_deref()).await?.is_some();
        let engine = if contained { self.engine_facts().await? } else { EngineFacts::default() };
        let mut advice = Vec::new();
        let mut unless = |good: bool, what: &str| {
            if !good {
                advice.push(what.to_owned());
            }
        };
        unless(
            booted.hard_memory,
            "memory and processes are bounded by limits and a watchdog alone: start the server as root, or give it cgroups (systemd: Delegate=yes)",
        );
        unless(booted.own_uid, "all sandboxes share the server's user id on this host: started as root, the server gives each its own");
        unless(
            booted.hard_disk || contained,
            "a workspace's size is watched, not bounded: the kernel bounds it where root starts the server and there are mkfs.ext4 and loop devices",
        );
        unless(
            booted.paced_disk || contained,
            "who writes much slows others' disk: the kernel bounds it where root starts the server on cgroups version 1 with blkio, or on version 2 with io",
        );
        unless(
            !contained,
            "the workspaces of containers are watched, not bounded: the data directory's disk should have room for all of them",
        );
        unless(
            !contained || engine.runtime.is_some(),
            "containers share the host's kernel: sandbox.engine_runtime can name a runtime with one of its own, such as runsc or kata",
        );
        unless(landlock || contained, "this kernel has no Landlock, the second fence behind the mounts: use Linux 6.12 or newer");
        unless(
            contained || self.settings().rootfs != std::path::Path::new("/"),
            "sandboxes see the host's /usr, read-only: sandbox.rootfs gives them one of their own",
        );
        Ok(Probe {
            rung: match (contained, &engine.runtime) {
                (false, _) => Rung::Kernel,
                (true, None) => Rung::Engine,
                (true, Some(_)) => Rung::EngineRuntime,
            },
            trouble: None,
            engine: contained.then(|| match &engine.runtime {
                Some(runtime) => format!("{}, {runtime}", engine.name),
                None => engine.name.clone(),
            }),
            hard_memory: booted.hard_memory,
            hard_disk: booted.hard_disk,
            paced_disk: booted.paced_disk,
            own_uids: booted.own_uid,
            landlock,
            advice,
        })
    }
}
