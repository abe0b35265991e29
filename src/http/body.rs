//! Bodies: reading a request's within its bounds of size and time, and the body of an answer.

use super::{file::FileBody, sse::EventBody};
use crate::{
    config::Limits,
    error::{Error, Result},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap,
    body::{Body, Frame, Incoming, SizeHint},
    header,
};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

/// The body of an answer.
pub(super) enum Out {
    /// Whole, or already sent.
    Whole(Option<Bytes>),
    /// A stream of events.
    Events(EventBody),
    /// A file.
    File(FileBody),
}

impl Body for Out {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events.poll(cx).map(|frame| frame.map(Ok)),
            Self::File(file) => file.poll(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Events(_) => SizeHint::default(),
            Self::File(file) => SizeHint::with_exact(file.left_bytes()),
        }
    }
}

impl Out {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

/// Refuses bodies in a form we do not take, before anything of them is read.
pub(super) fn check_headers(headers: &HeaderMap, limit_bytes: usize) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim().to_ascii_lowercase();
    if text(header::CONTENT_TYPE).starts_with("multipart/") {
        return Err(Error::UnsupportedMediaType);
    }
    if !matches!(text(header::CONTENT_ENCODING).as_str(), "" | "identity") {
        return Err(Error::UnsupportedMediaType);
    }
    match text(header::CONTENT_LENGTH).parse::<usize>() {
        Ok(length) if length > limit_bytes => Err(Error::BodyTooLarge { limit_bytes }),
        _ => Ok(()),
    }
}

/// Reads a whole body, at most so many bytes in at most the limit's time.
pub(super) async fn read(body: &mut Incoming, limit_bytes: usize, limits: &Limits) -> Result<Bytes> {
    let reading = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let broken = |_| Error::MalformedRequest { detail: "The body broke off, or its chunks are malformed.".to_owned() };
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if whole.len() + data.len() > limit_bytes {
                return Err(Error::BodyTooLarge { limit_bytes });
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    };
    tokio::time::timeout(limits.body_timeout_ms, reading).await.map_err(|_| Error::RequestTimeout)?
}

/// Takes in and drops what is left of a refused request's body, within bounds. A client that is still sending when the connection closes
/// gets a reset, and with it often loses the answer that says why.
pub(super) async fn drain(body: &mut Incoming, limits: &Limits) {
    const TIME: Duration = Duration::from_secs(2);
    let mut left = limits.body_bytes_max.saturating_mul(8);
    let draining = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
        }
    };
    // Running out of time is as good an end as any.
    drop(tokio::time::timeout(TIME, draining).await);
}
