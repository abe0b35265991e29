//! The dashboard's pages: each asks storage as the API's handlers do, and hands what it got to a template. Forms are sent by POST and answered
//! by another page's address, so that a reload sends nothing twice.

mod agents;
mod audit;
mod conversations;
mod gate;
mod keys;
mod logs;
mod members;
mod once;
mod operator;
mod overview;
mod playground;
mod sandbox;
mod session;
mod settings;
mod wallet;

use crate::{
    app::App,
    dashboard::{Frame, Pages, Place, Said, refusal},
    error::{Error, FieldError, Result},
    http::{
        call::{PageCall, Reply, Request, SessionCall},
        cookie,
        endpoint::Endpoint,
        problem::problem_of,
    },
    ids::RequestId,
    model::{Config, Key, List, MeTenant, Order, Page, Role},
    storage::{Session, Visitor},
};
use hyper::http::request::Parts;
use utoipa::ToSchema;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let pages = [
        gate::endpoints(),
        session::endpoints(),
        overview::endpoints(),
        agents::endpoints(),
        sandbox::endpoints(),
        playground::endpoints(),
        conversations::endpoints(),
        logs::endpoints(),
        keys::endpoints(),
        members::endpoints(),
        audit::endpoints(),
        wallet::endpoints(),
        settings::endpoints(),
        operator::endpoints(),
    ];
    pages.into_iter().flatten().collect()
}

/// A refusal as people see it: who is not signed in goes to sign in, who has chosen no tenant to choose one, all others get a page, or the
/// part of one that a script asked for.
pub(in crate::http) fn refusal_page(app: &App, head: &Parts, id: RequestId, error: &Error) -> Reply {
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let fragment = header("hx-request") == Some("true");
    let go = |to: String| if fragment { Reply::html(200, "").with_header("hx-redirect", to) } else { Reply::see_other(to) };
    match error {
        Error::MissingCredentials | Error::InvalidToken | Error::InvalidApiKey => {
            let wanted = head.uri.path_and_query().map(hyper::http::uri::PathAndQuery::as_str);
            let next = wanted.filter(|path| cookie::is_read(&head.method) && *path != "/dashboard" && !fragment);
            let reply =
                go(next.map_or_else(|| "/dashboard/sign-in".to_owned(), |path| format!("/dashboard/sign-in?next={}", encoded(path))));
            match error {
                Error::MissingCredentials => reply,
                _ => reply.with(cookie::taken(&app.config)),
            }
        }
        Error::NoTenantChosen => go("/dashboard/tenants".to_owned()),
        error => {
            let parts = problem_of(error);
            let detail = match error {
                Error::NoSuchRoute => "No page has this address. It may have been mistyped, or what it named is gone.".to_owned(),
                Error::MethodNotAllowed { .. } => "This address takes forms of our pages, not visits.".to_owned(),
                _ => parts.detail.clone(),
            };
            let title = parts.code.title.to_owned();
            let shown = refusal::Refusal { status: parts.status(), title, detail, request_id: id.to_string() };
            let page = if fragment { refusal::part(&shown) } else { refusal::page(&shown) };
            let reply = Reply::html(shown.status, page);
            match &parts.allow {
                Some(methods) => reply.with_header("allow", methods),
                None => reply,
            }
        }
    }
}

/// A path as it stands in a query.
fn encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What stands around a tenant's page.
async fn frame(call: &PageCall<'_>, place: Place) -> Result<Frame> {
    let tenant = Some((call.who.tenant_id(), call.who.tenant_name().to_owned(), call.who.role()));
    let said = call.request.query("said").and_then(Said::named);
    Ok(Frame { tenant, said, ..frame_of(call.app, &call.session, place).await? })
}

/// What stands around the page of someone signed in.
async fn frame_of(app: &App, session: &Session, place: Place) -> Result<Frame> {
    let (who, is_user) = match session.visitor() {
        Visitor::User { email, .. } => (email.clone(), true),
        Visitor::Key(who) => (format!("key, {}", who.role().name()), false),
        Visitor::Operator(_) => ("operator".to_owned(), false),
    };
    Ok(Frame {
        place,
        who,
        is_user,
        tenant: None,
        tenants: tenants_of(app, session).await?,
        form_token: session.form_token().to_owned(),
        once: RequestId::new().to_string(),
        said: None,
        scripts: &[],
    })
}

/// The tenants that the session's user belongs to.
async fn tenants_of(app: &App, session: &Session) -> Result<Vec<MeTenant>> {
    match session.user() {
        Some(user) => Ok(app.storage.user_me(user).await?.tenants),
        None => Ok(Vec::new()),
    }
}

/// A query parameter that says something: an empty field of a form does not.
fn chosen<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.query(name).map(str::trim).filter(|text| !text.is_empty())
}

/// A path with a query.
fn path_with<'a>(path: &str, query: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let query: Vec<String> = query.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// The paths of the pages around this one: newer and older, with the same filters.
fn pages_of<T: ToSchema>(request: &Request, list: &List<T>, path: &str) -> Pages {
    let kept = request.query_all().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let kept: Vec<_> = kept.filter(|(name, value)| !["after", "before", "said"].contains(name) && !value.is_empty()).collect();
    let (after, before) = (request.query("after").is_some(), request.query("before").is_some());
    let to = |name: &'static str, id: Option<&str>| Some(path_with(path, kept.iter().copied().chain([(name, id?)])));
    // Asked for by `before` alone, `has_more` speaks of the newer ones, and there are older ones: those one came from.
    let backwards = before && !after;
    let newer = if backwards { list.has_more } else { after };
    let older = backwards || list.has_more;
    Pages {
        newer: newer.then(|| to("before", list.first_id.as_deref())).flatten(),
        older: older.then(|| to("after", list.last_id.as_deref())).flatten(),
    }
}

/// The tenant's newest agents, to choose from and to call by their names.
async fn agents_of(call: &PageCall<'_>) -> Result<Vec<Config>> {
    Ok(call.store.config_list(Page::first(Page::LIMIT_MAX, Order::Desc)).await?.data)
}

/// The newest keys that the viewer may see.
async fn keys_of(call: &PageCall<'_>) -> Result<Vec<Key>> {
    if call.who.role() < Role::Member {
        return Ok(Vec::new());
    }
    Ok(call.app.storage.key_list(&call.who, Page::first(Page::LIMIT_MAX, Order::Desc)).await?.data)
}

/// What a page can show beside its form; anything else is the door's to show.
fn told(error: Error) -> Result<(Vec<FieldError>, u16)> {
    match error {
        Error::ValidationFailed { errors } | Error::BundleRefused { errors } => Ok((errors, 422)),
        Error::Conflict { .. }
        | Error::ConfigNameTaken { .. }
        | Error::LastOwner
        | Error::InsufficientRole { .. }
        | Error::KeyIsCapped
        | Error::WorkspaceImageUnsupported
        | Error::SandboxUnavailable { .. } => {
            let parts = problem_of(&error);
            Ok((vec![FieldError { pointer: String::new(), message: parts.detail.clone() }], parts.status()))
        }
        error => Err(error),
    }
}

/// Reads `said` for pages that stand without a tenant.
fn said(call: &SessionCall<'_>) -> Option<Said> {
    call.request.query("said").and_then(Said::named)
}
