//! The wires' tests. The streams are written by hand after the vendors' documents.

mod calls;
mod client;
mod echo;
mod history;
mod streams;

use super::*;
use serde_json::json;

const LIMITS: AnswerLimits = AnswerLimits { answer_bytes_max: 1 << 20, tool_calls_max: 8 };

/// Text as it came in pieces, and what the stream's end gave.
fn decode_chunks<'a>(wire: Wire, chunks: impl IntoIterator<Item = &'a [u8]>) -> (String, Result<Answer, Broken>) {
    let mut decoder = Decoder::new(wire, LIMITS, "call_x".into());
    let mut said = String::new();
    for chunk in chunks {
        for piece in decoder.push(chunk) {
            match piece {
                Piece::Text(text) => said.push_str(&text),
                Piece::ToolCall(_) => panic!("calls are known at the end only"),
            }
        }
    }
    (said, decoder.finish())
}

/// Decodes the stream whole, byte by byte, and cut in two at every place; all must be the same, and the pieces must be the answer's text.
fn decode(wire: Wire, stream: &str) -> Result<Answer, Broken> {
    let bytes = stream.as_bytes();
    let (said, answer) = decode_chunks(wire, [bytes]);
    assert_eq!((&said, &answer), (&decode_chunks(wire, bytes.chunks(1)).0, &decode_chunks(wire, bytes.chunks(1)).1), "byte by byte");
    for at in 0..bytes.len() {
        let (before, after) = bytes.split_at(at);
        assert_eq!((&said, &answer), (&decode_chunks(wire, [before, after]).0, &decode_chunks(wire, [before, after]).1), "cut at {at}");
    }
    if let Ok(answer) = &answer {
        assert_eq!(answer.text.clone().unwrap_or_default(), said, "what was told is what is answered");
    }
    answer
}

/// Server-sent events as Anthropic sends them: the type twice.
fn anthropic_stream(events: &[Json]) -> String {
    let events: Vec<String> = events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())).collect();
    events.concat()
}

/// Chunks as OpenAI sends them.
fn openai_stream(chunks: &[Json]) -> String {
    let chunks: Vec<String> = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    chunks.concat() + "data: [DONE]\n\n"
}

/// One chunk of choice 0.
fn chunk(delta: Json, finish_reason: Json) -> Json {
    json!({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": null})
}

/// The last chunk, with the usage alone.
fn usage_chunk(usage: Json) -> Json {
    json!({"id": "c", "choices": [], "usage": usage})
}

fn call(id: &str, name: &str, arguments: Json) -> ToolCall {
    ToolCall { id: id.into(), name: name.into(), arguments: arguments.as_object().unwrap().clone() }
}

fn usage(input_tokens: u64, output_tokens: u64, cache_read_tokens: u64, cache_write_tokens: u64) -> Usage {
    Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens }
}

fn model(provider: &str, model: &str) -> ModelRef {
    ModelRef { provider: provider.into(), model: model.into() }
}

fn provider(name: &str, wire: Wire, base_url: &str) -> ProviderConfig {
    ProviderConfig { name: name.into(), wire, base_url: base_url.into(), api_key: None, api_key_required: false, extra_params: Vec::new() }
}

fn prompt(provider_name: &str, messages: Vec<PromptMessage>) -> Prompt {
    Prompt {
        model: model(provider_name, "m-1"),
        system: String::new(),
        tools: Arc::new([]),
        messages,
        params: JsonObject::new(),
        max_tokens: 4_096,
        facts: ModelFacts::default(),
        context_window: 100_000,
    }
}

fn user(text: &str) -> PromptMessage {
    PromptMessage::User { text: text.into() }
}

fn assistant(text: Option<&str>, calls: Vec<ToolCall>) -> PromptMessage {
    PromptMessage::Assistant { text: text.map(str::to_owned), calls, raw: None, keep_thinking: false }
}

fn result(id: &str, name: &str, content: Json, ok: bool) -> ToolResult {
    ToolResult { tool_call_id: id.into(), name: name.into(), content, ok }
}

fn tool(name: &str) -> ToolSpec {
    ToolSpec { name: name.into(), description: None, parameters: None }
}

/// The body that goes to the built-in provider of this name.
fn body_of(prompt: &Prompt) -> Json {
    let built_in = BUILT_IN.iter().find(|built_in| built_in.name == prompt.model.provider).unwrap();
    let encoded = encode(&provider(built_in.name, built_in.wire, built_in.base_url), prompt);
    assert!(encoded.input_tokens_max > encoded.body.len() as u64);
    serde_json::from_slice(&encoded.body).unwrap()
}
