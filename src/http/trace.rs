//! What a request leaves in the log: a span while it runs, a line when it ends. Never a credential, never a body.

use super::{call::Reply, door::Seen, problem};
use crate::{
    app::App,
    error::{Error, Result},
    ids::RequestId,
    telemetry::TraceParent,
};
use hyper::http::request::Parts;
use std::{any::Any, time::Instant};
use tracing::{Span, field};

/// The span of one request. A caller's own `X-Request-Id` and W3C `traceparent` are noted when they are sane.
pub(super) fn span(seen: &Seen, head: &Parts) -> Span {
    let span = tracing::info_span!(
        "request",
        request_id = %seen.id,
        client_request_id = field::Empty,
        trace_id = field::Empty,
        parent_span_id = field::Empty,
    );
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(id) = text("x-request-id").filter(|id| is_token(id)) {
        span.record("client_request_id", id);
    }
    if let Some(parent) = text("traceparent").and_then(TraceParent::parse) {
        span.record("trace_id", parent.trace_id());
        span.record("parent_span_id", parent.parent_id());
    }
    span
}

/// One line, and the counters, for a request that was answered.
pub(super) fn ended(app: &App, seen: &Seen, head: &Parts, outcome: &Result<Reply>) {
    let took = seen.arrived.elapsed();
    let endpoint = seen.endpoint.map_or("none", |endpoint| endpoint.name);
    let (status, code) = match outcome {
        Ok(Reply::Problem { error, .. }) | Err(error) => {
            let parts = problem::problem_of(error);
            (parts.status(), parts.code.code)
        }
        Ok(reply) => (reply.status(), ""),
    };
    if let Err(Error::Internal { detail }) | Ok(Reply::Problem { error: Error::Internal { detail }, .. }) = outcome {
        tracing::error!(endpoint, detail, "a request failed inside");
    }
    if let Err(Error::Sealed { detail }) | Ok(Reply::Problem { error: Error::Sealed { detail }, .. }) = outcome {
        tracing::error!(endpoint, detail, "the operator's key is needed");
    }
    app.metrics.request(seen.endpoint.map_or("none", |endpoint| endpoint.tag), status, took);
    let key = seen.who.as_ref().map(|who| field::display(who.key_id()));
    let tenant = seen.who.as_ref().map(|who| field::display(who.tenant_id()));
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(method = %head.method, endpoint, status, code, milliseconds, peer = %seen.peer, key, tenant, "answered");
}

/// A request that is not answered yet. hyper drops the work on it when its connection breaks; then this says so. A turn that it began goes
/// on by itself.
pub(super) struct Unanswered {
    app: App,
    id: RequestId,
    arrived: Instant,
    answered: bool,
}

impl Unanswered {
    pub(super) fn new(app: &App, seen: &Seen) -> Self {
        Self { app: app.clone(), id: seen.id, arrived: seen.arrived, answered: false }
    }

    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.answered {
            self.app.metrics.abandoned();
            let milliseconds = u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(request_id = %self.id, milliseconds, "the client left before its answer");
        }
    }
}

/// What a panic said, if it said it in text.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

/// Short, and of characters that cannot forge a line of the log.
fn is_token(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_request_ids_are_taken() {
        assert!(is_token("req-1.2:3") && !is_token("") && !is_token("a b") && !is_token("a\nb") && !is_token(&"a".repeat(129)));
    }
}
