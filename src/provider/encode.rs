//! What the wires' requests share: the bound of input tokens, tool schemas, and ids of tool calls that the vendor takes. Pure.

use super::{Encoded, Prompt, Wire};
use crate::model::{Json, JsonObject, ToolCall, ToolSpec};
use bytes::Bytes;
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// What any request may cost beyond its own bytes: begin and end marks, the lead-in of the answer, and the short preamble (date, knowledge cut-off,
/// output format) that some vendors put in front.
const REQUEST_OVERHEAD_TOKENS: u64 = 512;
/// Marks and role of one message; OpenAI's cookbook counts 3 or 4, chat templates of open models up to a dozen.
const MESSAGE_OVERHEAD_TOKENS: u64 = 16;
/// Marks around one tool when its schema is rewritten for the model.
const TOOL_OVERHEAD_TOKENS: u64 = 32;

/// The encoded request with the bound of its input tokens. Every tokenizer in use works on bytes and makes at least one byte of each token, and the
/// JSON text is never shorter than what it says; so its bytes bound the content, and constants bound what the vendor adds. Thinking that is replayed
/// is bounded as well: its signature, or encrypted form, is longer than what it stands for.
pub(super) fn bound(wire: Wire, path: &'static str, body: JsonObject, prompt: &Prompt, tools_overhead_tokens: u64) -> Encoded {
    let body = Bytes::from(Json::Object(body).to_string());
    let (messages, tools) = (prompt.messages.len() as u64 + 1, prompt.tools.len() as u64);
    let results: u64 = prompt.messages.iter().map(super::PromptMessage::parts).sum();
    let overhead = REQUEST_OVERHEAD_TOKENS
        + MESSAGE_OVERHEAD_TOKENS * (messages + results)
        + if tools == 0 { 0 } else { tools_overhead_tokens + TOOL_OVERHEAD_TOKENS * tools };
    Encoded { wire, path, input_tokens_max: body.len() as u64 + overhead, body }
}

/// The schema of a tool's arguments: any object where the config gives none.
pub(super) fn open_schema(spec: &ToolSpec) -> Json {
    spec.parameters.clone().map_or_else(|| json!({"type": "object", "properties": {}, "additionalProperties": true}), Json::Object)
}

/// What a tool said, for wires that have no field for failure.
pub(super) fn result_text(result: &crate::model::ToolResult) -> String {
    if result.ok { result.text() } else { format!("Error: {}", result.text()) }
}

/// Ids of tool calls as this request spells them. A history may come from another vendor, whose ids have characters or a length that this one
/// refuses, or come again in a later turn; such ids are replaced, in call and result alike.
pub(super) struct CallIds {
    accepts: fn(&str) -> bool,
    used: HashSet<String>,
    turn: HashMap<String, String>,
    replaced: usize,
}

impl CallIds {
    pub(super) fn new(accepts: fn(&str) -> bool) -> Self {
        Self { accepts, used: HashSet::new(), turn: HashMap::new(), replaced: 0 }
    }

    /// Begins a turn with these calls. True when all ids stay as they are.
    pub(super) fn turn(&mut self, calls: &[ToolCall]) -> bool {
        self.turn.clear();
        let mut unchanged = true;
        for call in calls {
            let mut id = call.id.clone();
            while !(self.accepts)(&id) || self.used.contains(&id) {
                self.replaced += 1;
                unchanged = false;
                id = format!("call_r{}", self.replaced);
            }
            self.used.insert(id.clone());
            self.turn.insert(call.id.clone(), id);
        }
        unchanged
    }

    /// The id of a call of the turn begun last.
    pub(super) fn get<'a>(&'a self, id: &'a str) -> &'a str {
        self.turn.get(id).map_or(id, String::as_str)
    }
}
