//! A client of a few lines for the demo's own requests to its own server on loopback, so that the demo goes through the same door as
//! everyone. It is no HTTP library: it closes after each answer and takes bodies of a stated length only.

use super::failure::Failure;
use crate::model::Json;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where the demo's requests go, and with which credential.
pub(super) struct Client {
    at: SocketAddr,
    credential: (&'static str, String),
}

impl Client {
    /// With a user token.
    pub(super) fn with_token(at: SocketAddr, token: &str) -> Self {
        Self { at, credential: ("Authorization", format!("Bearer {token}")) }
    }

    /// With an API key.
    pub(super) fn with_key(at: SocketAddr, key: &str) -> Self {
        Self { at, credential: ("X-API-Key", key.to_owned()) }
    }

    /// The answer to a GET; anything but a 2xx is a failure that shows the problem.
    pub(super) async fn get(&self, path: &str) -> Result<Json, Failure> {
        self.call("GET", path, "").await
    }

    /// The answer to a POST.
    pub(super) async fn post(&self, path: &str, body: &Json) -> Result<Json, Failure> {
        self.call("POST", path, &body.to_string()).await
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Result<Json, Failure> {
        let failed = |what: String| Failure::Failed(format!("{method} {path}: {what}"));
        let exchange = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await;
        let bytes = exchange.map_err(|_| failed("no answer in time".to_owned()))?.map_err(|error| failed(error.to_string()))?;
        let (status, answer) = parse(&bytes).ok_or_else(|| failed("the answer is not HTTP with JSON".to_owned()))?;
        if (200..300).contains(&status) { Ok(answer) } else { Err(failed(format!("{status} {answer:#}"))) }
    }

    async fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.at).await?;
        let (name, value) = &self.credential;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{name}: {value}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.at,
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
        Ok(bytes)
    }
}

/// Status and JSON body of a whole answer.
fn parse(bytes: &[u8]) -> Option<(u16, Json)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, serde_json::from_slice(&bytes[end + 4..]).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_a_status_and_json() {
        let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
        assert_eq!(parse(answer), Some((201, serde_json::json!({ "a": 1 }))));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\nnot json"), None);
        assert_eq!(parse(b""), None);
    }
}
