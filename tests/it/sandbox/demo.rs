//! The examples, driven by the offline model: what the README walks through.

use super::shelf::{CANARY, boxed, example, found_in};
use crate::harness::Events;
use serde_json::json;

#[tokio::test]
async fn a_note_outlives_its_turn_and_its_secret_is_nowhere_in_the_clear() {
    let mut server = boxed().process().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let secrets = json!({"workspace_secrets": {"NOTEBOOK_KEY": CANARY}});
    let config = server.boxed_config(&tenant, "echo", "echo", example("sandbox-python"), &secrets).await;
    let shown = server.get(&format!("/api/v1/configs/{config}"), &tenant.key).await.expect(200);
    assert_eq!(shown.at("/workspace_secrets"), json!(["NOTEBOOK_KEY"]));
    let tools = server.get(&format!("/api/v1/configs/{config}/bundle"), &tenant.key).await.expect(200).json();
    let names: Vec<_> = tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["note_write", "note_read", "note_list", "note_sign"]);

    let first = json!({"message": "call note_write {\"name\": \"shopping\", \"text\": \"two lemons\"}", "stream": true});
    let events = server.stream(&tenant.key, &config, &first).await.rest().await;
    let names = Events::names(&events);
    assert_eq!(names.iter().filter(|name| name.starts_with("tool")).copied().collect::<Vec<_>>(), ["tool.started", "tool.finished"]);
    let done = &events.last().unwrap().data;
    assert_eq!(done["response"], "note_write said: Noted 10 characters as shopping.", "{done}");
    assert_eq!((&done["tool_calls"], &done["finish_reason"]), (&json!([]), &json!("stop")));
    let conversation = done["conversation_id"].as_str().unwrap().to_owned();

    // Another turn, another start: the workspace stays.
    server.stop().await;
    server.run().await;
    let second = json!({"conversation_id": conversation, "message": "call note_read {\"name\": \"shopping\"}\ncall note_sign {\"name\": \"shopping\"}"});
    let answer = server.chat(&tenant.key, &config, &second).await.expect(200);
    let response = answer.text("/response");
    assert!(response.starts_with("note_read said: two lemons\nnote_sign said: "), "{response}");
    assert_eq!(response.rsplit(' ').next().unwrap().len(), 64, "a signature, which only the key can make: {response}");

    let status = server.sandbox(&tenant, &config).await;
    assert_eq!((&status["state"], &status["last_used_at"].is_string()), (&json!("running"), &true), "{status}");
    assert!(status["isolation"].is_string(), "{status}");
    let printed = server.printed();
    let pages = server.get("/api/v1/logs", &tenant.key).await.expect(200).body
        + answer.body.as_str()
        + shown.body.as_str()
        + status.to_string().as_str();
    server.stop().await;
    assert!(!printed.contains(CANARY) && !pages.contains(CANARY), "the secret was said");
    assert_eq!(found_in(&server.data(), CANARY), Vec::<String>::new());
    server.done().await;
}

#[tokio::test]
async fn any_mcp_server_runs_as_it_is() {
    let server = boxed().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let secrets = json!({"workspace_secrets": {"COUNTER_KEY": CANARY}});
    let config = server.boxed_config(&tenant, "echo", "echo", example("sandbox-mcp"), &secrets).await;
    let say = async |message: &str| server.chat(&tenant.key, &config, &json!({"message": message})).await.expect(200).text("/response");
    assert_eq!(say("call count {\"times\": 3}").await, "count said: The counter is at 6.");
    assert_eq!(say("call count").await, "count said: The counter is at 8.");
    assert_eq!(say(&format!("call unlock {{\"word\": \"{CANARY}\"}}")).await, "unlock said: It is.");
    // What was pinned decides, before the server sees anything.
    assert!(say("call count {\"times\": 101}").await.contains("The arguments do not fit"));
    server.delete(&format!("/api/v1/configs/{config}/sandbox"), &tenant.key).await.expect(204);
    assert_eq!(server.sandbox(&tenant, &config).await["state"], "absent");
    assert_eq!(say("call count").await, "count said: The counter is at 2.");
    server.done().await;
}
