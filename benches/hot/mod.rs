//! The functions of our own that every turn goes through, each on one fixed input: timed by `benches/speed.rs`, counted by
//! `tests/it/instructions.rs`. All are pure but `key_check_warm`, which looks at the catalog's version and at nothing else.

use bytes::Bytes;
use nimblesite::{
    clock::Time,
    config::{Limits, ProviderConfig},
    model::{EntryKind, Json, JsonObject, LedgerEntry, ModelFacts, ModelRef, TemplateVars, ToolCall, ToolResult, ToolSpec, Usage},
    money::Money,
    provider::{self, AnswerLimits, Decoder, Prompt, PromptMessage, Wire, frame::Sse},
    rates::{CardRow, RateCard},
    secret::{KeyText, NewKey, Password},
    storage::{Mode, Storage},
    template::{self, BuiltIns},
    wallet::{self, Purse, Wish},
};
use serde_json::json;
use std::{hint::black_box, sync::Arc};

/// Pieces of each vendor's stream.
const PIECES: usize = 100;

/// A data directory with one tenant, and a runtime to ask it on.
pub struct Desk {
    pub runtime: tokio::runtime::Runtime,
    pub storage: Storage,
    /// The tenant's first key, as it is presented.
    pub key: String,
    _dir: tempfile::TempDir,
}

impl Desk {
    /// Makes the directory, and proves the key once.
    pub fn new() -> Self {
        Self::with(&Limits::default())
    }

    pub fn with(limits: &Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let storage = Storage::open(dir.path(), Mode::Server, limits).expect("storage");
        let key = runtime.block_on(async {
            let operator = storage.operator_here();
            let password = Password::new("a few unrelated words".to_owned());
            storage.user_create(&operator, "ada@example.com", &password, true).await.expect("a user");
            storage.tenant_create_for(&operator, "Acme", "ada@example.com").await.expect("a tenant").api_key
        });
        runtime.block_on(storage.principal_by_key(&key)).expect("a good key");
        Self { runtime, storage, key, _dir: dir }
    }
}

/// What a function works on.
pub struct Input {
    key: NewKey,
    desk: Desk,
    template: String,
    vars: TemplateVars,
    prompts: Vec<(ProviderConfig, Prompt)>,
    streams: Vec<(Wire, Bytes)>,
    row: Arc<CardRow>,
}

/// A function by the name that its figures have.
pub type Hot = (&'static str, fn(&Input));

/// All of them.
pub const ALL: [Hot; 11] = [
    ("key_check_warm", key_check_warm),
    ("key_parse", key_parse),
    ("template_render", template_render),
    ("encode_anthropic", encode_anthropic),
    ("encode_openai", encode_openai),
    ("encode_ollama", encode_ollama),
    ("frames", frames),
    ("decode_anthropic", decode_anthropic),
    ("decode_openai", decode_openai),
    ("decode_ollama", decode_ollama),
    ("wallet_turn", wallet_turn),
];

impl Input {
    /// A prompt of 21 messages with a tool and its calls, a template of 2 kB, streams of [`PIECES`] pieces.
    pub fn new() -> Self {
        let wires = [Wire::Anthropic, Wire::OpenAi, Wire::Ollama];
        Self {
            key: NewKey::generate().expect("randomness"),
            desk: Desk::new(),
            template: "You answer for {tenant_name} as {agent_name}, today, on {date}. The customer's name is {name}; { \"n\": {count} }. "
                .repeat(16),
            vars: [("name".to_owned(), json!("Ada Lovelace")), ("count".to_owned(), json!(42))].into(),
            prompts: wires.iter().map(|wire| (provider(*wire), prompt(*wire))).collect(),
            streams: wires.iter().map(|wire| (*wire, stream(*wire))).collect(),
            row: RateCard::embedded().rows()[0].clone(),
        }
    }
}

fn provider(wire: Wire) -> ProviderConfig {
    let name = wire.name().to_owned();
    ProviderConfig { name, wire, base_url: String::new(), api_key: None, api_key_required: false, extra_params: Vec::new() }
}

fn prompt(wire: Wire) -> Prompt {
    let arguments = json!({"city": "Lisbon", "unit": "celsius"});
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}}, "required": ["city"]});
    let mut messages = Vec::new();
    for turn in 0..5 {
        let call = ToolCall { id: format!("call_{turn}"), name: "weather".into(), arguments: object(&arguments) };
        let content = json!({"temperature": 21.5, "sky": "clear", "wind": {"from": "north-west", "kmh": 12}});
        messages.push(PromptMessage::User { text: format!("What is the weather in Lisbon, in hour {turn} of the day?") });
        messages.push(assistant(Some("I look it up."), vec![call]));
        messages.push(PromptMessage::Tool {
            results: vec![ToolResult { tool_call_id: format!("call_{turn}"), name: "weather".into(), content, ok: true }],
        });
        messages.push(assistant(Some("It is clear and 21.5 °C, with a light wind from the north-west.\nAnything else?"), Vec::new()));
    }
    messages.push(PromptMessage::User { text: "And tomorrow?".into() });
    Prompt {
        model: ModelRef { provider: wire.name().into(), model: "m-1".into() },
        system: "You answer questions about the weather, briefly and with figures. ".repeat(30),
        tools: Arc::new([ToolSpec {
            name: "weather".into(),
            description: Some("The weather of a city.".into()),
            parameters: Some(object(&parameters)),
        }]),
        messages,
        params: object(&json!({"temperature": 0.2})),
        max_tokens: 4_096,
        facts: ModelFacts::default(),
        context_window: 200_000,
    }
}

fn object(json: &Json) -> JsonObject {
    json.as_object().cloned().unwrap_or_default()
}

fn assistant(text: Option<&str>, calls: Vec<ToolCall>) -> PromptMessage {
    PromptMessage::Assistant { text: text.map(str::to_owned), calls, raw: None, keep_thinking: false }
}

/// An answer of [`PIECES`] pieces of text, as this wire's vendor streams it.
fn stream(wire: Wire) -> Bytes {
    let mut out = String::new();
    let mut event = |kind: &str, data: Json| match wire {
        Wire::Anthropic => out.push_str(&format!("event: {kind}\ndata: {data}\n\n")),
        Wire::OpenAi => out.push_str(&format!("data: {data}\n\n")),
        Wire::Ollama | Wire::Echo => out.push_str(&format!("{data}\n")),
    };
    if wire == Wire::Anthropic {
        event(
            "message_start",
            json!({"type": "message_start", "message": {"id": "m", "role": "assistant", "content": [], "usage": {"input_tokens": 25, "output_tokens": 1}}}),
        );
        event("content_block_start", json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}));
    }
    for _ in 0..PIECES {
        let text = "some more words, ";
        match wire {
            Wire::Anthropic => {
                let delta = json!({"type": "text_delta", "text": text});
                event("content_block_delta", json!({"type": "content_block_delta", "index": 0, "delta": delta}));
            }
            Wire::OpenAi => {
                event("", json!({"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}], "usage": null}));
            }
            Wire::Ollama | Wire::Echo => {
                event("", json!({"model": "m-1", "message": {"role": "assistant", "content": text}, "done": false}));
            }
        }
    }
    match wire {
        Wire::Anthropic => {
            event("content_block_stop", json!({"type": "content_block_stop", "index": 0}));
            event("message_delta", json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 400}}));
            event("message_stop", json!({"type": "message_stop"}));
        }
        Wire::OpenAi => {
            event("", json!({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": null}));
            event("", json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 25, "completion_tokens": 400}}));
            out.push_str("data: [DONE]\n\n");
        }
        Wire::Ollama | Wire::Echo => event(
            "",
            json!({
                "model": "m-1", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop", "prompt_eval_count": 25, "eval_count": 400,
            }),
        ),
    }
    out.into()
}

/// The check of a key that was proved before: what every request pays.
#[inline(never)]
fn key_check_warm(input: &Input) {
    let desk = &input.desk;
    let who = desk.runtime.block_on(desk.storage.principal_by_key(black_box(&desk.key))).expect("a good key");
    assert_eq!(black_box(who).tenant_name(), "Acme");
}

#[inline(never)]
fn key_parse(input: &Input) {
    let text = input.key.text().expose();
    assert!(KeyText::parse(black_box(text)).is_some_and(|key| key.public_id().len() == 16));
}

#[inline(never)]
fn template_render(input: &Input) {
    let built_ins = BuiltIns { tenant_name: "Acme", agent_name: "Weather", date: "2026-11-24" };
    let rendered = template::render(black_box(&input.template), &built_ins, &input.vars, 1 << 20).expect("all values are there");
    assert!(black_box(rendered).contains("Ada Lovelace"));
}

fn encode(input: &Input, at: usize) {
    let (provider, prompt) = &input.prompts[at];
    let encoded = provider::encode(provider, black_box(prompt));
    assert!(black_box(encoded).body.len() > 4_000);
}

#[inline(never)]
fn encode_anthropic(input: &Input) {
    encode(input, 0);
}

#[inline(never)]
fn encode_openai(input: &Input) {
    encode(input, 1);
}

#[inline(never)]
fn encode_ollama(input: &Input) {
    encode(input, 2);
}

/// The splitting alone, in pieces of the size that a network hands on.
#[inline(never)]
fn frames(input: &Input) {
    let (mut parser, mut events) = (Sse::new(1 << 20), Vec::new());
    for piece in black_box(&input.streams[1].1).chunks(1_460) {
        parser.push(piece, &mut events).expect("short events");
    }
    assert_eq!(black_box(events).len(), PIECES + 3);
}

fn decode(input: &Input, at: usize) {
    let (wire, stream) = &input.streams[at];
    let mut decoder = Decoder::new(*wire, AnswerLimits { answer_bytes_max: 1 << 20, tool_calls_max: 8 }, "call_x".into());
    let mut pieces = 0;
    for piece in black_box(stream).chunks(1_460) {
        pieces += decoder.push(piece).len();
    }
    let answer = decoder.finish().expect("a whole answer");
    assert!(pieces > 0 && black_box(answer).usage.is_some_and(|usage| usage.output_tokens == 400));
}

#[inline(never)]
fn decode_anthropic(input: &Input) {
    decode(input, 0);
}

#[inline(never)]
fn decode_openai(input: &Input) {
    decode(input, 1);
}

#[inline(never)]
fn decode_ollama(input: &Input) {
    decode(input, 2);
}

/// The wallet's share of a turn: the grant, the hold, the cost, the settle, the ledger's next link.
#[inline(never)]
fn wallet_turn(input: &Input) {
    let row = &input.row;
    let purse = Purse { deposited: Money::from_nanos(1_000_000_000_000), ..Purse::default() };
    let wish = Wish { input_tokens_max: 2_000, cache_writes: true, output_tokens: 4_096, output_above: 0 };
    let grant = wallet::grant(row, black_box(wish), purse.available(), purse.balance()).expect("credit");
    let held = purse.hold(grant.amount).expect("room");
    let usage = Usage { input_tokens: 1_500, output_tokens: 400, cache_read_tokens: 0, cache_write_tokens: 0 };
    let (charge, breach) = wallet::charge(row.cost(usage), grant.amount);
    let after = held.settle(grant.amount, charge).expect("a charge within the hold");
    let entry = LedgerEntry {
        id: "01990000-0000-7000-8000-000000000001".parse().expect("an id"),
        seq: 7,
        kind: EntryKind::Spend,
        amount: Money::from_nanos(-charge.nanos()),
        balance: after.balance(),
        reference: None,
        note: None,
        turn_id: None,
        model: Some("anthropic/m-1".into()),
        usage: Some(usage),
        rates: Some(row.rates_for(usage)),
        created_at: Time::from_ms(1_790_000_000_000),
        hash: String::new(),
    };
    let hash = wallet::chain_next("0000000000000000000000000000000000000000000000000000000000000000", black_box(&entry));
    assert!(breach.is_none() && black_box(hash).len() >= 64);
}
