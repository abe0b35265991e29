//! The walk-through that the product was asked for, literally: tenant by user token, chat by `X-API-Key`, configs per tenant, the prompt's
//! `{tenant_name}` and `{date}`, and revoking one key.

use crate::{check, fake_provider::Reply, harness::Server};
use serde_json::json;

#[tokio::test]
async fn from_registration_to_a_conversation() {
    let server = Server::start().await;
    server.post("/api/v1/auth/register", "", &json!({"email": "Ada@Example.com", "password": "a long enough password"})).await.expect(202);
    server
        .post("/api/v1/auth/login", "", &json!({"email": "ada@example.com", "password": "a long enough password"}))
        .await
        .problem(403, "email_not_verified");
    let token = server.mailed_token("ada@example.com").await;
    server.post("/api/v1/auth/verify", "", &json!({"token": token})).await.expect(200);
    let login = server.post("/api/v1/auth/login", "", &json!({"email": "ada@example.com", "password": "a long enough password"})).await;
    check!(login, @r#"
        200
        {
          "access_token": "<token>",
          "token_type": "Bearer",
          "expires_in": 2592000
        }
    "#);
    let user = login.text("/access_token");

    // curl -X POST …/api/v1/tenants -H "Authorization: Bearer $USER_TOKEN" -d '{"name": "Acme Corp"}'
    let acme = server.post("/api/v1/tenants", &user, &json!({"name": "Acme Corp"})).await;
    check!(acme, @r#"
        201
        {
          "id": "<id 1>",
          "name": "Acme Corp",
          "role": "owner",
          "created_at": "<time>",
          "api_key": "<key>",
          "api_key_id": "<id 2>"
        }
    "#);
    let (key, tenant) = (acme.text("/api_key"), acme.text("/id"));
    let other = server.tenant("Other").await;
    let credit = format!("/api/v1/operator/tenants/{tenant}/credit");
    assert!(server.post(&credit, crate::harness::OPERATOR, &json!({"amount": "10.00"})).await.status < 300);

    let config = json!({"name": "Site Editor", "model_config": {"provider": "fake-anthropic", "model": "smart"},
        "system_prompt": "You are the assistant for {tenant_name}. Today is {date}. Be helpful. {\"json\": {}}"});
    let config = server.post("/api/v1/configs", &key, &config).await;
    check!(config, @r#"
        201
        {
          "id": "<id 1>",
          "config_id": "<id 1>",
          "version": 1,
          "name": "Site Editor",
          "agent_type": "client-side",
          "system_prompt": "You are the assistant for {tenant_name}. Today is {date}. Be helpful. {\"json\": {}}",
          "model_config": {
            "provider": "fake-anthropic",
            "model": "smart"
          },
          "tools_config": [],
          "context_policy": "truncate",
          "workspace_image": null,
          "metadata": {},
          "template_variables": [
            "tenant_name",
            "date"
          ],
          "created_at": "<time>",
          "updated_at": "<time>"
        }
    "#);
    let config = config.text("/id");

    // curl -X POST …/api/v1/chat/$CONFIG_ID -H "X-API-Key: $TENANT_KEY" -d '{"message": "Hello"}': no Content-Type that says JSON.
    server.vendor.then(Reply::text("Hello Ada."));
    let chat = server.request("POST", &format!("/api/v1/chat/{config}"), &key).header("Content-Type", "application/x-www-form-urlencoded");
    let chat = crate::harness::Answer::read(chat.body("{\"message\": \"Hello\"}").send().await.unwrap()).await;
    check!(chat, @r#"
        200  x-credit-available: 9.999400000
        {
          "response": "Hello Ada.",
          "conversation_id": "<id 1>",
          "tool_calls": [],
          "message_id": "<id 2>",
          "turn_id": "<id 3>",
          "finish_reason": "stop",
          "model": {
            "provider": "fake-anthropic",
            "model": "smart"
          },
          "usage": {
            "input_tokens": 100,
            "output_tokens": 20,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0
          },
          "cost": "0.000600000",
          "balance": "9.999400000",
          "max_tokens_applied": 4096,
          "context": {
            "turns_left_out": 0,
            "messages_left_out": 0,
            "turns_summarised": 0
          }
        }
    "#);
    let today = nimblesite::clock::Clock.now().date_in("UTC");
    let seen = server.vendor.last();
    assert_eq!(seen.system, format!("You are the assistant for Acme Corp. Today is {today}. Be helpful. {{\"json\": {{}}}}"));
    assert_eq!(seen.said, ["user: Hello"]);

    // Tenant A's configs endpoint never returns tenant B's configs.
    assert_eq!(server.get("/api/v1/configs", &key).await.expect(200).ids(), std::slice::from_ref(&config));
    assert_eq!(server.get("/api/v1/configs", &other.key).await.expect(200).ids(), Vec::<String>::new());

    // Revoking one key does not revoke the whole tenant.
    let staging = server.post("/api/v1/keys", &key, &json!({"name": "staging", "role": "member"})).await.expect(201);
    let (staging, staging_id) = (staging.text("/key"), staging.text("/id"));
    server.get("/api/v1/configs", &staging).await.expect(200);
    server.delete(&format!("/api/v1/keys/{staging_id}"), &key).await.expect(204);
    server.get("/api/v1/configs", &staging).await.problem(401, "invalid_api_key");
    server.get("/api/v1/configs", &key).await.expect(200);

    // Prepaid credit is the tenant's: the other has none, and its vendor call never happens.
    let calls = server.vendor.call_count();
    let theirs = server.config(&other, "fake-anthropic", "smart", &json!({})).await;
    server.chat(&other.key, &theirs, &json!({"message": "Hello"})).await.problem(402, "insufficient_credit");
    assert_eq!(server.vendor.call_count(), calls);
    server.done().await;
}

#[tokio::test]
async fn the_secret_of_a_key_is_shown_once_and_stored_nowhere() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let (key, id) = server.key(&tenant, "member").await;
    let secret = key.split('_').nth(3).expect("the secret part").to_owned();
    let keys = server.get("/api/v1/keys", &tenant.key).await.expect(200);
    assert!(keys.ids().contains(&id) && !keys.body.contains(&secret));
    for (name, path) in server.databases() {
        for path in [path.clone(), path.with_extension("db-wal")] {
            let bytes = std::fs::read(&path).unwrap_or_default();
            for text in [secret.as_str(), tenant.owner.token.as_str(), tenant.key.as_str(), "correct horse battery staple"] {
                assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{name} holds a secret");
            }
        }
    }
    server.done().await;
}
