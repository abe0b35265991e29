//! An engine that is not there: a socket that speaks as much of Docker's language as a sandbox needs, writes down every request, and refuses what a
//! sandbox has no business asking. Its one container says back what it is told.

use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
};

pub const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

#[derive(Clone)]
pub struct StandIn {
    state: Arc<Mutex<State>>,
    code: watch::Sender<Option<i64>>,
    _dir: Arc<tempfile::TempDir>,
    pub socket: PathBuf,
}

pub struct State {
    /// `METHOD path`, without the version of the language, in the order of arrival.
    pub asked: Vec<String>,
    /// What containers were to be made of.
    pub made: Vec<Value>,
    /// What the engine says of itself.
    pub info: Value,
    /// Containers that an earlier life left.
    pub left: Vec<String>,
    /// Whether the image is there.
    pub image: bool,
    pub oom: bool,
}

impl StandIn {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let info = json!({ "MemoryLimit": true, "PidsLimit": true, "Runtimes": { "runc": {}, "runsc": {} }, "SecurityOptions": ["name=seccomp,profile=builtin"] });
        let state = State { asked: Vec::new(), made: Vec::new(), info, left: Vec::new(), image: true, oom: false };
        let stand_in = Self { state: Arc::new(Mutex::new(state)), code: watch::channel(None).0, _dir: Arc::new(dir), socket };
        let serving = stand_in.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        stand_in
    }

    pub fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// The container ends by itself.
    pub fn end(&self, code: i64) {
        self.code.send_replace(Some(code));
    }

    async fn serve(&self, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).await.unwrap();
            match header.trim().to_ascii_lowercase().split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        // /v1.47/containers/… and /version alike.
        let path = target.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(&target).to_owned();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        self.look(|state| state.asked.push(format!("{method} {path}")));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (status, answer) = match (method.as_str(), parts.as_slice()) {
            ("GET", ["version"]) => (
                200,
                json!({ "Version": "29.0.1", "ApiVersion": "1.47", "MinAPIVersion": "1.44", "Components": [{ "Name": "Engine", "Version": "29.0.1" }] }),
            ),
            ("GET", ["info"]) => (200, self.look(|state| state.info.clone())),
            ("GET", ["containers", "json"]) => {
                assert!(query.contains("all=true") && query.contains("nimblesite.server"), "never another's containers: {query}");
                (200, self.look(|state| state.left.iter().map(|id| json!({ "Id": id })).collect()))
            }
            ("GET", ["images", .., "json"]) if self.look(|state| state.image) => {
                (200, json!({ "Id": DIGEST, "Config": { "Volumes": { "/var/lib/db": {} } } }))
            }
            ("GET", ["images", .., "json"]) => (404, json!({ "message": "no such image" })),
            ("POST", ["images", "create"]) => {
                self.look(|state| state.image = true);
                (200, json!({ "status": "done" }))
            }
            ("POST", ["containers", "create"]) => {
                self.look(|state| state.made.push(serde_json::from_slice(&body).unwrap()));
                (201, json!({ "Id": "c1", "Warnings": [] }))
            }
            ("POST", ["containers", _, "attach"]) => return self.attach(stream).await,
            ("POST", ["containers", _, "start"]) => (204, Value::Null),
            ("POST", ["containers", _, "wait"]) => {
                let code = *self.code.subscribe().wait_for(Option::is_some).await.unwrap();
                (200, json!({ "StatusCode": code }))
            }
            ("POST", ["containers", _, "kill"]) => {
                self.code.send_replace(Some(137));
                (204, Value::Null)
            }
            ("GET", ["containers", _, "json"]) => {
                let (code, oom) = (*self.code.borrow(), self.look(|state| state.oom));
                (200, json!({ "State": { "ExitCode": code, "OOMKilled": oom } }))
            }
            ("DELETE", ["containers", id]) => {
                assert!(query.contains("force=true") && query.contains("v=true"), "{query}");
                self.look(|state| state.left.retain(|left| left != id));
                (204, Value::Null)
            }
            _ => panic!("no sandbox asks an engine for {method} {target}"),
        };
        let text = if answer.is_null() { String::new() } else { answer.to_string() };
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
        drop(stream.write_all((head + text.as_str()).as_bytes()).await);
    }

    /// The container: its stdout is its stdin, and it ends with it.
    async fn attach(&self, mut stream: BufReader<UnixStream>) {
        let head =
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut buffer = vec![0; 4096];
        let mut killed = self.code.subscribe();
        loop {
            let read = tokio::select! {
                read = stream.read(&mut buffer) => read.unwrap_or(0),
                _ = killed.wait_for(Option::is_some) => return,
            };
            if read == 0 {
                self.code.send_if_modified(|code| {
                    code.is_none() && {
                        *code = Some(0);
                        true
                    }
                });
                return;
            }
            let mut frame = vec![1, 0, 0, 0];
            frame.extend_from_slice(&u32::try_from(read).unwrap().to_be_bytes());
            frame.extend_from_slice(&buffer[..read]);
            stream.write_all(&frame).await.unwrap();
        }
    }
}
