//! Conversations on each vendor's wire: tool loops, parallel calls, streams whose bytes are cut anywhere, what a vendor must get back as it
//! gave it.

use crate::{
    check,
    fake_provider::{Finish, Part, Reply, Wire},
    harness::{Events, Server, Tenant, mask},
};
use serde_json::{Value, json};

/// A config on each wire with the same two tools.
async fn configs(server: &Server, tenant: &Tenant) -> Vec<(Wire, String)> {
    let tools = json!({"tools_config": ["read_file", {"name": "write_file", "description": "Writes a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}, "required": ["path", "text"]}}]});
    let mut configs = Vec::new();
    for wire in Wire::ALL {
        configs.push((wire, server.config(tenant, wire.provider(), "smart", &tools).await));
    }
    configs
}

/// Results for the calls of an answer: each tool says its name and arguments back.
fn results(answer: &Value) -> Value {
    let calls = answer["tool_calls"].as_array().expect("calls");
    let result = |call: &Value| json!({"tool_call_id": call["id"], "name": call["name"], "content": format!("did {} {}", call["name"], call["arguments"])});
    calls.iter().map(result).collect()
}

#[tokio::test]
async fn a_tool_loop_of_several_rounds_with_parallel_calls() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for (wire, config) in configs(&server, &tenant).await {
        server
            .vendor
            .then(Reply::parts(vec![Part::text("Let me look."), Part::call("call_a", "read_file", &json!({"path": "a"}))]))
            .then(Reply::calls(&[
                ("call_b", "read_file", json!({"path": "b \"é\n"})),
                ("call_c", "write_file", json!({"path": "c", "text": "{}"})),
                ("call_d", "read_file", json!({})),
            ]))
            .then(Reply::text("All done."));
        let first = server.chat(&tenant.key, &config, &json!({"message": "Change my phone number"})).await.expect(200);
        assert_eq!(
            (first.text("/response"), first.text("/finish_reason")),
            ("Let me look.".to_owned(), "tool_calls".to_owned()),
            "{wire:?}"
        );
        let conversation = first.text("/conversation_id");
        let second = json!({"conversation_id": conversation, "tool_results": results(&first.json())});
        let second = server.chat(&tenant.key, &config, &second).await.expect(200);
        assert_eq!(second.at("/response"), Value::Null);
        let calls = second.at("/tool_calls");
        let named: Vec<_> = calls.as_array().unwrap().iter().map(|call| json!([call["name"], call["arguments"]])).collect();
        assert_eq!(
            json!(named),
            json!([["read_file", {"path": "b \"é\n"}], ["write_file", {"path": "c", "text": "{}"}], ["read_file", {}]]),
            "{wire:?}"
        );
        if wire != Wire::Ollama {
            let ids: Vec<_> = calls.as_array().unwrap().iter().map(|call| call["id"].clone()).collect();
            assert_eq!(json!(ids), json!(["call_b", "call_c", "call_d"]), "the vendor's own ids are kept");
        }
        // Results may come in any order; the vendor gets them in the order that its wire needs.
        let mut reversed = results(&second.json());
        reversed.as_array_mut().unwrap().reverse();
        let third = json!({"conversation_id": conversation, "tool_results": reversed});
        let third = server.chat(&tenant.key, &config, &third).await.expect(200);
        assert_eq!((third.text("/response"), third.text("/finish_reason")), ("All done.".to_owned(), "stop".to_owned()));
        assert_eq!(third.at("/tool_calls"), json!([]));
        let said = server.vendor.last().said;
        assert_eq!(
            said,
            [
                "user: Change my phone number",
                "assistant: Let me look.",
                "assistant calls read_file({\"path\":\"a\"})",
                "tool read_file: did \"read_file\" {\"path\":\"a\"}",
                "assistant calls read_file({\"path\":\"b \\\"é\\n\"})",
                "assistant calls write_file({\"path\":\"c\",\"text\":\"{}\"})",
                "assistant calls read_file({})",
                "tool read_file: did \"read_file\" {\"path\":\"b \\\"é\\n\"}",
                "tool write_file: did \"write_file\" {\"path\":\"c\",\"text\":\"{}\"}",
                "tool read_file: did \"read_file\" {}",
            ],
            "{wire:?}"
        );
        assert_eq!(server.history(&tenant.key, &conversation).await.len(), 8);
    }
    assert_eq!(server.vendor.billed_nanos(), 9 * 600_000);
    assert_eq!(server.wallet(&tenant.key).await, ("9.994600000".to_owned(), "0.000000000".to_owned()), "paid what the vendor billed");
    server.done().await;
}

#[tokio::test]
async fn a_plain_answer_has_everything() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Done — phone updated.").tokens(812, 21).cached(5, 3));
    let answer = server.chat(&tenant.key, &config, &json!({"message": "Change my phone number"})).await;
    assert!(answer.header("ratelimit-policy").is_some() && answer.header("ratelimit").is_some());
    check!(answer, @r#"
        200  x-credit-available: 9.997236250
        {
          "response": "Done — phone updated.",
          "conversation_id": "<id 1>",
          "tool_calls": [],
          "message_id": "<id 2>",
          "turn_id": "<id 3>",
          "finish_reason": "stop",
          "model": {
            "provider": "fake-anthropic",
            "model": "smart"
          },
          "usage": {
            "input_tokens": 812,
            "output_tokens": 21,
            "cache_read_tokens": 5,
            "cache_write_tokens": 3
          },
          "cost": "0.002763750",
          "balance": "9.997236250",
          "max_tokens_applied": 4096,
          "context": {
            "turns_left_out": 0,
            "messages_left_out": 0,
            "turns_summarised": 0
          }
        }
    "#);
    // 812 × 3 + 21 × 15 + 5 × 0.30 + 3 × 3.75 millionths of a dollar.
    assert_eq!(server.vendor.billed_nanos(), 2_763_750 + 1_000 - 1_000);
    server.done().await;
}

#[tokio::test]
async fn every_byte_of_a_vendor_may_come_alone() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let parts =
        || vec![Part::text("Grüße, 世界 🌍 \"quoted\" \\ and\nlines"), Part::call("call_1", "read_file", &json!({"path": "ü\t/\"x\""}))];
    for (wire, config) in configs(&server, &tenant).await {
        server.vendor.then(Reply::parts(parts()).whole()).then(Reply::parts(parts()).every_byte());
        let mut shown = Vec::new();
        for _ in 0..2 {
            let mut events = server.stream(&tenant.key, &config, &json!({"message": "go"})).await;
            let events = events.rest().await;
            assert_eq!(Events::names(&events), ["turn.started", "message.delta", "tool_call", "turn.completed"], "{wire:?}");
            assert_eq!(Events::text(&events), "Grüße, 世界 🌍 \"quoted\" \\ and\nlines", "{wire:?}");
            let last = events.last().unwrap();
            assert_eq!(last.data["response"], "Grüße, 世界 🌍 \"quoted\" \\ and\nlines");
            let call = events.iter().find(|event| event.name == "tool_call").unwrap();
            assert_eq!((&call.data["name"], &call.data["arguments"]), (&json!("read_file"), &json!({"path": "ü\t/\"x\""})));
            assert_eq!(last.data["tool_calls"], json!([call.data]));
            assert_eq!(last.data["turn_id"], events[0].data["turn_id"]);
            let mut completed = last.data.clone();
            completed["balance"] = Value::Null;
            completed["tool_calls"][0]["id"] = Value::Null;
            shown.push(mask(&completed));
        }
        assert_eq!(shown[0], shown[1], "{wire:?}: cutting bytes changes nothing");
    }
    server.done().await;
}

#[tokio::test]
async fn a_vendor_s_stream_may_be_cut_in_two_at_any_byte() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for (wire, config) in configs(&server, &tenant).await {
        let reply = || Reply::parts(vec![Part::text("é🌍"), Part::call("c", "read_file", &json!({"p": "ü"}))]);
        // Every place in the last 1,100 bytes' worth of frames and, in steps that share no factor with their size, the rest.
        let places = (0..1_600).step_by(if wire == Wire::Ollama { 7 } else { 13 });
        for place in places {
            server.vendor.then(reply().split_at(place));
            let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
            assert_eq!(answer.text("/response"), "é🌍", "{wire:?} at {place}");
            assert_eq!(answer.at("/tool_calls/0/arguments"), json!({"p": "ü"}), "{wire:?} at {place}");
            assert_eq!(answer.text("/cost"), "0.000600000");
        }
    }
    server.done().await;
}

#[tokio::test]
async fn bookkeeping_that_comes_twice_is_not_paid_twice() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for (wire, config) in configs(&server, &tenant).await {
        if wire == Wire::Ollama {
            // Its one frame of bookkeeping ends the answer: what follows is a second answer, which nobody asked for.
            continue;
        }
        server.vendor.then(Reply::text("once").repeats_bookkeeping());
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert_eq!((answer.text("/response"), answer.text("/cost")), ("once".to_owned(), "0.000600000".to_owned()), "{wire:?}");
    }
    server.done().await;
}

#[tokio::test]
async fn thinking_goes_back_as_it_came() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let extra =
        json!({"tools_config": ["look"], "model_config": {"max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 1024}}});
    let config = server.config(&tenant, "fake-anthropic", "smart", &extra).await;
    server
        .vendor
        .then(Reply::parts(vec![
            Part::thinking("Let me think: é", "sig-1"),
            Part::Redacted("opaque-1".to_owned()),
            Part::call("c1", "look", &json!({})),
        ]))
        .then(Reply::parts(vec![Part::thinking("", "sig-2"), Part::text("Seen.")]));
    let first = server.chat(&tenant.key, &config, &json!({"message": "look"})).await.expect(200);
    assert!(!first.body.contains("Let me think"), "thinking is the vendor's, not an answer");
    let second = json!({"conversation_id": first.text("/conversation_id"), "tool_results": results(&first.json())});
    let second = server.chat(&tenant.key, &config, &second).await.expect(200);
    assert_eq!(second.text("/response"), "Seen.");
    let body = server.vendor.last().body;
    assert_eq!(
        body["messages"][1]["content"],
        json!([
            {"type": "thinking", "thinking": "Let me think: é", "signature": "sig-1"},
            {"type": "redacted_thinking", "data": "opaque-1"},
            {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
        ])
    );
    server.done().await;
}

#[tokio::test]
async fn a_tool_that_failed_is_told_as_failed() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for (wire, config) in configs(&server, &tenant).await {
        server.vendor.then(Reply::calls(&[("c1", "read_file", json!({}))])).then(Reply::text("Sorry."));
        let first = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        let result = json!([{"tool_call_id": first.text("/tool_calls/0/id"), "content": {"error": "no such file"}, "ok": false}]);
        server
            .chat(&tenant.key, &config, &json!({"conversation_id": first.text("/conversation_id"), "tool_results": result}))
            .await
            .expect(200);
        let said = server.vendor.last().said.pop().unwrap();
        assert!(said.contains("no such file"), "{said}");
        if wire == Wire::Anthropic {
            assert!(said.starts_with("tool read_file failed:"), "{said}");
        }
    }
    server.done().await;
}

#[tokio::test]
async fn what_ends_an_answer_is_told() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for (wire, config) in configs(&server, &tenant).await {
        server.vendor.then(Reply::text("cut off").finish(Finish::Length));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert_eq!((answer.text("/finish_reason"), answer.text("/response")), ("length".to_owned(), "cut off".to_owned()), "{wire:?}");
        if wire == Wire::Ollama {
            continue;
        }
        if wire == Wire::OpenAi {
            server.vendor.then(Reply::text("I ").finish(Finish::Filter));
            let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
            assert_eq!(answer.text("/finish_reason"), "content_filter");
        }
        // A call that the limit cut is no call: half its arguments may say the opposite of the whole.
        let half = Part::Call { id: "c1".to_owned(), name: "read_file".to_owned(), arguments: "{\"path\": \"a".to_owned() };
        server.vendor.then(Reply::parts(vec![Part::text("I will"), half]).finish(Finish::Length));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert_eq!((answer.at("/tool_calls"), answer.text("/finish_reason")), (json!([]), "length".to_owned()), "{wire:?}");
        let on = json!({"conversation_id": answer.text("/conversation_id"), "message": "go on"});
        server.vendor.then(Reply::text("on"));
        server.chat(&tenant.key, &config, &on).await.expect(200);
        server.vendor.then(Reply::parts(vec![Part::Refusal("I cannot.".to_owned())]).finish(Finish::Refusal));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert_eq!((answer.text("/finish_reason"), answer.text("/response")), ("refusal".to_owned(), "I cannot.".to_owned()), "{wire:?}");
    }
    server.done().await;
}

#[tokio::test]
async fn only_what_the_config_says_is_sent_and_always_a_limit() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for wire in Wire::ALL {
        let config =
            server.config(&tenant, wire.provider(), "smart", &json!({"model_config": {"temperature": 0.5, "max_tokens": 77}})).await;
        server.vendor.then(Reply::text("ok"));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert_eq!(answer.at("/max_tokens_applied"), 77);
        let call = server.vendor.last();
        assert_eq!((call.output_limit, call.system.as_str()), (Some(77), "You are a test."), "{wire:?}");
        let temperature = if wire == Wire::Ollama { &call.body["options"]["temperature"] } else { &call.body["temperature"] };
        assert_eq!(temperature, 0.5, "{wire:?}");
        let config = server.config(&tenant, wire.provider(), "smart", &json!({})).await;
        server.vendor.then(Reply::text("ok"));
        server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert_eq!(server.vendor.last().output_limit, Some(4096), "{wire:?}: the default");
    }
    server.done().await;
}

#[tokio::test]
async fn a_config_that_changes_its_provider_keeps_its_memory() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({"tools_config": ["look"]})).await;
    server
        .vendor
        .then(Reply::parts(vec![Part::thinking("hm", "sig-1"), Part::text("Looking."), Part::call("toolu_1", "look", &json!({"at": 1}))]))
        .then(Reply::text("I see one."));
    let first = server.chat(&tenant.key, &config, &json!({"message": "My name is Ada. Look."})).await.expect(200);
    let conversation = first.text("/conversation_id");
    server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "tool_results": results(&first.json())})).await.expect(200);
    let story = [
        "user: My name is Ada. Look.",
        "assistant: Looking.",
        "assistant calls look({\"at\":1})",
        "tool look: did \"look\" {\"at\":1}",
        "assistant: I see one.",
    ];
    for (n, provider) in ["fake-openai", "fake-ollama", "fake-anthropic", "fake-ollama", "fake-openai"].into_iter().enumerate() {
        let to = json!({"model_config": {"provider": provider, "model": "smart"}});
        server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &to).await.expect(200);
        server.vendor.then(Reply::calls(&[("again", "look", json!({"at": n}))])).then(Reply::text("Ada."));
        let asked = server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "Who am I?"})).await.expect(200);
        assert_eq!(asked.text("/model/provider"), provider);
        let told = json!({"conversation_id": conversation, "tool_results": results(&asked.json())});
        server.chat(&tenant.key, &config, &told).await.expect(200);
        let call = server.vendor.last();
        assert_eq!(call.wire.provider(), provider);
        assert_eq!(call.said[..5], story);
        assert_eq!(call.said.len(), 5 + 3 + 4 * n);
    }
    server.done().await;
}
