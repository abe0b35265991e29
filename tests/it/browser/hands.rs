//! How people use their hands: the keyboard alone, and what is pressed twice, sent again or gone back from.

use super::{Browser, browse, sign_in};
use crate::{fake_provider::Reply, harness::Server};
use serde_json::json;

/// Tabs until this has the keyboard, by its name or label.
async fn tab_to(browser: &Browser, name: &str) {
    let here = "const here = document.activeElement; \
         return (here.getAttribute('aria-label') ?? here.labels?.[0]?.innerText ?? here.innerText ?? '').trim().replace(/\\s+/g, ' ')";
    for _ in 0..80 {
        if browser.js(here).await == name {
            return;
        }
        browser.tab().await;
    }
    panic!("{name:?} is out of the keyboard's reach on {}", browser.path().await);
}

#[tokio::test]
async fn the_keyboard_alone_is_enough_from_signing_in_to_a_tool_s_result() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    server.vendor.then(Reply::calls(&[("call_1", "read_file", json!({"path": "contact.html"}))]).tokens(812, 21));
    server.vendor.then(Reply::text("The page says 555-0100.").tokens(840, 12));
    server.config(&tenant, "fake-openai", "smart", &json!({"name": "Site Editor", "tools_config": ["read_file"]})).await;
    browse("the_keyboard_alone_is_enough_from_signing_in_to_a_tool_s_result", &server, async |browser| {
        browser.go("/dashboard/sign-in").await;
        tab_to(browser, "E-mail").await;
        browser.type_keys(&tenant.owner.email).await;
        tab_to(browser, "Password").await;
        browser.type_keys("correct horse battery staple\n").await;
        browser.find(".shell").await;
        tab_to(browser, "Playground").await;
        browser.type_keys("\n").await;
        browser.find("[data-composer]").await;
        tab_to(browser, "Message").await;
        browser.type_keys("What is my number?\n").await;
        browser.sees("waits for you").await;
        // The result's field has the keyboard already.
        tab_to(browser, "Result").await;
        browser.type_keys("Phone: 555-0100").await;
        tab_to(browser, "Send result").await;
        browser.type_keys("\n").await;
        browser.sees("The page says 555-0100.").await;
        browser.calm().await;
        // What asks before it acts can be left by the keyboard, which is then where it was.
        browser.go("/dashboard/keys").await;
        browser.find("[data-confirm]").await;
        tab_to(browser, "Revoke").await;
        browser.type_keys("\n").await;
        browser.find("dialog[open]").await;
        browser.escape().await;
        browser.until("the dialog is gone", "return document.querySelector('dialog') === null", vec![]).await;
        assert_eq!(browser.js("return document.activeElement.innerText.trim()").await, "Revoke");
    })
    .await;
    server.done().await;
}

#[tokio::test]
async fn a_form_sent_twice_reloaded_or_gone_back_to_makes_one_key() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    browse("a_form_sent_twice_reloaded_or_gone_back_to_makes_one_key", &server, async |browser| {
        sign_in(browser, &tenant).await;
        let count = async |name: &str| {
            let keys = server.get("/api/v1/keys?limit=100", &tenant.key).await.expect(200).at("/data");
            keys.as_array().unwrap().iter().filter(|key| key["name"] == name).count()
        };
        browser.go("/dashboard/keys").await;
        browser.fill("Name", "Twice pressed").await;
        browser.press_twice("Make the key").await;
        browser.sees("it is shown this once").await;
        assert_eq!(count("Twice pressed").await, 1);
        // A reload of the page that shows it sends the form again, if the browser is told to.
        browser.driver.refresh().await.unwrap();
        browser.sees("This form made a key already").await;
        assert_eq!(count("Twice pressed").await, 1);
        // Without the page's script, a second click lets go of the first answer and sends the form once more.
        browser.go("/dashboard/keys").await;
        browser.fill("Name", "Sent raw").await;
        browser.js("const form = document.querySelector('form[action=\"/dashboard/keys\"]'); HTMLFormElement.prototype.submit.call(form); HTMLFormElement.prototype.submit.call(form);").await;
        browser.until("an answer", "return document.querySelector('#new-key') !== null || document.body.innerText.includes('made a key already')", vec![]).await;
        assert_eq!(count("Sent raw").await, 1);
        // An agent: back to the form, and it is sent once more as it was.
        browser.go("/dashboard/agents/new").await;
        browser.fill("Name", "Site Editor").await;
        browser.press("Make the agent").await;
        browser.sees("The agent is made.").await;
        browser.driver.back().await.unwrap();
        browser.find("#agent").await;
        assert_eq!(server.get("/api/v1/configs", &tenant.key).await.at("/data").as_array().unwrap().len(), 1);
        browser.driver.forward().await.unwrap();
        browser.sees("Site Editor").await;
        assert_eq!(server.get("/api/v1/configs", &tenant.key).await.at("/data").as_array().unwrap().len(), 1);
        browser.calm().await;
    })
    .await;
    server.done().await;
}
