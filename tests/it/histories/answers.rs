//! What models answer in random conversations: the odd things that vendors have been seen to send.

use crate::fake_provider::{Finish, Part, Reply};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The tools of every config here.
pub(super) const TOOLS: [&str; 3] = ["get_weather", "search", "list-files"];

/// One answer; thinking's signature is told later, so that each is unique.
#[derive(Debug, Clone)]
pub(super) struct Said {
    texts: Vec<String>,
    thinks: bool,
    redacted: bool,
    refuses: bool,
    calls: Vec<(String, usize, usize)>,
    finish: usize,
}

impl Said {
    /// The vendor's script for it.
    pub(super) fn reply(&self, signature: &str) -> Reply {
        let mut parts = Vec::new();
        if self.thinks {
            parts.push(Part::thinking("Let me think.", signature));
        }
        if self.redacted {
            parts.push(Part::Redacted(format!("redacted-{signature}")));
        }
        parts.extend(self.texts.iter().map(|text| Part::text(text)));
        if self.refuses {
            parts.push(Part::Refusal("I would rather not.".to_owned()));
        }
        for (id, tool, arguments) in &self.calls {
            // "%" is another id each time; the others come again and again.
            parts.push(Part::call(&id.replace('%', signature), TOOLS[tool % TOOLS.len()], &arguments_of(*arguments)));
        }
        let finish = [Finish::Stop, Finish::Length, Finish::Tools, Finish::Filter, Finish::Refusal][self.finish % 5];
        // What most answers end with follows from what they say.
        if self.finish < 5 { Reply::parts(parts).finish(finish) } else { Reply::parts(parts) }
    }
}

fn arguments_of(which: usize) -> Value {
    match which % 4 {
        0 => json!({}),
        1 => json!({"city": "Kraków", "days": 3}),
        2 => json!({"nested": {"list": [1, "two", null]}, "text": "line\n\"quoted\""}),
        _ => json!({"path": "a".repeat(300)}),
    }
}

/// Ids of calls as vendors, and those who imitate them, spell them.
fn call_id() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("call_%".to_owned()),
        2 => Just("toolu_%".to_owned()),
        2 => Just("functions.search:0".to_owned()),
        1 => Just("call_1".to_owned()),
        1 => Just("call_r1".to_owned()),
        1 => Just(String::new()),
        1 => Just("x".repeat(41)),
        1 => Just("y".repeat(65)),
        1 => Just("id with blank ü".to_owned()),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("Here you are.".to_owned()),
        2 => Just("Zażółć gęślą jaźń 🛶\n\nand more".to_owned()),
        1 => Just(String::new()),
        1 => Just(" ".to_owned()),
        1 => Just("\n\n".to_owned()),
        1 => Just("w".repeat(900)),
    ]
}

pub(super) fn said() -> impl Strategy<Value = Said> {
    let calls = proptest::collection::vec((call_id(), 0usize..3, 0usize..4), 0..4);
    (proptest::collection::vec(text(), 0..3), any::<bool>(), 0u8..8, 0u8..10, calls, 0usize..16).prop_map(
        |(texts, thinks, redacted, refuses, calls, finish)| Said {
            texts,
            thinks,
            redacted: redacted == 0,
            refuses: refuses == 0,
            calls,
            finish,
        },
    )
}
