//! How batches get to the collector: over the same kind of client as to the vendors, so that there is one TLS stack, and on the server's own
//! runtime. The exporter's threads wait for it.
#![allow(clippy::disallowed_methods, reason = "collectors are reached from here alone; nothing of a tenant's goes to them")]

use crate::error::{Error, Result};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;

/// Of one batch, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Of an answer, which is a few bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    runtime: Handle,
    /// The last batch did not arrive: said once, not with every batch.
    failing: Arc<AtomicBool>,
}

impl Client {
    pub(super) fn new() -> Result<Self> {
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().timeout(TIMEOUT);
        let http = builder.build().map_err(|error| Error::internal(format_args!("the collector's HTTP client cannot be made: {error}")))?;
        let runtime = Handle::try_current().map_err(Error::internal)?;
        Ok(Self { http, runtime, failing: Arc::default() })
    }

    async fn send(self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let mut answer = self.http.execute(request.try_into()?).await?;
        let mut response = Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            headers.clone_from(answer.headers());
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err("the collector's answer is too long".into());
            }
            body.extend_from_slice(&piece);
        }
        Ok(response.body(body.into())?)
    }

    /// Says when batches stop to arrive, and when they do again.
    fn noted(&self, outcome: &std::result::Result<Response<Bytes>, HttpError>) {
        let trouble = match outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        match (trouble, self.failing.load(Ordering::Relaxed)) {
            (Some(why), false) => {
                self.failing.store(true, Ordering::Relaxed);
                tracing::warn!(why, "the OpenTelemetry collector does not take what it is told; spans and metrics are lost until it does");
            }
            (None, true) => {
                self.failing.store(false, Ordering::Relaxed);
                tracing::info!("the OpenTelemetry collector listens again");
            }
            _ => {}
        }
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        // The caller is a thread without a runtime; connections and timers belong to ours.
        let sending = self.runtime.spawn(self.clone().send(request));
        Box::pin(async move {
            let outcome = sending.await.unwrap_or_else(|error| Err(error.into()));
            self.noted(&outcome);
            outcome
        })
    }
}
