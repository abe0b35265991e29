//! Nobody sees another tenant's data: every endpoint of the published document, tried with no key, a wrong key, too weak a role, and another
//! tenant's ids. The lists of exceptions only shrink.

use crate::{
    fake_provider::Reply,
    harness::{Answer, Server, Tenant, config_body, mask},
};
use nimblesite::{
    http::endpoint::{Endpoint, Handler},
    model::Role,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// In everything that tenant A has stored, and in no answer that B ever gets.
pub const CANARY: &str = "canary-7c1e";

/// The endpoints of the published document. The dashboard's pages are `dashboard`'s to try.
pub fn endpoints() -> Vec<&'static Endpoint> {
    nimblesite::http::table().expect("a table").endpoints().filter(|endpoint| !endpoint.is_page()).collect()
}

/// A body that an endpoint accepts as far as it can be judged without looking at the path's ids.
pub fn body_of(endpoint: &Endpoint) -> Option<Value> {
    match endpoint.name {
        "ChatCreate" => Some(json!({"message": "go"})),
        "ConfigCreate" | "ConfigReplace" => Some(config_body("A name", "echo", "echo", &json!({}))),
        "BundlePut" => Some(json!("no archive")),
        "ConfigUpdate" => Some(json!({"system_prompt": "Another."})),
        "ConversationUpdate" => Some(json!({"title": "Another"})),
        "KeyCreate" => Some(json!({"name": "a key", "role": "viewer"})),
        "KeyUpdate" => Some(json!({"name": "another"})),
        "KeyRotate" | "TurnCancel" => Some(json!({})),
        "MemberAdd" => Some(json!({"email": "new@example.com", "role": "viewer"})),
        "MemberUpdate" => Some(json!({"role": "viewer"})),
        "TenantUpdate" => Some(json!({"name": "Another name"})),
        "TenantDelete" => Some(json!({"confirm": "not its name"})),
        _ => {
            assert!(endpoint.body.is_none() || !is_tenant(endpoint), "{}: say here which body it takes", endpoint.name);
            None
        }
    }
}

fn is_tenant(endpoint: &Endpoint) -> bool {
    matches!(endpoint.handler, Handler::Tenant(..) | Handler::TenantOrUser(..))
}

/// The role that a tenant's endpoint asks for.
fn role_of(endpoint: &Endpoint) -> Option<Role> {
    match endpoint.handler {
        Handler::Tenant(role, _) | Handler::TenantOrUser(role, ..) => Some(role),
        _ => None,
    }
}

/// The endpoint's path with each parameter replaced.
pub fn path_with(endpoint: &Endpoint, value: impl Fn(&str) -> String) -> String {
    let part = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => value(name),
        None => part.to_owned(),
    };
    endpoint.path.split('/').map(part).collect::<Vec<_>>().join("/")
}

pub fn random_id() -> String {
    nimblesite::ids::ConfigId::new().to_string()
}

async fn call(server: &Server, endpoint: &Endpoint, path: &str, credential: &str) -> Answer {
    server.call(endpoint.method, path, credential, body_of(endpoint).as_ref()).await
}

#[tokio::test]
async fn the_published_document_lists_every_endpoint_and_no_other() {
    let server = Server::start().await;
    let document = server.get("/openapi.json", "").await.expect(200).json();
    let mut published = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            published.insert((method.to_uppercase(), path.clone(), operation["operationId"].as_str().unwrap_or_default().to_owned()));
        }
    }
    let table: BTreeSet<_> =
        endpoints().iter().map(|endpoint| (endpoint.method.to_owned(), endpoint.path.to_owned(), endpoint.name.to_owned())).collect();
    assert_eq!(published, table);
    assert!(published.len() > 40, "{}", published.len());
    server.done().await;
}

#[tokio::test]
async fn no_credential_and_no_wrong_one_opens_anything() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let (revoked, revoked_id) = server.key(&tenant, "admin").await;
    server.delete(&format!("/api/v1/keys/{revoked_id}"), &tenant.key).await.expect(204);
    let stranger = Server::start().await;
    let unknown = stranger.tenant("Stranger").await;
    let mut typo = tenant.key.clone();
    let last = if typo.pop() == Some('a') { 'b' } else { 'a' };
    typo.push(last);
    // The right public id with another key's secret.
    let parts: Vec<_> = tenant.key.split('_').collect();
    let others: Vec<_> = unknown.key.split('_').collect();
    let spliced = [parts[0], parts[1], parts[2], others[3], others[4]].join("_");
    let wrong_keys = [revoked.as_str(), unknown.key.as_str(), &typo, &spliced, "ns_live_", "ns_live_a_b_c", &tenant.owner.token];
    let wrong_tokens = [unknown.owner.token.as_str(), "nu_nothing", &tenant.key, "operator"];
    let rows = server.rows();
    for endpoint in endpoints() {
        let path = path_with(endpoint, |_| random_id());
        let name = endpoint.name;
        let wrong: (&[&str], &str) = match endpoint.handler {
            // Asset paths and the like; what they show is for anyone.
            Handler::Open(_) | Handler::Credentials(_) | Handler::Ops(_) => continue,
            Handler::Session(_) | Handler::Page(..) | Handler::OperatorPage(_) => unreachable!("a page"),
            Handler::Tenant(..) => (&wrong_keys, "invalid_api_key"),
            Handler::TenantOrUser(..) => (&wrong_keys[..6], "invalid_api_key"),
            Handler::User(_) | Handler::Operator(_) => (&wrong_tokens, "invalid_token"),
        };
        call(&server, endpoint, &path, "").await.problem(401, "missing_credentials");
        let mut shown = BTreeSet::new();
        for credential in wrong.0 {
            let answer = call(&server, endpoint, &path, credential).await;
            assert_eq!((answer.status, answer.code().as_str()), (401, wrong.1), "{name} with {credential}: {}", answer.body);
            shown.insert(mask(&answer.json()));
        }
        assert_eq!(shown.len(), 1, "{name}: one and the same answer for every wrong credential: {shown:?}");
    }
    assert_eq!(server.rows(), rows, "nothing was changed");
    stranger.done().await;
    server.done().await;
}

#[tokio::test]
async fn a_weaker_role_is_not_enough() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let viewer = server.key(&tenant, "viewer").await.0;
    let member = server.key(&tenant, "member").await.0;
    let admin = server.key(&tenant, "admin").await.0;
    let rows = server.rows();
    let mut tried = 0;
    for endpoint in endpoints() {
        let Some(role) = role_of(endpoint) else { continue };
        let weaker: &[&String] = match role {
            Role::Viewer => &[],
            Role::Member => &[&viewer],
            Role::Admin => &[&viewer, &member],
            Role::Owner => &[&viewer, &member, &admin],
        };
        let path = path_with(endpoint, |_| random_id());
        for key in weaker {
            let answer = call(&server, endpoint, &path, key).await.problem(403, "insufficient_role");
            assert_eq!(answer.text("/required_role"), role.name(), "{}", endpoint.name);
            tried += 1;
        }
        // The role itself gets past the door, whatever comes then.
        if endpoint.method == "GET" {
            let enough = [&viewer, &member, &admin, &tenant.key][role as usize];
            let answer = call(&server, endpoint, &path, enough).await;
            assert!(![401, 403].contains(&answer.status), "{}: {}", endpoint.name, answer.body);
        }
    }
    assert!(tried > 20, "{tried}");
    // The owner's export was let through, and told of.
    let expected = rows.into_iter().map(|(table, count)| if table == "catalog.audit" { (table, count + 1) } else { (table, count) });
    assert_eq!(server.rows(), expected.collect(), "nothing was changed");
    server.done().await;
}

/// Everything that a tenant may have, each with the canary in it.
pub struct Belongings {
    pub tenant: Tenant,
    pub config: String,
    pub conversation: String,
    pub turn: String,
    pub message: String,
    pub log: String,
    pub key: String,
    pub entry: String,
    pub token: String,
}

pub async fn belongings(server: &Server) -> Belongings {
    let owner = server.user(&format!("{CANARY}@example.com")).await;
    let tenant = server.tenant_of(&owner, &format!("Acme {CANARY}")).await;
    let credit = json!({"amount": "10", "note": CANARY, "reference": CANARY});
    let path = format!("/api/v1/operator/tenants/{}/credit", tenant.id);
    server.post(&path, crate::harness::OPERATOR, &credit).await.expect(201);
    let extra =
        json!({"system_prompt": format!("{{{{{CANARY}}}}} {{v}}"), "metadata": {"k": CANARY}, "tools_config": [format!("tool_{CANARY}")]});
    let config =
        server.post("/api/v1/configs", &tenant.key, &config_body(CANARY, "fake-anthropic", "smart", &extra)).await.expect(201).text("/id");
    server.vendor.then(Reply::calls(&[("c1", &format!("tool_{CANARY}"), json!({"q": CANARY}))]));
    let body = json!({"message": format!("my {CANARY}"), "metadata": {"k": CANARY}, "user": CANARY, "template_vars": {"v": CANARY}});
    let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).header("Idempotency-Key", CANARY);
    let answer = Answer::read(request.body(body.to_string()).send().await.expect("an answer")).await.expect(200);
    let key = server.key_with(&tenant, &json!({"name": CANARY, "role": "viewer"})).await.1;
    let log = server.logs(&tenant.key).await[0]["id"].as_str().unwrap().to_owned();
    let entry = server.get("/api/v1/wallet/ledger", &tenant.key).await.ids().pop().unwrap();
    let token = server.get("/api/v1/auth/tokens", &owner.token).await.ids().pop().unwrap();
    Belongings {
        config,
        conversation: answer.text("/conversation_id"),
        turn: answer.text("/turn_id"),
        message: answer.text("/message_id"),
        log,
        key,
        entry,
        token,
        tenant,
    }
}

impl Belongings {
    /// The id that this parameter of this endpoint may name.
    pub fn id_for(&self, endpoint: &Endpoint, parameter: &str) -> String {
        let path = endpoint.path;
        let id = match parameter {
            "config_id" => &self.config,
            "turn_id" => &self.turn,
            "user_id" => &self.tenant.owner.id,
            _ if path.contains("/configs/") => &self.config,
            _ if path.contains("/conversations/") => &self.conversation,
            _ if path.contains("/keys/") => &self.key,
            _ if path.contains("/logs/") => &self.log,
            _ if path.contains("/auth/tokens/") => &self.token,
            _ => panic!("{path}: say here whose id {{{parameter}}} is"),
        };
        id.clone()
    }
}

/// Makes a body that names an id.
type Body<'a> = &'a dyn Fn(&str) -> Value;

/// Status and body with this id and the request's own masked: what must be equal for an id of another tenant and one of nobody.
fn told(answer: &Answer, id: &str) -> String {
    assert!(!answer.body.contains(CANARY), "a canary got out: {}", answer.body);
    let mut body = answer.body.replace(id, "<the id>");
    if let Some(request) = answer.header("x-request-id") {
        body = body.replace(request, "<request>");
    }
    format!("{} {body}", answer.status)
}

#[tokio::test]
async fn another_tenant_s_ids_answer_as_ids_that_never_were() {
    let server = Server::start().await;
    let a = belongings(&server).await;
    let b = server.rich_tenant("Bolt").await;
    let calls = server.vendor.call_count();
    let before = server.rows();
    let mut tried = 0;
    for endpoint in endpoints() {
        let credential = match endpoint.handler {
            Handler::Tenant(..) | Handler::TenantOrUser(..) => &b.key,
            Handler::User(_) => &b.owner.token,
            // Assets, sign-in, the operator's: no ids of tenants' things.
            Handler::Open(_) | Handler::Credentials(_) | Handler::Operator(_) | Handler::Ops(_) => continue,
            Handler::Session(_) | Handler::Page(..) | Handler::OperatorPage(_) => unreachable!("a page"),
        };
        if !endpoint.path.contains('{') {
            continue;
        }
        let theirs = std::cell::RefCell::new(String::new());
        let path = path_with(endpoint, |name| {
            *theirs.borrow_mut() = a.id_for(endpoint, name);
            theirs.borrow().clone()
        });
        let nobodys = random_id();
        let real = told(&call(&server, endpoint, &path, credential).await, &theirs.borrow());
        let random = told(&call(&server, endpoint, &path_with(endpoint, |_| nobodys.clone()), credential).await, &nobodys);
        assert_eq!(real, random, "{}", endpoint.name);
        assert!(real.starts_with("404 "), "{}: {real}", endpoint.name);
        // What is no id at all is nobody's either.
        let strange = told(&call(&server, endpoint, &path_with(endpoint, |_| "not-an-id".to_owned()), credential).await, "not-an-id");
        assert_eq!(strange, random, "{}", endpoint.name);
        tried += 1;
    }
    assert!(tried > 15, "{tried}");

    assert_eq!(server.rows(), before, "nothing was changed");

    // Ids that stand elsewhere: in queries, and in bodies. By a tenant that has not named any of them, for its own log would tell.
    let b = server.rich_tenant("Cork").await;
    let mine = server.config(&b, "echo", "echo", &json!({})).await;
    let rows = server.rows();
    let id_pairs = [
        ("/api/v1/conversations?config_id=", &a.config),
        ("/api/v1/conversations?user_id=", &a.tenant.owner.id),
        ("/api/v1/conversations?after=", &a.conversation),
        ("/api/v1/conversations?before=", &a.conversation),
        ("/api/v1/configs?after=", &a.config),
        ("/api/v1/keys?after=", &a.key),
        ("/api/v1/members?after=", &a.tenant.owner.id),
        ("/api/v1/logs?after=", &a.log),
        ("/api/v1/logs?config_id=", &a.config),
        ("/api/v1/logs?conversation_id=", &a.conversation),
        ("/api/v1/logs?key_id=", &a.key),
        ("/api/v1/logs?user_id=", &a.tenant.owner.id),
        ("/api/v1/logs?turn_id=", &a.turn),
        ("/api/v1/wallet/ledger?after=", &a.entry),
        ("/api/v1/usage?config_id=", &a.config),
        ("/api/v1/usage?key_id=", &a.key),
    ];
    for (query, id) in id_pairs {
        let nobodys = random_id();
        let real = told(&server.get(&format!("{query}{id}"), &b.key).await, id);
        let random = told(&server.get(&format!("{query}{nobodys}"), &b.key).await, &nobodys);
        assert_eq!(real, random, "{query}");
    }
    let own = server.say(&b.key, &mine, "hello").await;
    let after = format!("/api/v1/conversations/{own}/messages?after=");
    let nobodys = random_id();
    let (real, random) =
        (server.get(&format!("{after}{}", a.message), &b.key).await, server.get(&format!("{after}{nobodys}"), &b.key).await);
    assert_eq!(told(&real, &a.message), told(&random, &nobodys));
    assert_ne!(server.rows(), rows, "only the conversation that B began");
    let rows = server.rows();
    let bodies: [(&str, &str, Body<'_>, &str); 4] = [
        (&format!("/api/v1/chat/{mine}"), &b.key, &|id| json!({"message": "go", "conversation_id": id}), &a.conversation),
        (
            &format!("/api/v1/chat/{mine}"),
            &b.key,
            &|id| json!({"conversation_id": id, "tool_results": [{"tool_call_id": "c1", "content": "x"}]}),
            &a.conversation,
        ),
        ("/api/v1/keys", &b.owner.token, &|id| json!({"name": "k", "tenant_id": id}), &a.tenant.id),
        ("/api/v1/keys", &b.key, &|id| json!({"name": "k", "user_id": id}), &a.tenant.owner.id),
    ];
    for (path, credential, body, id) in bodies {
        let nobodys = random_id();
        let real = told(&server.post(path, credential, &body(id)).await, id);
        let random = told(&server.post(path, credential, &body(&nobodys)).await, &nobodys);
        assert_eq!(real, random, "{path} {}", body(id));
        assert!(real.starts_with('4'), "{real}");
    }
    assert_eq!((server.rows(), server.vendor.call_count()), (rows, calls), "nothing was changed, nobody was called");
    // A is as it was.
    assert_eq!(server.history(&a.tenant.key, &a.conversation).await.len(), 2);
    server.get(&format!("/api/v1/configs/{}", a.config), &a.tenant.key).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn no_list_shows_another_tenant_s_things() {
    let server = Server::start().await;
    let a = belongings(&server).await;
    let b = server.rich_tenant("Bolt").await;
    for endpoint in endpoints() {
        let credential = match endpoint.handler {
            Handler::Tenant(..) | Handler::TenantOrUser(..) => &b.key,
            Handler::User(_) => &b.owner.token,
            _ => continue,
        };
        if endpoint.method == "GET" && !endpoint.path.contains('{') {
            let answer = server.get(endpoint.path, credential).await.expect(200);
            assert!(!answer.body.contains(CANARY), "{}", endpoint.name);
            for id in [&a.config, &a.conversation, &a.key, &a.log, &a.entry, &a.tenant.id, &a.tenant.owner.id, &a.token] {
                assert!(!answer.body.contains(id.as_str()), "{} shows {id}", endpoint.name);
            }
        }
    }
    for query in ["/api/v1/conversations?q=canary", "/api/v1/conversations?q=my", "/api/v1/conversations?metadata.k=canary-7c1e"] {
        assert_eq!(server.get(query, &b.key).await.expect(200).ids(), Vec::<String>::new(), "{query}");
        assert_eq!(server.get(query, &a.tenant.key).await.expect(200).ids(), std::slice::from_ref(&a.conversation), "{query}");
    }
    // Nor do the pages that anyone may read, the operator's lists of tenants apart.
    for endpoint in endpoints() {
        if matches!(endpoint.handler, Handler::Open(_) | Handler::Ops(_)) && endpoint.method == "GET" && !endpoint.path.contains('{') {
            let answer = server.get(endpoint.path, "").await;
            assert!(!answer.body.contains(CANARY) && !answer.body.contains(&a.tenant.id), "{}", endpoint.name);
        }
    }
    server.done().await;
}

#[tokio::test]
async fn answers_of_many_tenants_at_once_never_cross() {
    let server = Server::start().await;
    let mut tenants = Vec::new();
    for n in 0..8 {
        let tenant = server.rich_tenant(&format!("Tenant {n}")).await;
        let config = server.config(&tenant, "fake-anthropic", "smart", &json!({"system_prompt": "You serve {tenant_name}."})).await;
        server.vendor.when(&format!("question of tenant {n}"), Reply::text(&format!("answer to tenant {n}")).every_byte());
        tenants.push((n, tenant, config));
    }
    let all = tenants.iter().map(|(n, tenant, config)| {
        let server = &server;
        async move {
            let body = json!({"message": format!("question of tenant {n}")});
            for round in 0..5 {
                let answer = server.chat(&tenant.key, config, &body).await.expect(200);
                assert_eq!(answer.text("/response"), format!("answer to tenant {n}"), "round {round}");
            }
            let list = server.get("/api/v1/conversations?q=question", &tenant.key).await.expect(200);
            assert_eq!(list.ids().len(), 5);
            assert!(!list.body.contains(&format!("tenant {}", (n + 1) % 8)), "{}", list.body);
        }
    });
    futures_util::future::join_all(all).await;
    for call in server.vendor.calls() {
        let n = call.said[0].rsplit(' ').next().unwrap().to_owned();
        assert_eq!(call.system, format!("You serve Tenant {n}."));
    }
    server.done().await;
}

#[tokio::test]
async fn a_role_is_looked_up_at_every_request() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let bob = server.user("bob@example.com").await;
    server.post("/api/v1/members", &tenant.key, &json!({"email": bob.email, "role": "admin"})).await.expect(202);
    let key = json!({"name": "bob", "role": "admin", "tenant_id": tenant.id});
    let key = server.post("/api/v1/keys", &bob.token, &key).await.expect(201).text("/key");
    let config = |name: &str| config_body(name, "echo", "echo", &json!({}));
    server.post("/api/v1/configs", &key, &config("One")).await.expect(201);
    let member = format!("/api/v1/members/{}", bob.id);
    server.patch(&member, &tenant.key, &json!({"role": "viewer"})).await.expect(200);
    server.post("/api/v1/configs", &key, &config("Two")).await.problem(403, "insufficient_role");
    server.get("/api/v1/configs", &key).await.expect(200);
    server.patch(&member, &tenant.key, &json!({"role": "admin"})).await.expect(200);
    server.post("/api/v1/configs", &key, &config("Three")).await.expect(201);
    server.delete(&member, &tenant.key).await.expect(204);
    server.get("/api/v1/configs", &key).await.problem(401, "invalid_api_key");
    // Nobody gives away more than they have.
    let admin = server.key(&tenant, "admin").await.0;
    let refused = server.post("/api/v1/keys", &admin, &json!({"name": "up", "role": "owner"})).await;
    assert!([403, 422].contains(&refused.status), "{}", refused.body);
    let refused = server.post("/api/v1/members", &admin, &json!({"email": "eve@example.com", "role": "owner"})).await;
    assert!([403, 422].contains(&refused.status), "{}", refused.body);
    server.done().await;
}

#[tokio::test]
async fn a_connection_remembers_no_credential() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::start().await;
    let a = belongings(&server).await;
    let b = server.rich_tenant("Bolt").await;
    let own = server.config(&b, "echo", "echo", &json!({})).await;
    let get = |key: &str, close: bool| {
        let field = if key.is_empty() { String::new() } else { format!("X-API-Key: {key}\r\n") };
        let close = if close { "Connection: close\r\n" } else { "" };
        format!("GET /api/v1/configs HTTP/1.1\r\nHost: x\r\n{field}{close}\r\n")
    };
    // All in one packet, so that one may stand in a buffer while the other is answered.
    let requests = [get(&a.tenant.key, false), get(&b.key, false), get("", false), get(&a.tenant.key, false), get(&b.key, true)].concat();
    let mut peer = tokio::net::TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    peer.write_all(requests.as_bytes()).await.unwrap();
    let mut text = String::new();
    peer.read_to_string(&mut text).await.unwrap();
    let answers: Vec<_> = text.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 5, "{text}");
    for (n, (status, whose)) in
        [("200", Some(true)), ("200", Some(false)), ("401", None), ("200", Some(true)), ("200", Some(false))].into_iter().enumerate()
    {
        assert!(answers[n].starts_with(status), "{n}: {}", answers[n]);
        assert_eq!(answers[n].contains(&a.config), whose == Some(true), "{n}: {}", answers[n]);
        assert_eq!(answers[n].contains(&own), whose == Some(false), "{n}: {}", answers[n]);
    }
    server.done().await;
}

#[tokio::test]
async fn a_canary_is_in_its_own_tenant_s_file_and_in_no_other() {
    let mut server = Server::start().await;
    let a = belongings(&server).await;
    let b = server.rich_tenant("Bolt").await;
    let config = server.config(&b, "fake-anthropic", "smart", &json!({})).await;
    let calls = server.vendor.call_count();
    server.vendor.then(Reply::text("Hello."));
    server.say(&b.key, &config, "hello").await;
    for call in server.vendor.calls().iter().skip(calls) {
        assert!(!call.body.to_string().contains(CANARY), "the vendor was told for B what is A's");
    }
    let metrics = server.get("/metrics", "").await.expect(200).body;
    assert!(!metrics.contains(CANARY) && !metrics.contains(&a.tenant.id) && !metrics.contains(&a.config), "{metrics}");
    server.stop().await;
    // At rest: every file, journals included, by its bytes.
    let mut folders = vec![server.data()];
    let (mut own, mut seen) = (0, 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            if !entry.file_type().unwrap().is_file() {
                continue;
            }
            seen += 1;
            let path = entry.path().display().to_string();
            let bytes = std::fs::read(entry.path()).unwrap();
            let inside = bytes.windows(CANARY.len()).any(|piece| piece == CANARY.as_bytes());
            // The catalog knows the names of accounts and keys, the outbox their addresses; content is in the tenant's own file alone.
            let accounts = path.contains("/catalog.db") || path.contains("/outbox/");
            if path.contains(&a.tenant.id) {
                own += usize::from(inside);
            } else {
                assert!(!inside || accounts, "{path} holds A's canary");
            }
            let content = format!("my {CANARY}");
            assert!(path.contains(&a.tenant.id) || !bytes.windows(content.len()).any(|piece| piece == content.as_bytes()), "{path}");
        }
    }
    assert!(own > 0 && seen > 4, "{own} of {seen}: the canary must be somewhere");
    server.done().await;
}

/// A key's text with its checksum behind it, as `nimblesite::secret` writes it: what a caller can make who knows the form alone.
pub fn sealed(body: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [DIGITS[0]; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    format!("{body}_{}", std::str::from_utf8(&digits).expect("ASCII"))
}
