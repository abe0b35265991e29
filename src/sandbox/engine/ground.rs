//! Which engine this is, and what every container of it is given.

use super::{SandboxError, container::LABEL};
use crate::sandbox::{Result, native, runner};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// One question to the engine takes no longer.
const ENGINE_SECONDS: u64 = 20;

/// What differs between engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Docker,
    Podman,
    PodmanRootless,
}

/// What containers stand on.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) kind: Kind,
    /// The engine's name and version.
    pub(super) name: String,
    /// Names this server among all that use the engine.
    pub(super) server: String,
    /// What the engine is to run containers with; none for its own choice.
    pub(super) runtime: Option<String>,
    /// Where the runner lies on the host.
    pub(super) runner: PathBuf,
    /// The system calls that are allowed: Docker takes the list itself, Podman where it lies.
    pub(super) seccomp: String,
}

/// Connects to the engine's socket. Nothing is said yet.
pub(super) fn connect(socket: &str) -> Result<Docker> {
    Docker::connect_with_unix(socket, ENGINE_SECONDS, API_DEFAULT_VERSION).map_err(|error| silent(socket, &error))
}

pub(super) fn silent(socket: &str, error: &bollard::errors::Error) -> SandboxError {
    SandboxError::Unavailable(format!(
        "no container engine answers at {socket} ({error}): start Docker or Podman's service, or set sandbox.engine_socket"
    ))
}

impl Ground {
    /// Gets to know the engine, lays out the files that containers see, and removes what an earlier life left behind.
    pub(super) async fn find(docker: &Docker, socket: &str, data: &Path, runtime: &str) -> Result<Self> {
        let refused = |why: String| SandboxError::Unavailable(why);
        let version = docker.version().await.map_err(|error| silent(socket, &error))?;
        let info = docker.info().await.map_err(|error| silent(socket, &error))?;
        let podman = version.components.iter().flatten().any(|part| part.name.contains("Podman"));
        let options = info.security_options.unwrap_or_default();
        let has = |name: &str| options.iter().any(|option| option.split(',').any(|part| part == format!("name={name}")));
        let kind = match (podman, has("rootless")) {
            (true, true) => Kind::PodmanRootless,
            (true, false) => Kind::Podman,
            (false, false) if !has("userns") => Kind::Docker,
            (false, _) => {
                return Err(refused(
                    "Docker without root or with userns-remap gives containers users that may not write their workspaces: use Docker as root, or Podman"
                        .to_owned(),
                ));
            }
        };
        if info.memory_limit == Some(false) || info.pids_limit == Some(false) {
            return Err(refused("this container engine cannot bound memory and processes: it has no cgroups for them".to_owned()));
        }
        let runtimes = info.runtimes.unwrap_or_default();
        if !runtime.is_empty() && !runtimes.contains_key(runtime) {
            let mut known: Vec<String> = runtimes.into_keys().collect();
            known.sort();
            return Err(refused(format!("the container engine has no runtime {runtime}; it has {}", known.join(", "))));
        }
        let files = Files::lay_out(data).map_err(|error| SandboxError::Internal(format!("{}/engine: {error}", data.display())))?;
        let seccomp = if podman { files.seccomp.display().to_string() } else { native::seccomp_profile() };
        let engine = if podman { "Podman" } else { "Docker" };
        let ground = Self {
            kind,
            name: format!("{engine} {}", version.version.unwrap_or_default()),
            server: files.server,
            runtime: (!runtime.is_empty()).then(|| runtime.to_owned()),
            runner: files.runner,
            seccomp,
        };
        ground.clear(docker).await.map_err(|error| SandboxError::Internal(format!("old containers could not be removed: {error}")))?;
        Ok(ground)
    }

    /// Whether a door can be opened in a container's network namespace from outside. Podman without root keeps it in a user namespace, which no
    /// process of several threads enters; a runtime with a kernel or a network stack of its own does not look at it.
    pub(super) fn doors(&self) -> bool {
        self.kind != Kind::PodmanRootless && self.runtime.as_deref().is_none_or(|runtime| ["runc", "crun"].contains(&runtime))
    }

    /// Removes every container of this server. Whoever calls knows of none that should live.
    pub(super) async fn clear(&self, docker: &Docker) -> std::result::Result<(), bollard::errors::Error> {
        let ours = HashMap::from([("label".to_owned(), vec![format!("{LABEL}={}", self.server)])]);
        let list = ListContainersOptionsBuilder::default().all(true).filters(&ours).build();
        for container in docker.list_containers(Some(list)).await? {
            if let Some(id) = container.id {
                remove(docker, &id).await?;
            }
        }
        Ok(())
    }
}

/// Ends a container and removes it with whatever volumes its image made. It may be gone already.
pub(super) async fn remove(docker: &Docker, container: &str) -> std::result::Result<(), bollard::errors::Error> {
    let all = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match docker.remove_container(container, Some(all)).await {
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        removed => removed,
    }
}

/// Files of the data directory that the engine reads.
struct Files {
    server: String,
    runner: PathBuf,
    seccomp: PathBuf,
}

impl Files {
    fn lay_out(data: &Path) -> io::Result<Self> {
        let folder = data.join("engine");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let (name, runner, seccomp) = (folder.join("id"), folder.join("runner"), folder.join("seccomp.json"));
        // Whoever runs in a container reads it, whatever user that is; the data directory keeps others of the host away.
        fs::DirBuilder::new().recursive(true).create(&runner)?;
        fs::set_permissions(&runner, fs::Permissions::from_mode(0o755))?;
        for (name, text) in runner::FILES {
            write(&runner.join(name), text)?;
        }
        write(&seccomp, &native::seccomp_profile())?;
        let known = fs::read_to_string(&name).ok().filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let server = match known {
            Some(id) => id,
            None => {
                let mut random = [0; 16];
                getrandom::fill(&mut random).map_err(io::Error::other)?;
                let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
                write(&name, &id)?;
                id
            }
        };
        Ok(Self { server, runner, seccomp })
    }
}

/// Whole or not at all; containers that run keep what they were started with.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_one_name_that_it_keeps() {
        let data = tempfile::tempdir().unwrap();
        let first = Files::lay_out(data.path()).unwrap();
        assert_eq!(first.server, Files::lay_out(data.path()).unwrap().server);
        assert_ne!(first.server, Files::lay_out(tempfile::tempdir().unwrap().path()).unwrap().server);
        fs::write(data.path().join("engine/id"), "=evil").unwrap();
        assert_eq!(Files::lay_out(data.path()).unwrap().server.len(), 32);
        assert!(fs::read_to_string(first.runner.join("runner.py")).unwrap().contains("def "));
        serde_json::from_str::<serde_json::Value>(&fs::read_to_string(first.seccomp).unwrap()).unwrap();
    }
}
