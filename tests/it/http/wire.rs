//! Malformed, smuggled, split and slow requests. Where hyper answers by itself there is a status without a body; see `src/http/accept.rs`.

use super::{PATIENCE, Running, code, statuses};
use std::time::{Duration, Instant};

#[tokio::test]
async fn malformed_requests_are_400_and_end_the_connection() {
    let server = Running::start().await;
    let malformed = [
        "GARBAGE\r\n\r\n",
        "GET /healthz\r\n\r\n",
        "GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        "GET /health z HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nBad\0Name: y\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nNo colon here\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /healthz HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for request in malformed {
        let mut peer = server.connect().await;
        peer.send(request).await;
        // A second request behind a malformed one must find nobody.
        peer.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let text = peer.rest().await;
        assert_eq!(statuses(&text), [400], "{request:?} got {text:?}");
        assert!(peer.closes().await, "{request:?}");
    }
}

#[tokio::test]
async fn an_http_1_1_request_has_exactly_one_host() {
    let server = Running::start().await;
    for request in ["GET /healthz HTTP/1.1\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"] {
        let text = server.tell(request).await;
        assert_eq!((statuses(&text).as_slice(), code(&text).as_str()), (&[400][..], "malformed_request"), "{request:?} got {text:?}");
    }
    assert!(server.tell("GET /healthz HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"));
}

#[tokio::test]
async fn a_smuggled_request_is_never_answered() {
    let server = Running::start().await;
    let inner = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunked = format!("0\r\n\r\n{inner}");
    let shapes = [
        // CL.TE and TE.CL: the length says all of it, the chunks say that it ended before.
        format!("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}", chunked.len()),
        format!("POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n{chunked}", chunked.len()),
        // A chunk's size that is no number, or is longer than any.
        format!("POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{inner}"),
        format!("POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{inner}"),
    ];
    for shape in shapes {
        let text = server.tell(&shape).await;
        assert_eq!(statuses(&text), [404], "{shape:?} got {text:?}");
        assert!(text.contains("connection: close"), "{text:?}");
    }
}

#[tokio::test]
async fn odd_line_ends_and_chunks_are_read_in_one_way_only() {
    let server = Running::start().await;
    let inner = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    let login = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    // RFC 9112 §2.2 lets a bare LF end a line of the head; a bare CR is never a line's end.
    assert_eq!(statuses(&server.tell("GET /healthz HTTP/1.1\nHost: x\nConnection: close\n\n").await), [200]);
    for bare in ["GET /healthz HTTP/1.1\rHost: x\r\r", "GET /healthz HTTP/1.1\r\nHost: x\rX-Injected: y\r\n\r\n"] {
        assert_eq!(statuses(&server.tell(bare).await), [400], "{bare:?}");
    }
    // Extensions of a chunk are skipped; what hides a second request in one, or ends its line otherwise, is no chunk.
    let body = "{\"email\":\"a@example.com\",\"password\":\"wrong wrong wrong\"}";
    let text = server.tell(format!("{login}{:x};a=b;c=\"d\"\r\n{body}\r\n0\r\n\r\n", body.len())).await;
    assert_eq!((statuses(&text).as_slice(), code(&text).as_str()), (&[401][..], "invalid_login"), "{text}");
    let broken = [
        format!("1;a\n{inner}\r\n0\r\n\r\n"),
        format!("1\n{inner}"),
        format!("1\r\n{{}}{inner}0\r\n\r\n"),
        format!("-1\r\n{inner}"),
        format!("0x1\r\n{inner}"),
        format!(" 1\r\n{inner}"),
        format!("1;{}\r\n{inner}", "e".repeat(20_000)),
    ];
    for chunks in broken {
        let text = server.tell(format!("{login}{chunks}")).await;
        assert_eq!(statuses(&text), [400], "{chunks:.60?} got {text:?}");
        assert!(text.contains("connection: close") && !text.contains("\"version\""), "{text:?}");
    }
    // The same length twice is one length (RFC 9112 §6.3 allows it); a list of codings that repeats chunked is malformed.
    let twice = "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    assert!([[404], [400]].contains(&[statuses(&server.tell(twice).await)[0]]));
    for coding in ["gzip, chunked", "chunked, chunked", "chunked;q=1", "\"chunked\""] {
        let text = server
            .tell(format!("POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n{inner}"))
            .await;
        assert!(statuses(&text).len() == 1 && !text.contains("\"version\""), "{coding}: {text:?}");
    }
}

#[tokio::test]
async fn pipelined_and_split_requests_are_answered_in_order() {
    let server = Running::start().await;
    let text = server
        .tell("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!(statuses(&text), [200, 404, 200], "{text:?}");

    let mut peer = server.connect().await;
    for byte in "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".bytes() {
        peer.send([byte]).await;
    }
    assert_eq!(statuses(&peer.rest().await), [200]);
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused_with_a_problem_and_far_beyond_without() {
    let server = Running::start().await;
    let with = |headers: String| format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<Vec<_>>().concat();
    let long = |bytes: usize| format!("x-long: {}\r\n", "y".repeat(bytes));
    for request in [with(many(150)), with(long(40_000))] {
        let text = server.tell(request).await;
        assert_eq!((statuses(&text).as_slice(), code(&text).as_str()), (&[431][..], "headers_too_large"));
    }
    for request in [with(many(250)), with(long(100_000))] {
        let text = server.tell(request).await;
        assert_eq!(statuses(&text), [431], "{text:?}");
    }
    let text = server.tell(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9_000))).await;
    assert_eq!((statuses(&text).as_slice(), code(&text).as_str()), (&[414][..], "uri_too_long"));
}

#[tokio::test]
async fn slow_and_silent_clients_lose_their_connection() {
    let server = Running::with(|config| config.limits.header_timeout_ms = Duration::from_millis(300)).await;
    for beginning in ["", "G", "GET /healthz HTTP/1.1\r\n", "GET /healthz HTTP/1.1\r\nHost: x\r\nSlow", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut peer = server.connect().await;
        peer.send(beginning).await;
        let began = Instant::now();
        assert!(peer.closes().await, "{beginning:?}");
        assert!(began.elapsed() < PATIENCE / 2, "{beginning:?} was held for {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn http_2_works_without_tls() {
    let server = Running::start().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.get(server.url("/nowhere")).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 404));
    let problem: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(problem["code"], "not_found");
}
