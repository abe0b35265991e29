//! Anthropic's Messages API (<https://platform.claude.com/docs/en/api/messages>): the request and the event stream. Pure.

use super::{
    Answer, Broken, Encoded, Progress, Prompt, PromptMessage, Wire,
    bound::bound,
    decode::{HeardCall, calls_close, finish_with, number, parse, reported, string, usage_if_told},
    encode::{CallIds, open_schema},
};
use crate::model::{FinishReason, Json, JsonObject, ModelFacts, RawAnswer, ToolCall, ToolResult, Usage};
use serde::Deserialize;
use serde_json::json;
use std::{borrow::Cow, collections::BTreeMap};

/// Anthropic puts a system prompt of its own in front of tools; the largest published is 530 tokens (docs, "Tool use pricing and tokens").
/// Newer tokenizers make about a third more of the same text, and the table lags behind the models: twice that, rounded.
const TOOLS_OVERHEAD_TOKENS: u64 = 1_024;

/// The request for this prompt.
pub(super) fn encode(prompt: &Prompt) -> Encoded {
    let mut body = params(prompt);
    let messages = messages(prompt);
    settle_thinking(&mut body, prompt, &messages);
    body.insert("model".into(), prompt.model.model.clone().into());
    body.insert("max_tokens".into(), prompt.max_tokens.into());
    body.insert("stream".into(), true.into());
    if !prompt.system.trim().is_empty() {
        body.insert("system".into(), prompt.system.clone().into());
    }
    if !prompt.tools.is_empty() {
        body.insert("tools".into(), prompt.tools.iter().map(tool).collect());
    }
    body.insert("messages".into(), Json::Array(messages));
    bound(Wire::Anthropic, "/v1/messages", body, prompt, TOOLS_OVERHEAD_TOKENS)
}

fn tool(spec: &crate::model::ToolSpec) -> Json {
    let mut tool = JsonObject::new();
    tool.insert("name".into(), spec.name.clone().into());
    if let Some(description) = &spec.description {
        tool.insert("description".into(), description.clone().into());
    }
    tool.insert("input_schema".into(), open_schema(spec));
    Json::Object(tool)
}

/// The config's parameters in Anthropic's words, without those that this model or this request would be refused for.
fn params(prompt: &Prompt) -> JsonObject {
    let mut params = prompt.params.clone();
    if let Some(stop) = params.shift_remove("stop") {
        let stop = if stop.is_string() { json!([stop]) } else { stop };
        params.entry("stop_sequences").or_insert(stop);
    }
    if prompt.facts.sampling_refused {
        for name in ["temperature", "top_p", "top_k"] {
            params.shift_remove(name);
        }
    }
    let parallel = params.shift_remove("parallel_tool_calls").and_then(|parallel| parallel.as_bool());
    if prompt.tools.is_empty() {
        params.shift_remove("tool_choice");
    } else if parallel == Some(false) {
        let choice = params.entry("tool_choice").or_insert_with(|| json!({"type": "auto"}));
        if let Some(choice) = choice.as_object_mut().filter(|choice| choice.get("type").and_then(Json::as_str) != Some("none")) {
            choice.insert("disable_parallel_tool_use".into(), true.into());
        }
    }
    params
}

/// Models up to the 4.6 generation refuse thinking with a budget when the limit leaves no room beside it, or when the tool loop that goes on was
/// begun without its thinking; such a request is sent without thinking.
fn settle_thinking(body: &mut JsonObject, prompt: &Prompt, messages: &[Json]) {
    let Some(thinking) = body.get_mut("thinking") else { return };
    if thinking.get("type").and_then(Json::as_str) != Some("enabled") {
        return;
    }
    let room = prompt.max_tokens.saturating_sub(1);
    let in_tool_loop = matches!(prompt.messages.last(), Some(PromptMessage::Tool { .. }));
    let assistant = messages.iter().rev().find(|message| message["role"] == "assistant");
    let thought = assistant.and_then(|message| message["content"].get(0)).is_some_and(is_thinking);
    if room < 1_024 || (in_tool_loop && !thought) {
        body.shift_remove("thinking");
    } else if number(thinking, &["budget_tokens"]).is_some_and(|budget| budget > room.into()) {
        thinking["budget_tokens"] = room.into();
    }
}

fn is_thinking(block: &Json) -> bool {
    matches!(string(block, "type"), "thinking" | "redacted_thinking")
}

/// The history: roles alternate, all results of a turn's calls stand together at the start of the user's next message.
fn messages(prompt: &Prompt) -> Vec<Json> {
    let mut messages: Vec<(&str, Vec<Json>)> = Vec::new();
    let accepts = |id: &str| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let mut ids = CallIds::new(accepts);
    for message in &prompt.messages {
        let (role, blocks) = match message {
            PromptMessage::User { text } => ("user", vec![text_block(if text.trim().is_empty() { "(an empty message)" } else { text })]),
            PromptMessage::Tool { results } => ("user", results.iter().map(|result| tool_result(result, &ids)).collect()),
            PromptMessage::Assistant { text, calls, raw, keep_thinking } => {
                let unchanged = ids.turn(calls);
                let raw = raw.as_ref().filter(|raw| unchanged && raw.model == prompt.model);
                let replay = raw.and_then(|raw| replay(raw, calls, *keep_thinking, prompt.facts));
                ("assistant", replay.unwrap_or_else(|| assistant_blocks(text.as_deref(), calls, &ids)))
            }
        };
        match messages.last_mut() {
            Some((last, content)) if *last == role => content.extend(blocks),
            _ if blocks.is_empty() => {}
            _ => messages.push((role, blocks)),
        }
    }
    messages.into_iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

fn text_block(text: &str) -> Json {
    json!({"type": "text", "text": text})
}

fn tool_result(result: &ToolResult, ids: &CallIds) -> Json {
    let mut block = json!({"type": "tool_result", "tool_use_id": ids.get(&result.tool_call_id), "content": result.text()});
    if !result.ok {
        block["is_error"] = true.into();
    }
    block
}

fn assistant_blocks(text: Option<&str>, calls: &[ToolCall], ids: &CallIds) -> Vec<Json> {
    let text = text.filter(|text| !text.trim().is_empty()).map(text_block);
    let calls = calls.iter().map(|call| json!({"type": "tool_use", "id": ids.get(&call.id), "name": call.name, "input": call.arguments}));
    text.into_iter().chain(calls).collect()
}

/// The vendor's own blocks, if they say what we stored. Thinking that its prefix no longer vouches for is left out.
fn replay(raw: &RawAnswer, calls: &[ToolCall], keep_thinking: bool, facts: ModelFacts) -> Option<Vec<Json>> {
    let blocks = raw.json.get("content")?.as_array()?;
    let used = blocks.iter().filter(|block| string(block, "type") == "tool_use").map(|block| string(block, "id"));
    if !used.eq(calls.iter().map(|call| call.id.as_str())) {
        return None;
    }
    let keep_thinking = keep_thinking || !facts.thinking_bound;
    Some(blocks.iter().filter(|block| keep_thinking || !is_thinking(block)).cloned().collect())
}

/// One block of the answer's content.
#[derive(Debug)]
enum Block {
    Text(String),
    Thinking {
        thinking: String,
        signature: String,
    },
    Redacted(String),
    ToolUse(HeardCall),
    /// A kind that we do not ask for.
    Other,
}

/// Reads the event stream of one answer.
#[derive(Debug)]
pub(super) struct Reader {
    call_ids: String,
    blocks: BTreeMap<u64, Block>,
    /// All text that was given out; blocks of text are paragraphs.
    said: String,
    usage: Usage,
    stop_reason: Option<String>,
    stopped: bool,
    output_bytes: u64,
    kept_bytes: u64,
}

impl Reader {
    pub(super) fn new(call_ids: String) -> Self {
        Self {
            call_ids,
            blocks: BTreeMap::new(),
            said: String::new(),
            usage: Usage::default(),
            stop_reason: None,
            stopped: false,
            output_bytes: 0,
            kept_bytes: 0,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.stopped
    }

    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { output_bytes: self.output_bytes, usage: usage_if_told(self.usage) }
    }

    pub(super) fn event(&mut self, _event: &str, data: &str, text: &mut String) -> Result<(), Broken> {
        if let Some((index, part)) = text_alone(data) {
            self.text_delta(index, &part, text);
            return Ok(());
        }
        let data = parse(data.as_bytes())?;
        match string(&data, "type") {
            "message_start" => self.usage_take(&data["message"]["usage"]),
            "content_block_start" => self.block_start(number(&data, &["index"]).unwrap_or(0), &data["content_block"], text),
            "content_block_delta" => self.block_delta(number(&data, &["index"]).unwrap_or(0), &data["delta"], text),
            "message_delta" => {
                self.usage_take(&data["usage"]);
                if let Some(reason) = data["delta"]["stop_reason"].as_str() {
                    self.stop_reason = Some(reason.to_owned());
                }
            }
            "message_stop" => self.stopped = true,
            "error" => return Err(reported(&data["error"])),
            // Pings, ends of blocks, and events that are new.
            _ => {}
        }
        Ok(())
    }

    /// Each report replaces what was said of the same field before: the counts are totals, not differences.
    fn usage_take(&mut self, usage: &Json) {
        for (field, slot) in [
            ("input_tokens", &mut self.usage.input_tokens),
            ("output_tokens", &mut self.usage.output_tokens),
            ("cache_read_input_tokens", &mut self.usage.cache_read_tokens),
            ("cache_creation_input_tokens", &mut self.usage.cache_write_tokens),
        ] {
            if let Some(count) = number(usage, &[field]) {
                *slot = count;
            }
        }
    }

    fn block_start(&mut self, index: u64, block: &Json, text: &mut String) {
        // An empty block costs memory too.
        self.kept_bytes += 64;
        let new = match string(block, "type") {
            "text" => Block::Text(String::new()),
            "thinking" => Block::Thinking { thinking: String::new(), signature: String::new() },
            "redacted_thinking" => {
                self.count(string(block, "data"));
                Block::Redacted(string(block, "data").to_owned())
            }
            "tool_use" => {
                self.count(string(block, "name"));
                self.kept_bytes += string(block, "id").len() as u64;
                let whole = block.get("input").filter(|input| input.as_object().is_some_and(|input| !input.is_empty()));
                let arguments = whole.map(Json::to_string).unwrap_or_default();
                self.count(&arguments);
                Block::ToolUse(HeardCall { id: string(block, "id").into(), name: string(block, "name").into(), arguments })
            }
            _ => Block::Other,
        };
        self.blocks.insert(index, new);
        // A block may begin with some of its content.
        for (kind, field) in [("text_delta", "text"), ("thinking_delta", "thinking"), ("signature_delta", "signature")] {
            if !string(block, field).is_empty() {
                self.block_delta(index, &json!({"type": kind, field: block[field]}), text);
            }
        }
    }

    fn block_delta(&mut self, index: u64, delta: &Json, text: &mut String) {
        let Some(block) = self.blocks.get_mut(&index) else { return };
        let (target, field) = match (string(delta, "type"), block) {
            ("text_delta", Block::Text(_)) => return self.text_delta(index, string(delta, "text"), text),
            ("input_json_delta", Block::ToolUse(call)) => (&mut call.arguments, "partial_json"),
            ("thinking_delta", Block::Thinking { thinking, .. }) => (thinking, "thinking"),
            ("signature_delta", Block::Thinking { signature, .. }) => (signature, "signature"),
            _ => return,
        };
        target.push_str(string(delta, field));
        self.count(string(delta, field));
    }

    fn text_delta(&mut self, index: u64, part: &str, text: &mut String) {
        let Some(Block::Text(target)) = self.blocks.get_mut(&index) else { return };
        let paragraph = if target.is_empty() && !self.said.is_empty() && !part.is_empty() { "\n\n" } else { "" };
        for part in [paragraph, part] {
            self.said.push_str(part);
            text.push_str(part);
        }
        target.push_str(part);
        self.count(part);
    }

    /// A signature stands for thinking that may not be shown, so it counts for the estimate as well.
    fn count(&mut self, part: &str) {
        self.output_bytes += part.len() as u64;
        self.kept_bytes += part.len() as u64;
    }

    pub(super) fn finish(self) -> Result<Answer, Broken> {
        let Some(reason) = self.stop_reason.as_deref() else { return Err(Broken::Truncated) };
        let finish = match reason {
            "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
            "refusal" => FinishReason::Refusal,
            "tool_use" => FinishReason::ToolCalls,
            // Only tools that run at the vendor pause a turn, and none is ever asked for.
            "pause_turn" => return Err(Broken::Malformed("the vendor paused the turn".into())),
            _ => FinishReason::Stop,
        };
        let heard: Vec<HeardCall> =
            self.blocks.values().filter_map(|block| if let Block::ToolUse(call) = block { Some(call.clone()) } else { None }).collect();
        let closed = calls_close(&heard, finish, &self.call_ids)?;
        let (mut content, mut closed_calls) = (Vec::new(), closed.iter());
        for block in self.blocks.into_values() {
            match block {
                Block::Text(text) if text.trim().is_empty() => {}
                Block::Text(text) => content.push(text_block(&text)),
                Block::Thinking { thinking, signature } => {
                    content.push(json!({"type": "thinking", "thinking": thinking, "signature": signature}));
                }
                Block::Redacted(data) => content.push(json!({"type": "redacted_thinking", "data": data})),
                Block::ToolUse(_) => {
                    if let Some(Some(call)) = closed_calls.next() {
                        content.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}));
                    }
                }
                Block::Other => {}
            }
        }
        let calls: Vec<ToolCall> = closed.into_iter().flatten().collect();
        Ok(Answer {
            text: (!self.said.is_empty()).then_some(self.said),
            finish: finish_with(finish, &calls),
            calls,
            usage: usage_if_told(self.usage),
            raw: json!({"role": "assistant", "content": content}),
        })
    }
}

/// The block's number and the text of an event that brings text, as nearly all of a stream do: read without a tree of all that stands in it.
fn text_alone(data: &str) -> Option<(u64, Cow<'_, str>)> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        kind: Cow<'a, str>,
        index: u64,
        #[serde(borrow)]
        delta: Delta<'a>,
    }
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(rename = "type")]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        text: Cow<'a, str>,
    }
    let Event { kind, index, delta } = serde_json::from_str(data).ok()?;
    (kind == "content_block_delta" && delta.kind == "text_delta").then_some((index, delta.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_alone_is_read_without_a_tree() {
        let event = |kind: &str, rest: &str| format!(r#"{{"type":"{kind}",{rest},"more":[1]}}"#);
        let text = r#""index":2,"delta":{"type":"text_delta","text":"a\u00e9\n"}"#;
        assert_eq!(text_alone(&event("content_block_delta", text)), Some((2, "aé\n".into())));
        for other in [
            event("content_block_start", text),
            event("content_block_delta", r#""index":2,"delta":{"type":"input_json_delta","text":"x","partial_json":"y"}"#),
            event("content_block_delta", r#""index":2,"delta":{"type":"text_delta","text":null}"#),
            event("content_block_delta", r#""index":"2","delta":{"type":"text_delta","text":"x"}"#),
            event("content_block_delta", r#""delta":{"type":"text_delta","text":"x"}"#),
            event("message_stop", r#""x":1"#),
            event("content_block_delta", text) + "x",
        ] {
            assert_eq!(text_alone(&other), None, "{other}");
        }
    }
}
