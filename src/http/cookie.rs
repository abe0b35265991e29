//! The dashboard's cookie, and who may send it. A browser adds a cookie to requests that other pages make it send, so three things stand
//! before a write: the cookie is `SameSite=Strict`, the browser says that the request comes from a page of ours, and the request carries a
//! token that stands in our pages alone.

use super::call::Request;
use crate::{
    app::App,
    config::{Config, Secret},
    error::{Error, Result},
    storage::Session,
};
use hyper::{HeaderMap, Method, header, http::request::Parts};

/// Where a script sends the token of its page.
pub(super) const TOKEN_HEADER: &str = "x-csrf-token";
/// Where a form has it.
pub(super) const TOKEN_FIELD: &str = "_csrf";

/// Whether people reach us over TLS, ours or a proxy's.
fn is_secure(config: &Config) -> bool {
    config.tls.is_some() || config.public_url.starts_with("https://")
}

/// The prefix makes browsers refuse the cookie unless it is `Secure`, of this very host, and for all of its paths (RFC 6265bis §4.1.3.2).
fn name(config: &Config) -> &'static str {
    if is_secure(config) { "__Host-nimblesite" } else { "nimblesite" }
}

/// The session's text in a request.
pub(super) fn of<'a>(app: &App, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = name(&app.config);
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let mut values = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    values.find(|(known, _)| *known == name).map(|(_, value)| value.trim())
}

/// The header that gives a browser the session.
pub(super) fn given(config: &Config, session: &Secret) -> (&'static str, String) {
    let seconds = config.limits.session_whole_ms.as_secs();
    ("set-cookie", field(config, session.expose(), seconds))
}

/// The header that takes it away.
pub(super) fn taken(config: &Config) -> (&'static str, String) {
    ("set-cookie", field(config, "", 0))
}

fn field(config: &Config, value: &str, seconds: u64) -> String {
    let secure = if is_secure(config) { "; Secure" } else { "" };
    format!("{}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}", name(config))
}

/// Whether a request only reads.
pub(super) fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Refuses what comes from another page than ours. What a person typed or follows from elsewhere may read, never write.
pub(super) fn same_origin(app: &App, head: &Parts) -> Result<()> {
    let authority = head.uri.authority().map(hyper::http::uri::Authority::as_str);
    came_from_us(&app.config, &head.method, &head.headers, authority)
}

/// The same for the forms by which people sign in, which come without a session.
pub(super) fn form_is_ours(config: &Config, request: &Request) -> Result<()> {
    came_from_us(config, &Method::POST, &request.headers, request.authority.as_deref())
}

fn came_from_us(config: &Config, method: &Method, headers: &HeaderMap, authority: Option<&str>) -> Result<()> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let reads = is_read(method);
    let ours = match (text("sec-fetch-site"), text("origin")) {
        (Some("same-origin"), _) => true,
        // A person's own doing (an address typed, a bookmark, a link in a mail), or no browser of these days.
        (Some("none") | None, None) => reads,
        (Some("cross-site" | "same-site"), None) if reads => text("sec-fetch-mode") == Some("navigate"),
        (Some(_), _) => false,
        (None, Some(origin)) => is_our_origin(config, headers, authority, origin),
    };
    if ours { Ok(()) } else { Err(Error::CrossSite) }
}

fn is_our_origin(config: &Config, headers: &HeaderMap, authority: Option<&str>, origin: &str) -> bool {
    let host = authority.or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()));
    let at = origin.split_once("://").map(|(_, at)| at);
    origin == config.public_url.trim_end_matches('/') || (at.is_some() && at == host)
}

/// Whether a write carries its session's token.
pub(super) fn check_token(session: &Session, presented: &str) -> Result<()> {
    let (known, presented) = (session.form_token().as_bytes(), presented.as_bytes());
    // All bytes are looked at, so that the time tells nothing.
    let differ = known.iter().zip(presented).fold(known.len() ^ presented.len(), |differ, (a, b)| differ | usize::from(a ^ b));
    if differ == 0 { Ok(()) } else { Err(Error::CrossSite) }
}

/// The same for a page's request: a script sends a header, a form a field.
pub(super) fn check_page(session: &Session, method: &Method, request: &Request) -> Result<()> {
    if is_read(method) {
        return Ok(());
    }
    match request.header(TOKEN_HEADER) {
        Some(token) => check_token(session, token),
        None => check_token(session, request.form()?.text(TOKEN_FIELD)),
    }
}
