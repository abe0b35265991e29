//! One turn at a time on a conversation: waiting, refusing, cancelling, following, and clients that go away.

use crate::{
    fake_provider::{At, Gate, Part, Reply},
    harness::{Answer, Events, Server, Settings, Tenant},
};
use serde_json::{Value, json};

/// A server with a tenant, a config, and a conversation that has one good exchange.
async fn begun(settings: Settings) -> (Server, Tenant, String, String) {
    let server = settings.start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({"tools_config": ["look"]})).await;
    server.vendor.then(Reply::text("Good."));
    let conversation = server.say(&tenant.key, &config, "first").await;
    (server, tenant, config, conversation)
}

#[tokio::test]
async fn the_second_waits_and_sees_what_the_first_stored() {
    let (server, tenant, config, conversation) = begun(Settings::default()).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("Second answer.").stall(At::BeforeHead, &gate)).then(Reply::text("Third answer."));
    let body = |message: &str| json!({"conversation_id": conversation, "message": message});
    let (second, third) = (body("second"), body("third"));
    let (second, third) = tokio::join!(server.chat(&tenant.key, &config, &second), async {
        server.vendor.called(2).await;
        let busy = json!({"conversation_id": conversation, "message": "impatient", "on_busy": "reject"});
        let busy = server.chat(&tenant.key, &config, &busy).await.problem(409, "conversation_busy");
        assert!(busy.header("retry-after").is_some());
        let (third, ()) = tokio::join!(server.chat(&tenant.key, &config, &third), async { gate.open() });
        third
    });
    assert_eq!(
        (second.expect(200).text("/response"), third.expect(200).text("/response")),
        ("Second answer.".into(), "Third answer.".into())
    );
    assert_eq!(server.vendor.last().said, ["user: first", "assistant: Good.", "user: second", "assistant: Second answer.", "user: third"]);
    server.done().await;
}

#[tokio::test]
async fn who_waited_too_long_is_told_so() {
    let (server, tenant, config, conversation) = begun(Settings::default().limit("conversation_wait_ms", 60)).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("Slow.").stall(At::BeforeHead, &gate));
    let body = json!({"conversation_id": conversation, "message": "second"});
    let (second, ()) = tokio::join!(server.chat(&tenant.key, &config, &body), async {
        server.vendor.called(2).await;
        let late = json!({"conversation_id": conversation, "message": "late"});
        server.chat(&tenant.key, &config, &late).await.problem(409, "conversation_busy");
        gate.open();
    });
    second.expect(200);
    assert_eq!(server.history(&tenant.key, &conversation).await.len(), 4);
    server.done().await;
}

#[tokio::test]
async fn a_cancelled_turn_tells_its_caller_and_charges_what_was_done() {
    let (server, tenant, config, conversation) = begun(Settings::default()).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("One two three four five six.").stall(At::Frame(5), &gate));
    let body = json!({"conversation_id": conversation, "message": "second"});
    let (before, _) = server.wallet(&tenant.key).await;
    let (cancelled, ()) = tokio::join!(server.chat(&tenant.key, &config, &body), async {
        server.vendor.called(2).await;
        let shown = server.get(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.expect(200);
        let turn = shown.text("/active_turn_id");
        let answer = server.post(&format!("/api/v1/chat/turns/{turn}/cancel"), &tenant.key, &json!({})).await;
        assert!([200, 202, 204].contains(&answer.status), "{} {}", answer.status, answer.body);
    });
    cancelled.problem(409, "turn_cancelled");
    server.vendor.until("the client that left", |vendor| vendor.clients_lost() == 1).await;
    let (after, held) = server.wallet(&tenant.key).await;
    assert_eq!(held, "0.000000000");
    assert!(after < before, "the vendor worked: {after}");
    let log = server.logs(&tenant.key).await.remove(0);
    assert_eq!((&log["code"], &log["estimated"]), (&json!("turn_cancelled"), &json!(true)));
    assert_eq!(server.history(&tenant.key, &conversation).await, ["user: first", "assistant: Good."]);
    server.vendor.then(Reply::text("Third."));
    server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "third"})).await.expect(200);
    assert_eq!(server.vendor.last().said, ["user: first", "assistant: Good.", "user: third"]);
    server.done().await;
}

#[tokio::test]
async fn a_stream_can_be_cancelled_from_outside() {
    let (server, tenant, config, conversation) = begun(Settings::default()).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("One two three four five six.").stall(At::Frame(5), &gate));
    let mut events = server.stream(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "go"})).await;
    let turn = events.expect("turn.started").await.data["turn_id"].as_str().unwrap().to_owned();
    events.expect("message.delta").await;
    let answer = server.post(&format!("/api/v1/chat/turns/{turn}/cancel"), &tenant.key, &json!({})).await;
    assert!(answer.status < 300, "{}", answer.body);
    let last = events.rest().await.pop().unwrap();
    assert_eq!((last.name.as_str(), &last.data["code"]), ("error", &json!("turn_cancelled")));
    // Once over, there is nothing to cancel; the same answer as for a turn that never was, or a quiet yes, but never a second charge.
    let wallet = server.wallet(&tenant.key).await;
    server.post(&format!("/api/v1/chat/turns/{turn}/cancel"), &tenant.key, &json!({})).await;
    assert_eq!(server.wallet(&tenant.key).await, wallet);
    server.done().await;
}

#[tokio::test]
async fn a_client_that_goes_away_loses_nothing() {
    let (server, tenant, config, conversation) = begun(Settings::default()).await;
    for streamed in [false, true] {
        let gate = Gate::new();
        let calls = server.vendor.call_count();
        server.vendor.then(Reply::text("Said to nobody.").stall(At::Frame(4), &gate));
        let body = json!({"conversation_id": conversation, "message": "and now?", "stream": streamed});
        if streamed {
            let mut events = server.stream(&tenant.key, &config, &body).await;
            events.expect("turn.started").await;
            server.vendor.called(calls + 1).await;
            drop(events);
        } else {
            let asking = server.chat(&tenant.key, &config, &body);
            tokio::select! {
                answer = asking => panic!("it was not to be answered yet: {}", answer.body),
                () = server.vendor.called(calls + 1) => {}
            }
        }
        gate.open();
        let before = if streamed { 4 } else { 2 };
        // The next on this conversation waits for the turn that nobody reads, and sees what it stored.
        server.vendor.then(Reply::text("Next."));
        let next = server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "next"})).await.expect(200);
        assert_eq!(next.text("/response"), "Next.");
        let said = server.vendor.last().said;
        assert_eq!(said[said.len() - 3..], ["user: and now?", "assistant: Said to nobody.", "user: next"], "streamed: {streamed} {before}");
    }
    assert_eq!(server.vendor.clients_lost(), 0, "the vendor's call went on");
    assert_eq!(server.vendor.billed_nanos(), 5 * 600_000);
    assert_eq!(server.wallet(&tenant.key).await.0, "9.997000000");
    server.done().await;
}

#[tokio::test]
async fn a_running_turn_can_be_followed_and_replayed() {
    let (server, tenant, config, conversation) = begun(Settings::default()).await;
    let gate = Gate::new();
    let reply = Reply::parts(vec![Part::text("One two three four five six."), Part::call("c1", "look", &json!({}))]);
    server.vendor.then(reply.stall(At::Frame(5), &gate));
    let mut first = server.stream(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "go"})).await;
    let started = first.expect("turn.started").await;
    let turn = started.data["turn_id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/chat/turns/{turn}/stream");
    // A second reader gets all from the beginning, and then goes along.
    let mut second = Events::of(server.request("GET", &path, &tenant.key).send().await.unwrap(), 0);
    assert_eq!(second.expect("turn.started").await, started);
    second.expect("message.delta").await;
    gate.open();
    let (first, second) = tokio::join!(async { first.rest().await }, async { second.rest().await });
    assert_eq!(first.last(), second.last());
    assert_eq!(first.last().unwrap().name, "turn.completed");
    // A third comes after the end, with the id of the last event it saw.
    for seen in [0, 1, 2] {
        let request = server.request("GET", &path, &tenant.key).header("Last-Event-ID", seen.to_string());
        let rest = Events::of(request.send().await.unwrap(), seen).rest().await;
        assert_eq!(rest.first().map(|event| event.id), Some(seen + 1));
        assert_eq!(rest.last(), first.last());
    }
    let strange = server.request("GET", &path, &tenant.key).header("Last-Event-ID", "yesterday").send().await.unwrap();
    assert!([400, 422].contains(&strange.status().as_u16()));
    // Another tenant finds no such turn.
    let other = server.tenant("Bolt").await;
    for answer in
        [server.get(&path, &other.key).await, server.post(&format!("/api/v1/chat/turns/{turn}/cancel"), &other.key, &json!({})).await]
    {
        answer.problem(404, "not_found");
    }
    server.done().await;
}

#[tokio::test]
async fn a_quiet_stream_is_kept_alive() {
    let (server, tenant, config, conversation) = begun(Settings::default().limit("keepalive_ms", 20)).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("At last.").stall(At::Frame(2), &gate));
    let mut events = server.stream(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "go"})).await;
    events.expect("turn.started").await;
    let (rest, ()) = tokio::join!(events.rest(), async {
        // Long enough for several comments; what is asserted is only that there was one.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        gate.open();
    });
    assert_eq!(rest.last().unwrap().name, "turn.completed");
    assert!(events.comments > 0);
    server.done().await;
}

#[tokio::test]
async fn a_revoked_key_loses_its_open_streams() {
    let (server, tenant, config, _) = begun(Settings::default().limit("stream_check_ms", 20)).await;
    let (key, id) = server.key(&tenant, "member").await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("One two three four five.").stall(At::Frame(4), &gate));
    let mut events = server.stream(&key, &config, &json!({"message": "go"})).await;
    events.expect("turn.started").await;
    events.expect("message.delta").await;
    server.delete(&format!("/api/v1/keys/{id}"), &tenant.key).await.expect(204);
    let rest = events.rest().await;
    assert!(rest.iter().all(|event| event.name != "turn.completed"), "{rest:?}");
    gate.open();
    server.chat(&key, &config, &json!({"message": "more"})).await.problem(401, "invalid_api_key");
    server.done().await;
}

#[tokio::test]
async fn a_turn_ends_before_the_server_does() {
    let (mut server, tenant, config, conversation) = begun(Settings::default()).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("Just in time.").stall(At::Frame(4), &gate));
    let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key);
    let body = json!({"conversation_id": conversation, "message": "last words"}).to_string();
    let asking = tokio::spawn(async move { Answer::read(request.body(body).send().await.unwrap()).await });
    server.vendor.called(2).await;
    let (answer, ()) = tokio::join!(asking, async {
        let stopping = server.stop();
        let opening = async { gate.open() };
        tokio::join!(stopping, opening);
    });
    assert_eq!(answer.unwrap().expect(200).text("/response"), "Just in time.");
    server.run().await;
    assert_eq!(server.history(&tenant.key, &conversation).await[2..], ["user: last words", "assistant: Just in time."]);
    server.done().await;
}

#[tokio::test]
async fn a_stopping_server_begins_nothing_new() {
    let (mut server, tenant, config, conversation) = begun(Settings::default()).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("Just in time.").stall(At::Frame(4), &gate));
    let request = |server: &Server, message: &str| {
        let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key);
        request.body(json!({"conversation_id": conversation, "message": message}).to_string())
    };
    let running = request(&server, "running");
    let running = tokio::spawn(async move { Answer::read(running.send().await.unwrap()).await });
    server.vendor.called(2).await;
    // It waits for the conversation, on a connection of its own, when the server is told to stop.
    let waiting = request(&server, "waiting");
    let waiting = tokio::spawn(async move { Answer::read(waiting.send().await.unwrap()).await });
    let rows = || server.number(&tenant.id, "SELECT count(*) FROM turns");
    assert_eq!(rows(), 2);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let ((), waited) = tokio::join!(server.stop(), async {
        let waited = waiting.await.unwrap();
        gate.open();
        waited
    });
    waited.problem(503, "shutting_down");
    running.await.unwrap().expect(200);
    assert_eq!(server.vendor.call_count(), 2);
    server.run().await;
    server.done().await;
}

#[tokio::test]
async fn turns_of_many_conversations_run_side_by_side() {
    let (server, tenant, config, _) = begun(Settings::default()).await;
    server.vendor.otherwise(Reply::text("Side by side."));
    let chats = (0..40).map(|n| {
        let (server, tenant, config) = (&server, &tenant, &config);
        async move {
            let first = server.say(&tenant.key, config, &format!("conversation {n}")).await;
            let body = json!({"conversation_id": first, "message": "again"});
            server.chat(&tenant.key, config, &body).await.expect(200);
            assert_eq!(server.history(&tenant.key, &first).await[0], format!("user: conversation {n}"));
        }
    });
    futures_util::future::join_all(chats).await;
    assert_eq!(server.vendor.call_count(), 81);
    let spent: Value = server.get("/api/v1/usage", &tenant.key).await.expect(200).at("/data");
    assert!(!spent.as_array().unwrap().is_empty());
    assert_eq!(server.wallet(&tenant.key).await.0, format!("9.{}", 1_000_000_000 - 81 * 600_000));
    server.done().await;
}
