//! What a vendor would refuse, and what it would silently bear though it is wrong. Strict on purpose: every rule here has cost somebody a
//! conversation that could never be continued.

use super::Wire;
use serde_json::{Map, Value};

/// What a request says, whatever its wire.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) model: String,
    pub(super) output_limit: Option<u64>,
    pub(super) system: String,
    pub(super) said: Vec<String>,
}

type Wrong = Vec<String>;

pub(super) fn request(wire: Wire, body: &Value, signatures: &[String], wrong: &mut Wrong) -> Seen {
    let Some(fields) = body.as_object() else {
        wrong.push("the body is not an object".to_owned());
        return Seen::default();
    };
    let mut seen = Seen { model: text(fields.get("model")).to_owned(), ..Seen::default() };
    if seen.model.is_empty() {
        wrong.push("there is no model".to_owned());
    }
    match wire {
        Wire::Anthropic => anthropic(fields, signatures, &mut seen, wrong),
        Wire::OpenAi => openai(fields, &mut seen, wrong),
        Wire::Ollama => ollama(fields, &mut seen, wrong),
    }
    match seen.output_limit {
        None => wrong.push("no output limit is sent".to_owned()),
        Some(0) => wrong.push("the output limit is zero".to_owned()),
        Some(_) => {}
    }
    if seen.said.is_empty() {
        wrong.push("there is no message".to_owned());
    }
    seen
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn only(fields: &Map<String, Value>, known: &[&str], wrong: &mut Wrong) {
    for name in fields.keys() {
        if !known.contains(&name.as_str()) {
            wrong.push(format!("the vendor knows no field {name}, or it changes the price"));
        }
    }
}

fn tool_name(name: &str, wrong: &mut Wrong) {
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
        wrong.push(format!("{name:?} is no tool name"));
    }
}

/// A schema of arguments must be an object's.
fn schema(name: &str, schema: Option<&Value>, wrong: &mut Wrong) {
    if schema.and_then(|schema| schema.get("type")).and_then(Value::as_str) != Some("object") {
        wrong.push(format!("the schema of tool {name:?} is not of type object"));
    }
}

// ------------------------------------------------------------------------------------------------------------------- Anthropic

fn anthropic(fields: &Map<String, Value>, signatures: &[String], seen: &mut Seen, wrong: &mut Wrong) {
    let known = [
        "model",
        "max_tokens",
        "messages",
        "system",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "metadata",
        "cache_control",
    ];
    only(fields, &known, wrong);
    seen.output_limit = fields.get("max_tokens").and_then(Value::as_u64);
    if fields.get("stream") != Some(&Value::Bool(true)) {
        wrong.push("stream is not true".to_owned());
    }
    seen.system = match fields.get("system") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(blocks) => list(Some(blocks)).iter().map(|block| text(block.get("text"))).collect(),
    };
    for tool in list(fields.get("tools")) {
        let name = text(tool.get("name"));
        tool_name(name, wrong);
        schema(name, tool.get("input_schema"), wrong);
    }
    let messages = list(fields.get("messages"));
    let mut open: Vec<(String, String)> = Vec::new();
    let mut speaker = "assistant";
    for (n, message) in messages.iter().enumerate() {
        let role = text(message.get("role"));
        if role == speaker || !["user", "assistant"].contains(&role) {
            wrong.push(format!("message {n} is of {role:?} after {speaker:?}: roles do not alternate"));
        }
        speaker = if role == "user" { "user" } else { "assistant" };
        let single;
        let blocks = match message.get("content") {
            Some(Value::String(text)) => {
                single = [serde_json::json!({"type": "text", "text": text})];
                &single[..]
            }
            other => list(other),
        };
        if blocks.is_empty() {
            wrong.push(format!("message {n} is empty"));
        }
        anthropic_message(n, role, blocks, signatures, &mut open, seen, wrong);
    }
    if speaker != "user" {
        wrong.push("the last message is not of the user".to_owned());
    }
    if !open.is_empty() {
        wrong.push(format!("calls stay without a result: {open:?}"));
    }
}

fn anthropic_message(
    n: usize,
    role: &str,
    blocks: &[Value],
    signatures: &[String],
    open: &mut Vec<(String, String)>,
    seen: &mut Seen,
    wrong: &mut Wrong,
) {
    let mut calls = Vec::new();
    let mut other_seen = false;
    for block in blocks {
        match (role, text(block.get("type"))) {
            (_, "text") => {
                let said = text(block.get("text"));
                if said.trim().is_empty() {
                    wrong.push(format!("message {n} has an empty text block"));
                }
                other_seen = true;
                seen.said.push(format!("{role}: {said}"));
            }
            ("assistant", "tool_use") => {
                let (id, name) = (text(block.get("id")), text(block.get("name")));
                if id.is_empty() || calls.iter().any(|(known, _)| known == id) {
                    wrong.push(format!("message {n} has a call id twice or none: {id:?}"));
                }
                tool_name(name, wrong);
                if !block.get("input").is_some_and(Value::is_object) {
                    wrong.push(format!("the input of call {id} is not an object"));
                }
                seen.said.push(format!("assistant calls {name}({})", block.get("input").unwrap_or(&Value::Null)));
                calls.push((id.to_owned(), name.to_owned()));
            }
            ("assistant", "thinking") => {
                if !signatures.contains(&text(block.get("signature")).to_owned()) {
                    wrong.push(format!("message {n} has a thinking block whose signature is not ours"));
                }
            }
            ("assistant", "redacted_thinking") => {
                if !signatures.contains(&text(block.get("data")).to_owned()) {
                    wrong.push(format!("message {n} has redacted thinking that is not ours"));
                }
            }
            ("user", "tool_result") => {
                if other_seen {
                    wrong.push(format!("message {n} has a tool result behind other content"));
                }
                let id = text(block.get("tool_use_id"));
                match open.iter().position(|(known, _)| known == id) {
                    Some(at) => {
                        let failed = block.get("is_error").and_then(Value::as_bool).unwrap_or(false);
                        let (_, name) = open.remove(at);
                        let content = match block.get("content") {
                            Some(Value::String(text)) => text.clone(),
                            other => list(other).iter().map(|part| text(part.get("text"))).collect(),
                        };
                        seen.said.push(format!("tool {name}{}: {content}", if failed { " failed" } else { "" }));
                    }
                    None => wrong.push(format!("message {n} has a result for {id:?}, which is no open call")),
                }
            }
            (_, kind) => wrong.push(format!("message {n} of {role} has a block of type {kind:?}")),
        }
    }
    if !open.is_empty() {
        wrong.push(format!("message {n} leaves calls without a result: {open:?}"));
    }
    *open = calls;
}

// ---------------------------------------------------------------------------------------------------------------------- OpenAI

fn openai(fields: &Map<String, Value>, seen: &mut Seen, wrong: &mut Wrong) {
    let known = [
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_completion_tokens",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "prompt_cache_key",
        "verbosity",
        "thinking",
        "user",
        "safety_identifier",
        "top_k",
        "min_p",
        "repetition_penalty",
    ];
    only(fields, &known, wrong);
    let limits: Vec<_> = ["max_tokens", "max_completion_tokens"].iter().filter_map(|name| fields.get(*name)).collect();
    if limits.len() > 1 {
        wrong.push("two output limits are sent".to_owned());
    }
    seen.output_limit = limits.first().and_then(|limit| limit.as_u64());
    if fields.get("stream") != Some(&Value::Bool(true)) {
        wrong.push("stream is not true".to_owned());
    }
    if fields.get("stream_options").and_then(|options| options.get("include_usage")) != Some(&Value::Bool(true)) {
        wrong.push("usage is not asked for".to_owned());
    }
    if fields.get("tools").is_some_and(|tools| list(Some(tools)).is_empty()) {
        wrong.push("an empty list of tools is sent".to_owned());
    }
    function_tools(fields, wrong);
    let mut open: Vec<(String, String)> = Vec::new();
    for (n, message) in list(fields.get("messages")).iter().enumerate() {
        let role = text(message.get("role"));
        if role != "tool" && !open.is_empty() {
            wrong.push(format!("message {n} comes before the results of {open:?}"));
            open.clear();
        }
        match role {
            "system" | "developer" => {
                if n > 0 {
                    wrong.push(format!("message {n} is a system message in the middle"));
                }
                text(message.get("content")).clone_into(&mut seen.system);
            }
            "user" => seen.said.push(format!("user: {}", text(message.get("content")))),
            "assistant" => {
                let said = text(message.get("content"));
                let calls = list(message.get("tool_calls"));
                if calls.is_empty() && said.is_empty() && text(message.get("refusal")).is_empty() {
                    wrong.push(format!("message {n} says nothing and calls nothing"));
                }
                if message.get("tool_calls").is_some_and(|calls| list(Some(calls)).is_empty()) {
                    wrong.push(format!("message {n} has an empty list of calls"));
                }
                if !said.is_empty() {
                    seen.said.push(format!("assistant: {said}"));
                }
                for call in calls {
                    openai_call(n, call, &mut open, seen, wrong);
                }
            }
            "tool" => {
                let id = text(message.get("tool_call_id"));
                match open.iter().position(|(known, _)| known == id) {
                    Some(at) => {
                        let (_, name) = open.remove(at);
                        seen.said.push(format!("tool {name}: {}", text(message.get("content"))));
                    }
                    None => wrong.push(format!("message {n} has a result for {id:?}, which is no open call")),
                }
                if !message.get("content").is_some_and(Value::is_string) {
                    wrong.push(format!("message {n} has a tool result that is not text"));
                }
            }
            other => wrong.push(format!("message {n} is of role {other:?}")),
        }
    }
    if !open.is_empty() {
        wrong.push(format!("calls stay without a result: {open:?}"));
    }
}

fn openai_call(n: usize, call: &Value, open: &mut Vec<(String, String)>, seen: &mut Seen, wrong: &mut Wrong) {
    let function = call.get("function").unwrap_or(&Value::Null);
    let (id, name) = (text(call.get("id")), text(function.get("name")));
    if id.is_empty() || open.iter().any(|(known, _)| known == id) {
        wrong.push(format!("message {n} has a call id twice or none: {id:?}"));
    }
    if text(call.get("type")) != "function" {
        wrong.push(format!("call {id} is of no type"));
    }
    tool_name(name, wrong);
    let arguments: Value =
        function.get("arguments").and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    if !arguments.is_object() {
        wrong.push(format!("the arguments of call {id} are not the text of an object"));
    }
    seen.said.push(format!("assistant calls {name}({arguments})"));
    open.push((id.to_owned(), name.to_owned()));
}

fn function_tools(fields: &Map<String, Value>, wrong: &mut Wrong) {
    for tool in list(fields.get("tools")) {
        let function = tool.get("function").unwrap_or(&Value::Null);
        let name = text(function.get("name"));
        if text(tool.get("type")) != "function" {
            wrong.push(format!("tool {name:?} is not of type function"));
        }
        tool_name(name, wrong);
        schema(name, function.get("parameters"), wrong);
    }
}

// ---------------------------------------------------------------------------------------------------------------------- Ollama

fn ollama(fields: &Map<String, Value>, seen: &mut Seen, wrong: &mut Wrong) {
    only(fields, &["model", "messages", "tools", "stream", "format", "options", "think"], wrong);
    let options = fields.get("options").unwrap_or(&Value::Null);
    seen.output_limit = options.get("num_predict").and_then(Value::as_u64);
    for name in ["num_gpu", "num_thread", "num_batch"] {
        if options.get(name).is_some() {
            wrong.push(format!("the operator's machine is set by {name}"));
        }
    }
    if fields.get("stream") == Some(&Value::Bool(false)) {
        wrong.push("stream is not true".to_owned());
    }
    function_tools(fields, wrong);
    let mut open: Vec<String> = Vec::new();
    for (n, message) in list(fields.get("messages")).iter().enumerate() {
        let role = text(message.get("role"));
        if role != "tool" && !open.is_empty() {
            wrong.push(format!("message {n} comes before the results of {open:?}"));
            open.clear();
        }
        let said = text(message.get("content"));
        match role {
            "system" => {
                if n > 0 {
                    wrong.push(format!("message {n} is a system message in the middle"));
                }
                said.clone_into(&mut seen.system);
            }
            "user" => seen.said.push(format!("user: {said}")),
            "assistant" => {
                if !said.is_empty() {
                    seen.said.push(format!("assistant: {said}"));
                }
                for call in list(message.get("tool_calls")) {
                    let function = call.get("function").unwrap_or(&Value::Null);
                    let name = text(function.get("name"));
                    tool_name(name, wrong);
                    let arguments = function.get("arguments").unwrap_or(&Value::Null);
                    if !arguments.is_object() {
                        wrong.push(format!("the arguments of a call of {name} are not an object"));
                    }
                    seen.said.push(format!("assistant calls {name}({arguments})"));
                    open.push(name.to_owned());
                }
            }
            "tool" => {
                // Results are matched by name and order alone.
                let name = text(message.get("tool_name"));
                if open.first().map(String::as_str) == Some(name) {
                    open.remove(0);
                    seen.said.push(format!("tool {name}: {said}"));
                } else {
                    wrong.push(format!("message {n} has a result of {name:?}; open, in order: {open:?}"));
                }
            }
            other => wrong.push(format!("message {n} is of role {other:?}")),
        }
    }
    if !open.is_empty() {
        wrong.push(format!("calls stay without a result: {open:?}"));
    }
}
