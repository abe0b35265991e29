//! One life of the server, as `serve` and `demo` lead it: wired, started, stopped by a signal, and everything settled before it ends.

use super::{card, failure::Failure};
use crate::{
    app::{App, Parts},
    clock::Clock,
    config::{Config, public_url},
    control::{self, Control},
    http,
    mail::Mailer,
    provider::client::Client,
    storage::{Mode, Storage},
    telemetry::Telemetry,
};
use arc_swap::ArcSwap;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// A server that runs.
pub struct Running {
    /// What it is made of.
    pub app: App,
    /// Where it listens.
    pub at: SocketAddr,
    /// The address that people use.
    pub url: String,
    stop: CancellationToken,
    accepting: JoinHandle<crate::error::Result<()>>,
    background: JoinSet<()>,
}

/// A sweep is not begun sooner after the one before.
const SWEEP_PAUSE_MIN: Duration = Duration::from_millis(10);

/// What to do when the port is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortTaken {
    /// Say so and end.
    Fail,
    /// Take a free one.
    TakeAnother,
}

/// SIGINT and SIGTERM, watched from before anyone is told that the server runs: whoever is told may stop it at once.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on neither ends the process by itself.
    pub fn watch() -> Result<Self, Failure> {
        let watch = |kind| signal(kind).map_err(|error| Failure::io("signals cannot be watched", &error));
        Ok(Self { interrupt: watch(SignalKind::interrupt())?, terminate: watch(SignalKind::terminate())? })
    }
}

impl Running {
    /// Opens the data directory, binds and begins to accept. `public_url_set` keeps an address that someone chose; else it follows the port.
    ///
    /// A supervisor that hands over a listening socket (`LISTEN_FDS`, as systemd does) is obeyed instead of `config.listen`: such a socket
    /// lives longer than we do, so clients that come while no server accepts wait in its queue.
    pub async fn start(mut config: Config, public_url_set: bool, port_taken: PortTaken) -> Result<Self, Failure> {
        let card = card::load_or_fail(&config.data)?;
        let given = given_listener()?;
        let storage = Storage::of(&config, Mode::Server)?;
        let wired = async {
            let listener = match given {
                Some(listener) => listener,
                None => bind(config.listen, port_taken).await?,
            };
            let at = listener.local_addr().map_err(|error| Failure::io("the listener has no address", &error))?;
            config.listen = at;
            if !public_url_set {
                config.public_url = public_url(at, config.tls.is_some());
            }
            let url = config.public_url.clone();
            let (client, mailer) = (Client::new(&config.limits)?, Mailer::new(&config.mail, &config.data, &url, &config.limits)?);
            storage.tenants_finish().await?;
            let rates = Arc::new(ArcSwap::from_pointee(card));
            let telemetry = config.otlp_endpoint.as_deref().map_or_else(|| Ok(Telemetry::off()), Telemetry::to)?;
            let app = App::new(Parts { config, storage: storage.clone(), rates, client, mailer, clock: Clock, telemetry });
            app.agent.start().await?;
            app.yard.sweep(&app.config.data, &storage).await?;
            app.yard.snapshots_sweep(&storage).await?;
            Ok(Self::accept(app, listener, at, url))
        };
        let started: Result<Self, Failure> = wired.await;
        if started.is_err() {
            storage.close();
        }
        started
    }

    fn accept(app: App, listener: TcpListener, at: SocketAddr, url: String) -> Self {
        let mut background = JoinSet::new();
        match Control::listen(&app.config.data) {
            Ok(control) => {
                let desk = control::Desk { app: app.clone(), listen: at.to_string() };
                background.spawn(async move { control.serve(desk).await });
            }
            // The path may be too long for a socket. Everything but `tenant delete` works without.
            Err(error) => tracing::warn!(%error, "control.sock could not be made; tenants can be deleted only while the server is down"),
        }
        background.spawn(card::watch(app.clone()));
        background.spawn(sweep(app.clone()));
        background.spawn(Arc::clone(&app.yard).keep_watch(app.storage.clone(), CancellationToken::new()));
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(http::serve(app.clone(), listener, stop.clone().cancelled_owned()));
        Self { app, at, url, stop, accepting, background }
    }

    /// Waits for SIGTERM or SIGINT, or for the server to end by itself, then stops.
    pub async fn until_signal(mut self, signals: Signals) -> Result<(), Failure> {
        let Signals { mut interrupt, mut terminate } = signals;
        let signal = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            ended = &mut self.accepting => return self.wind_up(Instant::now(), ended.map_err(crate::error::Error::internal)).await,
        };
        tracing::info!(signal, "stopping: nothing new is accepted; running turns are waited for, a second signal ends at once");
        tokio::select! {
            stopped = self.stop() => stopped,
            // What is cut off here is closed at the next start, and costs the tenant nothing.
            _ = interrupt.recv() => std::process::exit(130),
            _ = terminate.recv() => std::process::exit(143),
        }
    }

    /// Stops accepting, waits for what runs, and closes every file.
    pub async fn stop(mut self) -> Result<(), Failure> {
        let stopping = Instant::now();
        self.stop.cancel();
        let ended = (&mut self.accepting).await.map_err(crate::error::Error::internal);
        self.wind_up(stopping, ended).await
    }

    async fn wind_up(mut self, stopping: Instant, ended: crate::error::Result<crate::error::Result<()>>) -> Result<(), Failure> {
        self.background.shutdown().await;
        let left = self.app.config.limits.shutdown_ms.saturating_sub(stopping.elapsed());
        let cancelled = self.app.agent.drain(left).await;
        if cancelled > 0 {
            tracing::warn!(cancelled, "some turns did not end in time; they were cancelled and charged what they had used");
        }
        self.app.yard.close(&self.app.storage).await;
        self.app.mailer.finish().await;
        let (storage, telemetry) = (self.app.storage.clone(), self.app.telemetry.clone());
        tokio::task::spawn_blocking(move || {
            storage.close();
            telemetry.close();
        })
        .await
        .map_err(crate::error::Error::internal)?;
        tracing::info!("stopped");
        ended.and_then(|ended| ended).map_err(Failure::from)
    }
}

/// Removes what is beyond its days, again and again.
async fn sweep(app: App) {
    let mut ticks = tokio::time::interval(app.config.limits.retention_interval_ms.max(SWEEP_PAUSE_MIN));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = app.storage.retention_sweep().await {
            tracing::warn!(%error, "what is beyond its days could not be looked for; it is tried again");
        }
    }
}

/// The listening socket that a supervisor gave us, if one did.
fn given_listener() -> Result<Option<TcpListener>, Failure> {
    let mut given = listenfd::ListenFd::from_env();
    if given.len() > 1 {
        return Err(Failure::Failed(format!("{} sockets were handed over in LISTEN_FDS; this server takes one", given.len())));
    }
    let trouble = |error| Failure::io("the socket that was handed over in LISTEN_FDS cannot be used", &error);
    let Some(listener) = given.take_tcp_listener(0).map_err(trouble)? else { return Ok(None) };
    listener.set_nonblocking(true).map_err(trouble)?;
    TcpListener::from_std(listener).map(Some).map_err(trouble)
}

async fn bind(at: SocketAddr, port_taken: PortTaken) -> Result<TcpListener, Failure> {
    match TcpListener::bind(at).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && port_taken == PortTaken::TakeAnother => {
            TcpListener::bind(SocketAddr::new(at.ip(), 0)).await.map_err(|error| Failure::io("no port is free", &error))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(Failure::Failed(format!("{at} is taken by another program; stop it, or choose with --listen {}:0", at.ip())))
        }
        Err(error) => Err(Failure::io(format!("cannot listen on {at}"), &error)),
        Ok(listener) => Ok(listener),
    }
}
