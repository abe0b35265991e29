//! A vendor that costs next to nothing: it answers every POST on the OpenAI wire as a stream, after a set wait, on bare TCP.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// What this process's stamps count from.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since this process began.
pub fn now_us() -> u64 {
    u64::try_from(BEGAN.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// How it answers; may be changed while it runs.
#[derive(Default)]
pub struct Manner {
    /// Milliseconds before the first byte.
    pub wait_ms: AtomicU64,
    /// Pieces of text.
    pub pieces: AtomicU64,
    /// Milliseconds between pieces; at 0 all go out in one write.
    pub pace_ms: AtomicU64,
}

impl Manner {
    pub fn set(&self, wait_ms: u64, pieces: u64, pace_ms: u64) {
        self.wait_ms.store(wait_ms, Ordering::Relaxed);
        self.pieces.store(pieces, Ordering::Relaxed);
        self.pace_ms.store(pace_ms, Ordering::Relaxed);
    }
}

/// Listens on a free port of loopback.
pub async fn start() -> std::io::Result<(SocketAddr, Arc<Manner>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let manner = Arc::new(Manner::default());
    manner.set(0, 4, 0);
    let shared = Arc::clone(&manner);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let manner = Arc::clone(&shared);
            // A client that goes away ends its connection, which is no fault.
            tokio::spawn(async move { drop(serve(stream, &manner).await) });
        }
    });
    Ok((at, manner))
}

async fn serve(stream: TcpStream, manner: &Manner) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        let mut length = 0_u64;
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        tokio::io::copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await?;
        let wait = manner.wait_ms.load(Ordering::Relaxed);
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        answer(&mut stream, manner).await?;
    }
}

async fn answer(stream: &mut BufReader<TcpStream>, manner: &Manner) -> std::io::Result<()> {
    let (pieces, pace) = (manner.pieces.load(Ordering::Relaxed), manner.pace_ms.load(Ordering::Relaxed));
    let mut out = String::from("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    for piece in 0..pieces {
        // The first piece says when it was sent; whoever reads it in this process knows what lay between.
        let text = if piece == 0 { format!("t={};", now_us()) } else { "some more words, ".to_owned() };
        event(&mut out, &format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#));
        if pace > 0 {
            stream.write_all(out.as_bytes()).await?;
            out.clear();
            tokio::time::sleep(Duration::from_millis(pace)).await;
        }
    }
    event(&mut out, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
    event(&mut out, r#"{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":12},"conversation_id":"none"}"#);
    event(&mut out, "[DONE]");
    out.push_str("0\r\n\r\n");
    stream.write_all(out.as_bytes()).await
}

/// One event in a chunk of its own.
fn event(out: &mut String, data: &str) {
    out.push_str(&format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8));
}
