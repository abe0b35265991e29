//! An HTTP answer, and its form for snapshots.

use reqwest::header::HeaderMap;
use serde_json::Value;
use std::collections::BTreeMap;

/// Status, headers and body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

/// Headers that are part of what a test looks at.
const SHOWN_HEADERS: &[&str] = &["retry-after", "allow", "idempotency-replayed", "x-credit-available"];

/// Fields whose numbers differ from run to run.
const MOVING_NUMBERS: &[&str] = &["latency_ms", "provider_ms", "time_to_first_token_ms", "duration_ms", "size_bytes"];

impl Answer {
    pub async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.text().await.expect("a whole body");
        Self { status, headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; what is no JSON fails the test.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{} answered no JSON ({error}): {}", self.status, self.body))
    }

    /// A text of the body, by JSON pointer.
    pub fn text(&self, pointer: &str) -> String {
        let json = self.json();
        match json.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            other => panic!("no text at {pointer} but {other:?} in {} {json:#}", self.status),
        }
    }

    /// A value of the body, by JSON pointer.
    pub fn at(&self, pointer: &str) -> Value {
        self.json().pointer(pointer).cloned().unwrap_or_else(|| panic!("nothing at {pointer} in {} {}", self.status, self.body))
    }

    /// The code of a problem.
    pub fn code(&self) -> String {
        self.text("/code")
    }

    /// The ids of a list's rows.
    pub fn ids(&self) -> Vec<String> {
        let rows = self.at("/data");
        rows.as_array().expect("a list").iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Fails the test unless the status is this.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// Fails the test unless it is a problem of this code and status, in the contract's form.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        let json = self.json();
        assert_eq!(json["code"], code, "{json:#}");
        assert_eq!(json["status"], status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        for field in ["type", "title", "detail", "request_id"] {
            assert!(json[field].as_str().is_some_and(|text| !text.is_empty()), "{field} is missing: {json:#}");
        }
        assert_eq!(self.header("x-request-id"), json["request_id"].as_str());
        self
    }

    /// Status, the headers that matter, and the body with everything masked that differs from run to run.
    pub fn shown(&self) -> String {
        let mut text = self.status.to_string();
        for name in SHOWN_HEADERS {
            if let Some(value) = self.header(name) {
                text.push_str(&format!("  {name}: {value}"));
            }
        }
        text.push('\n');
        match serde_json::from_str::<Value>(&self.body) {
            Ok(json) => text.push_str(&mask(&json)),
            Err(_) => text.push_str(&self.body),
        }
        text
    }
}

/// JSON for a snapshot: ids are numbered in the order they come, so that equal ones stay equal.
pub fn mask(json: &Value) -> String {
    let mut json = json.clone();
    Mask::default().value("", &mut json);
    format!("{json:#}")
}

#[derive(Default)]
struct Mask {
    ids: BTreeMap<String, usize>,
}

impl Mask {
    fn value(&mut self, name: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| self.value(name, value)),
            Value::Array(items) => items.iter_mut().for_each(|value| self.value(name, value)),
            Value::String(text) => *text = self.words(text),
            Value::Number(_) if MOVING_NUMBERS.contains(&name) => *value = Value::String("<number>".to_owned()),
            _ => {}
        }
    }

    /// Every run of characters that ids, times, hashes and secrets are made of, judged alone.
    fn words(&mut self, text: &str) -> String {
        let part_of_word = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(part_of_word) {
            let end = rest[start..].find(|c| !part_of_word(c)).map_or(rest.len(), |length| start + length);
            out.push_str(&rest[..start]);
            out.push_str(&self.word(&rest[start..end]));
            rest = &rest[end..];
        }
        out + rest
    }

    fn word(&mut self, word: &str) -> String {
        let dashes: Vec<_> = word.match_indices('-').map(|(at, _)| at).collect();
        if word.len() == 36 && dashes == [8, 13, 18, 23] {
            let next = self.ids.len() + 1;
            return format!("<id {}>", self.ids.entry(word.to_owned()).or_insert(next));
        }
        if word.len() == 24 && word.ends_with('Z') && word.as_bytes()[10] == b'T' {
            return "<time>".to_owned();
        }
        if word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return "<hash>".to_owned();
        }
        if word.starts_with("ns_live_") && word.len() > 40 {
            return "<key>".to_owned();
        }
        if word.starts_with("ns_live_") {
            return "<key prefix>".to_owned();
        }
        if word.starts_with("nu_") {
            return "<token>".to_owned();
        }
        if let Some(port) = word.strip_prefix("127.0.0.1:")
            && port.bytes().all(|byte| byte.is_ascii_digit())
        {
            return "<address>".to_owned();
        }
        word.to_owned()
    }
}
