//! An answer as frames of a wire: what the vendors send, byte by byte.

use super::{Wire, script::*};
use serde_json::{Value, json};

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Says nothing of its own: openings, pings, ends.
    Bookkeeping,
    Content,
    /// Tells the final usage.
    Usage,
}

pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn content_type(wire: Wire) -> &'static str {
    if wire == Wire::Ollama { "application/x-ndjson" } else { "text/event-stream; charset=utf-8" }
}

pub(super) fn frames(wire: Wire, model: &str, reply: &Reply) -> Vec<Frame> {
    let mut frames = match wire {
        Wire::Anthropic => anthropic(model, reply),
        Wire::OpenAi => openai(model, reply),
        Wire::Ollama => ollama(model, reply),
    };
    if reply.repeats_bookkeeping {
        frames = frames
            .into_iter()
            .flat_map(|frame| {
                let twice = if frame.kind == Kind::Content { None } else { Some(Frame { kind: frame.kind, bytes: frame.bytes.clone() }) };
                [Some(frame), twice].into_iter().flatten()
            })
            .collect();
    }
    frames
}

/// A frame that reports an error inside the stream.
pub(super) fn error_frame(wire: Wire, message: &str) -> Vec<u8> {
    match wire {
        Wire::Anthropic => event("error", &json!({"type": "error", "error": {"type": "overloaded_error", "message": message}})),
        Wire::OpenAi => data(&json!({"error": {"message": message, "type": "server_error", "param": null, "code": null}})),
        Wire::Ollama => line(&json!({"error": message})),
    }
}

/// The body of an HTTP error status.
pub(super) fn error_body(wire: Wire, status: u16, body: Option<&str>) -> String {
    let message = "vendor-words-canary: not for the client";
    let body = match (wire, body) {
        (Wire::Anthropic, Some("context")) => {
            json!({"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}})
        }
        (Wire::OpenAi, Some("context")) => {
            json!({"error": {"message": "This model's maximum context length is 128000 tokens.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}})
        }
        (Wire::Ollama, Some("context")) => json!({"error": "the input length exceeds the context length"}),
        (_, Some(body)) => return body.to_owned(),
        (Wire::Anthropic, None) => {
            let kind = match status {
                400 => "invalid_request_error",
                401 => "authentication_error",
                402 => "billing_error",
                403 => "permission_error",
                404 => "not_found_error",
                413 => "request_too_large",
                429 => "rate_limit_error",
                529 => "overloaded_error",
                _ => "api_error",
            };
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"})
        }
        (Wire::OpenAi, None) => {
            let (kind, code) = match status {
                401 => ("invalid_request_error", json!("invalid_api_key")),
                404 => ("invalid_request_error", json!("model_not_found")),
                429 => ("requests", json!("rate_limit_exceeded")),
                500.. => ("server_error", Value::Null),
                _ => ("invalid_request_error", Value::Null),
            };
            json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
        }
        (Wire::Ollama, None) => json!({"error": message}),
    };
    body.to_string()
}

fn event(name: &str, data: &Value) -> Vec<u8> {
    format!("event: {name}\ndata: {data}\n\n").into_bytes()
}

fn data(value: &Value) -> Vec<u8> {
    format!("data: {value}\n\n").into_bytes()
}

fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

fn bookkeeping(bytes: Vec<u8>) -> Frame {
    Frame { kind: Kind::Bookkeeping, bytes }
}

fn content(bytes: Vec<u8>) -> Frame {
    Frame { kind: Kind::Content, bytes }
}

/// Fragments as models stream them: a few characters each, cut anywhere between characters; long texts in larger ones.
fn fragments(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let size = if chars.len() > 4096 { 8192 } else { 7 };
    chars.chunks(size).map(|chunk| chunk.iter().collect()).collect()
}

fn anthropic(model: &str, reply: &Reply) -> Vec<Frame> {
    let opening_usage = match &reply.said {
        Said::Truth => {
            let mut usage = reply.tokens.anthropic();
            usage["output_tokens"] = json!(1);
            usage
        }
        Said::Nothing => Value::Null,
        Said::Raw(usage) => usage.clone(),
    };
    let mut message = json!({"id": "msg_fake", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": null, "stop_sequence": null});
    if !opening_usage.is_null() {
        message["usage"] = opening_usage;
    }
    let mut frames = vec![bookkeeping(event("message_start", &json!({"type": "message_start", "message": message})))];
    frames.push(bookkeeping(event("ping", &json!({"type": "ping"}))));
    for (index, part) in reply.parts.iter().enumerate() {
        let (block, deltas): (Value, Vec<Value>) = match part {
            Part::Text(text) | Part::Refusal(text) => (
                json!({"type": "text", "text": ""}),
                fragments(text).into_iter().map(|text| json!({"type": "text_delta", "text": text})).collect(),
            ),
            Part::Thinking { text, signature } => {
                let mut deltas: Vec<_> =
                    fragments(text).into_iter().map(|text| json!({"type": "thinking_delta", "thinking": text})).collect();
                deltas.push(json!({"type": "signature_delta", "signature": signature}));
                (json!({"type": "thinking", "thinking": "", "signature": ""}), deltas)
            }
            Part::Redacted(data) => (json!({"type": "redacted_thinking", "data": data}), Vec::new()),
            Part::Call { id, name, arguments } => {
                // A call without arguments comes without a fragment.
                let text = if arguments == "{}" { "" } else { arguments };
                let deltas = fragments(text).into_iter().map(|part| json!({"type": "input_json_delta", "partial_json": part})).collect();
                (json!({"type": "tool_use", "id": id, "name": name, "input": {}}), deltas)
            }
            Part::Raw(text) => {
                frames.push(content(text.clone().into_bytes()));
                continue;
            }
        };
        frames.push(content(event("content_block_start", &json!({"type": "content_block_start", "index": index, "content_block": block}))));
        for delta in deltas {
            frames.push(content(event("content_block_delta", &json!({"type": "content_block_delta", "index": index, "delta": delta}))));
        }
        frames.push(content(event("content_block_stop", &json!({"type": "content_block_stop", "index": index}))));
    }
    let reason = match reply.finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Tools => "tool_use",
        Finish::Filter | Finish::Refusal => "refusal",
    };
    let mut delta = json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}});
    match &reply.said {
        Said::Truth => delta["usage"] = json!({"output_tokens": reply.tokens.output}),
        Said::Nothing => {}
        Said::Raw(usage) => delta["usage"] = usage.clone(),
    }
    frames.push(Frame { kind: Kind::Usage, bytes: event("message_delta", &delta) });
    frames.push(bookkeeping(event("message_stop", &json!({"type": "message_stop"}))));
    frames
}

fn openai(model: &str, reply: &Reply) -> Vec<Frame> {
    let chunk = |delta: Value, finish: Value| {
        data(&json!({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": null}))
    };
    let mut frames = vec![bookkeeping(chunk(json!({"role": "assistant", "content": ""}), Value::Null))];
    let mut call_index = 0;
    for part in &reply.parts {
        match part {
            Part::Text(text) => {
                frames.extend(fragments(text).into_iter().map(|text| content(chunk(json!({"content": text}), Value::Null))));
            }
            Part::Refusal(text) => {
                frames.extend(fragments(text).into_iter().map(|text| content(chunk(json!({"refusal": text}), Value::Null))));
            }
            // What vendors of this wire call it.
            Part::Thinking { text, .. } => {
                frames.extend(fragments(text).into_iter().map(|text| content(chunk(json!({"reasoning_content": text}), Value::Null))));
            }
            Part::Redacted(_) => {}
            Part::Call { id, name, arguments } => {
                let first = json!({"tool_calls": [{"index": call_index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]});
                frames.push(content(chunk(first, Value::Null)));
                let text = if arguments == "{}" { "" } else { arguments };
                for part in fragments(text) {
                    let more = json!({"tool_calls": [{"index": call_index, "function": {"arguments": part}}]});
                    frames.push(content(chunk(more, Value::Null)));
                }
                call_index += 1;
            }
            Part::Raw(text) => frames.push(content(text.clone().into_bytes())),
        }
    }
    let reason = match reply.finish {
        Finish::Stop | Finish::Refusal => "stop",
        Finish::Length => "length",
        Finish::Tools => "tool_calls",
        Finish::Filter => "content_filter",
    };
    frames.push(bookkeeping(chunk(json!({}), json!(reason))));
    let usage = match &reply.said {
        Said::Truth => Some(reply.tokens.openai()),
        Said::Nothing => None,
        Said::Raw(usage) => Some(usage.clone()),
    };
    if let Some(usage) = usage {
        let last =
            json!({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [], "usage": usage});
        frames.push(Frame { kind: Kind::Usage, bytes: data(&last) });
    }
    frames.push(bookkeeping(b"data: [DONE]\n\n".to_vec()));
    frames
}

fn ollama(model: &str, reply: &Reply) -> Vec<Frame> {
    let chunk = |message: Value| line(&json!({"model": model, "created_at": "2026-11-24T00:00:00Z", "message": message, "done": false}));
    let mut frames = Vec::new();
    for part in &reply.parts {
        match part {
            Part::Text(text) | Part::Refusal(text) => {
                frames.extend(fragments(text).into_iter().map(|text| content(chunk(json!({"role": "assistant", "content": text})))));
            }
            Part::Thinking { text, .. } => frames.extend(
                fragments(text).into_iter().map(|text| content(chunk(json!({"role": "assistant", "content": "", "thinking": text})))),
            ),
            Part::Redacted(_) => {}
            Part::Call { name, arguments, .. } => {
                // No id, as older servers do; the arguments are an object, not text.
                let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!(arguments));
                let calls = json!([{"function": {"name": name, "arguments": arguments}}]);
                frames.push(content(chunk(json!({"role": "assistant", "content": "", "tool_calls": calls}))));
            }
            Part::Raw(text) => frames.push(content(text.clone().into_bytes())),
        }
    }
    let reason = if reply.finish == Finish::Length { "length" } else { "stop" };
    let mut last = json!({"model": model, "created_at": "2026-11-24T00:00:00Z", "message": {"role": "assistant", "content": ""}, "done": true,
        "done_reason": reason, "total_duration": 5_000_000, "load_duration": 1_000_000});
    let usage = match &reply.said {
        Said::Truth => reply.tokens.ollama(),
        Said::Nothing => json!({}),
        Said::Raw(usage) => usage.clone(),
    };
    if let (Value::Object(last), Value::Object(usage)) = (&mut last, usage) {
        last.extend(usage);
    }
    frames.push(Frame { kind: Kind::Usage, bytes: line(&last) });
    frames
}
