//! What the vendor is told to answer: the content, and everything that may go wrong on the way.

use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// A piece of an answer.
#[derive(Debug, Clone)]
pub enum Part {
    Text(String),
    Thinking {
        text: String,
        signature: String,
    },
    Redacted(String),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    /// The model's own no (OpenAI's `refusal`).
    Refusal(String),
    /// A frame as it stands, whatever it is.
    Raw(String),
}

/// Why the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
    Tools,
    Filter,
    Refusal,
}

/// What a call really used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
}

/// What the vendor says of its usage.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Truth,
    Nothing,
    /// The wire's own usage object, as it stands.
    Raw(Value),
}

/// A place in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The request is read, nothing is answered.
    BeforeHead,
    /// Status and headers are sent, nothing else.
    AfterHead,
    /// So many frames are sent.
    Frame(usize),
    /// So many frames and half of the next are sent.
    WithinFrame(usize),
    /// Everything but the frame that tells the final usage, and what follows it.
    BeforeUsage,
    /// Everything but the last frame.
    BeforeLast,
}

/// How the bytes of an answer are cut into pieces.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    Frames,
    EveryByte,
    SplitAt(usize),
    Whole,
    Drip(Duration),
}

/// Opened by a test when a stalled answer may go on.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets every answer that waits here, now or later, go on.
    pub fn open(&self) {
        self.0.close();
    }

    pub(super) async fn passed(&self) {
        // A closed semaphore answers at once: that is what "open" is made of.
        drop(self.0.acquire().await);
    }
}

/// One answer of the vendor.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) parts: Vec<Part>,
    pub(super) finish: Finish,
    pub(super) tokens: Tokens,
    /// Stops at the output limit that it was sent, as vendors do.
    pub(super) within_limit: bool,
    pub(super) said: Said,
    pub(super) pace: Pace,
    pub(super) stall: Option<(At, Gate)>,
    /// Where the connection is closed without a word.
    pub(super) cut: Option<At>,
    /// Where the HTTP body ends in good form though the answer has not.
    pub(super) ends_early: Option<At>,
    /// Where an error is reported inside the stream, and its message.
    pub(super) error: Option<(At, String)>,
    pub(super) repeats_bookkeeping: bool,
    pub(super) refusal: Option<Refusal>,
}

/// An HTTP error instead of an answer.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// The body; the wire's own where there is none.
    pub(super) body: Option<String>,
}

impl Reply {
    /// These parts, then a finish that suits them.
    pub fn parts(parts: Vec<Part>) -> Self {
        let finish = if parts.iter().any(|part| matches!(part, Part::Call { .. })) { Finish::Tools } else { Finish::Stop };
        Self {
            parts,
            finish,
            tokens: Tokens { input: 100, output: 20, cache_read: 0, cache_write: 0 },
            within_limit: false,
            said: Said::Truth,
            pace: Pace::Frames,
            stall: None,
            cut: None,
            ends_early: None,
            error: None,
            repeats_bookkeeping: false,
            refusal: None,
        }
    }

    /// A plain answer.
    pub fn text(text: &str) -> Self {
        Self::parts(vec![Part::Text(text.to_owned())])
    }

    /// An answer of tool calls alone: `(id, name, arguments)`.
    pub fn calls(calls: &[(&str, &str, Value)]) -> Self {
        Self::parts(calls.iter().map(|(id, name, arguments)| Part::call(id, name, arguments)).collect())
    }

    /// An HTTP error status with the wire's own error body.
    pub fn refuse(status: u16) -> Self {
        let mut reply = Self::parts(Vec::new());
        reply.refusal = Some(Refusal { status, headers: Vec::new(), body: None });
        reply.tokens = Tokens { input: 0, output: 0, cache_read: 0, cache_write: 0 };
        reply
    }

    /// An HTTP error status whose body says that the prompt is too long, in the wire's own words.
    pub fn too_long() -> Self {
        let mut reply = Self::refuse(400);
        reply.refusal = Some(Refusal { status: 400, headers: Vec::new(), body: Some("context".to_owned()) });
        reply
    }

    /// An HTTP error status with this body.
    pub fn refuse_with(status: u16, body: &str) -> Self {
        let mut reply = Self::refuse(status);
        reply.refusal = Some(Refusal { status, headers: Vec::new(), body: Some(body.to_owned()) });
        reply
    }

    /// A header of a refusal.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Some(refusal) = &mut self.refusal {
            refusal.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub fn finish(self, finish: Finish) -> Self {
        Self { finish, ..self }
    }

    /// What the call uses, and the vendor bills.
    pub fn tokens(self, input: u64, output: u64) -> Self {
        Self { tokens: Tokens { input, output, cache_read: 0, cache_write: 0 }, ..self }
    }

    /// Uses no more than the output limit that it is sent.
    pub fn within_limit(self) -> Self {
        Self { within_limit: true, ..self }
    }

    pub fn cached(mut self, read: u64, write: u64) -> Self {
        self.tokens.cache_read = read;
        self.tokens.cache_write = write;
        self
    }

    /// Says nothing of its usage.
    pub fn usage_missing(self) -> Self {
        Self { said: Said::Nothing, ..self }
    }

    /// Says this of its usage, in the wire's own form.
    pub fn usage_said(self, usage: Value) -> Self {
        Self { said: Said::Raw(usage), ..self }
    }

    /// Every byte comes alone.
    pub fn every_byte(self) -> Self {
        Self { pace: Pace::EveryByte, ..self }
    }

    /// Two pieces, cut at this byte.
    pub fn split_at(self, byte: usize) -> Self {
        Self { pace: Pace::SplitAt(byte), ..self }
    }

    /// All in one piece.
    pub fn whole(self) -> Self {
        Self { pace: Pace::Whole, ..self }
    }

    /// A frame now and then.
    pub fn drip(self, every: Duration) -> Self {
        Self { pace: Pace::Drip(every), ..self }
    }

    /// Waits here until the gate is open, or the client gone.
    pub fn stall(self, at: At, gate: &Gate) -> Self {
        Self { stall: Some((at, gate.clone())), ..self }
    }

    /// Closes the connection here.
    pub fn cut(self, at: At) -> Self {
        Self { cut: Some(at), ..self }
    }

    /// Ends the body here, in good form.
    pub fn ends_early(self, at: At) -> Self {
        Self { ends_early: Some(at), ..self }
    }

    /// Reports an error inside the stream here.
    pub fn error(self, at: At, message: &str) -> Self {
        Self { error: Some((at, message.to_owned())), ..self }
    }

    /// Sends every frame that is not content twice.
    pub fn repeats_bookkeeping(self) -> Self {
        Self { repeats_bookkeeping: true, ..self }
    }
}

impl Part {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub fn call(id: &str, name: &str, arguments: &Value) -> Self {
        Self::Call { id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_string() }
    }

    pub fn thinking(text: &str, signature: &str) -> Self {
        Self::Thinking { text: text.to_owned(), signature: signature.to_owned() }
    }
}

impl Tokens {
    /// In Anthropic's words.
    pub(super) fn anthropic(self) -> Value {
        json!({"input_tokens": self.input, "output_tokens": self.output, "cache_read_input_tokens": self.cache_read, "cache_creation_input_tokens": self.cache_write})
    }

    /// In OpenAI's words, where the prompt counts its cached parts.
    pub(super) fn openai(self) -> Value {
        let prompt = self.input + self.cache_read + self.cache_write;
        json!({"prompt_tokens": prompt, "completion_tokens": self.output, "total_tokens": prompt + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cache_read, "cache_write_tokens": self.cache_write},
            "completion_tokens_details": {"reasoning_tokens": 0}})
    }

    /// In Ollama's words, which know no cache.
    pub(super) fn ollama(self) -> Value {
        json!({"prompt_eval_count": self.input, "eval_count": self.output})
    }
}
