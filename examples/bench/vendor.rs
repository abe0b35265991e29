//! A vendor that costs next to nothing: it answers every POST on the OpenAI wire as a stream, after a set wait, on bare TCP. It can be told to
//! misbehave now and then.

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
    /// Calls of a thousand that go wrong.
    pub faults_per_mille: AtomicU64,
    calls: AtomicU64,
    faults: AtomicU64,
}

/// What becomes of a call.
#[derive(Clone, Copy)]
enum Fate {
    Fine,
    Refused(&'static str),
    /// The connection ends before an answer.
    Gone,
    /// It ends within an answer.
    Cut,
    /// An answer stops for longer than anyone waits.
    Stalled,
    /// What comes is no event.
    Garbage,
}

/// How long a stalled answer stands still.
const STALL: Duration = Duration::from_secs(4);

impl Manner {
    pub fn set(&self, wait_ms: u64, pieces: u64, pace_ms: u64) {
        self.wait_ms.store(wait_ms, Ordering::Relaxed);
        self.pieces.store(pieces, Ordering::Relaxed);
        self.pace_ms.store(pace_ms, Ordering::Relaxed);
    }

    /// Calls, and those of them that went wrong.
    pub fn counts(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.faults.load(Ordering::Relaxed))
    }

    fn fate(&self) -> Fate {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        // Spreads the count over all bits (SplitMix64).
        let mut mixed = call.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        if mixed % 1_000 >= self.faults_per_mille.load(Ordering::Relaxed) {
            return Fate::Fine;
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        match (mixed >> 32) % 16 {
            0..=3 => Fate::Refused("429 Too Many Requests"),
            4..=6 => Fate::Refused("503 Service Unavailable"),
            7 => Fate::Refused("400 Bad Request"),
            8..=10 => Fate::Gone,
            11..=13 => Fate::Cut,
            14 => Fate::Stalled,
            _ => Fate::Garbage,
        }
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
        match manner.fate() {
            Fate::Fine => answer(&mut stream, manner).await?,
            Fate::Refused(status) => {
                let body = r#"{"error":{"message":"not now"}}"#;
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(format!("{head}{body}").as_bytes()).await?;
            }
            Fate::Gone => return Ok(()),
            broken => return begun(&mut stream, broken).await,
        }
    }
}

/// An answer that begins well.
async fn begun(stream: &mut BufReader<TcpStream>, fate: Fate) -> std::io::Result<()> {
    let mut out = HEAD.to_owned();
    event(&mut out, r#"{"choices":[{"index":0,"delta":{"content":"so far, "}}]}"#);
    if matches!(fate, Fate::Garbage) {
        event(&mut out, "{\"half\": ");
    }
    stream.write_all(out.as_bytes()).await?;
    if matches!(fate, Fate::Stalled) {
        tokio::time::sleep(STALL).await;
    }
    Ok(())
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

async fn answer(stream: &mut BufReader<TcpStream>, manner: &Manner) -> std::io::Result<()> {
    let (pieces, pace) = (manner.pieces.load(Ordering::Relaxed), manner.pace_ms.load(Ordering::Relaxed));
    let mut out = HEAD.to_owned();
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
