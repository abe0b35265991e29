//! The vendor itself: it must notice what a real one refuses, and its bytes must be what it says they are.

use crate::fake_provider::{At, FakeProvider, Gate, PATIENCE, Part, Reply, VENDOR_KEY, Wire};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Posts a body on a bare socket and reads the whole answer, chunks joined.
async fn post(vendor: &FakeProvider, wire: Wire, body: &Value) -> (String, String) {
    let url = vendor.base_url(wire);
    let address = url.trim_start_matches("http://").trim_end_matches("/v1");
    let path = match wire {
        Wire::Anthropic => "/v1/messages",
        Wire::OpenAi => "/v1/chat/completions",
        Wire::Ollama => "/api/chat",
    };
    let credential = match wire {
        Wire::Anthropic => format!("x-api-key: {VENDOR_KEY}\r\nanthropic-version: 2023-06-01\r\n"),
        Wire::OpenAi => format!("Authorization: Bearer {VENDOR_KEY}\r\n"),
        Wire::Ollama => String::new(),
    };
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nconnection: close\r\ncontent-type: application/json\r\n{credential}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer in time").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut joined = String::new();
    let mut rest = rest;
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        joined.push_str(&more[..size.min(more.len())]);
        rest = more.get(size + 2..).unwrap_or("");
    }
    (head.lines().next().unwrap_or_default().to_owned(), joined)
}

fn anthropic(messages: Value) -> Value {
    json!({"model": "m", "max_tokens": 10, "stream": true, "messages": messages})
}

#[tokio::test]
async fn it_speaks_each_wire() {
    let vendor = FakeProvider::start().await;
    vendor.otherwise(Reply::parts(vec![Part::text("Hi é"), Part::call("call_1", "look", &json!({"at": "x"}))]));
    let (status, body) = post(&vendor, Wire::Anthropic, &anthropic(json!([{"role": "user", "content": "hello"}]))).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    for part in ["event: message_start\n", "\"text\":\"Hi é\"", "\"partial_json\"", "\"stop_reason\":\"tool_use\"", "event: message_stop\n"]
    {
        assert!(body.contains(part), "{part} in {body}");
    }
    let openai = json!({"model": "m", "max_tokens": 10, "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}]});
    let (_, body) = post(&vendor, Wire::OpenAi, &openai).await;
    for part in ["\"content\":\"Hi é\"", "\"finish_reason\":\"tool_calls\"", "\"completion_tokens\":20", "data: [DONE]\n\n"] {
        assert!(body.contains(part), "{part} in {body}");
    }
    let ollama = json!({"model": "m", "options": {"num_predict": 10}, "messages": [{"role": "user", "content": "hello"}]});
    let (_, body) = post(&vendor, Wire::Ollama, &ollama).await;
    for part in ["\"content\":\"Hi é\"", "\"arguments\":{\"at\":\"x\"}", "\"done\":true", "\"eval_count\":20"] {
        assert!(body.contains(part), "{part} in {body}");
    }
    assert_eq!(vendor.violations(), Vec::<String>::new());
    assert_eq!(vendor.last().said, ["user: hello"]);
}

#[tokio::test]
async fn it_notices_what_vendors_refuse() {
    let vendor = FakeProvider::start().await;
    vendor.otherwise(Reply::text("x"));
    let call = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]});
    let result = |id: &str| json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "ok"}]});
    let user = json!({"role": "user", "content": "hello"});
    for (messages, expected) in [
        (json!([user, user]), "roles do not alternate"),
        (json!([user, call, user]), "leaves calls without a result"),
        (json!([user, call, result("c2")]), "no open call"),
        (json!([user, call, result("c1"), call]), "not of the user"),
        (json!([result("c1")]), "no open call"),
        (json!([{"role": "user", "content": " "}]), "empty text block"),
        (json!([user, {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "forged"}]}, user]), "not ours"),
    ] {
        post(&vendor, Wire::Anthropic, &anthropic(messages.clone())).await;
        let violations = vendor.violations();
        assert!(violations.iter().any(|text| text.contains(expected)), "{messages}: {expected} in {violations:?}");
    }
    post(&vendor, Wire::Anthropic, &anthropic(json!([user, call, result("c1")]))).await;
    assert_eq!(vendor.violations(), Vec::<String>::new());
    post(&vendor, Wire::Anthropic, &json!({"model": "m", "stream": true, "service_tier": "priority", "messages": [user]})).await;
    let violations = vendor.violations();
    assert!(violations.iter().any(|text| text.contains("no output limit")) && violations.iter().any(|text| text.contains("service_tier")));

    let base = |messages: Value| json!({"model": "m", "max_tokens": 9, "stream": true, "stream_options": {"include_usage": true}, "messages": messages});
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]});
    let user = json!({"role": "user", "content": "hello"});
    for (messages, expected) in [
        (json!([user, call, user]), "before the results"),
        (json!([user, {"role": "tool", "tool_call_id": "c1", "content": "ok"}]), "no open call"),
        (json!([user, call]), "stay without a result"),
        (json!([user, {"role": "assistant", "content": ""}, user]), "says nothing"),
    ] {
        post(&vendor, Wire::OpenAi, &base(messages.clone())).await;
        let violations = vendor.violations();
        assert!(violations.iter().any(|text| text.contains(expected)), "{messages}: {expected} in {violations:?}");
    }
}

#[tokio::test]
async fn it_splits_cuts_and_stalls_where_it_is_told() {
    let vendor = FakeProvider::start().await;
    let user = anthropic(json!([{"role": "user", "content": "hello"}]));
    vendor.then(Reply::text("whole answer"));
    let (_, whole) = post(&vendor, Wire::Anthropic, &user).await;
    for reply in [Reply::text("whole answer").every_byte(), Reply::text("whole answer").split_at(300), Reply::text("whole answer").whole()]
    {
        vendor.then(reply);
        assert_eq!(post(&vendor, Wire::Anthropic, &user).await.1, whole, "the same bytes, however they are cut");
    }
    vendor.then(Reply::text("whole answer").cut(At::BeforeHead));
    assert_eq!(post(&vendor, Wire::Anthropic, &user).await.0, "");
    vendor.then(Reply::text("whole answer").cut(At::BeforeUsage));
    let (_, cut) = post(&vendor, Wire::Anthropic, &user).await;
    assert!(cut.contains("content_block_stop") && !cut.contains("message_delta"));
    vendor.then(Reply::text("whole answer").error(At::Frame(4), "boom"));
    assert!(post(&vendor, Wire::Anthropic, &user).await.1.contains("event: error"));
    let gate = Gate::new();
    vendor.then(Reply::text("whole answer").stall(At::BeforeHead, &gate));
    let before = vendor.call_count();
    let ((), (_, body)) = tokio::join!(
        async {
            vendor.called(before + 1).await;
            gate.open();
        },
        post(&vendor, Wire::Anthropic, &user)
    );
    assert_eq!(body, whole);
    assert_eq!(vendor.unused(), 0);
}

#[tokio::test]
async fn it_counts_what_it_would_bill() {
    let vendor = FakeProvider::start().await;
    // 3 and 15 dollars a million.
    vendor.price("fake-anthropic", "m", [3_000_000, 15_000_000, 300_000, 3_750_000]);
    vendor.then(Reply::text("x").tokens(10, 2).cached(1, 1)).then(Reply::refuse(529));
    let user = anthropic(json!([{"role": "user", "content": "hello"}]));
    post(&vendor, Wire::Anthropic, &user).await;
    assert_eq!(vendor.billed_nanos(), 30_000 + 30_000 + 300 + 3_750);
    assert_eq!(post(&vendor, Wire::Anthropic, &user).await.0, "HTTP/1.1 529 No");
    assert_eq!(vendor.billed_nanos(), 64_050, "a refusal is free");
}
