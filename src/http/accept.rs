//! One connection: TLS if it is on, then HTTP/1.1 or HTTP/2, whichever the client begins with, within the limits of time and size.
//!
//! What hyper answers by itself, before there is a request that we could answer, has a status and no body, and none of our headers: 400 for
//! a malformed request line, header or framing (a bad or contradictory Content-Length, a Transfer-Encoding that does not end in chunked or
//! comes with HTTP/1.0), 414 for a request line of 64 KiB, 431 for more than twice the bytes or number of headers that we allow. It gives no
//! hook for these. Up to that second bound our own 414 and 431 answer, with a problem object. A client that is too slow with its headers
//! gets its connection closed without an answer; so does one that waits too long with its next request, or does not read its answer.

use super::{door::Door, slow::Impatient, tls::Certificate};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::Watcher},
};
use std::{
    convert::Infallible,
    io::ErrorKind,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};

/// How a client behaved on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manners {
    /// It made a request, or went away.
    Good,
    /// It sent what is no HTTP, or nothing in time.
    Bad,
}

/// Serves one connection until it ends.
pub(super) async fn connection(
    door: Arc<Door>,
    stream: TcpStream,
    peer: IpAddr,
    certificate: Option<Arc<Certificate>>,
    watcher: Watcher,
) -> Manners {
    let _open = door.app.metrics.connection_opened();
    // Small answers and events should not wait for more; on a broken socket the first read will tell.
    stream.set_nodelay(true).ok();
    // Boxed, so that a connection without TLS has no room for one with it, nor one that is served for its handshake.
    match certificate {
        None => Box::pin(http(door, stream, peer, watcher)).await,
        Some(certificate) => {
            let time = door.app.config.limits.header_timeout_ms;
            match Box::pin(timeout(time, certificate.acceptor().accept(stream))).await {
                Ok(Ok(stream)) => Box::pin(http(door, stream, peer, watcher)).await,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "no TLS handshake");
                    // A load balancer that only looks whether we listen went away, no more.
                    let left = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
                    if left { Manners::Good } else { Manners::Bad }
                }
                Err(_) => {
                    tracing::debug!(%peer, "a TLS handshake took too long");
                    Manners::Bad
                }
            }
        }
    }
}

async fn http(door: Arc<Door>, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: IpAddr, watcher: Watcher) -> Manners {
    let builder = builder(&door);
    let io = Impatient::new(io, door.app.config.limits.write_timeout_ms);
    let header_timeout = door.app.config.limits.header_timeout_ms;
    let begun = Arc::new(AtomicBool::new(false));
    let service = {
        let begun = Arc::clone(&begun);
        service_fn(move |request| {
            begun.store(true, Ordering::Relaxed);
            let door = Arc::clone(&door);
            // hyper keeps the room for it as long as the connection lives, a stream's whole life and idle times included.
            Box::pin(async move { Ok::<_, Infallible>(door.answer(peer, request).await) })
        })
    };
    let serving = watcher.watch(builder.serve_connection(TokioIo::new(io), service).into_owned());
    drop(builder);
    tokio::pin!(serving);
    // hyper's own timer starts only when it knows which HTTP is spoken; this one also covers a client that says nothing at all.
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = silent(&begun, header_timeout) => return Manners::Bad,
    };
    let Err(error) = ended else { return Manners::Good };
    tracing::debug!(%peer, %error, "a connection ended early");
    let is_http = error.downcast_ref::<hyper::Error>().is_none_or(|error| !error.is_parse() && !error.is_timeout());
    if is_http || begun.load(Ordering::Relaxed) { Manners::Good } else { Manners::Bad }
}

/// Ends when no request came in time; never if one did.
async fn silent(begun: &AtomicBool, time: Duration) {
    sleep(time).await;
    if begun.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn builder(door: &Door) -> auto::Builder<TokioExecutor> {
    /// hyper refuses to go below this.
    const BUFFER_BYTES_MIN: usize = 8 * 1024;
    let limits = &door.app.config.limits;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout_ms)
        .max_headers(limits.headers_max.saturating_mul(2))
        .max_buf_size(limits.header_bytes_max.saturating_mul(2).max(BUFFER_BYTES_MIN));
    let whole = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_timeout_ms)
        .keep_alive_timeout(limits.header_timeout_ms)
        .max_concurrent_streams(whole(limits.connection_streams_max))
        .max_header_list_size(whole(limits.header_bytes_max.saturating_mul(2)));
    builder
}
