//! What a sandbox's container is made of, as the engine is asked for it: pure, so that a test can hold it to the letter. Whatever an image says of
//! its user, entry point, health check or volumes is overridden here.

use super::{
    SandboxError,
    ground::{Ground, Kind},
    runner,
};
use crate::sandbox::{Result, native::wire::Contain};
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use std::{collections::HashMap, path::Path};
use zeroize::Zeroizing;

/// Says which server's containers these are: the value is the server's own.
pub(super) const LABEL: &str = "nimblesite.server";
const LABEL_SANDBOX: &str = "nimblesite.sandbox";

const TMP: &str = "rw,nosuid,nodev,size=64m,mode=1777";
/// Stands where the image wants a volume, which would be a place on the host's disk that nobody bounds.
const IN_PLACE_OF_VOLUME: &str = "rw,nosuid,nodev,noexec,size=1m,mode=1777";
const VOLUMES_MAX: usize = 16;
const SHM_BYTES: i64 = 16 << 20;
const FILE_BYTES_MAX: i64 = 256 << 20;
const FILES_OPEN_MAX: i64 = 512;
const LOCKED_BYTES_MAX: i64 = 64 << 10;

/// Takes variables from stdin, a line each up to an empty one, and becomes the program. What an engine is told as a container's environment it
/// shows to whoever asks, and keeps on its disk.
const TAKE_SECRETS: &str = r#"while IFS= read -r _line && [ -n "$_line" ]; do _value=$(printf '%bx' "${_line#*=}"); export "${_line%%=*}=${_value%x}"; done; unset _line _value; exec "$@""#;

/// Whether a program is begun by a shell that waits for its secrets, or for its door, which is not there before the container is. The runner waits
/// by itself.
fn waits(contain: &Contain) -> bool {
    let runner = contain.launch.args.iter().any(|word| word == runner::MAIN);
    !contain.secrets.is_empty() || (contain.launch.network && !runner)
}

/// What is written to the program's stdin before anything else: its secrets, for [`TAKE_SECRETS`].
pub(super) fn preamble(contain: &Contain) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::new());
    if !waits(contain) {
        return text;
    }
    for (name, value) in &contain.secrets {
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        for byte in value.bytes() {
            match byte {
                b'\\' => text.extend_from_slice(b"\\\\"),
                b'\n' => text.extend_from_slice(b"\\n"),
                byte => text.push(byte),
            }
        }
        text.push(b'\n');
    }
    text.push(b'\n');
    text
}

/// The body of the request that makes the container. `volumes` are the image's.
pub(super) fn body(contain: &Contain, ground: &Ground, volumes: &[String]) -> Result<ContainerCreateBody> {
    let launch = &contain.launch;
    let mut mounts = vec![bind(&contain.place.workspace, "/workspace", false)?, bind(&ground.runner, runner::HOME, true)?];
    if let Some(bundle) = &launch.bundle {
        mounts.push(bind(bundle, "/bundle", true)?);
    }
    let command: Vec<String> = std::iter::once(&launch.program).chain(&launch.args).cloned().collect();
    let (entrypoint, arguments) = if waits(contain) {
        (["/bin/sh", "-c", TAKE_SECRETS, "sh"].map(str::to_owned).to_vec(), command)
    } else {
        (vec![launch.program.clone()], launch.args.clone())
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let memory = number(launch.limits.memory_bytes);
    let host = HostConfig {
        network_mode: Some("none".to_owned()),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned(), format!("seccomp={}", ground.seccomp)]),
        privileged: Some(false),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        // Podman without root: the server's user is the same inside, and so may write its workspace.
        userns_mode: (ground.kind == Kind::PodmanRootless).then(|| "keep-id".to_owned()),
        memory: Some(memory),
        memory_swap: Some(memory),
        pids_limit: Some(number(launch.limits.pids)),
        nano_cpus: Some(number(launch.limits.cpu_millis.saturating_mul(1_000_000))),
        ulimits: Some(ulimits(number(launch.limits.pids), contain.place.own_uid)),
        tmpfs: Some(places(volumes)?),
        shm_size: Some(SHM_BYTES),
        mounts: Some(mounts),
        runtime: ground.runtime.clone(),
        // What a program says may be a secret, and is not for the engine to keep.
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        auto_remove: Some(false),
        ..HostConfig::default()
    };
    Ok(ContainerCreateBody {
        image: Some(contain.image.clone()),
        hostname: Some("sandbox".to_owned()),
        user: Some(format!("{}:{}", contain.place.uid, contain.place.gid)),
        entrypoint: Some(entrypoint),
        cmd: Some(arguments),
        env: Some(launch.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: Some("/workspace".to_owned()),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        stop_signal: Some("SIGKILL".to_owned()),
        network_disabled: Some(true),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        stdin_once: Some(true),
        tty: Some(false),
        labels: Some(HashMap::from([(LABEL.to_owned(), ground.server.clone()), (LABEL_SANDBOX.to_owned(), launch.id.as_str().to_owned())])),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// All that an engine has defaults for: those may be more than this machine gives.
fn ulimits(processes: i64, own_uid: bool) -> Vec<ResourcesUlimits> {
    let mut limits =
        vec![("core", 0), ("fsize", FILE_BYTES_MAX), ("memlock", LOCKED_BYTES_MAX), ("msgqueue", 0), ("nofile", FILES_OPEN_MAX)];
    // The kernel counts a user's processes wherever they are: this is a sandbox's own limit where its user is its own.
    if own_uid {
        limits.push(("nproc", processes));
    }
    let limit = |(name, most): (&str, i64)| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(most), hard: Some(most) };
    limits.into_iter().map(limit).collect()
}

fn bind(from: &Path, at: &str, read_only: bool) -> Result<Mount> {
    let source = from.to_str().ok_or_else(|| SandboxError::Internal(format!("{} is no path for an engine", from.display())))?;
    Ok(Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_owned()),
        target: Some(at.to_owned()),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    })
}

/// What is writable beside the workspace.
fn places(volumes: &[String]) -> Result<HashMap<String, String>> {
    let refuse = |why: String| Err(SandboxError::Unavailable(format!("the image cannot be used: {why}")));
    if volumes.len() > VOLUMES_MAX {
        return refuse(format!("it wants {} volumes; at most {VOLUMES_MAX} are replaced", volumes.len()));
    }
    let mut places = HashMap::from([("/tmp".to_owned(), TMP.to_owned())]);
    for volume in volumes {
        let path = format!("/{}", volume.trim_matches('/'));
        let ours = ["/workspace", "/bundle", "/run", "/tmp", "/proc", "/sys", "/dev"];
        if path == "/workspace" || path == "/bundle" || path == "/tmp" {
            continue;
        }
        let plain = path.len() > 1 && !path.contains([':', ',']) && !path.split('/').any(|part| part == ".." || part == ".");
        if !plain || ours.iter().any(|our| path == *our || path.starts_with(&format!("{our}/"))) {
            return refuse(format!("it wants a volume at {volume:?}"));
        }
        places.insert(path, IN_PLACE_OF_VOLUME.to_owned());
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{
        SandboxId, SandboxLimits,
        native::wire::{Launch, Place},
    };
    use serde_json::{Value, json};

    fn contain() -> Contain {
        Contain {
            launch: Launch {
                run: "abc-1".to_owned(),
                id: SandboxId::new("abc").unwrap(),
                bundle: Some("/data/bundles/x".into()),
                program: "/usr/bin/python3".to_owned(),
                args: vec!["-I".to_owned(), runner::MAIN.to_owned()],
                env: vec![("HOME".to_owned(), "/workspace".to_owned())],
                limits: SandboxLimits {
                    memory_bytes: 512 << 20,
                    pids: 128,
                    workspace_bytes: 1 << 30,
                    cpu_millis: 1_500,
                    disk_bytes_per_second: 1 << 20,
                    disk_operations_per_second: 100,
                },
                rootfs: "/".into(),
                strict: true,
                network: false,
            },
            image: "sha256:abc".to_owned(),
            place: Place { workspace: "/data/sandboxes/abc/workspace".into(), uid: 2_000_007, gid: 2_000_007, own_uid: true },
            secrets: Vec::new(),
        }
    }

    fn ground(kind: Kind) -> Ground {
        Ground {
            kind,
            name: "Docker 29".to_owned(),
            server: "0123".to_owned(),
            runtime: Some("runsc".to_owned()),
            runner: "/data/engine/runner".into(),
            seccomp: "{}".to_owned(),
        }
    }

    #[test]
    fn a_container_is_asked_for_in_these_words_and_no_others() {
        let body = serde_json::to_value(body(&contain(), &ground(Kind::Docker), &["/var/lib/x".to_owned()]).unwrap()).unwrap();
        let bind = |source: &str, target: &str, read_only: bool| json!({ "Target": target, "Source": source, "Type": "bind", "ReadOnly": read_only, "BindOptions": { "Propagation": "rprivate" } });
        let limit = |name: &str, most: i64| json!({ "Name": name, "Soft": most, "Hard": most });
        let expected = json!({
            "Hostname": "sandbox",
            "User": "2000007:2000007",
            "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": false, "OpenStdin": true, "StdinOnce": true,
            "Env": ["HOME=/workspace"],
            "Entrypoint": ["/usr/bin/python3"],
            "Cmd": ["-I", "/run/nimblesite/runner.py"],
            "Healthcheck": { "Test": ["NONE"] },
            "Image": "sha256:abc",
            "WorkingDir": "/workspace",
            "NetworkDisabled": true,
            "StopSignal": "SIGKILL",
            "Labels": { "nimblesite.server": "0123", "nimblesite.sandbox": "abc" },
            "HostConfig": {
                "NetworkMode": "none",
                "ReadonlyRootfs": true,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges", "seccomp={}"],
                "Privileged": false,
                "IpcMode": "private",
                "CgroupnsMode": "private",
                "Memory": 536_870_912, "MemorySwap": 536_870_912, "PidsLimit": 128, "NanoCpus": 1_500_000_000,
                "Ulimits": [limit("core", 0), limit("fsize", 268_435_456), limit("memlock", 65_536), limit("msgqueue", 0), limit("nofile", 512), limit("nproc", 128)],
                "Tmpfs": { "/tmp": TMP, "/var/lib/x": IN_PLACE_OF_VOLUME },
                "ShmSize": 16_777_216,
                "Mounts": [
                    bind("/data/sandboxes/abc/workspace", "/workspace", false),
                    bind("/data/engine/runner", "/run/nimblesite", true),
                    bind("/data/bundles/x", "/bundle", true),
                ],
                "Runtime": "runsc",
                "LogConfig": { "Type": "none" },
                "RestartPolicy": { "Name": "no" },
                "AutoRemove": false,
            },
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_secret_is_in_no_request_and_arrives_whole() {
        let mut contain = contain();
        let secrets = [("PLAIN", "s3cret"), ("ODD", "a\\nb\n=c'd\"$(e)`f` \n\n"), ("EMPTY", "")];
        contain.secrets = secrets.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        contain.launch.program = "/usr/bin/env".to_owned();
        contain.launch.args = vec!["-0".to_owned()];
        let body = body(&contain, &ground(Kind::Docker), &[]).unwrap();
        let text = serde_json::to_string(&body).unwrap();
        assert!(!text.contains("s3cret") && !text.contains("PLAIN"), "{text}");
        // What the container would do, done here by this machine's shell.
        let words: Vec<String> = body.entrypoint.unwrap().into_iter().chain(body.cmd.unwrap()).collect();
        let mut shell = std::process::Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut shell.stdin.take().unwrap(), &preamble(&contain)).unwrap();
        let output = String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap();
        let seen: Vec<&str> = output.split('\0').collect();
        for (name, value) in secrets {
            assert!(seen.contains(&format!("{name}={value}").as_str()), "{name} of {seen:?}");
        }
        assert!(!output.contains("_line") && !output.contains("_value"), "{output}");
    }

    #[test]
    fn an_image_s_volumes_become_small_places_in_memory_or_the_image_is_refused() {
        let paths = |volumes: &[&str]| {
            let volumes: Vec<String> = volumes.iter().map(|volume| (*volume).to_owned()).collect();
            places(&volumes).map(|places| {
                let mut paths: Vec<String> = places.into_keys().collect();
                paths.sort();
                paths
            })
        };
        assert_eq!(paths(&["/data/", "/workspace", "/tmp"]).unwrap(), ["/data", "/tmp"]);
        for bad in ["/", "/proc", "/dev/shm", "/a/../proc", "/run/nimblesite", "/workspace/x", "/a:b", "/a,exec"] {
            assert!(paths(&[bad]).is_err(), "{bad}");
        }
        assert!(paths(&["/a"; 17]).is_err());
    }

    #[test]
    fn a_door_is_opened_where_the_container_looks_at_its_namespace() {
        let doors = |kind, runtime: Option<&str>| Ground { runtime: runtime.map(str::to_owned), ..ground(kind) }.doors();
        assert!(doors(Kind::Podman, None) && doors(Kind::Docker, Some("runc")) && doors(Kind::Podman, Some("crun")));
        assert!(!doors(Kind::PodmanRootless, None) && !doors(Kind::Docker, Some("runsc")) && !doors(Kind::Podman, Some("kata")));
    }

    #[test]
    fn podman_without_root_keeps_the_server_s_user() {
        let mode = |kind| serde_json::to_value(body(&contain(), &ground(kind), &[]).unwrap()).unwrap()["HostConfig"]["UsernsMode"].clone();
        assert_eq!((mode(Kind::PodmanRootless), mode(Kind::Podman), mode(Kind::Docker)), (json!("keep-id"), Value::Null, Value::Null));
    }
}
