//! `context_policy: "compact"`: the oldest turns are summarised by a call that is priced and logged, and nothing is lost in the store.

use crate::{
    fake_provider::{Reply, Wire},
    harness::Server,
};
use serde_json::json;

const SUMMARY: &str = "They spoke of blue boats.";

#[tokio::test]
async fn a_history_that_outgrows_the_window_is_summarised_and_paid() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for wire in Wire::ALL {
        let config =
            server.config(&tenant, wire.provider(), "narrow", &json!({"context_policy": "compact", "system_prompt": "Be brief."})).await;
        let padding = "x".repeat(1_200);
        let mut conversation = serde_json::Value::Null;
        let (mut summarised, mut questions) = (0, 0);
        for n in 0..8 {
            server.vendor.when("What was said then:", Reply::text(SUMMARY).tokens(900, 10));
            server.vendor.when(&format!("Question {n} "), Reply::text(&format!("Answer {n} {padding}")).tokens(700, 400));
            let mut body = json!({"message": format!("Question {n} {padding}")});
            if !conversation.is_null() {
                body["conversation_id"] = conversation.clone();
            }
            let before = server.vendor.call_count();
            let answer = server.chat(&tenant.key, &config, &body).await.expect(200);
            conversation = answer.at("/conversation_id");
            questions += 1;
            let calls = server.vendor.calls()[before..].to_vec();
            let now = answer.at("/context/turns_summarised").as_u64().unwrap();
            assert!(now >= summarised, "what was summarised stays so");
            if calls.len() > 1 {
                assert!(now > summarised);
                // The turn's cost is that of all its calls, and its log has a row for each.
                let turn = answer.text("/turn_id");
                let rows: Vec<_> = server.logs(&tenant.key).await.into_iter().filter(|row| row["turn_id"] == json!(turn)).collect();
                assert_eq!(rows.len(), calls.len());
                assert_eq!(answer.at("/usage/input_tokens"), json!(700 + 900 * (calls.len() - 1)));
            }
            summarised = now;
            let last = server.vendor.last();
            assert_eq!(last.system.contains(SUMMARY), summarised > 0, "{}", last.system);
            assert_eq!(last.said.iter().filter(|line| line.starts_with("user: ")).count() as u64, questions - summarised, "whole turns");
        }
        assert!(summarised > 0, "the window is narrow");
        let conversation = conversation.as_str().unwrap();
        assert_eq!(server.history(&tenant.key, conversation).await.len(), 16, "the full history stays readable");
    }
    server.done().await;
}

#[tokio::test]
async fn a_summary_that_fails_fails_the_turn_and_the_next_goes_on() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-openai", "narrow", &json!({"context_policy": "compact"})).await;
    let padding = "x".repeat(3_500);
    server.vendor.then(Reply::text(&padding));
    let conversation = server.say(&tenant.key, &config, &padding).await;
    let on = json!({"conversation_id": conversation, "message": format!("on {padding}")});
    server.vendor.then(Reply::refuse(400));
    server.chat(&tenant.key, &config, &on).await.problem(502, "provider_error");
    server.vendor.then(Reply::text(""));
    server.chat(&tenant.key, &config, &on).await.problem(502, "provider_error");
    server.vendor.then(Reply::text(SUMMARY)).then(Reply::text("Fine."));
    let answer = server.chat(&tenant.key, &config, &on).await.expect(200);
    assert_eq!(answer.at("/context/turns_summarised"), json!(1));
    assert_eq!(server.history(&tenant.key, &conversation).await.len(), 4);
    server.done().await;
}
