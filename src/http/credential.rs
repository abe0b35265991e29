//! Who is asking: from headers to a witness of storage. What a credential may do is decided here and in the table, nowhere else.

use super::{
    call::{OpenCall, OperatorCall, OperatorPageCall, PageCall, SessionCall, TenantCall, UserCall},
    cookie,
    endpoint::{Answer, Handler},
};
use crate::{
    app::App,
    error::{Error, Result},
    model::Role,
    storage::{Operator, Principal, Session, SignedIn, Visitor},
};
use hyper::{HeaderMap, header, http::request::Parts};
use std::net::IpAddr;

/// A credential as it was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presented<'a> {
    Nothing,
    /// An API key, by its header or its prefix.
    Key(&'a str),
    /// A user token.
    Token(&'a str),
    /// A bearer of neither kind: the operator's, or nobody's.
    Other(&'a str),
}

/// Someone who may call the handler, with the handler.
pub(super) enum Entered {
    Open(for<'a> fn(OpenCall<'a>) -> Answer<'a>),
    User(for<'a> fn(UserCall<'a>) -> Answer<'a>, SignedIn),
    Tenant(Role, for<'a> fn(TenantCall<'a>) -> Answer<'a>, Principal),
    Operator(for<'a> fn(OperatorCall<'a>) -> Answer<'a>, Operator),
    Session(for<'a> fn(SessionCall<'a>) -> Answer<'a>, Session),
    Page(Role, for<'a> fn(PageCall<'a>) -> Answer<'a>, Session, Principal),
    OperatorPage(for<'a> fn(OperatorPageCall<'a>) -> Answer<'a>, Session, Operator),
}

/// Proves the credential that the handler asks for.
pub(super) async fn enter(app: &App, handler: Handler, head: &Parts, peer: IpAddr) -> Result<Entered> {
    // Where anyone may ask, a stale or strange credential does no harm and is not looked at.
    let presented = || presented(&head.headers);
    match handler {
        Handler::Open(run) | Handler::Credentials(run) => Ok(Entered::Open(run)),
        Handler::Tenant(role, run) => match presented()? {
            Presented::Nothing if cookie::of(app, &head.headers).is_some() => Ok(Entered::Tenant(role, run, by_session(app, head).await?)),
            presented => Ok(Entered::Tenant(role, run, principal(app, presented).await?)),
        },
        Handler::User(run) => Ok(Entered::User(run, signed_in(app, presented()?)?)),
        Handler::TenantOrUser(role, as_tenant, as_user) => match presented()? {
            token @ Presented::Token(_) => Ok(Entered::User(as_user, signed_in(app, token)?)),
            Presented::Nothing if cookie::of(app, &head.headers).is_some() => {
                Ok(Entered::Tenant(role, as_tenant, by_session(app, head).await?))
            }
            other => Ok(Entered::Tenant(role, as_tenant, principal(app, other).await?)),
        },
        Handler::Operator(run) => Ok(Entered::Operator(run, operator(app, presented()?)?)),
        Handler::Ops(run) => {
            if !app.config.metrics_public && !peer.is_loopback() {
                operator(app, presented()?)?;
            }
            Ok(Entered::Open(run))
        }
        Handler::Session(run) => Ok(Entered::Session(run, session(app, head).await?)),
        Handler::Page(role, run) => {
            let session = session(app, head).await?;
            let who = session.principal().cloned().ok_or(Error::NoTenantChosen)?;
            Ok(Entered::Page(role, run, session, who))
        }
        Handler::OperatorPage(run) => {
            let session = session(app, head).await?;
            match session.visitor() {
                Visitor::Operator(who) => {
                    let who = who.clone();
                    Ok(Entered::OperatorPage(run, session, who))
                }
                // Others are told what they would be told of a page that is not there.
                Visitor::User { .. } | Visitor::Key(_) => Err(Error::NoSuchRoute),
            }
        }
    }
}

/// The session of the request's cookie. Browsers send cookies with whatever another page makes them send, so where it came from is looked at.
async fn session(app: &App, head: &Parts) -> Result<Session> {
    let text = cookie::of(app, &head.headers).ok_or(Error::MissingCredentials)?;
    cookie::same_origin(app, head)?;
    app.storage.session(text, app.config.operator_token.as_ref()).await
}

/// Who asks the API with a session: the dashboard's own scripts. What writes carries the session's token, which no other page knows.
async fn by_session(app: &App, head: &Parts) -> Result<Principal> {
    let session = session(app, head).await?;
    if !cookie::is_read(&head.method) {
        let token = single(&head.headers, cookie::TOKEN_HEADER)?;
        cookie::check_token(&session, token.unwrap_or_default())?;
    }
    session.principal().cloned().ok_or(Error::NoTenantChosen)
}

async fn principal(app: &App, presented: Presented<'_>) -> Result<Principal> {
    let proved = match presented {
        Presented::Nothing => return Err(Error::MissingCredentials),
        Presented::Key(text) => app.storage.principal_by_key(text).await,
        Presented::Token(_) | Presented::Other(_) => Err(Error::InvalidApiKey),
    };
    count(app, &proved);
    proved
}

fn signed_in(app: &App, presented: Presented<'_>) -> Result<SignedIn> {
    let proved = match presented {
        Presented::Nothing => return Err(Error::MissingCredentials),
        Presented::Token(text) => app.storage.signed_in(text),
        Presented::Key(_) | Presented::Other(_) => Err(Error::InvalidToken),
    };
    count(app, &proved);
    proved
}

/// Without a token in the configuration the operator's routes are not there at all.
fn operator(app: &App, presented: Presented<'_>) -> Result<Operator> {
    let configured = app.config.operator_token.as_ref().ok_or(Error::NoSuchRoute)?;
    let proved = match presented {
        Presented::Nothing => return Err(Error::MissingCredentials),
        Presented::Other(text) | Presented::Token(text) | Presented::Key(text) => app.storage.operator_by_token(text, configured),
    };
    count(app, &proved);
    proved
}

fn count<T>(app: &App, proved: &Result<T>) {
    app.metrics.key_check(match proved {
        Ok(_) => "ok",
        Err(Error::TooManyChecks { .. } | Error::Overloaded { .. }) => "busy",
        Err(Error::Internal { .. }) => "failed",
        Err(_) => "refused",
    });
}

/// Reads `X-API-Key` and `Authorization: Bearer`. Two credentials are taken only when they are one and the same: anything else would let
/// the caller and a proxy on the way disagree about who asks.
fn presented(headers: &HeaderMap) -> Result<Presented<'_>> {
    let key = single(headers, "x-api-key")?;
    let bearer = match single(headers, header::AUTHORIZATION.as_str())? {
        None => None,
        Some(text) => match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => Some(token.trim()),
            // RFC 9110 §11.6.1: another scheme is no credential of ours, and the challenge says which one is.
            _ => return Err(Error::MissingCredentials),
        },
    };
    match (key, bearer) {
        (None, None) => Ok(Presented::Nothing),
        (Some(key), None) => Ok(Presented::Key(key)),
        (Some(key), Some(token)) if key == token => Ok(Presented::Key(key)),
        (Some(_), Some(_)) => Err(malformed("X-API-Key and Authorization name two different credentials. Send one.")),
        (None, Some(token)) if token.starts_with("ns_") => Ok(Presented::Key(token)),
        (None, Some(token)) if token.starts_with("nu_") => Ok(Presented::Token(token)),
        (None, Some(token)) => Ok(Presented::Other(token)),
    }
}

/// A header that may come once; an empty one counts as none.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed(format!("The header {name} came more than once.")));
    }
    let text = first.to_str().map_err(|_| malformed(format!("The header {name} is not plain ASCII.")))?.trim();
    Ok((!text.is_empty()).then_some(text))
}

fn malformed(detail: impl Into<String>) -> Error {
    Error::MalformedRequest { detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, header::HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_credential_is_read_wherever_it_stands() {
        let read = |fields: &[(&'static str, &'static str)]| -> String { format!("{:?}", presented(&of(fields)).unwrap()) };
        assert_eq!(read(&[]), "Nothing");
        assert_eq!(read(&[("x-api-key", "")]), "Nothing");
        assert_eq!(read(&[("x-api-key", " ns_live_a ")]), "Key(\"ns_live_a\")");
        assert_eq!(read(&[("authorization", "bearer  ns_live_a")]), "Key(\"ns_live_a\")");
        assert_eq!(read(&[("authorization", "Bearer nu_b")]), "Token(\"nu_b\")");
        assert_eq!(read(&[("authorization", "Bearer secret")]), "Other(\"secret\")");
        assert_eq!(read(&[("x-api-key", "ns_live_a"), ("authorization", "Bearer ns_live_a")]), "Key(\"ns_live_a\")");
    }

    #[test]
    fn two_credentials_are_not_taken() {
        for fields in [
            &[("x-api-key", "ns_live_a"), ("authorization", "Bearer ns_live_b")][..],
            &[("x-api-key", "ns_live_a"), ("authorization", "Bearer nu_b")],
            &[("x-api-key", "ns_live_a"), ("x-api-key", "ns_live_a")],
        ] {
            assert!(matches!(presented(&of(fields)), Err(Error::MalformedRequest { .. })), "{fields:?}");
        }
    }

    #[test]
    fn another_scheme_is_no_credential() {
        for text in ["Basic dTpw", "Bearer ", "Bearer", "Digest a=b", "ns_live_a"] {
            assert!(matches!(presented(&of(&[("authorization", text)])), Err(Error::MissingCredentials)), "{text}");
        }
    }
}
