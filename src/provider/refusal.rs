//! Reads a vendor's clear no: status, headers and error body become a `Refusal`. Pure.

use super::{Refusal, RefusalKind};
use crate::{clock::Time, model::Json};
use std::time::Duration;

/// Characters of a vendor's message that are kept.
const MESSAGE_CHARS_MAX: usize = 500;

/// The headers that say when to come back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RetryHeaders<'a> {
    /// `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
    pub retry_after: Option<&'a str>,
    /// `retry-after-ms`, finer, from OpenAI and some proxies.
    pub retry_after_ms: Option<&'a str>,
}

/// The refusal that an HTTP error says; `None` when the vendor may have accepted the call nevertheless: a gateway gave up waiting for it.
/// `secret` is our credential, which vendors have been seen to repeat in their messages.
pub(super) fn read(status: u16, headers: RetryHeaders<'_>, body: &[u8], secret: Option<&str>, now: Time) -> Option<Refusal> {
    let json: Json = serde_json::from_slice(body).unwrap_or_default();
    let error = json.get("error").unwrap_or(&json);
    let field = |name| error.get(name).and_then(Json::as_str).unwrap_or_default();
    let (code, error_type) = (field("code"), field("type"));
    let told = error.as_str().unwrap_or_else(|| field("message"));
    // 408, 502, 504 and Cloudflare's 520 to 524 come from in front of the model as well; only the vendor's own error body makes them a clear no.
    if matches!(status, 408 | 502 | 504 | 520..=524) && told.is_empty() {
        return None;
    }
    let kind = kind(status, code, error_type, told);
    let message = match (kind, status) {
        // Vendors repeat parts of a wrong credential, which no search for the whole would find.
        (RefusalKind::NotConfigured, 401) => "the provider refused our credentials".to_owned(),
        _ if told.trim().is_empty() => format!("the provider answered with status {status}"),
        _ => told.to_owned(),
    };
    let message = match secret.filter(|secret| !secret.is_empty()) {
        Some(secret) => message.replace(secret, "[secret]"),
        None => message,
    };
    Some(Refusal {
        kind,
        status: Some(status),
        message: message.chars().take(MESSAGE_CHARS_MAX).collect(),
        retry_after: retry_after(headers, now),
    })
}

fn kind(status: u16, code: &str, error_type: &str, message: &str) -> RefusalKind {
    let says = |words: &[&str]| words.iter().any(|word| code == *word || error_type == *word);
    let message = message.to_ascii_lowercase();
    let mentions = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    // Money that ran out is told with 429 too, and asking again does not bring it back.
    let broke = ["insufficient_quota", "exceeded_current_quota_error", "billing_error", "billing_hard_limit_reached"];
    // Anthropic tells it as an invalid request.
    if says(&broke) || mentions(&["credit balance is too low"]) {
        return RefusalKind::NotConfigured;
    }
    let too_long = says(&["context_length_exceeded", "exceed_context_size_error"])
        || mentions(&["prompt is too long", "maximum context length", "context length exceeded", "exceeds the context", "context window"]);
    match status {
        400 | 413 | 422 if too_long => RefusalKind::ContextTooLong,
        // 404 is an unknown model or path: the operator's rate card or address names what the vendor does not have.
        300..=399 | 401..=404 => RefusalKind::NotConfigured,
        408 | 409 | 425 | 429 | 500..=599 => RefusalKind::Overloaded,
        _ => RefusalKind::Invalid,
    }
}

/// When the vendor says to come back; the finer header wins.
fn retry_after(headers: RetryHeaders<'_>, now: Time) -> Option<Duration> {
    let ms = headers.retry_after_ms.and_then(|text| text.trim().parse::<f64>().ok());
    let seconds = headers.retry_after.and_then(|text| text.trim().parse::<f64>().ok());
    if let Some(seconds) = ms.map(|ms| ms / 1_000.0).or(seconds) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::parse(headers.retry_after?.trim()).ok()?;
    let wait_ms = date.timestamp().as_millisecond().saturating_sub(now.ms());
    Some(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use RefusalKind::{ContextTooLong, Invalid, NotConfigured, Overloaded};

    fn refusal(status: u16, body: &str) -> Option<Refusal> {
        read(status, RetryHeaders::default(), body.as_bytes(), Some("sk-secret"), Time::from_ms(0))
    }

    #[test]
    fn each_vendor_s_no_is_understood() {
        for (status, body, kind) in [
            (429, r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"},"request_id":"req_1"}"#, Overloaded),
            (529, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, Overloaded),
            (500, "not json", Overloaded),
            (503, "", Overloaded),
            (401, r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#, NotConfigured),
            (402, r#"{"type":"error","error":{"type":"billing_error","message":"no funds"}}"#, NotConfigured),
            (404, r#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#, NotConfigured),
            (404, r#"{"error":"model 'x' not found"}"#, NotConfigured),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 2 tokens > 1 maximum"}}"#,
                ContextTooLong,
            ),
            (
                400,
                r#"{"error":{"message":"m","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
                ContextTooLong,
            ),
            (400, r#"{"error":{"message":"Unsupported parameter","type":"invalid_request_error","param":"x","code":null}}"#, Invalid),
            (429, r#"{"error":{"message":"quota","type":"insufficient_quota","param":null,"code":null}}"#, NotConfigured),
            (429, r#"{"error":{"message":"quota","type":"requests","code":"insufficient_quota"}}"#, NotConfigured),
            (429, r#"{"error":{"message":"m","type":"exceeded_current_quota_error"}}"#, NotConfigured),
            (429, r#"{"error":{"message":"m","type":"tokens","code":"rate_limit_exceeded"}}"#, Overloaded),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API"}}"#,
                NotConfigured,
            ),
            (422, r#"{"error":{"message":"bad"}}"#, Invalid),
            (307, "", NotConfigured),
        ] {
            assert_eq!(refusal(status, body).map(|refusal| refusal.kind), Some(kind), "{status} {body}");
        }
    }

    #[test]
    fn a_gateway_that_gave_up_is_no_clear_no() {
        for status in [408, 502, 504, 524] {
            assert_eq!(refusal(status, "<html>Bad gateway</html>"), None, "{status}");
        }
        let told = refusal(504, r#"{"type":"error","error":{"type":"timeout_error","message":"timed out"}}"#);
        assert_eq!(told.map(|refusal| refusal.kind), Some(Overloaded));
    }

    #[test]
    fn messages_hold_no_secret_and_are_short() {
        let told = refusal(401, r#"{"error":{"message":"Incorrect API key provided: sk-s**cret"}}"#).unwrap();
        assert_eq!(told.message, "the provider refused our credentials");
        let told = refusal(400, r#"{"error":{"message":"header Bearer sk-secret is odd"}}"#).unwrap();
        assert_eq!(told.message, "header Bearer [secret] is odd");
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "ä".repeat(2_000));
        assert_eq!(refusal(400, &long).unwrap().message.chars().count(), 500);
        assert_eq!(refusal(500, "").unwrap().message, "the provider answered with status 500");
    }

    #[test]
    fn the_wait_is_read_in_all_its_forms() {
        let now: Time = "2026-11-24T08:00:00Z".parse().unwrap();
        let wait = |after, ms| retry_after(RetryHeaders { retry_after: after, retry_after_ms: ms }, now);
        assert_eq!(wait(Some("7"), None), Some(Duration::from_secs(7)));
        assert_eq!(wait(Some("1.5"), None), Some(Duration::from_millis(1_500)));
        assert_eq!(wait(Some("7"), Some("250")), Some(Duration::from_millis(250)));
        assert_eq!(wait(Some("Tue, 24 Nov 2026 08:00:30 GMT"), None), Some(Duration::from_secs(30)));
        assert_eq!(wait(Some("Tue, 24 Nov 2026 07:00:00 GMT"), None), Some(Duration::ZERO), "a date gone by");
        assert_eq!(wait(Some("-1"), None), None);
        assert_eq!(wait(Some("soon"), None), None);
        assert_eq!(wait(None, None), None);
    }
}
