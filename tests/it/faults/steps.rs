//! One turn, alone, killed at every step of its way.

use super::{arm, ask, ask_on, full, kept, message, sound};
use crate::{
    fake_provider::{Reply, Wire},
    harness::{Server, Settings, Tenant},
};
use serde_json::json;
use std::time::Duration;

/// A step, and how far a turn that is killed there has come.
struct Step {
    point: &'static str,
    /// Its row is committed.
    opened: bool,
    /// Its money is set aside.
    held: bool,
    /// Its vendor was asked.
    called: bool,
    /// Its answer and its charge are committed.
    stored: bool,
}

const fn step(point: &'static str, came: &str) -> Step {
    let came = came.as_bytes();
    Step { point, opened: !came.is_empty(), held: came.len() > 1, called: came.len() > 2, stored: came.len() > 3 }
}

/// A letter for each of opened, held, called, stored. The commits are counted from the start of the process: opening the turn with its hold,
/// the settle.
const STEPS: [Step; 13] = [
    step("before-hold=kill", ""),
    step("tenant.before-commit=kill@1", ""),
    step("tenant.after-commit=kill@1", "oh"),
    step("after-hold=kill", "oh"),
    step("turn-opened=kill", "oh"),
    step("before-send=kill", "oh"),
    step("after-piece=kill", "ohc"),
    step("after-answer=kill", "ohc"),
    step("in-settle=kill", "ohc"),
    step("tenant.before-commit=kill@2", "ohc"),
    step("tenant.after-commit=kill@2", "ohcs"),
    step("after-settle=kill", "ohcs"),
    step("before-told=kill", "ohcs"),
];

struct Scene {
    server: Server,
    tenant: Tenant,
    config: String,
    conversation: String,
}

impl Scene {
    fn count(&self, sql: &str) -> i64 {
        self.server.number(&self.tenant.id, sql)
    }

    /// Vendor calls, ledger entries, messages, broken-off turns, those of them that held money.
    fn counts(&self) -> [i64; 5] {
        let interrupted = "SELECT count(*) FROM logs WHERE event = 'interrupted'";
        [
            i64::try_from(self.server.vendor.call_count()).expect("few calls"),
            self.count("SELECT count(*) FROM ledger"),
            self.count("SELECT count(*) FROM messages"),
            self.count(interrupted),
            self.count(&format!("{interrupted} AND operator_cost > 0")),
        ]
    }

    async fn kill_at(&mut self, step: &Step) {
        let point = step.point;
        let before = self.counts();
        self.server.kill().await;
        arm(&mut self.server, point);
        self.server.run().await;
        let body = message(&format!("Killed at {point}"), Some(&self.conversation));
        let told = ask(&self.server, &self.tenant.key, &self.config, point, &body).await;
        assert!(told.is_none(), "{point} killed nothing: {told:?}");
        self.server.died().await;

        self.server.env.clear();
        self.server.run().await;
        sound(&self.server, &[&self.tenant]).await;
        let count = i64::from;
        let after = self.counts();
        let grown: Vec<i64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        let cut = step.opened && !step.stored;
        let expected = [count(step.called), count(step.stored), 2 * count(step.stored), count(cut), count(cut && step.held)];
        assert_eq!(grown, expected, "{point}: calls, entries, messages, interrupted, interrupted with a hold");

        // The key is free again, or its answer is there; either way one answer and one charge come of it.
        let answer = ask(&self.server, &self.tenant.key, &self.config, point, &body).await.expect("an answer").expect(200);
        assert_eq!(answer.header("idempotency-replayed").is_some(), step.stored, "{point}");
        kept(&self.server, &self.tenant, &answer.json());
        let calls = self.counts()[0] - before[0];
        assert_eq!(calls, count(step.called) + count(!step.stored), "{point}: vendor calls");
        assert_eq!(self.counts()[1] - before[1], 1, "{point}: entries");
        assert_eq!(self.counts()[2] - before[2], 2, "{point}: messages");
    }
}

async fn at_every_step(wire: Wire, steps: impl Iterator<Item = &'static Step>) {
    let server = Settings::default().process().start().await;
    server.vendor.otherwise(Reply::text("An answer in full."));
    let tenant = server.rich_tenant("Killed").await;
    let config = server.config(&tenant, wire.provider(), "smart", &json!({})).await;
    let conversation = server.say(&tenant.key, &config, "First").await;
    let mut scene = Scene { server, tenant, config, conversation };
    let mut turns = 1;
    for step in steps {
        scene.kill_at(step).await;
        turns += 1;
    }
    let Scene { server, tenant, config, conversation } = scene;
    // The conversation is whole and goes on.
    let last = server.chat(&tenant.key, &config, &message("Last", Some(&conversation))).await.expect(200);
    kept(&server, &tenant, &last.json());
    let history = server.history(&tenant.key, &conversation).await;
    assert_eq!(history.len(), 2 * (turns + 1), "{history:#?}");
    server.done().await;
}

#[tokio::test]
async fn a_turn_that_is_killed_at_any_step_is_whole_or_was_never_there() {
    at_every_step(Wire::Anthropic, STEPS.iter()).await;
}

#[tokio::test]
async fn other_wires_are_killed_no_differently() {
    let some = |step: &&Step| full() || ["after-piece=kill", "in-settle=kill"].contains(&step.point);
    at_every_step(Wire::OpenAi, STEPS.iter().filter(some)).await;
    at_every_step(Wire::Ollama, STEPS.iter().filter(some)).await;
}

#[tokio::test]
async fn a_summary_that_was_paid_is_kept_when_the_turn_behind_it_is_killed() {
    let mut server = Settings::default().process().start().await;
    let tenant = server.rich_tenant("Compact").await;
    let extra = json!({"context_policy": "compact", "system_prompt": "Be brief."});
    let config = server.config(&tenant, Wire::Anthropic.provider(), "narrow", &extra).await;
    let padding = "x".repeat(1_200);
    server.vendor.when("What was said then:", Reply::text("A summary.").tokens(900, 10));
    server.vendor.otherwise(Reply::text(&format!("An answer. {padding}")).tokens(700, 400));
    let mut conversation: Option<String> = None;
    for number in 0..8 {
        let claim = format!("question {number}");
        let body = message(&format!("{claim} {padding}"), conversation.as_deref());
        server.kill().await;
        // The second hold of one turn: its summary is stored and paid, its answer is not asked for.
        arm(&mut server, "before-hold=kill@2");
        server.run().await;
        if let Some(answer) = ask(&server, &tenant.key, &config, &claim, &body).await {
            conversation = Some(answer.expect(200).text("/conversation_id"));
            continue;
        }
        server.died().await;
        server.env.clear();
        server.run().await;
        sound(&server, &[&tenant]).await;
        let calls = server.vendor.call_count();
        let entries = server.number(&tenant.id, "SELECT count(*) FROM ledger");
        let told = ask(&server, &tenant.key, &config, &claim, &body).await.expect("an answer").expect(200);
        assert_eq!(server.vendor.call_count(), calls + 1, "the summary is not made again");
        assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM ledger"), entries + 1, "nor paid again");
        assert!(told.at("/context/turns_summarised").as_u64() > Some(0), "{}", told.body);
        kept(&server, &tenant, &told.json());
        sound(&server, &[&tenant]).await;
        server.done().await;
        return;
    }
    panic!("nothing was summarised");
}

#[tokio::test]
async fn a_panic_costs_its_turn_alone_and_leaves_nothing_for_the_next_start() {
    let mut server = Settings::default().process().start().await;
    server.vendor.otherwise(Reply::text("An answer in full."));
    let tenant = server.rich_tenant("Panicked").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let conversation = server.say(&tenant.key, &config, "First").await;
    server.stop().await;
    let points = ["before-hold", "after-hold", "before-send", "after-piece", "after-answer"];
    // Each request comes one place further than the one before.
    arm(&mut server, &points.map(|point| format!("{point}=panic@1")).join(","));
    server.run().await;
    let balance = server.wallet(&tenant.key).await;
    for (n, point) in (0_i64..).zip(points) {
        let body = message("Again", Some(&conversation));
        ask_on(&server, &tenant.key, &config, "k", &body).await.expect("an answer").problem(500, "internal");
        // The first breaks the transaction that would have opened the turn; each of the others a turn with money held for it.
        let interrupted = "SELECT count(*) FROM logs WHERE event = 'interrupted' AND operator_cost > 0";
        for _ in 0..200 {
            if server.number(&tenant.id, interrupted) == n {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(server.wallet(&tenant.key).await, balance, "{point}: nothing is held, nothing was charged");
        assert_eq!(server.number(&tenant.id, interrupted), n, "{point}");
        assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM turns WHERE state = 'interrupted'"), n, "{point}");
    }
    let answer = ask_on(&server, &tenant.key, &config, "k", &message("Again", Some(&conversation))).await.expect("an answer").expect(200);
    assert_eq!(answer.header("idempotency-replayed"), None);
    kept(&server, &tenant, &answer.json());
    server.env.clear();
    server.done().await;
}
