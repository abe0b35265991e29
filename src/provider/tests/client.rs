//! Sending, against a real socket on loopback that answers by a script.

use super::*;
use crate::{
    config::{Limits, Secret},
    provider::client::{Call, Client, Ended, Outcome},
    wallet::{Held, Sealed},
};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};

/// A hold of no money; only tests can make one.
#[derive(Debug, PartialEq)]
struct TestHold(u32);
impl Sealed for TestHold {}
impl Held for TestHold {}

/// What the server does once it has read a request.
#[derive(Clone)]
enum Act {
    Write(String),
    WaitMs(u64),
    /// Wait until the other side hangs up, and tell.
    AwaitHangUp,
    Close,
}

struct Server {
    base_url: String,
    requests: mpsc::UnboundedReceiver<String>,
    connections: Arc<AtomicUsize>,
}

/// Answers each request by the next script; the last one goes on for ever.
async fn serve(scripts: Vec<Vec<Act>>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    let (connections, next) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(talk(socket, scripts.clone(), next.clone(), sender.clone()));
        }
    });
    Server { base_url, requests, connections }
}

async fn talk(mut socket: TcpStream, scripts: Vec<Vec<Act>>, next: Arc<AtomicUsize>, requests: mpsc::UnboundedSender<String>) {
    while let Some(request) = read_request(&mut socket).await {
        requests.send(request).unwrap();
        let n = next.fetch_add(1, Ordering::SeqCst).min(scripts.len() - 1);
        for act in &scripts[n] {
            match act {
                Act::Write(text) => socket.write_all(text.as_bytes()).await.unwrap_or(()),
                Act::WaitMs(ms) => sleep(Duration::from_millis(*ms)).await,
                Act::AwaitHangUp => {
                    while socket.read(&mut [0; 64]).await.is_ok_and(|bytes| bytes > 0) {}
                    requests.send("hung up".into()).unwrap();
                    return;
                }
                Act::Close => return,
            }
        }
    }
}

async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Some(text);
        }
    }
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_7\r\ntransfer-encoding: chunked\r\n\r\n";

/// One chunk of a chunked body.
fn part(text: &str) -> Act {
    Act::Write(format!("{:x}\r\n{text}\r\n", text.len()))
}

fn end() -> Act {
    Act::Write("0\r\n\r\n".into())
}

fn head() -> Act {
    Act::Write(HEAD.into())
}

fn status(line: &str, headers: &str, body: &str) -> Vec<Act> {
    vec![Act::Write(format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))]
}

/// A stream that says "one two" and then calls a tool.
fn answer_parts() -> Vec<String> {
    let calls = json!([{"index": 0, "id": "call_1", "function": {"name": "read", "arguments": "{}"}}]);
    let chunks = [
        chunk(json!({"content": "one "}), Json::Null),
        chunk(json!({"content": "two"}), Json::Null),
        chunk(json!({"tool_calls": calls}), "tool_calls".into()),
        usage_chunk(json!({"prompt_tokens": 3, "completion_tokens": 4})),
    ];
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect()
}

fn whole_answer() -> Vec<Act> {
    std::iter::once(head()).chain(answer_parts().iter().map(|text| part(text))).chain([end()]).collect()
}

/// Time-outs short enough to wait for, long enough for a busy machine.
fn limits() -> Limits {
    Limits {
        provider_first_byte_timeout_ms: Duration::from_millis(400),
        provider_idle_timeout_ms: Duration::from_millis(400),
        provider_total_timeout_ms: Duration::from_millis(2_000),
        ..Limits::default()
    }
}

fn call_to(client: &Client, name: &str, wire: Wire, base_url: &str) -> Call<TestHold> {
    let mut to = provider(name, wire, base_url);
    to.api_key = Some(Secret::new("sk-secret".into()));
    let asked = Prompt { tools: Arc::new([tool("read")]), ..prompt(name, vec![user("Hello")]) };
    client.send(TestHold(7), &to, encode(&to, &asked))
}

fn openai_call(server: &Server) -> Call<TestHold> {
    call_to(&Client::new(&limits()).unwrap(), "openai", Wire::OpenAi, &server.base_url)
}

async fn run(mut call: Call<TestHold>) -> (Vec<Piece>, Ended) {
    let mut pieces = Vec::new();
    let all = async {
        while let Some(piece) = call.next().await {
            pieces.push(piece);
        }
    };
    timeout(Duration::from_secs(10), all).await.expect("a call ends by itself");
    assert_eq!(call.next().await, None, "over is over");
    let (ended, hold) = call.end();
    assert_eq!(hold, TestHold(7), "the hold comes back");
    (pieces, ended)
}

fn text_of(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.as_str() } else { "" }).collect()
}

#[tokio::test]
async fn an_answer_comes_in_pieces_and_the_hold_back() {
    let mut server = serve(vec![whole_answer()]).await;
    let (pieces, ended) = run(openai_call(&server)).await;
    assert_eq!(text_of(&pieces), "one two");
    assert_eq!(pieces.last(), Some(&Piece::ToolCall(call("call_1", "read", json!({})))), "calls are told last");
    let Outcome::Answered(answer) = ended.outcome else { panic!("{ended:?}") };
    assert_eq!((answer.finish, answer.usage), (FinishReason::ToolCalls, Some(usage(3, 4, 0, 0))));
    assert_eq!((ended.sent, ended.vendor_request_id.as_deref()), (true, Some("req_7")));
    assert!(ended.first_byte.is_some_and(|first| first <= ended.total));
    let request = server.requests.recv().await.unwrap().to_lowercase();
    assert!(request.starts_with("post /chat/completions http/1.1\r\n"), "{request}");
    assert!(
        request.contains("\r\nauthorization: bearer sk-secret\r\n") && request.contains("\r\ncontent-type: application/json\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn anthropic_gets_its_own_headers() {
    let mut server = serve(vec![status(
        "529 Overloaded",
        "",
        "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}",
    )])
    .await;
    let (_, ended) = run(call_to(&Client::new(&limits()).unwrap(), "anthropic", Wire::Anthropic, &server.base_url)).await;
    assert!(matches!(&ended.outcome, Outcome::Refused(Refusal { kind: RefusalKind::Overloaded, status: Some(529), .. })), "{ended:?}");
    let request = server.requests.recv().await.unwrap().to_lowercase();
    assert!(request.starts_with("post /v1/messages http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nx-api-key: sk-secret\r\n") && request.contains("\r\nanthropic-version: 2023-06-01\r\n"), "{request}");
    assert!(!request.contains("bearer"));
}

#[tokio::test]
async fn a_clear_no_is_free_and_an_unclear_one_is_not() {
    let body = r#"{"error":{"message":"slow down, sk-secret","type":"requests","code":"rate_limit_exceeded"}}"#;
    let server = serve(vec![
        status("429 Too Many Requests", "retry-after: 7\r\n", body),
        status("502 Bad Gateway", "", "<html>oops</html>"),
        status("307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n", ""),
    ])
    .await;
    let (pieces, ended) = run(openai_call(&server)).await;
    let refusal = Refusal {
        kind: RefusalKind::Overloaded,
        status: Some(429),
        message: "slow down, [secret]".into(),
        retry_after: Some(Duration::from_secs(7)),
    };
    assert_eq!((pieces, ended.outcome), (vec![], Outcome::Refused(refusal)));
    let (_, ended) = run(openai_call(&server)).await;
    assert!(matches!(ended.outcome, Outcome::Broken(Broken::Reported(_))), "{ended:?}");
    let (_, ended) = run(openai_call(&server)).await;
    assert!(
        matches!(&ended.outcome, Outcome::Refused(Refusal { kind: RefusalKind::NotConfigured, status: Some(307), .. })),
        "not followed: {ended:?}"
    );
}

#[tokio::test]
async fn no_connection_is_free() {
    let free_port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let client = Client::new(&limits()).unwrap();
    for base_url in [format!("http://127.0.0.1:{free_port}"), "http://nowhere.invalid".to_owned()] {
        let (_, ended) = run(call_to(&client, "openai", Wire::OpenAi, &base_url)).await;
        assert!(
            matches!(&ended.outcome, Outcome::Refused(Refusal { kind: RefusalKind::Unreachable, status: None, .. })),
            "{base_url}: {ended:?}"
        );
        assert!(!ended.sent);
    }
    let (_, ended) = run(call_to(&client, "openai", Wire::OpenAi, "not an address")).await;
    assert!(matches!(&ended.outcome, Outcome::Refused(Refusal { kind: RefusalKind::NotConfigured, .. })), "{ended:?}");
    // A server that never answers the TLS handshake: the connection's time-out ends it, before any request.
    let plain = serve(vec![vec![Act::Close]]).await;
    let impatient = Client::new(&Limits { provider_connect_timeout_ms: Duration::from_millis(150), ..limits() }).unwrap();
    let (_, ended) = run(call_to(&impatient, "openai", Wire::OpenAi, &plain.base_url.replace("http:", "https:"))).await;
    assert!(matches!(&ended.outcome, Outcome::Refused(Refusal { kind: RefusalKind::Unreachable, .. })), "{ended:?}");
    // One that hangs up in the handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let (_, ended) = run(call_to(&client, "openai", Wire::OpenAi, &base_url)).await;
    assert!(matches!(&ended.outcome, Outcome::Refused(Refusal { kind: RefusalKind::Unreachable, .. })), "{ended:?}");
}

#[tokio::test]
async fn silence_ends_a_call() {
    let parts = answer_parts();
    let keepalives = std::iter::repeat_n([Act::WaitMs(200), part(": keepalive\n\n")], 30).flatten();
    let server = serve(vec![
        vec![Act::AwaitHangUp],
        vec![head(), Act::AwaitHangUp],
        vec![head(), part(&parts[0]), Act::AwaitHangUp],
        std::iter::once(head()).chain(keepalives).collect(),
    ])
    .await;
    for (why, output_bytes) in [
        ("no answer began in time", 0),
        ("no answer began in time", 0),
        ("the answer stood still for too long", 4),
        ("the answer took too long", 0),
    ] {
        let (_, ended) = run(openai_call(&server)).await;
        assert_eq!((ended.outcome, ended.progress.output_bytes, ended.sent), (Outcome::Broken(Broken::TimedOut(why)), output_bytes, true));
    }
}

#[tokio::test]
async fn a_cut_stream_is_broken_and_what_came_is_known() {
    let parts = answer_parts();
    let server = serve(vec![
        vec![head(), part(&parts[0]), part(&parts[1]), Act::Close],
        vec![Act::Close],
        vec![head(), part(&parts[0]), part("data: {\"error\":{\"message\":\"boom\"}}\n\n"), end()],
    ])
    .await;
    let (pieces, ended) = run(openai_call(&server)).await;
    assert_eq!((text_of(&pieces).as_str(), ended.outcome, ended.progress.output_bytes), ("one two", Outcome::Broken(Broken::Truncated), 7));
    let (_, ended) = run(openai_call(&server)).await;
    assert_eq!((ended.outcome, ended.sent), (Outcome::Broken(Broken::Truncated), true), "closed without a word: it may have been accepted");
    let (_, ended) = run(openai_call(&server)).await;
    assert_eq!(ended.outcome, Outcome::Broken(Broken::Reported("error: boom".into())));
}

#[tokio::test]
async fn letting_go_cancels() {
    let mut server = serve(vec![vec![head(), part(&answer_parts()[0]), Act::AwaitHangUp]]).await;
    let mut call = openai_call(&server);
    assert_eq!(call.next().await, Some(Piece::Text("one ".into())));
    let (ended, hold) = call.end();
    assert_eq!((ended.outcome, ended.sent, ended.progress.output_bytes, hold), (Outcome::Cancelled, true, 4, TestHold(7)));
    server.requests.recv().await.unwrap();
    assert_eq!(timeout(Duration::from_secs(5), server.requests.recv()).await.unwrap().unwrap(), "hung up");

    let (ended, _) = openai_call(&server).end();
    assert_eq!((ended.outcome, ended.sent), (Outcome::Cancelled, false), "nothing leaves before the first `next`");
    let mut dropped = openai_call(&server);
    dropped.next().await;
    drop(dropped);
    server.requests.recv().await.unwrap();
    assert_eq!(timeout(Duration::from_secs(5), server.requests.recv()).await.unwrap().unwrap(), "hung up");
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let script: Vec<Act> = whole_answer().into_iter().flat_map(|act| [Act::WaitMs(30), act]).collect();
    let server = serve(vec![script]).await;
    let mut call = openai_call(&server);
    let (mut pieces, mut waits) = (Vec::new(), 0);
    loop {
        match timeout(Duration::from_millis(5), call.next()).await {
            Ok(Some(piece)) => pieces.push(piece),
            Ok(None) => break,
            Err(_) => waits += 1,
        }
    }
    assert!(waits > 3, "{waits}");
    assert_eq!((text_of(&pieces).as_str(), pieces.len()), ("one two", 3));
    assert!(matches!(call.end().0.outcome, Outcome::Answered(_)));
}

#[tokio::test]
async fn connections_are_used_again_and_an_open_end_is_not_waited_for() {
    let open_end: Vec<Act> = whole_answer().into_iter().take(6).chain([Act::AwaitHangUp]).collect();
    let server = serve(vec![whole_answer(), whole_answer(), open_end]).await;
    let client = Client::new(&limits()).unwrap();
    for _ in 0..2 {
        let (_, ended) = run(call_to(&client, "openai", Wire::OpenAi, &server.base_url)).await;
        assert!(matches!(ended.outcome, Outcome::Answered(_)), "{ended:?}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let (_, ended) = run(call_to(&client, "openai", Wire::OpenAi, &server.base_url)).await;
    assert!(matches!(ended.outcome, Outcome::Answered(_)), "{ended:?}");
    assert!(ended.total < Duration::from_millis(350), "not the idle time-out: {:?}", ended.total);
}

#[tokio::test]
async fn echo_needs_no_network() {
    let client = Client::new(&limits()).unwrap();
    let to = provider("echo", Wire::Echo, "");
    let asked = Prompt { tools: Arc::new([tool("read")]), ..prompt("echo", vec![user("call read {\"a\": 1}")]) };
    let (pieces, ended) = run(client.send(TestHold(7), &to, encode(&to, &asked))).await;
    assert_eq!(pieces, [Piece::ToolCall(call("call_1", "read", json!({"a": 1})))]);
    assert!(matches!(ended.outcome, Outcome::Answered(Answer { usage: Some(_), .. })), "{ended:?}");
    let (pieces, _) = run(client.send(TestHold(7), &to, encode(&to, &prompt("echo", vec![user("so many words")])))).await;
    assert_eq!((pieces.len(), text_of(&pieces).as_str()), (5, "You said: so many words"), "word by word");
}
