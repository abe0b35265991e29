//! From a conversation to a prompt: the one function that can only make valid message lists, the choice of what to leave out when the history
//! outgrows the window, and the hash that tells whether a vendor sees the same beginning again. Pure.

use super::input::Admitted;
use crate::{
    model::{ContextReport, JsonObject, Speaker, StoredMessage, ToolResult, ToolSpec},
    provider::PromptMessage,
};
use std::sync::Arc;

/// Bytes that make about one token; the estimate that truncation goes by. The money's bound never uses it.
pub const BYTES_PER_TOKEN: u64 = 3;

/// History and input as a prompt's messages, in exchanges: what the user said and all that followed until they spoke again.
#[derive(Debug, Clone)]
pub struct Exchanges {
    exchanges: Vec<Exchange>,
}

/// What the user said and all that followed until they spoke again.
#[derive(Debug, Clone, Default)]
struct Exchange {
    messages: Vec<PromptMessage>,
    /// How many stored messages these are.
    stored: u32,
    /// The last of them.
    last_seq: u64,
    /// It has results that are stored only when this turn succeeds. Until then its calls are open, and no summary may stand for it.
    pending: bool,
}

/// Exchanges on their way.
struct Making {
    exchanges: Vec<Exchange>,
    /// The calls of the newest answer that have no result yet: id and name.
    open: Vec<(String, String)>,
}

impl Making {
    fn stored(&mut self, stored: &StoredMessage) {
        let message = &stored.message;
        match message.role {
            Speaker::User => {
                let text = message.content.as_str().map_or_else(|| message.content.to_string(), str::to_owned);
                self.user(text, 1, message.seq);
            }
            Speaker::Assistant => {
                self.close();
                self.open = message.tool_calls.iter().map(|call| (call.id.clone(), call.name.clone())).collect();
                let Some(exchange) = self.exchanges.last_mut() else { return };
                exchange.messages.push(PromptMessage::Assistant {
                    text: message.content.as_str().map(str::to_owned),
                    calls: message.tool_calls.clone(),
                    raw: stored.raw.clone(),
                    keep_thinking: false,
                });
                exchange.stored += 1;
                exchange.last_seq = message.seq;
            }
            Speaker::Tool => {
                let result = ToolResult {
                    tool_call_id: message.tool_call_id.clone().unwrap_or_default(),
                    name: message.name.clone().unwrap_or_default(),
                    content: message.content.clone(),
                    ok: message.ok.unwrap_or(true),
                };
                self.result(result, Some(message.seq));
            }
        }
    }

    /// Begins an exchange.
    fn user(&mut self, text: String, stored: u32, last_seq: u64) {
        self.close();
        self.exchanges.push(Exchange { messages: vec![PromptMessage::User { text }], stored, last_seq, pending: false });
    }

    /// Takes a result in, if its call is open. What is not stored yet has no number, and ends no exchange that is summarised.
    fn result(&mut self, result: ToolResult, seq: Option<u64>) {
        let Some(exchange) = self.exchanges.last_mut() else { return };
        exchange.stored += 1;
        exchange.last_seq = seq.unwrap_or(exchange.last_seq);
        exchange.pending |= seq.is_none();
        self.answer(result);
    }

    fn answer(&mut self, mut result: ToolResult) {
        let Some(exchange) = self.exchanges.last_mut() else { return };
        let Some(at) = self.open.iter().position(|(id, _)| *id == result.tool_call_id) else { return };
        (_, result.name) = self.open.remove(at);
        match exchange.messages.last_mut() {
            Some(PromptMessage::Tool { results }) => results.push(result),
            _ => exchange.messages.push(PromptMessage::Tool { results: vec![result] }),
        }
    }

    /// Answers what is still open.
    fn close(&mut self) {
        for (tool_call_id, name) in self.open.clone() {
            self.answer(ToolResult { tool_call_id, name, content: RESULT_LOST.into(), ok: false });
        }
    }
}

/// The oldest exchanges, to be summarised.
#[derive(Debug, Clone, PartialEq)]
pub struct Oldest {
    /// What was said, as text.
    pub transcript: String,
    /// The last message of it.
    pub until_seq: u64,
    /// How many exchanges it is.
    pub turns: u32,
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

/// What stands for a result that was never stored.
const RESULT_LOST: &str = "The call was interrupted; whether the tool ran is not known.";
/// What stands for the user where the history begins after they spoke.
const BEGINNING_LOST: &str = "(The beginning of this conversation is left out.)";

impl Exchanges {
    /// Puts a conversation in order. Whatever is stored, and wherever it was cut: it begins with the user, each call is answered before anything
    /// else is said, and no result lacks its call.
    pub fn new(history: &[Arc<StoredMessage>], admitted: &Admitted) -> Self {
        let mut making = Making { exchanges: Vec::new(), open: Vec::new() };
        match history.iter().position(|stored| stored.message.role == Speaker::User) {
            // A history that was cut at the front may begin in the middle of an exchange; that much of it is left out,
            Some(first) => history[first..].iter().for_each(|stored| making.stored(stored)),
            // but not the exchange that goes on.
            None if admitted.text.is_none() && !history.is_empty() => {
                making.user(BEGINNING_LOST.to_owned(), 0, 0);
                history.iter().for_each(|stored| making.stored(stored));
            }
            None => {}
        }
        for result in &admitted.results {
            making.result(result.clone(), None);
        }
        match &admitted.text {
            Some(text) => making.user(text.clone(), 1, u64::MAX),
            None => making.close(),
        }
        Self { exchanges: making.exchanges }
    }

    /// Those that a summary may stand for: all but the last, and but the one whose calls this turn answers.
    fn settled(&self) -> &[Exchange] {
        let before = self.exchanges.split_last().map_or(&[][..], |(_, before)| before);
        match before.split_last() {
            Some((newest, older)) if newest.pending => older,
            _ => before,
        }
    }

    /// Whether there is anything that a summary may stand for.
    pub fn can_be_summarised(&self) -> bool {
        !self.settled().is_empty()
    }

    /// The oldest exchanges, so many that about half of `tokens_max` is left of the rest, but never the last one nor one with open calls, and no
    /// more text than a model with that window can read at once. Nothing when there are none else.
    pub fn oldest(&self, tokens_max: u64) -> Option<Oldest> {
        let before = self.settled();
        let sizes: Vec<u64> = self.exchanges.iter().map(Exchange::bytes).collect();
        let mut rest: u64 = sizes.iter().sum();
        let (mut turns, mut text_bytes) = (0, 0);
        let bytes_max = tokens_max.saturating_mul(BYTES_PER_TOKEN);
        while turns < before.len() && rest > bytes_max / 2 && (turns == 0 || text_bytes + sizes[turns] <= bytes_max / 2) {
            text_bytes += sizes[turns];
            rest -= sizes[turns];
            turns += 1;
        }
        // The vendor found it too long although we did not: the oldest goes in any case.
        let turns = turns.max(1).min(before.len());
        let taken = before.get(..turns).filter(|taken| !taken.is_empty())?;
        let text = taken.iter().flat_map(|exchange| &exchange.messages).map(as_text).collect::<Vec<_>>().join("\n");
        let last = taken.last()?;
        Some(Oldest {
            transcript: cut(text, usize::try_from(bytes_max / 2).unwrap_or(usize::MAX)),
            until_seq: last.last_seq,
            turns: u32::try_from(turns).unwrap_or(u32::MAX),
        })
    }

    /// The messages that fit so many tokens beside `beside_bytes` (system prompt and tools): the newest exchanges, whole, and always the last.
    pub fn fit(mut self, beside_bytes: u64, tokens_max: u64, may_leave_out: bool) -> Fitted {
        let sizes: Vec<u64> = self.exchanges.iter().map(Exchange::bytes).collect();
        let mut from = 0;
        let mut total: u64 = beside_bytes + sizes.iter().sum::<u64>();
        while may_leave_out && from + 1 < sizes.len() && total.div_ceil(BYTES_PER_TOKEN) > tokens_max {
            total -= sizes[from];
            from += 1;
        }
        let kept = self.exchanges.split_off(from);
        let left_out = self.exchanges;
        Fitted {
            messages: kept.into_iter().flat_map(|exchange| exchange.messages).collect(),
            report: ContextReport {
                turns_left_out: u32::try_from(left_out.len()).unwrap_or(u32::MAX),
                messages_left_out: left_out.iter().map(|exchange| exchange.stored).sum(),
                turns_summarised: 0,
            },
            tokens: total.div_ceil(BYTES_PER_TOKEN),
        }
    }
}

impl Exchange {
    fn bytes(&self) -> u64 {
        self.messages.iter().map(bytes).sum()
    }
}

/// A message as a line of a transcript.
fn as_text(message: &PromptMessage) -> String {
    match message {
        PromptMessage::User { text } => format!("User: {text}"),
        PromptMessage::Assistant { text, calls, .. } => {
            let said = text.iter().filter(|text| !text.is_empty()).map(|text| format!("Assistant: {text}"));
            let called = calls.iter().map(|call| {
                let arguments = serde_json::to_string(&call.arguments).unwrap_or_default();
                format!("Assistant called {} with {arguments}", call.name)
            });
            said.chain(called).collect::<Vec<_>>().join("\n")
        }
        PromptMessage::Tool { results } => {
            let line =
                |result: &ToolResult| format!("{} {}: {}", result.name, if result.ok { "returned" } else { "failed" }, result.text());
            results.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

/// A text cut to so many bytes, out of its middle.
fn cut(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let half = bytes_max / 2;
    let (head, tail) = (text.floor_char_boundary(half), text.ceil_char_boundary(text.len() - half));
    format!("{}\n[…]\n{}", &text[..head], &text[tail..])
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
            plain.max(raw.as_ref().map_or(0, |raw| raw.bytes))
        }
        PromptMessage::Tool { results } => results.iter().map(|result| result.text().len() + result.tool_call_id.len() + AROUND).sum(),
    };
    (bytes + AROUND) as u64
}

/// About what system prompt and tools add to a request, in bytes.
pub fn beside_bytes(system: &str, tools: &[ToolSpec]) -> u64 {
    (system.len() + serde_json::to_string(tools).map_or(0, |text| text.len())) as u64
}

/// What the vendors of the answers among these messages saw before them, as it is stored with the answers.
pub fn hashes<'a>(history: &'a [Arc<StoredMessage>], messages: &[PromptMessage]) -> Vec<Option<&'a str>> {
    let shown = messages.iter().filter(|message| matches!(message, PromptMessage::Assistant { .. })).count();
    let answers = history.iter().filter(|stored| stored.message.role == Speaker::Assistant);
    let known: Vec<_> = answers.map(|stored| stored.prefix_hash.as_deref()).collect();
    known[known.len().saturating_sub(shown)..].to_vec()
}

/// Marks the answers whose vendor will see what it saw when it gave them, and answers the hash of the whole prompt, to be stored with the
/// answer to it.
pub fn seal(system: &str, tools: &[ToolSpec], messages: &mut [PromptMessage], hashes: &[Option<&str>]) -> String {
    let mut hasher = blake3::Hasher::new();
    part(&mut hasher, system.as_bytes());
    part(&mut hasher, serde_json::to_string(tools).unwrap_or_default().as_bytes());
    let mut known = hashes.iter();
    // Once one answer saw something else, what follows it did too.
    let mut same = true;
    for message in messages {
        match message {
            PromptMessage::User { text } => part(&mut hasher, text.as_bytes()),
            PromptMessage::Tool { results } => {
                for result in results {
                    part(&mut hasher, result.tool_call_id.as_bytes());
                    part(&mut hasher, &[u8::from(result.ok)]);
                    part(&mut hasher, result.text().as_bytes());
                }
            }
            PromptMessage::Assistant { text, calls, keep_thinking, .. } => {
                same = same && known.next().copied().flatten().is_some_and(|seen| seen == short(&hasher));
                *keep_thinking = same;
                part(&mut hasher, text.as_deref().unwrap_or_default().as_bytes());
                part(&mut hasher, serde_json::to_string(calls).unwrap_or_default().as_bytes());
            }
        }
    }
    short(&hasher)
}

/// Adds one part, and where it ends.
fn part(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
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

    fn stored(role: Speaker, content: Json, calls: &[&str], result_of: Option<&str>) -> Arc<StoredMessage> {
        let call = |id: &&str| ToolCall { id: (*id).to_owned(), name: "tool".to_owned(), arguments: JsonObject::new() };
        Arc::new(StoredMessage {
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
        })
    }

    fn said(text: &str) -> Admitted {
        Admitted { results: Vec::new(), text: Some(text.to_owned()), system: String::new() }
    }

    fn history() -> Vec<Arc<StoredMessage>> {
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
        let fitted = exchanges.clone().fit(0, 80, true);
        assert_eq!(fitted.report, ContextReport { turns_left_out: 1, messages_left_out: 5, turns_summarised: 0 });
        assert_eq!(fitted.messages[0], PromptMessage::User { text: "second".to_owned() });
        let fitted = exchanges.clone().fit(0, 0, true);
        assert_eq!(fitted.messages, [PromptMessage::User { text: "third".to_owned() }]);
        assert_eq!(exchanges.fit(0, 0, false).messages.len(), 7);
    }

    #[test]
    fn the_oldest_exchanges_are_taken_whole_for_a_summary_and_never_the_last() {
        let exchanges = Exchanges::new(&history(), &said("third"));
        let oldest = exchanges.oldest(0).unwrap();
        assert_eq!(oldest.turns, 1);
        let oldest = exchanges.oldest(u64::MAX / 8).unwrap();
        assert_eq!(oldest.turns, 1);
        assert!(oldest.transcript.starts_with("User: first\nAssistant called tool with {}"), "{}", oldest.transcript);
        assert!(oldest.transcript.ends_with("tool returned: two\nAssistant: done"), "{}", oldest.transcript);
        assert_eq!(Exchanges::new(&[], &said("only")).oldest(100), None);
    }

    #[test]
    fn a_long_transcript_loses_its_middle_at_character_borders() {
        let text = cut("ä".repeat(100), 21);
        assert!(text.len() < 40 && text.contains("[…]") && text.starts_with('ä') && text.ends_with('ä'));
    }

    #[test]
    fn a_history_that_begins_in_mid_exchange_loses_that_exchange() {
        let cut = &history()[2..];
        let fitted = Exchanges::new(cut, &said("third")).fit(0, u64::MAX, true);
        assert_eq!(fitted.messages[0], PromptMessage::User { text: "second".to_owned() });
    }

    #[test]
    fn a_tool_loop_longer_than_what_is_loaded_goes_on() {
        let cut = [stored(Speaker::Tool, "lost call".into(), &[], Some("z")), stored(Speaker::Assistant, Json::Null, &["a"], None)];
        let result = ToolResult { tool_call_id: "a".to_owned(), name: "tool".to_owned(), content: "one".into(), ok: true };
        let admitted = Admitted { results: vec![result.clone()], text: None, system: String::new() };
        let messages = Exchanges::new(&cut, &admitted).fit(0, u64::MAX, true).messages;
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[0], PromptMessage::User { text: BEGINNING_LOST.to_owned() });
        assert_eq!(messages[2], PromptMessage::Tool { results: vec![result] });
    }

    #[test]
    fn a_call_without_a_stored_result_is_answered_all_the_same() {
        let history = [stored(Speaker::User, "first".into(), &[], None), stored(Speaker::Assistant, Json::Null, &["a", "b"], None)];
        let messages = Exchanges::new(&history, &said("second")).fit(0, u64::MAX, true).messages;
        assert!(matches!(&messages[2], PromptMessage::Tool { results } if results.len() == 2 && results.iter().all(|result| !result.ok)));
    }

    #[test]
    fn no_summary_stands_for_calls_that_are_open_until_this_turn_succeeds() {
        let mut history = history();
        history.extend([stored(Speaker::User, "third".into(), &[], None), stored(Speaker::Assistant, Json::Null, &["c"], None)]);
        let cancelled = ToolResult { tool_call_id: "c".to_owned(), name: "tool".to_owned(), content: "no".into(), ok: false };
        let admitted = Admitted { results: vec![cancelled.clone()], ..said("next") };
        let oldest = Exchanges::new(&history, &admitted).oldest(0).unwrap();
        assert!(!oldest.transcript.contains("third"), "{}", oldest.transcript);
        assert!(!Exchanges::new(&history[7..], &admitted).can_be_summarised());
        assert!(Exchanges::new(&history[5..], &admitted).can_be_summarised());
    }

    #[test]
    fn thinking_is_kept_as_long_as_its_prefix_is_the_same() {
        let seal_of = |system: &str, history: &[Arc<StoredMessage>], text: &str| {
            let hashes: Vec<_> =
                history.iter().filter(|one| one.message.role == Speaker::Assistant).map(|one| one.prefix_hash.as_deref()).collect();
            let mut messages = Exchanges::new(history, &said(text)).fit(0, u64::MAX, true).messages;
            let hash = seal(system, &[], &mut messages, &hashes);
            let kept = messages.iter().filter(|message| matches!(message, PromptMessage::Assistant { keep_thinking: true, .. })).count();
            (hash, kept)
        };
        let (first, _) = seal_of("system", &[], "hello");
        let mut history = vec![stored(Speaker::User, "hello".into(), &[], None), stored(Speaker::Assistant, "hi".into(), &[], None)];
        Arc::make_mut(&mut history[1]).prefix_hash = Some(first);
        assert_eq!(seal_of("system", &history, "again").1, 1);
        assert_eq!(seal_of("another system", &history, "again").1, 0);
        Arc::make_mut(&mut history[0]).message.content = "hullo".into();
        assert_eq!(seal_of("system", &history, "again").1, 0);
    }
}
