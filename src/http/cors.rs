//! Cross-origin requests of browsers (the Fetch standard's CORS protocol): off unless origins are configured, and then exact. An origin is
//! compared as a whole, none is reflected that was not configured, and credentials of the browser (cookies) are never asked for.

use hyper::{HeaderMap, Method, header, header::HeaderValue, http::request::Parts};

/// What a page may send besides what every page may.
const REQUEST_HEADERS: &str = "authorization, content-type, idempotency-key, last-event-id, x-api-key";
/// What a page may read of an answer besides what every page may.
const ANSWER_HEADERS: &str = "idempotency-replayed, ratelimit, ratelimit-policy, retry-after, x-credit-available, x-request-id, x-turn-id";
/// How long a browser may remember a permission, in seconds.
const REMEMBERED_S: &str = "600";

/// What an answer says to a browser of another origin.
pub(super) struct Cors {
    /// The asking origin, when it is one of those configured.
    origin: Option<HeaderValue>,
    /// The method that a preflight asks for.
    asked: Option<Method>,
}

impl Cors {
    /// None where no origin is configured.
    pub(super) fn of(origins: &[String], head: &Parts) -> Option<Self> {
        if origins.is_empty() {
            return None;
        }
        let mut sent = head.headers.get_all(header::ORIGIN).iter();
        let origin = match (sent.next(), sent.next()) {
            (Some(one), None) => origins.iter().any(|known| known.as_bytes() == one.as_bytes()).then(|| one.clone()),
            _ => None,
        };
        let asked = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).filter(|_| origin.is_some() && head.method == Method::OPTIONS);
        Some(Self { origin, asked: asked.and_then(|name| Method::from_bytes(name.as_bytes()).ok()) })
    }

    /// The method that a browser asks leave for, from an origin that may have it.
    pub(super) fn preflight(&self) -> Option<&Method> {
        self.asked.as_ref()
    }

    /// Adds the fields to an answer.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = self.origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        match self.asked.and_then(|method| HeaderValue::from_str(method.as_str()).ok()) {
            None => drop(headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ANSWER_HEADERS))),
            Some(method) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method);
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
                headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED_S));
            }
        }
    }
}
