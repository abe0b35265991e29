//! The server as a peer on the wire meets it: framing, limits, headers, TLS. What the API means is tested elsewhere.

#![allow(clippy::disallowed_methods, reason = "a client of its own for each way to speak")]

mod answers;
mod attacks;
mod limits;
mod tls;
mod wire;

use arc_swap::ArcSwap;
use nimblesite::{
    app::{App, Parts},
    clock::Clock,
    config::Config,
    http::serve,
    mail::Mailer,
    provider::client::Client,
    rates::RateCard,
    storage::{Mode, Storage},
};
use std::{net::SocketAddr, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// No single wait in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a port of its own. It ends with the test.
struct Running {
    address: SocketAddr,
    app: App,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<nimblesite::error::Result<()>>,
    _data: TempDir,
}

impl Running {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With a configuration changed from the defaults.
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = Config::default_for(data.path().join("data"));
        // Many of these tests are refused on purpose, one after another.
        config.limits.refusal_pause_ms = Duration::ZERO;
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = App::new(Parts {
            storage: Storage::open(&config.data, Mode::Server, &config.limits).unwrap(),
            rates: std::sync::Arc::new(ArcSwap::from_pointee(RateCard::embedded().clone())),
            client: Client::new(&config.limits).unwrap(),
            mailer: Mailer::new(&config.mail, &config.data, &config.public_url, &config.limits).unwrap(),
            clock: Clock,
            telemetry: nimblesite::telemetry::Telemetry::off(),
            config,
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(app.clone(), listener, async {
            stopped.await.ok();
        }));
        Self { address, app, stop: Some(stop), serving, _data: data }
    }

    async fn connect(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends these bytes on a new connection, closes our side, and reads all that comes back.
    async fn tell(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut peer = self.connect().await;
        peer.send(bytes).await;
        peer.rest().await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// One raw connection.
struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A server that already closed is no fault here: what it said before is what counts.
        self.0.write_all(bytes.as_ref()).await.ok();
    }

    /// All that comes until the server closes, or until it is silent for a while.
    async fn rest(&mut self) -> String {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(Ok(n @ 1..)) = timeout(Duration::from_millis(700), self.0.read(&mut piece)).await {
            text.extend_from_slice(&piece[..n]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Whether the server closes within our patience, after whatever it still says.
    async fn closes(&mut self) -> bool {
        let mut piece = [0; 4096];
        let reading = async { while !matches!(self.0.read(&mut piece).await, Ok(0) | Err(_)) {} };
        timeout(PATIENCE, reading).await.is_ok()
    }
}

fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

fn code(text: &str) -> String {
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
    problem["code"].as_str().unwrap_or_default().to_owned()
}
