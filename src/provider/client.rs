//! The one place that sends to vendors, and the only file that names reqwest. A call consumes a proof that its money is set aside.
#![allow(clippy::disallowed_methods, reason = "this file is reqwest's room")]

use super::{Answer, AnswerLimits, Broken, Decoder, Encoded, Piece, Progress, Refusal, RefusalKind, Wire, echo, refusal};
use crate::{
    clock::Clock,
    config::{Limits, ProviderConfig, Secret},
    error::{Error, Result},
    wallet::Held,
};
use http_body_util::BodyExt;
use std::{collections::VecDeque, future::Future, pin::Pin, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Bytes of an error answer that are read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// Time to read an error answer.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the stream's end is waited for after the answer's, so that the connection can be used again.
const END_TIMEOUT: Duration = Duration::from_millis(50);
/// How long an idle connection is kept; vendors and balancers close theirs after a minute or more.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(50);

/// Connections to all providers, pooled. Clones share them.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    limits: CallLimits,
}

#[derive(Debug, Clone, Copy)]
struct CallLimits {
    answer: AnswerLimits,
    first_byte: Duration,
    idle: Duration,
    total: Duration,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A whole answer. Its usage may be missing; then it is estimated.
    Answered(Answer),
    /// The vendor certainly did not accept the call; it is free.
    Refused(Refusal),
    /// The vendor may have accepted the call; it is estimated from [`Ended::progress`].
    Broken(Broken),
    /// We let go before the end. Estimated like a broken one, unless nothing was [`Ended::sent`].
    Cancelled,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// What came of it.
    pub outcome: Outcome,
    /// What had been received.
    pub progress: Progress,
    /// Whether anything of the request may have left this machine.
    pub sent: bool,
    /// From sending to the first byte of the answer's body.
    pub first_byte: Option<Duration>,
    /// From sending to the end.
    pub total: Duration,
    /// The vendor's own id of the request, for the operator's questions to the vendor.
    pub vendor_request_id: Option<String>,
}

/// A vendor call under way. Dropping it cancels the call; [`Call::end`] gives the hold back, which must be settled.
#[must_use = "a call's hold comes back only from `end`"]
pub struct Call<H: Held> {
    hold: H,
    stage: Stage,
    limits: CallLimits,
    secret: Option<Secret>,
    progress: Progress,
    pieces: VecDeque<Piece>,
    /// Bytes of text given out as pieces.
    told_bytes: usize,
    sent: bool,
    begun: Instant,
    /// When the vendor must have said something again.
    patience: Instant,
    first_byte: Option<Duration>,
    total: Option<Duration>,
    vendor_request_id: Option<String>,
}

type Sending = Pin<Box<dyn Future<Output = reqwest::Result<reqwest::Response>> + Send>>;

enum Stage {
    /// Nothing was sent yet.
    Ready(reqwest::RequestBuilder, Wire),
    /// The request is on its way.
    Sending(Sending, Wire),
    /// The answer comes in.
    Reading(reqwest::Body, Decoder),
    /// The answer is whole; the stream's end is waited for.
    Ending(reqwest::Body, Decoder),
    /// A refusal comes in.
    Refusing(reqwest::Response, Vec<u8>),
    /// Echo's lines, already there.
    Echo(std::vec::IntoIter<String>, Decoder),
    /// It is over.
    Over(Outcome),
}

impl Client {
    /// A client within these limits. Fails when the machine's TLS roots cannot be used.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that may reach vendors")]
    pub fn new(limits: &Limits) -> Result<Self> {
        // A second installation is refused, and the first serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("nimblesite/", env!("CARGO_PKG_VERSION")))
            // A redirect would carry prompt and credential to an address that the operator did not name.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(limits.provider_connect_timeout_ms)
            // Turns end in waves: whoever goes on after them finds a connection, and none is made anew for each.
            .pool_max_idle_per_host(limits.turns_max)
            .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(30))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(20))
            .http2_adaptive_window(true)
            .build()
            .map_err(|error| Error::internal(format_args!("the HTTP client cannot be made: {}", cause(&error))))?;
        let answer = AnswerLimits { answer_bytes_max: limits.answer_bytes_max, tool_calls_max: limits.answer_tool_calls_max };
        let limits = CallLimits {
            answer,
            first_byte: limits.provider_first_byte_timeout_ms,
            idle: limits.provider_idle_timeout_ms,
            total: limits.provider_total_timeout_ms,
        };
        Ok(Self { http, limits })
    }

    /// Begins a call, paid from `hold`. Nothing is sent before the first [`Call::next`].
    ///
    /// Only storage makes holds, in a committed transaction; whoever has one can send:
    /// ```
    /// use nimblesite::{config::ProviderConfig, provider::{Encoded, client::{Call, Client}}, wallet::Held};
    /// fn ask<H: Held>(client: &Client, hold: H, provider: &ProviderConfig, request: Encoded) -> Call<H> {
    ///     client.send(hold, provider, request)
    /// }
    /// ```
    /// and whoever has none cannot:
    /// ```compile_fail,E0277
    /// use nimblesite::{config::ProviderConfig, provider::{Encoded, client::{Call, Client}}, wallet::Held};
    /// fn ask(client: &Client, hold: (), provider: &ProviderConfig, request: Encoded) {
    ///     let _ = client.send(hold, provider, request);
    /// }
    /// ```
    pub fn send<H: Held>(&self, hold: H, provider: &ProviderConfig, request: Encoded) -> Call<H> {
        let begun = Instant::now();
        let stage = if request.wire == Wire::Echo {
            Stage::Echo(echo::answer(&request.body).into_iter(), decoder(Wire::Echo, self.limits))
        } else {
            let wire = request.wire;
            Stage::Ready(self.request(provider, request), wire)
        };
        Call {
            hold,
            stage,
            limits: self.limits,
            secret: provider.api_key.clone(),
            progress: Progress::default(),
            pieces: VecDeque::new(),
            told_bytes: 0,
            sent: false,
            begun,
            patience: begun + self.limits.first_byte,
            first_byte: None,
            total: None,
            vendor_request_id: None,
        }
    }

    fn request(&self, provider: &ProviderConfig, request: Encoded) -> reqwest::RequestBuilder {
        let url = format!("{}{}", provider.base_url.trim_end_matches('/'), request.path);
        let mut builder = self.http.post(url).header("content-type", "application/json").body(request.body);
        if request.wire == Wire::Anthropic {
            builder = builder.header("anthropic-version", "2023-06-01");
        }
        let Some(key) = &provider.api_key else { return builder };
        let (name, value) = match request.wire {
            Wire::Anthropic => ("x-api-key", zeroize::Zeroizing::new(key.expose().to_owned())),
            _ => ("authorization", zeroize::Zeroizing::new(format!("Bearer {}", key.expose()))),
        };
        match reqwest::header::HeaderValue::from_str(&value) {
            Ok(mut value) => {
                // Sensitive headers are shown by no formatter and kept out of HTTP/2's compression table.
                value.set_sensitive(true);
                builder.header(name, value)
            }
            // A credential that no header can carry is refused by the vendor like a missing one.
            Err(_) => builder,
        }
    }
}

fn decoder(wire: Wire, limits: CallLimits) -> Decoder {
    let id = uuid::Uuid::now_v7().simple().to_string();
    // The first digits of a UUIDv7 are the clock; the last are random, and tell calls of one moment apart.
    Decoder::new(wire, limits.answer, format!("call_{}", &id[20..]))
}

impl<H: Held> Call<H> {
    /// The next piece; `None` when the call is over, whatever came of it. Safe to drop half way, as `select!` does: the next call goes on.
    pub async fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                if let Piece::Text(text) = &piece {
                    self.told_bytes += text.len();
                }
                return Some(piece);
            }
            if matches!(self.stage, Stage::Over(_)) {
                return None;
            }
            self.step().await;
        }
    }

    /// Ends the call, cancelling it if it was not over, and gives the hold back.
    pub fn end(self) -> (Ended, H) {
        let outcome = match self.stage {
            Stage::Over(outcome) => outcome,
            _ => Outcome::Cancelled,
        };
        let total = self.total.unwrap_or_else(|| self.begun.elapsed());
        let (progress, sent, first_byte, vendor_request_id) = (self.progress, self.sent, self.first_byte, self.vendor_request_id);
        (Ended { outcome, progress, sent, first_byte, total, vendor_request_id }, self.hold)
    }

    /// Goes on by one event. All that must outlive a dropped future stays in `self` across the wait.
    async fn step(&mut self) {
        let deadline = self.patience.min(self.begun + self.limits.total);
        match &mut self.stage {
            Stage::Ready(..) => self.start(),
            Stage::Sending(sending, _) => {
                let arrived = timeout_at(deadline, sending.as_mut()).await;
                self.arrived(arrived.ok());
            }
            Stage::Reading(body, _) => {
                let chunk = timeout_at(deadline, chunk(body)).await;
                self.heard(chunk.ok());
            }
            Stage::Ending(body, _) => {
                // What comes after the end says nothing; only whether the stream ends in time matters.
                if !matches!(timeout_at(deadline, chunk(body)).await, Ok(Ok(Some(_)))) {
                    self.close();
                }
            }
            Stage::Refusing(response, _) => {
                let chunk = timeout_at(deadline, response.chunk()).await;
                self.refused(chunk.ok().and_then(reqwest::Result::ok).flatten());
            }
            Stage::Echo(lines, decoder) => {
                let Some(line) = lines.next() else { return self.close() };
                self.sent = true;
                self.first_byte.get_or_insert_with(|| self.begun.elapsed());
                self.pieces.extend(decoder.push(line.as_bytes()));
                self.progress = decoder.progress();
                tokio::task::yield_now().await;
            }
            Stage::Over(_) => {}
        }
    }

    fn over(&mut self, outcome: Outcome) {
        self.total = Some(self.begun.elapsed());
        self.stage = Stage::Over(outcome);
    }

    fn start(&mut self) {
        self.begun = Instant::now();
        self.patience = self.begun + self.limits.first_byte;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Over(Outcome::Cancelled)) {
            Stage::Ready(request, wire) => {
                self.sent = true;
                Stage::Sending(Box::pin(request.send()), wire)
            }
            other => other,
        };
    }

    /// The answer's head is here, or will not come.
    fn arrived(&mut self, response: Option<reqwest::Result<reqwest::Response>>) {
        let Stage::Sending(_, wire) = &self.stage else { return };
        let wire = *wire;
        match response {
            None => self.over(Outcome::Broken(Broken::TimedOut("no answer began in time"))),
            Some(Ok(response)) => {
                let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
                self.vendor_request_id = header("request-id").or_else(|| header("x-request-id")).map(|id| id.chars().take(200).collect());
                if response.status().is_success() {
                    // The head goes, and with it the connection's buffer that it lies in.
                    self.stage = Stage::Reading(response.into(), decoder(wire, self.limits));
                } else {
                    self.patience = Instant::now() + REFUSAL_TIMEOUT;
                    self.stage = Stage::Refusing(response, Vec::new());
                }
            }
            // Without a connection nothing can have been accepted; a request that cannot be built leaves nothing to send.
            Some(Err(error)) if error.is_connect() || error.is_builder() => {
                self.sent = false;
                let (kind, message) = if error.is_builder() {
                    (RefusalKind::NotConfigured, "the provider's address or credential cannot be used".to_owned())
                } else if error.is_timeout() {
                    (RefusalKind::Unreachable, "no connection to the provider in time".to_owned())
                } else {
                    (RefusalKind::Unreachable, "no connection to the provider".to_owned())
                };
                tracing::warn!(cause = %cause(&error), "{message}");
                self.over(Outcome::Refused(Refusal { kind, status: None, message, retry_after: None }));
            }
            Some(Err(error)) => {
                tracing::warn!(cause = %cause(&error), "a vendor call failed after it was sent");
                self.over(Outcome::Broken(Broken::Truncated));
            }
        }
    }

    /// More of the answer is here, or none will come.
    fn heard(&mut self, chunk: Option<reqwest::Result<Option<bytes::Bytes>>>) {
        let Stage::Reading(_, decoder) = &mut self.stage else { return };
        match chunk {
            Some(Ok(Some(bytes))) => {
                self.first_byte.get_or_insert_with(|| self.begun.elapsed());
                self.patience = Instant::now() + self.limits.idle;
                self.pieces.extend(decoder.push(&bytes));
                self.progress = decoder.progress();
                if decoder.is_over() {
                    self.patience = Instant::now() + END_TIMEOUT;
                    self.stage = match std::mem::replace(&mut self.stage, Stage::Over(Outcome::Cancelled)) {
                        Stage::Reading(body, decoder) => Stage::Ending(body, decoder),
                        other => other,
                    };
                }
            }
            Some(Ok(None)) => self.close(),
            Some(Err(error)) => {
                tracing::warn!(cause = %cause(&error), "a vendor's answer was cut");
                self.close();
            }
            None if self.begun.elapsed() >= self.limits.total => self.over(Outcome::Broken(Broken::TimedOut("the answer took too long"))),
            None if self.first_byte.is_none() => self.over(Outcome::Broken(Broken::TimedOut("no answer began in time"))),
            None => self.over(Outcome::Broken(Broken::TimedOut("the answer stood still for too long"))),
        }
    }

    /// The answer's end: tool calls are told only now, when they are known to be whole.
    fn close(&mut self) {
        let (Stage::Reading(_, decoder) | Stage::Ending(_, decoder) | Stage::Echo(_, decoder)) =
            std::mem::replace(&mut self.stage, Stage::Over(Outcome::Cancelled))
        else {
            return;
        };
        match decoder.finish() {
            Ok(answer) => {
                // Only a last line without its line feed still has text to tell.
                let waiting = self.pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 }).sum::<usize>();
                let rest = answer.text.as_deref().and_then(|text| text.get(self.told_bytes + waiting..)).unwrap_or_default();
                if !rest.is_empty() {
                    self.pieces.push_back(Piece::Text(rest.to_owned()));
                }
                self.pieces.extend(answer.calls.iter().cloned().map(Piece::ToolCall));
                self.progress.usage = answer.usage.or(self.progress.usage);
                self.over(Outcome::Answered(answer));
            }
            Err(broken) => self.over(Outcome::Broken(broken)),
        }
    }

    /// More of a refusal is here, or that was all of it.
    fn refused(&mut self, chunk: Option<bytes::Bytes>) {
        let Stage::Refusing(response, body) = &mut self.stage else { return };
        if let Some(chunk) = chunk {
            body.extend_from_slice(&chunk);
            if body.len() < REFUSAL_BYTES_MAX {
                return;
            }
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry = refusal::RetryHeaders { retry_after: header("retry-after"), retry_after_ms: header("retry-after-ms") };
        let status = response.status().as_u16();
        let secret = self.secret.as_ref().map(Secret::expose);
        let outcome = match refusal::read(status, retry, body, secret, Clock.now()) {
            Some(refusal) => Outcome::Refused(refusal),
            None => Outcome::Broken(Broken::Reported(format!("a gateway in front of the provider answered with status {status}"))),
        };
        self.over(outcome);
    }
}

/// The next bytes of an answer's body, if there are more.
async fn chunk(body: &mut reqwest::Body) -> reqwest::Result<Option<bytes::Bytes>> {
    loop {
        let Some(frame) = body.frame().await.transpose()? else { return Ok(None) };
        // Trailers say nothing.
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
}

/// An error and what caused it, without the address, which may hold a credential.
fn cause(error: &reqwest::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut text = if error.is_timeout() { "timed out".to_owned() } else { "failed".to_owned() };
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
