//! Odd answers of vendors, odd words of people, and limits that are reached: nothing of it may break a conversation or be paid twice.

use crate::{
    fake_provider::{At, Gate, Part, Reply, Wire},
    harness::{Server, Settings, Tenant},
};
use serde_json::{Value, json};

async fn begun(wire: Wire, settings: Settings) -> (Server, Tenant, String) {
    let server = settings.start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, wire.provider(), "smart", &json!({"tools_config": ["look", "listen"]})).await;
    (server, tenant, config)
}

/// Goes on with a conversation once on every wire, so that each has to take what the other left.
async fn goes_on(server: &Server, tenant: &Tenant, config: &str, conversation: &str) {
    for wire in Wire::ALL {
        let to = json!({"model_config": {"provider": wire.provider(), "model": "smart"}});
        server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &to).await.expect(200);
        server.vendor.then(Reply::text("And on."));
        let body = json!({"conversation_id": conversation, "message": "go on", "cancel_open_calls": true});
        let answer = server.chat(&tenant.key, config, &body).await;
        assert_eq!(answer.status, 200, "{wire:?}: {}", answer.body);
    }
    assert_eq!(server.vendor.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_answer_that_says_nothing_can_be_followed_by_another() {
    for wire in Wire::ALL {
        let (server, tenant, config) = begun(wire, Settings::default()).await;
        for reply in [Reply::parts(Vec::new()), Reply::text(" \n "), Reply::parts(vec![Part::thinking("hm", "sig-1")])] {
            server.vendor.then(reply);
            let answer = server.chat(&tenant.key, &config, &json!({"message": "say nothing"})).await;
            if answer.status == 200 {
                let conversation = answer.text("/conversation_id");
                goes_on(&server, &tenant, &config, &conversation).await;
            } else {
                // To call nothing an answer or a failure is the product's choice; half of either is not.
                answer.problem(502, "provider_error");
            }
            let back = json!({"model_config": {"provider": wire.provider(), "model": "smart"}});
            server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &back).await.expect(200);
        }
        server.done().await;
    }
}

#[tokio::test]
async fn call_ids_of_a_vendor_may_be_poor() {
    // The same id twice in one answer, again in the next turn, and strange characters: seen from vendors of the OpenAI wire.
    let (server, tenant, config) = begun(Wire::OpenAi, Settings::default()).await;
    for id in ["functions.look:0", "functions.look:0", "", "an id with spaces / and \"quotes\""] {
        server.vendor.then(Reply::calls(&[(id, "look", json!({"n": 1})), (id, "look", json!({"n": 2}))])).then(Reply::text("Seen."));
        let first = server.chat(&tenant.key, &config, &json!({"message": "look twice"})).await.expect(200);
        let calls = first.at("/tool_calls");
        let calls = calls.as_array().unwrap();
        assert_eq!(calls.len(), 2, "{id:?}: {calls:?}");
        assert_ne!(calls[0]["id"], calls[1]["id"], "{id:?}: each call can be answered");
        let results: Vec<_> =
            calls.iter().map(|call| json!({"tool_call_id": call["id"], "content": format!("saw {}", call["arguments"]["n"])})).collect();
        let conversation = first.text("/conversation_id");
        let body = json!({"conversation_id": conversation, "tool_results": results});
        server.chat(&tenant.key, &config, &body).await.expect(200);
        let said = server.vendor.last().said;
        assert_eq!(said[said.len() - 2..], ["tool look: saw 1", "tool look: saw 2"], "{id:?}");
        goes_on(&server, &tenant, &config, &conversation).await;
        let back = json!({"model_config": {"provider": "fake-openai", "model": "smart"}});
        server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &back).await.expect(200);
    }
    server.done().await;
}

#[tokio::test]
async fn arguments_that_are_no_object_break_nothing() {
    for wire in [Wire::Anthropic, Wire::OpenAi] {
        let (server, tenant, config) = begun(wire, Settings::default()).await;
        for arguments in ["[1]", "\"text\"", "{\"half\": ", "nonsense", "null", "{\"a\":1}{\"b\":2}", "   "] {
            let call = Part::Call { id: "c1".to_owned(), name: "look".to_owned(), arguments: arguments.to_owned() };
            server.vendor.then(Reply::text("Hello.")).then(Reply::parts(vec![Part::text("Well,"), call]));
            let conversation = server.say(&tenant.key, &config, "hello").await;
            let answer = server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "look"})).await;
            match answer.status {
                200 => {
                    for call in answer.at("/tool_calls").as_array().unwrap() {
                        assert!(call["arguments"].is_object(), "{wire:?} {arguments}: {call}");
                    }
                }
                _ => drop(answer.problem(502, "provider_error")),
            }
            goes_on(&server, &tenant, &config, &conversation).await;
            let back = json!({"model_config": {"provider": wire.provider(), "model": "smart"}});
            server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &back).await.expect(200);
        }
        server.done().await;
    }
}

#[tokio::test]
async fn a_tool_that_no_config_has_is_still_a_valid_history() {
    for wire in Wire::ALL {
        let (server, tenant, config) = begun(wire, Settings::default()).await;
        server.vendor.then(Reply::calls(&[("c1", "invented", json!({}))]));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await;
        if answer.status == 200 {
            goes_on(&server, &tenant, &config, &answer.text("/conversation_id")).await;
        } else {
            answer.problem(502, "provider_error");
        }
        server.done().await;
    }
}

#[tokio::test]
async fn too_many_calls_are_no_answer() {
    let (server, tenant, config) = begun(Wire::OpenAi, Settings::default().limit("answer_tool_calls_max", 4)).await;
    let calls: Vec<_> = (0..5).map(|n| Part::call(&format!("c{n}"), "look", &json!({}))).collect();
    server.vendor.then(Reply::parts(calls));
    let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await;
    assert!(answer.status == 502 || answer.at("/tool_calls").as_array().unwrap().len() <= 4, "{}", answer.body);
    server.done().await;
}

#[tokio::test]
async fn a_provider_may_change_in_the_middle_of_a_tool_loop() {
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        let (from, to) = (Wire::ALL[from], Wire::ALL[to]);
        let (server, tenant, config) = begun(from, Settings::default()).await;
        let calls = [("c_a", "look", json!({"n": 1})), ("c_b", "listen", json!({})), ("c_c", "look", json!({"n": 2}))];
        server.vendor.then(Reply::calls(&calls)).then(Reply::text("Seen and heard."));
        let first = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        let results: Vec<_> = first
            .at("/tool_calls")
            .as_array()
            .unwrap()
            .iter()
            .rev()
            .map(|call| json!({"tool_call_id": call["id"], "content": format!("{} {}", call["name"], call["arguments"])}))
            .collect();
        let other = json!({"model_config": {"provider": to.provider(), "model": "smart"}});
        server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &other).await.expect(200);
        let body = json!({"conversation_id": first.text("/conversation_id"), "tool_results": results});
        server.chat(&tenant.key, &config, &body).await.expect(200);
        let call = server.vendor.last();
        assert_eq!(call.wire, to);
        assert_eq!(
            call.said[call.said.len() - 3..],
            ["tool look: \"look\" {\"n\":1}", "tool listen: \"listen\" {}", "tool look: \"look\" {\"n\":2}"],
            "{from:?} to {to:?}"
        );
        goes_on(&server, &tenant, &config, &first.text("/conversation_id")).await;
        server.done().await;
    }
}

#[tokio::test]
async fn any_text_comes_back_as_it_was_said() {
    let (server, tenant, config) = begun(Wire::Anthropic, Settings::default()).await;
    for text in [
        "\u{0}nul\u{0}",
        "a\u{feff}b",
        "\u{202e}rtl",
        "👩‍👩‍👧‍👦",
        "'; DROP TABLE messages; --",
        "{date} {tenant_name} {{x}}",
        "\\u0000",
        "\r\n\t",
        "x\u{85}\u{2028}",
    ] {
        let message = format!("says {text}");
        server.vendor.then(Reply::text(&format!("heard {text}")));
        let answer = server.chat(&tenant.key, &config, &json!({"message": message})).await.expect(200);
        assert_eq!(answer.text("/response"), format!("heard {text}"));
        let list = server.get(&format!("/api/v1/conversations/{}/messages", answer.text("/conversation_id")), &tenant.key).await;
        assert_eq!((list.text("/data/0/content"), list.text("/data/1/content")), (message.clone(), format!("heard {text}")));
        assert_eq!(server.vendor.last().said, [format!("user: {message}")]);
    }
    server.done().await;
}

#[tokio::test]
async fn thinking_that_is_bound_to_its_prefix_stays_behind_when_the_prompt_changes() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "bound", &json!({"tools_config": ["look"]})).await;
    let thoughts = |body: &Value| body["messages"].to_string().matches("\"signature\"").count();
    server.vendor.then(Reply::parts(vec![Part::thinking("one", "sig-1"), Part::text("First.")]));
    let conversation = server.say(&tenant.key, &config, "one").await;
    let on = json!({"conversation_id": conversation, "message": "more"});
    server.vendor.then(Reply::parts(vec![Part::thinking("two", "sig-2"), Part::text("Second.")]));
    server.chat(&tenant.key, &config, &on).await.expect(200);
    assert_eq!(thoughts(&server.vendor.last().body), 1, "the prompt is the same: the thinking goes back");
    // A new prompt: what was thought behind the old one is invalid, and a vendor may refuse it.
    server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &json!({"system_prompt": "You are another."})).await.expect(200);
    server.vendor.then(Reply::parts(vec![Part::thinking("three", "sig-3"), Part::text("Third.")]));
    server.chat(&tenant.key, &config, &on).await.expect(200);
    assert_eq!(thoughts(&server.vendor.last().body), 0);
    server.vendor.then(Reply::text("Fourth."));
    server.chat(&tenant.key, &config, &on).await.expect(200);
    let last = server.vendor.last();
    assert_eq!(last.said.len(), 7);
    assert!(thoughts(&last.body) <= 1, "what was thought behind the new one is valid, as long as all before it is the same");
    server.done().await;
}

#[tokio::test]
async fn a_server_that_is_full_says_so() {
    let (server, tenant, config) = begun(Wire::Anthropic, Settings::default().limit("turns_max", 2).limit("turns_per_tenant_max", 1)).await;
    let other = server.rich_tenant("Bolt").await;
    let theirs = server.config(&other, "fake-anthropic", "smart", &json!({})).await;
    let third = server.rich_tenant("Cork").await;
    let thirds = server.config(&third, "fake-anthropic", "smart", &json!({})).await;
    let gate = Gate::new();
    server.vendor.otherwise(Reply::text("Slow.").stall(At::BeforeHead, &gate));
    let body = json!({"message": "go"});
    let (first, second, ()) = tokio::join!(server.chat(&tenant.key, &config, &body), server.chat(&other.key, &theirs, &body), async {
        server.vendor.called(2).await;
        let rows = server.rows();
        let refused = server.chat(&tenant.key, &config, &body).await;
        assert!([429, 503].contains(&refused.status) && refused.header("retry-after").is_some(), "{}", refused.body);
        let refused = server.chat(&third.key, &thirds, &body).await.problem(503, "overloaded");
        assert!(refused.header("retry-after").is_some());
        assert_eq!((server.rows(), server.vendor.call_count()), (rows, 2));
        gate.open();
    });
    first.expect(200);
    second.expect(200);
    server.chat(&third.key, &thirds, &body).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn a_disk_below_its_floor_stops_turns_and_nothing_else() {
    let (server, tenant, config) = begun(Wire::Anthropic, Settings::default().limit("disk_free_bytes_min", 1 << 50)).await;
    let rows = server.rows();
    server.chat(&tenant.key, &config, &json!({"message": "go"})).await.problem(507, "disk_full");
    assert_eq!((server.rows(), server.vendor.call_count()), (rows, 0));
    server.get("/api/v1/configs", &tenant.key).await.expect(200);
    assert_ne!(server.get("/readyz", "").await.status, 200);
    server.get("/healthz", "").await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_fill_the_log() {
    let (server, tenant, config) = begun(Wire::Anthropic, Settings::default().limit("refusal_logs_per_minute", 5)).await;
    for _ in 0..30 {
        server.chat(&tenant.key, &config, &json!({"message": ""})).await.problem(422, "validation_failed");
    }
    let logged = server.logs(&tenant.key).await.len();
    assert!((1..=10).contains(&logged), "{logged}: a minute may turn while this runs");
    server.done().await;
}

#[tokio::test]
async fn things_may_go_while_a_turn_runs_on_them() {
    let (server, tenant, config) = begun(Wire::Anthropic, Settings::default()).await;
    let body = json!({"message": "go"});
    // Its conversation.
    let gate = Gate::new();
    server.vendor.then(Reply::text("One two three four five.").stall(At::Frame(4), &gate));
    let (answer, ()) = tokio::join!(server.chat(&tenant.key, &config, &body), async {
        server.vendor.called(1).await;
        let conversation = server.get("/api/v1/conversations", &tenant.key).await.expect(200).ids().remove(0);
        server.delete(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.expect(204);
        server.get(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.problem(404, "not_found");
    });
    assert!([404, 409].contains(&answer.status), "{}", answer.body);
    assert_eq!(server.wallet(&tenant.key).await.1, "0.000000000");
    // Its config: the turn ends with the version that it began with.
    let gate = Gate::new();
    server.vendor.then(Reply::text("Still here.").stall(At::Frame(3), &gate));
    let (answer, ()) = tokio::join!(server.chat(&tenant.key, &config, &body), async {
        server.vendor.called(2).await;
        server.delete(&format!("/api/v1/configs/{config}"), &tenant.key).await.expect(204);
        gate.open();
    });
    assert_eq!(answer.expect(200).text("/response"), "Still here.");
    // Its key: what runs is paid and stored, the next is refused.
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let (key, id) = server.key(&tenant, "member").await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("The last.").stall(At::Frame(3), &gate));
    let (answer, ()) = tokio::join!(server.chat(&key, &config, &body), async {
        server.vendor.called(3).await;
        server.delete(&format!("/api/v1/keys/{id}"), &tenant.key).await.expect(204);
        gate.open();
    });
    assert!([200, 401].contains(&answer.status), "{}", answer.body);
    server.chat(&key, &config, &body).await.problem(401, "invalid_api_key");
    // The tenant itself, with every byte.
    let gate = Gate::new();
    server.vendor.then(Reply::text("One two three four five.").stall(At::Frame(4), &gate));
    let (answer, ()) = tokio::join!(server.chat(&tenant.key, &config, &body), async {
        server.vendor.called(4).await;
        server.call("DELETE", "/api/v1/tenant", &tenant.key, Some(&json!({"confirm": tenant.name}))).await.expect(204);
    });
    assert!(answer.status >= 400, "{}", answer.body);
    server.get("/api/v1/tenant", &tenant.key).await.problem(401, "invalid_api_key");
    assert_eq!(server.tenant_files(), Vec::new());
    server.done().await;
}

#[tokio::test]
async fn a_key_revoked_while_its_request_waits_buys_nothing() {
    let (server, tenant, config) = begun(Wire::Anthropic, Settings::default()).await;
    let (key, id) = server.key(&tenant, "member").await;
    server.vendor.then(Reply::text("Good."));
    let conversation = server.say(&tenant.key, &config, "first").await;
    let body = json!({"conversation_id": conversation, "message": "go"});
    let gate = Gate::new();
    server.vendor.then(Reply::text("Slow.").stall(At::BeforeHead, &gate));
    let (first, waited, ()) = tokio::join!(
        server.chat(&tenant.key, &config, &body),
        async {
            server.vendor.called(2).await;
            server.chat(&key, &config, &body).await
        },
        async {
            server.vendor.called(2).await;
            // The waiting request has its key proved and stands in line; what it waits for is the conversation.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            server.delete(&format!("/api/v1/keys/{id}"), &tenant.key).await.expect(204);
            gate.open();
        }
    );
    first.expect(200);
    waited.problem(401, "invalid_api_key");
    assert_eq!(server.vendor.call_count(), 2);
    server.done().await;
}
