//! Every refusal of the contract, with its body: none costs money, none leaves a half-written row.

use crate::{
    check,
    fake_provider::{At, Gate, Reply},
    harness::{Answer, OPERATOR, Server, Settings, Tenant, config_body},
};
use nimblesite::http::codes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A server with everything that can be refused.
struct World {
    server: Server,
    tenant: Tenant,
    config: String,
    conversation: String,
}

impl World {
    async fn of(settings: Settings) -> Self {
        let server = settings.start().await;
        let tenant = server.rich_tenant("Acme").await;
        let extra = json!({"tools_config": ["look"], "system_prompt": "Speak to {who}."});
        let config = server.config(&tenant, "fake-anthropic", "smart", &extra).await;
        server.vendor.then(Reply::text("Yes."));
        let body = json!({"message": "go", "template_vars": {"who": "Ada"}});
        let conversation = server.chat(&tenant.key, &config, &body).await.expect(200).text("/conversation_id");
        Self { server, tenant, config, conversation }
    }

    /// Runs a request that must be refused: no row is written but for logs, no vendor called, no money moved.
    async fn refused(&self, status: u16, code: &str, ask: impl Future<Output = Answer>) -> Answer {
        let before = (self.server.rows(), self.server.vendor.call_count(), self.server.wallet(&self.tenant.key).await);
        let answer = ask.await.problem(status, code);
        let after = (self.server.rows(), self.server.vendor.call_count(), self.server.wallet(&self.tenant.key).await);
        assert_eq!(before, after, "{code} changed something");
        answer
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        let request = self.server.request("POST", path, &self.tenant.key).body(body.to_owned());
        Answer::read(request.send().await.unwrap()).await
    }

    fn chat(&self) -> String {
        format!("/api/v1/chat/{}", self.config)
    }
}

/// Bytes on a bare socket, and what comes back: a status and a body, as an [`Answer`] would have them.
async fn raw(server: &Server, bytes: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    // The server may close before it has read all: that is its right, and the answer is what counts.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    drop(tokio::time::timeout(crate::fake_provider::PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time"));
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

#[tokio::test]
async fn what_cannot_be_parsed_is_400() {
    let world = World::of(Settings::default()).await;
    for broken in [" ", "{", "{\"message\": \"go\",}", "{\"message\": \"go\"} {}", "\u{feff}{}", "{\"message\": \"\\ud800\"}"] {
        world.refused(400, "malformed_json", world.post(&world.chat(), broken)).await;
    }
    let invalid = world.server.request("POST", &world.chat(), &world.tenant.key).body(b"{\"message\": \"\xff\xfe\"}".to_vec());
    let answer = world.refused(400, "malformed_json", async { Answer::read(invalid.send().await.unwrap()).await }).await;
    check!(answer, @r#"
    400  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#malformed_json",
      "title": "The body is not JSON",
      "status": 400,
      "detail": "The body is not valid JSON: invalid unicode code point at line 1 column 14.",
      "code": "malformed_json",
      "request_id": "<id 1>",
      "errors": []
    }
    "#);
    let answer = world.refused(400, "malformed_json", world.post(&world.chat(), "{\"message\": \"go")).await;
    check!(answer, @r#"
    400  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#malformed_json",
      "title": "The body is not JSON",
      "status": 400,
      "detail": "The body is not valid JSON: EOF while parsing a string at line 1 column 15.",
      "code": "malformed_json",
      "request_id": "<id 1>",
      "errors": []
    }
    "#);
    let two = world.server.request("GET", "/api/v1/configs", &world.tenant.key).header("Authorization", "Bearer ns_live_other");
    let answer = world.refused(400, "malformed_request", async { Answer::read(two.send().await.unwrap()).await }).await;
    check!(answer, @r#"
        400
        {
          "type": "http://<address>/docs/errors#malformed_request",
          "title": "The request could not be parsed",
          "status": 400,
          "detail": "X-API-Key and Authorization name two different credentials. Send one.",
          "code": "malformed_request",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    world.server.done().await;
}

#[tokio::test]
async fn who_is_not_known_is_401_or_403() {
    let world = World::of(Settings::default()).await;
    let server = &world.server;
    check!(world.refused(401, "missing_credentials", server.get("/api/v1/configs", "")).await, @r#"
        401
        {
          "type": "http://<address>/docs/errors#missing_credentials",
          "title": "No credential was sent",
          "status": 401,
          "detail": "Send your API key as `X-API-Key: <key prefix>…`; on /api/v1/auth and /api/v1/tenants, a user token as `Authorization: Bearer <token>…`; on /api/v1/operator, the operator token as `Authorization: Bearer …`.",
          "code": "missing_credentials",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    check!(world.refused(401, "invalid_api_key", server.get("/api/v1/configs", "ns_live_x_y_z")).await, @r#"
        401
        {
          "type": "http://<address>/docs/errors#invalid_api_key",
          "title": "The API key does not work",
          "status": 401,
          "detail": "The API key is unknown, wrong, revoked or expired. Check that it was copied whole, or make a new one.",
          "code": "invalid_api_key",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    check!(world.refused(401, "invalid_token", server.get("/api/v1/auth/me", "nu_x")).await, @r#"
        401
        {
          "type": "http://<address>/docs/errors#invalid_token",
          "title": "The token does not work",
          "status": 401,
          "detail": "The token is unknown, already used, revoked or expired. Sign in again, or ask for a new mail; on /api/v1/operator, check the server's operator_token.",
          "code": "invalid_token",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    let login = json!({"email": world.tenant.owner.email, "password": "not the password"});
    let wrong = world.refused(401, "invalid_login", server.post("/api/v1/auth/login", "", &login)).await;
    let login = json!({"email": "nobody@example.com", "password": "not the password"});
    let unknown = world.refused(401, "invalid_login", server.post("/api/v1/auth/login", "", &login)).await;
    assert_eq!(wrong.shown(), unknown.shown(), "no answer says which addresses are known");
    check!(wrong, @r#"
        401
        {
          "type": "http://<address>/docs/errors#invalid_login",
          "title": "The address or the password is wrong",
          "status": 401,
          "detail": "The address or the password is wrong. If you forgot it, POST /api/v1/auth/password/forgot.",
          "code": "invalid_login",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    let viewer = server.key(&world.tenant, "viewer").await.0;
    let body = json!({"message": "go"});
    check!(world.refused(403, "insufficient_role", server.post(&world.chat(), &viewer, &body)).await, @r#"
        403
        {
          "type": "http://<address>/docs/errors#insufficient_role",
          "title": "The key's role may not do this",
          "status": 403,
          "detail": "This needs the role member or a stronger one. An admin can make such a key, if your membership allows it.",
          "code": "insufficient_role",
          "request_id": "<id 1>",
          "errors": [],
          "required_role": "member"
        }
    "#);
    let ada = json!({"email": "eve@example.com", "password": "a long enough password"});
    server.post("/api/v1/auth/register", "", &ada).await.expect(202);
    server.mail_to("eve@example.com").await;
    check!(world.refused(403, "email_not_verified", server.post("/api/v1/auth/login", "", &ada)).await, @r#"
        403
        {
          "type": "http://<address>/docs/errors#email_not_verified",
          "title": "The e-mail address is not verified",
          "status": 403,
          "detail": "POST the token from the verification mail to /api/v1/auth/verify first; registering again sends a new one.",
          "code": "email_not_verified",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    let suspend = format!("/api/v1/operator/tenants/{}/suspend", world.tenant.id);
    server.post(&suspend, OPERATOR, &json!({})).await.expect(200);
    check!(world.refused(403, "tenant_suspended", server.post(&world.chat(), &world.tenant.key, &body)).await, @r#"
    403  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#tenant_suspended",
      "title": "The tenant is suspended",
      "status": 403,
      "detail": "The operator has suspended this tenant: reading works, chat does not. Ask the operator.",
      "code": "tenant_suspended",
      "request_id": "<id 1>",
      "errors": []
    }
    "#);
    world.server.done().await;
}

#[tokio::test]
async fn a_closed_server_takes_nobody_new() {
    let server = Settings::default().toml("signup = \"closed\"").start().await;
    let rows = server.rows();
    let eve = json!({"email": "eve@example.com", "password": "a long enough password"});
    check!(server.post("/api/v1/auth/register", "", &eve).await.problem(403, "signup_closed"), @r#"
        403
        {
          "type": "http://<address>/docs/errors#signup_closed",
          "title": "Sign-up is closed",
          "status": 403,
          "detail": "Sign-up is closed on this server. Ask its operator, or a tenant's admin, for an invitation.",
          "code": "signup_closed",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    assert_eq!(server.rows(), rows);
    server.done().await;
}

#[tokio::test]
async fn what_cannot_be_paid_is_402_or_429() {
    let world = World::of(Settings::default()).await;
    let server = &world.server;
    let poor = server.tenant("Poor").await;
    let config = server.config(&poor, "fake-anthropic", "smart", &json!({})).await;
    let chat = format!("/api/v1/chat/{config}");
    check!(world.refused(402, "insufficient_credit", server.post(&chat, &poor.key, &json!({"message": "go"}))).await, @r#"
    402  x-credit-available: 0.000000000
    {
      "type": "http://<address>/docs/errors#insufficient_credit",
      "title": "The balance does not cover this call",
      "status": 402,
      "detail": "This call may cost up to $0.002355000, and $0.000000000 is available. Add credit, lower max_tokens, or choose a cheaper model.",
      "code": "insufficient_credit",
      "request_id": "<id 1>",
      "errors": [],
      "required": "0.002355000",
      "available": "0.000000000"
    }
    "#);
    let (key, _) = server.key_with(&world.tenant, &json!({"name": "ci", "role": "member", "spend_limit": "0.000000001"})).await;
    let body = json!({"message": "go", "template_vars": {"who": "Ada"}});
    check!(world.refused(402, "key_spend_limit", server.post(&world.chat(), &key, &body)).await, @r#"
    402  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#key_spend_limit",
      "title": "The key's own spend limit is reached",
      "status": 402,
      "detail": "This key may spend $0.000000001 in all and has spent $0.000000000; the call does not fit below the limit. Raise the key's spend_limit or use another key.",
      "code": "key_spend_limit",
      "request_id": "<id 1>",
      "errors": [],
      "spend_limit": "0.000000001",
      "spent": "0.000000000"
    }
    "#);
    server.credit(&poor, "0.005").await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("Slow.").stall(At::BeforeHead, &gate));
    let body = json!({"message": "go"});
    let (first, ()) = tokio::join!(server.post(&chat, &poor.key, &body), async {
        server.vendor.called(2).await;
        check!(world.refused(429, "credit_reserved", server.post(&chat, &poor.key, &body)).await, @r#"
        429  retry-after: 1  x-credit-available: 0.000005000
        {
          "type": "http://<address>/docs/errors#credit_reserved",
          "title": "All credit that is left is reserved by running turns",
          "status": 429,
          "detail": "This call may cost up to $0.002355000; $0.000005000 is free while running turns hold the rest. Try again in a second.",
          "code": "credit_reserved",
          "request_id": "<id 1>",
          "errors": [],
          "required": "0.002355000",
          "available": "0.000005000"
        }
        "#);
        gate.open();
    });
    first.expect(200);
    world.server.done().await;
}

#[tokio::test]
async fn what_is_not_there_is_404_or_405() {
    let world = World::of(Settings::default()).await;
    let server = &world.server;
    let key = &world.tenant.key;
    let nobody = "0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d";
    check!(world.refused(404, "not_found", server.get(&format!("/api/v1/configs/{nobody}"), key)).await, @r#"
        404
        {
          "type": "http://<address>/docs/errors#not_found",
          "title": "There is no such thing",
          "status": 404,
          "detail": "There is no config with the id \"<id 1>\".",
          "code": "not_found",
          "request_id": "<id 2>",
          "errors": []
        }
    "#);
    check!(world.refused(404, "not_found", server.get("/api/v1/nothing", key)).await, @r#"
        404
        {
          "type": "http://<address>/docs/errors#not_found",
          "title": "There is no such thing",
          "status": 404,
          "detail": "No route has this path. /openapi.json and /docs list them all; paths have no trailing slash.",
          "code": "not_found",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    check!(world.refused(405, "method_not_allowed", server.call("PUT", "/api/v1/wallet", key, None)).await, @r#"
        405  allow: GET, HEAD
        {
          "type": "http://<address>/docs/errors#method_not_allowed",
          "title": "The path does not take this method",
          "status": 405,
          "detail": "This path takes GET, HEAD.",
          "code": "method_not_allowed",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    for path in [format!("/api/v1/chat/{nobody}"), "/api/v1/chat/x".to_owned(), "/api/v1/chat/%2e%2e".to_owned()] {
        world.refused(404, "not_found", server.post(&path, key, &json!({"message": "go"}))).await;
    }
    let body = json!({"message": "go", "conversation_id": nobody});
    world.refused(404, "not_found", server.post(&world.chat(), key, &body)).await;
    world.server.done().await;
}

#[tokio::test]
async fn requests_that_are_too_much_or_too_slow_have_their_codes() {
    let world = World::of(Settings::default().limit("body_timeout_ms", 100).limit("body_bytes_max", 10_000)).await;
    let server = &world.server;
    let key = &world.tenant.key;
    let large = json!({"message": "x".repeat(20_000)});
    check!(world.refused(413, "body_too_large", server.post(&world.chat(), key, &large)).await, @r#"
        413
        {
          "type": "http://<address>/docs/errors#body_too_large",
          "title": "The body is too large",
          "status": 413,
          "detail": "The body may have 10000 bytes.",
          "code": "body_too_large",
          "request_id": "<id 1>",
          "errors": [],
          "limit_bytes": 10000
        }
    "#);
    let long = format!("/api/v1/configs?q={}", "x".repeat(9_000));
    check!(world.refused(414, "uri_too_long", server.get(&long, key)).await, @r#"
        414
        {
          "type": "http://<address>/docs/errors#uri_too_long",
          "title": "Path and query are too long",
          "status": 414,
          "detail": "Path and query together may have 8192 bytes.",
          "code": "uri_too_long",
          "request_id": "<id 1>",
          "errors": [],
          "limit_bytes": 8192
        }
    "#);
    let form = server.request("POST", &world.chat(), key).header("Content-Type", "multipart/form-data; boundary=x").body("--x--");
    let answer = world.refused(415, "unsupported_media_type", async { Answer::read(form.send().await.unwrap()).await }).await;
    check!(answer, @r#"
        415
        {
          "type": "http://<address>/docs/errors#unsupported_media_type",
          "title": "Bodies are plain JSON",
          "status": 415,
          "detail": "Send the body as JSON: no multipart form, no Content-Encoding.",
          "code": "unsupported_media_type",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    let headers = server.request("GET", "/api/v1/configs", key).header("X-Large", "x".repeat(40_000));
    let answer = Answer::read(headers.send().await.unwrap()).await;
    assert_eq!((answer.status, answer.code()), (431, "headers_too_large".to_owned()));
    let rows = server.rows();
    let head = format!("POST {} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n", world.chat());
    let (status, body) = raw(server, format!("{head}\r\n").as_bytes()).await;
    assert_eq!((status, &body["code"]), (411, &json!("length_required")), "{body}");
    let (status, body) = raw(server, format!("{head}Content-Length: 50\r\n\r\n{{\"message\"").as_bytes()).await;
    assert_eq!((status, &body["code"]), (408, &json!("request_timeout")), "{body}");
    assert_eq!((server.rows(), server.vendor.call_count()), (rows, 1));
    world.server.done().await;
}

#[tokio::test]
async fn what_conflicts_is_409() {
    let world = World::of(Settings::default()).await;
    let server = &world.server;
    let key = &world.tenant.key;
    let first = config_body("Taken", "echo", "echo", &json!({}));
    server.post("/api/v1/configs", key, &first).await.expect(201);
    check!(world.refused(409, "config_name_taken", server.post("/api/v1/configs", key, &first)).await, @r#"
        409
        {
          "type": "http://<address>/docs/errors#config_name_taken",
          "title": "Another config has this name",
          "status": 409,
          "detail": "Another config of this tenant is called \"Taken\". Choose another name.",
          "code": "config_name_taken",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    let rename = json!({"name": "Taken"});
    world.refused(409, "config_name_taken", server.patch(&format!("/api/v1/configs/{}", world.config), key, &rename)).await;
    let me = format!("/api/v1/members/{}", world.tenant.owner.id);
    check!(world.refused(409, "last_owner", server.delete(&me, key)).await, @r#"
        409
        {
          "type": "http://<address>/docs/errors#last_owner",
          "title": "The last owner stays",
          "status": 409,
          "detail": "A tenant keeps at least one owner. Make another member an owner first.",
          "code": "last_owner",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    world.refused(409, "last_owner", server.patch(&me, key, &json!({"role": "admin"}))).await;
    let confirm = server.call("DELETE", "/api/v1/tenant", key, Some(&json!({"confirm": "Not its name"}))).await;
    assert!([409, 422].contains(&confirm.status), "{}", confirm.body);
    let other = server.config(&world.tenant, "fake-anthropic", "smart", &json!({})).await;
    let body = json!({"message": "go", "conversation_id": world.conversation});
    check!(world.refused(409, "conversation_config_mismatch", server.chat(key, &other, &body)).await, @r#"
    409  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#conversation_config_mismatch",
      "title": "The conversation belongs to another config",
      "status": 409,
      "detail": "The conversation was begun on another config. Use that one, or leave conversation_id out to begin a new one.",
      "code": "conversation_config_mismatch",
      "request_id": "<id 1>",
      "errors": []
    }
    "#);

    server.vendor.then(Reply::calls(&[("c1", "look", json!({}))]));
    server.chat(key, &world.config, &body).await.expect(200);
    check!(world.refused(409, "tool_results_required", server.chat(key, &world.config, &body)).await, @r#"
    409  x-credit-available: 9.998800000
    {
      "type": "http://<address>/docs/errors#tool_results_required",
      "title": "Tool calls wait for their results",
      "status": 409,
      "detail": "Post tool_results for look (c1) first, or pass \"cancel_open_calls\": true.",
      "code": "tool_results_required",
      "request_id": "<id 1>",
      "errors": [],
      "open_tool_calls": [
        {
          "id": "c1",
          "name": "look"
        }
      ]
    }
    "#);
    let results = json!({"conversation_id": world.conversation, "tool_results": [{"tool_call_id": "c2", "content": "x"}]});
    check!(world.refused(422, "tool_results_mismatch", server.chat(key, &world.config, &results)).await, @r#"
    422  x-credit-available: 9.998800000
    {
      "type": "http://<address>/docs/errors#tool_results_mismatch",
      "title": "The tool results do not match the open calls",
      "status": 422,
      "detail": "/tool_results/0/tool_call_id: c2 is not an open call; /tool_results: no result for call c1 of look; every open call needs one",
      "code": "tool_results_mismatch",
      "request_id": "<id 1>",
      "errors": [
        {
          "pointer": "/tool_results/0/tool_call_id",
          "message": "c2 is not an open call"
        },
        {
          "pointer": "/tool_results",
          "message": "no result for call c1 of look; every open call needs one"
        }
      ]
    }
    "#);

    let gate = Gate::new();
    server.vendor.then(Reply::text("One two three four.").stall(At::Frame(3), &gate));
    let chat = |body: &Value| server.request("POST", &world.chat(), key).header("Idempotency-Key", "k1").body(body.to_string());
    let results = json!({"conversation_id": world.conversation, "tool_results": [{"tool_call_id": "c1", "content": "x"}]});
    let (running, ()) = tokio::join!(async { Answer::read(chat(&results).send().await.unwrap()).await }, async {
        server.vendor.called(3).await;
        let busy = json!({"message": "go", "conversation_id": world.conversation, "on_busy": "reject", "cancel_open_calls": true});
        check!(world.refused(409, "conversation_busy", server.chat(key, &world.config, &busy)).await, @r#"
        409  retry-after: 1  x-credit-available: 9.930517000
        {
          "type": "http://<address>/docs/errors#conversation_busy",
          "title": "Another turn runs on this conversation",
          "status": 409,
          "detail": "Another turn runs on this conversation. Try again in a second.",
          "code": "conversation_busy",
          "request_id": "<id 1>",
          "errors": []
        }
        "#);
        let again = async { Answer::read(chat(&results).send().await.unwrap()).await };
        check!(world.refused(409, "idempotency_in_progress", again).await, @r#"
        409  retry-after: 1  x-credit-available: 9.930517000
        {
          "type": "http://<address>/docs/errors#idempotency_in_progress",
          "title": "The first request with this Idempotency-Key still runs",
          "status": 409,
          "detail": "The first request with this Idempotency-Key is not answered yet. Try again in a second.",
          "code": "idempotency_in_progress",
          "request_id": "<id 1>",
          "errors": []
        }
        "#);
        let shown = server.get(&format!("/api/v1/conversations/{}", world.conversation), key).await;
        let cancel = format!("/api/v1/chat/turns/{}/cancel", shown.text("/active_turn_id"));
        server.post(&cancel, key, &json!({})).await;
    });
    // The one code whose request has cost something: the vendor had begun.
    check!(running.problem(409, "turn_cancelled"), @r#"
    409  x-credit-available: 9.998485000
    {
      "type": "http://<address>/docs/errors#turn_cancelled",
      "title": "The turn was cancelled",
      "status": 409,
      "detail": "The turn was cancelled. What the vendor did so far was charged; the conversation can go on.",
      "code": "turn_cancelled",
      "request_id": "<id 1>",
      "errors": []
    }
    "#);
    let again = Answer::read(chat(&results).send().await.unwrap()).await;
    assert_eq!(again.status, 409, "{}", again.body);
    world.server.done().await;
}

#[tokio::test]
async fn what_is_in_another_state_already_is_a_conflict() {
    let world = World::of(Settings::default()).await;
    let server = &world.server;
    let (_, id) = server.key(&world.tenant, "member").await;
    server.delete(&format!("/api/v1/keys/{id}"), &world.tenant.key).await.expect(204);
    let rotate = format!("/api/v1/keys/{id}/rotate");
    check!(world.refused(409, "conflict", server.post(&rotate, &world.tenant.key, &json!({}))).await, @r#"
        409
        {
          "type": "http://<address>/docs/errors#conflict",
          "title": "The thing is not in a state that allows this",
          "status": 409,
          "detail": "The key is revoked or expired; make a new one.",
          "code": "conflict",
          "request_id": "<id 1>",
          "errors": []
        }
    "#);
    world.server.done().await;
}

#[tokio::test]
async fn what_is_not_acceptable_is_422() {
    let world = World::of(Settings::default()).await;
    let server = &world.server;
    let key = &world.tenant.key;
    let wrong = json!({"mesage": "go"});
    check!(world.refused(422, "validation_failed", server.chat(key, &world.config, &wrong)).await, @r#"
    422  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#validation_failed",
      "title": "Something in the request is not acceptable",
      "status": 422,
      "detail": "/mesage: unknown field `mesage`, expected one of `message`, `tool_results`, `conversation_id`, `template_vars`, `metadata`, `stream`, `on_busy`, `cancel_open_calls`, `user`",
      "code": "validation_failed",
      "request_id": "<id 1>",
      "errors": [
        {
          "pointer": "/mesage",
          "message": "unknown field `mesage`, expected one of `message`, `tool_results`, `conversation_id`, `template_vars`, `metadata`, `stream`, `on_busy`, `cancel_open_calls`, `user`"
        }
      ]
    }
    "#);
    check!(world.refused(422, "template_variable_missing", server.chat(key, &world.config, &json!({"message": "go"}))).await, @r#"
    422  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#template_variable_missing",
      "title": "The prompt uses variables that have no value",
      "status": 422,
      "detail": "Pass who in template_vars.",
      "code": "template_variable_missing",
      "request_id": "<id 1>",
      "errors": [
        {
          "pointer": "/template_vars/who",
          "message": "the prompt uses this variable and it has no value"
        }
      ]
    }
    "#);
    let image = config_body("Boxed", "echo", "echo", &json!({"agent_type": "sandboxed", "workspace_image": "alpine"}));
    check!(world.refused(422, "workspace_image_unsupported", server.post("/api/v1/configs", key, &image)).await, @r#"
    422
    {
      "type": "http://<address>/docs/errors#workspace_image_unsupported",
      "title": "This server runs no images",
      "status": 422,
      "detail": "This server has no container engine to run an image with. Leave workspace_image out, or send null, to run in its own sandbox.",
      "code": "workspace_image_unsupported",
      "request_id": "<id 1>",
      "errors": []
    }
    "#);
    let chat = |body: &Value| server.request("POST", &world.chat(), key).header("Idempotency-Key", "k1").body(body.to_string());
    server.vendor.then(Reply::text("Yes."));
    let on = json!({"message": "go", "conversation_id": world.conversation});
    Answer::read(chat(&on).send().await.unwrap()).await.expect(200);
    let other = json!({"message": "else", "conversation_id": world.conversation});
    let reused = async { Answer::read(chat(&other).send().await.unwrap()).await };
    check!(world.refused(422, "idempotency_key_reused", reused).await, @r#"
    422  x-credit-available: 9.998800000
    {
      "type": "http://<address>/docs/errors#idempotency_key_reused",
      "title": "The Idempotency-Key was used for another request",
      "status": 422,
      "detail": "This Idempotency-Key was used for a different request. Send a new key.",
      "code": "idempotency_key_reused",
      "request_id": "<id 1>",
      "errors": []
    }
    "#);
    let narrow = json!({"context_policy": "error", "system_prompt": "x"});
    let narrow = server.config(&world.tenant, "fake-anthropic", "narrow", &narrow).await;
    let long = json!({"message": "y".repeat(60_000)});
    check!(world.refused(422, "context_too_long", server.chat(key, &narrow, &long)).await, @r#"
    422  x-credit-available: 9.998800000
    {
      "type": "http://<address>/docs/errors#context_too_long",
      "title": "The conversation does not fit the model's context window",
      "status": 422,
      "detail": "The prompt has about 20012 tokens, more than narrow takes besides the answer. Begin a new conversation, or set context_policy to truncate or compact.",
      "code": "context_too_long",
      "request_id": "<id 1>",
      "errors": []
    }
    "#);

    for (body, pointer) in [
        (json!({"message": 7}), "/message"),
        (json!({"message": ""}), "/message"),
        (json!({}), "/message"),
        (json!({"message": "go", "conversation_id": "x"}), "/conversation_id"),
        (json!({"message": "go", "on_busy": "wait"}), "/on_busy"),
        (json!({"message": "go", "stream": "yes"}), "/stream"),
        (json!({"message": "go", "metadata": []}), "/metadata"),
        (json!({"message": "go", "user": ""}), "/user"),
        (json!({"tool_results": [{"content": "x"}]}), "/conversation_id"),
        (json!({"message": "go", "tool_results": "x"}), "/tool_results"),
    ] {
        let answer = world.refused(422, "validation_failed", server.chat(key, &world.config, &body)).await;
        assert_eq!(answer.text("/errors/0/pointer"), pointer, "{body}");
    }
    world.server.done().await;
}

#[tokio::test]
async fn a_config_is_checked_in_every_field() {
    let world = World::of(Settings::default()).await;
    let server = &world.server;
    let schema = |parameters: Value| json!({"tools_config": [{"name": "t", "parameters": parameters}]});
    for (extra, pointer) in [
        (json!({"name": ""}), "/name"),
        (json!({"name": "x".repeat(201)}), "/name"),
        (json!({"agent_type": "robot"}), "/agent_type"),
        (json!({"system_prompt": "x".repeat(300_000)}), "/system_prompt"),
        (json!({"model_config": {"provider": "nobody"}}), "/model_config/provider"),
        (json!({"model_config": {"model": ""}}), "/model_config/model"),
        (json!({"model_config": {"api_base": "http://evil"}}), "/model_config/api_base"),
        (json!({"model_config": {"base_url": "http://evil"}}), "/model_config/base_url"),
        (json!({"model_config": {"service_tier": "priority"}}), "/model_config/service_tier"),
        (json!({"model_config": {"n": 2}}), "/model_config/n"),
        (json!({"model_config": {"stream": false}}), "/model_config/stream"),
        (json!({"model_config": {"messages": []}}), "/model_config/messages"),
        (json!({"model_config": {"max_tokens": 0}}), "/model_config/max_tokens"),
        (json!({"model_config": {"max_tokens": -1}}), "/model_config/max_tokens"),
        (json!({"model_config": {"temperature": "hot"}}), "/model_config/temperature"),
        (json!({"model_config": {"thinking": {"type": "enabled", "budget_tokens": 1024, "tier": 1}}}), "/model_config/thinking/tier"),
        (json!({"model_config": {"fallbacks": [{"provider": "echo"}]}}), "/model_config/fallbacks/0"),
        (json!({"tools_config": ["not a name"]}), "/tools_config/0"),
        (json!({"tools_config": ["twice", "twice"]}), "/tools_config/1"),
        (json!({"tools_config": (0..129).map(|n| format!("t{n}")).collect::<Vec<_>>()}), "/tools_config"),
        (schema(json!({"type": "array"})), "/tools_config/0/parameters"),
        (schema(json!({"type": "object", "properties": {"a": {"type": "nonsense"}}})), "/tools_config/0/parameters"),
        (json!({"tools_config": [{"name": "t", "kind": "web_search"}]}), "/tools_config/0"),
        (json!({"context_policy": "summarise"}), "/context_policy"),
        (json!({"metadata": "x"}), "/metadata"),
        (json!({"surprise": 1}), ""),
    ] {
        let mut body = config_body("Fine", "fake-anthropic", "smart", &extra);
        if extra.get("name").is_some() {
            body["name"] = extra["name"].clone();
        }
        let answer = world.refused(422, "validation_failed", server.post("/api/v1/configs", &world.tenant.key, &body)).await;
        let found = answer.text("/errors/0/pointer");
        assert!(found.starts_with(pointer), "{extra}: {}", answer.body);
    }
    world.server.done().await;
}

#[tokio::test]
async fn too_many_requests_are_429() {
    let world = World::of(Settings::default().limit("key_requests_per_minute", 6).limit("key_requests_burst", 30)).await;
    let mut refused = None;
    for _ in 0..60 {
        let answer = world.server.get("/api/v1/tenant", &world.tenant.key).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a limit").problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    world.server.done().await;
}

/// The codes of 5xx are shown in `failures`, `wallet`, `files` and `http`; the rest must be here, or with the sandboxes or sessions that they take.
#[test]
fn every_code_of_the_contract_has_its_test() {
    let here = [
        include_str!("errors.rs"),
        include_str!("dashboard/sessions.rs"),
        include_str!("sandbox/turns.rs"),
        include_str!("sandbox/bundles.rs"),
    ]
    .concat();
    let mut all = String::new();
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut missing = Vec::new();
    for code in codes::ALL {
        let place = if code.status < 500 { &here } else { &all };
        if !place.contains(&format!("\"{}\"", code.code)) && !NOT_SHOWN.contains(&code.code) {
            missing.push(code.code);
        }
    }
    assert!(missing.is_empty(), "no test shows {missing:?}");
}

/// Codes that no test can bring about over HTTP from outside, with the reason. The list only shrinks.
const NOT_SHOWN: &[&str] = &[
    "internal",        // a defect or a failing machine
    "too_many_checks", // takes more clients at once than a test should be
];
