//! Random conversations through the pure functions alone: admission, order, what is left out, each wire's request.

use super::answers::{Said, TOOLS, said};
use crate::fake_provider::{self, Wire};
use nimblesite::{
    agent::{
        input::{self, Admitted},
        prompt::{Exchanges, hashes, seal},
    },
    clock::Time,
    config::ProviderConfig,
    ids::*,
    model::*,
    provider::{self, AnswerLimits, Decoder, Prompt, PromptMessage},
    storage::{Admission, OpenTurn},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// One thing that happens to a conversation.
#[derive(Debug, Clone)]
enum Step {
    /// The user speaks; calls that are open may be cancelled.
    Say { cancel: bool, text: usize, goes: Goes },
    /// Results of the open calls, or of some, or of older ones.
    Results { which: Which, content: usize, goes: Goes },
}

#[derive(Debug, Clone, Copy)]
enum Which {
    All,
    Backwards,
    Some,
    Twice,
    ThoseOfBefore,
}

/// How a turn goes once it is admitted.
#[derive(Debug, Clone)]
struct Goes {
    /// Which model answers.
    model: usize,
    /// What it says; nothing when the turn fails, is cancelled or killed.
    said: Option<Said>,
    /// How many tokens the window has, in bytes of text about three times as many.
    window: u64,
    /// What does not fit is summarised, not left out.
    compact: bool,
    /// The newest messages that storage hands out.
    history_max: usize,
    /// The system prompt was edited.
    edited: bool,
}

struct Vendor {
    wire: Wire,
    config: ProviderConfig,
    model: ModelRef,
    facts: ModelFacts,
}

fn vendors() -> Vec<Vendor> {
    let vendor = |wire, name: &str, model: &str, facts| Vendor {
        wire,
        config: ProviderConfig {
            name: name.to_owned(),
            wire: match wire {
                Wire::Anthropic => provider::Wire::Anthropic,
                Wire::OpenAi => provider::Wire::OpenAi,
                Wire::Ollama => provider::Wire::Ollama,
            },
            base_url: "http://localhost".to_owned(),
            api_key: None,
            api_key_required: false,
            extra_params: Vec::new(),
        },
        model: ModelRef { provider: name.to_owned(), model: model.to_owned() },
        facts,
    };
    let plain = ModelFacts::default();
    vec![
        vendor(Wire::Anthropic, "anthropic", "old", plain),
        vendor(Wire::Anthropic, "anthropic", "bound", ModelFacts { thinking_bound: true, ..plain }),
        vendor(Wire::OpenAi, "openai", "new", ModelFacts { reasoning: true, ..plain }),
        vendor(Wire::OpenAi, "deepseek", "thinker", plain),
        vendor(Wire::OpenAi, "elsewhere", "open", plain),
        vendor(Wire::Ollama, "ollama", "local", plain),
    ]
}

fn goes() -> impl Strategy<Value = Goes> {
    let window = prop_oneof![3 => Just(1_000_000u64), 1 => 50u64..2_000];
    let history_max = prop_oneof![4 => Just(2_000usize), 1 => 4usize..12];
    (0usize..6, proptest::option::weighted(0.85, said()), window, any::<bool>(), history_max, 0u8..8).prop_map(
        |(model, said, window, compact, history_max, edited)| Goes { model, said, window, compact, history_max, edited: edited == 0 },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let which = prop_oneof![
        5 => Just(Which::All),
        2 => Just(Which::Backwards),
        1 => Just(Which::Some),
        1 => Just(Which::Twice),
        1 => Just(Which::ThoseOfBefore),
    ];
    prop_oneof![
        2 => (any::<bool>(), 0usize..4, goes()).prop_map(|(cancel, text, goes)| Step::Say { cancel, text, goes }),
        3 => (which, 0usize..5, goes()).prop_map(|(which, content, goes)| Step::Results { which, content, goes }),
    ]
}

/// What a vendor was asked when it thought, to be compared with what it is shown again.
type Thought = HashMap<String, (Value, Value, Vec<Value>)>;

/// A conversation as storage keeps it.
struct Conversation {
    vendors: Vec<Vendor>,
    stored: Vec<StoredMessage>,
    open: Vec<ToolCall>,
    before: Vec<ToolCall>,
    summary: Option<(String, u64)>,
    signatures: Vec<String>,
    thought: Thought,
    requests: usize,
}

impl Conversation {
    fn new() -> Self {
        let (stored, open, before, signatures) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { vendors: vendors(), stored, open, before, summary: None, signatures, thought: HashMap::new(), requests: 0 }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let (input, goes) = match step {
            Step::Say { cancel, text, goes } => {
                let text = ["hello", "Ünïcode\n\"quotes\"", "\u{200b}", &"long ".repeat(200)][*text].to_owned();
                (json!({"message": text, "cancel_open_calls": cancel}), goes)
            }
            Step::Results { which, content, goes } => (json!({"tool_results": self.results(*which, *content)}), goes),
        };
        let input: ChatInput = serde_json::from_value(input).expect("an input");
        let until = self.summary.as_ref().map_or(0, |(_, until)| *until);
        let mut history: Vec<_> = self.stored.iter().filter(|stored| stored.message.seq > until).cloned().collect();
        history.drain(..history.len().saturating_sub(goes.history_max));
        let open = open_turn(history, self.open.clone());
        let system = if goes.edited { "You are another." } else { "You are a test." };
        // Refused: nothing happens, and nothing is stored.
        let Ok(Admission::Go(admitted, _)) = input::admit(&input, &open, system.to_owned()) else { return Ok(()) };
        self.turn(&open, &admitted, goes)
    }

    fn results(&self, which: Which, content: usize) -> Vec<Value> {
        let content = [json!("sunny"), json!(""), Value::Null, json!({"deep": [1, 2]}), json!("r".repeat(1_000))][content].clone();
        let result = |call: &ToolCall| json!({"tool_call_id": call.id, "content": content, "ok": !call.id.len().is_multiple_of(3)});
        let all: Vec<Value> = self.open.iter().map(result).collect();
        match which {
            Which::All => all,
            Which::Backwards => all.into_iter().rev().collect(),
            Which::Some => all.into_iter().skip(1).collect(),
            Which::Twice => [all.clone(), all].concat(),
            Which::ThoseOfBefore => self.before.iter().map(result).collect(),
        }
    }

    fn turn(&mut self, open: &OpenTurn, admitted: &Admitted, goes: &Goes) -> Result<(), TestCaseError> {
        let (mut from, mut exchanges) = (0, Exchanges::new(&open.history, admitted));
        let mut last_bytes = u64::MAX;
        while goes.compact && exchanges.can_be_summarised() && exchanges.clone().fit(0, goes.window, false).tokens > goes.window {
            let oldest = exchanges.oldest(goes.window).expect("something older");
            prop_assert!(oldest.until_seq < u64::MAX, "a summary ends with a stored message");
            from = open.history.partition_point(|stored| stored.message.seq <= oldest.until_seq);
            let border = open.history.get(from).is_none_or(|stored| stored.message.role != Speaker::Assistant);
            prop_assert!(border, "a summary ends in the middle of a turn");
            self.summary = Some((oldest.transcript, oldest.until_seq));
            exchanges = Exchanges::new(&open.history[from..], admitted);
            let bytes = exchanges.clone().fit(0, 0, false).tokens;
            prop_assert!(bytes < last_bytes, "a summary that leaves as much as before");
            last_bytes = bytes;
        }
        let messages = exchanges.fit(0, goes.window, !goes.compact).messages;
        let tools: Arc<[ToolSpec]> = TOOLS.map(tool).into();
        let mut prefix = String::new();
        for at in 0..self.vendors.len() {
            let mut messages = messages.clone();
            let known = hashes(&open.history[from..], &messages);
            prefix = seal(&admitted.system, &tools, &mut messages, &known);
            let body = self.request(at, admitted, &tools, messages)?;
            if at == goes.model && goes.said.is_some() {
                self.thinks(&body);
            }
        }
        if let Some(said) = &goes.said {
            self.answered(admitted, &self.vendors[goes.model].model.clone(), goes.model, said, prefix);
        }
        Ok(())
    }

    /// The request to one vendor, looked at as the vendor would.
    fn request(
        &mut self,
        at: usize,
        admitted: &Admitted,
        tools: &Arc<[ToolSpec]>,
        messages: Vec<PromptMessage>,
    ) -> Result<Value, TestCaseError> {
        let vendor = &self.vendors[at];
        let prompt = Prompt {
            model: vendor.model.clone(),
            system: admitted.system.clone(),
            tools: Arc::clone(tools),
            messages,
            params: JsonObject::new(),
            max_tokens: 1_000,
            facts: vendor.facts,
            context_window: 200_000,
        };
        let body: Value = serde_json::from_slice(&provider::encode(&vendor.config, &prompt).body).expect("JSON");
        let objections = fake_provider::objections(vendor.wire, &body, &self.signatures);
        prop_assert!(objections.is_empty(), "{:?} objects to call {}: {objections:#?}\n{body:#}", vendor.model, self.requests);
        let newest = fake_provider::said(vendor.wire, &body, &self.signatures).pop().unwrap_or_default();
        match &admitted.text {
            Some(text) => prop_assert_eq!(newest, format!("user: {text}")),
            None => prop_assert!(newest.starts_with("tool "), "{}", newest),
        }
        if vendor.facts.thinking_bound {
            self.shown_as_it_was(&body)?;
        }
        self.requests += 1;
        Ok(body)
    }

    /// A model that binds its thinking to what stood before it is shown that before it again.
    fn shown_as_it_was(&self, body: &Value) -> Result<(), TestCaseError> {
        let messages = body["messages"].as_array().expect("messages");
        for (n, message) in messages.iter().enumerate() {
            for block in message["content"].as_array().into_iter().flatten() {
                let Some(signature) = block["signature"].as_str().or(block["data"].as_str()) else { continue };
                let Some((system, tools, before)) = self.thought.get(signature) else { continue };
                prop_assert_eq!((&body["system"], &body["tools"]), (system, tools));
                prop_assert_eq!(&messages[..n], before.as_slice(), "thinking behind another history");
            }
        }
        Ok(())
    }

    /// Remembers what the vendor saw when it thought.
    fn thinks(&mut self, body: &Value) {
        let before = body["messages"].as_array().cloned().unwrap_or_default();
        for signature in [self.signature(), format!("redacted-{}", self.signature())] {
            self.thought.insert(signature.clone(), (body["system"].clone(), body["tools"].clone(), before.clone()));
            self.signatures.push(signature);
        }
    }

    fn signature(&self) -> String {
        format!("s{}", self.stored.len())
    }

    /// The vendor's bytes, decoded and stored as the server does it.
    fn answered(&mut self, admitted: &Admitted, model: &ModelRef, at: usize, said: &Said, prefix: String) {
        let (wire, speaks) = (self.vendors[at].wire, self.vendors[at].config.wire);
        let bytes = fake_provider::answer_bytes(wire, &model.model, &said.reply(&self.signature()));
        let limits = AnswerLimits { answer_bytes_max: 1_000_000, tool_calls_max: 100 };
        let mut decoder = Decoder::new(speaks, limits, format!("ours_{}", self.stored.len()));
        decoder.push(&bytes);
        // An answer that cannot be used fails its turn, and nothing is stored.
        let Ok(answer) = decoder.finish() else { return };
        let mut new: Vec<StoredMessage> =
            admitted.messages().into_iter().map(|message| plain(message.role, message.content, message.result_of)).collect();
        let mut message = plain(Speaker::Assistant, answer.text.map_or(Value::Null, Value::String), None);
        message.message.tool_calls.clone_from(&answer.calls);
        message.message.model = Some(model.clone());
        message.raw = Some(Arc::new(RawAnswer::new(model.clone(), answer.raw)));
        message.prefix_hash = Some(prefix);
        new.push(message);
        for mut message in new {
            message.message.seq = self.stored.len() as u64 + 1;
            self.stored.push(message);
        }
        if !answer.calls.is_empty() {
            self.before.clone_from(&answer.calls);
        }
        self.open = answer.calls;
    }
}

fn plain(role: Speaker, content: Value, result_of: Option<(String, String, bool)>) -> StoredMessage {
    let (id, name, ok) = match result_of {
        Some((id, name, ok)) => (Some(id), Some(name), Some(ok)),
        None => (None, None, None),
    };
    let message = Message {
        id: MessageId::new(),
        seq: 0,
        role,
        content,
        tool_calls: Vec::new(),
        tool_call_id: id,
        name,
        ok,
        model: None,
        config_version: None,
        usage: None,
        cost: None,
        created_at: Time::from_ms(0),
    };
    StoredMessage { message, turn_id: TurnId::new(), raw: None, prefix_hash: None, finish: None }
}

fn tool(name: &str) -> ToolSpec {
    ToolSpec { name: name.to_owned(), description: None, parameters: None }
}

fn open_turn(history: Vec<StoredMessage>, open_calls: Vec<ToolCall>) -> OpenTurn {
    let config = json!({"name": "c", "model_config": {"provider": "p", "model": "m"}});
    OpenTurn {
        turn: TurnId::new(),
        request: RequestId::new(),
        config_id: ConfigId::new(),
        config: serde_json::from_value(config).expect("a config"),
        config_version: 1,
        conversation: ConversationId::new(),
        conversation_is_new: history.is_empty(),
        template_vars: BTreeMap::new(),
        summary: None,
        history: history.into_iter().map(Arc::new).collect(),
        last_report: None,
        kit: None,
        open_calls,
        claim: None,
    }
}

fn cases(few: u32, many: u32) -> ProptestConfig {
    let cases = if crate::harness::full() { many } else { few };
    ProptestConfig { cases, max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1_000, 20_000))]

    #[test]
    fn no_vendor_objects_to_any_history(steps in proptest::collection::vec(step(), 1..16)) {
        let mut conversation = Conversation::new();
        for step in &steps {
            conversation.step(step)?;
        }
    }

    /// Whatever is in the store, even what no turn of ours can have put there.
    #[test]
    fn no_vendor_objects_to_a_store_with_holes(steps in proptest::collection::vec(step(), 1..12), holes in any::<u64>()) {
        let mut conversation = Conversation::new();
        for step in &steps {
            conversation.step(step)?;
        }
        let mut at = 0;
        conversation.stored.retain(|_| { at += 1; holes >> (at % 64) & 3 != 0 });
        // No call is open: what says otherwise is gone.
        conversation.open.clear();
        conversation.summary = None;
        // Without the answers that were lost, nothing that was thought can be known to stand behind the same.
        conversation.stored.iter_mut().for_each(|stored| stored.prefix_hash = None);
        let goes = Goes { model: 0, said: None, window: 1_000_000, compact: false, history_max: 2_000, edited: false };
        conversation.step(&Step::Say { cancel: false, text: 0, goes })?;
    }
}
