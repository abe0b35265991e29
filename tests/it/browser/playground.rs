//! Talking to an agent in the playground: tool calls that a person answers, and turns that are paid once.

use super::{browse, sign_in};
use crate::{
    fake_provider::Reply,
    harness::{Server, Tenant},
};
use serde_json::json;

const TOOLS: &str = "You edit websites for {tenant_name}, kindly.";

async fn agent(server: &Server, tenant: &Tenant, provider: &str, model: &str) -> String {
    let body = json!({
        "name": "Site Editor", "system_prompt": TOOLS, "model_config": {"provider": provider, "model": model}, "tools_config": ["read_file", "write_file"],
    });
    server.post("/api/v1/configs", &tenant.key, &body).await.expect(201).text("/id")
}

#[tokio::test]
async fn a_tool_call_becomes_a_card_that_a_person_answers() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    agent(&server, &tenant, "echo", "echo").await;
    browse("a_tool_call_becomes_a_card_that_a_person_answers", &server, async |browser| {
        sign_in(browser, &tenant).await;
        browser.press("Playground").await;
        browser.fill("Message", "call read_file {\"path\": \"contact.html\"}").await;
        browser.press("Send").await;
        browser.sees("waits for you").await;
        assert!(browser.text("[data-transcript]").await.contains("contact.html"));
        browser.fill("Result", "Phone: 555-0100").await;
        browser.press("Send result").await;
        browser.sees("answered").await;
        browser.until("the agent goes on", "return document.querySelectorAll('.turn.assistant:not(.busy)').length === 2", vec![]).await;
        browser.calm().await;

        // A reload, and the way back, find the conversation as it is stored.
        let said = "return [...document.querySelectorAll('.turn-body')].map(one => one.textContent)";
        let before = browser.js(said).await;
        browser.driver.refresh().await.unwrap();
        browser
            .until(
                "the conversation again",
                &format!("return JSON.stringify((() => {{ {said} }})()) === arguments[0]"),
                vec![before.to_string().into()],
            )
            .await;
        browser.press("Open").await;
        browser.sees("read_file").await;
        browser.driver.back().await.unwrap();
        browser.sees("answered").await;
        browser.calm().await;
    })
    .await;
    server.done().await;
}

#[tokio::test]
async fn a_paid_button_pressed_twice_is_paid_once() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    server.vendor.otherwise(Reply::text("Hello yourself.").tokens(812, 21));
    let config = agent(&server, &tenant, "fake-openai", "smart").await;
    browse("a_paid_button_pressed_twice_is_paid_once", &server, async |browser| {
        sign_in(browser, &tenant).await;
        browser.go(&format!("/dashboard/playground/{config}")).await;
        browser.fill("Message", "Hello.").await;
        browser.press_twice("Send").await;
        browser.until("an answer with its price", "return document.querySelector('.turn-foot .money') !== null", vec![]).await;
        let spends = server.get("/api/v1/wallet/ledger?limit=100", &tenant.key).await.expect(200).at("/data");
        let spends = spends.as_array().unwrap().iter().filter(|entry| entry["kind"] == "spend").count();
        assert_eq!(spends, 1);
        let log = server.logs(&tenant.key).await;
        assert_eq!(log.len(), 1, "{log:?}");
        // Sent again by a reload? Nothing is.
        browser.driver.refresh().await.unwrap();
        browser.sees("Hello.").await;
        assert_eq!(server.logs(&tenant.key).await.len(), 1);

        // The price is in the ledger, whose chain the page checks by itself.
        browser.press("Wallet").await;
        browser.press("Verify the chain").await;
        browser.sees("2 entries checked in this browser").await;
        browser.calm().await;
    })
    .await;
    server.done().await;
}

#[tokio::test]
async fn a_tampered_ledger_is_noticed_in_the_page() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    server.vendor.otherwise(Reply::text("Hello yourself.").tokens(812, 21));
    let config = agent(&server, &tenant, "fake-openai", "smart").await;
    server.say(&tenant.key, &config, "Hello.").await;
    browse("a_tampered_ledger_is_noticed_in_the_page", &server, async |browser| {
        sign_in(browser, &tenant).await;
        browser.go("/dashboard/wallet").await;
        // A server that lies: one word of one entry is another.
        browser
            .js("const honest = window.fetch; window.fetch = async (...asked) => { const page = await (await honest(...asked)).json(); \
                 page.data[1].model = 'fake-openai/cheaper'; return new Response(JSON.stringify(page), {status: 200}); };")
            .await;
        browser.press("Verify the chain").await;
        browser.sees("Entry 2 is not what was written").await;
    })
    .await;
    server.done().await;
}
