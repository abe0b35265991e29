//! The proxy among listeners on loopback, with a resolver that says what a test wants.

use super::*;
use std::sync::atomic::AtomicUsize;

/// A resolver that gives these answers, one a question, the last for ever.
fn answers(answers: &[&str]) -> (Resolve, Arc<AtomicUsize>) {
    let answers: Vec<IpAddr> = answers.iter().map(|text| text.parse().unwrap()).collect();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let resolve: Resolve = Arc::new(move |_| {
        let at = counter.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let answer = answers[at];
        Box::pin(async move { Ok(vec![answer]) })
    });
    (resolve, asked)
}

struct World {
    egress: Arc<Egress>,
    at: SocketAddr,
    _serving: JoinSet<()>,
}

/// A proxy for `api.test` at these ports, which may dial these ranges.
fn world(ports: &[u16], private: &[&str], resolve: Resolve, limits: &Limits) -> World {
    let granted = ports.iter().map(|port| Target { host: "api.test".to_owned(), port: *port }).collect();
    let private = private.iter().map(|text| Range::read(text).unwrap()).collect();
    let egress = Egress::new(granted, private, limits, resolve, Arc::default());
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(Arc::clone(&egress).serve(listener));
    World { egress, at, _serving: serving }
}

/// Says what it was sent, behind `heard `, until there is no more.
async fn echo() -> (u16, JoinSet<()>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut heard = Vec::new();
                drop(stream.read_to_end(&mut heard).await);
                drop(stream.write_all(&[b"heard ".as_slice(), &heard].concat()).await);
            });
        }
    });
    (port, tasks, count)
}

/// Sends this, says that it is all, and reads to the end.
async fn say(world: &World, text: &str) -> String {
    let mut stream = TcpStream::connect(world.at).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    drop(timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap());
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_granted_host_is_reached_through_a_tunnel_and_by_plain_requests_and_nothing_else_is() {
    let (port, _tasks, count) = echo().await;
    let (other, _more, others) = echo().await;
    let (resolve, _) = answers(&["127.0.0.1"]);
    let world = world(&[port], &["127.0.0.0/8"], resolve, &Limits::default());
    let tunnel = format!("CONNECT api.test:{port} HTTP/1.1\r\nHost: api.test:{port}\r\n\r\nhello");
    assert_eq!(say(&world, &tunnel).await, "HTTP/1.1 200 Connection established\r\n\r\nheard hello");
    let plain = format!("GET http://api.test:{port}/x HTTP/1.1\r\nHost: api.test:{port}\r\nProxy-Connection: keep-alive\r\n\r\n");
    assert_eq!(say(&world, &plain).await, format!("heard GET /x HTTP/1.1\r\nHost: api.test:{port}\r\nConnection: close\r\n\r\n"));
    assert_eq!(count.load(Ordering::SeqCst), 2);
    for (asked, status) in [
        (format!("CONNECT api.test:{other} HTTP/1.1\r\n\r\n"), "403"),
        (format!("CONNECT other.test:{port} HTTP/1.1\r\n\r\n"), "403"),
        (format!("CONNECT sub.api.test:{port} HTTP/1.1\r\n\r\n"), "403"),
        (format!("GET http://other.test:{port}/ HTTP/1.1\r\n\r\n"), "403"),
        (format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n"), "400"),
        (format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: api.test:{port}\r\n\r\n"), "400"),
        (format!("CONNECT api.test:{port} HTTP/1.1\r\nHost: other.test:{port}\r\n\r\n"), "400"),
        (format!("GET http://other.test:{port}/ HTTP/1.1\r\nHost: api.test:{port}\r\n\r\n"), "400"),
        (format!("POST http://api.test:{port}/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), "400"),
        (format!("CONNECT api.test:{port} HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(head::BYTES_MAX)), "400"),
        (format!("CONNECT api.test:{port} HTTP/1.1\r\n"), "400"),
    ] {
        let answer = say(&world, &asked).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer}", asked.len());
    }
    assert_eq!((count.load(Ordering::SeqCst), others.load(Ordering::SeqCst)), (2, 0), "nothing more was dialled");
    let told = world.egress.told();
    assert!(told[0].starts_with(&format!("api.test:{port} reached at 127.0.0.1: 5 bytes out, 11 in")), "{told:?}");
    assert_eq!(told.iter().filter(|line| line.contains(" refused: ")).count(), 11, "{told:?}");
}

#[tokio::test]
async fn what_is_smuggled_behind_a_request_goes_to_the_host_of_the_request() {
    let (port, _tasks, _) = echo().await;
    let (other, _more, others) = echo().await;
    let (resolve, _) = answers(&["127.0.0.1"]);
    let world = world(&[port], &["127.0.0.0/8"], resolve, &Limits::default());
    let inner = format!("CONNECT other.test:{other} HTTP/1.1\r\n\r\n");
    for outer in [format!("CONNECT api.test:{port} HTTP/1.1\r\n\r\n"), format!("GET http://api.test:{port}/ HTTP/1.1\r\n\r\n")] {
        let answer = say(&world, &format!("{outer}{inner}")).await;
        assert!(answer.contains("heard ") && answer.ends_with(&inner), "{answer}");
    }
    assert_eq!(others.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_leads_inwards_is_not_followed_however_often_it_changes_its_mind() {
    let (port, _tasks, count) = echo().await;
    let tunnel = format!("CONNECT api.test:{port} HTTP/1.1\r\n\r\n");
    // Nothing of these is ever dialled: no packet leaves this machine.
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "fd00::1", "fe80::1", "100.64.0.1"] {
        let (resolve, _) = answers(&[address]);
        let world = world(&[port], &[], resolve, &Limits::default());
        let answer = say(&world, &tunnel).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("no address that may be reached"), "{address}: {answer}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    // A name that first leads to what may be dialled and then elsewhere: it is asked once, and that answer is dialled.
    let (resolve, asked) = answers(&["127.0.0.1", "127.0.0.2"]);
    let world = world(&[port], &["127.0.0.1/32"], resolve, &Limits::default());
    assert!(say(&world, &tunnel).await.ends_with("heard "));
    assert_eq!((asked.load(Ordering::SeqCst), count.load(Ordering::SeqCst)), (1, 1));
    assert!(say(&world, &tunnel).await.starts_with("HTTP/1.1 403 "), "the second answer is out of range");
    assert_eq!((asked.load(Ordering::SeqCst), count.load(Ordering::SeqCst)), (2, 1));
}

#[tokio::test]
async fn bytes_and_connections_are_bounded_and_silence_ends() {
    let (port, _tasks, _) = echo().await;
    let limits = Limits {
        sandbox_egress_bytes_per_minute: 10_000,
        sandbox_egress_connections_max: 1,
        sandbox_egress_idle_ms: Duration::from_millis(300),
        ..Limits::default()
    };
    let (resolve, _) = answers(&["127.0.0.1"]);
    let world = world(&[port], &["127.0.0.0/8"], resolve, &limits);
    let tunnel = format!("CONNECT api.test:{port} HTTP/1.1\r\n\r\n");
    let mut first = TcpStream::connect(world.at).await.unwrap();
    first.write_all(tunnel.as_bytes()).await.unwrap();
    let mut begun = [0; 12];
    first.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    assert!(say(&world, &tunnel).await.starts_with("HTTP/1.1 503 "), "one at a time");
    // It says nothing more, and is ended for it; its place is free then.
    let mut rest = Vec::new();
    timeout(Duration::from_secs(10), first.read_to_end(&mut rest)).await.unwrap().unwrap();
    let mut answer = say(&world, &format!("{tunnel}{}", "x".repeat(20_000))).await;
    for _ in 0..50 {
        if !answer.starts_with("HTTP/1.1 503 ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = say(&world, &format!("{tunnel}{}", "x".repeat(20_000))).await;
    }
    assert!(!answer.contains("heard"), "more than a minute's bytes went through");
    let answer = say(&world, &tunnel).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") || answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn this_machine_s_own_addresses_are_known_without_a_packet() {
    assert!(is_own("127.0.0.1".parse().unwrap()));
    // Of the documentation's range: nobody's, and so not ours.
    assert!(!is_own("192.0.2.1".parse().unwrap()));
}
