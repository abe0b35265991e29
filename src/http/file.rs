//! The body of an answer that is a file: read in pieces as the client takes them, so that memory does not grow with the file.

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    fs::File,
    io::{AsyncRead, ReadBuf},
};

/// Bytes of one piece.
const PIECE_BYTES: usize = 64 * 1024;

/// A file on its way to a client.
pub(super) struct FileBody {
    file: File,
    left_bytes: u64,
    piece: BytesMut,
    /// Whatever has to last as long as the stream.
    _held: Box<dyn Send + Sync>,
}

impl FileBody {
    pub(super) fn new(file: std::fs::File, size_bytes: u64, held: Box<dyn Send + Sync>) -> Self {
        Self { file: File::from_std(file), left_bytes: size_bytes, piece: BytesMut::new(), _held: held }
    }

    /// What was not handed out yet.
    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// The next piece. A file that cannot be read on ends early: the client was told its length, and hyper breaks the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.left_bytes == 0 {
            return Poll::Ready(None);
        }
        self.piece.resize(PIECE_BYTES.min(usize::try_from(self.left_bytes).unwrap_or(PIECE_BYTES)), 0);
        let mut buffer = ReadBuf::new(&mut self.piece);
        match Pin::new(&mut self.file).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                tracing::error!(%error, "a file could not be read to its end");
                Poll::Ready(None)
            }
            Poll::Ready(Ok(())) => {
                let read = buffer.filled().len();
                self.left_bytes -= read as u64;
                let piece = self.piece.split_to(read).freeze();
                Poll::Ready((read > 0).then(|| Frame::data(piece)))
            }
        }
    }
}
