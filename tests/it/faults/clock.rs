//! A clock that jumps back and forth, and a server that is killed in between: rows are ordered by their numbers, what an earlier life left is
//! told by whose life it was, and only what is about time follows the clock.

use super::{arm, ask, kept, message, sound};
use crate::{
    fake_provider::{Reply, Wire},
    harness::{Server, Settings},
};
use serde_json::json;
use std::fs;

const HOUR: i64 = 3_600_000;

/// Sets the server's clock wrong by so many milliseconds.
fn set(server: &Server, ms: i64) {
    fs::write(server.data().join("../clock"), ms.to_string()).expect("a clock");
}

#[tokio::test]
async fn a_clock_that_jumps_changes_no_order_and_loses_no_money() {
    let mut server = Settings::default().process().start().await;
    server.vendor.otherwise(Reply::text("At any time."));
    let tenant = server.rich_tenant("Jumpy").await;
    let config = server.config(&tenant, Wire::Anthropic.provider(), "smart", &json!({})).await;
    let clock = server.data().join("../clock").to_string_lossy().into_owned();
    server.kill().await;
    server.env.insert("NIMBLESITE_CLOCK_OFFSET_FILE", clock);
    set(&server, 0);
    server.run().await;

    let conversation = server.say(&tenant.key, &config, "at 0").await;
    let mut expected = vec!["user: at 0".to_owned(), "assistant: At any time.".to_owned()];
    for hours in [2, -3, 30, -30, 24 * 400, -24 * 400, 0] {
        set(&server, hours * HOUR);
        let text = format!("at {hours}");
        let told = server.chat(&tenant.key, &config, &message(&text, Some(&conversation))).await.expect(200);
        kept(&server, &tenant, &told.json());
        expected.extend([format!("user: {text}"), "assistant: At any time.".to_owned()]);
        assert_eq!(server.history(&tenant.key, &conversation).await, expected);
        let seen: Vec<String> = server.vendor.last().said.clone();
        assert_eq!(seen, expected[..expected.len() - 1], "the vendor sees the order of the conversation");
    }

    // Killed a day ahead, started a day behind: what the earlier life left is closed all the same.
    for hours in [24, -24] {
        set(&server, hours * HOUR);
        let interrupted = "SELECT count(*) FROM logs WHERE event = 'interrupted'";
        let before = server.number(&tenant.id, interrupted);
        server.kill().await;
        arm(&mut server, "after-piece=kill");
        server.run().await;
        let claim = format!("jump {hours}");
        let body = message(&claim, Some(&conversation));
        assert!(ask(&server, &tenant.key, &config, &claim, &body).await.is_none());
        server.died().await;
        server.env.remove("NIMBLESITE_FAILPOINTS");
        set(&server, -hours * HOUR);
        server.run().await;
        sound(&server, &[&tenant]).await;
        assert_eq!(server.number(&tenant.id, interrupted), before + 1);
        let told = ask(&server, &tenant.key, &config, &claim, &body).await.expect("an answer").expect(200);
        assert_eq!(told.header("idempotency-replayed"), None);
        kept(&server, &tenant, &told.json());
    }
    set(&server, 0);
    sound(&server, &[&tenant]).await;
    server.done().await;
}

#[tokio::test]
async fn keys_and_stored_answers_expire_by_the_clock_as_it_is() {
    let mut server = Settings::default().process().start().await;
    server.vendor.otherwise(Reply::text("Once a day."));
    let tenant = server.rich_tenant("Timely").await;
    let config = server.config(&tenant, Wire::Ollama.provider(), "smart", &json!({})).await;
    let clock = server.data().join("../clock").to_string_lossy().into_owned();
    server.kill().await;
    server.env.insert("NIMBLESITE_CLOCK_OFFSET_FILE", clock);
    set(&server, 0);
    server.run().await;
    let in_an_hour = nimblesite::clock::Clock.now().plus(std::time::Duration::from_secs(3600)).to_string();
    let (key, _) = server.key_with(&tenant, &json!({"name": "short", "role": "member", "expires_at": in_an_hour})).await;

    let body = message("Daily", None);
    let first = ask(&server, &key, &config, "daily", &body).await.expect("an answer").expect(200);
    let replayed = |hours: i64| {
        set(&server, hours * HOUR);
        ask(&server, &tenant.key, &config, "daily", &body)
    };
    for hours in [0, 23, -23, -24 * 400, 1] {
        let again = replayed(hours).await.expect("an answer").expect(200);
        assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &first.body), "after {hours} hours");
    }
    let calls = server.vendor.call_count();
    let next_day = replayed(25).await.expect("an answer").expect(200);
    assert_eq!(next_day.header("idempotency-replayed"), None, "a day later the key stands for a new request");
    assert_eq!(server.vendor.call_count(), calls + 1);
    kept(&server, &tenant, &first.json());
    kept(&server, &tenant, &next_day.json());

    set(&server, 2 * HOUR);
    server.get("/api/v1/configs", &key).await.problem(401, "invalid_api_key");
    set(&server, -2 * HOUR);
    server.get("/api/v1/configs", &key).await.expect(200);
    set(&server, 0);
    sound(&server, &[&tenant]).await;
    server.done().await;
}
