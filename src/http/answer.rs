//! From a reply or an error to a response: status, headers that every answer has, and the body.

use super::{body::Out, call::Reply, file::FileBody, limit, problem, sse::EventBody};
use crate::{
    app::App,
    error::{Error, Result},
    ids::RequestId,
};
use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use std::time::Duration;

/// No comment belongs into a file, however long its maker is silent: a year is longer than any connection.
const NO_COMMENT: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a page of the dashboard may load and do: what this server has, and nothing that stands in the page itself.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What the answer's shape depends on besides the reply.
pub(super) struct Shape<'a> {
    pub(super) id: RequestId,
    /// Only the headers are wanted.
    pub(super) head: bool,
    /// The connection is not to be used again.
    pub(super) close: bool,
    pub(super) left: &'a [limit::Left],
}

/// The page that explains the codes; problem types point into it.
pub(super) fn error_docs(app: &App) -> String {
    format!("{}/docs/errors", app.config.public_url)
}

pub(super) fn response(app: &App, outcome: Result<Reply>, shape: &Shape<'_>) -> Response<Out> {
    let mut headers = HeaderMap::new();
    let (status, body) = match outcome {
        Err(error) => refuse(app, &error, shape.id, &mut headers),
        Ok(Reply::Problem { error, headers: extra }) => {
            put_all(&mut headers, extra);
            refuse(app, &error, shape.id, &mut headers)
        }
        Ok(reply) => succeed(app, reply, &mut headers),
    };
    finish(app, &mut headers, shape);
    let body = if shape.head { without_body(&mut headers, &body) } else { body };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

fn refuse(app: &App, error: &Error, id: RequestId, headers: &mut HeaderMap) -> (u16, Out) {
    let parts = problem::problem_of(error);
    put(headers, "content-type", "application/problem+json");
    if let Some(wait) = parts.retry_after {
        put(headers, "retry-after", &problem::whole_seconds(wait).to_string());
    }
    if let Some(methods) = &parts.allow {
        put(headers, "allow", methods);
    }
    if parts.status() == 401 {
        put(headers, "www-authenticate", "Bearer realm=\"nimblesite\"");
    }
    (parts.status(), Out::whole(parts.body(id, &error_docs(app))))
}

fn succeed(app: &App, reply: Reply, headers: &mut HeaderMap) -> (u16, Out) {
    let (status, content_type, body, extra) = match reply {
        Reply::Json { status, body, headers } => (status, "application/json", Out::whole(body), headers),
        // Told apart before this is called.
        Reply::Problem { error, .. } => return refuse(app, &error, RequestId::new(), headers),
        Reply::Nothing => return (204, Out::whole(Bytes::new())),
        Reply::Page { content_type, body, headers } => (200, content_type, Out::whole(body), headers),
        Reply::Html { status, body, headers: extra } => {
            put(headers, "content-security-policy", PAGE_POLICY);
            put(headers, "cross-origin-opener-policy", "same-origin");
            (status, "text/html; charset=utf-8", Out::whole(body.into()), extra)
        }
        Reply::Pieces { content_type, pieces, headers } => {
            (200, content_type, Out::Events(EventBody::new(Box::new(pieces), NO_COMMENT, Box::new(()))), headers)
        }
        Reply::SeeOther { to, headers: extra } => {
            put(headers, "location", &to);
            put_all(headers, extra);
            return (303, Out::whole(Bytes::new()));
        }
        Reply::NotModified { headers: extra } => {
            put_all(headers, extra);
            return (304, Out::whole(Bytes::new()));
        }
        Reply::File { file, size_bytes, content_type, held, headers } => {
            (200, content_type, Out::File(FileBody::new(file, size_bytes, held)), headers)
        }
        Reply::Events { events, headers } => {
            let held = Box::new(app.metrics.stream_opened());
            let body = EventBody::new(events, app.config.limits.keepalive_ms, held);
            (200, "text/event-stream", Out::Events(body), headers)
        }
    };
    put(headers, "content-type", content_type);
    if content_type == "text/event-stream" {
        // Proxies that collect an answer before they pass it on would hide the stream.
        put(headers, "x-accel-buffering", "no");
    }
    put_all(headers, extra);
    (status, body)
}

/// What every answer has, unless the reply says it better.
fn finish(app: &App, headers: &mut HeaderMap, shape: &Shape<'_>) {
    put(headers, "x-request-id", &shape.id.to_string());
    if let Some((policy, now)) = limit::fields(shape.left) {
        put(headers, "ratelimit-policy", &policy);
        put(headers, "ratelimit", &now);
    }
    if shape.close {
        put(headers, "connection", "close");
    }
    let mut otherwise = |name: &'static str, value: &'static str| {
        headers.entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
    };
    otherwise("cache-control", "no-store");
    otherwise("content-security-policy", "default-src 'none'; frame-ancestors 'none'");
    otherwise("x-content-type-options", "nosniff");
    otherwise("referrer-policy", "no-referrer");
    otherwise("cross-origin-resource-policy", "same-origin");
    if app.config.tls.is_some() {
        otherwise("strict-transport-security", "max-age=31536000");
    }
}

/// The answer to HEAD says how long the body would have been.
fn without_body(headers: &mut HeaderMap, body: &Out) -> Out {
    if let Some(length) = hyper::body::Body::size_hint(body).exact() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Out::Whole(None)
}

fn put_all(headers: &mut HeaderMap, extra: Vec<(&'static str, String)>) {
    for (name, value) in extra {
        put(headers, name, &value);
    }
}

/// Sets a header. A value that no header may have is left out: it can only be a defect, and no reason to lose the answer.
fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}
