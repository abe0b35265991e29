//! The same request again: one call, one charge, the same answer.

use crate::{
    fake_provider::{At, Gate, Reply},
    harness::{Answer, Events, Server, Tenant},
};
use serde_json::{Value, json};

async fn keyed(server: &Server, tenant: &Tenant, config: &str, key: &str, body: &Value) -> Answer {
    let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).header("Idempotency-Key", key);
    Answer::read(request.body(body.to_string()).send().await.unwrap()).await
}

#[tokio::test]
async fn the_same_request_gets_the_stored_answer() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Once."));
    let first = keyed(&server, &tenant, &config, "k1", &json!({"message": "go"})).await.expect(200);
    assert_eq!(first.header("idempotency-replayed"), None);
    let wallet = server.wallet(&tenant.key).await;
    for body in [json!({"message": "go"}), json!({"message": "go"})] {
        let again = keyed(&server, &tenant, &config, "k1", &body).await.expect(200);
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.json(), first.json());
    }
    assert_eq!((server.vendor.call_count(), server.wallet(&tenant.key).await), (1, wallet));
    keyed(&server, &tenant, &config, "k1", &json!({"message": "something else"})).await.problem(422, "idempotency_key_reused");
    keyed(&server, &tenant, &config, "k1", &json!({"message": "go", "stream": true})).await.problem(422, "idempotency_key_reused");
    // Another key, another request.
    server.vendor.then(Reply::text("Twice."));
    let other = keyed(&server, &tenant, &config, "k2", &json!({"message": "go"})).await.expect(200);
    assert_ne!(other.text("/conversation_id"), first.text("/conversation_id"));
    // Another tenant's key of the same name is another key.
    let theirs = server.rich_tenant("Bolt").await;
    let their_config = server.config(&theirs, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Theirs."));
    assert_eq!(keyed(&server, &theirs, &their_config, "k1", &json!({"message": "go"})).await.expect(200).text("/response"), "Theirs.");
    server.done().await;
}

#[tokio::test]
async fn of_two_keys_none_counts() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let ask = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).body(json!({"message": "go"}).to_string());
    let twice = ask.header("Idempotency-Key", "a").header("Idempotency-Key", "b");
    Answer::read(twice.send().await.unwrap()).await.problem(400, "malformed_request");
    assert_eq!(server.vendor.call_count(), 0);
    server.done().await;
}

#[tokio::test]
async fn while_the_first_runs_the_second_is_told_so() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("Slow.").stall(At::BeforeHead, &gate));
    let body = json!({"message": "go"});
    let (first, ()) = tokio::join!(keyed(&server, &tenant, &config, "k1", &body), async {
        server.vendor.called(1).await;
        let second = keyed(&server, &tenant, &config, "k1", &body).await.problem(409, "idempotency_in_progress");
        assert!(second.header("retry-after").is_some());
        keyed(&server, &tenant, &config, "k1", &json!({"message": "else"})).await.problem(422, "idempotency_key_reused");
        gate.open();
    });
    assert_eq!(first.expect(200).text("/response"), "Slow.");
    assert_eq!(keyed(&server, &tenant, &config, "k1", &body).await.expect(200).header("idempotency-replayed"), Some("true"));
    assert_eq!(server.vendor.call_count(), 1);
    server.done().await;
}

#[tokio::test]
async fn a_vendor_s_failure_is_replayed_too() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    for reply in [Reply::text("lost").cut(At::Frame(2)), Reply::refuse(400)] {
        let key = format!("failure {}", server.next());
        let calls = server.vendor.call_count();
        server.vendor.then(reply);
        let first = keyed(&server, &tenant, &config, &key, &json!({"message": "go"})).await.problem(502, "provider_error");
        let again = keyed(&server, &tenant, &config, &key, &json!({"message": "go"})).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (502, Some("true")));
        assert_eq!(again.json()["code"], first.json()["code"]);
        assert_eq!(server.vendor.call_count() - calls, 1);
    }
    server.done().await;
}

#[tokio::test]
async fn a_refusal_before_any_vendor_call_frees_the_key() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    keyed(&server, &tenant, &config, "k1", &json!({"message": "go"})).await.problem(402, "insufficient_credit");
    server.credit(&tenant, "1.00").await;
    server.vendor.then(Reply::text("Paid."));
    let paid = keyed(&server, &tenant, &config, "k1", &json!({"message": "go"})).await.expect(200);
    assert_eq!((paid.text("/response"), paid.header("idempotency-replayed")), ("Paid.".to_owned(), None));
    // Invalid requests do not even claim it.
    keyed(&server, &tenant, &config, "k2", &json!({"message": ""})).await.problem(422, "validation_failed");
    server.vendor.then(Reply::text("Valid."));
    keyed(&server, &tenant, &config, "k2", &json!({"message": "now"})).await.expect(200);
    let long = "k".repeat(300);
    keyed(&server, &tenant, &config, &long, &json!({"message": "now"})).await.problem(422, "validation_failed");
    server.done().await;
}

#[tokio::test]
async fn a_stream_replays_its_events() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Some words that come in pieces."));
    let mut shown = Vec::new();
    for n in 0..2 {
        let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).header("Accept", "text/event-stream");
        let request = request.header("Idempotency-Key", "s1").body("{\"message\": \"go\"}");
        let mut events = Events::of(request.send().await.unwrap(), 0);
        assert_eq!(events.header("idempotency-replayed"), (n == 1).then_some("true"));
        shown.push(events.rest().await);
    }
    assert_eq!(Events::text(&shown[0]), "Some words that come in pieces.");
    assert_eq!(Events::text(&shown[1]), Events::text(&shown[0]));
    assert_eq!(shown[0].last(), shown[0].last());
    assert_eq!(shown[0].last().map(|event| &event.data), shown[1].last().map(|event| &event.data));
    assert_eq!(server.vendor.call_count(), 1);
    server.done().await;
}

#[tokio::test]
async fn the_stored_answer_outlives_the_server() {
    let mut server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Before the restart."));
    let first = keyed(&server, &tenant, &config, "k1", &json!({"message": "go"})).await.expect(200);
    server.stop().await;
    server.run().await;
    let again = keyed(&server, &tenant, &config, "k1", &json!({"message": "go"})).await.expect(200);
    assert_eq!((again.json(), again.header("idempotency-replayed")), (first.json(), Some("true")));
    assert_eq!(server.vendor.call_count(), 1);
    server.done().await;
}

#[tokio::test]
async fn the_same_tool_results_again_give_the_same_answer() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({"tools_config": ["look"]})).await;
    server.vendor.then(Reply::calls(&[("c1", "look", json!({}))])).then(Reply::text("Seen."));
    let first = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    let results = json!({"conversation_id": first.text("/conversation_id"), "tool_results": [{"tool_call_id": "c1", "content": "a tree"}]});
    let second = server.chat(&tenant.key, &config, &results).await.expect(200);
    let wallet = server.wallet(&tenant.key).await;
    let again = server.chat(&tenant.key, &config, &results).await.expect(200);
    assert_eq!(again.text("/response"), second.text("/response"));
    assert_eq!(again.text("/message_id"), second.text("/message_id"));
    assert_eq!((server.vendor.call_count(), server.wallet(&tenant.key).await), (2, wallet));
    let other = json!({"conversation_id": first.text("/conversation_id"), "tool_results": [{"tool_call_id": "c1", "content": "a house"}]});
    server.chat(&tenant.key, &config, &other).await.problem(422, "tool_results_mismatch");
    server.done().await;
}

#[tokio::test]
async fn results_sent_again_give_the_answer_again_even_if_it_called_further_tools() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({"tools_config": ["look", "touch"]})).await;
    let first_step = Reply::calls(&[("c1", "look", json!({}))]);
    server.vendor.then(first_step).then(Reply::calls(&[("c2", "touch", json!({}))])).then(Reply::text("Warm."));
    let first = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    let results = |id: &str, content: &str| json!({"conversation_id": first.text("/conversation_id"), "tool_results": [{"tool_call_id": id, "content": content}]});
    let second = server.chat(&tenant.key, &config, &results("c1", "a tree")).await.expect(200);
    let again = server.chat(&tenant.key, &config, &results("c1", "a tree")).await.expect(200);
    assert_eq!((again.json(), again.header("idempotency-replayed")), (second.json(), Some("true")));
    assert_eq!(again.text("/tool_calls/0/id"), "c2");
    server.chat(&tenant.key, &config, &results("c1", "a house")).await.problem(422, "tool_results_mismatch");
    assert_eq!(server.vendor.call_count(), 2);
    // The calls of that answer are still open.
    assert_eq!(server.chat(&tenant.key, &config, &results("c2", "bark")).await.expect(200).text("/response"), "Warm.");
    server.done().await;
}

#[tokio::test]
async fn a_failed_stream_replays_its_events_too() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    server.vendor.then(Reply::refuse(400));
    let mut shown = Vec::new();
    for n in 0..2 {
        let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).header("Idempotency-Key", "s1");
        let mut events = Events::of(request.body("{\"message\": \"go\", \"stream\": true}").send().await.unwrap(), 0);
        assert_eq!(events.header("idempotency-replayed"), (n == 1).then_some("true"));
        let rest = events.rest().await;
        assert_eq!(rest.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["turn.started", "error"]);
        assert_eq!(rest[1].data["code"], "provider_error");
        shown.push(rest[0].data.clone());
    }
    assert_eq!(shown[0], shown[1]);
    assert_eq!(server.vendor.call_count(), 1);
    server.done().await;
}

#[tokio::test]
async fn a_stored_answer_waits_for_no_other_turn() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Hello."));
    let conversation = server.chat(&tenant.key, &config, &json!({"message": "hi"})).await.expect(200).text("/conversation_id");
    let body = json!({"message": "go", "conversation_id": conversation, "on_busy": "reject"});
    server.vendor.then(Reply::text("Once."));
    let first = keyed(&server, &tenant, &config, "k1", &body).await.expect(200);
    let gate = Gate::new();
    server.vendor.then(Reply::text("Slow.").stall(At::BeforeHead, &gate));
    let other = json!({"message": "and?", "conversation_id": conversation});
    let (slow, ()) = tokio::join!(server.chat(&tenant.key, &config, &other), async {
        server.vendor.called(3).await;
        assert_eq!(keyed(&server, &tenant, &config, "k1", &body).await.expect(200).json(), first.json());
        keyed(&server, &tenant, &config, "k2", &body).await.problem(409, "conversation_busy");
        gate.open();
    });
    slow.expect(200);
    server.done().await;
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_refused_and_not_left_out() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    for key in ["zw\u{f6}lf", ""] {
        let key = reqwest::header::HeaderValue::from_bytes(key.as_bytes()).unwrap();
        let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).header("Idempotency-Key", key);
        Answer::read(request.body("{\"message\": \"go\"}").send().await.unwrap()).await.problem(422, "validation_failed");
    }
    assert_eq!(server.vendor.call_count(), 0);
    server.done().await;
}
