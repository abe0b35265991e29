//! From a conversation to a prompt: the one function that can only make valid message lists, the choice of what to leave out when the history
//! outgrows the window, and the hash that tells whether a vendor sees the same beginning again. Pure.

use super::input::Admitted;
use crate::{
    model::{ContextReport, JsonObject, Speaker, StoredMessage, ToolResult, ToolSpec},
    provider::PromptMessage,
};

/// Bytes that make about one token; the estimate that truncation goes by. The money's bound never uses it.
pub const BYTES_PER_TOKEN: u64 = 3;

/// History and input as a prompt's messages, in exchanges: what the user said and all that followed until they spoke again.
#[derive(Debug, Clone)]
pub struct Exchanges {
    /// Of each exchange: its messages, and how many stored messages they are.
    exchanges: Vec<(Vec<PromptMessage>, u32)>,
}

/// A prompt's messages, and what they left out.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The messages.
    pub messages: Vec<PromptMessage>,
    /// What is not among them.
    pub report: ContextReport,
    /// About how many tokens they are, with what `beside_bytes` counted.
    pub tokens: u64,
}

impl Exchanges {
    /// Puts a conversation in order. Whatever is stored, each call is answered before anything else is said, and no result lacks its call.
    pub fn new(history: &[StoredMessage], admitted: &Admitted) -> Self {
        let mut made = Self { exchanges: Vec::new() };
        for stored in history {
            made.add(stored);
        }
        if !admitted.results.is_empty() {
            made.results(&admitted.results, u32::try_from(admitted.results.len()).unwrap_or(u32::MAX));
        }
        if let Some(text) = &admitted.text {
            made.exchanges.push((vec![PromptMessage::User { text: text.clone() }], 1));
        }
        made
    }

    fn add(&mut self, stored: &StoredMessage) {
        let message = &stored.message;
        match message.role {
            Speaker::User => {
                let text = message.content.as_str().map_or_else(|| message.content.to_string(), str::to_owned);
                self.exchanges.push((vec![PromptMessage::User { text }], 1));
            }
            Speaker::Assistant => {
                // A history that was cut at the front may begin in the middle of an exchange; that much of it is left out.
                let Some((messages, count)) = self.exchanges.last_mut() else { return };
                messages.push(PromptMessage::Assistant {
                    text: message.content.as_str().map(str::to_owned),
                    calls: message.tool_calls.clone(),
                    raw: stored.raw.clone(),
                    keep_thinking: false,
                });
                *count += 1;
            }
            Speaker::Tool => {
                let result = ToolResult {
                    tool_call_id: message.tool_call_id.clone().unwrap_or_default(),
                    name: message.name.clone().unwrap_or_default(),
                    content: message.content.clone(),
                    ok: message.ok.unwrap_or(true),
                };
                self.results(&[result], 1);
            }
        }
    }

    fn results(&mut self, new: &[ToolResult], stored: u32) {
        let Some((messages, count)) = self.exchanges.last_mut() else { return };
        match messages.last_mut() {
            Some(PromptMessage::Tool { results }) => results.extend_from_slice(new),
            _ => messages.push(PromptMessage::Tool { results: new.to_vec() }),
        }
        *count += stored;
    }

    /// The messages that fit so many tokens beside `beside_bytes` (system prompt and tools): the newest exchanges, whole, and always the last.
    pub fn fit(&self, beside_bytes: u64, tokens_max: u64, may_leave_out: bool) -> Fitted {
        let sizes: Vec<u64> = self.exchanges.iter().map(|(messages, _)| messages.iter().map(bytes).sum()).collect();
        let mut from = 0;
        let mut total: u64 = beside_bytes + sizes.iter().sum::<u64>();
        while may_leave_out && from + 1 < sizes.len() && total.div_ceil(BYTES_PER_TOKEN) > tokens_max {
            total -= sizes[from];
            from += 1;
        }
        let (left_out, kept) = self.exchanges.split_at(from);
        Fitted {
            messages: kept.iter().flat_map(|(messages, _)| messages.iter().cloned()).collect(),
            report: ContextReport {
                turns_left_out: u32::try_from(left_out.len()).unwrap_or(u32::MAX),
                messages_left_out: left_out.iter().map(|(_, count)| count).sum(),
            },
            tokens: total.div_ceil(BYTES_PER_TOKEN),
        }
    }
}

/// About what a message adds to a request, in bytes.
fn bytes(message: &PromptMessage) -> u64 {
    const AROUND: usize = 32;
    let arguments = |arguments: &JsonObject| serde_json::to_string(arguments).map_or(0, |text| text.len());
    let bytes = match message {
        PromptMessage::User { text } => text.len(),
        PromptMessage::Assistant { text, calls, raw, .. } => {
            let plain = text.as_ref().map_or(0, String::len)
                + calls.iter().map(|call| call.id.len() + call.name.len() + arguments(&call.arguments) + AROUND).sum::<usize>();
            // What the vendor gave may be longer: it has the thinking too.
            plain.max(raw.as_ref().map_or(0, |raw| raw.json.to_string().len()))
        }
        PromptMessage::Tool { results } => results.iter().map(|result| result.text().len() + result.tool_call_id.len() + AROUND).sum(),
    };
    (bytes + AROUND) as u64
}

/// About what system prompt and tools add to a request, in bytes.
pub fn beside_bytes(system: &str, tools: &[ToolSpec]) -> u64 {
    (system.len() + serde_json::to_string(tools).map_or(0, |text| text.len())) as u64
}

/// Marks the answers whose vendor will see what it saw when it gave them, and answers the hash of the whole prompt, to be stored with the
/// answer to it.
pub fn seal(system: &str, tools: &[ToolSpec], messages: &mut [PromptMessage], hashes: &[Option<String>]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
        hasher.clone()
    };
    part(system.as_bytes());
    let mut state = part(serde_json::to_string(tools).unwrap_or_default().as_bytes());
    let mut known = hashes.iter();
    // Once one answer saw something else, what follows it did too.
    let mut same = true;
    for message in messages {
        match message {
            PromptMessage::User { text } => state = part(text.as_bytes()),
            PromptMessage::Tool { results } => {
                for result in results {
                    part(result.tool_call_id.as_bytes());
                    part(&[u8::from(result.ok)]);
                    state = part(result.text().as_bytes());
                }
            }
            PromptMessage::Assistant { text, calls, keep_thinking, .. } => {
                let seen = known.next().and_then(Option::as_deref);
                same = same && seen == Some(&short(&state));
                *keep_thinking = same;
                part(text.as_deref().unwrap_or_default().as_bytes());
                state = part(serde_json::to_string(calls).unwrap_or_default().as_bytes());
            }
        }
    }
    short(&state)
}

fn short(state: &blake3::Hasher) -> String {
    state.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Time,
        ids::{MessageId, TurnId},
        model::{Json, Message, ToolCall},
    };

    fn stored(role: Speaker, content: Json, calls: &[&str], result_of: Option<&str>) -> StoredMessage {
        let call = |id: &&str| ToolCall { id: (*id).to_owned(), name: "tool".to_owned(), arguments: JsonObject::new() };
        StoredMessage {
            message: Message {
                id: MessageId::new(),
                seq: 1,
                role,
                content,
                tool_calls: calls.iter().map(call).collect(),
                tool_call_id: result_of.map(str::to_owned),
                name: result_of.map(|_| "tool".to_owned()),
                ok: result_of.map(|_| true),
                model: None,
                config_version: None,
                usage: None,
                cost: None,
                created_at: Time::from_ms(0),
            },
            turn_id: TurnId::new(),
            raw: None,
            prefix_hash: None,
            finish: None,
        }
    }

    fn said(text: &str) -> Admitted {
        Admitted { results: Vec::new(), text: Some(text.to_owned()), system: String::new() }
    }

    fn history() -> Vec<StoredMessage> {
        vec![
            stored(Speaker::User, "first".into(), &[], None),
            stored(Speaker::Assistant, Json::Null, &["a", "b"], None),
            stored(Speaker::Tool, "one".into(), &[], Some("a")),
            stored(Speaker::Tool, "two".into(), &[], Some("b")),
            stored(Speaker::Assistant, "done".into(), &[], None),
            stored(Speaker::User, "second".into(), &[], None),
            stored(Speaker::Assistant, "yes".into(), &[], None),
        ]
    }

    #[test]
    fn results_of_parallel_calls_stand_together_behind_their_calls() {
        let fitted = Exchanges::new(&history(), &said("third")).fit(0, u64::MAX, true);
        assert_eq!(fitted.messages.len(), 7);
        assert!(matches!(&fitted.messages[2], PromptMessage::Tool { results } if results.len() == 2));
        assert_eq!(fitted.report, ContextReport::default());
    }

    #[test]
    fn whole_exchanges_are_left_out_oldest_first_and_the_last_stays() {
        let exchanges = Exchanges::new(&history(), &said("third"));
        let fitted = exchanges.fit(0, 80, true);
        assert_eq!(fitted.report, ContextReport { turns_left_out: 1, messages_left_out: 5 });
        assert_eq!(fitted.messages[0], PromptMessage::User { text: "second".to_owned() });
        let fitted = exchanges.fit(0, 0, true);
        assert_eq!(fitted.messages, [PromptMessage::User { text: "third".to_owned() }]);
        assert_eq!(exchanges.fit(0, 0, false).messages.len(), 7);
    }

    #[test]
    fn a_history_that_begins_in_mid_exchange_loses_that_exchange() {
        let cut = &history()[2..];
        let fitted = Exchanges::new(cut, &said("third")).fit(0, u64::MAX, true);
        assert_eq!(fitted.messages[0], PromptMessage::User { text: "second".to_owned() });
    }

    #[test]
    fn thinking_is_kept_as_long_as_its_prefix_is_the_same() {
        let seal_of = |system: &str, history: &[StoredMessage], text: &str| {
            let hashes: Vec<_> =
                history.iter().filter(|one| one.message.role == Speaker::Assistant).map(|one| one.prefix_hash.clone()).collect();
            let mut messages = Exchanges::new(history, &said(text)).fit(0, u64::MAX, true).messages;
            let hash = seal(system, &[], &mut messages, &hashes);
            let kept = messages.iter().filter(|message| matches!(message, PromptMessage::Assistant { keep_thinking: true, .. })).count();
            (hash, kept)
        };
        let (first, _) = seal_of("system", &[], "hello");
        let mut history = vec![stored(Speaker::User, "hello".into(), &[], None), stored(Speaker::Assistant, "hi".into(), &[], None)];
        history[1].prefix_hash = Some(first);
        assert_eq!(seal_of("system", &history, "again").1, 1);
        assert_eq!(seal_of("another system", &history, "again").1, 0);
        history[0].message.content = "hullo".into();
        assert_eq!(seal_of("system", &history, "again").1, 0);
    }
}
