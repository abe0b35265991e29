//! Two tenants, every endpoint: whatever of A's B puts into a path, a query, a body or a header is answered exactly as if it were nobody's,
//! and costs the server the same work. Work is counted (statements, commits, proofs of keys), since clocks of a busy machine tell nothing.

use crate::{
    harness::{Answer, Server, Settings},
    isolation::{Belongings, CANARY, belongings, body_of, endpoints, path_with, random_id},
};
use nimblesite::http::endpoint::{Endpoint, Handler};
use serde_json::{Value, json};

/// A request with a place in it for what it names.
struct Probe<'a> {
    what: String,
    method: &'a str,
    path: String,
    credential: &'a str,
    headers: Vec<(&'a str, String)>,
    body: Option<String>,
}

/// Stands for what is named.
const NAMED: &str = "@named@";

/// What a client, and a stopwatch, could tell two answers apart by.
#[derive(Debug, PartialEq)]
struct Told {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    /// Statements, commits, proofs of keys.
    work: [u64; 3],
}

/// Header fields whose values are of the moment.
const OF_THE_MOMENT: &[&str] = &["date", "x-request-id", "ratelimit", "x-turn-id"];

async fn work(server: &Server) -> [u64; 3] {
    let text = server.get("/metrics", "").await.expect(200).body;
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    [
        number("nimblesite_storage_statements_total"),
        number("nimblesite_storage_commits_total"),
        number("nimblesite_level{name=\"key_checks_made\"}"),
    ]
}

impl Probe<'_> {
    async fn ask(&self, server: &Server, named: &str) -> Told {
        let put = |text: &str| text.replace(NAMED, named);
        let mut request = server.request(self.method, &put(&self.path), self.credential);
        for (name, value) in &self.headers {
            request = request.header(*name, put(value));
        }
        if let Some(body) = &self.body {
            request = request.body(put(body));
        }
        let before = work(server).await;
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        let after = work(server).await;
        assert!(named == CANARY || !answer.body.contains(CANARY), "{}: a canary got out: {}", self.what, answer.body);
        let hide = |text: &str| text.replace(named, "<named>");
        let body = match serde_json::from_str::<Value>(&hide(&answer.body)) {
            Ok(json) => crate::harness::mask(&json),
            // A file of the tenant's own, with the time of its making in it; its length is compared by its header.
            Err(_) if answer.header("content-type") == Some("application/vnd.sqlite3") => "<a file>".to_owned(),
            Err(_) => hide(&answer.body),
        };
        let headers = answer.headers.iter().map(|(name, value)| {
            let hidden = OF_THE_MOMENT.contains(&name.as_str());
            (name.to_string(), if hidden { String::new() } else { hide(value.to_str().expect("text")) })
        });
        Told { status: answer.status, headers: headers.collect(), body, work: std::array::from_fn(|n| after[n] - before[n]) }
    }

    /// Whether A's and nobody's are told apart. What goes on in the background may be counted along, but not each time.
    async fn same(&self, server: &Server, theirs: &str, nobodys: impl Fn() -> String) -> u16 {
        let mut apart = None;
        for _ in 0..4 {
            let (real, random) = (self.ask(server, theirs).await, self.ask(server, &nobodys()).await);
            if real == random {
                return real.status;
            }
            let by_work_alone = real.status == random.status && real.headers == random.headers && real.body == random.body;
            apart = Some((real, random));
            if !by_work_alone {
                break;
            }
        }
        panic!("{} tells A's from nobody's: {apart:?}", self.what)
    }
}

/// Every id of A's.
fn ids(a: &Belongings) -> [&String; 10] {
    [&a.config, &a.conversation, &a.turn, &a.message, &a.log, &a.key, &a.entry, &a.token, &a.tenant.id, &a.tenant.owner.id]
}

fn credential<'a>(endpoint: &Endpoint, key: &'a str, token: &'a str) -> Option<&'a str> {
    match endpoint.handler {
        Handler::Tenant(..) | Handler::TenantOrUser(..) => Some(key),
        Handler::User(_) => Some(token),
        Handler::Open(_) | Handler::Credentials(_) | Handler::Operator(_) | Handler::Ops(_) => None,
        Handler::Session(_) | Handler::Page(..) | Handler::OperatorPage(_) => unreachable!("a page"),
    }
}

/// A random word as long as the canary.
fn word() -> String {
    let id = random_id().replace('-', "");
    id[id.len() - CANARY.len()..].to_owned()
}

#[tokio::test]
async fn whatever_of_another_tenant_s_is_named_is_answered_like_nobody_s_and_costs_the_same() {
    let mut server = Settings::default().process().limit("refusal_logs_per_minute", 1_000_000).start().await;
    server.env.insert("NIMBLESITE_LOG", "nimblesite=trace,debug".to_owned());
    server.stop().await;
    server.run().await;
    let a = belongings(&server).await;
    let b = server.rich_tenant("Bolt").await;
    let mine = server.config(&b, "echo", "echo", &json!({})).await;
    server.say(&b.key, &mine, "hello").await;
    let quiet = server.rich_tenant("Cork").await;
    let own = server.config(&quiet, "echo", "echo", &json!({})).await;
    server.say(&quiet.key, &own, "hello").await;
    let (key, token) = (b.key.clone(), b.owner.token.clone());
    let probe = |what: String, method, path: String, credential| Probe { what, method, path, credential, headers: Vec::new(), body: None };
    let mut tried = [0; 4];

    for endpoint in endpoints() {
        let Some(credential) = credential(endpoint, &key, &token) else { continue };
        let body = body_of(endpoint).map(|body| body.to_string());
        // In the path, with the body that the endpoint takes.
        if endpoint.path.contains('{') {
            let theirs = std::cell::RefCell::new(String::new());
            let path = path_with(endpoint, |name| {
                *theirs.borrow_mut() = a.id_for(endpoint, name);
                NAMED.to_owned()
            });
            let probe = Probe { body, ..probe(endpoint.name.to_owned(), endpoint.method, path, credential) };
            let status = probe.same(&server, &theirs.into_inner(), random_id).await;
            assert_eq!(status, 404, "{}", endpoint.name);
            tried[0] += 1;
            continue;
        }
        if endpoint.method != "GET" {
            continue;
        }
        // By a tenant that named none of them in a path, for its own log would tell.
        let credential = if credential == token { &quiet.owner.token } else { &quiet.key };
        // In every parameter of its query: each id, and words that only A has.
        for (name, _) in &endpoint.query {
            let name = name.replace('*', "k");
            for id in ids(&a) {
                let probe = probe(format!("{} ?{name}=", endpoint.name), "GET", format!("{}?{name}={NAMED}", endpoint.path), credential);
                probe.same(&server, id, random_id).await;
                tried[1] += 1;
            }
            let probe = probe(format!("{} ?{name}=", endpoint.name), "GET", format!("{}?{name}={NAMED}", endpoint.path), credential);
            probe.same(&server, CANARY, word).await;
        }
        if endpoint.query.iter().any(|(name, _)| *name == "metadata.*") {
            let probe = probe("a metadata key".to_owned(), "GET", format!("{}?metadata.{NAMED}=x", endpoint.path), credential);
            probe.same(&server, CANARY, word).await;
        }
        // In headers, those that other systems would believe included.
        for id in [&a.tenant.id, &a.tenant.owner.id, &a.conversation] {
            let names =
                ["X-Tenant-Id", "X-User-Id", "X-Forwarded-User", "X-Request-Id", "Last-Event-ID", "Idempotency-Key", "If-None-Match"];
            let headers = names.iter().map(|name| (*name, NAMED.to_owned())).chain([("Cookie", format!("session={NAMED}"))]).collect();
            let probe = Probe { headers, ..probe(format!("{} with headers", endpoint.name), "GET", endpoint.path.to_owned(), credential) };
            assert_eq!(probe.same(&server, id, random_id).await, 200, "{}", endpoint.name);
            tried[2] += 1;
        }
    }

    // In bodies, and in keys that make a request the same again.
    let chat = format!("/api/v1/chat/{mine}");
    let bodies = [
        (chat.as_str(), &key, json!({"message": "go", "conversation_id": NAMED}), &a.conversation),
        (&chat, &key, json!({"conversation_id": NAMED, "tool_results": [{"tool_call_id": "c1", "content": "x"}]}), &a.conversation),
        (&chat, &key, json!({"message": "go", "conversation_id": NAMED}), &a.turn),
        ("/api/v1/keys", &token, json!({"name": "k", "tenant_id": NAMED}), &a.tenant.id),
        ("/api/v1/keys", &key, json!({"name": "k", "user_id": NAMED}), &a.tenant.owner.id),
    ];
    for (path, credential, body, id) in bodies {
        let probe = Probe { body: Some(body.to_string()), ..probe(format!("{path} {body}"), "POST", path.to_owned(), credential) };
        assert!((400..500).contains(&probe.same(&server, id, random_id).await), "{path} {body}");
        tried[3] += 1;
    }
    for stream in [false, true] {
        let headers = vec![("Idempotency-Key", NAMED.to_owned())];
        let body = Some(json!({"message": format!("my {stream}"), "stream": stream}).to_string());
        let probe = Probe { headers, body, ..probe("another's idempotency key".to_owned(), "POST", chat.clone(), &key) };
        let status = {
            let (real, random) = (probe.ask(&server, &format!("{CANARY}-{stream}")).await, probe.ask(&server, &word()).await);
            assert_eq!(real.status, random.status);
            real.status
        };
        assert_eq!(status, 200);
    }
    let replayed = Probe {
        headers: vec![("Idempotency-Key", CANARY.to_owned())],
        body: Some(json!({"message": "mine"}).to_string()),
        ..probe("the very key that A used".to_owned(), "POST", chat.clone(), &key)
    };
    let answer = replayed.ask(&server, "nothing").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.headers.iter().any(|(name, _)| name == "idempotency-replayed"), "B got what A was answered");

    assert!(tried[0] > 15 && tried[1] > 100 && tried[2] > 20 && tried[3] == 5, "{tried:?}");
    println!("{tried:?} probes in paths, queries, headers and bodies");
    // Nor do the operator's eyes get it: the log at its most talkative, and the metrics.
    let printed = server.printed();
    assert!(printed.lines().count() > 500, "the log says something: {} lines", printed.lines().count());
    for secret in
        [CANARY, a.tenant.key.as_str(), &a.tenant.owner.token, &key, &token, crate::fake_provider::VENDOR_KEY, crate::harness::OPERATOR]
    {
        let line = printed.lines().find(|line| line.contains(secret));
        // Addresses of requests are logged without their queries.
        assert!(line.is_none(), "the log tells {secret}: {line:?}");
    }
    assert!(!server.get("/metrics", "").await.expect(200).body.contains(CANARY));
    server.done().await;
}
