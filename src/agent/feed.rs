//! A turn's events, written once by its driver and read by any number of followers at their own pace, during the turn and for a while after.
//! It knows no HTTP: `http` turns events into what a client sees.

use crate::{
    error::Error,
    ids::{ConversationId, TurnId},
    model::{ChatAnswer, ToolCall},
    money::Money,
};
use std::{
    future::poll_fn,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

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
    Delta(String),
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

    /// About what it weighs beside itself.
    fn bytes(&self) -> usize {
        match self {
            Self::Delta(text) => text.len(),
            Self::ToolCall(call) => call.id.len() + call.name.len() + serde_json::to_string(&call.arguments).map_or(0, |text| text.len()),
            Self::ToolStarted(run) | Self::ToolFinished(run) => run.id.len() + run.name.len(),
            Self::Completed(answer, _) => answer.response.as_ref().map_or(0, String::len),
            Self::Started { .. } | Self::Failed(_) => 0,
        }
    }
}

/// The events of one turn.
#[derive(Debug, Default)]
pub struct Feed {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    events: Vec<Slot>,
    /// The text of all deltas, one behind the other.
    text: String,
    bytes: usize,
    over: bool,
    waiting: Vec<Waiting>,
}

/// An event as it is kept. Pieces of text are short and many, and each on its own would weigh several times what it says.
#[derive(Debug)]
enum Slot {
    Delta(Range<usize>),
    Other(Box<Event>),
}

/// Who is to be woken. Whoever went away meanwhile is woken for nothing, once.
#[derive(Debug)]
struct Waiting {
    /// By the last event alone, and not by every piece.
    for_last: bool,
    waker: Waker,
}

impl Kept {
    fn wait(&mut self, for_last: bool, waker: &Waker) {
        if !self.waiting.iter().any(|other| other.for_last == for_last && other.waker.will_wake(waker)) {
            self.waiting.push(Waiting { for_last, waker: waker.clone() });
        }
    }

    fn seen<'a>(&'a self, slot: &'a Slot) -> Seen<'a> {
        match slot {
            Slot::Delta(range) => Seen::Delta(self.text.get(range.clone()).unwrap_or_default()),
            Slot::Other(event) => Seen::Other(event),
        }
    }
}

/// An event on its way to a reader.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// [`Event::Delta`].
    Delta(&'a str),
    /// Every other.
    Other(&'a Event),
}

impl Seen<'_> {
    fn owned(self) -> Event {
        match self {
            Self::Delta(text) => Event::Delta(text.to_owned()),
            Self::Other(event) => event.clone(),
        }
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
        let woken: Vec<Waiting> = {
            let mut kept = self.kept();
            if kept.over {
                return;
            }
            kept.over = event.is_last();
            kept.bytes += event.bytes() + size_of::<Slot>();
            match event {
                Event::Delta(text) => {
                    let from = kept.text.len();
                    kept.text.push_str(&text);
                    let slot = Slot::Delta(from..kept.text.len());
                    kept.events.push(slot);
                }
                other => {
                    kept.bytes += size_of::<Event>();
                    kept.events.push(Slot::Other(Box::new(other)));
                }
            }
            if kept.over {
                kept.events.shrink_to_fit();
                kept.text.shrink_to_fit();
            }
            let over = kept.over;
            kept.waiting.extract_if(.., |waiting| over || !waiting.for_last).collect()
        };
        // Outside of the lock, which whoever is woken takes next.
        for waiting in woken {
            waiting.waker.wake();
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

/// Events that a reader takes at once: while it does, nothing is added.
const SEEN_AT_ONCE: usize = 64;

/// One reader of a feed.
#[derive(Debug, Clone)]
pub struct Follower {
    feed: Arc<Feed>,
    at: usize,
}

impl Follower {
    /// Reads from the beginning.
    pub fn new(feed: Arc<Feed>) -> Self {
        Self::after(feed, 0)
    }

    /// Reads what follows the event with this sequence number; the first event's is 1.
    pub fn after(feed: Arc<Feed>, seq: usize) -> Self {
        Self { feed, at: seq }
    }

    /// The sequence number of the event that was read last.
    pub fn seq(&self) -> usize {
        self.at
    }

    /// The last event and its sequence number, once it is in. Safe to drop half way.
    pub async fn last(&self) -> Option<(usize, Event)> {
        poll_fn(|cx| {
            let mut kept = self.feed.kept();
            if kept.over {
                let last = kept.events.last().map(|slot| kept.seen(slot).owned());
                return Poll::Ready(last.map(|event| (kept.events.len(), event)));
            }
            kept.wait(true, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// The next event and its sequence number; nothing after the last. Safe to drop half way.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        let mut next = None;
        poll_fn(|cx| self.poll_some(cx, 1, &mut |seq, seen| next = Some((seq, seen.owned())))).await;
        next
    }

    /// Reads what there is by now, some events at a time, with their sequence numbers; `false` after the last.
    pub fn poll_each(&mut self, cx: &mut Context<'_>, each: &mut dyn FnMut(usize, Seen<'_>)) -> Poll<bool> {
        self.poll_some(cx, SEEN_AT_ONCE, each)
    }

    fn poll_some(&mut self, cx: &mut Context<'_>, max: usize, each: &mut dyn FnMut(usize, Seen<'_>)) -> Poll<bool> {
        let mut kept = self.feed.kept();
        let some = kept.events.get(self.at..).unwrap_or_default().iter().take(max);
        if some.len() > 0 {
            for slot in some {
                self.at += 1;
                each(self.at, kept.seen(slot));
            }
            return Poll::Ready(true);
        }
        if kept.over {
            return Poll::Ready(false);
        }
        kept.wait(false, cx.waker());
        Poll::Pending
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
        assert!(matches!(early.next().await, Some((1, Event::Delta(text))) if text == "a"));
        let end = early.clone();
        let last = tokio::spawn(async move { end.last().await });
        let waiting = tokio::spawn(async move { early.next().await });
        feed.push(delta("b"));
        feed.push(Event::Failed(Error::TurnCancelled));
        feed.push(delta("after the end"));
        assert!(matches!(waiting.await.unwrap(), Some((2, Event::Delta(text))) if text == "b"));
        let mut late = Follower::after(feed, 2);
        assert!(matches!(late.next().await, Some((3, Event::Failed(_)))));
        assert!(late.next().await.is_none());
        for end in [last.await.unwrap(), late.last().await] {
            assert!(matches!(end, Some((3, Event::Failed(_)))), "the end is told once it is there, and later too");
        }
    }

    #[tokio::test]
    async fn what_is_there_is_read_at_once_and_who_waits_for_the_end_is_not_woken_by_pieces() {
        let feed = Arc::new(Feed::default());
        let mut reader = Follower::new(Arc::clone(&feed));
        let mut read = async || {
            let mut texts = Vec::new();
            let more = poll_fn(|cx| {
                reader.poll_each(cx, &mut |seq, seen| match seen {
                    Seen::Delta(text) => texts.push(format!("{seq}{text}")),
                    Seen::Other(_) => texts.push(format!("{seq}!")),
                })
            });
            (more.await, texts)
        };
        feed.push(delta("a"));
        feed.push(delta("bc"));
        assert_eq!(read().await, (true, vec!["1a".to_owned(), "2bc".to_owned()]));
        let last = Follower::new(Arc::clone(&feed));
        let waiting = tokio::spawn(async move { last.last().await });
        tokio::task::yield_now().await;
        feed.push(delta("d"));
        assert!(feed.kept().waiting.iter().any(|waiting| waiting.for_last), "still asleep");
        feed.push(Event::Failed(Error::TurnCancelled));
        assert_eq!(read().await, (true, vec!["3d".to_owned(), "4!".to_owned()]));
        assert_eq!(read().await, (false, vec![]));
        assert!(waiting.await.unwrap().is_some());
    }
}
