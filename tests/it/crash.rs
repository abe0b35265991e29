//! `kill -9` in the middle of a turn, a restart on the same directory, and what must hold then: no hold is left, the conversation can go on, the
//! log says what was interrupted, and the tenant paid for answers alone.

use crate::{
    fake_provider::{At, Gate, Part, Reply},
    harness::{Server, Settings, Tenant},
};
use serde_json::{Value, json};

struct World {
    server: Server,
    tenant: Tenant,
    config: String,
    conversation: String,
}

impl World {
    async fn begun() -> Self {
        let server = Settings::default().process().start().await;
        let tenant = server.rich_tenant("Acme").await;
        let config = server.config(&tenant, "fake-anthropic", "smart", &json!({"tools_config": ["look"]})).await;
        server.vendor.then(Reply::text("Good."));
        let conversation = server.say(&tenant.key, &config, "first").await;
        Self { server, tenant, config, conversation }
    }

    /// Sends a request that nobody will answer.
    fn ask(&self, body: &Value, idempotency: &str) -> tokio::task::JoinHandle<()> {
        let request = self.server.request("POST", &format!("/api/v1/chat/{}", self.config), &self.tenant.key);
        let request = request.header("Idempotency-Key", idempotency).body(body.to_string());
        tokio::spawn(async move { drop(request.send().await) })
    }
}

#[tokio::test]
async fn a_turn_that_was_cut_off_by_a_crash_is_closed_at_the_next_start() {
    let mut world = World::begun().await;
    let gate = Gate::new();
    for (n, at) in [At::BeforeHead, At::Frame(4)].into_iter().enumerate() {
        let World { tenant, conversation, .. } = &world;
        let body = json!({"conversation_id": conversation, "message": "lost"});
        let (balance, _) = world.server.wallet(&tenant.key).await;
        let calls = world.server.vendor.call_count();
        world.server.vendor.then(Reply::text("One two three four five six.").stall(at, &gate));
        let asking = world.ask(&body, &format!("k{n}"));
        world.server.vendor.called(calls + 1).await;
        let held = world.server.wallet(&tenant.key).await.1;
        assert_ne!(held, "0.000000000", "the hold is durable before the vendor is called");
        world.server.kill().await;
        asking.await.unwrap();
        assert_eq!(world.server.number(&world.tenant.id, "SELECT count(*) FROM holds"), 1);

        world.server.run().await;
        let World { server, tenant, config: _, conversation } = &world;
        assert_eq!(
            server.wallet(&tenant.key).await,
            (balance.clone(), "0.000000000".to_owned()),
            "the tenant pays for answers, not for our crash"
        );
        assert_eq!(server.history(&tenant.key, conversation).await, ["user: first", "assistant: Good."]);
        let log = server.logs(&tenant.key).await;
        let row = log.iter().find(|row| row["event"] == "interrupted").expect("a row of the interrupted turn");
        assert_eq!((&row["conversation_id"], &row["cost"]), (&json!(conversation), &Value::Null), "{row:#}");
        assert_eq!(row["operator_cost"], json!(held), "the most that the vendor may have billed");
        assert_eq!(log.iter().filter(|row| row["event"] == "interrupted").count(), n + 1);
        let shown = server.get(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.expect(200);
        assert_eq!(shown.at("/active_turn_id"), Value::Null);
    }
    // The same request with the same idempotency key is done now, for the first time.
    let World { server, tenant, config, conversation } = &world;
    server.vendor.then(Reply::text("Now."));
    let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).header("Idempotency-Key", "k1");
    let body = json!({"conversation_id": conversation, "message": "lost"});
    let answer = crate::harness::Answer::read(request.body(body.to_string()).send().await.unwrap()).await.expect(200);
    assert_eq!((answer.text("/response"), answer.header("idempotency-replayed")), ("Now.".to_owned(), None));
    assert_eq!(server.vendor.last().said, ["user: first", "assistant: Good.", "user: lost"]);
    world.server.done().await;
}

#[tokio::test]
async fn open_calls_survive_a_crash() {
    let mut world = World::begun().await;
    let gate = Gate::new();
    let World { server, tenant, config, conversation } = &world;
    server.vendor.then(Reply::parts(vec![Part::text("Looking."), Part::call("c1", "look", &json!({}))]));
    let body = json!({"conversation_id": conversation, "message": "look"});
    server.chat(&tenant.key, config, &body).await.expect(200);
    server.vendor.then(Reply::text("lost").stall(At::Frame(3), &gate));
    let results = json!({"conversation_id": conversation, "tool_results": [{"tool_call_id": "c1", "content": "a tree"}]});
    let asking = world.ask(&results, "k1");
    world.server.vendor.called(3).await;
    world.server.kill().await;
    asking.await.unwrap();
    world.server.run().await;
    let World { server, tenant, config, conversation } = &world;
    let shown = server.get(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.expect(200);
    assert_eq!(shown.at("/open_tool_calls/0/id"), json!("c1"), "the results were not stored with an answer, so the call is still open");
    server.vendor.then(Reply::text("A tree, then."));
    server.chat(&tenant.key, config, &results).await.expect(200);
    assert_eq!(server.vendor.last().said.last().unwrap(), "tool look: a tree");
    world.server.done().await;
}

#[tokio::test]
async fn a_crash_at_any_moment_leaves_whole_files() {
    let mut world = World::begun().await;
    world.server.vendor.otherwise(Reply::text("Some words that take a while."));
    for round in 0..6_u64 {
        let answered = world.server.vendor.call_count();
        let asking: Vec<_> =
            (0..8).map(|n| world.ask(&json!({"message": format!("round {round}, {n}")}), &format!("{round} {n}"))).collect();
        // Somewhere between the first vendor call and the last commit: a different place each round.
        world.server.vendor.called(answered + 1 + usize::try_from(round).unwrap()).await;
        world.server.kill().await;
        for task in asking {
            task.await.unwrap();
        }
        world.server.audit();
        world.server.run().await;
        let World { server, tenant, .. } = &world;
        assert_eq!(server.wallet(&tenant.key).await.1, "0.000000000", "round {round}");
        server.audit();
        // What was answered was paid, what was interrupted was not: every assistant message has its spend, and no spend lacks its message.
        let paid = server.number(&tenant.id, "SELECT count(*) FROM ledger WHERE kind = 'spend'");
        assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM messages WHERE role = 'assistant'"), paid);
        assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM messages WHERE role = 'user'"), paid);
        assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM turns WHERE state = 'running'"), 0);
    }
    world.server.done().await;
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_says_so_and_ends_well() {
    let mut world = World::begun().await;
    let gate = Gate::new();
    let World { server, conversation, .. } = &world;
    server.vendor.then(Reply::text("Last words.").stall(At::Frame(3), &gate));
    let asking = world.ask(&json!({"conversation_id": conversation, "message": "go"}), "k1");
    world.server.vendor.called(2).await;
    gate.open();
    world.server.stop().await;
    asking.await.unwrap();
    assert_eq!(world.server.number(&world.tenant.id, "SELECT count(*) FROM messages"), 4, "the turn came to its end");
    world.server.run().await;
    world.server.done().await;
}
