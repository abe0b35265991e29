//! The chunk stream of OpenAI's Chat Completions.

use crate::{
    model::{FinishReason, Json, JsonObject, ToolCall, Usage},
    provider::{
        Answer, Broken, Progress,
        decode::{HeardCall, calls_close, finish_with, number, parse, reported, string},
    },
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use std::borrow::Cow;

/// Reads the chunk stream of one answer.
#[derive(Debug)]
pub(in crate::provider) struct Reader {
    call_ids: String,
    text: String,
    refused: bool,
    reasoning: String,
    calls: Vec<(Option<u64>, HeardCall)>,
    finish_reason: Option<String>,
    usage: Option<Usage>,
    done: bool,
    output_bytes: u64,
    kept_bytes: u64,
}

impl Reader {
    pub(in crate::provider) fn new(call_ids: String) -> Self {
        Self {
            call_ids,
            text: String::new(),
            refused: false,
            reasoning: String::new(),
            calls: Vec::new(),
            finish_reason: None,
            usage: None,
            done: false,
            output_bytes: 0,
            kept_bytes: 0,
        }
    }

    pub(in crate::provider) fn is_over(&self) -> bool {
        self.done
    }

    pub(in crate::provider) fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    pub(in crate::provider) fn progress(&self) -> Progress {
        Progress { output_bytes: self.output_bytes, usage: self.usage }
    }

    pub(in crate::provider) fn event(&mut self, event: &str, data: &str, text: &mut String) -> Result<(), Broken> {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        if event != "error"
            && let Some(part) = text_alone(data)
        {
            self.text.push_str(&part);
            text.push_str(&part);
            self.count(&part);
            return Ok(());
        }
        let chunk = parse(data.as_bytes())?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(reported(error));
        }
        if event == "error" {
            return Err(reported(&chunk));
        }
        let choices = chunk.get("choices").and_then(Json::as_array);
        let choice = choices.and_then(|choices| choices.iter().find(|choice| number(choice, &["index"]).unwrap_or(0) == 0));
        // Servers differ in which chunk carries the usage, and some repeat it: the last one stands.
        for usage in [choice.and_then(|choice| choice.get("usage")), chunk.get("usage")].into_iter().flatten() {
            self.usage = usage_read(usage).or(self.usage);
        }
        let Some(choice) = choice else { return Ok(()) };
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            self.finish_reason = Some(reason.to_owned());
        }
        self.delta(&choice["delta"], text);
        Ok(())
    }

    fn delta(&mut self, delta: &Json, text: &mut String) {
        for field in ["content", "refusal"] {
            let part = string(delta, field);
            self.refused |= field == "refusal" && !part.is_empty();
            self.text.push_str(part);
            text.push_str(part);
            self.count(part);
        }
        // Some servers say `reasoning` for the same thing, a few say both.
        let reasoning = ["reasoning_content", "reasoning"].map(|field| string(delta, field)).into_iter().find(|part| !part.is_empty());
        self.reasoning.push_str(reasoning.unwrap_or_default());
        self.count(reasoning.unwrap_or_default());
        for fragment in delta.get("tool_calls").and_then(Json::as_array).into_iter().flatten() {
            self.call_fragment(fragment);
        }
    }

    /// Fragments belong together by index. A new id at the same index is a new call; a fragment with neither goes on with the last call.
    fn call_fragment(&mut self, fragment: &Json) {
        let (index, id, function) = (number(fragment, &["index"]), string(fragment, "id"), &fragment["function"]);
        let arguments = match &function["arguments"] {
            Json::String(part) => part.clone(),
            Json::Null => String::new(),
            whole => whole.to_string(),
        };
        let name = string(function, "name");
        let goes_on = |at: Option<u64>, call: &HeardCall| at == index && (id.is_empty() || call.id.is_empty() || call.id == id);
        let found = match index {
            Some(_) => self.calls.iter().rposition(|(at, call)| goes_on(*at, call)),
            None if id.is_empty() && name.is_empty() => self.calls.len().checked_sub(1),
            None if !id.is_empty() => self.calls.iter().rposition(|(_, call)| call.id == id),
            None => None,
        };
        let at = found.unwrap_or_else(|| {
            self.kept_bytes += 64;
            self.calls.push((index, HeardCall::default()));
            self.calls.len() - 1
        });
        let call = &mut self.calls[at].1;
        if call.id.is_empty() {
            call.id.push_str(id);
        }
        let named = call.name.is_empty();
        if named {
            call.name.push_str(name);
        }
        call.arguments.push_str(&arguments);
        self.kept_bytes += id.len() as u64;
        self.count(if named { name } else { "" });
        self.count(&arguments);
    }

    fn count(&mut self, part: &str) {
        self.output_bytes += part.len() as u64;
        self.kept_bytes += part.len() as u64;
    }

    pub(in crate::provider) fn finish(self) -> Result<Answer, Broken> {
        let finish = match self.finish_reason.as_deref() {
            None => return Err(Broken::Truncated),
            Some(reason @ ("insufficient_system_resource" | "error")) => return Err(Broken::Reported(reason.to_owned())),
            Some("length") => FinishReason::Length,
            Some("content_filter") => FinishReason::ContentFilter,
            Some("refusal") => FinishReason::Refusal,
            Some(_) if self.refused => FinishReason::Refusal,
            Some("tool_calls" | "function_call") => FinishReason::ToolCalls,
            Some(_) => FinishReason::Stop,
        };
        let heard: Vec<HeardCall> = self.calls.into_iter().map(|(_, call)| call).collect();
        let closed = calls_close(&heard, finish, &self.call_ids)?;
        let mut raw = JsonObject::new();
        raw.insert("role".into(), "assistant".into());
        raw.insert("content".into(), if self.text.is_empty() { Json::Null } else { self.text.clone().into() });
        if !self.reasoning.is_empty() {
            raw.insert("reasoning_content".into(), self.reasoning.into());
        }
        let kept = heard.iter().zip(&closed).filter_map(|(heard, call)| call.as_ref().map(|call| (heard, call)));
        let raw_calls: Vec<Json> = kept
            .map(|(heard, call)| {
                let arguments = if heard.arguments.trim().is_empty() { "{}" } else { &heard.arguments };
                json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
            })
            .collect();
        if !raw_calls.is_empty() {
            raw.insert("tool_calls".into(), raw_calls.into());
        }
        let calls: Vec<ToolCall> = closed.into_iter().flatten().collect();
        Ok(Answer {
            text: (!self.text.is_empty()).then_some(self.text),
            finish: finish_with(finish, &calls),
            calls,
            usage: self.usage,
            raw: Json::Object(raw),
        })
    }
}

/// The text of a chunk that brings text and nothing else that matters, as nearly all of a stream do: read without a tree of all that stands in it.
/// None for any other, whatever is odd about it.
fn text_alone(data: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Chunk<'a> {
        #[serde(borrow)]
        choices: [Choice<'a>; 1],
        error: Option<IgnoredAny>,
        usage: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Choice<'a> {
        index: Option<u64>,
        #[serde(borrow)]
        delta: Delta<'a>,
        finish_reason: Option<IgnoredAny>,
        usage: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(borrow)]
        content: Cow<'a, str>,
        refusal: Option<IgnoredAny>,
        reasoning_content: Option<IgnoredAny>,
        reasoning: Option<IgnoredAny>,
        tool_calls: Option<IgnoredAny>,
    }
    let Chunk { choices: [choice], error, usage } = serde_json::from_str(data).ok()?;
    let delta = choice.delta;
    let others =
        [error, usage, choice.finish_reason, choice.usage, delta.refusal, delta.reasoning_content, delta.reasoning, delta.tool_calls];
    (choice.index.unwrap_or(0) == 0 && others.iter().all(Option::is_none)).then_some(delta.content)
}

/// The vendor's count in our four classes: its prompt tokens include what was read from and written to the cache.
fn usage_read(usage: &Json) -> Option<Usage> {
    let prompt = number(usage, &["prompt_tokens"]);
    let output = number(usage, &["completion_tokens"]);
    if prompt.is_none() && output.is_none() {
        return None;
    }
    // The same count may stand in several places, with zero in those that a server does not fill.
    let most = |paths: &[&[&str]]| paths.iter().filter_map(|path| number(usage, path)).max().unwrap_or(0);
    let prompt = prompt.unwrap_or(0);
    let read = most(&[&["prompt_tokens_details", "cached_tokens"], &["cached_tokens"], &["prompt_cache_hit_tokens"]]).min(prompt);
    let written = most(&[&["prompt_tokens_details", "cache_write_tokens"], &["cache_write_tokens"]]).min(prompt - read);
    Some(Usage {
        input_tokens: prompt - read - written,
        output_tokens: output.unwrap_or(0),
        cache_read_tokens: read,
        cache_write_tokens: written,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_alone_is_read_without_a_tree() {
        let chunk = |choice: &str, more: &str| format!(r#"{{"id":"x","choices":[{choice}],"created":1{more}}}"#);
        let plain = |delta: &str| chunk(&format!(r#"{{"index":0,"delta":{{{delta}}},"finish_reason":null,"logprobs":null}}"#), "");
        for (delta, text) in [
            (r#""content":"Hé""#, "Hé"),
            (r#""role":"assistant","content":"","refusal":null"#, ""),
            (r#""content":"a\n\u00e9\"","reasoning":null,"tool_calls":null"#, "a\né\""),
        ] {
            assert_eq!(text_alone(&plain(delta)).as_deref(), Some(text), "{delta}");
            assert_eq!(text_alone(&chunk(&format!(r#"{{"delta":{{{delta}}}}}"#), r#","usage":null,"error":null"#)).as_deref(), Some(text));
        }
        let others = [
            plain(r#""content":null"#),
            plain(r#""role":"assistant""#),
            plain(r#""content":["x"]"#),
            plain(r#""content":"x","content":"y""#),
            plain(r#""content":"x","refusal":"""#),
            plain(r#""content":"x","reasoning":"""#),
            plain(r#""content":"x","reasoning_content":"y""#),
            plain(r#""content":"x","tool_calls":[]"#),
            chunk(r#"{"index":1,"delta":{"content":"x"}}"#, ""),
            chunk(r#"{"index":"0","delta":{"content":"x"}}"#, ""),
            chunk(r#"{"delta":{"content":"x"},"finish_reason":""}"#, ""),
            chunk(r#"{"delta":{"content":"x"},"usage":{}}"#, ""),
            chunk(r#"{"delta":{"content":"x"}}"#, r#","usage":{"prompt_tokens":1}"#),
            chunk(r#"{"delta":{"content":"x"}}"#, r#","error":"no""#),
            chunk(r#"{"delta":{"content":"x"}},{"index":1,"delta":{"content":"y"}}"#, ""),
            chunk("", ""),
            r#"{"choices":null}"#.to_owned(),
            plain(r#""content":"x""#) + "x",
            "[]".to_owned(),
        ];
        for data in others {
            assert_eq!(text_alone(&data), None, "{data}");
        }
    }

    #[test]
    fn an_error_event_is_one_whatever_it_says() {
        let data = r#"{"choices":[{"delta":{"content":"x"}}]}"#;
        let mut reader = Reader::new("call_x".to_owned());
        assert!(reader.event("error", data, &mut String::new()).is_err());
        let mut text = String::new();
        assert!(reader.event("", data, &mut text).is_ok());
        assert_eq!((text.as_str(), reader.text.as_str(), reader.output_bytes, reader.kept_bytes), ("x", "x", 1, 1));
    }
}
