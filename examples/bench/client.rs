//! A client that costs next to nothing: one request after the other on one kept connection, over bare TCP.

use std::{io, net::SocketAddr, time::Instant};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// An answer, and when it came.
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    /// Microseconds from the vendor's first piece to its arrival here, where the answer was a stream.
    pub behind_vendor_us: Option<u64>,
}

impl Reply {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

pub struct Client {
    at: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(at: SocketAddr) -> Self {
        Self { at, stream: None }
    }

    /// One request; `key` is an API key, or a token, which goes into another header.
    pub async fn ask(&mut self, method: &str, path: &str, key: &str, accept: &str, body: &str) -> io::Result<Reply> {
        let credential = if key.starts_with("ns_") { format!("x-api-key: {key}") } else { format!("authorization: Bearer {key}") };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\n{credential}\r\naccept: {accept}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(self.at).await?;
                stream.set_nodelay(true)?;
                none.insert(BufReader::with_capacity(16 * 1024, stream))
            }
        };
        let reply = async {
            stream.write_all(format!("{head}{body}").as_bytes()).await?;
            read(stream).await
        };
        let reply = reply.await;
        if reply.is_err() {
            self.stream = None;
        }
        reply
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Reply> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let (mut length, mut chunked) = (0_usize, false);
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        if line == "\r\n" || line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = true;
        }
    }
    let mut reply = Reply { status, body: Vec::new(), behind_vendor_us: None };
    if !chunked {
        reply.body.resize(length, 0);
        stream.read_exact(&mut reply.body).await?;
        return Ok(reply);
    }
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let begin = reply.body.len();
        reply.body.resize(begin + size + 2, 0);
        stream.read_exact(&mut reply.body[begin..]).await?;
        reply.body.truncate(begin + size);
        if size == 0 {
            return Ok(reply);
        }
        if reply.behind_vendor_us.is_none() {
            reply.behind_vendor_us = stamp(&reply.body).map(|sent| super::vendor::now_us().saturating_sub(sent));
        }
    }
}

/// The vendor's stamp in what has come so far.
fn stamp(body: &[u8]) -> Option<u64> {
    let at = body.windows(2).position(|two| two == b"t=")? + 2;
    let end = at + body[at..].iter().position(|byte| *byte == b';')?;
    std::str::from_utf8(&body[at..end]).ok()?.parse().ok()
}

/// Waits until something listens there.
pub async fn wait_for(at: SocketAddr, until: Instant) -> io::Result<()> {
    while TcpStream::connect(at).await.is_err() {
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    Ok(())
}
