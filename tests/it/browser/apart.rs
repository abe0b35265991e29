//! Two people in two browsers, and texts that would like to be programs.

use super::{AtHand, browse, places, sign_in};
use crate::harness::Server;
use serde_json::json;

#[tokio::test]
async fn two_people_in_two_browsers_never_see_each_other() {
    let server = Server::start().await;
    let (first, second) = (server.tenant("Canary").await, server.tenant("Finch").await);
    let config = server.config(&first, "echo", "echo", &json!({"name": "Canary agent"})).await;
    let conversation = server.say(&first.key, &config, "A canary sings.").await;
    browse("two_people_in_two_browsers_never_see_each_other", &server, async |browser| {
        let other = browser.another().await;
        sign_in(browser, &first).await;
        sign_in(&other, &second).await;
        browser.go(&format!("/dashboard/conversations/{conversation}")).await;
        browser.sees("A canary sings.").await;
        for path in [
            "",
            "/agents",
            "/keys?edit=x",
            "/playground",
            "/conversations",
            "/conversations?q=canary",
            "/logs",
            "/keys",
            "/members",
            "/wallet",
            "/audit",
            "/settings",
            "/tenants",
        ] {
            let path = format!("/dashboard{path}");
            other.go(&path).await;
            other.sees("Finch").await;
            let words = other.words().await.to_lowercase();
            assert!(!words.contains("canary"), "{path}: {words}");
        }
        for path in [format!("/dashboard/conversations/{conversation}"), format!("/dashboard/playground/{config}")] {
            other.go(&path).await;
            let words = other.words().await;
            assert!(!words.to_lowercase().contains("canary"), "{words}");
            assert!(words.contains("There is no such thing"), "{path}: {words}");
        }
    })
    .await;
    server.done().await;
}

/// What runs if it is ever taken for HTML, a formula, or the end of something.
const HOSTILE: &str = "<script>window.ran = 1</script><img src=x onerror=\"window.ran = 1\"><svg onload=window.ran=1>\"'><a href=\"javascript:window.ran=1\">x</a>\
     {{constructor.constructor('window.ran=1')()}} \u{202e}gpj.exe\u{202c} \u{0}-=cmd|'/c calc'!A1 </textarea></script><style>*{display:none}</style>";

#[tokio::test]
async fn whatever_is_written_is_shown_as_text() {
    let server = Server::start().await;
    let hostile = HOSTILE.replace('\u{0}', "");
    let short: String = hostile.chars().take(180).collect();
    let tenant = server.rich_tenant("Acme").await;
    server.patch("/api/v1/tenant", &tenant.key, &json!({"name": short})).await.expect(200);
    let body = json!({
        "name": short, "system_prompt": hostile, "model_config": {"provider": "echo", "model": "echo"}, "metadata": {"note": hostile},
        "tools_config": [{"name": "read_file", "description": hostile, "parameters": {"type": "object", "description": hostile}}],
    });
    let config = server.post("/api/v1/configs", &tenant.key, &body).await.expect(201).text("/id");
    let call = format!("call read_file {}", json!({"path": hostile}));
    let asked =
        server.chat(&tenant.key, &config, &json!({"message": call, "metadata": {"page": hostile}, "user": short})).await.expect(200);
    let conversation = asked.text("/conversation_id");
    let results = json!({"conversation_id": conversation, "tool_results": [{"name": "read_file", "result": hostile}]});
    server.chat(&tenant.key, &config, &results).await.expect(200);
    server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": hostile})).await.expect(200);
    server
        .patch(&format!("/api/v1/configs/{config}"), &tenant.key, &json!({"system_prompt": format!("Changed. {hostile}")}))
        .await
        .expect(200);
    server.key_with(&tenant, &json!({"name": short, "role": "member"})).await;
    browse("whatever_is_written_is_shown_as_text", &server, async |browser| {
        sign_in(browser, &tenant).await;
        let log = server.logs(&tenant.key).await[0]["id"].as_str().unwrap().to_owned();
        let at_hand = AtHand {
            config: config.clone(),
            conversation: conversation.clone(),
            log,
            sandboxed: config.clone(),
            key: tenant.key_id.clone(),
        };
        for (_, path) in places(&at_hand) {
            browser.go(&path).await;
            browser.find("main").await;
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            assert_eq!(browser.js("return window.ran ?? null").await, serde_json::Value::Null, "{path} ran what was written");
            let foreign = "return document.querySelectorAll('main script, main style, main img, a[href^=\"javascript:\"]').length";
            assert_eq!(browser.js(foreign).await, 0, "{path}");
            browser.calm().await;
        }
        browser.go(&format!("/dashboard/conversations/{conversation}")).await;
        assert!(browser.words().await.contains("<script>window.ran = 1</script>"));
        // The same live, in the playground.
        browser.go(&format!("/dashboard/playground/{config}")).await;
        browser
            .driver
            .execute("document.querySelector('[data-composer] textarea').value = arguments[0]", vec![hostile.clone().into()])
            .await
            .unwrap();
        browser.press("Send").await;
        browser.until("an answer", "return document.querySelector('.turn.assistant:not(.busy) .turn-foot') !== null", vec![]).await;
        assert_eq!(browser.js("return window.ran ?? null").await, serde_json::Value::Null);
        browser.calm().await;
    })
    .await;
    server.done().await;
}
