//! What a turn costs whichever way it goes: each test counts the vendor's calls and the tenant's entries. The rules are in docs/money.md.

use crate::{
    fake_provider::{At, Gate, Reply},
    harness::{Answer, Server, Settings, Tenant},
};
use serde_json::{Value, json};
use std::time::Duration;

/// What the usual answer costs: 100 tokens at 3 dollars a million and 20 at 15.
const ANSWER: i64 = 600_000;
/// The same at the rates of the model that `fallback` falls back to: nothing.
const FREE: i64 = 0;

/// What a rule counts, since the server began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    /// Calls that the vendor got.
    calls: i64,
    /// Spends in the tenant's ledger.
    entries: i64,
    /// Their sum.
    charged: i64,
    /// Stored answers.
    answers: i64,
}

struct World {
    server: Server,
    tenant: Tenant,
    config: String,
}

impl World {
    async fn with(settings: Settings, extra: &Value) -> Self {
        let server = settings.start().await;
        let tenant = server.rich_tenant("Acme").await;
        let config = server.config(&tenant, "fake-anthropic", "smart", extra).await;
        Self { server, tenant, config }
    }

    async fn new() -> Self {
        Self::with(Settings::default(), &json!({})).await
    }

    fn count(&self) -> Count {
        let number = |sql: &str| self.server.number(&self.tenant.id, sql);
        Count {
            calls: i64::try_from(self.server.vendor.call_count()).expect("few"),
            entries: number("SELECT count(*) FROM ledger WHERE kind = 'spend'"),
            charged: -number("SELECT coalesce(sum(amount), 0) FROM ledger WHERE kind = 'spend'"),
            answers: number("SELECT count(*) FROM messages WHERE role = 'assistant'"),
        }
    }

    /// Once nothing runs any more, these were the calls, entries, nano-dollars and answers, and nothing is held.
    #[track_caller]
    fn came_to(&self, calls: i64, entries: i64, charged: i64, answers: i64) {
        assert_eq!(self.count(), Count { calls, entries, charged, answers });
        for rest in ["SELECT count(*) FROM holds", "SELECT held FROM wallet", "SELECT count(*) FROM turns WHERE state = 'running'"] {
            assert_eq!(self.server.number(&self.tenant.id, rest), 0, "{rest}");
        }
    }

    fn request(&self, key: &str, body: &Value) -> reqwest::RequestBuilder {
        self.server.request("POST", &format!("/api/v1/chat/{}", self.config), key).body(body.to_string())
    }

    async fn keyed(&self, idempotency: &str, body: &Value) -> Answer {
        Answer::read(self.request(&self.tenant.key, body).header("Idempotency-Key", idempotency).send().await.expect("an answer")).await
    }

    async fn say(&self) -> Answer {
        self.server.chat(&self.tenant.key, &self.config, &json!({"message": "go"})).await
    }

    /// Waits until no turn runs.
    async fn at_rest(&self) {
        let running = "SELECT count(*) FROM turns WHERE state = 'running'";
        self.server.eventually("rest", || (self.server.number(&self.tenant.id, running) == 0).then_some(())).await;
    }

    /// The id of the only turn that runs.
    async fn running(&self) -> String {
        let sql = "SELECT id FROM turns WHERE state = 'running'";
        self.server.eventually("a running turn", || self.server.tenant_db(&self.tenant.id).query_row(sql, [], |row| row.get(0)).ok()).await
    }

    async fn cancel(&self, turn: &str) -> Answer {
        self.server.post(&format!("/api/v1/chat/turns/{turn}/cancel"), &self.tenant.key, &json!({})).await
    }
}

#[tokio::test]
async fn idempotency_one_call_one_entry_one_answer_however_many_ask() {
    let mut world = World::new().await;
    let (gate, body) = (Gate::new(), json!({"message": "go"}));
    world.server.vendor.then(Reply::text("Once.").stall(At::BeforeHead, &gate));
    let copies = futures_util::future::join_all((0..30).map(|_| world.keyed("k", &body)));
    let (copies, ()) = tokio::join!(copies, async {
        world.server.vendor.called(1).await;
        gate.open();
    });
    let bodies: Vec<&str> = copies.iter().filter(|copy| copy.status == 200).map(|copy| copy.body.as_str()).collect();
    assert!(!bodies.is_empty() && bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    assert!(copies.iter().all(|copy| copy.status == 200 || (copy.status == 409 && copy.code() == "idempotency_in_progress")));
    let again = world.keyed("k", &body).await.expect(200);
    assert_eq!((again.body.as_str(), again.header("idempotency-replayed")), (bodies[0], Some("true")));
    world.came_to(1, 1, ANSWER, 1);
    // Another life of the server knows it too.
    world.server.stop().await;
    world.server.run().await;
    assert_eq!(world.keyed("k", &body).await.expect(200).json(), again.json());
    world.came_to(1, 1, ANSWER, 1);
    // A vendor's failure is stored like an answer: asking again costs nothing.
    world.server.vendor.then(Reply::refuse(400));
    for _ in 0..3 {
        world.keyed("refused", &body).await.problem(502, "provider_error");
    }
    world.came_to(2, 1, ANSWER, 1);
    world.server.done().await;
}

#[tokio::test]
async fn disconnect_the_answer_is_stored_and_charged_once() {
    let world = World::new().await;
    for (n, stream) in [(1, false), (2, true)] {
        let gate = Gate::new();
        world.server.vendor.then(Reply::text("To nobody.").stall(At::Frame(3), &gate));
        let asking = world.request(&world.tenant.key, &json!({"message": "go", "stream": stream})).send();
        tokio::select! {
            response = asking => if stream { drop(response) } else { panic!("answered too early") },
            () = world.server.vendor.called(n) => {}
        }
        world.server.vendor.called(n).await;
        // However long nobody listens, the vendor is not left.
        tokio::time::sleep(Duration::from_millis(30)).await;
        gate.open();
        world.at_rest().await;
        let n = i64::try_from(n).expect("few");
        world.came_to(n, n, n * ANSWER, n);
    }
    assert_eq!(world.server.vendor.clients_lost(), 0);
    assert_eq!(world.server.vendor.billed_nanos(), 2 * ANSWER);
    world.server.done().await;
}

#[tokio::test]
async fn retries_only_the_call_that_was_accepted_is_charged() {
    let world = World::new().await;
    // Refused twice, then answered: three calls, one entry.
    world.server.vendor.then(Reply::refuse(529)).then(Reply::refuse(429)).then(Reply::text("Yes."));
    world.say().await.expect(200);
    world.came_to(3, 1, ANSWER, 1);
    // Refused to the end: three calls, no entry.
    world.server.vendor.then(Reply::refuse(529)).then(Reply::refuse(529)).then(Reply::refuse(529));
    world.say().await.problem(503, "provider_overloaded");
    world.came_to(6, 1, ANSWER, 1);
    // A refusal that will not change is not asked again.
    world.server.vendor.then(Reply::refuse(400));
    world.say().await.problem(502, "provider_error");
    world.came_to(7, 1, ANSWER, 1);
    assert_eq!(world.server.vendor.billed_nanos(), ANSWER);
    // Perhaps accepted: never asked again, one entry of an estimate within the hold, and no answer.
    for (n, at) in [(1, At::AfterHead), (2, At::Frame(4)), (3, At::BeforeUsage)] {
        let before = world.count().charged;
        world.server.vendor.then(Reply::text("One two three four five.").cut(at));
        world.say().await.problem(502, "provider_error");
        let after = world.count();
        world.came_to(7 + n, 1 + n, after.charged, 1);
        assert!(after.charged > before && after.charged - before < ANSWER * 200, "{at:?}: {before} {after:?}");
        let log = world.server.logs(&world.tenant.key).await.remove(0);
        assert_eq!((&log["estimated"], &log["event"]), (&json!(true), &json!("step")));
    }
    world.server.done().await;
}

#[tokio::test]
async fn fallbacks_each_is_held_and_charged_at_its_own_rate() {
    let fallbacks = json!([{"provider": "fake-openai", "model": "unpriced"}, {"provider": "fake-openai", "model": "free"}]);
    let world = World::with(Settings::default(), &json!({"model_config": {"fallbacks": fallbacks}})).await;
    for _ in 0..3 {
        world.server.vendor.then(Reply::refuse(529));
    }
    world.server.vendor.then(Reply::text("From the last."));
    let answer = world.say().await.expect(200);
    assert_eq!(answer.at("/model"), json!({"provider": "fake-openai", "model": "free"}));
    // Three refusals and the free model's answer; what has no price was not asked, what costs nothing makes no entry.
    world.came_to(4, 0, FREE, 1);
    // The first answers: nobody else is asked.
    world.server.vendor.then(Reply::text("From the first."));
    world.say().await.expect(200);
    world.came_to(5, 1, ANSWER, 2);
    // The first may have accepted: nobody else is asked either.
    world.server.vendor.then(Reply::text("Lost on the way.").cut(At::Frame(4)));
    world.say().await.problem(502, "provider_error");
    let charged = world.count().charged;
    world.came_to(6, 2, charged, 2);
    world.server.done().await;
}

#[tokio::test]
async fn cancels_what_the_vendor_did_is_charged_and_what_it_refused_is_not() {
    let world = World::new().await;
    // In mid-answer: one call, one entry of an estimate, no answer; however often it is cancelled.
    let gate = Gate::new();
    world.server.vendor.then(Reply::text("One two three four five six.").stall(At::Frame(5), &gate));
    let (cancelled, turn) = tokio::join!(world.say(), async {
        world.server.vendor.called(1).await;
        let turn = world.running().await;
        let (one, two) = tokio::join!(world.cancel(&turn), world.cancel(&turn));
        assert!(one.status == 200 && two.status == 200, "{} {}", one.body, two.body);
        turn
    });
    cancelled.problem(409, "turn_cancelled");
    let charged = world.count().charged;
    assert!(charged > 0);
    world.came_to(1, 1, charged, 0);
    assert_eq!(world.cancel(&turn).await.expect(200).at("/was_running"), json!(false));
    world.came_to(1, 1, charged, 0);
    // While it waits to ask again after a refusal: no entry, and no further call.
    world.server.vendor.then(Reply::refuse(429).header("retry-after", "15"));
    let (cancelled, ()) = tokio::join!(world.say(), async {
        world.server.vendor.called(2).await;
        let turn = world.running().await;
        world.cancel(&turn).await.expect(200);
    });
    cancelled.problem(409, "turn_cancelled");
    world.came_to(2, 1, charged, 0);
    world.server.done().await;
}

#[tokio::test]
async fn revocation_ends_what_was_not_begun_and_pays_what_was() {
    let world = World::with(Settings::default().limit("stream_check_ms", 20), &json!({})).await;
    // A call under way runs to its end, is stored and charged once; its reader is cut off.
    let (key, id) = world.server.key(&world.tenant, "member").await;
    let gate = Gate::new();
    world.server.vendor.then(Reply::text("One two three.").stall(At::Frame(4), &gate));
    let mut events = world.server.stream(&key, &world.config, &json!({"message": "go"})).await;
    events.expect("turn.started").await;
    world.server.vendor.called(1).await;
    world.server.delete(&format!("/api/v1/keys/{id}"), &world.tenant.key).await.expect(204);
    assert_eq!(events.rest().await.pop().expect("an end").data["code"], "invalid_api_key");
    gate.open();
    world.at_rest().await;
    world.came_to(1, 1, ANSWER, 1);
    // A turn that waits to ask again asks no more.
    let (key, id) = world.server.key(&world.tenant, "member").await;
    world.server.vendor.then(Reply::refuse(429).header("retry-after", "1"));
    let body = json!({"message": "go"});
    let (refused, ()) = tokio::join!(world.server.chat(&key, &world.config, &body), async {
        world.server.vendor.called(2).await;
        world.server.delete(&format!("/api/v1/keys/{id}"), &world.tenant.key).await.expect(204);
    });
    assert!(refused.status >= 400, "{}", refused.body);
    world.came_to(2, 1, ANSWER, 1);
    // And the key begins nothing.
    world.server.chat(&key, &world.config, &body).await.problem(401, "invalid_api_key");
    world.came_to(2, 1, ANSWER, 1);
    world.server.done().await;
}

#[tokio::test]
async fn shutdown_waits_for_answers_and_charges_what_it_cannot_wait_for() {
    let mut world = World::with(Settings::default().limit("shutdown_ms", 300), &json!({})).await;
    // In time: one call, one entry, one answer.
    let gate = Gate::new();
    world.server.vendor.then(Reply::text("Just in time.").stall(At::Frame(3), &gate));
    let asking = tokio::spawn(world.request(&world.tenant.key, &json!({"message": "go"})).send());
    world.server.vendor.called(1).await;
    tokio::join!(world.server.stop(), async { gate.open() });
    drop(asking.await);
    world.came_to(1, 1, ANSWER, 1);
    world.server.run().await;
    // Not in time: cancelled, charged by estimate within its hold, nothing held, nothing running.
    let gate = Gate::new();
    world.server.vendor.then(Reply::text("Too slow, far too slow.").stall(At::Frame(3), &gate));
    let asking = tokio::spawn(world.request(&world.tenant.key, &json!({"message": "go"})).send());
    world.server.vendor.called(2).await;
    world.server.stop().await;
    drop(asking.await);
    let charged = world.count().charged;
    assert!(charged > ANSWER);
    world.came_to(2, 2, charged, 1);
    world.server.run().await;
    world.server.done().await;
}

#[tokio::test]
async fn a_kill_costs_the_tenant_nothing_and_tells_the_operator_the_most_it_can_be() {
    let mut world = World::with(Settings::default().process(), &json!({})).await;
    let gate = Gate::new();
    world.server.vendor.then(Reply::text("Never heard.").stall(At::Frame(3), &gate));
    let asking = tokio::spawn(world.request(&world.tenant.key, &json!({"message": "go"})).header("Idempotency-Key", "k").send());
    world.server.vendor.called(1).await;
    let held = world.server.number(&world.tenant.id, "SELECT held FROM wallet");
    assert!(held >= ANSWER, "the hold is there before the call");
    world.server.kill().await;
    drop(asking.await);
    world.server.run().await;
    world.server.wallet(&world.tenant.key).await;
    world.came_to(1, 0, 0, 0);
    assert_eq!(world.server.number(&world.tenant.id, "SELECT operator_cost FROM logs WHERE event = 'interrupted'"), held);
    // The same request with the same key is made for the first time.
    world.server.vendor.then(Reply::text("Heard."));
    assert_eq!(world.keyed("k", &json!({"message": "go"})).await.expect(200).text("/response"), "Heard.");
    world.came_to(2, 1, ANSWER, 1);
    world.server.done().await;
}
