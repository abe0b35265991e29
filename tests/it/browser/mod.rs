//! The pages in a real browser: Debian's Chromium, without a window, led by chromedriver. What a person can do in the dashboard is done here the way
//! a person does it: by the labels and the words on the buttons.
//!
//! Whatever a test does, at the end of each page that it looked at no request has left the server's origin, no script has failed, and the
//! content security policy had nothing to refuse: [`Browser::calm`].

mod apart;
mod documents;
mod hands;
mod journey;
mod looks;
mod pictures;
mod playground;
mod rig;
mod sandbox;

pub use rig::{Browser, browse};

use crate::{
    fake_provider::Reply,
    harness::{Server, Tenant},
    sandbox::shelf::example,
};
use flate2::read::GzDecoder;
use serde_json::json;
use std::{io::Read, sync::LazyLock};

/// axe-core, the accessibility checker: see `tests/vendor/axe-core/`.
static AXE: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::new();
    let packed: &[u8] = include_bytes!("../../vendor/axe-core/axe.min.js.gz");
    GzDecoder::new(packed).read_to_string(&mut text).expect("axe-core as it was packed");
    text
});

/// What axe-core finds on the page that is shown and calls serious or critical: a line each. `without` is left out of its sight.
pub async fn barriers(browser: &Browser, without: &[&str]) -> Vec<String> {
    browser.js(&AXE).await;
    let script = "return axe.run({exclude: arguments[0].map(one => [one])}, {resultTypes: ['violations']}).then(found => found.violations \
           .filter(one => ['serious', 'critical'].includes(one.impact)) \
           .flatMap(one => one.nodes.map(node => `${one.id}: ${node.target.join(' ')}: ${node.failureSummary}`)));";
    let found = browser.js_with(script, vec![without.into()]).await;
    serde_json::from_value(found).expect("lines")
}

/// In, by address and password, as the tenant's owner.
pub async fn sign_in(browser: &Browser, tenant: &Tenant) {
    browser.go("/dashboard/sign-in").await;
    browser.fill("E-mail", &tenant.owner.email).await;
    browser.fill("Password", "correct horse battery staple").await;
    browser.press("Sign in").await;
    browser.until("a way in", "return !location.pathname.includes('sign-in')", vec![]).await;
    if browser.path().await.starts_with("/dashboard/tenants") {
        browser.driver.execute("document.querySelector('.choices button').click()", vec![]).await.expect("a tenant to choose");
    }
    browser.find(".shell").await;
}

/// Every page of a tenant's owner, with these at hand: its name, and its path.
pub fn places(at_hand: &AtHand) -> Vec<(&'static str, String)> {
    let AtHand { config, conversation, log, sandboxed, key } = at_hand;
    let places = [
        ("overview", String::new()),
        ("agents", "/agents".to_owned()),
        ("agent-new", "/agents/new".to_owned()),
        ("agent", format!("/agents/{config}")),
        ("versions", format!("/agents/{config}/versions")),
        ("version", format!("/agents/{config}/versions/2")),
        ("sandbox", format!("/agents/{sandboxed}/sandbox?files=1")),
        ("sandbox-none", format!("/agents/{config}/sandbox")),
        ("playground", format!("/playground/{config}?conversation={conversation}")),
        ("conversations", "/conversations".to_owned()),
        ("conversation", format!("/conversations/{conversation}")),
        ("logs", "/logs".to_owned()),
        ("log", format!("/logs/{log}")),
        ("wallet", "/wallet".to_owned()),
        ("keys", "/keys".to_owned()),
        ("key", format!("/keys?edit={key}")),
        ("members", "/members".to_owned()),
        ("audit", "/audit".to_owned()),
        ("settings", "/settings".to_owned()),
        ("account", "/account".to_owned()),
    ];
    places.into_iter().map(|(name, path)| (name, format!("/dashboard{path}"))).collect()
}

/// Ids of things in a tenant.
pub struct AtHand {
    pub config: String,
    pub conversation: String,
    pub log: String,
    /// An agent whose tools the server runs.
    pub sandboxed: String,
    pub key: String,
}

/// A tenant in which something happened: two agents, a conversation with a tool call, paid turns, failures, a second member.
pub async fn lived_in(server: &Server) -> (Tenant, AtHand) {
    server.vendor.otherwise(Reply::text("It is on its way and arrives tomorrow.").tokens(1_204, 96));
    let tenant = server.rich_tenant("Acme Corp").await;
    let body = json!({
        "name": "Site Editor", "system_prompt": "You edit websites for {tenant_name}. Today is {date}.",
        "model_config": {"provider": "echo", "model": "echo", "temperature": 0.4}, "tools_config": ["read_file", "write_file"],
    });
    let config = server.post("/api/v1/configs", &tenant.key, &body).await.expect(201).text("/id");
    let prompt = "You edit websites for {tenant_name}. Today is {date}.\nSpeak like {tone}, and change nothing that you were not asked to.";
    server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &json!({"system_prompt": prompt})).await.expect(200);
    let call = json!({
        "message": "call read_file {\"path\": \"contact.html\"}", "template_vars": {"tone": "a friend"}, "metadata": {"page": "contact", "plan": "pro"},
    });
    let conversation = server.chat(&tenant.key, &config, &call).await.expect(200).text("/conversation_id");
    let result =
        json!({"conversation_id": conversation, "tool_results": [{"name": "read_file", "result": {"phone": "555-0100", "lines": 42}}]});
    server.chat(&tenant.key, &config, &result).await.expect(200);
    let support = server.config(&tenant, "fake-openai", "smart", &json!({"name": "Support"})).await;
    for question in ["Where is my parcel?", "Can I change the address?", "Thank you. Do you deliver on Saturdays?"] {
        server.say(&tenant.key, &support, question).await;
    }
    server.vendor.then(Reply::refuse(400));
    server.chat(&tenant.key, &support, &json!({"message": "And on Sundays?"})).await;
    server.key_with(&tenant, &json!({"name": "Shop backend", "role": "member", "spend_limit": "5.00"})).await;
    server.post("/api/v1/members", &tenant.key, &json!({"email": "grace@example.com", "role": "admin"})).await.expect(202);
    let log = server.logs(&tenant.key).await[0]["id"].as_str().expect("an id").to_owned();
    let secrets = json!({"name": "Notebook", "workspace_secrets": {"NOTEBOOK_KEY": "correct horse battery staple"}});
    let sandboxed = server.boxed_config(&tenant, "echo", "echo", example("sandbox-python"), &secrets).await;
    let note = "call note_write {\"name\": \"shopping\", \"text\": \"two lemons\"}\ncall note_list {}";
    server.chat(&tenant.key, &sandboxed, &json!({"message": note})).await.expect(200);
    let key = tenant.key_id.clone();
    (tenant, AtHand { config, conversation, log, sandboxed, key })
}
