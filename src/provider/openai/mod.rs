//! OpenAI's Chat Completions and what is compatible with it: the request and the chunk stream. Pure.

mod stream;

pub(super) use stream::Reader;

use super::{
    Encoded, Prompt, PromptMessage, Wire,
    bound::bound_written,
    decode::string,
    encode::{CallIds, open_schema, result_text},
};
use crate::{
    config::ProviderConfig,
    model::{Json, JsonObject, RawAnswer, ToolCall, ToolSpec},
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::json;

/// What differs between the vendors that speak this wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI itself: takes `max_completion_tokens` for all its models.
    OpenAi,
    /// DeepSeek and Moonshot: want the reasoning of a turn that called tools back, in a field that must not be missing.
    ReasoningBack,
    /// Any other server: knows `max_tokens`, and no reasoning in a request.
    Other,
}

impl Dialect {
    /// By the provider's built-in name, else by its host.
    pub(super) fn of(provider: &ProviderConfig) -> Self {
        let rest = provider.base_url.split_once("://").map_or(provider.base_url.as_str(), |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default().split(':').next().unwrap_or_default();
        let is = |domain: &str| host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        match provider.name.as_str() {
            "openai" => Self::OpenAi,
            "deepseek" | "moonshotai" => Self::ReasoningBack,
            _ if is("openai.com") || is("openai.azure.com") => Self::OpenAi,
            _ if is("deepseek.com") || is("moonshot.ai") || is("moonshot.cn") => Self::ReasoningBack,
            _ => Self::Other,
        }
    }
}

/// The request for this prompt.
pub(super) fn encode(dialect: Dialect, prompt: &Prompt) -> Encoded {
    let mut body = params(dialect, prompt);
    body.insert("model".into(), prompt.model.model.clone().into());
    let limit = if dialect == Dialect::OpenAi || prompt.facts.reasoning { "max_completion_tokens" } else { "max_tokens" };
    body.insert(limit.into(), prompt.max_tokens.into());
    body.insert("stream".into(), true.into());
    body.insert("stream_options".into(), json!({"include_usage": true}));
    if !prompt.tools.is_empty() {
        body.insert("tools".into(), prompt.tools.iter().map(tool).collect());
    }
    let messages = messages(dialect, prompt);
    let texts = messages.iter().filter_map(Spoken::text);
    bound_written(Wire::OpenAi, "/chat/completions", &Body { rest: &body, messages: &messages }, texts, prompt)
}

/// The request. Its messages are written from where they lie: a history is long, and a tree of it would be made to be written once.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    rest: &'a JsonObject,
    messages: &'a [Spoken<'a>],
}

/// A message of the request.
enum Spoken<'a> {
    Said {
        role: &'static str,
        text: &'a str,
    },
    Result {
        call: String,
        text: String,
    },
    /// The vendor's own, but for its reasoning, and the reasoning that it wants back.
    Own {
        message: &'a JsonObject,
        reasoning: Option<Json>,
    },
    New(JsonObject),
}

impl Spoken<'_> {
    /// What the model reads of it as it is.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Said { text, .. } => Some(text),
            Self::Result { text, .. } => Some(text),
            Self::Own { message, .. } => message.get("content").and_then(Json::as_str),
            Self::New(message) => message.get("content").and_then(Json::as_str),
        }
    }
}

impl Serialize for Spoken<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Said { role, text } => {
                map.serialize_entry("role", role)?;
                map.serialize_entry("content", text)?;
            }
            Self::Result { call, text } => {
                map.serialize_entry("role", "tool")?;
                map.serialize_entry("tool_call_id", call)?;
                map.serialize_entry("content", text)?;
            }
            Self::Own { message, reasoning } => {
                message
                    .iter()
                    .filter(|(name, _)| *name != "reasoning_content")
                    .try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                if let Some(reasoning) = reasoning {
                    map.serialize_entry("reasoning_content", reasoning)?;
                }
            }
            Self::New(message) => message.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?,
        }
        map.end()
    }
}

/// A tool in the shape that OpenAI and Ollama share.
pub(super) fn tool(spec: &ToolSpec) -> Json {
    let mut function = JsonObject::new();
    function.insert("name".into(), spec.name.clone().into());
    if let Some(description) = &spec.description {
        function.insert("description".into(), description.clone().into());
    }
    function.insert("parameters".into(), open_schema(spec));
    json!({"type": "function", "function": function})
}

/// The config's parameters without those that this model or this request would be refused for.
fn params(dialect: Dialect, prompt: &Prompt) -> JsonObject {
    let mut params = prompt.params.clone();
    if dialect == Dialect::OpenAi {
        for name in ["top_k", "min_p", "repetition_penalty"] {
            params.shift_remove(name);
        }
    }
    if prompt.tools.is_empty() {
        params.shift_remove("tool_choice");
        params.shift_remove("parallel_tool_calls");
    } else if prompt.facts.tools_effort_none {
        params.insert("reasoning_effort".into(), "none".into());
    }
    let reasons = prompt.facts.reasoning && params.get("reasoning_effort").and_then(Json::as_str) != Some("none");
    if reasons || prompt.facts.sampling_refused {
        for name in ["temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias"] {
            params.shift_remove(name);
        }
    }
    if reasons {
        params.shift_remove("stop");
    }
    params
}

fn messages(dialect: Dialect, prompt: &Prompt) -> Vec<Spoken<'_>> {
    let mut messages = Vec::with_capacity(prompt.messages.len() + 1);
    if !prompt.system.trim().is_empty() {
        messages.push(Spoken::Said { role: "system", text: &prompt.system });
    }
    // OpenAI takes ids of 40 characters; Kimi K2 wants its own, with dots and colons and again in later turns, back as they were.
    let accepts: fn(&str) -> bool = if dialect == Dialect::OpenAi { |id| (1..=40).contains(&id.len()) } else { |id| !id.is_empty() };
    let mut ids = CallIds::new(accepts);
    for message in &prompt.messages {
        match message {
            PromptMessage::User { text } => messages.push(Spoken::Said { role: "user", text }),
            PromptMessage::Tool { results } => messages.extend(
                results.iter().map(|result| Spoken::Result { call: ids.get(&result.tool_call_id).to_owned(), text: result_text(result) }),
            ),
            PromptMessage::Assistant { text, calls, raw, .. } => {
                let same = raw.as_ref().filter(|raw| raw.model == prompt.model);
                let wants_reasoning = dialect == Dialect::ReasoningBack && !calls.is_empty();
                let told = || same.and_then(|raw| raw.json.get("reasoning_content")).cloned().unwrap_or_else(|| "".into());
                let reasoning = wants_reasoning.then(told);
                let replayed = match same.and_then(|raw| replay(raw, calls)) {
                    Some(message) if dialect == Dialect::ReasoningBack => {
                        ids.turn_as_it_was(calls);
                        Some(message)
                    }
                    message => {
                        let unchanged = ids.turn(calls);
                        message.filter(|_| unchanged)
                    }
                };
                messages.push(match (replayed, text.as_deref()) {
                    (Some(message), _) => Spoken::Own { message, reasoning },
                    (None, None | Some("")) if calls.is_empty() => continue,
                    // Tool calls in an answer are rare enough to be written twice.
                    (None, text) if !calls.is_empty() => {
                        let mut message = assistant(text, calls, &ids);
                        message.extend(reasoning.map(|reasoning| ("reasoning_content".to_owned(), reasoning)));
                        Spoken::New(message)
                    }
                    (None, text) => Spoken::Said { role: "assistant", text: text.unwrap_or_default() },
                });
            }
        }
    }
    messages
}

fn assistant(text: Option<&str>, calls: &[ToolCall], ids: &CallIds) -> JsonObject {
    let calls = calls.iter().map(|call| {
        let arguments = Json::from(call.arguments.clone()).to_string();
        json!({"id": ids.get(&call.id), "type": "function", "function": {"name": call.name, "arguments": arguments}})
    });
    let mut message = JsonObject::new();
    message.insert("role".into(), "assistant".into());
    message.insert("content".into(), text.map_or(Json::Null, Json::from));
    message.insert("tool_calls".into(), calls.collect());
    message
}

/// The vendor's own message, whose arguments are spelled as the model spelled them, if it says what we stored.
fn replay<'a>(raw: &'a RawAnswer, calls: &[ToolCall]) -> Option<&'a JsonObject> {
    let message = raw.json.as_object()?;
    let spoken = message.get("content").is_some_and(|content| content.as_str().is_some_and(|text| !text.is_empty()));
    let told = message.get("tool_calls").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let same = told.iter().map(|call| string(call, "id")).eq(calls.iter().map(|call| call.id.as_str()));
    (same && (spoken || !calls.is_empty())).then_some(message)
}
