//! The hostile vendor of the storm. What it does is a function of what it is asked: the newest message's first word is its fate, and all of it
//! seeds the sizes, so that a run with the same seed meets the same vendor whoever comes first.

use super::super::dice::Dice;
use crate::fake_provider::{At, Call, Finish, Gate, Part, Reply, Script, Wire};
use serde_json::json;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Nano-dollars a token, as the test card has them: input, output, cache read, cache write.
const RATES: [u64; 4] = [3_000, 15_000, 300, 3_750];

/// What a message may be in for, and how many times of a hundred.
pub(super) const FATES: &[(&str, u64)] = &[
    ("fine", 38),
    ("bytes", 5),
    ("calls", 12),
    ("length", 3),
    ("busy", 8),
    ("overloaded", 3),
    ("refused", 3),
    ("broke", 2),
    ("gone", 3),
    ("cut", 5),
    ("torn", 3),
    ("early", 3),
    ("error", 3),
    ("silent", 5),
    ("garbage", 2),
    ("stalled", 1),
    ("liar", 1),
];

/// Fates that can end in an answer.
pub(super) const ANSWERED: &[&str] = &["fine", "bytes", "calls", "length", "busy", "silent", "liar"];

/// Nano-dollars that the vendor billed in ways that the server cannot know of.
#[derive(Default)]
pub(super) struct Tally {
    attempts: Mutex<HashMap<u64, u64>>,
    unsaid: AtomicU64,
}

impl Tally {
    /// Billed for calls whose usage it never told.
    pub(super) fn unsaid_nanos(&self) -> i64 {
        i64::try_from(self.unsaid.load(Ordering::Relaxed)).expect("a small bill")
    }

    fn attempt(&self, said: u64) -> u64 {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = attempts.entry(said).or_default();
        *count += 1;
        *count
    }
}

/// The vendor's mind.
pub(super) fn script(seed: u64, tally: Arc<Tally>) -> Script {
    let never = Gate::new();
    Arc::new(move |call| {
        let newest = call.said.last()?;
        let words = newest.split_once(": ").map_or(newest.as_str(), |(_, words)| words);
        let mut hasher = DefaultHasher::new();
        words.hash(&mut hasher);
        let said = hasher.finish();
        let attempt = tally.attempt(said);
        let fate = words.split(' ').next()?;
        let mut dice = Dice::of(seed, said);
        if let Some(refusal) = refusal(fate, attempt, &mut dice) {
            return Some(refusal);
        }
        let used = used(&mut dice, call, fate == "liar");
        let cost: u64 = used.iter().zip(RATES).map(|(tokens, rate)| tokens * rate).sum();
        // One that the client cancels may have told its usage or not.
        if !ANSWERED.contains(&fate) || fate == "silent" || words.contains("cancelled") {
            tally.unsaid.fetch_add(cost, Ordering::Relaxed);
        }
        Some(answer(fate, &mut dice, &never, said).tokens(used[0], used[1]).cached(used[2], used[3]))
    })
}

/// Tokens of input, output, cache read and cache write: anything that the request allows, its edges more often than chance would have it.
fn used(dice: &mut Dice, call: &Call, lies: bool) -> [u64; 4] {
    let limit = call.output_limit.unwrap_or(1);
    if lies {
        return [call.body_bytes as u64 * 4 + 10_000, limit, 0, 0];
    }
    // What the model reads, and no token is less than a byte.
    let bytes = (call.system.len() + call.said.iter().map(String::len).sum::<usize>()) as u64;
    let input = match dice.below(8) {
        0 => bytes,
        1 => 1,
        _ => bytes / 5 + dice.below(bytes / 4),
    };
    let output = if dice.chance(20) { limit } else { 1 + dice.below(limit) };
    match (call.wire, dice.below(3)) {
        (Wire::Ollama, _) | (_, 0) => [input, output, 0, 0],
        (Wire::OpenAi, 1) => [0, output, 0, input],
        // Anthropic writes a cache when it is asked to; these requests do not ask.
        _ => [input - input / 3, output, input / 3, 0],
    }
}

fn refusal(fate: &str, attempt: u64, dice: &mut Dice) -> Option<Reply> {
    match fate {
        "busy" if attempt <= 2 => Some(Reply::refuse(*dice.pick(&[429, 500, 503, 529])).header("retry-after", "0")),
        "overloaded" => Some(Reply::refuse(529)),
        "refused" => Some(Reply::refuse(400)),
        "broke" => Some(Reply::refuse(401)),
        _ => None,
    }
}

fn answer(fate: &str, dice: &mut Dice, never: &Gate, said: u64) -> Reply {
    let words = "One of very many answers. ".repeat(1 + usize::try_from(dice.below(4)).unwrap_or(0));
    let text = Reply::text(&words);
    let at = 1 + usize::try_from(dice.below(3)).unwrap_or(0);
    match fate {
        "bytes" => text.every_byte(),
        "calls" => {
            let ids: Vec<String> = (0..=dice.below(2)).map(|number| format!("call_{said:x}_{number}")).collect();
            Reply::calls(&ids.iter().map(|id| (id.as_str(), "read", json!({"path": words}))).collect::<Vec<_>>())
        }
        "length" => text.finish(Finish::Length),
        "gone" => text.cut(At::BeforeHead),
        "cut" => text.cut(At::Frame(at)),
        "torn" => text.cut(At::WithinFrame(at)),
        "early" => text.ends_early(At::Frame(at)),
        "error" => text.error(At::Frame(at), "overloaded"),
        "silent" => text.usage_missing(),
        "garbage" => Reply::parts(vec![Part::text("So far, "), Part::Raw("data: {\"half\": \n\n".to_owned())]),
        "stalled" => text.stall(At::Frame(at), never),
        _ => text,
    }
}
