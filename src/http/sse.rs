//! Server-sent events (the WHATWG HTML standard, §9.2): how one event is written, and the body that carries them with comments in between
//! that keep the connection open. It knows nothing of turns; whoever has events sends them into the channel of `Reply::Events`.

use crate::error::{Error, Result};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep},
};

/// Events that a slow client may be behind before the sender waits.
pub const EVENTS_QUEUED_MAX: usize = 64;

/// One event, ready to be sent: `id`, `event`, and the data as JSON on one line (serde escapes line ends inside strings).
pub fn event_bytes(id: u64, name: &str, data: &impl Serialize) -> Result<Bytes> {
    let data = serde_json::to_string(data).map_err(Error::internal)?;
    Ok(format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into())
}

const KEEPALIVE: Bytes = Bytes::from_static(b": keepalive\n\n");

/// The body of a stream: what the channel gives, and a comment whenever it was silent for a while. It ends when the senders are gone.
pub(super) struct EventBody {
    events: mpsc::Receiver<Bytes>,
    silence: Pin<Box<Sleep>>,
    keepalive: Duration,
    /// Whatever has to last as long as the stream, such as a gauge's guard.
    _held: Box<dyn Send + Sync>,
}

impl EventBody {
    pub(super) fn new(events: mpsc::Receiver<Bytes>, keepalive: Duration, held: Box<dyn Send + Sync>) -> Self {
        Self { events, silence: Box::pin(sleep(keepalive)), keepalive, _held: held }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let frame = match self.events.poll_recv(cx) {
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
        let mut body = EventBody::new(events, Duration::from_millis(20), Box::new(()));
        let mut next = async || poll_fn(|cx| body.poll(cx)).await.map(|frame| frame.into_data().unwrap_or_default());
        sender.send(Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(next().await.as_deref(), Some(&b"one"[..]));
        assert_eq!(next().await, Some(KEEPALIVE));
        drop(sender);
        assert_eq!(next().await, None);
    }
}
