//! What this machine can do for sandboxes, found out by doing: one is started, looks around, and says what it could not do.

use super::{Result, SandboxError, SandboxId, SandboxLimits, SandboxSpec, Sandboxes, Start};
use serde::Serialize;

/// How far a sandbox is from the host, from the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// There are no sandboxes here.
    None,
    /// The host's kernel, behind namespaces, Landlock and a list of system calls: one hole in the kernel ends it.
    Kernel,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// How far a sandbox is from the host.
    pub rung: Rung,
    /// Why there are none.
    pub trouble: Option<String>,
    /// The kernel bounds memory, processes and processor time.
    pub hard_memory: bool,
    /// The kernel bounds workspaces.
    pub hard_disk: bool,
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

    fn none(why: &SandboxError) -> Self {
        Self {
            rung: Rung::None,
            trouble: Some(why.to_string()),
            hard_memory: false,
            hard_disk: false,
            own_uids: false,
            landlock: false,
            advice: Vec::new(),
        }
    }
}

impl Sandboxes {
    /// Starts a sandbox with Python in it and takes it away again.
    pub(super) async fn probe_now(&self, limits: SandboxLimits) -> Probe {
        match self.try_one(limits).await {
            Ok(probe) => probe,
            Err(error) => Probe::none(&error),
        }
    }

    async fn try_one(&self, limits: SandboxLimits) -> Result<Probe> {
        let name = format!("probe-{}", std::process::id());
        let id = SandboxId::new(&name).ok_or_else(|| SandboxError::Internal("the probe has no name".to_owned()))?;
        let spec = SandboxSpec {
            id: id.clone(),
            bundle: None,
            start: Start::Python { module: String::new(), path: Vec::new(), tools: Vec::new() },
            limits,
            network: Vec::new(),
            built_ins: super::BuiltIns::default(),
            secrets_in_shell: false,
            result_bytes_max: 1024,
        };
        let tried = self.look_inside(&spec).await;
        let cleaned = self.destroy(&id).await;
        let probe = tried?;
        cleaned.map(|()| probe)
    }

    async fn look_inside(&self, spec: &SandboxSpec) -> Result<Probe> {
        // Whether Python is there and works: an empty workspace is listed.
        self.file_list(spec, "", 1).await?;
        let running = self.boot(spec, Vec::new()).await?;
        let (booted, landlock) = (running.booted(), running.landlock());
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
            booted.hard_disk,
            "a workspace's size is watched, not bounded: the kernel bounds it where root starts the server and there are mkfs.ext4 and loop devices",
        );
        unless(landlock, "this kernel has no Landlock, the second fence behind the mounts: use Linux 6.12 or newer");
        unless(
            self.settings().rootfs != std::path::Path::new("/"),
            "sandboxes see the host's /usr, read-only: sandbox.rootfs gives them one of their own",
        );
        Ok(Probe {
            rung: Rung::Kernel,
            trouble: None,
            hard_memory: booted.hard_memory,
            hard_disk: booted.hard_disk,
            own_uids: booted.own_uid,
            landlock,
            advice,
        })
    }
}
