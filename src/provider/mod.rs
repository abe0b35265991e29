//! The vendors' wires: pure codecs (`anthropic`, `openai`, `ollama`, `echo`), framing (`frame`), and the one place that sends (`client`).
//!
//! There is no `Provider` trait: [`Wire`] picks pure functions. Nothing here knows storage, tenants or HTTP servers.

mod anthropic;
mod bound;
pub mod client;
mod decode;
mod echo;
mod encode;
pub mod frame;
mod ollama;
mod openai;
mod params;
mod refusal;
mod rule;
#[cfg(test)]
mod tests;

pub use bound::input_tokens_counted;
pub use decode::{AnswerLimits, Decoder};
pub use params::{params_for_fallback, split_output_limit, thinking_budget};

use crate::{
    config::ProviderConfig,
    model::{FinishReason, Json, JsonObject, ModelFacts, ModelRef, RawAnswer, ToolCall, ToolResult, ToolSpec, Usage},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// The shape of requests and answers that a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// Anthropic's Messages API.
    Anthropic,
    /// OpenAI's Chat Completions, and all that is compatible with it.
    OpenAi,
    /// Ollama's native `/api/chat`.
    Ollama,
    /// The offline demo model in this binary; nothing is sent.
    Echo,
}

impl Wire {
    /// All wires.
    pub const ALL: [Self; 4] = [Self::Anthropic, Self::OpenAi, Self::Ollama, Self::Echo];

    /// The name as it stands in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::Ollama => "ollama",
            Self::Echo => "echo",
        }
    }

    /// The wire of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wire| wire.name() == name)
    }
}

/// A provider that is known without any configuration but a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltIn {
    /// The name that configs use.
    pub name: &'static str,
    /// What it speaks.
    pub wire: Wire,
    /// Where it is; empty for `echo`.
    pub base_url: &'static str,
    /// The environment variable that holds its credential by default.
    pub api_key_env: Option<&'static str>,
    /// Whether it answers nobody without a credential. Ollama on one's own machine needs none; its cloud does.
    pub api_key_required: bool,
}

/// The built-in providers. Others speak one of the wires at an address that the operator names.
pub const BUILT_IN: [BuiltIn; 6] = [
    BuiltIn {
        name: "anthropic",
        wire: Wire::Anthropic,
        base_url: "https://api.anthropic.com",
        api_key_env: Some("ANTHROPIC_API_KEY"),
        api_key_required: true,
    },
    BuiltIn {
        name: "openai",
        wire: Wire::OpenAi,
        base_url: "https://api.openai.com/v1",
        api_key_env: Some("OPENAI_API_KEY"),
        api_key_required: true,
    },
    BuiltIn {
        name: "moonshotai",
        wire: Wire::OpenAi,
        base_url: "https://api.moonshot.ai/v1",
        api_key_env: Some("MOONSHOT_API_KEY"),
        api_key_required: true,
    },
    BuiltIn {
        name: "deepseek",
        wire: Wire::OpenAi,
        base_url: "https://api.deepseek.com",
        api_key_env: Some("DEEPSEEK_API_KEY"),
        api_key_required: true,
    },
    BuiltIn {
        name: "ollama",
        wire: Wire::Ollama,
        base_url: "http://localhost:11434",
        api_key_env: Some("OLLAMA_API_KEY"),
        api_key_required: false,
    },
    BuiltIn { name: "echo", wire: Wire::Echo, base_url: "", api_key_env: None, api_key_required: false },
];

/// What is asked of a model, in no vendor's form.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Which model.
    pub model: ModelRef,
    /// The rendered system prompt; may be empty.
    pub system: String,
    /// The tools it may call.
    pub tools: Arc<[ToolSpec]>,
    /// The history, valid: every call is answered before anything else is said.
    pub messages: Vec<PromptMessage>,
    /// Inference parameters of the config, `max_tokens` and its like taken out, already checked by [`Wire::check_params`].
    pub params: JsonObject,
    /// The output limit, in tokens, sent in the wire's field that counts reasoning too.
    pub max_tokens: u32,
    /// How the model wants to be asked (from the rate card).
    pub facts: ModelFacts,
    /// Tokens of prompt and answer together (from the rate card).
    pub context_window: u64,
}

/// One message of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptMessage {
    /// What the user said.
    User {
        /// The text.
        text: String,
    },
    /// What a model said.
    Assistant {
        /// Its text, if any.
        text: Option<String>,
        /// Its tool calls.
        calls: Vec<ToolCall>,
        /// As the vendor gave it; used only when wire and model are the same as the prompt's.
        raw: Option<Arc<RawAnswer>>,
        /// System prompt, tools and every earlier message are those that the vendor saw when it gave `raw`. Only then is its thinking
        /// sent back to models that bind thinking to its prefix ([`ModelFacts::thinking_bound`]); all else of `raw` is.
        keep_thinking: bool,
    },
    /// The results of the calls just before, all of them.
    Tool {
        /// One for each call.
        results: Vec<ToolResult>,
    },
}

impl PromptMessage {
    /// Messages that some wires make of it: one for each result.
    fn parts(&self) -> u64 {
        match self {
            Self::Tool { results } => results.len() as u64,
            Self::User { .. } | Self::Assistant { .. } => 1,
        }
    }
}

/// A request ready to be sent.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Which wire it is for.
    pub wire: Wire,
    /// Below the provider's base URL, such as `/v1/messages`.
    pub path: &'static str,
    /// The JSON body.
    pub body: Bytes,
    /// No tokenizer can make more input tokens of this request: its bytes, and the stated overhead of the wire for request, messages, tools.
    /// [`input_tokens_counted`] knows better where the tokenizer is public.
    pub input_tokens_max: u64,
    /// Whether the vendor may write to a prompt cache, which it charges for.
    pub cache_writes: bool,
}

/// The request that asks `provider` this prompt.
pub fn encode(provider: &ProviderConfig, prompt: &Prompt) -> Encoded {
    match provider.wire {
        Wire::Anthropic => anthropic::encode(prompt),
        Wire::OpenAi => openai::encode(openai::Dialect::of(provider), prompt),
        Wire::Ollama => ollama::encode(Wire::Ollama, prompt),
        Wire::Echo => ollama::encode(Wire::Echo, prompt),
    }
}

/// What came of an answer so far: enough for an estimate when it is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of text, reasoning and tool arguments received; no tokenizer makes more tokens of them.
    pub output_bytes: u64,
    /// What the vendor has said of usage so far; its output count may be a small start value.
    pub usage: Option<Usage>,
}

/// Something of an answer that came in.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text, as it grows.
    Text(String),
    /// A complete tool call.
    ToolCall(ToolCall),
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was said.
    pub text: Option<String>,
    /// The complete tool calls, with ids that are unique in the answer.
    pub calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish: FinishReason,
    /// What the vendor says was used; nothing if it did not say.
    pub usage: Option<Usage>,
    /// The assistant message in the wire's own form, for exact replay.
    pub raw: Json,
}

/// What kind of no a vendor gave. None of these was billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Too many requests, overloaded, or another 5xx refusal: worth another try.
    Overloaded,
    /// The prompt is longer than the model takes.
    ContextTooLong,
    /// No connection came about; nothing was sent.
    Unreachable,
    /// Our credentials are missing, wrong or out of funds: the operator's to mend.
    NotConfigured,
    /// The vendor found fault with the request.
    Invalid,
}

/// A vendor's clear no, before any output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind.
    pub kind: RefusalKind,
    /// The HTTP status; none where no connection came about.
    pub status: Option<u16>,
    /// The vendor's message, cut to 500 characters, free of our secrets.
    pub message: String,
    /// When the vendor says to come back.
    pub retry_after: Option<Duration>,
}

/// Why an answer did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The bytes are not what the wire says.
    Malformed(String),
    /// The stream ended before the answer did.
    Truncated,
    /// The vendor reported an error in mid-stream.
    Reported(String),
    /// The vendor was silent for too long, or went on for too long.
    TimedOut(&'static str),
    /// The answer is larger than a limit of ours, which is named.
    TooLarge(&'static str),
}
