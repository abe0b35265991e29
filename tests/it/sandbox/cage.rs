//! A backend with a data directory of its own, as root or as a plain user, and a sandbox in it that runs Python we send.

use nimblesite::{
    config::{Config, Secret},
    sandbox::{BuiltIns, Running, SandboxError, SandboxId, SandboxLimits, SandboxSpec, Sandboxes, Secrets, Start},
};
use serde_json::{Value, json};
use std::{
    fs,
    future::Future,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::pipe,
};

/// A user of this machine that is nobody in particular.
const PLAIN_USER: u32 = 5001;
pub const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// A bundle whose tools do what they are told.
const BUNDLE: &str = r#"
import io, contextlib, traceback

def run(code: str) -> str:
    """Runs code, and returns what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(code, {"__name__": "attempt"})
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
    return out.getvalue()
"#;

/// What attempts begin with: a system call by its number, and what came of it.
pub const PRELUDE: &str = r#"
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(name, act):
    try:
        result = act()
        print(name, "ok" if result is None else result)
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, error))
"#;

/// Says loudly that something was not shown.
pub fn skipped(test: &str, why: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "!!! SKIPPED TEST: sandbox::{test}: {why}"));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    Root,
    PlainUser,
}

pub struct Cage {
    pub sandboxes: Sandboxes,
    pub config: Config,
    pub bundle: PathBuf,
    pub by: As,
    dir: tempfile::TempDir,
}

/// Runs an attempt under a backend that root started and under one that a plain user started.
pub async fn as_both<F: Future<Output = ()>>(test: &str, act: impl Fn(Cage) -> F) {
    for by in [As::Root, As::PlainUser] {
        if let Some(cage) = Cage::new(test, by).await {
            println!("as {by:?}");
            act(cage).await;
        }
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

impl Cage {
    /// None where this machine has no sandboxes, which is said.
    pub async fn new(test: &str, by: As) -> Option<Self> {
        Self::with(test, by, |_| {}).await
    }

    pub async fn with(test: &str, by: As, change: impl FnOnce(&mut Config)) -> Option<Self> {
        if by == As::Root && !is_root() {
            skipped(test, "the half as root needs root");
            return None;
        }
        let cage = Self::unproved(by, change);
        let probe = cage.sandboxes.probe().await;
        match &probe.trouble {
            None => Some(cage),
            Some(why) => {
                skipped(test, &format!("no sandboxes as {by:?}: {why}"));
                None
            }
        }
    }

    /// Nobody has looked whether this machine has sandboxes.
    pub fn unproved(by: As, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let bundle = dir.path().join("bundle");
        fs::create_dir(&data).expect("a data directory");
        fs::create_dir(&bundle).expect("a bundle");
        fs::write(bundle.join("tools.py"), BUNDLE).expect("a bundle");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("a mode");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut config = Config::default_for(data.clone());
        config.sandbox.program = program();
        if by == As::PlainUser {
            config.sandbox.strict = false;
            if is_root() {
                chown(&data, Some(PLAIN_USER), Some(PLAIN_USER)).expect("an owner");
                config.sandbox.program = wrapper(dir.path());
            }
        }
        change(&mut config);
        Self { sandboxes: Sandboxes::new(&config), config, bundle, by, dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::new(id).expect("a name"),
            bundle: Some(self.bundle.clone()),
            start: Start::Python { module: "tools".into(), path: Vec::new(), tools: Vec::new() },
            limits: SandboxLimits { workspace_bytes: 64 * MIB, ..SandboxLimits::usual(&self.config.limits) },
            network: false,
            built_ins: BuiltIns { shell: true, read_file: true, write_file: true, list_files: true },
            secrets_in_shell: false,
            result_bytes_max: 256 * 1024,
            image: None,
        }
    }

    pub async fn boot(&self, id: &str) -> Sandbox {
        self.boot_as(&self.spec(id), Vec::new()).await
    }

    pub async fn boot_as(&self, spec: &SandboxSpec, secrets: Secrets) -> Sandbox {
        match self.try_boot(spec, secrets).await {
            Ok(sandbox) => sandbox,
            Err(error) => panic!("no sandbox as {:?}: {error}", self.by),
        }
    }

    pub async fn try_boot(&self, spec: &SandboxSpec, secrets: Secrets) -> Result<Sandbox, SandboxError> {
        let mut running = self.sandboxes.boot(spec, secrets).await?;
        let (from, to) = running.tool_channel().expect("a channel");
        Ok(Sandbox { running, from: BufReader::new(from).lines(), to: Some(to), next: 0 })
    }

    /// One sandbox, one attempt.
    pub async fn attempt(&self, code: &str) -> String {
        let mut sandbox = self.boot("attempt").await;
        sandbox.run(code).await
    }
}

/// The binary that plays the backend's parts.
pub fn program() -> PathBuf {
    std::env::var_os("NIMBLESITE_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_nimblesite").into(), PathBuf::from)
}

/// The backend as another user has it: the server's process stays as it is and makes nothing itself.
fn wrapper(dir: &Path) -> PathBuf {
    let path = dir.join("as-plain-user");
    let text = format!(
        "#!/bin/sh\nexec setpriv --reuid={PLAIN_USER} --regid={PLAIN_USER} --clear-groups --inh-caps=-all {} \"$@\"\n",
        program().display()
    );
    fs::write(&path, text).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    path
}

pub fn secret(name: &str, value: &str) -> (String, Secret) {
    (name.to_owned(), Secret::new(value.to_owned()))
}

pub struct Sandbox {
    pub running: Running,
    pub from: Lines<BufReader<pipe::Receiver>>,
    pub to: Option<pipe::Sender>,
    next: u64,
}

impl Sandbox {
    /// Sends a request and returns its id.
    pub async fn send(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        let line = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}).to_string() + "\n";
        self.to.as_mut().expect("an open channel").write_all(line.as_bytes()).await.expect("a pipe that is read");
        self.next
    }

    /// The next message; none when the sandbox is gone.
    pub async fn receive(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.from.next_line()).await.expect("an answer in time").ok()??;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    pub async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        let answer = self.receive().await.unwrap_or_else(|| panic!("it is gone; {}", self.running.stderr_tail()));
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// Text and whether it is an error.
    pub async fn tool(&mut self, name: &str, arguments: Value) -> (String, bool) {
        let answer = self.ask("tools/call", json!({"name": name, "arguments": arguments})).await;
        let result = &answer["result"];
        (result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned(), result["isError"] == true)
    }

    /// What Python code printed.
    pub async fn run(&mut self, code: &str) -> String {
        self.tool("run", json!({"code": format!("{PRELUDE}\n{code}")})).await.0
    }

    pub async fn shell(&mut self, command: &str) -> String {
        self.tool("shell", json!({"command": command})).await.0
    }
}

/// Looks until it is so.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < until, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
