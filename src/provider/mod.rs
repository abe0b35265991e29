//! The vendors' wires: pure codecs (`anthropic`, `openai`, `ollama`, `echo`), framing (`frame`), and the one place that sends (`client`).
//!
//! There is no `Provider` trait: [`Wire`] picks pure functions. Nothing here knows storage, tenants or HTTP servers.

pub mod anthropic;
pub mod client;
pub mod echo;
pub mod frame;
pub mod ollama;
pub mod openai;

use crate::model::{FinishReason, Json, JsonObject, ModelRef, RawAnswer, ToolCall, ToolResult, ToolSpec, Usage};
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
    /// Whether the model takes `max_completion_tokens` and refuses sampling parameters (from the rate card).
    pub reasoning: bool,
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
        raw: Option<RawAnswer>,
    },
    /// The results of the calls just before, all of them.
    Tool {
        /// One for each call.
        results: Vec<ToolResult>,
    },
}

/// A request ready to be sent.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Below the provider's base URL, such as `/v1/messages`.
    pub path: &'static str,
    /// The JSON body.
    pub body: Bytes,
    /// No tokenizer can make more input tokens of this request: its bytes, and the stated overhead of the wire for request, messages, tools.
    pub input_tokens_max: u64,
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
    /// The HTTP status.
    pub status: u16,
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
}
