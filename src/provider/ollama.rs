//! Ollama's native `/api/chat` (<https://docs.ollama.com/api/chat>): the request and the lines of the answer. The echo model in the binary speaks
//! the same. Pure.

use super::{
    Answer, Broken, Encoded, Progress, Prompt, PromptMessage, Wire,
    bound::bound,
    decode::{HeardCall, calls_close, finish_with, number, parse, reported, string},
    encode::result_text,
    openai::tool,
};
use crate::model::{FinishReason, Json, JsonObject, RawAnswer, ToolCall, ToolResult, Usage};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use std::borrow::Cow;

/// Parameters that stand beside `options` and not in it.
const TOP_LEVEL: [&str; 2] = ["format", "think"];
/// The smallest window asked for; Ollama's own default.
const WINDOW_TOKENS_MIN: u64 = 4_096;

/// The request for this prompt, to Ollama or to echo.
pub(super) fn encode(wire: Wire, prompt: &Prompt) -> Encoded {
    let messages = messages(prompt);
    let (mut body, mut options) = (JsonObject::new(), JsonObject::new());
    for (name, value) in &prompt.params {
        if TOP_LEVEL.contains(&name.as_str()) { &mut body } else { &mut options }.insert(name.clone(), value.clone());
    }
    let text_bytes: usize = prompt.system.len() + messages.iter().map(|message| message.to_string().len()).sum::<usize>();
    let window = window(options.get("num_ctx").and_then(Json::as_u64), text_bytes as u64, prompt);
    options.insert("num_ctx".into(), window.into());
    options.insert("num_predict".into(), prompt.max_tokens.into());
    body.insert("model".into(), prompt.model.model.clone().into());
    body.insert("stream".into(), true.into());
    body.insert("options".into(), options.into());
    if !prompt.tools.is_empty() {
        body.insert("tools".into(), prompt.tools.iter().map(tool).collect());
    }
    body.insert("messages".into(), Json::Array(messages));
    bound(wire, "/api/chat", body, prompt, 0)
}

/// Ollama cuts a prompt that exceeds `num_ctx` from the front without a word, so the window is made to fit: two bytes to a token, which is more
/// tokens than text has. Powers of two, since another window makes Ollama load the model again; never more than the rate card says.
fn window(wanted: Option<u64>, text_bytes: u64, prompt: &Prompt) -> u64 {
    let most = prompt.context_window;
    let needed = text_bytes / 2 + u64::from(prompt.max_tokens) + 256 * prompt.tools.len() as u64;
    wanted.unwrap_or_else(|| needed.checked_next_power_of_two().unwrap_or(most)).clamp(WINDOW_TOKENS_MIN.min(most), most)
}

fn messages(prompt: &Prompt) -> Vec<Json> {
    let mut messages = Vec::with_capacity(prompt.messages.len() + 1);
    if !prompt.system.trim().is_empty() {
        messages.push(json!({"role": "system", "content": prompt.system}));
    }
    let mut open: &[ToolCall] = &[];
    for message in &prompt.messages {
        match message {
            PromptMessage::User { text } => messages.push(json!({"role": "user", "content": text})),
            // Ollama knows which call a result answers by name and order alone.
            PromptMessage::Tool { results } => {
                let mut results: Vec<&ToolResult> = results.iter().collect();
                results.sort_by_key(|result| open.iter().position(|call| call.id == result.tool_call_id));
                messages.extend(results.into_iter().map(
                    |result| json!({"role": "tool", "tool_name": result.name, "tool_call_id": result.tool_call_id, "content": result_text(result)}),
                ));
            }
            PromptMessage::Assistant { text, calls, raw, .. } => {
                open = calls;
                if text.as_ref().is_none_or(String::is_empty) && calls.is_empty() {
                    continue;
                }
                let thinking = raw.as_deref().filter(|raw| raw.model == prompt.model && !calls.is_empty()).and_then(thinking_of);
                messages.push(assistant(text.as_deref().unwrap_or_default(), calls, thinking));
            }
        }
    }
    messages
}

fn thinking_of(raw: &RawAnswer) -> Option<&str> {
    raw.json.get("thinking").and_then(Json::as_str)
}

/// An assistant message; models that think want their thinking back while a tool loop goes on.
fn assistant(text: &str, calls: &[ToolCall], thinking: Option<&str>) -> Json {
    let mut message = json!({"role": "assistant", "content": text});
    if let Some(thinking) = thinking.filter(|thinking| !thinking.is_empty()) {
        message["thinking"] = thinking.into();
    }
    if !calls.is_empty() {
        let calls = calls.iter().map(|call| json!({"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}));
        message["tool_calls"] = calls.collect();
    }
    message
}

/// Reads the lines of one answer.
#[derive(Debug)]
pub(super) struct Reader {
    call_ids: String,
    text: String,
    thinking: String,
    calls: Vec<HeardCall>,
    /// The last line's reason.
    done_reason: Option<String>,
    usage: Option<Usage>,
    output_bytes: u64,
    kept_bytes: u64,
}

impl Reader {
    pub(super) fn new(call_ids: String) -> Self {
        Self {
            call_ids,
            text: String::new(),
            thinking: String::new(),
            calls: Vec::new(),
            done_reason: None,
            usage: None,
            output_bytes: 0,
            kept_bytes: 0,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.done_reason.is_some()
    }

    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { output_bytes: self.output_bytes, usage: self.usage }
    }

    pub(super) fn line(&mut self, line: &[u8], text: &mut String) -> Result<(), Broken> {
        if let Some(part) = text_alone(line) {
            self.text.push_str(&part);
            text.push_str(&part);
            self.count(part.len());
            return Ok(());
        }
        let line = &parse(line)?;
        if let Some(error) = line.get("error").filter(|error| !error.is_null()) {
            return Err(reported(error));
        }
        let message = &line["message"];
        let part = string(message, "content");
        self.text.push_str(part);
        text.push_str(part);
        self.thinking.push_str(string(message, "thinking"));
        self.count(part.len() + string(message, "thinking").len());
        for call in message.get("tool_calls").and_then(Json::as_array).into_iter().flatten() {
            let function = &call["function"];
            let arguments = match &function["arguments"] {
                Json::Null => String::new(),
                Json::String(text) => text.clone(),
                whole => whole.to_string(),
            };
            let heard = HeardCall { id: string(call, "id").into(), name: string(function, "name").into(), arguments };
            self.count(heard.name.len() + heard.arguments.len());
            self.kept_bytes += 64 + heard.id.len() as u64;
            self.calls.push(heard);
        }
        if line.get("done").and_then(Json::as_bool) == Some(true) {
            self.done_reason = Some(string(line, "done_reason").to_owned());
            // A prompt that was cached may leave its count out.
            self.usage = number(line, &["eval_count"]).map(|output_tokens| Usage {
                input_tokens: number(line, &["prompt_eval_count"]).unwrap_or(0),
                output_tokens,
                ..Usage::default()
            });
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) {
        self.output_bytes += bytes as u64;
        self.kept_bytes += bytes as u64;
    }

    pub(super) fn finish(self) -> Result<Answer, Broken> {
        let finish = match self.done_reason.as_deref() {
            None => return Err(Broken::Truncated),
            // The model was only loaded or unloaded, and said nothing.
            Some(reason @ ("load" | "unload")) => return Err(Broken::Reported(format!("the model was only {reason}ed"))),
            Some("length") => FinishReason::Length,
            Some(_) => FinishReason::Stop,
        };
        let calls: Vec<ToolCall> = calls_close(&self.calls, finish, &self.call_ids)?.into_iter().flatten().collect();
        Ok(Answer {
            raw: assistant(&self.text, &calls, Some(&self.thinking)),
            text: (!self.text.is_empty()).then_some(self.text),
            finish: finish_with(finish, &calls),
            calls,
            usage: self.usage,
        })
    }
}

/// The text of a line that brings text and nothing else that matters, as nearly all of a stream do: read without a tree of all that stands in it.
fn text_alone(line: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        message: Message<'a>,
        done: Option<bool>,
        error: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        content: Cow<'a, str>,
        thinking: Option<IgnoredAny>,
        tool_calls: Option<IgnoredAny>,
    }
    let Line { message, done, error } = serde_json::from_slice(line).ok()?;
    let alone = done != Some(true) && error.is_none() && message.thinking.is_none() && message.tool_calls.is_none();
    alone.then_some(message.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_alone_is_read_without_a_tree() {
        let line = |message: &str, more: &str| format!(r#"{{"model":"x","message":{{{message}}}{more}}}"#);
        let text = r#""role":"assistant","content":"a\u00e9""#;
        for more in [r#","done":false"#, "", r#","done":null,"error":null"#] {
            assert_eq!(text_alone(line(text, more).as_bytes()).as_deref(), Some("aé"), "{more}");
        }
        for other in [
            line(text, r#","done":true"#),
            line(text, r#","done":"no""#),
            line(text, r#","error":"no""#),
            line(r#""content":"x","thinking":"""#, ""),
            line(r#""content":"x","tool_calls":[]"#, ""),
            line(r#""content":null"#, ""),
            line(text, "") + "x",
        ] {
            assert_eq!(text_alone(other.as_bytes()), None, "{other}");
        }
    }
}
