//! The bound of a request's input: no tokenizer of its vendor makes more tokens of it. Pure, but counting takes time and, once, some 50 MB for the
//! tokenizer's table.
//!
//! Two bounds, the second within the first:
//!
//! - *Bytes.* Every tokenizer in use works on bytes and makes at least one byte of each token. What the model reads of a text is the text, not its
//!   JSON, so a text counts the bytes that it has; everything else counts as it stands in the JSON, which is never shorter than what it says.
//!   Constants bound what the vendor adds. Thinking that is replayed is bounded as well: its signature, or encrypted form, is longer than what it
//!   stands for.
//! - *Tokens.* Where the vendor's tokenizer is public, the texts are counted with it, each alone: the marks between messages are tokens of their
//!   own, which no text is joined with. Tools, calls and formats, which the vendor rewrites in a way of its own, stay with their bytes.

use super::{Encoded, Prompt, PromptMessage, Wire};
use crate::model::{Json, JsonObject, Tokenizer};
use bytes::Bytes;
use serde::Serialize;

/// What any request may cost beyond its own bytes: begin and end marks, the lead-in of the answer, and the short preamble (date, knowledge cut-off,
/// output format) that some vendors put in front.
const REQUEST_OVERHEAD_TOKENS: u64 = 512;
/// Marks and role of one message; OpenAI's cookbook counts 3 or 4, chat templates of open models up to a dozen.
const MESSAGE_OVERHEAD_TOKENS: u64 = 16;
/// Marks around one tool when its schema is rewritten for the model.
const TOOL_OVERHEAD_TOKENS: u64 = 32;
/// One in so many counted tokens is added, for templates that put a line break or a blank between a mark and a text.
const COUNT_MARGIN: u64 = 32;
/// A text with a longer run of blanks is not counted: the tokenizer's regular expression keeps a way back for each of them.
const BLANKS_MAX: usize = 1_024;

/// The encoded request with its bound by bytes.
pub(super) fn bound(wire: Wire, path: &'static str, body: JsonObject, prompt: &Prompt, tools_overhead_tokens: u64) -> Encoded {
    let body = Json::Object(body);
    let cache_writes = wire != Wire::Anthropic || names_cache(&body);
    let encoded = bound_written(wire, path, &body, texts(&body).into_iter(), prompt);
    let tools = if prompt.tools.is_empty() { 0 } else { tools_overhead_tokens };
    Encoded { input_tokens_max: encoded.input_tokens_max + tools, cache_writes, ..encoded }
}

/// The same of a body that is no tree, whose texts are these: what the model reads as it is. Its wire may write to a cache without being asked.
pub(super) fn bound_written<'a>(
    wire: Wire,
    path: &'static str,
    body: &impl Serialize,
    texts: impl Iterator<Item = &'a str>,
    prompt: &Prompt,
) -> Encoded {
    let escapes: u64 = texts.map(escape_bytes).sum();
    // Texts and trees of JSON can always be written.
    let body = Bytes::from(serde_json::to_vec(body).unwrap_or_default());
    let (messages, tools) = (prompt.messages.len() as u64 + 1, prompt.tools.len() as u64);
    let results: u64 = prompt.messages.iter().map(PromptMessage::parts).sum();
    let overhead = REQUEST_OVERHEAD_TOKENS + MESSAGE_OVERHEAD_TOKENS * (messages + results) + TOOL_OVERHEAD_TOKENS * tools;
    let input_tokens_max = (body.len() as u64).saturating_sub(escapes) + overhead;
    Encoded { wire, path, body, input_tokens_max, cache_writes: true }
}

/// The bound of a request by its vendor's tokenizer, never above the one by bytes. Reads all of the request: about 40 ms for a megabyte of prose,
/// half a second for one of text made to be slow, so it belongs on a thread that may be kept busy.
pub fn input_tokens_counted(encoded: &Encoded, tokenizer: Tokenizer) -> u64 {
    // What was written as JSON can be read; were it not, the bound by bytes would do.
    let Ok(body) = serde_json::from_slice::<Json>(&encoded.body) else { return encoded.input_tokens_max };
    let spared = texts(&body).into_iter().map(|text| text.len() as u64 - text_tokens_max(text, tokenizer)).sum();
    encoded.input_tokens_max.saturating_sub(spared)
}

/// The most tokens of one text, never more than its bytes.
fn text_tokens_max(text: &str, tokenizer: Tokenizer) -> u64 {
    let bytes = text.len() as u64;
    if has_long_blank(text) {
        return bytes;
    }
    let tokens = match tokenizer {
        Tokenizer::O200kBase => tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64,
    };
    tokens.saturating_add(tokens / COUNT_MARGIN).min(bytes)
}

fn has_long_blank(text: &str) -> bool {
    let mut run = 0;
    text.chars().any(|char| {
        run = if char.is_whitespace() { run + 1 } else { 0 };
        run > BLANKS_MAX
    })
}

/// The texts that the model reads as they are: the system prompt, what was said, what tools returned.
fn texts(body: &Json) -> Vec<&str> {
    let messages = body.get("messages").and_then(Json::as_array).into_iter().flatten();
    let contents = messages.filter_map(|message| message.get("content")).flat_map(|content| match content {
        Json::String(text) => vec![text.as_str()],
        Json::Array(blocks) => blocks.iter().filter_map(block_text).collect(),
        _ => Vec::new(),
    });
    body.get("system").and_then(Json::as_str).into_iter().chain(contents).collect()
}

/// The text of a text block, or of a tool's result.
fn block_text(block: &Json) -> Option<&str> {
    let field = match block.get("type")?.as_str()? {
        "text" => "text",
        "tool_result" => "content",
        _ => return None,
    };
    block.get(field)?.as_str()
}

/// By how much a text grows as JSON.
fn escape_bytes(text: &str) -> u64 {
    let grows = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..0x20 => 5,
        _ => 0,
    };
    text.bytes().map(grows).sum()
}

/// Whether a request to Anthropic asks for a cache; without being asked it writes none.
fn names_cache(body: &Json) -> bool {
    match body {
        Json::Object(fields) => fields.iter().any(|(name, value)| name == "cache_control" || names_cache(value)),
        Json::Array(values) => values.iter().any(names_cache),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ModelFacts, ModelRef},
        provider::{anthropic, openai},
    };
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::Arc;

    fn prompt(system: &str, text: &str) -> Prompt {
        Prompt {
            model: ModelRef { provider: "openai".to_owned(), model: "m".to_owned() },
            system: system.to_owned(),
            tools: Arc::from([]),
            messages: vec![PromptMessage::User { text: text.to_owned() }],
            params: JsonObject::new(),
            max_tokens: 100,
            facts: ModelFacts::default(),
            context_window: 128_000,
        }
    }

    fn counted(text: &str) -> u64 {
        tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64
    }

    fn openai(prompt: &Prompt) -> Encoded {
        openai::encode(openai::Dialect::OpenAi, prompt)
    }

    #[test]
    fn the_tokenizer_is_the_one_that_openai_publishes() {
        // From OpenAI's cookbook, "How to count tokens with tiktoken".
        for (text, tokens) in [("antidisestablishmentarianism", 6), ("2 + 2 = 4", 7), ("お誕生日おめでとう", 8)] {
            assert_eq!(counted(text), tokens, "{text}");
        }
    }

    #[test]
    fn prose_is_bounded_near_its_tokens_and_never_below_them() {
        let text = "The quick brown fox jumps over the lazy dog, and nobody was surprised.\n".repeat(1_400);
        let encoded = openai(&prompt("Be brief.", &text));
        let (bytes, tokens) = (encoded.input_tokens_max, input_tokens_counted(&encoded, Tokenizer::O200kBase));
        let real = counted(&text) + counted("Be brief.");
        assert!(tokens >= real && tokens < real + real / 16 + 1_000, "{tokens} {real}");
        assert!(tokens * 3 < bytes, "{tokens} {bytes}");
    }

    #[test]
    fn escapes_are_not_what_the_model_reads() {
        let (plain, escaped) = (openai(&prompt("", &"x".repeat(1_000))), openai(&prompt("", &"\n\"\\\t\u{1}".repeat(200))));
        assert_eq!(plain.input_tokens_max, escaped.input_tokens_max);
        assert!(escaped.body.len() > plain.body.len() + 1_000);
    }

    #[test]
    fn what_would_exhaust_the_tokenizer_is_bounded_by_its_bytes() {
        for text in [" ".repeat(1_000_000), format!("a{}b", "\t".repeat(BLANKS_MAX + 1)), "\u{a0}".repeat(BLANKS_MAX + 1)] {
            assert_eq!(text_tokens_max(&text, Tokenizer::O200kBase), text.len() as u64);
        }
        let blanks = " ".repeat(BLANKS_MAX);
        assert!(text_tokens_max(&blanks, Tokenizer::O200kBase) < 100);
    }

    #[test]
    fn only_a_request_that_asks_for_a_cache_can_pay_for_writing_one() {
        let mut prompt = prompt("", "hello");
        assert!(!anthropic::encode(&prompt).cache_writes);
        prompt.params.insert("cache_control".to_owned(), json!({"type": "ephemeral"}));
        assert!(anthropic::encode(&prompt).cache_writes);
        prompt.params.clear();
        assert!(openai(&prompt).cache_writes, "OpenAI caches without being asked");
    }

    proptest! {
        #[test]
        fn no_text_has_more_tokens_than_its_bound(system in "\\PC{0,40}", text in any_text()) {
            let encoded = openai(&prompt(&system, &text));
            let bound = input_tokens_counted(&encoded, Tokenizer::O200kBase);
            prop_assert!(bound <= encoded.input_tokens_max);
            prop_assert!(bound >= counted(&system) + counted(&text) + 32);
            // A template that puts a line break on either side is within the overhead too.
            let joined = [format!("{system}\n"), format!("user\n{text}\n")];
            prop_assert!(bound >= joined.iter().map(|text| counted(text)).sum::<u64>() + 16);
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof!["\\PC{0,400}", "[ \\t\\r\\n a-c!/']{0,400}", "[\\x00-\\x7f]{0,400}", "(ab|'s|\\n|😀|漢|é|12){0,200}"]
    }
}
