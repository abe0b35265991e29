//! A turn's events, written once by its driver and read by any number of followers at their own pace, during the turn and for a while after.
//! It knows no HTTP: `http` turns events into what a client sees.

use crate::{
    error::Error,
    ids::{ConversationId, TurnId},
    model::{ChatAnswer, ToolCall},
    money::Money,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Something that happened in a turn.
#[derive(Debug, Clone)]
pub enum Event {
    /// Money is held, a vendor is about to be called. The conversation exists from here on.
    Started {
        /// The conversation.
        conversation_id: ConversationId,
        /// The turn.
        turn_id: TurnId,
    },
    /// The answer's text grew.
    Delta(Arc<str>),
    /// A complete tool call, for the client to run.
    ToolCall(Arc<ToolCall>),
    /// A tool begins to run on the server.
    ToolStarted(Arc<ToolRun>),
    /// A tool has run on the server.
    ToolFinished(Arc<ToolRun>),
    /// The turn is over; nothing follows. With what the tenant has left for new calls, where that is known.
    Completed(Arc<ChatAnswer>, Option<Money>),
    /// The turn is over without an answer; nothing follows.
    Failed(Error),
}

/// A tool that the server runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ToolRun {
    /// The call's id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Whether it worked, once it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl Event {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Completed(..) | Self::Failed(_))
    }

    fn bytes(&self) -> usize {
        const AROUND: usize = 64;
        AROUND
            + match self {
                Self::Delta(text) => text.len(),
                Self::ToolCall(call) => {
                    call.id.len() + call.name.len() + serde_json::to_string(&call.arguments).map_or(0, |text| text.len())
                }
                Self::ToolStarted(run) | Self::ToolFinished(run) => run.id.len() + run.name.len(),
                Self::Completed(answer, _) => answer.response.as_ref().map_or(0, String::len),
                Self::Started { .. } | Self::Failed(_) => 0,
            }
    }
}

/// The events of one turn.
#[derive(Debug)]
pub struct Feed {
    kept: Mutex<Kept>,
    /// How many events there were so far.
    count: watch::Sender<usize>,
    /// Whether the last event is in: apart from the count, so that who wants nothing but the end is not woken by every piece.
    over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Kept {
    events: Vec<Event>,
    bytes: usize,
    over: bool,
}

impl Default for Feed {
    fn default() -> Self {
        Self { kept: Mutex::default(), count: watch::Sender::new(0), over: watch::Sender::new(false) }
    }
}

impl Feed {
    /// A feed that is over from the start, for an answer that was given before.
    pub fn replayed(events: Vec<Event>) -> Arc<Self> {
        let feed = Arc::new(Self::default());
        for event in events {
            feed.push(event);
        }
        feed
    }

    /// Adds an event; after the last one nothing is added any more.
    pub fn push(&self, event: Event) {
        let (count, over) = {
            let mut kept = self.kept();
            if kept.over {
                return;
            }
            kept.over = event.is_last();
            kept.bytes += event.bytes();
            kept.events.push(event);
            (kept.events.len(), kept.over)
        };
        self.count.send_replace(count);
        if over {
            self.over.send_replace(true);
        }
    }

    /// About what the events weigh in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    /// Whether nothing happened yet.
    pub fn is_empty(&self) -> bool {
        self.kept().events.is_empty()
    }

    /// Whether the last event is in.
    pub fn is_over(&self) -> bool {
        self.kept().over
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic between two pushes leaves whole events behind.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader of a feed.
#[derive(Debug, Clone)]
pub struct Follower {
    feed: Arc<Feed>,
    count: watch::Receiver<usize>,
    at: usize,
}

impl Follower {
    /// Reads from the beginning.
    pub fn new(feed: Arc<Feed>) -> Self {
        Self::after(feed, 0)
    }

    /// Reads what follows the event with this sequence number; the first event's is 1.
    pub fn after(feed: Arc<Feed>, seq: usize) -> Self {
        let count = feed.count.subscribe();
        Self { feed, count, at: seq }
    }

    /// The last event and its sequence number, once it is in. Safe to drop half way.
    pub async fn last(&self) -> Option<(usize, Event)> {
        let mut over = self.feed.over.subscribe();
        // The sender lives in the feed that this follower holds.
        over.wait_for(|over| *over).await.ok()?;
        let kept = self.feed.kept();
        kept.events.last().map(|event| (kept.events.len(), event.clone()))
    }

    /// The next event and its sequence number; nothing after the last. Safe to drop half way.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        loop {
            self.count.borrow_and_update();
            {
                let kept = self.feed.kept();
                if let Some(event) = kept.events.get(self.at) {
                    let event = event.clone();
                    self.at += 1;
                    return Some((self.at, event));
                }
                if kept.over {
                    return None;
                }
            }
            // The sender lives in the feed that this follower holds.
            self.count.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(text: &str) -> Event {
        Event::Delta(text.into())
    }

    #[tokio::test]
    async fn followers_read_at_their_own_pace_and_from_where_they_were() {
        let feed = Arc::new(Feed::default());
        let mut early = Follower::new(Arc::clone(&feed));
        feed.push(delta("a"));
        assert!(matches!(early.next().await, Some((1, Event::Delta(text))) if &*text == "a"));
        let end = early.clone();
        let last = tokio::spawn(async move { end.last().await });
        let waiting = tokio::spawn(async move { early.next().await });
        feed.push(delta("b"));
        feed.push(Event::Failed(Error::TurnCancelled));
        feed.push(delta("after the end"));
        assert!(matches!(waiting.await.unwrap(), Some((2, Event::Delta(text))) if &*text == "b"));
        let mut late = Follower::after(feed, 2);
        assert!(matches!(late.next().await, Some((3, Event::Failed(_)))));
        assert!(late.next().await.is_none());
        for end in [last.await.unwrap(), late.last().await] {
            assert!(matches!(end, Some((3, Event::Failed(_)))), "the end is told once it is there, and later too");
        }
    }
}
