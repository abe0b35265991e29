//! What the wires' requests share: tool schemas, and ids of tool calls that the vendor takes. Pure.

use crate::model::{Json, ToolCall, ToolSpec};
use serde_json::json;
use std::collections::{HashMap, HashSet};

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

    /// Begins a turn whose calls the vendor itself spelled so, and wants back as they were.
    pub(super) fn turn_as_it_was(&mut self, calls: &[ToolCall]) {
        self.turn.clear();
        self.used.extend(calls.iter().map(|call| call.id.clone()));
    }

    /// The id of a call of the turn begun last.
    pub(super) fn get<'a>(&'a self, id: &'a str) -> &'a str {
        self.turn.get(id).map_or(id, String::as_str)
    }
}
