//! Starts the server: inside the test's own process, or as the real binary where a test has to kill it.

use crate::fake_provider::{FakeProvider, PATIENCE, VENDOR_KEY, Wire};
use nimblesite::{
    cli::server::{PortTaken, Running as Inside},
    config::{Config, Sources},
};
use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// What a test's server differs in from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    limits: BTreeMap<&'static str, u64>,
    toml: String,
    rates: String,
    rates_head: String,
    process: bool,
    home: Option<PathBuf>,
    socket: Option<Arc<TcpListener>>,
}

impl Settings {
    /// A limit by its name.
    pub fn limit(mut self, name: &'static str, value: u64) -> Self {
        self.limits.insert(name, value);
        self
    }

    /// Lines for the head of `nimblesite.toml`, before its sections.
    pub fn toml(mut self, line: &str) -> Self {
        self.toml.push_str(line);
        self.toml.push('\n');
        self
    }

    /// Rows for the rate card, behind the usual ones.
    pub fn rates(mut self, rows: &str) -> Self {
        self.rates.push_str(rows);
        self
    }

    /// A line for the head of the rate card.
    pub fn rates_head(mut self, line: &str) -> Self {
        self.rates_head.push_str(line);
        self.rates_head.push('\n');
        self
    }

    /// The real binary, so that it can be killed.
    pub fn process(mut self) -> Self {
        self.process = true;
        self
    }

    /// The real binary, on a listening socket that outlives it, handed over as systemd does.
    pub fn socket(mut self) -> Self {
        self.socket = Some(Arc::new(TcpListener::bind("127.0.0.1:0").expect("a port")));
        self.process()
    }

    /// Where its directory is made, instead of among the temporary ones.
    pub fn within(mut self, home: &Path) -> Self {
        self.home = Some(home.to_owned());
        self
    }

    pub async fn start(self) -> Server {
        Server::begin(self).await
    }
}

/// A server, its vendor and its data.
pub struct Server {
    pub base: String,
    pub vendor: Arc<FakeProvider>,
    /// What else is in the real binary's environment when it is started the next time.
    pub env: BTreeMap<&'static str, String>,
    pub client: reqwest::Client,
    running: Option<Running>,
    dir: tempfile::TempDir,
    counter: AtomicU64,
    in_process: bool,
    socket: Option<Arc<TcpListener>>,
}

/// How it runs.
pub enum Running {
    Inside(Box<Inside>),
    Process(Box<Process>),
}

/// The real binary. Killed when dropped.
pub struct Process {
    pub child: Child,
    pub base: String,
    /// All that it printed.
    pub said: Arc<Mutex<String>>,
}

/// A port of loopback on which nobody listens.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The rates of the test card in pico-dollars a token: input, output, cache read, cache write. One dollar a million is a million.
const SMART: [u64; 4] = [3_000_000, 15_000_000, 300_000, 3_750_000];

fn rate_card() -> String {
    let mut card = String::from("markup = \"1\"\n");
    let mut row = |provider: &str, name: &str, more: &str| {
        card.push_str(&format!(
            "[[model]]\nprovider = \"{provider}\"\nname = \"{name}\"\nsource = \"the tests\"\nas_of = \"2026-11-24\"\n{more}\n"
        ));
    };
    let smart = "input = \"3\"\noutput = \"15\"\ncache_read = \"0.30\"\ncache_write = \"3.75\"\n";
    for wire in Wire::ALL {
        let provider = wire.provider();
        row(provider, "smart", &format!("{smart}context_window = 200000\noutput_limit = 64000\noutput_min = 16\n"));
        row(provider, "other", &format!("{smart}context_window = 200000\noutput_limit = 64000\noutput_min = 16\n"));
        row(provider, "narrow", &format!("{smart}context_window = 3000\noutput_limit = 500\noutput_min = 16\n"));
        row(provider, "free", "input = \"0\"\noutput = \"0\"\ncontext_window = 200000\noutput_limit = 64000\n");
    }
    row(
        "fake-anthropic",
        "bound",
        &format!("{smart}context_window = 200000\noutput_limit = 64000\noutput_min = 16\nthinking_bound = true\n"),
    );
    row("dead", "smart", &format!("{smart}context_window = 200000\noutput_limit = 64000\noutput_min = 16\n"));
    row("anthropic", "smart", smart);
    row("echo", "*", "input = \"0\"\noutput = \"0\"\n");
    card
}

impl Server {
    /// The usual one.
    pub async fn start() -> Self {
        Settings::default().start().await
    }

    async fn begin(settings: Settings) -> Self {
        // The client's TLS library wants to know its cryptography even where no TLS is spoken; who comes second is told so and may be ignored.
        drop(rustls::crypto::ring::default_provider().install_default());
        let vendor = Arc::new(FakeProvider::start().await);
        for wire in Wire::ALL {
            for model in ["smart", "other", "narrow"] {
                vendor.price(wire.provider(), model, SMART);
            }
        }
        let dir = match &settings.home {
            Some(home) => tempfile::tempdir_in(home),
            None => tempfile::tempdir(),
        };
        let dir = dir.expect("a directory");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("a data directory");
        fs::write(data.join("models.toml"), settings.rates_head.clone() + rate_card().as_str() + settings.rates.as_str())
            .expect("a rate card");
        fs::write(data.join("nimblesite.toml"), configuration(&settings, &vendor)).expect("a configuration");
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        let mut server = Self {
            base: String::new(),
            vendor,
            env: BTreeMap::new(),
            client,
            running: None,
            dir,
            counter: AtomicU64::new(0),
            in_process: !settings.process,
            socket: settings.socket,
        };
        server.run().await;
        server
    }

    /// Starts it on its data directory.
    pub async fn run(&mut self) {
        let running = if self.in_process {
            Running::Inside(Box::new(inside(&self.data()).await))
        } else {
            Running::Process(Box::new(Process::serve(&self.data(), &self.env, self.socket.as_deref()).await))
        };
        self.base = match &running {
            Running::Inside(inside) => format!("http://{}", inside.at),
            Running::Process(process) => process.base.clone(),
        };
        self.running = Some(running);
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A number that no other call of this server got.
    pub fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Stops it the way SIGTERM does.
    pub async fn stop(&mut self) {
        match self.running.take() {
            Some(Running::Inside(inside)) => inside.stop().await.expect("a good end"),
            Some(Running::Process(mut process)) => process.terminate().await,
            None => {}
        }
    }

    /// Starts the next server beside the running one, then stops that the way SIGTERM does: the next waits for the data directory.
    pub async fn hand_over(&mut self) {
        let Some(Running::Process(mut old)) = self.running.take() else { panic!("only Settings::process hands over") };
        let data = self.data();
        let next = Process::serve(&data, &self.env, self.socket.as_deref());
        let (next, ()) = tokio::join!(next, async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            old.terminate().await;
        });
        self.running = Some(Running::Process(Box::new(next)));
    }

    /// Ends the real binary the way a power cut does.
    pub async fn kill(&mut self) {
        match self.running.take() {
            Some(Running::Process(mut process)) => process.child.kill().await.expect("kill -9"),
            _ => panic!("only Settings::process can be killed"),
        }
    }

    /// Waits until the real binary has ended itself as a power cut does.
    pub async fn died(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let Some(Running::Process(mut process)) = self.running.take() else { panic!("only Settings::process can die") };
        let status = tokio::time::timeout(PATIENCE, process.child.wait()).await.expect("it dies in time").expect("a status");
        assert_eq!(status.signal(), Some(9), "{status}");
    }

    /// The process of the real binary.
    pub fn pid(&self) -> Option<u32> {
        match &self.running {
            Some(Running::Process(process)) => process.child.id(),
            _ => None,
        }
    }

    /// What the real binary printed, on stdout and stderr, since it was started.
    pub fn printed(&self) -> String {
        match &self.running {
            Some(Running::Process(process)) => process.said.lock().expect("no panic").clone(),
            _ => String::new(),
        }
    }

    /// Looks again and again until there is something.
    pub async fn eventually<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(std::time::Instant::now() < until, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The end of a test: the vendor had nothing to object to, nothing scripted was left over, every file is sound, and no hold outlives
    /// the server.
    pub async fn done(mut self) {
        self.stop().await;
        assert_eq!(self.vendor.violations(), Vec::<String>::new(), "the vendor's objections");
        assert_eq!(self.vendor.unused(), 0, "answers that were never asked for");
        self.audit();
        for (tenant, _) in self.tenant_files() {
            assert_eq!(self.number(&tenant, "SELECT count(*) FROM holds"), 0, "{tenant}: holds after a good end");
            assert_eq!(self.number(&tenant, "SELECT count(*) FROM turns WHERE state = 'running'"), 0, "{tenant}: turns after a good end");
        }
    }
}

fn configuration(settings: &Settings, vendor: &FakeProvider) -> String {
    // Quick where the defaults are patient, and never in the way where a test is not about a limit.
    let mut limits = BTreeMap::from([
        ("auth_requests_per_minute", 1_000_000),
        ("key_requests_per_minute", 1_000_000),
        ("tenant_requests_per_minute", 1_000_000),
        ("mails_per_address_per_hour", 1_000),
        ("provider_backoff_ms", 1),
        ("refusal_pause_ms", 0),
        ("shutdown_ms", 10_000),
        ("shutdown_linger_ms", 1),
    ]);
    limits.extend(&settings.limits);
    let mut toml = format!("listen = \"127.0.0.1:0\"\noperator_token = \"{}\"\n{}\n[limits]\n", super::OPERATOR, settings.toml);
    for (name, value) in limits {
        toml.push_str(&format!("{name} = {value}\n"));
    }
    for wire in Wire::ALL {
        let (speaks, key) = match wire {
            Wire::Anthropic => ("anthropic", "api_key_env = \"VENDOR_KEY\"\n"),
            Wire::OpenAi => ("openai", "api_key_env = \"VENDOR_KEY\"\n"),
            Wire::Ollama => ("ollama", ""),
        };
        toml.push_str(&format!("[providers.{}]\nwire = \"{speaks}\"\nbase_url = \"{}\"\n{key}", wire.provider(), vendor.base_url(wire)));
    }
    toml.push_str(&format!("[providers.dead]\nwire = \"openai\"\nbase_url = \"http://127.0.0.1:{}/v1\"\n", free_port()));
    toml
}

async fn inside(data: &Path) -> Inside {
    let env = BTreeMap::from([("VENDOR_KEY".to_owned(), VENDOR_KEY.to_owned())]);
    let sources = Sources { data: Some(data.to_owned()), env, ..Sources::default() };
    let (mut config, _) = Config::load(&sources).unwrap_or_else(|error| panic!("the configuration: {error}"));
    // What fences sandboxes in is the server's own binary, and this process is another.
    config.sandbox.program = env!("CARGO_BIN_EXE_nimblesite").into();
    match Inside::start(config, false, PortTaken::Fail).await {
        Ok(inside) => inside,
        Err(failure) => panic!("the server did not start: {failure:?}"),
    }
}

impl Process {
    /// The binary with nothing of this process's environment.
    pub fn command(data: &Path) -> Command {
        let built = std::env::var("NIMBLESITE_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_nimblesite").to_owned());
        let mut command = Command::new(built);
        command.env_clear().env("VENDOR_KEY", VENDOR_KEY).env("NIMBLESITE_DATA", data).kill_on_drop(true).stdin(Stdio::null());
        command
    }

    /// The binary with a listening socket as its descriptor 3, and the two variables that say so.
    fn handed(data: &Path, socket: &TcpListener) -> Command {
        let mut command = Command::new("/bin/sh");
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
        command.args(["-c", script, env!("CARGO_BIN_EXE_nimblesite")]);
        command.env_clear().env("VENDOR_KEY", VENDOR_KEY).env("NIMBLESITE_DATA", data).kill_on_drop(true);
        command.stdin(std::os::fd::OwnedFd::from(socket.try_clone().expect("the socket again")));
        command
    }

    /// `serve`, until it says where it listens.
    pub async fn serve(data: &Path, env: &BTreeMap<&'static str, String>, socket: Option<&TcpListener>) -> Self {
        let mut command = match socket {
            None => Self::command(data),
            Some(socket) => Self::handed(data, socket),
        };
        let mut child =
            command.envs(env).args(["serve", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let stdout = child.stdout.take().expect("its stdout");
        let stderr = child.stderr.take().expect("its stderr");
        let all = Arc::new(Mutex::new(String::new()));
        let keep = |all: &Mutex<String>, line: &str| {
            let mut all = all.lock().expect("no panic");
            all.push_str(line);
            all.push('\n');
        };
        let heard = Arc::clone(&all);
        // Read on, so that the server never waits for us.
        let log = tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            let mut log = String::new();
            let shown = std::env::var_os("NIMBLESITE_TEST_LOG").is_some();
            while let Ok(Some(line)) = lines.next_line().await {
                if shown {
                    eprintln!("server: {line}");
                }
                keep(&heard, &line);
                if log.len() < 64 * 1024 {
                    log.push_str(&line);
                    log.push('\n');
                }
            }
            log
        });
        let mut text = String::new();
        let mut lines = BufReader::new(stdout).lines();
        let said = async {
            while let Ok(Some(line)) = lines.next_line().await {
                text.push_str(&line);
                text.push('\n');
                if let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) {
                    return json["listen"].as_str().map(str::to_owned);
                }
            }
            None
        };
        let Some(at) = tokio::time::timeout(PATIENCE, said).await.expect("it starts in time") else {
            panic!("serve did not say where it listens: {text}{}", log.await.unwrap_or_default());
        };
        let (heard, said) = (Arc::clone(&all), all);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                keep(&heard, &line);
            }
        });
        Self { child, base: format!("http://{at}"), said }
    }

    /// SIGTERM, and its good end.
    pub async fn terminate(&mut self) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().await.expect("kill");
        assert!(sent.success());
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").expect("a status");
        assert!(status.success(), "{status}");
    }
}
