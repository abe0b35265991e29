//! Attacks on the way in, each with the answer that it has to get. What is merely malformed or slow is in `wire` and `limits`.

use super::{Running, code, statuses};
use crate::harness::{Answer, Server};
use serde_json::json;
use std::net::SocketAddr;
use tokio::net::TcpSocket;

fn post(fields: &str, body: &str) -> String {
    format!("POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn json_nested_beyond_reason_is_refused() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let send = |body: String| server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).body(body).send();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        // Where any JSON may stand, the reader stops on its way down.
        for field in ["metadata", "template_vars", "tool_results"] {
            let inner = if field == "tool_results" { format!("[{{\"content\":{deep}}}]") } else { format!("{{\"k\":{deep}}}") };
            let answer = send(format!("{{\"message\":\"go\",\"{field}\":{inner}}}")).await.unwrap();
            Answer::read(answer).await.problem(400, "malformed_json");
        }
        // Where a text must stand, it does not begin to go down.
        Answer::read(send(format!("{{\"message\":{deep}}}")).await.unwrap()).await.problem(422, "validation_failed");
    }
    server.get("/healthz", "").await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn compressed_bodies_are_refused_unread() {
    let server = Running::start().await;
    for coding in ["gzip", "br", "deflate", "zstd", "gzip, gzip"] {
        let text = server.tell(post(&format!("Content-Encoding: {coding}\r\nContent-Length: 4\r\n"), "bomb")).await;
        assert_eq!((statuses(&text)[0], code(&text).as_str()), (415, "unsupported_media_type"), "{coding}");
    }
}

#[tokio::test]
async fn a_path_is_taken_as_it_is_written() {
    let server = Running::start().await;
    let tricks = [
        "/api/v1/../../healthz",
        "/%2e%2e/healthz",
        "//healthz",
        "/healthz/",
        "/./healthz",
        "/%68ealthz",
        "/docs/assets/..%2f..%2fCargo.toml",
        "/docs/assets/%2e%2e/%2e%2e/Cargo.toml",
        "/healthz%00",
        "/healthz;a=b",
        "/healthz\\",
    ];
    for path in tricks {
        let text = server.tell(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!([[404], [400]].contains(&[statuses(&text)[0]]), "{path}: {text}");
        assert!(!text.contains("[package]"), "{path}");
    }
}

#[tokio::test]
async fn no_line_break_gets_into_a_head() {
    let server = Running::start().await;
    let injected = "%0d%0aX-Injected:%20yes%0d%0a%0d%0a";
    for path in [format!("/{injected}"), format!("/docs/assets/{injected}"), format!("/api/v1/configs?q={injected}")] {
        let text = server.tell(format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: a{injected}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(statuses(&text).len(), 1, "{path}: {text}");
        assert!(!text.to_lowercase().contains("\r\nx-injected"), "{path}: {text}");
    }
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let server = Running::with(|config| config.limits.connections_per_address_max = 2).await;
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for peer in [&mut first, &mut second] {
        peer.send(request).await;
        assert_eq!(statuses(&peer.rest().await), [200]);
    }
    let mut third = server.connect().await;
    third.send(request).await;
    assert_eq!(third.rest().await, "", "closed without an answer");
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let mut other = super::Peer(elsewhere.connect(server.address).await.unwrap());
    other.send(request).await;
    assert_eq!(statuses(&other.rest().await), [200], "another address is served");
    drop(first);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(statuses(&server.tell(request).await), [200], "its place was given back");
}

#[tokio::test]
async fn cross_origin_requests_are_for_configured_origins_alone() {
    let ask = |method: &str, origin: &str| {
        format!(
            "{method} /healthz HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: GET\r\nConnection: close\r\n\r\n"
        )
    };
    let off = Running::start().await;
    for method in ["GET", "OPTIONS"] {
        let text = off.tell(ask(method, "https://app.example.com")).await;
        assert!(!text.contains("access-control-"), "{text}");
    }
    let on = Running::with(|config| config.cors_origins = vec!["https://app.example.com".to_owned()]).await;
    let text = on.tell(ask("OPTIONS", "https://app.example.com")).await;
    assert_eq!(statuses(&text), [204], "{text}");
    for field in ["access-control-allow-origin: https://app.example.com\r\n", "access-control-allow-methods: GET\r\n", "vary: Origin\r\n"] {
        assert!(text.contains(field), "{field}: {text}");
    }
    let text = on.tell(ask("GET", "https://app.example.com")).await;
    assert!(statuses(&text) == [200] && text.contains("access-control-allow-origin: https://app.example.com\r\n"), "{text}");
    assert!(!text.contains("access-control-allow-credentials"), "{text}");
    assert!(text.contains("x-request-id, x-turn-id\r\n"), "a page may read what it needs to cancel and follow a turn: {text}");
    for stranger in
        ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null", "https://APP.example.com"]
    {
        let text = on.tell(ask("OPTIONS", stranger)).await;
        assert!(statuses(&text) == [405] && !text.contains("access-control-"), "{stranger}: {text}");
        assert!(on.tell(ask("GET", stranger)).await.contains("vary: Origin\r\n"), "{stranger}");
    }
}

#[tokio::test]
async fn no_request_chooses_where_the_server_calls() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let inside = format!("{}/metrics", server.base);
    // In every place where other gateways take an address.
    let redirecting = [
        json!({"base_url": inside}),
        json!({"api_base": inside}),
        json!({"endpoint": inside}),
        json!({"url": inside}),
        json!({"api_key": "mine"}),
        json!({"extra_headers": {"Host": "169.254.169.254"}}),
        json!({"provider": "http://169.254.169.254/v1"}),
        json!({"provider": "fake-openai@127.0.0.1"}),
        json!({"fallbacks": [{"provider": "fake-openai", "model": "smart", "base_url": inside}]}),
        json!({"fallbacks": [{"provider": inside, "model": "smart"}]}),
    ];
    for extra in redirecting {
        let body = crate::harness::config_body("A name", "fake-openai", "smart", &json!({"model_config": extra}));
        let answer = server.post("/api/v1/configs", &tenant.key, &body).await;
        if answer.status == 201 {
            // A provider's name may be written before the operator sets it up; it leads nowhere.
            let answer = server.chat(&tenant.key, &answer.text("/id"), &json!({"message": "go"})).await;
            assert!([422, 503].contains(&answer.status), "{extra}: {}", answer.body);
        } else {
            answer.problem(422, "validation_failed");
        }
    }
    // Nor does a model's name, which some wires put into the path.
    for model in ["../../metrics", "smart?x=", "smart/../../x", "http://127.0.0.1/"] {
        let body = crate::harness::config_body(model, "fake-openai", model, &json!({}));
        let made = server.post("/api/v1/configs", &tenant.key, &body).await;
        if made.status == 201 {
            server.chat(&tenant.key, &made.text("/id"), &json!({"message": "go"})).await.problem(503, "pricing_unavailable");
        }
    }
    assert_eq!(server.vendor.call_count(), 0);
    server.done().await;
}
