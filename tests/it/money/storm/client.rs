//! One of the storm's clients: it talks on, hangs up, cancels, asks three times at once, uses keys that are revoked, and remembers what it was
//! told.

use super::{
    super::dice::Dice,
    vendor::{ANSWERED, FATES},
};
use crate::harness::{Answer, OPERATOR, Server, Tenant};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// How often a client asks again what it must ask again. Never reached in a test that passes.
const TRIES_MAX: usize = 2_000;

/// What may come of a turn besides an answer, when the vendor fails it.
const VENDOR_FAILED: &[&str] = &["provider_error", "provider_overloaded", "provider_timeout", "provider_not_configured", "model_closed"];

/// A turn that was asked for.
#[derive(Clone)]
struct Ask {
    claim: String,
    config: String,
    body: Value,
    stream: bool,
    /// Any end is a good one: the client spoils it itself.
    spoiled: bool,
    answerable: bool,
}

pub(super) struct Client {
    pub(super) tenant: usize,
    number: u64,
    dice: Dice,
    configs: Vec<String>,
    liar: String,
    conversation: Option<String>,
    /// Calls that wait for their results.
    open: Vec<Value>,
    /// What the server did not say the end of.
    unknown: Option<Ask>,
    asked: u64,
    pub(super) told: Vec<Value>,
    /// How often each thing happened.
    pub(super) seen: BTreeMap<String, u64>,
}

impl Client {
    pub(super) fn new(seed: u64, number: u64, tenant: usize, configs: Vec<String>, liar: String) -> Self {
        Self {
            tenant,
            number,
            dice: Dice::of(seed, number + 1),
            configs,
            liar,
            conversation: None,
            open: Vec::new(),
            unknown: None,
            asked: 0,
            told: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Takes turns, until the server is gone.
    pub(super) async fn talk(&mut self, server: &Server, tenant: &Tenant, turns: usize) {
        for _ in 0..turns {
            let ask = match self.unknown.clone() {
                Some(ask) => ask,
                None => self.next(),
            };
            self.unknown = Some(ask.clone());
            if self.take(server, tenant, ask).await.is_none() {
                self.note("server gone");
                return;
            }
            self.unknown = None;
        }
    }

    fn note(&mut self, what: &str) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
    }

    /// What is said next, in a conversation that goes on or a new one.
    fn next(&mut self) -> Ask {
        self.asked += 1;
        let mut at = self.dice.below(100);
        let fate = FATES.iter().find(|(_, share)| {
            let here = at < *share;
            at = at.saturating_sub(*share);
            here
        });
        let fate = fate.map_or("fine", |(fate, _)| fate);
        let spoiled = fate != "liar" && self.dice.chance(6);
        let how = if spoiled { "cancelled" } else { "asked" };
        let words = format!("{fate} {how} by client {} as number {}", self.number, self.asked);
        let config = if fate == "liar" { self.liar.clone() } else { self.configs[0].clone() };
        let mut body = json!({});
        if fate == "liar" || self.conversation.is_none() || (self.open.is_empty() && self.dice.chance(10)) {
            if fate != "liar" {
                (self.conversation, self.open) = (None, Vec::new());
                self.dice.chance(50).then(|| self.configs.rotate_left(1));
            }
            body["message"] = words.clone().into();
        } else if self.open.is_empty() {
            body = json!({"message": words, "conversation_id": self.conversation});
        } else {
            let results: Vec<Value> = self.open.iter().map(|call| json!({"tool_call_id": call["id"], "result": words})).collect();
            body = json!({"tool_results": results, "conversation_id": self.conversation});
        }
        let config = if fate == "liar" { config } else { self.configs[0].clone() };
        let stream = spoiled || self.dice.chance(50);
        body["stream"] = stream.into();
        Ask { claim: words, config, body, stream, spoiled, answerable: ANSWERED.contains(&fate) }
    }

    /// One turn to its end; nothing when the server went away.
    async fn take(&mut self, server: &Server, tenant: &Tenant, ask: Ask) -> Option<()> {
        let key = tenant.key.as_str();
        self.note(if ask.stream { "streamed" } else { "plain" });
        match self.dice.below(20) {
            _ if ask.spoiled => self.cancel(server, key, &ask).await?,
            0..=2 => self.hang_up(server, key, &ask).await?,
            3..=4 => {
                self.note("asked three times at once");
                join_all((0..3).map(|_| send(server, key, &ask))).await;
            }
            5 => self.revoke(server, tenant, &ask).await?,
            _ => {}
        }
        // However it was asked, its key says what became of it.
        for _ in 0..TRIES_MAX {
            let answer = send(server, key, &ask).await?;
            if self.ended(server, tenant, &ask, &answer).await {
                return Some(());
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        panic!("{} has no end", ask.claim);
    }

    /// Whether this answer is the last; what it says is kept.
    async fn ended(&mut self, server: &Server, tenant: &Tenant, ask: &Ask, answer: &Answer) -> bool {
        if answer.status == 200 {
            self.note("answered");
            assert!(ask.answerable, "{}: {}", ask.claim, answer.body);
            let told = answer.json();
            if ask.config != self.liar {
                self.conversation = told["conversation_id"].as_str().map(str::to_owned);
                self.open = told["tool_calls"].as_array().cloned().unwrap_or_default();
            }
            self.told.push(told);
            return true;
        }
        let code = answer.code();
        self.note(&code);
        match code.as_str() {
            "insufficient_credit" => {
                // The server may be killed at just this moment; then the next try asks for credit again.
                let path = format!("/api/v1/operator/tenants/{}/credit", tenant.id);
                drop(server.request("POST", &path, OPERATOR).body(json!({"amount": "0.02"}).to_string()).send().await);
                false
            }
            // Another turn holds what is left, runs in this conversation, or is this one; the file is only just opened after a kill; or too many
            // asked at once.
            "credit_reserved" | "conversation_busy" | "idempotency_in_progress" | "tenant_unavailable" | "rate_limited" => false,
            "turn_cancelled" => {
                assert!(ask.spoiled, "{}: {}", ask.claim, answer.body);
                true
            }
            code if VENDOR_FAILED.contains(&code) => {
                // A slow machine makes a time-out of its own. A model that lied is closed; and money that others took while a busy vendor was waited for leaves its refusal as the end.
                let excused =
                    matches!(code, "model_closed" | "provider_timeout") || (code == "provider_overloaded" && ask.claim.starts_with("busy"));
                assert!(!ask.answerable || ask.spoiled || excused, "{}: {}", ask.claim, answer.body);
                true
            }
            _ => panic!("{}: {} {}", ask.claim, answer.status, answer.body),
        }
    }

    /// Leaves after the first piece of the answer, or before it.
    async fn hang_up(&mut self, server: &Server, key: &str, ask: &Ask) -> Option<()> {
        self.note("hung up");
        let asking = request(server, key, ask).send();
        let patience = Duration::from_millis(1 + self.dice.below(12));
        match tokio::time::timeout(patience, asking).await {
            Ok(response) => drop(response.ok()?.chunk().await),
            Err(_gone) => {}
        }
        Some(())
    }

    /// Cancels the turn as soon as it is known, or a moment later.
    async fn cancel(&mut self, server: &Server, key: &str, ask: &Ask) -> Option<()> {
        self.note("cancelled");
        let response = request(server, key, ask).send().await.ok()?;
        let Some(turn) = response.headers().get("x-turn-id").and_then(|id| id.to_str().ok()) else { return Some(()) };
        let path = format!("/api/v1/chat/turns/{turn}/cancel");
        tokio::time::sleep(Duration::from_millis(self.dice.below(4))).await;
        server.request("POST", &path, key).send().await.ok()?;
        Some(())
    }

    /// Asks with a key that is revoked in the middle of it.
    async fn revoke(&mut self, server: &Server, tenant: &Tenant, ask: &Ask) -> Option<()> {
        self.note("revoked");
        let made = server.request("POST", "/api/v1/keys", &tenant.key).body(json!({"name": "short-lived", "role": "member"}).to_string());
        let made: Value = serde_json::from_str(&made.send().await.ok()?.text().await.ok()?).ok()?;
        let (key, id) = (made["key"].as_str()?, made["id"].as_str()?);
        // A claim of its own, another each time: asked again after a kill, it would be told the same answer twice.
        let lone = Ask {
            claim: format!("{} once {}", ask.claim, self.dice.bits()),
            stream: false,
            body: json!({"message": format!("fine and alone, {}", ask.claim)}),
            ..ask.clone()
        };
        let asking = send(server, key, &lone);
        let revoking = async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            server.request("DELETE", &format!("/api/v1/keys/{id}"), &tenant.key).send().await.ok()
        };
        let (answer, revoked) = tokio::join!(asking, revoking);
        if let Some(answer) = answer.filter(|answer| answer.status == 200) {
            self.told.push(answer.json());
        }
        revoked.map(drop)
    }
}

fn request(server: &Server, key: &str, ask: &Ask) -> reqwest::RequestBuilder {
    server.request("POST", &format!("/api/v1/chat/{}", ask.config), key).header("Idempotency-Key", &ask.claim).body(ask.body.to_string())
}

/// Asks and reads to the end; nothing when the connection broke.
async fn send(server: &Server, key: &str, ask: &Ask) -> Option<Answer> {
    let response = request(server, key, ask).send().await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.text().await.ok()?;
    if !ask.stream || status != 200 {
        return Some(Answer { status, headers, body });
    }
    // The last event says what the plain form would have said.
    let last = body.trim_end().rsplit("\n\n").next()?;
    let field = |name: &str| last.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let (event, data) = (field("event: ")?, field("data: ")?);
    match event.as_str() {
        "turn.completed" => Some(Answer { status, headers, body: data }),
        "error" => {
            let problem: Value = serde_json::from_str(&data).expect("a problem");
            let status = problem["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
            Some(Answer { status, headers, body: data })
        }
        _ => None,
    }
}
