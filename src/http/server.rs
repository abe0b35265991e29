//! The server: accepts connections, a bounded number at once, until it is told to stop; then lets what runs come to its end.

use super::{
    accept::{self, Manners},
    crowd::Crowd,
    door::{self, Door},
    limit::Limiter,
    route::{self, Table},
    tls::Certificate,
};
use crate::{app::App, error::Result};
use hyper_util::server::graceful::GracefulShutdown;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

/// Serves until `stop` is done, then stops accepting and waits for running requests, at most `limits.shutdown_ms`.
///
/// Fails when the TLS files cannot be used. Turns go on in tasks of their own: whoever calls this drains the agent next, then closes storage.
pub async fn serve(app: App, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<()> {
    serve_table(app, route::table()?, listener, stop).await
}

async fn serve_table(app: App, table: &'static Table, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<()> {
    let limits = app.config.limits.clone();
    let certificate = app.config.tls.as_ref().map(Certificate::load).transpose()?.map(Arc::new);
    let door = Arc::new(Door {
        limiter: Limiter::new(&limits),
        places: door::places(&limits),
        uploads: Semaphore::new(limits.bundle_uploads_at_once_max.clamp(1, Semaphore::MAX_PERMITS)),
        table,
        app: app.clone(),
        leaving: AtomicBool::new(false),
    });
    // Dropped, and so ended, with this function.
    let mut background = JoinSet::new();
    let crowd = Crowd::new(limits.connections_per_address_max, limits.refusal_pause_ms);
    background.spawn(forget(Arc::clone(&door), Arc::clone(&crowd)));
    if let Some(certificate) = certificate.clone() {
        let every = limits.tls_check_ms;
        background.spawn(async move { certificate.follow(every).await });
    }

    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
    tokio::pin!(stop);
    loop {
        // A connection that finds no permit waits in the kernel's queue.
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = crowd.enter(peer.ip()) else {
                    tracing::debug!(peer = %peer.ip(), "an address has as many connections as it may; one more was closed");
                    continue;
                };
                let serving = accept::connection(Arc::clone(&door), stream, peer.ip(), certificate.clone(), graceful.watcher());
                tokio::spawn(async move {
                    place.calm().await;
                    if serving.await == Manners::Bad {
                        place.misbehaved();
                    }
                    drop((permit, place));
                });
            }
            Err(error) => {
                // Out of descriptors, or a client that was gone before we looked: neither is a reason to stop, nor to spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    drop(listener);
    if tokio::time::timeout(limits.shutdown_ms, leave(&door, graceful)).await.is_err() {
        app.stopping.cancel();
        tracing::warn!("some requests did not end in time and were dropped");
    }
    Ok(())
}

/// Lets go of the connections without losing a request that is on its way: those that were just accepted and those that a client is just
/// using again are served once more and told to close. Only then are idle ones closed and new turns refused.
async fn leave(door: &Door, graceful: GracefulShutdown) {
    let linger = door.app.config.limits.shutdown_linger_ms;
    door.leaving.store(true, Ordering::Relaxed);
    let until = tokio::time::Instant::now() + linger;
    while graceful.count() > 0 && tokio::time::Instant::now() < until {
        tokio::time::sleep(LEAVE_STEP).await;
    }
    let ended = graceful.shutdown();
    tokio::pin!(ended);
    // Whoever's request is still coming in has as long again to begin its turn.
    if tokio::time::timeout(linger, &mut ended).await.is_err() {
        door.app.stopping.cancel();
        ended.await;
    }
    door.app.stopping.cancel();
}

/// How often a stop looks whether the last connection is gone.
const LEAVE_STEP: Duration = Duration::from_millis(10);

async fn forget(door: Arc<Door>, crowd: Arc<Crowd>) {
    loop {
        tokio::time::sleep(Limiter::FORGET_EVERY).await;
        crowd.forget();
        door.limiter.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app::Parts,
        clock::Clock,
        config::Config,
        http::{
            call::{OpenCall, Reply},
            endpoint::{Answer, Endpoint, Handler},
        },
        mail::Mailer,
        provider::client::Client,
        rates::RateCard,
        storage::{Mode, Storage},
    };
    use arc_swap::ArcSwap;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    fn panics(_call: OpenCall<'_>) -> Answer<'_> {
        Box::pin(async { panic!("a secret detail") })
    }

    /// Three events, the second a while after the first.
    fn streams(_call: OpenCall<'_>) -> Answer<'_> {
        Box::pin(async {
            let (sender, events) = tokio::sync::mpsc::channel(4);
            tokio::spawn(async move {
                for n in 1..=3 {
                    let event = super::super::sse::event_bytes(n, "count", &serde_json::json!({ "n": n })).unwrap();
                    sender.send(event).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(120)).await;
                }
            });
            Ok(Reply::Events { events: Box::new(events), headers: Vec::new() })
        })
    }

    /// More than the kernel's buffers take.
    fn floods(_call: OpenCall<'_>) -> Answer<'_> {
        Box::pin(async { Ok(Reply::Page { content_type: "text/plain", body: vec![b'y'; 64 << 20].into(), headers: Vec::new() }) })
    }

    fn echoes(call: OpenCall<'_>) -> Answer<'_> {
        Box::pin(async move {
            let value: serde_json::Value = call.request.json()?;
            Reply::ok(&serde_json::json!({"body": value, "query": call.request.query_all()}))
        })
    }

    fn waits(_call: OpenCall<'_>) -> Answer<'_> {
        Box::pin(std::future::pending())
    }

    fn fails(_call: OpenCall<'_>) -> Answer<'_> {
        Box::pin(async { Err(crate::error::Error::internal("a secret detail")) })
    }

    /// A server of a few endpoints that no real one has; it runs until the test ends.
    async fn start(limits: crate::config::Limits) -> (SocketAddr, App, tempfile::TempDir) {
        let data = tempfile::tempdir().unwrap();
        let mut config = Config::default_for(data.path().join("data"));
        config.limits = limits;
        let endpoints = vec![
            Endpoint::new("Panic", "GET", "/panic", Handler::Open(panics)),
            Endpoint::new("Wait", "GET", "/wait", Handler::Open(waits)),
            Endpoint::new("Fail", "GET", "/fail", Handler::Open(fails)),
            Endpoint::new("Flood", "GET", "/flood", Handler::Open(floods)),
            Endpoint::new("Stream", "GET", "/stream", Handler::Open(streams)).answers_raw(200, "text/event-stream"),
            Endpoint::new("Echo", "POST", "/api/echo", Handler::Open(echoes)).body::<crate::model::Key>().query("metadata.*", "any"),
            Endpoint::new("Guess", "POST", "/api/guess", Handler::Credentials(echoes)).body::<crate::model::Key>(),
        ];
        let table = Box::leak(Box::new(Table::new(endpoints).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = App::new(Parts {
            storage: Storage::open(&config.data, Mode::Server, &config.limits).unwrap(),
            rates: std::sync::Arc::new(ArcSwap::from_pointee(RateCard::default())),
            client: Client::new(&config.limits).unwrap(),
            mailer: Mailer::new(&config.mail, &config.data, &config.public_url, &config.limits).unwrap(),
            clock: Clock,
            telemetry: crate::telemetry::Telemetry::off(),
            config,
        });
        tokio::spawn(serve_table(app.clone(), table, listener, std::future::pending()));
        (address, app, data)
    }

    /// Sends a request with `Connection: close` on a new connection and reads all of the answer.
    async fn ask(address: SocketAddr, head: &str, body: &str) -> String {
        let mut peer = TcpStream::connect(address).await.unwrap();
        let request = format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n{body}");
        peer.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(10), peer.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    async fn post(address: SocketAddr, path: &str, extra: &str, body: &str) -> String {
        ask(address, &format!("POST {path} HTTP/1.1\r\nContent-Length: {}{extra}", body.len()), body).await
    }

    fn answers(text: &str, status: &str, code: &str) {
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && text.contains(&format!("\"code\":\"{code}\"")), "{text}");
    }

    #[tokio::test]
    async fn a_panic_and_a_defect_are_500_that_tells_nothing_and_the_server_goes_on() {
        let (address, app, _data) = start(crate::config::Limits::default()).await;
        for path in ["/panic", "/fail", "/panic"] {
            let answer = ask(address, &format!("GET {path} HTTP/1.1"), "").await;
            answers(&answer, "500", "internal");
            assert!(!answer.contains("secret detail"), "{answer}");
        }
        assert!(app.metrics.text().unwrap().contains("nimblesite_panics_total 2"));
    }

    #[tokio::test]
    async fn a_stream_is_sent_as_it_comes_with_comments_in_silence() {
        let limits = crate::config::Limits { keepalive_ms: Duration::from_millis(50), ..Default::default() };
        let (address, app, _data) = start(limits).await;
        let answer = ask(address, "GET /stream HTTP/1.1", "").await;
        assert!(answer.contains("content-type: text/event-stream\r\n"), "{answer}");
        let events = ["id: 1\nevent: count\ndata: {\"n\":1}\n\n", ": keepalive\n\n", "id: 2\n", "id: 3\n"];
        let places: Vec<_> = events.iter().map(|event| answer.find(event).unwrap_or_else(|| panic!("{event:?} not in {answer}"))).collect();
        assert!(places.is_sorted(), "{answer}");
        assert!(app.metrics.text().unwrap().contains("nimblesite_streams_open 0"));
        answers(&ask(address, "POST /stream HTTP/1.1\r\nContent-Length: 0", "").await, "405", "method_not_allowed");
    }

    #[tokio::test]
    async fn bodies_are_taken_as_json_whatever_they_are_called_within_their_bounds() {
        let limits = crate::config::Limits { body_bytes_max: 1000, body_timeout_ms: Duration::from_millis(200), ..Default::default() };
        let (address, _app, _data) = start(limits).await;
        let echo = |extra: &'static str, body: &'static str| post(address, "/api/echo", extra, body);
        assert!(echo("", "{\"a\":1}").await.ends_with("{\"body\":{\"a\":1},\"query\":[]}"));
        assert!(echo("\r\nContent-Type: application/x-www-form-urlencoded", "{}").await.starts_with("HTTP/1.1 200"));
        let chunked = "POST /api/echo HTTP/1.1\r\nTransfer-Encoding: chunked";
        assert!(ask(address, chunked, "2\r\n{ \r\n1\r\n}\r\n0\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        answers(&echo("", "{").await, "400", "malformed_json");
        answers(&echo("", "").await, "400", "malformed_json");
        answers(&echo("", "{} {}").await, "400", "malformed_json");
        answers(&post(address, "/api/echo", "", "\u{0}").await, "400", "malformed_json");
        answers(&echo("\r\nContent-Type: Multipart/form-data; boundary=x", "{}").await, "415", "unsupported_media_type");
        answers(&echo("\r\nContent-Encoding: gzip", "{}").await, "415", "unsupported_media_type");
        answers(&ask(address, "POST /api/echo HTTP/1.1", "").await, "411", "length_required");
        answers(&ask(address, "POST /api/echo HTTP/1.1\r\nContent-Length: 9", "{}").await, "408", "request_timeout");
        let large = format!("\"{}\"", "y".repeat(1000));
        answers(&post(address, "/api/echo", "", &large).await, "413", "body_too_large");
        answers(&ask(address, chunked, &format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len())).await, "413", "body_too_large");
        answers(&ask(address, chunked, "zz\r\n").await, "400", "malformed_request");
    }

    #[tokio::test]
    async fn a_body_that_is_announced_and_refused_is_not_asked_for() {
        let (address, _app, _data) = start(crate::config::Limits::default()).await;
        let announced = "POST /api/echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: ";
        let answer = ask(address, &format!("{announced}99999999"), "").await;
        answers(&answer, "413", "body_too_large");
        assert!(!answer.contains("100 Continue"));
        assert!(ask(address, &format!("{announced}2"), "{}").await.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"));
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_counted_and_a_proxy_s_client_is_told_apart() {
        let limits = crate::config::Limits { auth_requests_per_minute: 1, ..Default::default() };
        let (address, app, _data) = start(limits).await;
        for client in ["203.0.113.7", "203.0.113.8"] {
            let field = format!("\r\nX-Forwarded-For: 127.0.0.1, {client}");
            assert!(post(address, "/api/guess", &field, "{}").await.starts_with("HTTP/1.1 200"));
            answers(&post(address, "/api/guess", &field, "{}").await, "429", "rate_limited");
        }
        let mut peer = TcpStream::connect(address).await.unwrap();
        peer.write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(peer);
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while !app.metrics.text().unwrap().contains("nimblesite_http_requests_abandoned_total 1") {
            assert!(std::time::Instant::now() < until, "{}", app.metrics.text().unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_let_go() {
        let limits = crate::config::Limits { write_timeout_ms: Duration::from_millis(200), ..Default::default() };
        let (address, app, _data) = start(limits).await;
        let mut peer = TcpStream::connect(address).await.unwrap();
        peer.write_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let open = || app.metrics.text().unwrap().contains("nimblesite_connections_open 1");
        while !open() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while open() {
            assert!(std::time::Instant::now() < until, "the connection is still open");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(peer);
    }

    #[tokio::test]
    async fn queries_are_decoded_and_unknown_or_repeated_parameters_named() {
        let (address, _app, _data) = start(crate::config::Limits::default()).await;
        let answer = post(address, "/api/echo?metadata.k=a%20b", "", "{}").await;
        assert!(answer.contains("\"query\":[[\"metadata.k\",\"a b\"]]"), "{answer}");
        let answer = post(address, "/api/echo?limit=5&metadata.k=1&metadata.k=2", "", "{}").await;
        answers(&answer, "422", "validation_failed");
        assert!(answer.contains("\"pointer\":\"limit\"") && answer.contains("given more than once"), "{answer}");
        answers(&post(address, "/api/echo?metadata.k=%f", "", "{}").await, "400", "malformed_request");
    }

    #[tokio::test]
    async fn guesses_from_one_address_are_bounded_and_told_when_to_come_back() {
        let limits = crate::config::Limits { auth_requests_per_minute: 2, ..Default::default() };
        let (address, _app, _data) = start(limits).await;
        for remaining in [1, 0] {
            let answer = post(address, "/api/guess", "", "{}").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("ratelimit: \"address\";r={remaining};t=")), "{answer}");
        }
        let answer = post(address, "/api/guess", "", "{}").await;
        answers(&answer, "429", "rate_limited");
        assert!(answer.contains("retry-after: ") && answer.contains("ratelimit-policy: \"address\";q=2;w=60"), "{answer}");
    }
}
