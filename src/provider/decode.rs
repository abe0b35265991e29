//! Turns a vendor's byte stream into an answer, within limits. Pure: the wires' own files know what the events mean, this one what all wires share.

use super::{
    Answer, Broken, Piece, Progress, Wire, anthropic,
    frame::{FrameTooLong, Lines, Sse, SseEvent},
    ollama, openai,
};
use crate::model::{FinishReason, Json, JsonObject, ToolCall, Usage};
use std::collections::HashSet;

/// How large an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerLimits {
    /// Bytes of text, reasoning and tool arguments together.
    pub answer_bytes_max: usize,
    /// Tool calls.
    pub tool_calls_max: usize,
}

/// Framing around a few bytes of text is large; this many times the answer's own limit is surely no answer any more.
const FRAMING_FACTOR: usize = 64;

/// What is heard from one vendor in answer to one call.
#[derive(Debug)]
pub struct Decoder {
    frames: Frames,
    reader: Reader,
    received_bytes: usize,
    limits: AnswerLimits,
    broken: Option<Broken>,
}

#[derive(Debug)]
enum Frames {
    Sse(Sse),
    Lines(Lines),
}

#[derive(Debug)]
enum Reader {
    Anthropic(anthropic::Reader),
    OpenAi(openai::Reader),
    Ollama(ollama::Reader),
}

impl Reader {
    fn is_over(&self) -> bool {
        match self {
            Self::Anthropic(reader) => reader.is_over(),
            Self::OpenAi(reader) => reader.is_over(),
            Self::Ollama(reader) => reader.is_over(),
        }
    }
}

impl Decoder {
    /// `call_ids` begins the ids of tool calls to which the vendor gives none; it should be new for each call.
    pub fn new(wire: Wire, limits: AnswerLimits, call_ids: String) -> Self {
        let frame_bytes_max = limits.answer_bytes_max;
        let (frames, reader) = match wire {
            Wire::Anthropic => (Frames::Sse(Sse::new(frame_bytes_max)), Reader::Anthropic(anthropic::Reader::new(call_ids))),
            Wire::OpenAi => (Frames::Sse(Sse::new(frame_bytes_max)), Reader::OpenAi(openai::Reader::new(call_ids))),
            Wire::Ollama | Wire::Echo => (Frames::Lines(Lines::new(frame_bytes_max)), Reader::Ollama(ollama::Reader::new(call_ids))),
        };
        Self { frames, reader, received_bytes: 0, limits, broken: None }
    }

    /// Takes the next bytes and gives the text that they bring. Tool calls stand in the answer alone: whether one is whole, or cut by the output
    /// limit, is known only at the end. After a fault nothing more is read; [`Self::finish`] tells it.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut text = String::new();
        if self.broken.is_none()
            && !self.is_over()
            && let Err(broken) = self.read(bytes, &mut text)
        {
            self.broken = Some(broken);
        }
        if text.is_empty() { Vec::new() } else { vec![Piece::Text(text)] }
    }

    /// Nothing that may still come matters.
    pub fn is_over(&self) -> bool {
        self.broken.is_some() || self.reader.is_over()
    }

    /// What there is to estimate a cut answer by.
    pub fn progress(&self) -> Progress {
        match &self.reader {
            Reader::Anthropic(reader) => reader.progress(),
            Reader::OpenAi(reader) => reader.progress(),
            Reader::Ollama(reader) => reader.progress(),
        }
    }

    /// Bytes that came in, framing included.
    pub fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    /// The answer, after the stream's end or once it is over.
    pub fn finish(mut self) -> Result<Answer, Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        if let Frames::Lines(lines) = &mut self.frames
            && let Some(line) = lines.finish()
            && let Reader::Ollama(reader) = &mut self.reader
            && !reader.is_over()
        {
            // Text of a line without its line feed is in the answer, though no piece told it: such a line is the last, which brings none.
            reader.line(&line, &mut String::new())?;
        }
        let answer = match self.reader {
            Reader::Anthropic(reader) => reader.finish(),
            Reader::OpenAi(reader) => reader.finish(),
            Reader::Ollama(reader) => reader.finish(),
        }?;
        if answer.calls.len() > self.limits.tool_calls_max {
            return Err(Broken::TooLarge("answer_tool_calls_max"));
        }
        Ok(answer)
    }

    fn read(&mut self, bytes: &[u8], text: &mut String) -> Result<(), Broken> {
        self.received_bytes = self.received_bytes.saturating_add(bytes.len());
        if self.received_bytes / FRAMING_FACTOR > self.limits.answer_bytes_max {
            return Err(Broken::TooLarge("answer_bytes_max"));
        }
        let (mut events, mut lines) = (Vec::new(), Vec::new());
        let framed = match &mut self.frames {
            Frames::Sse(frames) => frames.push(bytes, &mut events),
            Frames::Lines(frames) => frames.push(bytes, &mut lines),
        };
        // What follows the answer's end is never looked at, whether or not it came with it.
        for SseEvent { event, data } in events {
            match &mut self.reader {
                Reader::Anthropic(reader) if !reader.is_over() => reader.event(&event, &data, text)?,
                Reader::OpenAi(reader) if !reader.is_over() => reader.event(&event, &data, text)?,
                _ => {}
            }
        }
        for line in lines {
            match &mut self.reader {
                Reader::Ollama(reader) if !reader.is_over() => reader.line(&line, text)?,
                _ => {}
            }
        }
        if framed == Err(FrameTooLong) && !self.reader.is_over() {
            return Err(Broken::TooLarge("answer_bytes_max"));
        }
        let kept_bytes = match &self.reader {
            Reader::Anthropic(reader) => reader.kept_bytes(),
            Reader::OpenAi(reader) => reader.kept_bytes(),
            Reader::Ollama(reader) => reader.kept_bytes(),
        };
        if kept_bytes > self.limits.answer_bytes_max as u64 { Err(Broken::TooLarge("answer_bytes_max")) } else { Ok(()) }
    }
}

/// One event's JSON.
pub(super) fn parse(bytes: &[u8]) -> Result<Json, Broken> {
    serde_json::from_slice(bytes).map_err(|error| Broken::Malformed(format!("an event is not JSON: {error}")))
}

/// A tool call as it was heard, before it is known to be whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct HeardCall {
    pub id: String,
    pub name: String,
    /// The arguments' JSON text; blank for none.
    pub arguments: String,
}

/// The calls that can be handed over, each at the place where it was heard; `None` for one that was cut off.
///
/// - Cut by the output limit: only the last call can be incomplete, and it is dropped. An argument text that was not begun counts as cut.
/// - A declined or withheld answer runs no tools.
/// - Otherwise blank arguments are `{}`, and arguments that are no JSON object, or a name that no tool can have, fail the whole answer: a call that
///   the model meant must neither be lost nor be run with guessed arguments.
/// - Ids are made unique in the answer; where the vendor gives none they are `<call_ids>_<n>`.
pub(super) fn calls_close(heard: &[HeardCall], finish: FinishReason, call_ids: &str) -> Result<Vec<Option<ToolCall>>, Broken> {
    let mut seen = HashSet::new();
    let mut calls = Vec::with_capacity(heard.len());
    for (n, call) in heard.iter().enumerate() {
        let cut = finish == FinishReason::Length && n + 1 == heard.len();
        let arguments = match serde_json::from_str::<JsonObject>(&call.arguments) {
            Ok(arguments) => arguments,
            Err(_) if cut => {
                calls.push(None);
                continue;
            }
            Err(_) if call.arguments.trim().is_empty() => JsonObject::new(),
            Err(error) => return Err(Broken::Malformed(format!("the arguments of a tool call are not a JSON object: {error}"))),
        };
        if !is_tool_name(&call.name) {
            return Err(Broken::Malformed("a tool call names no possible tool".into()));
        }
        if matches!(finish, FinishReason::Refusal | FinishReason::ContentFilter) {
            calls.push(None);
            continue;
        }
        let wanted = if call.id.is_empty() { format!("{call_ids}_{}", n + 1) } else { call.id.clone() };
        let mut id = wanted.clone();
        for again in 2.. {
            if seen.insert(id.clone()) {
                break;
            }
            id = format!("{wanted}_{again}");
        }
        calls.push(Some(ToolCall { id, name: call.name.clone(), arguments }));
    }
    Ok(calls)
}

/// Calls to run make the reason `ToolCalls`, whatever the vendor called it; without calls it cannot be that.
pub(super) fn finish_with(finish: FinishReason, calls: &[ToolCall]) -> FinishReason {
    match finish {
        _ if !calls.is_empty() => FinishReason::ToolCalls,
        FinishReason::ToolCalls => FinishReason::Stop,
        other => other,
    }
}

/// Whether every vendor takes this name for a tool.
fn is_tool_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// A whole number at a path of object fields.
pub(super) fn number(json: &Json, path: &[&str]) -> Option<u64> {
    path.iter().try_fold(json, |json, field| json.get(field)).and_then(Json::as_u64)
}

/// A string field; empty when it is absent or null.
pub(super) fn string<'a>(json: &'a Json, field: &str) -> &'a str {
    json.get(field).and_then(Json::as_str).unwrap_or_default()
}

/// What a vendor reports as an error in its stream, cut to a sensible length.
pub(super) fn reported(error: &Json) -> Broken {
    let kind = error.get("type").or_else(|| error.get("code")).and_then(Json::as_str).unwrap_or("error");
    let message = error.as_str().or_else(|| error.get("message").and_then(Json::as_str)).unwrap_or("no message");
    Broken::Reported(format!("{kind}: {message}").chars().take(500).collect())
}

/// No tokenizer makes more tokens of a text than it has bytes, so a report is plausible only with some input.
pub(super) fn usage_if_told(usage: Usage) -> Option<Usage> {
    (usage != Usage::default()).then_some(usage)
}
