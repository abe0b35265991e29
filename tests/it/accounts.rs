//! Accounts, tenants, keys and members over HTTP: the contract's statuses and codes, and what nobody may learn from an answer.

use crate::harness::{Server, Settings};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";
const NOBODY: &str = "0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d";

/// A body without what must differ from request to request.
fn plain(answer: &crate::harness::Answer) -> Value {
    let mut body = answer.json();
    if let Some(body) = body.as_object_mut() {
        body.remove("request_id");
    }
    body
}

#[tokio::test]
async fn answers_tell_nobody_whether_an_address_is_known() {
    let server = Server::start().await;
    server.user("ada@example.com").await;
    let ask = async |path: &str, email: &str| {
        let body = match path {
            "register" | "login" => json!({"email": email, "password": "a wrong but long one"}),
            _ => json!({"email": email}),
        };
        server.post(&format!("/api/v1/auth/{path}"), "", &body).await
    };
    for (path, status) in [("register", 202), ("password/forgot", 202), ("login", 401)] {
        let (known, unknown) = (ask(path, "ada@example.com").await, ask(path, &format!("{}@example.com", path.len())).await);
        assert_eq!((known.status, unknown.status), (status, status), "{path}");
        assert_eq!(plain(&known), plain(&unknown), "{path}");
    }
    let mail = server.mail_to("ada@example.com").await;
    assert!(mail.contains("Subject:"), "{mail}");
    // The password of somebody else's registration is nobody's.
    ask("login", "ada@example.com").await.problem(401, "invalid_login");
    server.done().await;
}

#[tokio::test]
async fn every_body_is_an_object_and_no_type_of_ours_is_named() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    for body in [json!(["ada@example.com", PASSWORD]), json!(null), json!("x"), json!(7)] {
        let refused = server.post("/api/v1/auth/login", "", &body).await.problem(422, "validation_failed");
        assert_eq!(refused.text("/errors/0/message"), "expected a JSON object", "{body}");
    }
    let nested = json!({"name": "A", "model_config": 3});
    let refused = server.post("/api/v1/configs", &tenant.key, &nested).await.problem(422, "validation_failed");
    assert_eq!(refused.text("/errors/0/pointer"), "/model_config");
    assert_eq!(refused.text("/errors/0/message"), "invalid type: integer `3`, expected an object");
    server.done().await;
}

#[tokio::test]
async fn guesses_at_a_password_are_bounded_also_with_a_token() {
    let server = Settings::default().limit("auth_requests_per_minute", 8).start().await;
    let token = server.user("ada@example.com").await.token;
    let guess = json!({"current_password": "a wrong but long one", "new_password": "another quite long one"});
    let mut statuses = Vec::new();
    for _ in 0..9 {
        statuses.push(server.post("/api/v1/auth/password/change", &token, &guess).await.status);
    }
    assert_eq!((statuses[0], statuses[8]), (422, 429), "{statuses:?}");
    server.get("/api/v1/auth/me", &token).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn the_tenants_log_says_of_a_refusal_what_the_caller_was_told() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({"tools_config": ["read_file"]})).await;
    let first = server.chat(&tenant.key, &config, &json!({"message": "call read_file {}"})).await.expect(200);
    let again = json!({"message": "go", "conversation_id": first.text("/conversation_id")});
    let refused = server.chat(&tenant.key, &config, &again).await.problem(409, "tool_results_required");
    let (viewer, _) = server.key(&tenant, "viewer").await;
    let forbidden = server.post("/api/v1/configs", &viewer, &json!({})).await.problem(403, "insufficient_role");
    let logs = server.get("/api/v1/logs?event=refused&order=asc", &tenant.key).await.expect(200);
    assert_eq!(logs.text("/data/0/detail"), refused.text("/detail"));
    assert_eq!(logs.text("/data/1/detail"), format!("ConfigCreate: {}", forbidden.text("/detail")));
    server.done().await;
}

#[tokio::test]
async fn bad_input_names_the_field_and_the_fix() {
    let server = Server::start().await;
    let user = server.user("ada@example.com").await;
    let tenant = server.tenant_of(&user, "Acme").await;
    let (key, token) = (tenant.key.as_str(), user.token.as_str());
    let key_path = format!("/api/v1/keys/{}", tenant.key_id);
    let cases = [
        ("POST", "/api/v1/auth/register", "", json!({"email": "ada", "password": PASSWORD}), "/email"),
        ("POST", "/api/v1/auth/register", "", json!({"email": "bob@example.com", "password": "short"}), "/password"),
        ("POST", "/api/v1/auth/register", "", json!({"email": "bob@example.com", "password": PASSWORD, "admin": true}), "/admin"),
        ("POST", "/api/v1/auth/login", "", json!({"email": "bob@example.com", "password": 7}), "/password"),
        ("POST", "/api/v1/tenants", token, json!({"name": " "}), "/name"),
        ("POST", "/api/v1/tenants", token, json!({"name": "x".repeat(201)}), "/name"),
        ("PATCH", "/api/v1/tenant", key, json!({"time_zone": "Mars/Olympus"}), "/time_zone"),
        ("DELETE", "/api/v1/tenant", key, json!({"confirm": "acme"}), "/confirm"),
        ("POST", "/api/v1/keys", key, json!({"name": "k", "role": "emperor"}), "/role"),
        ("POST", "/api/v1/keys", key, json!({"name": "k", "expires_at": "2020-01-01T00:00:00Z"}), "/expires_at"),
        ("POST", "/api/v1/keys", key, json!({"name": "k", "expires_at": "tomorrow"}), "/expires_at"),
        ("POST", "/api/v1/keys", key, json!({"name": "k", "spend_limit": "-1"}), "/spend_limit"),
        ("POST", "/api/v1/keys", key, json!({"name": "k", "spend_limit": 1.5}), "/spend_limit"),
        ("POST", "/api/v1/keys", token, json!({"name": "k"}), "/tenant_id"),
        ("PATCH", &key_path, key, json!({"role": "viewer"}), "/role"),
        ("POST", "/api/v1/members", key, json!({"email": "nobody"}), "/email"),
    ];
    for (method, path, credential, body, pointer) in cases {
        let answer = server.call(method, path, credential, Some(&body)).await.problem(422, "validation_failed");
        assert_eq!(answer.text("/errors/0/pointer"), pointer, "{method} {path} {body}: {}", answer.body);
    }
    server
        .request("POST", "/api/v1/auth/login", "")
        .body("{\"email\":")
        .send()
        .await
        .map(|answer| assert_eq!(answer.status(), 400))
        .unwrap();
    server.post("/api/v1/auth/verify", "", &json!({"token": "nu_nothing"})).await.problem(401, "invalid_token");
    server.get("/api/v1/auth/me", "").await.problem(401, "missing_credentials");
    server.get("/api/v1/auth/me", "nu_nothing").await.problem(401, "invalid_token");
    server.get("/api/v1/tenant", key).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn another_tenants_ids_answer_like_unknown_ones() {
    let server = Server::start().await;
    let (ours, theirs) = (server.tenant("Ours").await, server.tenant("Theirs").await);
    let asks = [
        ("PATCH", "/api/v1/keys/ID", json!({"name": "x"}), &theirs.key_id, &ours.key),
        ("DELETE", "/api/v1/keys/ID", json!({}), &theirs.key_id, &ours.key),
        ("POST", "/api/v1/keys/ID/rotate", json!({}), &theirs.key_id, &ours.key),
        ("PATCH", "/api/v1/members/ID", json!({"role": "viewer"}), &theirs.owner.id, &ours.key),
        ("DELETE", "/api/v1/members/ID", json!({}), &theirs.owner.id, &ours.key),
        ("POST", "/api/v1/keys", json!({"name": "x", "tenant_id": "ID"}), &theirs.id, &ours.key),
        ("POST", "/api/v1/keys", json!({"name": "x", "tenant_id": "ID"}), &theirs.id, &ours.owner.token),
        ("POST", "/api/v1/keys", json!({"name": "x", "user_id": "ID"}), &theirs.owner.id, &ours.key),
        ("GET", "/api/v1/keys?after=ID", json!({}), &theirs.key_id, &ours.key),
        ("GET", "/api/v1/members?before=ID", json!({}), &theirs.owner.id, &ours.key),
    ];
    for (method, path, body, id, credential) in asks {
        let ask = async |id: &str| {
            let body: Value = serde_json::from_str(&body.to_string().replace("ID", id)).expect("JSON");
            server.call(method, &path.replace("ID", id), credential, (method != "GET").then_some(&body)).await
        };
        let (foreign, unknown) = (ask(id).await, ask(NOBODY).await);
        assert!((400..500).contains(&foreign.status), "{method} {path}: {}", foreign.body);
        let (foreign, unknown) = ((foreign.status, plain(&foreign).to_string()), (unknown.status, plain(&unknown).to_string()));
        assert_eq!((foreign.0, foreign.1.replace(id.as_str(), "ID")), (unknown.0, unknown.1.replace(NOBODY, "ID")), "{method} {path}");
    }
    server.get("/api/v1/tenant", &theirs.key).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn roles_bound_what_keys_and_members_may() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let (viewer, _) = server.key(&tenant, "viewer").await;
    let (member, _) = server.key(&tenant, "member").await;
    let (admin, admin_id) = server.key(&tenant, "admin").await;
    let email = |name: &str| json!({"email": format!("{name}@example.com"), "role": "admin"});
    server.get("/api/v1/keys", &viewer).await.problem(403, "insufficient_role");
    server.post("/api/v1/keys", &member, &json!({"name": "k", "role": "admin"})).await.problem(403, "insufficient_role");
    server.post("/api/v1/members", &member, &email("bob")).await.problem(403, "insufficient_role");
    server.patch("/api/v1/tenant", &admin, &json!({"name": "x"})).await.problem(403, "insufficient_role");
    server.delete(&format!("/api/v1/members/{}", tenant.owner.id), &tenant.key).await.problem(409, "last_owner");

    // Invited by mail, in after registering; the answer for someone known is the same.
    let unknown = server.post("/api/v1/members", &admin, &email("bob")).await.expect(202);
    assert!(server.mail_to("bob@example.com").await.contains("Acme"));
    let bob = server.user("bob@example.com").await;
    let eve = server.user("eve@example.com").await;
    let known = server.post("/api/v1/members", &admin, &email("eve")).await.expect(202);
    assert_eq!(unknown.body, known.body);
    for user in [&bob, &eve] {
        assert_eq!(server.get("/api/v1/auth/me", &user.token).await.expect(200).text("/tenants/0/role"), "admin");
    }
    let made = json!({"name": "bob's", "role": "admin", "tenant_id": tenant.id});
    let bobs = server.post("/api/v1/keys", &bob.token, &made).await.expect(201).text("/key");
    server.post("/api/v1/members", &bobs, &json!({"email": "zoe@example.com", "role": "owner"})).await.problem(403, "insufficient_role");

    // Demoted, then removed: at once, for keys that were proved a moment ago.
    let path = format!("/api/v1/members/{}", bob.id);
    server.patch(&path, &tenant.key, &json!({"role": "viewer"})).await.expect(200);
    server.get("/api/v1/keys", &bobs).await.problem(403, "insufficient_role");
    server.get("/api/v1/members", &bobs).await.expect(200);
    server.delete(&path, &tenant.key).await.expect(204);
    server.get("/api/v1/members", &bobs).await.problem(401, "invalid_api_key");

    let next = server.post(&format!("/api/v1/keys/{admin_id}/rotate"), &admin, &json!({})).await.expect(201);
    assert_eq!(next.header("cache-control"), Some("no-store"));
    assert_eq!(next.text("/role"), "admin");
    server.get("/api/v1/keys", &admin).await.expect(200);
    server.get("/api/v1/keys", &next.text("/key")).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn user_tokens_are_listed_and_revoked() {
    let server = Server::start().await;
    let ada = server.user("ada@example.com").await;
    let login = json!({"email": ada.email, "password": PASSWORD});
    let second = server.post("/api/v1/auth/login", "", &login).await.expect(200);
    assert_eq!((second.text("/token_type").as_str(), second.at("/expires_in")), ("Bearer", json!(30 * 24 * 3600)));
    let second = second.text("/access_token");
    let tokens = server.get("/api/v1/auth/tokens", &second).await.expect(200);
    assert_eq!((tokens.at("/data/0/current"), tokens.at("/data/1/current")), (json!(true), json!(false)));
    server.delete(&format!("/api/v1/auth/tokens/{}", tokens.ids()[1]), &second).await.expect(204);
    server.get("/api/v1/auth/me", &ada.token).await.problem(401, "invalid_token");
    let change = json!({"current_password": PASSWORD, "new_password": "quite another one"});
    server.post("/api/v1/auth/password/change", &second, &change).await.expect(204);
    server.get("/api/v1/auth/me", &second).await.problem(401, "invalid_token");
    server.post("/api/v1/auth/login", "", &login).await.problem(401, "invalid_login");

    server.post("/api/v1/auth/password/forgot", "", &json!({"email": ada.email})).await.expect(202);
    let newest = async || server.mail_to(&ada.email).await.contains("Set a new password");
    while !newest().await {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let reset = json!({"token": server.mailed_token(&ada.email).await, "password": "and yet another one"});
    server.post("/api/v1/auth/password/reset", "", &reset).await.expect(204);
    server.post("/api/v1/auth/password/reset", "", &reset).await.problem(401, "invalid_token");
    let login = json!({"email": ada.email, "password": "and yet another one"});
    server.post("/api/v1/auth/login", "", &login).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn a_deleted_tenant_leaves_no_byte_and_no_key() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let (member, _) = server.key(&tenant, "member").await;
    let confirm = json!({"confirm": "Acme"});
    server.call("DELETE", "/api/v1/tenant", &member, Some(&confirm)).await.problem(403, "insufficient_role");
    server.call("DELETE", "/api/v1/tenant", &tenant.key, Some(&confirm)).await.expect(204);
    for key in [&member, &tenant.key] {
        server.get("/api/v1/tenant", key).await.problem(401, "invalid_api_key");
    }
    assert!(server.databases().iter().all(|(_, path)| !path.to_string_lossy().contains(&tenant.id)));
    assert_eq!(server.get("/api/v1/tenants", &tenant.owner.token).await.expect(200).ids(), Vec::<String>::new());
    server.done().await;
}
