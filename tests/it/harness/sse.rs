//! Server-sent events as a strict client reads them.

use serde_json::Value;
use std::{collections::VecDeque, time::Duration};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: u64,
    pub name: String,
    pub data: Value,
}

/// An open stream of events. Ids must count up by one, and nothing may follow the last event of a turn.
pub struct Events {
    response: reqwest::Response,
    buffer: Vec<u8>,
    ready: VecDeque<Event>,
    last_id: u64,
    over: bool,
    /// Comments seen, for keepalives.
    pub comments: usize,
}

impl Events {
    /// From an answer whose status is 200. `after` is the `Last-Event-ID` that was sent, if one was.
    pub fn of(response: reqwest::Response, after: u64) -> Self {
        assert_eq!(response.status().as_u16(), 200);
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        assert!(response.headers().contains_key("x-request-id"));
        Self { response, buffer: Vec::new(), ready: VecDeque::new(), last_id: after, over: false, comments: 0 }
    }

    /// The answer's header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        while self.ready.is_empty() {
            let read = tokio::time::timeout(Duration::from_secs(20), self.response.chunk()).await.expect("an event in time");
            match read {
                Ok(Some(bytes)) => self.take(&bytes),
                Ok(None) => {
                    assert!(self.buffer.is_empty(), "half an event: {:?}", String::from_utf8_lossy(&self.buffer));
                    return None;
                }
                Err(error) => panic!("the stream broke: {error}"),
            }
        }
        self.ready.pop_front()
    }

    /// The next event, which must be of this name.
    pub async fn expect(&mut self, name: &str) -> Event {
        let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {name}"));
        assert_eq!(event.name, name, "{:#}", event.data);
        event
    }

    /// All events until the end.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while let Some(at) = self.buffer.windows(2).position(|two| two == b"\n\n") {
            let frame: Vec<u8> = self.buffer.drain(..at + 2).collect();
            let frame = String::from_utf8(frame).expect("events are UTF-8");
            self.frame(frame.trim_end_matches('\n'));
        }
    }

    fn frame(&mut self, frame: &str) {
        let (mut id, mut name, mut data) = (None, None, String::new());
        for line in frame.split('\n') {
            match line.split_once(": ") {
                _ if line.starts_with(':') => self.comments += 1,
                Some(("id", value)) => id = Some(value.parse::<u64>().expect("a sequence number")),
                Some(("event", value)) => name = Some(value.to_owned()),
                Some(("data", value)) => data.push_str(value),
                Some(("retry", _)) => {}
                _ => panic!("not a line of an event: {line:?}"),
            }
        }
        let Some(name) = name else {
            assert!(data.is_empty(), "data without an event: {frame}");
            return;
        };
        assert!(!self.over, "{name} came after the end");
        let id = id.unwrap_or_else(|| panic!("{name} has no id"));
        assert_eq!(id, self.last_id + 1, "the sequence has a gap at {name}");
        self.last_id = id;
        self.over = matches!(name.as_str(), "turn.completed" | "error");
        let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{name} carries no JSON ({error}): {data}"));
        self.ready.push_back(Event { id, name, data });
    }
}

/// The texts of all deltas, joined.
impl Events {
    pub fn text(events: &[Event]) -> String {
        events.iter().filter(|event| event.name == "message.delta").filter_map(|event| event.data["text"].as_str()).collect()
    }

    pub fn names(events: &[Event]) -> Vec<&str> {
        let mut names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
        names.dedup();
        names
    }
}
