//! A real engine: Podman, or Docker where `NIMBLESITE_TEST_ENGINE=docker`, with storage of its own, and an image that the tests make of this
//! machine's Python, without a registry. It ends with the process of the tests, however that ends.

use super::super::cage::skipped;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Says of itself everything that a sandbox must not be.
pub const IMAGE: &str = "localhost/nimblesite-test:hostile";

const RECIPE: &str = r#"FROM scratch
ADD rootfs.tar /
ENV FROM_IMAGE=1
VOLUME /data
HEALTHCHECK --interval=1s CMD ["/bin/sh", "-c", "echo > /workspace/health"]
STOPSIGNAL SIGUSR1
ENTRYPOINT ["/bin/sh", "-c", "echo entered >&2; exit 9"]
USER 0
"#;

/// What Python needs to serve a bundle, out of this machine's own; not its whole library, so that it is soon laid out.
const ROOTFS: &str = r#"
set -e
python=$(PATH=/usr/bin:$PATH python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')
library=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
root=$1/rootfs
mkdir -p "$root/usr/bin" "$root/tmp" "$root/etc" "$root$library"
chmod 1777 "$root/tmp"
cp "$python" "$root/usr/bin/python3"
cp "$(readlink -f /bin/sh)" "$root/usr/bin/sh"
ln -s usr/bin "$root/bin"
cp "$library"/*.py "$root$library"
for part in json re encodings collections importlib ctypes email http urllib lib-dynload; do
    [ ! -d "$library/$part" ] || cp -r "$library/$part" "$root$library"
done
for file in $(ldd "$python" /bin/sh "$library"/lib-dynload/_ctypes*.so | grep -o '/[^ ]*\.so[^ :]*' | sort -u); do
    mkdir -p "$root$(dirname "$file")"
    [ -e "$root$file" ] || cp -L "$file" "$root$file"
done
find "$root" -name __pycache__ -prune -exec rm -r {} +
mkdir "$1/context"
tar -C "$root" -cf "$1/context/rootfs.tar" .
rm -r "$root"
"#;

/// Serves in this folder until nobody holds its stdin any more, and leaves nothing behind.
const PODMAN: &str = r#"
cd "$1"
podman system service --time=0 "unix://$1/engine.sock" >"$1/service.log" 2>&1 &
service=$!
cat >/dev/null
sleep 2
podman rm --all --force --time 0 >/dev/null 2>&1
kill "$service"
wait
podman system reset --force >/dev/null 2>&1
rm -rf "$1"
"#;

/// The same. Nothing of it reaches the machine's network; its sockets are too deep for a long path.
const DOCKER: &str = r#"
cd "$1"
run=$(mktemp -d /run/nimblesite-XXXXXX)
dockerd --data-root "$1/storage" --exec-root "$run" --pidfile "$run/pid" --bridge=none --iptables=false --ip-masq=false \
    --host "unix://$1/engine.sock" >"$1/service.log" 2>&1 &
service=$!
cat >/dev/null
sleep 2
docker --host "unix://$1/engine.sock" ps --all --quiet | xargs -r docker --host "unix://$1/engine.sock" rm --force >/dev/null 2>&1
kill "$service"
wait
rm -rf "$1" "$run"
"#;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Podman,
    Docker,
}

pub struct Engine {
    kind: Kind,
    dir: PathBuf,
    _serving: Child,
}

impl Engine {
    /// The one of this process. None where this machine has none that works, which is said under the test's name.
    pub fn here(test: &str) -> Option<&'static Self> {
        static ONE: OnceLock<Result<Engine, String>> = OnceLock::new();
        match ONE.get_or_init(Self::start) {
            Ok(engine) => Some(engine),
            Err(why) => {
                skipped(test, why);
                None
            }
        }
    }

    fn start() -> Result<Self, String> {
        let kind = match std::env::var("NIMBLESITE_TEST_ENGINE").as_deref() {
            Ok("docker") => Kind::Docker,
            _ => Kind::Podman,
        };
        if !rustix::process::getuid().is_root() {
            return Err("an engine of these tests needs root".to_owned());
        }
        let (program, install, serve) = match kind {
            Kind::Podman => ("podman", "podman is missing (apt-get install podman runc)", PODMAN),
            Kind::Docker => ("dockerd", "docker is missing (apt-get install docker.io)", DOCKER),
        };
        if !there(program) {
            return Err(install.to_owned());
        }
        let dir = tempfile::Builder::new().prefix("nimblesite-engine-").tempdir().expect("a directory").keep();
        // crun refuses hosts with two versions of cgroups; runc takes both.
        let runtime = if there("runc") { "runc" } else { "crun" };
        let settings = format!("[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"{runtime}\"\n");
        fs::write(dir.join("containers.conf"), settings).expect("settings");
        let at = dir.display();
        let storage = format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{at}/storage\"\nrunroot = \"{at}/run\"\n");
        fs::write(dir.join("storage.conf"), storage).expect("settings");
        let serving = in_dir(&dir, "sh").args(["-c", serve, "serve"]).arg(&dir).stdin(Stdio::piped()).spawn().expect("a shell");
        let engine = Self { kind, dir, _serving: serving };
        let until = Instant::now() + Duration::from_secs(20);
        while !said(&engine.command(&["version"])).is_ok_and(|()| engine.socket().exists()) {
            if Instant::now() > until {
                return Err(format!("{program} does not come up"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        engine.make_image()?;
        Ok(engine)
    }

    fn make_image(&self) -> Result<(), String> {
        let made = in_dir(&self.dir, "sh").args(["-c", ROOTFS, "rootfs"]).arg(&self.dir).output().expect("a shell");
        said(&made)?;
        let (context, recipe) = (self.dir.join("context"), self.dir.join("context/Containerfile"));
        fs::write(&recipe, RECIPE).expect("a recipe");
        // Podman would leave the health check out of a format of its own.
        let own: &[&str] = if self.kind == Kind::Podman { &["--format", "docker", "--pull-never"] } else { &[] };
        let built = ["--tag", IMAGE, "--file", recipe.to_str().unwrap(), context.to_str().unwrap()];
        said(&self.command(&[&["build"], own, &built].concat()))?;
        // Whether containers can be run here at all, before anything is blamed on what runs them.
        let limits = ["--ulimit=nofile=512:512", "--ulimit=nproc=512:512", "--memory=100m"];
        let run = ["run", "--rm", "--network=none", "--entrypoint=python3"];
        said(&self.command(&[&run[..], &limits[..], &[IMAGE, "-c", "import ctypes, json, tarfile, threading"]].concat()))
            .map_err(|why| format!("{} runs no containers here: {why}", self.name()))
    }

    /// What it says it is.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Podman => "Podman",
            Kind::Docker => "Docker",
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("engine.sock")
    }

    /// The command line, beside the service.
    pub fn command(&self, args: &[&str]) -> Output {
        match self.kind {
            Kind::Podman => in_dir(&self.dir, "podman").args(args).output().expect("podman"),
            Kind::Docker => {
                let host = format!("unix://{}", self.socket().display());
                Command::new("docker").args(["--host", &host]).args(args).output().expect("docker")
            }
        }
    }

    /// What it prints.
    pub fn says(&self, args: &[&str]) -> String {
        let output = self.command(args);
        said(&output).unwrap_or_else(|why| panic!("{} {args:?}: {why}", self.name()));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The digest of an image.
    pub fn digest(&self, image: &str) -> String {
        let id = self.says(&["image", "inspect", "--format", "{{.Id}}", image]);
        format!("sha256:{}", id.trim_start_matches("sha256:"))
    }

    /// The containers of one sandbox, running or not.
    pub fn containers(&self, sandbox: &str) -> Vec<String> {
        let filter = format!("label=nimblesite.sandbox={sandbox}");
        self.says(&["ps", "--all", "--quiet", "--filter", &filter]).lines().map(str::to_owned).collect()
    }
}

fn there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn in_dir(dir: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("CONTAINERS_CONF", dir.join("containers.conf")).env("CONTAINERS_STORAGE_CONF", dir.join("storage.conf"));
    command
}

fn said(output: &Output) -> Result<(), String> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    drop(std::io::stderr().flush());
    Err(text.lines().last().unwrap_or("it failed and said nothing").to_owned())
}
