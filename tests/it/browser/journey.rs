//! The whole way: from an address to a key that is revoked, with nothing but the dashboard.

use super::browse;
use crate::{fake_provider::Reply, harness::Server};
use serde_json::json;

#[tokio::test]
async fn from_signing_up_to_a_revoked_key() {
    let server = Server::start().await;
    server.vendor.then(Reply::calls(&[("call_1", "read_file", json!({"path": "contact.html"}))]).tokens(812, 21));
    server.vendor.then(Reply::text("The page says 555-0100.").tokens(840, 12));
    browse("from_signing_up_to_a_revoked_key", &server, async |browser| {
        // An account, whose address is proved.
        browser.go("/dashboard").await;
        browser.press("Make an account").await;
        browser.fill("E-mail", "ada@example.com").await;
        browser.fill("Password", "correct horse battery staple").await;
        browser.press("Make the account").await;
        let token = server.mailed_token("ada@example.com").await;
        browser.go(&format!("/dashboard/verify?token={token}")).await;
        browser.press("This is my address").await;
        browser.sees("Your address is proved.").await;
        browser.fill("E-mail", "ada@example.com").await;
        browser.fill("Password", "correct horse battery staple").await;
        browser.press("Sign in").await;

        // A tenant, with its first key.
        browser.fill("Name of a new tenant", "Acme Corp").await;
        browser.press("Make the tenant").await;
        browser.sees("Acme Corp is ready").await;
        let first_key = browser.text("#first-key").await;
        let tenant = server.get("/api/v1/tenant", &first_key).await.expect(200).text("/id");
        let credit = format!("/api/v1/operator/tenants/{tenant}/credit");
        server.post(&credit, crate::harness::OPERATOR, &json!({"amount": "10.00"})).await;

        // An agent with a tool. What is wrong with it is said while it is written.
        browser.press("Make an agent").await;
        browser.fill("Name", "Site Editor").await;
        browser.fill("System prompt", "You edit websites for {tenant_name}.").await;
        browser.fill("Provider", "fake-openai").await;
        browser.fill("Model", "smart").await;
        browser.fill("Temperature", "warm").await;
        browser.until("a word on the temperature", "return document.querySelector('#error-temperature').textContent", vec![]).await;
        browser.fill("Temperature", "0.5").await;
        browser.until("no word any more", "return document.querySelector('#error-temperature').textContent === ''", vec![]).await;
        browser.until("a preview", "return document.querySelector('#agent-preview').textContent.includes('Acme Corp')", vec![]).await;
        browser.press("Add a tool").await;
        browser.find(".tool-row").await;
        browser.fill("Name", "read_file").await;
        browser.press("Make the agent").await;
        browser.sees("The agent is made.").await;
        browser.calm().await;

        // A chat with a tool call.
        browser.press("Try").await;
        browser.fill("Message", "What is my number?").await;
        browser.press("Send").await;
        browser.sees("waits for you").await;
        browser.fill("Result", "Phone: 555-0100").await;
        browser.press("Send result").await;
        browser.sees("The page says 555-0100.").await;
        browser.calm().await;

        // It is in the conversations, in the log, and in the ledger.
        browser.press("Conversations").await;
        browser.fill("Words", "555-0100").await;
        browser.press("Search").await;
        browser.press("What is my number?").await;
        browser.press("read_file called").await;
        browser.sees("contact.html").await;
        browser.press("read_file answered").await;
        browser.sees("Phone: 555-0100").await;
        browser.press("Logs").await;
        browser.until("two rows", "return document.querySelectorAll('tbody tr').length === 2", vec![]).await;
        browser.press("Wallet").await;
        browser.press("Verify the chain").await;
        browser.sees("3 entries checked in this browser").await;
        browser.calm().await;

        // A key works until it is revoked.
        browser.press("API keys").await;
        browser.fill("Name", "Shop").await;
        browser.press("Make the key").await;
        browser.sees("it is shown this once").await;
        let key = browser.text("#new-key").await;
        server.get("/api/v1/configs", &key).await.expect(200);
        browser.press_in("tr", "Shop", "Revoke").await;
        browser.sees("Requests with it are refused from now on.").await;
        browser.press("Revoke").await;
        browser.sees("The key is revoked").await;
        server.get("/api/v1/configs", &key).await.problem(401, "invalid_api_key");
        browser.calm().await;
    })
    .await;
    server.done().await;
}
