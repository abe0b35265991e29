//! The documentation, for people, programs and agents. No credential is needed, and no network beyond this server.

use crate::{
    error::Result,
    http::{
        assets,
        call::{Headers, OpenCall, Reply, Request},
        docs,
        endpoint::{Answer, Endpoint, Handler},
        openapi, route,
    },
};
use bytes::Bytes;
use std::sync::LazyLock;

const TAG: &str = "Documentation";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn endpoints() -> Vec<Endpoint> {
    let page =
        |name, path, run, summary| Endpoint::new(name, "GET", path, Handler::Open(run)).about(TAG, summary).answers_raw(200, "text/html");
    let files = |name, path, summary| {
        Endpoint::new(name, "GET", path, Handler::Open(asset))
            .about(TAG, summary)
            .answers_raw(200, "text/javascript")
            .answers_raw(200, "text/css")
            .answers_raw(200, "image/svg+xml")
            .errors(&["not_found"])
    };
    vec![
        Endpoint::new("Openapi", "GET", "/openapi.json", Handler::Open(openapi))
            .about(TAG, "This document")
            .answers_raw(200, "application/json"),
        page("Docs", "/docs", docs, "Swagger UI, to try the API"),
        page("DocsErrors", "/docs/errors", errors, "Every error code and what to do about it"),
        files("DocsAsset", "/docs/assets/{file}", "Scripts and styles of the documentation"),
        files("DashboardAsset", "/dashboard/assets/{file}", "Scripts, styles and pictures that all pages share"),
        page("Redoc", "/redoc", redoc, "Redoc, to read the API"),
        Endpoint::new("Llms", "GET", "/llms.txt", Handler::Open(llms))
            .about(TAG, "A briefing for agents that want to integrate")
            .answers_raw(200, "text/plain"),
        page("Home", "/", home, "What this is"),
    ]
}

fn openapi(call: OpenCall<'_>) -> Answer<'_> {
    static DOCUMENT: LazyLock<Result<Bytes>> = LazyLock::new(|| openapi::document().map(Bytes::from));
    Box::pin(async move { Ok(whole(call.request, "application/json", DOCUMENT.clone()?, None)) })
}

fn home(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(whole(call.request, HTML, docs::home().into(), Some(docs::CSP_PAGE))) })
}

fn errors(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(whole(call.request, HTML, docs::errors().into(), Some(docs::CSP_PAGE))) })
}

fn docs(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(whole(call.request, HTML, docs::swagger().into(), Some(docs::CSP_DOCS))) })
}

fn redoc(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(whole(call.request, HTML, docs::redoc().into(), Some(docs::CSP_DOCS))) })
}

fn llms(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let text = docs::llms(route::table()?, &call.app.config.public_url);
        Ok(whole(call.request, TEXT, text.into(), None))
    })
}

/// Something small that may change with the next version: the client keeps it and asks each time whether it is still good.
fn whole(request: &Request, content_type: &'static str, body: Bytes, policy: Option<&str>) -> Reply {
    let mut headers = vec![("etag", assets::etag(&body, "")), ("cache-control", "no-cache".to_owned())];
    headers.extend(policy.map(|policy| ("content-security-policy", policy.to_owned())));
    unless_known(request, headers, |headers| Reply::Page { content_type, body, headers })
}

fn asset(call: OpenCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let asset = assets::named(call.request.path("file"))?;
        let (body, gzip) = asset.body(assets::takes_gzip(call.request.header("accept-encoding")))?;
        let mut headers = vec![
            ("etag", asset.etag(gzip)),
            ("cache-control", format!("public, max-age={}", asset.age_max())),
            ("vary", "Accept-Encoding".to_owned()),
        ];
        if gzip {
            headers.push(("content-encoding", "gzip".to_owned()));
        }
        Ok(unless_known(call.request, headers, |headers| Reply::Page { content_type: asset.content_type, body, headers }))
    })
}

/// 304 if the client already has what the `etag` among these headers names (RFC 9110 §13.1.2).
fn unless_known(request: &Request, headers: Headers, reply: impl FnOnce(Headers) -> Reply) -> Reply {
    let etag = headers.iter().find(|(name, _)| *name == "etag").map_or("", |(_, etag)| etag.as_str());
    let known = request.header("if-none-match").unwrap_or_default();
    let has = |entry: &str| entry == "*" || entry.strip_prefix("W/").unwrap_or(entry) == etag;
    if known.split(',').map(str::trim).any(has) { Reply::NotModified { headers } } else { reply(headers) }
}
