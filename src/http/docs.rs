//! The pages that explain the server: what it is, its errors, the two readers of the OpenAPI document, and the text for agents that want to
//! integrate. All of it is in the binary or made from the endpoint table; no page loads anything from elsewhere.

use super::{
    codes,
    endpoint::{Endpoint, Handler},
    route::Table,
};
use std::fmt::Write;

/// For our own pages: nothing but what this server has.
pub(super) const CSP_PAGE: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";
/// For Swagger UI and Redoc. Both put styles into the page as they run, and Redoc searches in a worker that it makes from a blob. Redoc also
/// asks for its maker's logo; the policy keeps that request from leaving, and Redoc then leaves the picture out.
pub(super) const CSP_DOCS: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The head and the bar that every page of the documentation has; `more` are its own files, `body` what stands below the bar.
fn page(title: &str, path: &str, more: &str, body: &str) -> String {
    let mut links = String::new();
    for (target, name) in [("/docs", "Try the API"), ("/redoc", "Read the API"), ("/docs/errors", "Errors"), ("/dashboard", "Dashboard")] {
        let here = if target == path { " aria-current=\"page\"" } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(links, "<a href=\"{target}\"{here}>{name}</a>");
    }
    format!(
        r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/svg+xml" href="/dashboard/assets/logo.svg">
{more}<link rel="stylesheet" href="/dashboard/assets/app.css">
<script src="/dashboard/assets/theme.js"></script>
<script src="/dashboard/assets/app.js" defer></script>
</head>
<body class="paper">
<a class="skip" href="#main">Skip to content</a>
<header class="bar"><a class="brand" href="/"><svg class="logo" aria-hidden="true"><use href="/dashboard/assets/icons.svg#logo"/></svg>Nimblesite</a>
<nav class="bar-links" aria-label="Pages">{links}
<button class="icon-button" type="button" data-theme-toggle aria-label="Change theme"><svg class="icon" aria-hidden="true">
<use href="/dashboard/assets/icons.svg#theme"/></svg></button></nav></header>
{body}</body>
</html>
"##
    )
}

/// A reader of the OpenAPI document, in place of which a browser without scripts gets a link.
fn reader(path: &str, more: &str, place: &str) -> String {
    let body = format!(
        "<main id=\"main\" class=\"reader\" tabindex=\"-1\"><h1 class=\"sr-only\">Nimblesite API</h1><div id=\"{place}\"></div>\
         <noscript>The document itself is at <a href=\"/openapi.json\">/openapi.json</a>.</noscript></main>\n"
    );
    page("Nimblesite API", path, more, &body)
}

/// Swagger UI.
pub(super) fn swagger() -> String {
    reader(
        "/docs",
        r#"<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="stylesheet" href="/docs/assets/docs.css">
<script src="/docs/assets/swagger-ui-bundle.js" defer></script>
<script src="/docs/assets/swagger.js" defer></script>
"#,
        "swagger-ui",
    )
}

/// Redoc.
pub(super) fn redoc() -> String {
    reader(
        "/redoc",
        r#"<link rel="stylesheet" href="/docs/assets/docs.css">
<script src="/docs/assets/redoc.standalone.js" defer></script>
<script src="/docs/assets/redoc.js" defer></script>
"#,
        "redoc",
    )
}

/// What a person sees who opens the server's address.
pub(super) fn home() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let card = |target: &str, icon: &str, title: &str, text: &str| {
        format!(
            "<a class=\"card card-body door\" href=\"{target}\"><svg class=\"icon\" aria-hidden=\"true\">\
             <use href=\"/dashboard/assets/icons.svg#{icon}\"/></svg><h2>{title}</h2><p>{text}</p></a>\n"
        )
    };
    let doors = [
        card("/dashboard", "overview", "See and steer", "Your agents, conversations, keys and credit, in the dashboard."),
        card("/docs", "playground", "Try the API", "Every call with its fields, in Swagger UI, against this server."),
        card("/redoc", "logs", "Read the API", "The same document to read from top to bottom, in Redoc."),
        card("/llms.txt", "agents", "Brief an agent", "One page of text for the agent that writes your integration."),
        card("/openapi.json", "link", "Generate a client", "The contract for programs, OpenAPI 3.1."),
        card("/docs/errors", "alert", "Look up an error", "Every code, what it means and what to do about it."),
    ]
    .concat();
    page(
        "Nimblesite",
        "/",
        "",
        &format!(
            "<main id=\"main\" tabindex=\"-1\">\n<div class=\"hero\"><h1>Agents as a service, in one binary.</h1>\n<p class=\"lede\">This server holds \
             agent configs, conversations and prepaid credit for its tenants, each in a database file of its own, and lets their programs chat over \
             HTTP.</p>\n<div class=\"actions\"><a class=\"button primary\" href=\"/dashboard\">Open the dashboard</a>\
             <a class=\"button\" href=\"/docs\">Try the API</a></div></div>\n<div class=\"grid\">\n{doors}</div>\n<p class=\"muted\">Version {version}.</p>\n</main>\n"
        ),
    )
}

/// Every code; problem types point to its rows.
pub(super) fn errors() -> String {
    let mut rows = String::new();
    for code in codes::ALL {
        let meaning = in_code_tags(code.meaning);
        let (name, status, title) = (code.code, code.status, code.title);
        // Writing to a String cannot fail.
        let _ = writeln!(rows, "<tr id=\"{name}\"><td>{status}</td><td><code>{name}</code></td><td>{title}. {meaning}</td></tr>");
    }
    page(
        "Error codes – Nimblesite",
        "/docs/errors",
        "",
        &format!(
            "<main id=\"main\" tabindex=\"-1\">\n<h1>Error codes</h1>\n<p class=\"lede\">Errors are <code>application/problem+json</code> (RFC 9457). Programs \
             look at <code>code</code>; people read <code>detail</code>, which says what to do; operators want <code>request_id</code>.</p>\n\
             <section class=\"card\" aria-label=\"Codes\"><div class=\"table-wrap\" tabindex=\"0\"><table class=\"table\">\n<thead><tr><th>Status</th><th>Code</th>\
             <th>Meaning</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div></section>\n</main>\n"
        ),
    )
}

/// Our own words: backticks become code tags, and the characters that HTML would take as its own are written out.
fn in_code_tags(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.split('`').enumerate().map(|(n, part)| if n % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}

/// The briefing for agents.
pub(super) fn llms(table: &Table, base: &str) -> String {
    include_str!("assets/llms.md")
        .replace("{{base}}", base)
        .replace("{{version}}", env!("CARGO_PKG_VERSION"))
        .replace("{{endpoints}}", &endpoint_list(table))
        .replace("{{errors}}", &error_list())
}

fn endpoint_list(table: &Table) -> String {
    let mut text = String::new();
    let mut tag = "";
    for endpoint in table.endpoints().filter(|endpoint| endpoint.path.starts_with("/api/")) {
        if endpoint.tag != tag {
            tag = endpoint.tag;
            let _ = writeln!(text, "\n### {tag}\n");
        }
        let _ = writeln!(text, "- `{} {}` ({}): {}", endpoint.method, endpoint.path, who(endpoint), endpoint.summary);
    }
    text.trim().to_owned()
}

fn who(endpoint: &Endpoint) -> String {
    match endpoint.handler {
        Handler::Open(_) | Handler::Credentials(_) => "anyone".to_owned(),
        Handler::User(_) => "user token".to_owned(),
        Handler::Tenant(role, _) => format!("key: {}", role.name()),
        Handler::TenantOrUser(role, ..) => format!("key: {}, or user token", role.name()),
        Handler::Operator(_) | Handler::Ops(_) | Handler::OperatorPage(_) => "operator".to_owned(),
        Handler::Session(_) | Handler::Page(..) => "dashboard".to_owned(),
    }
}

fn error_list() -> String {
    let lines: Vec<_> =
        codes::ALL.iter().map(|code| format!("- {} `{}`: {}. {}", code.status, code.code, code.title, code.meaning)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_load_nothing_from_elsewhere() {
        for page in [home(), errors(), swagger(), redoc()] {
            for found in page.match_indices("src=\"").chain(page.match_indices("href=\"")) {
                let target = &page[found.0 + found.1.len()..];
                assert!(target.starts_with('/') && !target.starts_with("//") || target.starts_with('#'), "{}", &target[..20]);
            }
        }
    }

    #[test]
    fn the_briefing_is_filled_in() {
        let text = llms(super::super::route::table().unwrap(), "http://127.0.0.1:8080");
        assert!(
            !text.contains("{{base")
                && !text.contains("{{e")
                && text.contains("`insufficient_credit`")
                && text.contains("http://127.0.0.1:8080/api/v1/chat/")
        );
    }
}
