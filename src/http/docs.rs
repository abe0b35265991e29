//! The pages that explain the server: what it is, its errors, the two readers of the OpenAPI document, and the text for agents that want to
//! integrate. All of it is in the binary or made from the endpoint table; no page loads anything from elsewhere.

use super::{
    codes,
    endpoint::{Endpoint, Handler},
    route::Table,
};
use std::fmt::Write;

/// For our own pages: no script at all.
pub(super) const CSP_PAGE: &str =
    "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// For Swagger UI and Redoc. Both put styles into the page as they run, and Redoc searches in a worker that it makes from a blob. Redoc also
/// asks for its maker's logo; the policy keeps that request from leaving, and Redoc then leaves the picture out.
pub(super) const CSP_DOCS: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Swagger UI.
pub(super) const SWAGGER: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Nimblesite API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<script src="/docs/assets/swagger-ui-bundle.js" defer></script>
<script src="/docs/assets/swagger.js" defer></script>
</head>
<body><div id="swagger-ui"></div><noscript>The document itself is at <a href="/openapi.json">/openapi.json</a>.</noscript></body>
</html>
"#;

/// Redoc.
pub(super) const REDOC: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Nimblesite API</title>
<link rel="icon" href="data:,">
<script src="/docs/assets/redoc.standalone.js" defer></script>
<script src="/docs/assets/redoc.js" defer></script>
</head>
<body style="margin:0"><div id="redoc"></div><noscript>The document itself is at <a href="/openapi.json">/openapi.json</a>.</noscript></body>
</html>
"#;

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"/docs/assets/page.css\">\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

/// What a person sees who opens the server's address.
pub(super) fn home() -> String {
    let version = env!("CARGO_PKG_VERSION");
    page(
        "Nimblesite",
        &format!(
            "<h1>Nimblesite</h1>\n<p>Agents as a service. This server holds agent configs, conversations and prepaid credit for its tenants,\n\
             each in a database file of its own, and lets their programs chat over HTTP.</p>\n<ul>\n\
             <li><a href=\"/docs\">Try the API</a> (Swagger UI), or <a href=\"/redoc\">read it</a> (Redoc)</li>\n\
             <li><a href=\"/openapi.json\">/openapi.json</a>, the contract for programs</li>\n\
             <li><a href=\"/llms.txt\">/llms.txt</a>, a briefing for agents that integrate</li>\n\
             <li><a href=\"/docs/errors\">Every error code</a> and what to do about it</li>\n</ul>\n\
             <p>Version {version}.</p>\n"
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
        "Error codes",
        &format!(
            "<h1>Error codes</h1>\n<p>Errors are <code>application/problem+json</code> (RFC 9457). Programs look at <code>code</code>; \
             people read <code>detail</code>, which says what to do; operators want <code>request_id</code>.</p>\n\
             <table>\n<thead><tr><th>Status</th><th>Code</th><th>Meaning</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
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
        for page in [home(), errors(), SWAGGER.to_owned(), REDOC.to_owned()] {
            for found in page.match_indices("src=\"").chain(page.match_indices("href=\"")) {
                let target = &page[found.0 + found.1.len()..];
                assert!(target.starts_with('/') && !target.starts_with("//") || target.starts_with("data:,"), "{}", &target[..20]);
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
