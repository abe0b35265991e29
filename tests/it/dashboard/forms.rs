//! What forms change, and that each makes what it makes once.

use super::{Browser, Leads, between};
use crate::{
    fake_provider::Reply,
    harness::{Answer, OPERATOR, Server, Tenant},
    isolation::random_id,
};
use serde_json::{Value, json};

/// The mark that stands in a page's forms.
fn mark(page: &Answer) -> String {
    between(&page.body, "name=\"once\" value=\"", "\"")
}

async fn keys(server: &Server, tenant: &Tenant) -> Vec<Value> {
    let list = server.get("/api/v1/keys?limit=100", &tenant.key).await.expect(200).at("/data");
    list.as_array().expect("a list").clone()
}

#[tokio::test]
async fn the_same_form_twice_makes_one_thing_and_leads_to_it() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    // A key, the form sent twice at once and once more: the text is in one answer alone.
    let once = mark(&browser.get("/dashboard/keys").await.expect(200));
    let fields = [("name", "Shop"), ("role", "member"), ("once", once.as_str())];
    let (one, two) = tokio::join!(browser.send("/dashboard/keys", &fields), browser.send("/dashboard/keys", &fields));
    let three = browser.send("/dashboard/keys", &fields).await;
    let mut statuses = [one.status, two.status, three.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 303, 303]);
    three.leads("/dashboard/keys?said=key-made-before");
    assert_eq!(keys(&server, &tenant).await.iter().filter(|key| key["name"] == "Shop").count(), 1);
    // Another name on the same page is another key.
    browser.send("/dashboard/keys", &[("name", "CI"), ("role", "member"), ("once", &once)]).await.expect(201);
    // What was refused may be sent again.
    let once = mark(&browser.get("/dashboard/agents/new").await.expect(200));
    let agent = |temperature| {
        [("name", "Site Editor"), ("provider", "echo"), ("model", "echo"), ("temperature", temperature), ("once", once.as_str())]
    };
    for _ in 0..2 {
        assert_eq!(browser.send("/dashboard/agents", &agent("hot")).await.status, 422);
    }
    let first = browser.send("/dashboard/agents", &agent("0.5")).await;
    let again = browser.send("/dashboard/agents", &agent("0.5")).await;
    assert_eq!((first.status, again.status, first.header("location")), (303, 303, again.header("location")));
    assert_eq!(server.get("/api/v1/configs", &tenant.key).await.at("/data").as_array().expect("a list").len(), 1);
    // Two successors of two keys, by the forms of one page.
    let page = browser.get("/dashboard/keys").await.expect(200);
    let once = mark(&page);
    for name in ["Shop", "CI"] {
        let id =
            keys(&server, &tenant).await.iter().find(|key| key["name"] == name).expect("a key")["id"].as_str().expect("an id").to_owned();
        browser.send(&format!("/dashboard/keys/{id}/rotate"), &[("once", &once)]).await.expect(201);
    }
    // A tenant, in whose place the browser then is.
    let once = mark(&browser.get("/dashboard/tenants").await.expect(200));
    for status in [201, 303] {
        let made = browser.send("/dashboard/tenants", &[("name", "Second"), ("once", &once)]).await;
        assert_eq!(made.status, status, "{}", made.body);
    }
    let page = browser.get("/dashboard/tenants").await.expect(200);
    assert_eq!(page.body.matches("<span>Second</span>").count(), 1, "{}", page.body);
    // The mark is the session's: another's form with the same is another form.
    let other = Browser::of_user(&server, &tenant.owner.email).await;
    other.send("/dashboard/tenants/choose", &[("tenant_id", &tenant.id)]).await.leads("/dashboard");
    other.send("/dashboard/keys", &fields).await.expect(201);
    server.done().await;
}

#[tokio::test]
async fn a_key_s_name_end_and_limit_are_changed() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    browser.send("/dashboard/keys", &[("name", "CI"), ("role", "member"), ("days", "7"), ("spend_limit", "2.50")]).await.expect(201);
    let find = async || keys(&server, &tenant).await.into_iter().find(|key| key["spend_limit"] != Value::Null).expect("the key");
    let before = find().await;
    let id = before["id"].as_str().expect("an id");
    let page = browser.get(&format!("/dashboard/keys?edit={id}")).await.expect(200);
    assert!(page.body.contains("Change the key") && page.body.contains("value=\"CI\"") && page.body.contains("value=\"2.500000000\""));
    let path = format!("/dashboard/keys/{id}");
    browser.send(&path, &[("name", "CI of the shop"), ("days", ""), ("spend_limit", "3")]).await.leads("/dashboard/keys?said=key-changed");
    let after = find().await;
    assert_eq!((&after["name"], &after["expires_at"]), (&json!("CI of the shop"), &before["expires_at"]), "what is left stays");
    assert_eq!(after["spend_limit"], "3.000000000");
    browser.send(&path, &[("name", "CI"), ("days", "never"), ("spend_limit", "3")]).await.leads("/dashboard/keys?said=key-changed");
    assert_eq!(find().await["expires_at"], Value::Null);
    browser.send(&path, &[("name", "CI"), ("days", "30"), ("spend_limit", "3")]).await.leads("/dashboard/keys?said=key-changed");
    assert_ne!(find().await["expires_at"], Value::Null);
    for (fields, word) in [
        ([("name", ""), ("days", ""), ("spend_limit", "3")], "error-name"),
        ([("name", "CI"), ("days", ""), ("spend_limit", "much")], "expected dollars"),
    ] {
        let wrong = browser.send(&path, &fields).await;
        assert!(wrong.status == 422 && wrong.body.contains(word) && wrong.body.contains("Change the key"), "{}", wrong.body);
    }
    assert_eq!(browser.send(&format!("/dashboard/keys/{}", random_id()), &[("name", "x")]).await.status, 404);
    let strange = browser.get(&format!("/dashboard/keys?edit={}", random_id())).await.expect(200);
    assert!(strange.body.contains("New key"), "an id of nobody edits nothing");
    server.done().await;
}

#[tokio::test]
async fn settings_say_how_long_content_is_kept() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let fields = |conversations, logs| [("name", "Acme"), ("time_zone", "UTC"), ("conversations_days", conversations), ("logs_days", logs)];
    let kept = async || server.get("/api/v1/tenant", &tenant.key).await.expect(200).at("/retention");
    for (conversations, logs, expected) in [
        ("30", "90", json!({"conversations_days": 30, "logs_days": 90})),
        ("", "90", json!({"conversations_days": null, "logs_days": 90})),
        ("", "", json!({"conversations_days": null, "logs_days": null})),
    ] {
        browser.send("/dashboard/settings", &fields(conversations, logs)).await.leads("/dashboard/settings?said=settings-saved");
        assert_eq!(kept().await, expected);
    }
    for (conversations, logs) in [("0", ""), ("", "soon"), ("-3", ""), ("1.5", "")] {
        let wrong = browser.send("/dashboard/settings", &fields(conversations, logs)).await;
        assert!(wrong.status == 422 && wrong.body.contains("days"), "{}", wrong.body);
    }
    assert_eq!(kept().await, json!({"conversations_days": null, "logs_days": null}));
    server.done().await;
}

#[tokio::test]
async fn conversations_are_found_by_who_and_what_and_renamed() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let said = json!({"message": "The first one.", "metadata": {"plan": "pro"}});
    let first = server.chat(&tenant.key, &config, &said).await.expect(200).text("/conversation_id");
    server.say(&tenant.key, &config, "The second one.").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let shows = async |query: &str| {
        let page = browser.get(&format!("/dashboard/conversations?{query}")).await.expect(200).body;
        (page.contains("The first one."), page.contains("The second one."))
    };
    assert_eq!(shows("metadata=plan%3Dpro").await, (true, false));
    assert_eq!(shows("metadata=plan%3Dfree").await, (false, false));
    assert_eq!(shows(&format!("user_id={}", tenant.owner.id)).await, (true, true));
    assert_eq!(shows(&format!("user_id={}", random_id())).await, (false, false));
    assert_eq!(browser.get("/dashboard/conversations?metadata=plan").await.status, 422);
    // Renamed, and the way back into the form where the title cannot be kept.
    let path = format!("/dashboard/conversations/{first}");
    browser.send(&format!("{path}/rename"), &[("title", "About the plan")]).await.leads(&format!("{path}?said=conversation-renamed"));
    let page = browser.get(&path).await.expect(200);
    assert!(page.body.contains("About the plan") && page.body.contains(&tenant.owner.email), "{}", page.body);
    let wrong = browser.send(&format!("{path}/rename"), &[("title", "  ")]).await;
    assert!(wrong.status == 422 && wrong.body.contains("error-title"), "{}", wrong.body);
    // Long ones are read page by page.
    for n in 0..60 {
        server.chat(&tenant.key, &config, &json!({"message": n.to_string(), "conversation_id": first})).await.expect(200);
    }
    let newest = browser.get(&path).await.expect(200).body;
    assert!(
        newest.contains("Messages 23–122 of 122") && newest.contains("Earlier messages") && !newest.contains("Later messages"),
        "{newest}"
    );
    let earlier = between(&newest, &format!("{path}?before="), "\"");
    let oldest = browser.get(&format!("{path}?before={earlier}")).await.expect(200).body;
    assert!(
        oldest.contains("Messages 1–22 of 122") && oldest.contains("Later messages") && !oldest.contains("Earlier messages"),
        "{oldest}"
    );
    let later = between(&oldest, &format!("{path}?after="), "\"");
    assert!(browser.get(&format!("{path}?after={later}")).await.expect(200).body.contains("Messages 23–122 of 122"));
    server.done().await;
}

#[tokio::test]
async fn an_address_without_a_page_is_told_so_by_a_page() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    for browser in [Browser::new(&server), Browser::of_user(&server, &tenant.owner.email).await] {
        for path in ["/dashboard/nothing", "/dashboard/", "/dashboard/agents/x/y/z", "/dashboard/assets/nothing.js"] {
            let page = browser.get(path).await;
            assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")), "{path}");
            assert!(page.body.contains("There is no such thing") && page.body.contains("To the dashboard"), "{}", page.body);
        }
        let visit = browser.get("/dashboard/sign-out").await;
        assert_eq!((visit.status, visit.header("allow")), (405, Some("POST")));
        assert!(visit.body.starts_with("<!DOCTYPE html>"));
    }
    let other = Browser::new(&server).get("/dashboards").await;
    assert_eq!((other.status, other.header("content-type")), (404, Some("application/problem+json")));
    server.done().await;
}

#[tokio::test]
async fn the_operator_makes_a_tenant_reads_the_log_and_sees_how_providers_fare() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Well."));
    server.say(&tenant.key, &config, "How are you?").await;
    let ada = server.user("ada@example.com").await;
    let operator = Browser::new(&server);
    operator.send("/dashboard/sign-in/operator", &[("token", OPERATOR)]).await.leads("/dashboard/operator");
    let page = operator.get("/dashboard/operator").await.expect(200);
    assert!(page.body.contains("<code>fake-openai</code>") && page.body.contains(">well<"), "{}", page.body);
    let once = mark(&page);
    let fields = [("name", "Bolt"), ("owner", ada.email.as_str()), ("once", once.as_str())];
    let made = operator.send("/dashboard/operator/tenants", &fields).await.expect(201);
    let key = between(&made.body, "<code id=\"first-key\">", "<");
    let bolt = server.get("/api/v1/tenant", &key).await.expect(200).text("/id");
    let again = operator.send("/dashboard/operator/tenants", &fields).await;
    again.leads(&format!("/dashboard/operator/tenants/{bolt}?said=tenant-made"));
    for (owner, word) in [("nobody@example.com", "nobody has an account"), ("no address", "error-owner")] {
        let wrong = operator.send("/dashboard/operator/tenants", &[("name", "Cog"), ("owner", owner)]).await;
        assert!(wrong.status == 422 && wrong.body.contains(word), "{}", wrong.body);
    }
    // What was done to the server's accounts stands in its own log.
    server.operate(&["user", "disable", &ada.email]).await;
    let log = operator.get("/dashboard/operator/audit").await.expect(200);
    assert!(log.body.contains("user.") && log.body.contains(&ada.id), "{}", log.body);
    let rates = operator.get("/dashboard/operator/models").await.expect(200);
    assert!(rates.body.contains("fake-anthropic/smart"), "{}", rates.body);
    // A provider that fails is seen to.
    server.vendor.otherwise(Reply::refuse(529));
    server.chat(&tenant.key, &config, &json!({"message": "And now?"})).await;
    let page = operator.get("/dashboard/operator").await.expect(200);
    assert!(page.body.contains(">failing<") && page.body.contains("overloaded"), "{}", page.body);
    server.done().await;
}

#[tokio::test]
async fn a_sandbox_s_page_says_what_to_do_and_its_forms_are_bound_to_the_tenant() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let path = format!("/dashboard/agents/{config}/sandbox");
    let page = browser.get(&path).await.expect(200);
    assert!(page.body.contains("tools run in your app"), "{}", page.body);
    let fields = [("name", "Notebook"), ("provider", "echo"), ("model", "echo"), ("agent_type", "sandboxed")];
    let made = browser.send("/dashboard/agents", &fields).await;
    let id = between(made.header("location").expect("a place"), "/dashboard/agents/", "?");
    let config = server.get(&format!("/api/v1/configs/{id}"), &tenant.key).await.expect(200);
    assert_eq!(config.text("/agent_type"), "sandboxed");
    let path = format!("/dashboard/agents/{id}/sandbox");
    for query in ["", "?files=1"] {
        let page = browser.get(&format!("{path}{query}")).await.expect(200);
        assert!(page.body.contains("No bundle yet") && page.body.contains("Nothing lies there yet"), "{}", page.body);
    }
    browser.send(&format!("{path}/stop"), &[]).await.leads(&format!("{path}?said=sandbox-stopped"));
    browser.send(&format!("{path}/reset"), &[]).await.leads(&format!("{path}?said=sandbox-reset"));
    assert_eq!(browser.send(&format!("{path}/bundle/delete"), &[]).await.status, 404);
    for route in ["sandbox/files", "sandbox/file?path=x"] {
        let status = if route.contains('?') { 404 } else { 200 };
        assert_eq!(browser.get(&format!("/api/v1/configs/{id}/{route}")).await.status, status, "{route}");
    }
    server.done().await;
}
