//! Server-sent events (the WHATWG HTML standard, §9.2): how one event is written, and the body that carries them with comments in between
//! that keep the connection open. It knows nothing of turns; `Reply::Events` says where the events come from.

use crate::error::{Error, Result};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;
use std::{
    io::Write as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep},
};

/// Events that a slow client may be behind before whoever sends them into a channel waits.
pub const EVENTS_QUEUED_MAX: usize = 64;

/// Where a stream's events come from, written out: asked whenever the client has taken what was there before.
pub trait Events: Send {
    /// One event or some; none at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

impl Events for mpsc::Receiver<Bytes> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.poll_recv(cx)
    }
}

/// One event, ready to be sent; see [`event_write`].
pub fn event_bytes(id: u64, name: &str, data: &impl Serialize) -> Result<Bytes> {
    let mut out = Vec::new();
    event_write(&mut out, id, name, data)?;
    Ok(out.into())
}

/// Writes one event: `id`, `event`, and the data as JSON on one line (serde escapes line ends inside strings). On an error nothing is written.
pub fn event_write(out: &mut Vec<u8>, id: u64, name: &str, data: &impl Serialize) -> Result<()> {
    let from = out.len();
    // A vector takes everything.
    let _ = write!(out, "id: {id}\nevent: {name}\ndata: ");
    if let Err(error) = serde_json::to_writer(&mut *out, data) {
        out.truncate(from);
        return Err(Error::internal(error));
    }
    out.extend_from_slice(b"\n\n");
    Ok(())
}

const KEEPALIVE: Bytes = Bytes::from_static(b": keepalive\n\n");

/// The body of a stream: its events, and a comment whenever there was none for a while.
pub(super) struct EventBody {
    events: Box<dyn Events>,
    silence: Pin<Box<Sleep>>,
    keepalive: Duration,
    /// Whatever has to last as long as the stream, such as a gauge's guard.
    _held: Box<dyn Send + Sync>,
}

impl EventBody {
    pub(super) fn new(events: Box<dyn Events>, keepalive: Duration, held: Box<dyn Send + Sync>) -> Self {
        Self { events, silence: Box::pin(sleep(keepalive)), keepalive, _held: held }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let frame = match self.events.poll(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(event)) => event,
            Poll::Pending => match self.silence.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => KEEPALIVE,
            },
        };
        self.silence.as_mut().reset(Instant::now() + self.keepalive);
        Poll::Ready(Some(Frame::data(frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[test]
    fn an_event_is_three_lines_and_a_blank_one_whatever_the_data() {
        let bytes = event_bytes(7, "message.delta", &serde_json::json!({"text": "a\nb\r\n\u{2028}"})).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.starts_with("id: 7\nevent: message.delta\ndata: {\"text\":\"a\\nb\\r\\n"));
        assert_eq!(text.matches('\n').count(), 4);
    }

    #[tokio::test]
    async fn silence_is_filled_with_comments_and_the_end_is_the_end() {
        let (sender, events) = mpsc::channel(2);
        let mut body = EventBody::new(Box::new(events), Duration::from_millis(20), Box::new(()));
        let mut next = async || poll_fn(|cx| body.poll(cx)).await.map(|frame| frame.into_data().unwrap_or_default());
        sender.send(Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(next().await.as_deref(), Some(&b"one"[..]));
        assert_eq!(next().await, Some(KEEPALIVE));
        drop(sender);
        assert_eq!(next().await, None);
    }
}
