//! The pages: what they show, what their forms do, and what they never do: run what people wrote, show another tenant's things, pay twice.

use super::{Browser, Leads, between, encoded};
use crate::{
    fake_provider::Reply,
    harness::{OPERATOR, Server, Tenant, config_body},
    isolation::{path_with, random_id},
};
use nimblesite::http::endpoint::{Endpoint, Handler};
use serde_json::{Value, json};

/// What would run in a page that does not escape it, in each place where text can stand.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}</textarea></title>\u{202e}\u{0}";
/// The same for places that take no control characters.
const HOSTILE_NAME: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)></textarea></title>\u{202e}";

/// Whether anything of it stands in a page as it was written.
fn assert_text(page: &str, what: &str) {
    for live in ["<script>alert", "<img src=x", "</textarea></title>", "'><img"] {
        assert!(!page.contains(live), "{live} lives in {what}: {page}");
    }
}

fn pages() -> Vec<&'static Endpoint> {
    let all = nimblesite::http::table().expect("a table").endpoints();
    all.filter(|endpoint| endpoint.is_page() && endpoint.method == "GET" && matches!(endpoint.handler, Handler::Page(..))).collect()
}

/// A tenant in which everything has a hostile text in it.
struct Things {
    tenant: Tenant,
    config: String,
    conversation: String,
    log: String,
}

impl Things {
    fn id_for(&self, endpoint: &Endpoint, name: &str) -> String {
        match (name, endpoint.path) {
            ("version", _) => "1".to_owned(),
            ("config_id", _) => self.config.clone(),
            (_, path) if path.starts_with("/dashboard/agents") => self.config.clone(),
            (_, path) if path.starts_with("/dashboard/conversations") => self.conversation.clone(),
            (_, path) if path.starts_with("/dashboard/logs") => self.log.clone(),
            (name, path) => panic!("{path} has a {name}: say here what it is"),
        }
    }
}

async fn things(server: &Server, name: &str) -> Things {
    let tenant = server.rich_tenant(name).await;
    let tool = json!({"name": "look", "description": HOSTILE, "parameters": {"type": "object", "description": HOSTILE}});
    let body = config_body(
        &format!("{name} {HOSTILE_NAME}"),
        "fake-anthropic",
        "smart",
        &json!({"system_prompt": format!("{HOSTILE} {{custom}}"), "tools_config": [tool], "metadata": {HOSTILE: HOSTILE}}),
    );
    let config = server.post("/api/v1/configs", &tenant.key, &body).await.expect(201).text("/id");
    let patch = json!({"system_prompt": format!("changed {HOSTILE} {{custom}}")});
    server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &patch).await.expect(200);
    server.vendor.then(Reply::text(HOSTILE));
    let said = json!({"message": HOSTILE, "template_vars": {"custom": "x"}, "metadata": {HOSTILE: HOSTILE}, "user": "<b>end user</b>"});
    let conversation = server.chat(&tenant.key, &config, &said).await.expect(200).text("/conversation_id");
    // A refusal, whose detail names what was missing.
    server.chat(&tenant.key, &config, &json!({"message": "x"})).await.problem(422, "template_variable_missing");
    server.key_with(&tenant, &json!({"name": HOSTILE_NAME})).await;
    server.patch("/api/v1/tenant", &tenant.key, &json!({"name": format!("{name} {HOSTILE_NAME}")})).await.expect(200);
    let credit = json!({"amount": "1.00", "reference": format!("=1+1,{HOSTILE_NAME}"), "note": "@SUM(A1)"});
    server.post(&format!("/api/v1/operator/tenants/{}/credit", tenant.id), OPERATOR, &credit).await.expect(201);
    let log = server.logs(&tenant.key).await[0]["id"].as_str().expect("an id").to_owned();
    Things { tenant, config, conversation, log }
}

#[tokio::test]
async fn every_page_opens_and_what_people_wrote_is_text_on_it() {
    let server = Server::start().await;
    let it = things(&server, "Acme").await;
    let browser = Browser::of_user(&server, &it.tenant.owner.email).await;
    let mut opened = 0;
    for endpoint in pages() {
        if endpoint.answers.iter().any(|(_, kind, _)| *kind == "text/event-stream") {
            continue;
        }
        let path = path_with(endpoint, |name| it.id_for(endpoint, name));
        let page = browser.get(&path).await.expect(200);
        if page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            assert_text(&page.body, endpoint.name);
            opened += 1;
        }
    }
    assert!(opened > 14, "{opened}");
    // They are there, as text.
    let transcript = browser.get(&format!("/dashboard/conversations/{}", it.conversation)).await;
    assert!(transcript.body.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count() >= 3, "{}", transcript.body);
    let form = browser.get(&format!("/dashboard/agents/{}", it.config)).await;
    assert!(form.body.contains("&lt;/textarea&gt;") && form.body.contains("<mark class=\"var\">{custom}</mark>"), "{}", form.body);
    let found = browser.get(&format!("/dashboard/conversations?q={}", encoded(&[("", HOSTILE_NAME)]).trim_start_matches('='))).await;
    assert_text(&found.body, "a search");
    // What a form was sent with, and what is wrong with it.
    let fields =
        [("name", HOSTILE), ("provider", HOSTILE), ("model", HOSTILE), ("metadata", HOSTILE), ("tool_name", HOSTILE), ("rest", HOSTILE)];
    let back = browser.send("/dashboard/agents", &fields).await.expect(422);
    assert_text(&back.body, "a form that comes back");
    let back = browser.send("/dashboard/agents/check", &fields).await.expect(200);
    assert_text(&back.body, "a form in the making");
    let json = json!({"name": HOSTILE, HOSTILE: HOSTILE}).to_string();
    assert_text(&browser.send("/dashboard/agents/from-json", &[("json", &json)]).await.expect(200).body, "JSON in the making");
    assert_text(&browser.send("/dashboard/keys", &[("name", HOSTILE), ("spend_limit", HOSTILE)]).await.expect(422).body, "a key's form");
    assert_text(&browser.send("/dashboard/members", &[("email", HOSTILE), ("role", "viewer")]).await.expect(422).body, "a member's form");
    assert_text(&browser.send("/dashboard/settings", &[("name", HOSTILE), ("time_zone", HOSTILE)]).await.expect(422).body, "settings");
    let gate = Browser::new(&server);
    assert_text(
        &gate.send("/dashboard/sign-in", &[("email", HOSTILE), ("password", "wrong wrong"), ("next", HOSTILE)]).await.body,
        "sign-in",
    );
    for page in ["sign-in?next", "verify?token", "reset?token", "link?token"] {
        let path = format!("/dashboard/{page}{}", encoded(&[("", HOSTILE)]));
        assert_text(&gate.get(&path).await.expect(200).body, page);
    }
    server.done().await;
}

#[tokio::test]
async fn every_page_says_what_to_do_where_there_is_nothing_yet() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    for endpoint in pages().iter().filter(|endpoint| !endpoint.path.contains('{') && endpoint.name != "DashboardEvents") {
        browser.get(endpoint.path).await.expect(200);
    }
    for (path, next) in [
        ("/dashboard", "Begin with an agent"),
        ("/dashboard/agents", "No agents yet"),
        ("/dashboard/playground", "no agent to talk to"),
        ("/dashboard/conversations", "No conversations yet"),
        ("/dashboard/logs", "Nothing was logged yet"),
        ("/dashboard/wallet", "No entries yet"),
    ] {
        let page = browser.get(path).await;
        assert!(page.body.contains(next), "{path}: {}", page.body);
    }
    server.done().await;
}

#[tokio::test]
async fn another_tenant_s_pages_answer_as_pages_of_nothing() {
    let server = Server::start().await;
    let a = things(&server, "Acme").await;
    let b = server.rich_tenant("Bolt").await;
    let browser = Browser::of_user(&server, &b.owner.email).await;
    let token = browser.token().await;
    let rows = server.rows();
    let mut tried = 0;
    let all = nimblesite::http::table().expect("a table").endpoints();
    for endpoint in all.filter(|endpoint| endpoint.is_page() && endpoint.path.contains('{')) {
        if !matches!(endpoint.handler, Handler::Page(..)) {
            continue;
        }
        let theirs = |name: &str| match endpoint.path {
            path if path.starts_with("/dashboard/keys") => a.tenant.key_id.clone(),
            path if path.starts_with("/dashboard/members") => a.tenant.owner.id.clone(),
            _ => a.id_for(endpoint, name),
        };
        let nobodys = random_id();
        let ask = async |path: String| {
            let body =
                if endpoint.method == "GET" { String::new() } else { encoded(&[("_csrf", &token), ("role", "viewer"), ("name", "x")]) };
            browser.take(browser.request(endpoint.method, &path).header("Sec-Fetch-Site", "same-origin").body(body)).await
        };
        let version = |name: &str, id: String| if name == "version" { "1".to_owned() } else { id };
        let real_path = path_with(endpoint, |name| theirs(name));
        let real = ask(real_path.clone()).await;
        let random = ask(path_with(endpoint, |name| version(name, nobodys.clone()))).await;
        let strange = ask(path_with(endpoint, |name| version(name, "not-an-id".to_owned()))).await;
        let id = real_path.split('/').nth(3).expect("an id").to_owned();
        let told = |answer: &crate::harness::Answer, id: &str| {
            let request = answer.header("x-request-id").unwrap_or_default();
            answer.body.replace(request, "").replace(id, "")
        };
        assert_eq!((real.status, told(&real, &id)), (404, told(&random, &nobodys)), "{}", endpoint.name);
        assert_eq!((random.status, told(&strange, "not-an-id")), (404, told(&random, &nobodys)), "{}", endpoint.name);
        tried += 1;
    }
    assert!(tried > 12, "{tried}");
    assert_eq!(server.rows(), rows, "nothing was changed");
    // Nor does a list, a search or a filter show anything of theirs.
    for path in [
        "/dashboard".to_owned(),
        "/dashboard/agents".to_owned(),
        "/dashboard/conversations?q=alert".to_owned(),
        format!("/dashboard/conversations?config_id={}", a.config),
        format!("/dashboard/logs?config_id={}", a.config),
        format!("/dashboard/logs?key_id={}", a.tenant.key_id),
        "/dashboard/keys".to_owned(),
        "/dashboard/members".to_owned(),
        "/dashboard/audit".to_owned(),
        "/dashboard/wallet".to_owned(),
    ] {
        let page = browser.get(&path).await.expect(200);
        for mark in ["Acme", &a.tenant.owner.email, &a.tenant.id, &a.conversation, &a.log] {
            assert!(!page.body.contains(mark), "{path} shows {mark}");
        }
    }
    server.done().await;
}

#[tokio::test]
async fn an_agent_is_made_checked_changed_compared_and_rolled_back() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let mut fields = vec![
        ("name", "Site Editor"),
        ("system_prompt", "You edit sites for {tenant_name} and {customer}."),
        ("provider", "echo"),
        ("model", "echo"),
        ("temperature", "hot"),
        ("context_policy", "truncate"),
        ("tool_name", "read_file"),
        ("tool_description", "Reads."),
        ("tool_parameters", "{\"type\": \"object\"}"),
        ("tool_name", ""),
        ("tool_description", ""),
        ("tool_parameters", ""),
    ];
    let check = browser.send("/dashboard/agents/check", &fields).await.expect(200);
    let at = between(&check.body, "id=\"error-temperature\" hx-swap-oob=\"true\">", "</p>");
    assert!(at.contains("no JSON"), "{at}");
    assert!(check.body.contains("You edit sites for Acme and \u{27e8}customer\u{27e9}."), "{}", check.body);
    assert_eq!(browser.send("/dashboard/agents", &fields).await.status, 422);
    fields[4].1 = "";
    let made = browser.send("/dashboard/agents", &fields).await;
    let id = between(made.header("location").expect("a place"), "/dashboard/agents/", "?");
    let config = server.get(&format!("/api/v1/configs/{id}"), &tenant.key).await.expect(200);
    assert_eq!(config.at("/tools_config"), json!([{"name": "read_file", "description": "Reads.", "parameters": {"type": "object"}}]));
    // The same name twice.
    let taken = browser.send("/dashboard/agents", &fields).await;
    assert!(taken.status == 409 && taken.body.contains("Another config"), "{}", taken.body);
    // Saving through the form keeps what has no field there.
    let rich = json!({"metadata": {"team": "web"}, "model_config": {"provider": "echo", "model": "echo", "fallbacks": [{"provider": "fake-openai", "model": "smart"}]}});
    server.patch(&format!("/api/v1/configs/{id}"), &tenant.key, &rich).await.expect(200);
    let page = browser.get(&format!("/dashboard/agents/{id}")).await.expect(200);
    let unescape = |text: &str| text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let whole: Value =
        serde_json::from_str(&unescape(&between(&page.body, "hx-target=\"#agent-fields\">", "</textarea>"))).expect("the JSON view");
    let back = browser.send("/dashboard/agents/from-json", &[("json", &whole.to_string())]).await.expect(200);
    let fields_back = back.body.replace('\n', " ");
    let part = |name: &str| {
        let tag = between(&fields_back, &format!("name=\"{name}\""), "</textarea>");
        unescape(tag.split_once('>').expect("a tag").1)
    };
    let (fallbacks, metadata) = (part("fallbacks"), part("metadata"));
    assert!(fallbacks.contains("fake-openai") && metadata.contains("web"), "{fallbacks} {metadata}");
    fields[1].1 = "You edit sites gladly.";
    fields.extend([("fallbacks", fallbacks.as_str()), ("metadata", metadata.as_str())]);
    browser.send(&format!("/dashboard/agents/{id}"), &fields).await.leads(&format!("/dashboard/agents/{id}?said=agent-saved"));
    let now = server.get(&format!("/api/v1/configs/{id}"), &tenant.key).await;
    assert_eq!((now.at("/version"), now.at("/metadata/team")), (json!(3), json!("web")));
    // What the third changed, and back to the first.
    let diff = browser.get(&format!("/dashboard/agents/{id}/versions/3")).await.expect(200);
    assert!(
        diff.body.contains("diff-line add") && diff.body.contains("You edit sites gladly.") && diff.body.contains("Since version 2"),
        "{}",
        diff.body
    );
    assert!(browser.get(&format!("/dashboard/agents/{id}/versions")).await.expect(200).body.contains("in force"));
    for nothing in ["0", "4", "x", "99999999999"] {
        assert_eq!(browser.get(&format!("/dashboard/agents/{id}/versions/{nothing}")).await.status, 404, "{nothing}");
    }
    browser
        .send(&format!("/dashboard/agents/{id}/versions/1/restore"), &[])
        .await
        .leads(&format!("/dashboard/agents/{id}?said=agent-restored"));
    let restored = server.get(&format!("/api/v1/configs/{id}"), &tenant.key).await;
    assert_eq!(
        (restored.at("/version"), restored.text("/system_prompt")),
        (json!(4), "You edit sites for {tenant_name} and {customer}.".to_owned())
    );
    browser.send(&format!("/dashboard/agents/{id}/delete"), &[]).await.leads("/dashboard/agents?said=agent-deleted");
    assert_eq!(browser.get(&format!("/dashboard/agents/{id}")).await.status, 404);
    let trail = browser.get("/dashboard/audit?act=config.delete").await.expect(200);
    assert!(trail.body.contains(&id) && trail.body.contains(&tenant.owner.email) && !trail.body.contains("by key"), "{}", trail.body);
    server.done().await;
}

#[tokio::test]
async fn a_key_is_shown_once_rotated_and_revoked_and_members_come_and_go() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let made =
        browser.send("/dashboard/keys", &[("name", "CI"), ("role", "member"), ("days", "7"), ("spend_limit", "2.50")]).await.expect(201);
    let key = between(&made.body, "<code id=\"new-key\">", "<");
    server.get("/api/v1/wallet", &key).await.expect(200);
    let list = browser.get("/dashboard/keys").await.expect(200);
    assert!(list.body.contains("CI") && list.body.contains("$2.50") && !list.body.contains(&key), "shown this once");
    let keys = server.get("/api/v1/keys", &tenant.key).await.at("/data");
    let id =
        keys.as_array().expect("a list").iter().find(|key| key["name"] == "CI").expect("the key")["id"].as_str().expect("an id").to_owned();
    let rotated = browser.send(&format!("/dashboard/keys/{id}/rotate"), &[]).await.expect(201);
    let successor = between(&rotated.body, "<code id=\"new-key\">", "<");
    server.get("/api/v1/wallet", &successor).await.expect(200);
    browser.send(&format!("/dashboard/keys/{id}/revoke"), &[]).await.leads("/dashboard/keys?said=key-revoked");
    server.get("/api/v1/wallet", &key).await.problem(401, "invalid_api_key");
    // Members.
    let bob = server.user("bob@example.com").await;
    browser.send("/dashboard/members", &[("email", &bob.email), ("role", "member")]).await.leads("/dashboard/members?said=member-added");
    assert!(browser.get("/dashboard/members").await.body.contains("bob@example.com"));
    let path = format!("/dashboard/members/{}", bob.id);
    browser.send(&path, &[("role", "viewer")]).await.leads("/dashboard/members?said=member-changed");
    let bobs = Browser::of_user(&server, &bob.email).await;
    assert_eq!(bobs.get("/dashboard/keys").await.status, 403, "a viewer has no keys");
    browser.send(&format!("{path}/remove"), &[]).await.leads("/dashboard/members?said=member-removed");
    bobs.get("/dashboard").await.leads("/dashboard/tenants");
    let last = browser.send(&format!("/dashboard/members/{}/remove", tenant.owner.id), &[]).await;
    assert!(last.status == 409 && last.body.contains("at least one owner"), "{}", last.body);
    server.done().await;
}

#[tokio::test]
async fn settings_rename_and_the_end_needs_the_name() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let wrong = browser.send("/dashboard/settings", &[("name", "Acme Corp"), ("time_zone", "Mars/North")]).await;
    assert!(wrong.status == 422 && wrong.body.contains("IANA"), "{}", wrong.body);
    browser
        .send("/dashboard/settings", &[("name", "Acme Corp"), ("time_zone", "Europe/Vienna")])
        .await
        .leads("/dashboard/settings?said=settings-saved");
    assert!(browser.get("/dashboard/settings").await.body.contains("Europe/Vienna"));
    let file = browser.get("/api/v1/tenant/export").await;
    assert_eq!(file.status, 200, "the link on the page works with the session");
    assert_eq!(browser.send("/dashboard/settings/delete", &[("confirm", "Acme")]).await.status, 422);
    browser.send("/dashboard/settings/delete", &[("confirm", "Acme Corp")]).await.leads("/dashboard/tenants");
    server.get("/api/v1/tenant", &tenant.key).await.problem(401, "invalid_api_key");
    server.done().await;
}

#[tokio::test]
async fn a_double_click_pays_once() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let token = browser.token().await;
    server.vendor.then(Reply::text("Once."));
    let send = || {
        let request = browser.request("POST", &format!("/api/v1/chat/{config}")).header("Sec-Fetch-Site", "same-origin");
        let request =
            request.header("X-CSRF-Token", &token).header("Idempotency-Key", "click-1").body(json!({"message": "go"}).to_string());
        browser.take(request)
    };
    let (one, two) = tokio::join!(send(), send());
    let three = send().await;
    let paid: Vec<_> = [&one, &two, &three].into_iter().filter(|answer| answer.status == 200).collect();
    assert!(paid.len() >= 2, "{} {} {}", one.body, two.body, three.body);
    assert_eq!(server.vendor.call_count(), 1);
    let ledger = server.get("/api/v1/wallet/ledger", &tenant.key).await.at("/data");
    assert_eq!(ledger.as_array().expect("a list").iter().filter(|entry| entry["kind"] == "spend").count(), 1);
    // The operator's form.
    let operator = Browser::new(&server);
    operator.send("/dashboard/sign-in/operator", &[("token", OPERATOR)]).await.leads("/dashboard/operator");
    let path = format!("/dashboard/operator/tenants/{}", tenant.id);
    let page = operator.get(&path).await.expect(200);
    let reference = between(&page.body, "name=\"reference\" value=\"", "\"");
    for _ in 0..2 {
        let fields = [("amount", "5.00"), ("note", "=HYPERLINK(1)"), ("reference", reference.as_str())];
        operator.send(&format!("{path}/credit"), &fields).await.leads(&format!("{path}?said=credit-added"));
    }
    let ledger = server.get("/api/v1/wallet/ledger", &tenant.key).await.at("/data");
    assert_eq!(ledger.as_array().expect("a list").iter().filter(|entry| entry["amount"] == "5.000000000").count(), 1);
    assert_eq!(operator.send(&format!("{path}/credit"), &[("amount", "much"), ("reference", "r")]).await.status, 422);
    server.done().await;
}

#[tokio::test]
async fn the_ledger_s_table_has_no_formula_and_a_conversation_s_file_is_whole() {
    let server = Server::start().await;
    let it = things(&server, "Acme").await;
    let browser = Browser::of_user(&server, &it.tenant.owner.email).await;
    let csv = browser.get("/dashboard/wallet/ledger.csv").await.expect(200);
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"ledger.csv\""));
    let ledger = server.get("/api/v1/wallet/ledger", &it.tenant.key).await.at("/data");
    let entries = ledger.as_array().expect("a list");
    assert_eq!(csv.body.lines().count(), entries.len() + 1, "{}", csv.body);
    for entry in entries {
        assert!(csv.body.contains(entry["hash"].as_str().expect("a hash")));
    }
    assert!(csv.body.contains("\"'=1+1,") && csv.body.contains("\"'@SUM(A1)\""), "{}", csv.body);
    let file = browser.get(&format!("/dashboard/conversations/{}/export", it.conversation)).await.expect(200);
    let shown = server.get(&format!("/api/v1/conversations/{}", it.conversation), &it.tenant.key).await.json();
    assert_eq!(file.json(), shown);
    // Longer than a page, to the last message.
    let config = server.config(&it.tenant, "echo", "echo", &json!({})).await;
    let long = server.say(&it.tenant.key, &config, "1").await;
    for n in 2..=52 {
        server.chat(&it.tenant.key, &config, &json!({"message": n.to_string(), "conversation_id": long})).await.expect(200);
    }
    let file = browser.get(&format!("/dashboard/conversations/{long}/export")).await.expect(200).json();
    let seqs: Vec<_> = file["messages"].as_array().expect("messages").iter().map(|message| message["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=104).map(Some).collect::<Vec<_>>());
    let page = browser.get(&format!("/dashboard/conversations/{long}")).await.expect(200);
    assert!(page.body.contains(&format!("/dashboard/conversations/{long}?before=")), "the older messages have a way");
    let deleted = browser.send(&format!("/dashboard/conversations/{long}/delete"), &[]).await;
    deleted.leads("/dashboard/conversations?said=conversation-deleted");
    server.get(&format!("/api/v1/conversations/{long}"), &it.tenant.key).await.problem(404, "not_found");
    server.done().await;
}

#[tokio::test]
async fn an_open_page_is_told_and_its_stream_ends_with_the_session() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let request = browser.request("GET", "/dashboard/events").header("Sec-Fetch-Site", "same-origin");
    let mut stream = request.send().await.expect("a stream");
    assert_eq!(stream.status(), 200);
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    server.say(&tenant.key, &config, "hello").await;
    let told = async {
        let mut text = String::new();
        while !(text.contains("event: overview") && text.contains("event: log")) {
            text.push_str(&String::from_utf8_lossy(&stream.chunk().await.expect("a piece").expect("more")));
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), told).await.expect("an event");
    browser.send("/dashboard/sign-out/everywhere", &[]).await.leads("/dashboard/sign-in?said=signed-out");
    let ended = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.expect("an end");
    server.done().await;
}

#[tokio::test]
async fn the_operator_sees_money_and_state_and_nothing_that_was_said() {
    let server = Server::start().await;
    let it = things(&server, "Acme").await;
    let operator = Browser::new(&server);
    operator.send("/dashboard/sign-in/operator", &[("token", OPERATOR)]).await.leads("/dashboard/operator");
    let page = operator.get("/dashboard/operator").await.expect(200);
    assert!(page.body.contains("Acme") && page.body.contains("<code>fake-anthropic</code>"), "{}", page.body);
    let path = format!("/dashboard/operator/tenants/{}", it.tenant.id);
    let detail = operator.get(&path).await.expect(200);
    for (name, body) in [("overview", &page.body), ("tenant", &detail.body)] {
        assert_text(body, name);
        for content in [&it.conversation, "changed", "custom", "alert(2)&gt;{{7*7}}"] {
            assert!(!body.contains(content), "{name} shows {content}");
        }
    }
    assert_eq!(operator.get(&format!("/dashboard/operator/tenants/{}", random_id())).await.status, 404);
    operator.send(&format!("{path}/suspend"), &[]).await.leads(&format!("{path}?said=suspended"));
    server
        .chat(&it.tenant.key, &it.config, &json!({"message": "x", "template_vars": {"custom": "x"}}))
        .await
        .problem(403, "tenant_suspended");
    operator.send(&format!("{path}/resume"), &[]).await.leads(&format!("{path}?said=resumed"));
    // Pages of tenants are not the operator's, nor the other way round.
    for endpoint in pages() {
        let answer = operator.get(&path_with(endpoint, |_| it.config.clone())).await;
        assert_eq!(answer.header("location"), Some("/dashboard/tenants"), "{}", endpoint.name);
    }
    let person = Browser::of_user(&server, &it.tenant.owner.email).await;
    assert_eq!(person.get("/dashboard/operator").await.status, 404);
    assert_eq!(person.get(&path).await.status, 404);
    server.done().await;
}
