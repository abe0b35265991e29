//! The door: what every request passes, in one order. Route, credential, rate, role, query, body, handler; whoever is refused at one of them
//! has cost no more than the ones before it.

use super::{
    answer::{self, Shape},
    body::{self, Out},
    call::{OpenCall, OperatorCall, OperatorPageCall, PageCall, Reply, Request, SessionCall, TenantCall, UserCall},
    cookie,
    cors::Cors,
    credential::{self, Entered},
    endpoint::{Endpoint, is_for_people},
    handlers::refusal_page,
    limit::{Left, Limiter},
    peer, query, refused,
    route::Table,
    trace,
};
use crate::{
    app::App,
    config::Limits,
    error::{Error, Result},
    fair::{Fair, Full, Places},
    ids::{RequestId, TenantId, UserId},
    model::Role,
    storage::Principal,
};
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::{Response, Version, body::Body, body::Incoming, header, http::request::Parts};
use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Instrument;

/// What answers requests.
pub(super) struct Door {
    pub(super) app: App,
    pub(super) limiter: Limiter,
    /// The places for short work, taken in turn.
    pub(super) places: Arc<Fair<Party>>,
    /// Bodies of more than the usual length that are taken in and worked on at once.
    pub(super) uploads: Semaphore,
    pub(super) table: &'static Table,
    /// The server stops: every answer is its connection's last.
    pub(super) leaving: AtomicBool,
}

/// Whose work it is, for the places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Party {
    Tenant(TenantId),
    User(UserId),
    /// Whoever reads what is open to all.
    Anyone,
}

/// The places for short work that a server has.
pub(super) fn places(limits: &Limits) -> Arc<Fair<Party>> {
    Fair::new(Places {
        at_once: limits.requests_at_once_max,
        at_once_each: limits.tenant_requests_at_once_max,
        waiting: limits.requests_waiting_max,
        waiting_each: limits.tenant_requests_waiting_max,
    })
}

/// What is known of a request so far, for its answer and its log line.
pub(super) struct Seen {
    pub(super) id: RequestId,
    /// Who asks; see [`peer`].
    pub(super) peer: IpAddr,
    pub(super) arrived: Instant,
    pub(super) endpoint: Option<&'static Endpoint>,
    pub(super) who: Option<Principal>,
    pub(super) left: Vec<Left>,
}

impl Door {
    /// Answers one request. It never fails and never panics: whatever goes wrong becomes an answer.
    pub(super) async fn answer(self: Arc<Self>, peer: IpAddr, request: hyper::Request<Incoming>) -> Response<Out> {
        let (head, mut body) = request.into_parts();
        let peer = peer::of(peer, &head.headers);
        let mut seen = Seen { id: RequestId::new(), peer, arrived: Instant::now(), endpoint: None, who: None, left: Vec::new() };
        let unanswered = trace::Unanswered::new(&self.app, &seen);
        let span = trace::span(&seen, &head);
        let outcome = async {
            let passing = AssertUnwindSafe(self.pass(&head, &mut body, &mut seen)).catch_unwind().await;
            let outcome = passing.unwrap_or_else(|panic| {
                self.app.metrics.panicked();
                Err(Error::internal(format!("a panic: {}", trace::panic_text(panic.as_ref()))))
            });
            if outcome.is_err() && drains(&head) && !body.is_end_stream() {
                body::drain(&mut body, &self.app.config.limits).await;
            }
            unanswered.answered();
            trace::ended(&self.app, &seen, &head, &outcome);
            outcome
        }
        .instrument(span)
        .await;
        // Who comes to a page without a session is sent to sign in, and has guessed at nothing.
        let newcomer = seen.endpoint.is_some_and(Endpoint::is_page) && matches!(outcome, Err(Error::MissingCredentials));
        if !newcomer && outcome.as_ref().is_err_and(is_pressing) {
            // Not all at once again: those who were refused together come back apart.
            let share = u32::from(seen.id.as_bytes()[15]) + 128;
            tokio::time::sleep(self.app.config.limits.refusal_pause_ms * share / 256).await;
        }
        let closes = closes(&head, &outcome);
        let outcome = match outcome {
            Err(error) if is_for_people(head.uri.path()) => Ok(refusal_page(&self.app, &head, seen.id, &error)),
            outcome => outcome,
        };
        let cors = Cors::of(&self.app.config.cors_origins, &head);
        let leaving = head.version < Version::HTTP_2 && self.leaving.load(Ordering::Relaxed);
        let close = leaving || closes;
        let shape = Shape { id: seen.id, head: head.method == hyper::Method::HEAD, close, left: &seen.left };
        let mut response = answer::response(&self.app, outcome, &shape);
        if let Some(cors) = cors {
            cors.put(response.headers_mut());
        }
        response
    }

    async fn pass(&self, head: &Parts, body: &mut Incoming, seen: &mut Seen) -> Result<Reply> {
        let limits = &self.app.config.limits;
        check_head(head, limits)?;
        if let Some(method) = Cors::of(&self.app.config.cors_origins, head).as_ref().and_then(Cors::preflight) {
            // Leave is given for what there is; whoever then asks shows a credential like anyone.
            return self.table.find(method.as_str(), head.uri.path()).map(|_| Reply::Nothing);
        }
        let found = self.table.find(head.method.as_str(), head.uri.path())?;
        let endpoint = found.endpoint;
        seen.endpoint = Some(endpoint);
        let entered = self.enter(endpoint, head, seen).await?;
        let query = query_of(endpoint, head)?;
        let _upload = self.upload(endpoint).await?;
        let body = self.body_of(endpoint, head, body).await?;
        let request = Request {
            id: seen.id,
            arrived: seen.arrived,
            peer: seen.peer,
            path: found.path,
            query,
            headers: head.headers.clone(),
            authority: head.uri.authority().map(ToString::to_string),
            body,
        };
        match &entered {
            Entered::Session(_, session) | Entered::Page(_, _, session, _) | Entered::OperatorPage(_, session, _) => {
                cookie::check_page(session, &head.method, &request)?;
            }
            Entered::Open(_) | Entered::User(..) | Entered::Tenant(..) | Entered::Operator(..) => {}
        }
        let _place = match party(&entered, endpoint) {
            Some(party) => Some(self.places.enter(party).await.map_err(|Full| Error::RateLimited { retry_after: PLACE_WAIT })?),
            None => None,
        };
        self.handle(entered, &request).await
    }

    /// Leave to send a long body: there is memory for a few at once.
    async fn upload(&self, endpoint: &Endpoint) -> Result<Option<SemaphorePermit<'_>>> {
        if endpoint.body_bytes_max.is_none() {
            return Ok(None);
        }
        let permit = tokio::time::timeout(UPLOAD_WAIT, self.uploads.acquire()).await;
        permit.ok().and_then(std::result::Result::ok).map(Some).ok_or(Error::Overloaded { retry_after: UPLOAD_WAIT })
    }

    /// Credential, rate, role.
    async fn enter(&self, endpoint: &'static Endpoint, head: &Parts, seen: &mut Seen) -> Result<Entered> {
        if endpoint.guessable {
            self.limiter.address(seen.peer, &mut seen.left)?;
        }
        let entered = credential::enter(&self.app, endpoint.handler, head, seen.peer).await?;
        match &entered {
            Entered::Tenant(role, _, who) | Entered::Page(role, _, _, who) => {
                seen.who = Some(who.clone());
                let allowed = self.limiter.key(who.key_id(), who.tenant_id(), &mut seen.left).and_then(|()| check_role(who, *role));
                if let Err(error) = &allowed {
                    refused::note(&self.app, seen, who, error).await;
                }
                allowed?;
            }
            Entered::User(_, who) => self.limiter.user(who.user_id(), &mut seen.left)?,
            Entered::Session(_, session) => {
                if let Some(who) = session.user() {
                    self.limiter.user(who.user_id(), &mut seen.left)?;
                }
            }
            Entered::Open(_) | Entered::Operator(..) | Entered::OperatorPage(..) => {}
        }
        Ok(entered)
    }

    /// The body, where the method has one. Other methods' bodies mean nothing (RFC 9110 §9.3.1) and are not read.
    async fn body_of(&self, endpoint: &Endpoint, head: &Parts, body: &mut Incoming) -> Result<Bytes> {
        if endpoint.method == "GET" {
            return Ok(Bytes::new());
        }
        let limits = &self.app.config.limits;
        let limit_bytes = endpoint.body_bytes_max.map_or(limits.body_bytes_max, |bytes_max| bytes_max(limits));
        body::check_headers(&head.headers, limit_bytes)?;
        // Without both fields an HTTP/1 request has no body at all (RFC 9112 §6.3), so that a body sent nevertheless would be taken for the
        // next request. HTTP/2 frames bodies by itself and needs neither field.
        let unframed = head.version < Version::HTTP_2
            && !head.headers.contains_key(header::CONTENT_LENGTH)
            && !head.headers.contains_key(header::TRANSFER_ENCODING);
        if unframed && endpoint.body.is_some() {
            return Err(Error::LengthRequired);
        }
        body::read(body, limit_bytes, limits).await
    }

    async fn handle(&self, entered: Entered, request: &Request) -> Result<Reply> {
        let app = &self.app;
        match entered {
            Entered::Open(run) => run(OpenCall { app, request }).await,
            Entered::User(run, who) => run(UserCall { app, who, request }).await,
            Entered::Operator(run, who) => run(OperatorCall { app, who, request }).await,
            Entered::Session(run, session) => run(SessionCall { app, session, request }).await,
            Entered::OperatorPage(run, session, who) => run(OperatorPageCall { app, session, who, request }).await,
            Entered::Tenant(_, _, ref who) | Entered::Page(_, _, _, ref who) => {
                let store = app.storage.tenant_store(who).await?;
                match entered {
                    Entered::Tenant(_, run, who) => run(TenantCall { app, who, store, request }).await,
                    Entered::Page(_, run, session, who) => run(PageCall { app, session, who, store, request }).await,
                    _ => Err(Error::internal("a store for nobody")),
                }
            }
        }
    }
}

/// Whether this refusal is for one who should ask less, or cannot be told from one who guesses. Answered at once, it would be asked again at
/// once, and refusing costs us work as well.
fn is_pressing(error: &Error) -> bool {
    matches!(
        error,
        Error::MissingCredentials
            | Error::InvalidApiKey
            | Error::InvalidToken
            | Error::InvalidLogin
            | Error::RateLimited { .. }
            | Error::TooManyChecks { .. }
    )
}

/// Who takes a place for this request. Passwords are hashed on places of their own; the operator waits behind nobody.
fn party(entered: &Entered, endpoint: &Endpoint) -> Option<Party> {
    match entered {
        _ if endpoint.waits || endpoint.guessable => None,
        Entered::Tenant(_, _, who) | Entered::Page(_, _, _, who) => Some(Party::Tenant(who.tenant_id())),
        Entered::User(_, who) => Some(Party::User(who.user_id())),
        Entered::Session(_, session) => Some(session.user().map_or(Party::Anyone, |who| Party::User(who.user_id()))),
        Entered::Open(_) => Some(Party::Anyone),
        Entered::Operator(..) | Entered::OperatorPage(..) => None,
    }
}

/// How long an upload waits for those before it.
const UPLOAD_WAIT: Duration = Duration::from_secs(10);
/// What a caller is told to wait when its tenant's queue for places is full.
const PLACE_WAIT: Duration = Duration::from_secs(1);

fn check_role(who: &Principal, needed: Role) -> Result<()> {
    if who.role() >= needed { Ok(()) } else { Err(Error::InsufficientRole { needed: needed.name() }) }
}

/// What can be wrong with a request's head alone.
fn check_head(head: &Parts, limits: &Limits) -> Result<()> {
    let uri_bytes = head.uri.path_and_query().map_or(0, |it| it.as_str().len());
    if uri_bytes > limits.uri_bytes_max {
        return Err(Error::UriTooLong { limit_bytes: limits.uri_bytes_max });
    }
    // As on the wire: name, colon, space, value, CR LF.
    let header_bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if header_bytes > limits.header_bytes_max || head.headers.len() > limits.headers_max {
        return Err(Error::HeadersTooLarge { limit_bytes: limits.header_bytes_max });
    }
    // RFC 9112 §3.2: an HTTP/1.1 request without Host, or with two, is answered 400.
    if head.version == Version::HTTP_11 && head.headers.get_all(header::HOST).iter().count() != 1 {
        return Err(Error::MalformedRequest { detail: "An HTTP/1.1 request has exactly one Host header.".to_owned() });
    }
    Ok(())
}

/// The query of an API endpoint is checked against the table; pages ignore theirs, as browsers and probes add what they like.
fn query_of(endpoint: &Endpoint, head: &Parts) -> Result<Vec<(String, String)>> {
    if endpoint.is_page() {
        return query::parse(head.uri.query().unwrap_or_default());
    }
    if !endpoint.path.starts_with("/api/") {
        return Ok(Vec::new());
    }
    let query = query::parse(head.uri.query().unwrap_or_default())?;
    query::check(endpoint, &query)?;
    Ok(query)
}

/// Whether what is left of a refused body should be taken in. HTTP/2 resets the one stream, and a client that asked before it sent (RFC 9110
/// §10.1.1) has sent nothing yet: reading would tell it to begin.
fn drains(head: &Parts) -> bool {
    head.version < Version::HTTP_2 && !head.headers.contains_key(header::EXPECT)
}

/// Whether the connection may not be used again. Of a request with both Content-Length and Transfer-Encoding, a smuggler's shape, hyper obeys
/// the latter and hides the former; RFC 9112 §6.3 has us close after it, so we close after every chunked request that failed, and after
/// every one whose body did not arrive whole.
fn closes(head: &Parts, outcome: &Result<Reply>) -> bool {
    let http_1 = head.version < Version::HTTP_2;
    let broken = matches!(outcome, Err(Error::RequestTimeout | Error::BodyTooLarge { .. } | Error::MalformedRequest { .. }));
    http_1 && (broken || head.headers.contains_key(header::TRANSFER_ENCODING))
}
