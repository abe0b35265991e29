//! How long single steps of a turn take (criterion): `cargo bench`, or `cargo bench -- history` for those with this in their name. Steps that
//! commit wait for the disk under the temporary directory, so compare those of one run alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "a bench fails by panicking")]

mod hot;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hot::Desk;
use nimblesite::{
    config::Limits,
    error::Error,
    ids::{ConfigId, ConversationId, MessageId, RequestId, TurnId},
    model::{ChatAnswer, ContextReport, FinishReason, Json, JsonObject, ModelRef, Speaker, TemplateVars, Usage},
    money::Money,
    rates::RateCard,
    secret::{KeyHash, KeyText, NewKey},
    storage::{Admission, CreditInput, Hold, HoldAsk, Kept, NewAnswer, NewMessage, Opened, Principal, Step, StepEnd, TenantStore, TurnAsk},
    wallet::Wish,
};
use serde_json::json;
use std::{hint::black_box, sync::Arc};

/// The pure functions.
fn hot(c: &mut Criterion) {
    let input = hot::Input::new();
    for (name, function) in hot::ALL {
        c.bench_function(name, |b| b.iter(|| function(&input)));
    }
}

/// What the first request of a key pays besides.
fn key_check_cold(c: &mut Criterion) {
    let key = NewKey::generate().unwrap();
    let text = KeyText::parse(key.text().expose()).unwrap();
    let hash = KeyHash::of(&text).unwrap();
    c.bench_function("key_check_cold", |b| b.iter(|| assert!(hash.proves(black_box(&text)))));
}

/// A tenant that can be asked.
struct Tenant {
    desk: Desk,
    who: Principal,
    store: TenantStore,
    config: ConfigId,
}

impl Tenant {
    fn new() -> Self {
        let desk = Desk::new();
        let (who, store, config) = desk.runtime.block_on(async {
            let who = desk.storage.principal_by_key(&desk.key).await.unwrap();
            let credit = CreditInput { amount: "100000".parse().unwrap(), reference: None, note: None };
            desk.storage.credit_add(&desk.storage.operator_here(), who.tenant_id(), credit).await.unwrap();
            let store = desk.storage.tenant_store(&who).await.unwrap();
            let body = json!({"name": "Bench", "system_prompt": "Be brief.", "model_config": {"provider": "anthropic", "model": "m-1"}});
            let config = store.config_create(who.user_id(), serde_json::from_value(body).unwrap()).await.unwrap().id;
            (who, store, config)
        });
        Self { desk, who, store, config }
    }

    fn ask(&self, conversation: ConversationId, conversation_is_new: bool) -> TurnAsk {
        TurnAsk {
            turn: TurnId::new(),
            request: RequestId::new(),
            who: self.who.clone(),
            config: self.config,
            conversation,
            conversation_is_new,
            title: "Bench".to_owned(),
            metadata: JsonObject::new(),
            end_user: None,
            template_vars: TemplateVars::new(),
            claim: None,
            may_be_again: false,
        }
    }

    fn hold_ask(&self, turn: TurnId) -> HoldAsk {
        let row = RateCard::embedded().rows()[0].clone();
        let model = ModelRef { provider: row.provider.clone(), model: row.name.clone() };
        let wish = Wish { input_tokens_max: 2_000, cache_writes: false, output_tokens: 4_096, output_above: 0 };
        HoldAsk { turn, step: 1, key: self.who.key_id(), spend_limit: None, model, row, wish }
    }

    /// The first commit of a turn: opened, its money held.
    async fn open(&self, conversation: ConversationId, is_new: bool) -> (TurnId, Hold) {
        let ask = self.ask(conversation, is_new);
        let (turn, hold) = (ask.turn, self.hold_ask(ask.turn));
        match self.store.turn_open(ask, move |_| Ok(Admission::Go((), Some(Box::new(hold.clone()))))).await.unwrap() {
            Opened::Running(_, (), Some(hold)) => (turn, hold),
            _ => panic!("a turn that runs"),
        }
    }

    /// The second: charged, answered with two messages.
    async fn settle(&self, conversation: ConversationId, (turn, hold): (TurnId, Hold)) {
        let usage = Usage { input_tokens: 100, output_tokens: 20, ..Usage::default() };
        let (model, cost, message_id) = (hold.model().clone(), Money::from_nanos(1_000), MessageId::new());
        let text = "It is clear and 21.5 °C, with a light wind from the north-west. Anything else that you would like to know?";
        let said = |id, role, answer| NewMessage { id, role, content: Json::String(text.to_owned()), result_of: None, answer };
        let answer = NewAnswer {
            calls: Vec::new(),
            model: model.clone(),
            config_version: 1,
            raw: json!({"role": "assistant", "content": text}),
            prefix_hash: String::new(),
            finish: FinishReason::Stop,
            usage,
            cost,
        };
        let messages = vec![said(MessageId::new(), Speaker::User, None), said(message_id, Speaker::Assistant, Some(Box::new(answer)))];
        let answer = ChatAnswer {
            response: Some(text.to_owned()),
            conversation_id: conversation,
            tool_calls: Vec::new(),
            message_id,
            turn_id: turn,
            finish_reason: FinishReason::Stop,
            model,
            usage,
            cost,
            balance: Money::ZERO,
            max_tokens_applied: hold.output_tokens(),
            context: ContextReport::default(),
        };
        let kept = Kept { messages, open_calls: Vec::new(), template_vars: TemplateVars::new(), metadata: None };
        let step = Step {
            turn,
            conversation,
            claimed: false,
            charge: cost,
            usage: Some(usage),
            estimated: false,
            breached: false,
            summary: None,
            kept: None,
            note: None,
            end: Some(StepEnd::Answered { answer: Box::new(answer), kept: Box::new(kept) }),
            logs: Vec::new(),
        };
        assert!(self.store.step_settle(hold, Arc::new(step)).await.is_ok());
    }

    /// A conversation of so many messages.
    fn conversation(&self, messages: usize) -> ConversationId {
        let id = ConversationId::new();
        self.desk.runtime.block_on(async {
            for turn in 0..messages / 2 {
                let open = self.open(id, turn == 0).await;
                self.settle(id, open).await;
            }
        });
        id
    }
}

/// Both commits of a turn, one behind the other.
fn hold_and_settle(c: &mut Criterion) {
    let tenant = Tenant::new();
    let id = tenant.conversation(2);
    c.bench_function("hold_and_settle", |b| {
        b.iter(|| {
            tenant.desk.runtime.block_on(async {
                let open = tenant.open(id, false).await;
                tenant.settle(id, open).await;
            });
        });
    });
}

/// What opening a turn reads: config, conversation, history. The check refuses, so that nothing is written.
fn history_load(c: &mut Criterion) {
    let tenant = Tenant::new();
    for messages in [10, 100, 1_000] {
        let id = tenant.conversation(messages);
        c.bench_function(&format!("history_load_{messages}"), |b| {
            b.iter(|| {
                let load = tenant.store.turn_open(tenant.ask(id, false), move |open| {
                    assert_eq!(open.history.len(), messages);
                    Err::<Admission<()>, _>(Error::ShuttingDown)
                });
                assert!(tenant.desk.runtime.block_on(load).is_err());
            });
        });
    }
}

/// A tenant's file that is not open: opened, looked over, read, and the one before it closed.
fn tenant_open_cold(c: &mut Criterion) {
    let desk = Desk::with(&Limits { tenants_open_max: 1, ..Limits::default() });
    let people: Vec<Principal> = desk.runtime.block_on(async {
        let other = desk.storage.tenant_create_for(&desk.storage.operator_here(), "Other", "ada@example.com").await.unwrap().api_key;
        vec![desk.storage.principal_by_key(&desk.key).await.unwrap(), desk.storage.principal_by_key(&other).await.unwrap()]
    });
    let mut next = people.iter().cycle();
    c.bench_function("tenant_open_cold", |b| {
        b.iter_batched(
            || next.next().unwrap(),
            |who| desk.runtime.block_on(async { desk.storage.tenant_store(who).await.unwrap().wallet_read().await.unwrap() }),
            BatchSize::PerIteration,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(2)).sample_size(30);
    targets = hot, key_check_cold, hold_and_settle, history_load, tenant_open_cold
}
criterion_main!(benches);
