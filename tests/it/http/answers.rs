//! What every answer has: an id, headers that keep browsers careful, problems that explain themselves, pages that stay at home.

use super::{Running, code, statuses};
use nimblesite::config::Secret;
use serde_json::Value;
use std::time::Duration;

fn client() -> reqwest::Client {
    reqwest::Client::builder().build().unwrap()
}

#[tokio::test]
async fn an_unknown_path_gets_a_whole_problem() {
    let server = Running::start().await;
    let answer = client().get(server.url("/api/v1/nowhere")).header("x-request-id", "mine").send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let id = headers["x-request-id"].to_str().unwrap().to_owned();
    assert_ne!(id, "mine");
    let mut body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(body["request_id"], Value::String(id));
    body["request_id"] = "[id]".into();
    insta::assert_json_snapshot!((status.as_u16(), body), @r#"
    [
      404,
      {
        "type": "http://127.0.0.1:8080/docs/errors#not_found",
        "title": "There is no such thing",
        "status": 404,
        "detail": "No route has this path. /openapi.json and /docs list them all; paths have no trailing slash.",
        "code": "not_found",
        "request_id": "[id]",
        "errors": []
      }
    ]
    "#);
    let shown = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(shown("content-type").as_deref(), Some("application/problem+json"));
    assert_eq!(shown("cache-control").as_deref(), Some("no-store"));
    assert_eq!(shown("x-content-type-options").as_deref(), Some("nosniff"));
    assert_eq!(shown("content-security-policy").as_deref(), Some("default-src 'none'; frame-ancestors 'none'"));
    assert_eq!(shown("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones_and_head_has_no_body() {
    let server = Running::start().await;
    let text = server.tell("DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((statuses(&text).as_slice(), code(&text).as_str()), (&[405][..], "method_not_allowed"));
    assert!(text.contains("\r\nallow: GET, HEAD\r\n"), "{text}");

    let get = server.tell("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let head = server.tell("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let length = get.split("\r\n").find(|line| line.starts_with("content-length: ")).unwrap();
    assert!(head.contains(length), "{head}");
    assert_eq!(statuses(&head), [200, 200], "the second answer must follow right behind the first one's head: {head}");
    assert!(!head.split("HTTP/1.1 200").nth(1).unwrap().contains("\"ok\""));
}

#[tokio::test]
async fn health_readiness_and_version_answer_anyone() {
    let server = Running::start().await;
    for (path, expected) in [("/healthz", r#"{"status":"ok"}"#), ("/readyz", r#"{"status":"ok"}"#)] {
        let answer = client().get(server.url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        assert_eq!(answer.bytes().await.unwrap(), expected, "{path}");
    }
    let full = Running::with(|config| config.limits.disk_free_bytes_min = usize::MAX).await;
    assert_eq!(client().get(full.url("/readyz")).send().await.unwrap().status().as_u16(), 507);
    let text = server.tell("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
}

#[tokio::test]
async fn metrics_count_requests_and_name_no_caller() {
    let server = Running::start().await;
    client().get(server.url("/healthz")).send().await.unwrap();
    client().get(server.url("/some-path-of-a-caller")).send().await.unwrap();
    let text = server.tell("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(text.contains(r#"nimblesite_http_requests_total{group="Operations",status="2xx"} 1"#), "{text}");
    assert!(text.contains(r#"nimblesite_http_requests_total{group="none",status="4xx"} 1"#), "{text}");
    assert!(text.contains(r#"nimblesite_level{name="tenants_open"} 0"#), "{text}");
    assert!(!text.contains("some-path"), "{text}");

    let proxied = server.tell("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n").await;
    assert_eq!(statuses(&proxied), [404], "without an operator token these are for this machine alone: {proxied}");
    let guarded = Running::with(|config| config.operator_token = Some(Secret::new("the operator's own".to_owned()))).await;
    let ask = |fields: &str| guarded.tell(format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\n{fields}\r\n"));
    assert_eq!(code(&ask("").await), "missing_credentials");
    assert_eq!(code(&ask("Authorization: Bearer guess\r\n").await), "invalid_token");
    assert_eq!(statuses(&ask("Authorization: Bearer the operator's own\r\n").await), [200]);
}

#[tokio::test]
async fn pages_are_kept_by_clients_and_load_nothing_from_elsewhere() {
    let server = Running::start().await;
    for path in [
        "/",
        "/docs",
        "/redoc",
        "/docs/errors",
        "/openapi.json",
        "/llms.txt",
        "/docs/assets/swagger-ui-bundle.js",
        "/dashboard/assets/app.css",
    ] {
        let first = client().get(server.url(path)).send().await.unwrap();
        assert_eq!(first.status().as_u16(), 200, "{path}");
        let policy = first.headers().get("content-security-policy").unwrap().to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("http") && !policy.contains('*'), "{path}: {policy}");
        let etag = first.headers()["etag"].clone();
        let again = client().get(server.url(path)).header("if-none-match", etag).send().await.unwrap();
        assert_eq!(again.status().as_u16(), 304, "{path}");
        assert!(again.bytes().await.unwrap().is_empty());
    }
    let problem = client().get(server.url("/docs/assets/../../Cargo.toml")).send().await.unwrap();
    assert_eq!(problem.status().as_u16(), 404);
}

#[tokio::test]
async fn large_assets_go_out_as_gzip_only_to_those_who_take_it() {
    let server = Running::start().await;
    let get =
        |encoding: &'static str| client().get(server.url("/docs/assets/redoc.standalone.js")).header("accept-encoding", encoding).send();
    let packed = get("gzip, br").await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert_eq!(packed.headers()["vary"], "Accept-Encoding");
    let packed_tag = packed.headers()["etag"].clone();
    assert!(packed.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
    let plain = get("identity").await.unwrap();
    assert!(plain.headers().get("content-encoding").is_none());
    assert_ne!(plain.headers()["etag"], packed_tag);
    assert!(plain.text().await.unwrap().contains("Redoc"));
}

#[tokio::test]
async fn the_document_lists_what_the_server_answers() {
    let server = Running::start().await;
    let document = client().get(server.url("/openapi.json")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(document, nimblesite::http::document().unwrap());
    let document: Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["openapi"].as_str().unwrap().get(..3), Some("3.1"));
    for (path, methods) in document["paths"].as_object().unwrap() {
        let answer = client().get(server.url(&path.replace(['{', '}'], "-"))).send().await.unwrap();
        let status = answer.status().as_u16();
        match methods.get("get") {
            None => assert_eq!(status, 405, "{path}"),
            Some(_) => assert_ne!(status, 405, "{path}"),
        }
    }
}

/// At their worst: every group of endpoints with every class of status, every wire with every outcome.
#[test]
fn no_number_of_tenants_models_or_keys_makes_more_than_200_series() {
    let metrics = nimblesite::metrics::Metrics::new();
    let took = Duration::from_millis(1);
    let tags = nimblesite::http::table().unwrap().endpoints().map(|endpoint| endpoint.tag).collect::<Vec<_>>();
    for group in tags.into_iter().chain(["none"]) {
        for status in [200, 304, 404, 500] {
            metrics.request(group, status, took);
        }
    }
    for wire in ["anthropic", "openai", "ollama", "echo"] {
        for outcome in ["answered", "unreachable", "refused", "broken", "cancelled"] {
            metrics.vendor_call(wire, outcome, took);
        }
    }
    ["completed", "tool_calls", "failed", "cancelled", "refused"].into_iter().for_each(|outcome| metrics.turn(outcome));
    ["settled", "estimated", "free"].into_iter().for_each(|outcome| metrics.step(outcome));
    ["taken", "refused", "settled", "released"].into_iter().for_each(|outcome| metrics.hold(outcome));
    ["ok", "refused", "busy"].into_iter().for_each(|outcome| metrics.key_check(outcome));
    ["tenants_open", "key_checks", "key_checks_made", "password_checks", "turns"].into_iter().for_each(|name| metrics.level(name, 1));
    let series = metrics.text().unwrap().lines().filter(|line| !line.starts_with('#')).count();
    assert!((100..=200).contains(&series), "{series}");
}
