//! The server: accepts connections, a bounded number at once, until it is told to stop; then lets what runs come to its end.

use super::{accept, door::Door, limit::Limiter, route, tls::Certificate};
use crate::{app::App, error::Result};
use hyper_util::server::graceful::GracefulShutdown;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

/// Serves until `stop` is done, then stops accepting and waits for running requests, at most `limits.shutdown_ms`.
///
/// Fails when the TLS files cannot be used. Turns go on in tasks of their own: whoever calls this drains the agent next, then closes storage.
pub async fn serve(app: App, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<()> {
    let limits = app.config.limits.clone();
    let certificate = app.config.tls.as_ref().map(Certificate::load).transpose()?.map(Arc::new);
    let door = Arc::new(Door { limiter: Limiter::new(&limits), table: route::table()?, app: app.clone() });
    // Dropped, and so ended, with this function.
    let mut background = JoinSet::new();
    background.spawn(forget(Arc::clone(&door)));
    if let Some(certificate) = certificate.clone() {
        background.spawn(async move { certificate.follow().await });
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
                let serving = accept::connection(Arc::clone(&door), stream, peer.ip(), certificate.clone(), graceful.watcher());
                tokio::spawn(async move {
                    serving.await;
                    drop(permit);
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
    app.stopping.cancel();
    if tokio::time::timeout(limits.shutdown_ms, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time and were dropped");
    }
    Ok(())
}

async fn forget(door: Arc<Door>) {
    loop {
        tokio::time::sleep(Limiter::FORGET_EVERY).await;
        door.limiter.forget();
    }
}
