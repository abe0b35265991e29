//! Vendors that fail: what the client is told, what is charged, and that the conversation goes on as if nothing had been said.

use crate::{
    fake_provider::{At, Gate, Part, Reply, Wire},
    harness::{Answer, Server, Settings, Tenant},
};
use serde_json::{Value, json};
use std::time::Duration;

/// What the tenant pays for a failed call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pays {
    Nothing,
    /// More than nothing, at most the hold, marked as estimated.
    Estimate,
}

/// Says something good, then something that fails in this way, then something good again, in one conversation.
async fn fails(server: &Server, tenant: &Tenant, wire: Wire, what: &str, replies: Vec<Reply>, expected: (u16, &str, Pays)) -> Answer {
    let (status, code, pays) = expected;
    let what = format!("{wire:?}: {what}");
    let config = server.config(tenant, wire.provider(), "smart", &json!({"model_config": {"max_tokens": 100}})).await;
    server.vendor.then(Reply::text("Good."));
    let conversation = server.say(&tenant.key, &config, "first").await;
    let (balance, held) = server.wallet(&tenant.key).await;
    assert_eq!(held, "0.000000000");
    let calls = server.vendor.call_count();
    let expected_calls = replies.len();
    for reply in replies {
        server.vendor.then(reply);
    }
    let answer = server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "lost words"})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{what}: {}", answer.body);
    assert_eq!(server.vendor.call_count() - calls, expected_calls, "{what}: calls");
    for canary in ["vendor-key-canary", "127.0.0.1:", "reqwest", "hyper"] {
        assert!(!answer.body.replace(&server.base, "").contains(canary), "{what}: {canary} in {}", answer.body);
    }
    let log = server.logs(&tenant.key).await.remove(0);
    assert_eq!((&log["event"], &log["status"], &log["code"]), (&json!("step"), &json!(status), &json!(code)), "{what}: {log:#}");
    let (after, held) = server.wallet(&tenant.key).await;
    assert_eq!(held, "0.000000000", "{what}: nothing stays held");
    match pays {
        Pays::Nothing => {
            assert_eq!(after, balance, "{what}: it is free");
            assert_eq!((&log["cost"], &log["estimated"]), (&json!("0.000000000"), &json!(false)), "{what}: {log:#}");
        }
        Pays::Estimate => {
            assert!(nanos(&after) < nanos(&balance), "{what}: it may have been billed");
            assert_eq!(log["estimated"], true, "{what}: {log:#}");
            assert_eq!(nanos(&balance) - nanos(&after), nanos(log["cost"].as_str().unwrap()), "{what}");
        }
    }
    assert_eq!(
        server.history(&tenant.key, &conversation).await,
        ["user: first", "assistant: Good."],
        "{what}: the failed message is not there"
    );
    server.vendor.then(Reply::text("Better."));
    let again = server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "second"})).await;
    assert_eq!(again.status, 200, "{what}: {}", again.body);
    assert_eq!(server.vendor.last().said, ["user: first", "assistant: Good.", "user: second"], "{what}");
    answer
}

fn nanos(money: &str) -> i64 {
    let money: nimblesite::money::Money = money.parse().expect("money");
    money.nanos()
}

#[tokio::test]
async fn a_refusal_is_free_and_has_its_code() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for wire in Wire::ALL {
        for (status, times, expected) in [
            (400, 1, (502, "provider_error")),
            (401, 1, (503, "provider_not_configured")),
            (403, 1, (503, "provider_not_configured")),
            (404, 1, (503, "provider_not_configured")),
            (413, 1, (502, "provider_error")),
            // Worth another try, and another: provider_attempts_max is 3.
            (429, 3, (503, "provider_overloaded")),
            (500, 3, (503, "provider_overloaded")),
            (503, 3, (503, "provider_overloaded")),
            (529, 3, (503, "provider_overloaded")),
        ] {
            let replies = (0..times).map(|_| Reply::refuse(status)).collect();
            fails(&server, &tenant, wire, &format!("status {status}"), replies, (expected.0, expected.1, Pays::Nothing)).await;
        }
    }
    server.done().await;
}

#[tokio::test]
async fn a_vendor_whose_window_is_smaller_than_we_thought_is_asked_for_less() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for wire in Wire::ALL {
        let config = server.config(&tenant, wire.provider(), "narrow", &json!({"model_config": {"max_tokens": 100}})).await;
        let padding = "x".repeat(1_500);
        let say = |conversation: &Value, n: usize| {
            let mut body = json!({"message": format!("{n} {padding}")});
            if !conversation.is_null() {
                body["conversation_id"] = conversation.clone();
            }
            body
        };
        let mut conversation = Value::Null;
        for n in 0..4 {
            server.vendor.then(Reply::text("Yes."));
            conversation = server.chat(&tenant.key, &config, &say(&conversation, n)).await.expect(200).at("/conversation_id");
        }
        let balance = server.wallet(&tenant.key).await;
        server.vendor.then(Reply::too_long()).then(Reply::text("Now it fits."));
        let answer = server.chat(&tenant.key, &config, &say(&conversation, 4)).await.expect(200);
        assert!(answer.at("/context/turns_left_out").as_u64() > Some(0), "{wire:?}: {}", answer.body);
        assert_eq!(nanos(&balance.0) - nanos(&server.wallet(&tenant.key).await.0), 600_000, "{wire:?}: only the answer is paid");
        // Who does not want that is told, after one try.
        server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &json!({"context_policy": "error"})).await.expect(200);
        server.vendor.then(Reply::too_long());
        server.chat(&tenant.key, &config, &json!({"message": "short"})).await.problem(422, "context_too_long");
    }
    server.done().await;
}

#[tokio::test]
async fn an_overload_that_passes_is_not_noticed() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for wire in Wire::ALL {
        let config = server.config(&tenant, wire.provider(), "smart", &json!({})).await;
        server.vendor.then(Reply::refuse(529)).then(Reply::refuse(429).header("retry-after", "0")).then(Reply::text("Here."));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert_eq!((answer.text("/response"), answer.text("/cost")), ("Here.".to_owned(), "0.000600000".to_owned()));
    }
    server.done().await;
}

#[tokio::test]
async fn a_vendor_that_asks_for_a_long_wait_is_not_asked_again_and_its_wait_is_told() {
    let server = Settings::default().limit("provider_backoff_max_ms", 1_000).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let replies = vec![Reply::refuse(429).header("retry-after", "1800")];
    let answer = fails(&server, &tenant, Wire::Anthropic, "a long wait", replies, (503, "provider_overloaded", Pays::Nothing)).await;
    assert_eq!(answer.header("retry-after"), Some("1800"));
    server.done().await;
}

#[tokio::test]
async fn money_that_the_operator_owes_the_vendor_is_the_operator_s_to_mend() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let quota = json!({"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "param": null, "code": "insufficient_quota"}});
    let replies = vec![Reply::refuse_with(429, &quota.to_string())];
    fails(&server, &tenant, Wire::OpenAi, "quota", replies, (503, "provider_not_configured", Pays::Nothing)).await;
    server.done().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_estimated_and_not_stored() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let text = || {
        Reply::parts(vec![
            Part::text("One two three four five six seven eight."),
            Part::call("c1", "read_file", &json!({"path": "abcdefgh"})),
        ])
    };
    let broken = (502, "provider_error", Pays::Estimate);
    for wire in Wire::ALL {
        for (what, reply) in [
            ("cut before the head", text().cut(At::BeforeHead)),
            ("cut after the head", text().cut(At::AfterHead)),
            ("cut after a frame", text().cut(At::Frame(4))),
            ("cut within a frame", text().cut(At::WithinFrame(3))),
            ("a polite end after a frame", text().ends_early(At::Frame(4))),
            ("a polite end after the head", text().ends_early(At::AfterHead)),
            ("an error inside the stream", text().error(At::Frame(5), "vendor-words-canary: overloaded")),
            ("an error as the first frame", text().error(At::AfterHead, "vendor-words-canary: overloaded")),
            ("a frame that is no JSON", Reply::parts(vec![Part::text("One"), Part::Raw("data: {\"half\": \n\n".to_owned())])),
        ] {
            fails(&server, &tenant, wire, what, vec![reply], broken).await;
        }
    }
    server.done().await;
}

#[tokio::test]
async fn a_vendor_that_is_silent_or_endless_is_left() {
    let limits = [("provider_first_byte_timeout_ms", 150), ("provider_idle_timeout_ms", 150), ("provider_total_timeout_ms", 600)];
    let mut settings = Settings::default();
    for (name, value) in limits {
        settings = settings.limit(name, value);
    }
    let server = settings.start().await;
    let tenant = server.rich_tenant("Acme").await;
    let gate = Gate::new();
    let late = (504, "provider_timeout", Pays::Estimate);
    for wire in Wire::ALL {
        fails(&server, &tenant, wire, "no head", vec![Reply::text("late").stall(At::BeforeHead, &gate)], late).await;
        fails(&server, &tenant, wire, "no body", vec![Reply::text("late").stall(At::AfterHead, &gate)], late).await;
        fails(&server, &tenant, wire, "idle", vec![Reply::text("a text of a good many words").stall(At::Frame(3), &gate)], late).await;
        let words = "drip ".repeat(400);
        fails(&server, &tenant, wire, "endless", vec![Reply::text(&words).drip(Duration::from_millis(40))], late).await;
    }
    // A vendor that is left is told so: the connection is closed, and it may stop computing.
    server.vendor.until("the clients that left", |vendor| vendor.clients_lost() >= 12).await;
    server.done().await;
}

#[tokio::test]
async fn an_answer_may_not_be_endless_in_bytes() {
    let server = Settings::default().limit("answer_bytes_max", 100_000).start().await;
    let tenant = server.rich_tenant("Acme").await;
    for wire in Wire::ALL {
        let giant = Reply::text(&"x".repeat(200_000));
        fails(&server, &tenant, wire, "a giant", vec![giant], (502, "provider_error", Pays::Estimate)).await;
    }
    server.done().await;
}

#[tokio::test]
async fn a_vendor_that_is_not_there_is_free() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "dead", "smart", &json!({})).await;
    let answer = server.chat(&tenant.key, &config, &json!({"message": "anyone?"})).await;
    assert!([502, 503].contains(&answer.status), "{}", answer.body);
    assert_eq!(server.wallet(&tenant.key).await, ("10.000000000".to_owned(), "0.000000000".to_owned()));
    // A vendor that answers nobody without a key, on a server that has none for it.
    let config = server.config(&tenant, "anthropic", "smart", &json!({})).await;
    server.chat(&tenant.key, &config, &json!({"message": "anyone?"})).await.problem(503, "provider_not_configured");
    assert_eq!(server.wallet(&tenant.key).await, ("10.000000000".to_owned(), "0.000000000".to_owned()));
    server.done().await;
}

#[tokio::test]
async fn usage_that_is_missing_is_estimated_and_the_answer_stays() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for wire in Wire::ALL {
        let config = server.config(&tenant, wire.provider(), "smart", &json!({"model_config": {"max_tokens": 100}})).await;
        let wrong = match wire {
            Wire::Anthropic => json!({"input_tokens": -5, "output_tokens": -1}),
            Wire::OpenAi => json!({"prompt_tokens": -5, "completion_tokens": -1}),
            Wire::Ollama => json!({"prompt_eval_count": -5, "eval_count": -1}),
        };
        for (what, reply) in [("missing", Reply::text("Fine.").usage_missing()), ("negative", Reply::text("Fine.").usage_said(wrong))] {
            server.vendor.then(reply);
            let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
            assert_eq!(answer.text("/response"), "Fine.", "{wire:?} {what}");
            assert!(nanos(&answer.text("/cost")) > 0, "{wire:?} {what}: {}", answer.body);
            assert_eq!(server.logs(&tenant.key).await[0]["estimated"], true, "{wire:?} {what}");
        }
    }
    server.done().await;
}

#[tokio::test]
async fn a_fallback_is_tried_only_when_the_first_certainly_did_not_accept() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let fallbacks = json!({"model_config": {"fallbacks": [{"provider": "fake-openai", "model": "other"}, {"provider": "fake-ollama", "model": "smart"}]}});
    let config = server.config(&tenant, "fake-anthropic", "smart", &fallbacks).await;
    for _ in 0..3 {
        server.vendor.then(Reply::refuse(529));
    }
    server.vendor.then(Reply::text("From the second."));
    let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    assert_eq!(answer.at("/model"), json!({"provider": "fake-openai", "model": "other"}));
    let wires: Vec<_> = server.vendor.calls().iter().map(|call| call.wire).collect();
    assert_eq!(wires, [Wire::Anthropic, Wire::Anthropic, Wire::Anthropic, Wire::OpenAi]);
    assert_eq!(answer.text("/cost"), "0.000600000", "only the one that answered");

    // Accepted, perhaps: no second vendor may be paid for the same words.
    let before = server.vendor.call_count();
    server.vendor.then(Reply::text("lost").cut(At::Frame(2)));
    server.chat(&tenant.key, &config, &json!({"message": "go"})).await.problem(502, "provider_error");
    assert_eq!(server.vendor.call_count() - before, 1);

    // Not there at all: on to the next.
    let dead = json!({"model_config": {"fallbacks": [{"provider": "fake-openai", "model": "smart"}]}});
    let config = server.config(&tenant, "dead", "smart", &dead).await;
    server.vendor.then(Reply::text("Here."));
    let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    assert_eq!(answer.text("/model/provider"), "fake-openai");
    server.done().await;
}

#[tokio::test]
async fn a_failure_after_the_first_event_is_an_error_event() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Half of the words").cut(At::Frame(5)));
    let mut events = server.stream(&tenant.key, &config, &json!({"message": "go"})).await;
    let started = events.expect("turn.started").await;
    let rest = events.rest().await;
    let last = rest.last().expect("an end");
    assert_eq!((last.name.as_str(), &last.data["code"], &last.data["status"]), ("error", &json!("provider_error"), &json!(502)));
    // A conversation that was announced exists, though its first turn failed.
    let conversation = started.data["conversation_id"].as_str().unwrap();
    let there = server.get(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.expect(200);
    assert_eq!(there.at("/message_count"), 0);
    server.vendor.then(Reply::text("Now."));
    server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "again"})).await.expect(200);
    assert_eq!(server.vendor.last().said, ["user: again"]);
    server.done().await;
}

#[tokio::test]
async fn an_error_before_the_first_event_is_a_plain_answer() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).header("Accept", "text/event-stream");
    let answer = Answer::read(request.body("{\"message\": \"go\"}").send().await.unwrap()).await;
    answer.problem(402, "insufficient_credit");
    let body: Value = json!({"message": "go", "stream": true, "conversation_id": nimblesite::ids::ConversationId::new()});
    server.chat(&tenant.key, &config, &body).await.problem(404, "not_found");
    assert_eq!(server.vendor.call_count(), 0);
    server.done().await;
}
