//! Random conversations with the real server: clients that answer calls in part, late or twice, speak while calls are open, cancel, change the
//! provider and the window's policy; a vendor that refuses, breaks off and finds prompts too long; a server that is killed in mid-turn.

use super::answers::{TOOLS, said};
use crate::{
    fake_provider::{At, Gate, Reply},
    harness::{Answer, Server, Settings, Tenant, full},
    money::{dice::Dice, seed},
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

const MODELS: [(&str, &str); 8] = [
    ("fake-anthropic", "smart"),
    ("fake-anthropic", "bound"),
    ("fake-anthropic", "narrow"),
    ("fake-openai", "smart"),
    ("fake-openai", "other"),
    ("fake-openai", "narrow"),
    ("fake-ollama", "smart"),
    ("fake-ollama", "narrow"),
];

/// What the vendor answers next; the last of it again and again.
#[derive(Clone)]
struct Next(Arc<Mutex<VecDeque<Reply>>>);

/// One conversation and whoever leads it.
struct Talk<'a> {
    server: &'a mut Server,
    tenant: &'a Tenant,
    dice: Dice,
    runner: TestRunner,
    next: Next,
    calls: Arc<AtomicUsize>,
    config: String,
    conversation: Option<String>,
    /// Calls that are answered by now.
    before: Vec<Value>,
    said: u64,
    /// How many turns were answered.
    answered: usize,
}

impl Talk<'_> {
    async fn step(&mut self, kills: bool) {
        if self.dice.chance(35) {
            self.switch().await;
        }
        let open = self.open().await;
        let body = self.body(&open);
        let script = self.script();
        *self.next.0.lock().expect("no panic") = script;
        if kills && self.dice.chance(20) {
            self.broken_off(&body, true).await;
        } else if self.conversation.is_some() && self.dice.chance(10) {
            self.broken_off(&body, false).await;
        } else {
            let answer = self.server.chat(&self.tenant.key, &self.config, &body).await;
            self.heard(&answer, open);
        }
    }

    fn heard(&mut self, answer: &Answer, open: Vec<Value>) {
        let allowed = [200, 409, 422, 502, 503, 504];
        assert!(allowed.contains(&answer.status), "{} {}", answer.status, answer.body);
        if answer.status == 200 {
            self.answered += 1;
            self.conversation = Some(answer.text("/conversation_id"));
            if !open.is_empty() {
                self.before = open;
            }
        }
    }

    /// The calls that wait for results.
    async fn open(&self) -> Vec<Value> {
        let Some(conversation) = &self.conversation else { return Vec::new() };
        let shown = self.server.get(&format!("/api/v1/conversations/{conversation}"), &self.tenant.key).await.expect(200);
        shown.at("/open_tool_calls").as_array().cloned().expect("a list")
    }

    /// Another model, another policy, another prompt.
    async fn switch(&mut self) {
        let (provider, model) = *self.dice.pick(&MODELS);
        let mut chosen = json!({"provider": provider, "model": model, "max_tokens": 400});
        let (other, another) = *self.dice.pick(&MODELS);
        if self.dice.chance(30) && (other, another) != (provider, model) {
            chosen["fallbacks"] = json!([{"provider": other, "model": another}]);
        }
        let policy = *self.dice.pick(&["truncate", "compact", "compact", "error"]);
        let prompt = *self.dice.pick(&["You are a test.", "You are a test.", "You are another.", ""]);
        let body = json!({"model_config": chosen, "context_policy": policy, "system_prompt": prompt});
        self.server.patch(&format!("/api/v1/configs/{}", self.config), &self.tenant.key, &body).await.expect(200);
    }

    /// What the client sends, knowing these calls to be open.
    fn body(&mut self, open: &[Value]) -> Value {
        let content = self.dice.pick(&[json!("sunny"), json!(""), Value::Null, json!({"deep": [1]}), json!("r".repeat(900))]).clone();
        let ok = self.dice.chance(80);
        let result = |call: &Value| json!({"tool_call_id": call["id"], "content": content, "ok": ok});
        let mut results: Vec<Value> = open.iter().map(result).collect();
        let mut body = match self.dice.below(10) {
            0..=3 if !results.is_empty() => json!({"tool_results": results}),
            4 if !results.is_empty() => {
                results.reverse();
                json!({"tool_results": results})
            }
            5 if results.len() > 1 => json!({"tool_results": &results[1..]}),
            6 if !results.is_empty() => {
                let twice = [results.clone(), results].concat();
                json!({"tool_results": twice})
            }
            7 if !self.before.is_empty() => json!({"tool_results": self.before.iter().map(result).collect::<Vec<_>>()}),
            _ => {
                self.said += 1;
                let more = "word ".repeat(usize::try_from(self.dice.below(120)).expect("small"));
                json!({"message": format!("Message {} {more}", self.said), "cancel_open_calls": self.dice.chance(60)})
            }
        };
        if let Some(conversation) = &self.conversation {
            body["conversation_id"] = json!(conversation);
        }
        body
    }

    /// The vendor's answers to what comes now.
    fn script(&mut self) -> VecDeque<Reply> {
        let said = said().new_tree(&mut self.runner).expect("a value").current();
        let reply = said.reply(&format!("sig{}", self.dice.bits()));
        let at = *self.dice.pick(&[At::AfterHead, At::Frame(1), At::WithinFrame(2), At::BeforeUsage, At::BeforeLast]);
        match self.dice.below(20) {
            0 => [Reply::refuse(429), reply].into(),
            1 => [Reply::refuse(500), reply].into(),
            2 => [Reply::refuse(529)].into(),
            3 | 4 => [Reply::too_long(), reply].into(),
            5 => [reply.cut(at)].into(),
            6 => [reply.error(at, "overloaded")].into(),
            7 => [Reply::refuse(400)].into(),
            _ => [reply].into(),
        }
    }

    /// A turn that the client cancels, or that the server does not survive.
    async fn broken_off(&mut self, body: &Value, kill: bool) {
        let gate = Gate::new();
        let at = *self.dice.pick(&[At::BeforeHead, At::AfterHead]);
        *self.next.0.lock().expect("no panic") = [Reply::text("Never heard of.").stall(at, &gate)].into();
        let before = self.calls.load(Ordering::SeqCst);
        let request = self.server.request("POST", &format!("/api/v1/chat/{}", self.config), &self.tenant.key).body(body.to_string());
        let mut asking = tokio::spawn(async move { request.send().await.map(|response| response.status().as_u16()) });
        // It may as well be refused before any vendor is asked.
        let waiting = async {
            while self.calls.load(Ordering::SeqCst) == before {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            () = waiting => {}
            _ = &mut asking => return,
        }
        if kill {
            self.server.kill().await;
            drop(asking.await);
            self.server.run().await;
        } else {
            let conversation = self.conversation.clone().expect("it exists");
            let shown = self.server.get(&format!("/api/v1/conversations/{conversation}"), &self.tenant.key).await.expect(200);
            let turn = shown.text("/active_turn_id");
            self.server.post(&format!("/api/v1/chat/turns/{turn}/cancel"), &self.tenant.key, &json!({})).await.expect(200);
            drop(asking.await);
        }
        gate.open();
    }
}

/// Leads so many conversations of so many steps each.
async fn talk(settings: Settings, name: &str, conversations: u64, steps: u64, kills: bool) {
    let seed = seed(name);
    let mut server = settings.start().await;
    let tenant = server.tenant("Acme").await;
    server.credit(&tenant, "100000.00").await;
    let (next, calls) = (Next(Arc::default()), Arc::new(AtomicUsize::new(0)));
    let (script, counted) = (next.clone(), Arc::clone(&calls));
    server.vendor.script(Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut replies = script.0.lock().expect("no panic");
        if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
    }));
    let mut answered = 0;
    for number in 0..conversations {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&Dice::of(seed, number).bits().to_le_bytes());
        let runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let config = server.config(&tenant, "fake-anthropic", "smart", &json!({"tools_config": TOOLS})).await;
        let mut talk = Talk {
            server: &mut server,
            tenant: &tenant,
            dice: Dice::of(seed, number),
            runner,
            next: next.clone(),
            calls: Arc::clone(&calls),
            config,
            conversation: None,
            before: Vec::new(),
            said: 0,
            answered: 0,
        };
        for _ in 0..steps {
            talk.step(kills).await;
        }
        answered += talk.answered;
        let objections = server.vendor.violations();
        assert!(objections.is_empty(), "conversation {number}: {objections:#?}");
    }
    let asked = calls.load(Ordering::SeqCst);
    println!("{name}: {answered} turns answered of {}, {asked} calls", conversations * steps);
    assert!(answered as u64 * 10 > conversations * steps, "most refusals are not what was to be shown: {answered}");
    // What a kill left is closed when the tenant's file is opened next, and the last thing that happened may have been a kill.
    assert_eq!(server.wallet(&tenant.key).await.1, "0.000000000");
    server.done().await;
}

#[tokio::test]
async fn no_vendor_objects_to_what_odd_clients_make_of_a_conversation() {
    let (conversations, steps) = if full() { (1_000, 20) } else { (40, 12) };
    talk(Settings::default(), "histories", conversations, steps, false).await;
}

#[tokio::test]
async fn no_vendor_objects_to_a_history_whose_server_was_killed() {
    let (conversations, steps) = if full() { (60, 14) } else { (4, 8) };
    talk(Settings::default().process(), "histories with kills", conversations, steps, true).await;
}
