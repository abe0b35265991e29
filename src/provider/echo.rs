//! Echo, the offline demo model in the binary: it follows fixed rules and says so. No intelligence is hidden here. It speaks Ollama's wire, so that
//! trying Nimblesite without a vendor goes through the same code as a vendor's answer. Pure and deterministic.
//!
//! What it does with the last message, the first rule that fits:
//! 1. After tool results it repeats what each tool said.
//! 2. Lines `call <tool> {json}` call these tools, all at once; the JSON may be left out. Other lines are then ignored.
//! 3. A message that names one of its tools calls it, with `{"input": <the message>}`.
//! 4. `count to <n>` counts, up to 10,000.
//! 5. `who are you` (or `what are you`): it says what it is.
//! 6. `remember`, `earlier` or `did i say`: it lists what the user said before in the conversation, newest last.
//! 7. `system prompt` or `instructions`: it shows its system prompt.
//! 8. Anything else it repeats.
//!
//! Four bytes count as a token, of the prompt as of the answer.

use super::decode::{number, string};
use crate::model::{Json, JsonObject};
use serde_json::json;

const BYTES_PER_TOKEN: usize = 4;
const WHAT_I_AM: &str = "I am echo, an offline demo model in the nimblesite binary. I follow fixed rules and no vendor is called: I repeat what you say, \
     call a tool when a line says `call <tool> {json}` or names one of my tools, count when told `count to 20`, and list what you said earlier when \
     asked whether I remember.";

/// What echo says: text, or tools to call.
#[derive(Debug, PartialEq)]
enum Reply {
    Text(String),
    Calls(Vec<(String, JsonObject)>),
}

/// The lines that answer a request of Ollama's wire, word by word.
pub(super) fn answer(body: &[u8]) -> Vec<String> {
    let request: Json = serde_json::from_slice(body).unwrap_or_default();
    let messages = request.get("messages").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let tools = request.get("tools").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = tools.iter().map(|tool| string(&tool["function"], "name")).collect();
    let limit_tokens = usize::try_from(number(&request, &["options", "num_predict"]).unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let prompt_bytes: usize = messages.iter().chain(tools).map(|part| part.to_string().len()).sum();

    let (mut lines, output_bytes, cut) = match reply(messages, &names) {
        Reply::Text(text) => {
            let kept = text.floor_char_boundary(limit_tokens.saturating_mul(BYTES_PER_TOKEN));
            let words = text[..kept].split_inclusive(char::is_whitespace);
            let lines = words.map(|word| line(&json!({"role": "assistant", "content": word}))).collect();
            (lines, kept, kept < text.len())
        }
        Reply::Calls(calls) => {
            let first = calls_before(messages) + 1;
            let calls: Vec<Json> = (first..)
                .zip(calls)
                .map(|(n, (name, arguments))| json!({"id": format!("call_{n}"), "function": {"name": name, "arguments": arguments}}))
                .collect();
            let bytes: usize = calls.iter().map(|call| call["function"].to_string().len()).sum();
            let fits = tokens(bytes) <= limit_tokens;
            let said = if fits { vec![line(&json!({"role": "assistant", "content": "", "tool_calls": calls}))] } else { Vec::new() };
            (said, bytes.min(limit_tokens.saturating_mul(BYTES_PER_TOKEN)), !fits)
        }
    };
    lines.push(format!(
        "{}\n",
        json!({"model": request["model"], "message": {"role": "assistant", "content": ""}, "done": true,
            "done_reason": if cut { "length" } else { "stop" }, "prompt_eval_count": tokens(prompt_bytes), "eval_count": tokens(output_bytes)})
    ));
    lines
}

fn line(message: &Json) -> String {
    format!("{}\n", json!({"message": message, "done": false}))
}

fn tokens(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// The highest number that an earlier call of ours has in its id, so that ids never come again.
fn calls_before(messages: &[Json]) -> usize {
    let calls = messages.iter().filter_map(|message| message.get("tool_calls").and_then(Json::as_array)).flatten();
    let numbers = calls.filter_map(|call| string(call, "id").strip_prefix("call_")?.parse::<usize>().ok());
    numbers.max().unwrap_or(0).min(usize::MAX - 1)
}

fn reply(messages: &[Json], tools: &[&str]) -> Reply {
    let Some(last) = messages.last() else { return Reply::Text(WHAT_I_AM.into()) };
    if string(last, "role") == "tool" {
        return Reply::Text(results(messages));
    }
    let said = string(last, "content");
    let lower = said.to_lowercase();
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
    match calls(said, tools) {
        Some(reply) => reply,
        None if count_to(&lower).is_some() => Reply::Text(count(count_to(&lower).unwrap_or(0))),
        None if has(&["who are you", "what are you"]) => Reply::Text(WHAT_I_AM.into()),
        None if has(&["remember", "earlier", "did i say"]) => Reply::Text(said_before(&messages[..messages.len() - 1])),
        None if has(&["system prompt", "instructions"]) => Reply::Text(system(messages)),
        None => Reply::Text(format!("You said: {said}")),
    }
}

/// What the tools said since the last call.
fn results(messages: &[Json]) -> String {
    let results = messages.rsplit(|message| string(message, "role") != "tool").next().unwrap_or_default();
    let told: Vec<String> =
        results.iter().map(|result| format!("{} said: {}", string(result, "tool_name"), string(result, "content"))).collect();
    told.join("\n")
}

/// The tools that a message calls, if any.
fn calls(said: &str, tools: &[&str]) -> Option<Reply> {
    let mut calls = Vec::new();
    for order in said.lines().filter_map(|line| line.trim().strip_prefix("call ")) {
        let (name, arguments) = order.trim().split_once(char::is_whitespace).unwrap_or((order.trim(), "{}"));
        if !tools.contains(&name) {
            // Prose may begin a line with "call": only what looks like an order is answered as one.
            if arguments.trim_start().starts_with('{') {
                return Some(Reply::Text(format!("I have no tool named {name}. My tools: {}.", tool_list(tools))));
            }
            continue;
        }
        match serde_json::from_str(arguments.trim()) {
            Ok(arguments) => calls.push((name.to_owned(), arguments)),
            Err(error) => return Some(Reply::Text(format!("I cannot call {name}: what follows it is not a JSON object ({error})."))),
        }
    }
    if calls.is_empty() {
        let words: Vec<&str> = said.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).collect();
        let named = tools.iter().find(|tool| words.contains(*tool))?;
        calls.push(((*named).to_owned(), JsonObject::from_iter([("input".to_owned(), said.into())])));
    }
    Some(Reply::Calls(calls))
}

fn tool_list(tools: &[&str]) -> String {
    if tools.is_empty() { "none".into() } else { tools.join(", ") }
}

fn count_to(lower: &str) -> Option<u32> {
    let rest = lower.split_once("count to ")?.1;
    let digits = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
    digits.parse().ok()
}

fn count(to: u32) -> String {
    let numbers: Vec<String> = (1..=to.min(10_000)).map(|n| n.to_string()).collect();
    numbers.join(" ")
}

/// What the user said before, as this conversation tells it: nothing else is known to echo.
fn said_before(messages: &[Json]) -> String {
    let said: Vec<&str> =
        messages.iter().filter(|message| string(message, "role") == "user").map(|message| string(message, "content")).collect();
    if said.is_empty() {
        return "This is the first thing you say to me in this conversation.".into();
    }
    let list: Vec<String> = said.iter().enumerate().map(|(n, text)| format!("{}. {text}", n + 1)).collect();
    format!("Before this you said {} {}:\n{}", said.len(), if said.len() == 1 { "thing" } else { "things" }, list.join("\n"))
}

fn system(messages: &[Json]) -> String {
    match messages.first().filter(|message| string(message, "role") == "system") {
        Some(system) => format!("My system prompt is: {}", string(system, "content")),
        None => "I have no system prompt.".into(),
    }
}
