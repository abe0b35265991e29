//! One history, every wire: what is sent must be what each vendor accepts.

use super::*;
use std::sync::Arc;

/// A history with all that histories have: parallel calls, failures, values that are no strings, a vendor's odd ids that come again, an answer of
/// nothing, two users in a row.
fn history() -> Vec<PromptMessage> {
    let odd = "functions.read:0";
    vec![
        user("Hello"),
        assistant(Some("Hi."), vec![]),
        user("Read both"),
        assistant(Some("Reading."), vec![call(odd, "read", json!({"path": "a"})), call("call_2", "read", json!({}))]),
        PromptMessage::Tool {
            results: vec![result(odd, "read", json!("text"), true), result("call_2", "read", json!({"gone": true}), false)],
        },
        assistant(None, vec![call(odd, "read", json!({"path": "b"}))]),
        PromptMessage::Tool { results: vec![result(odd, "read", json!(""), true)] },
        user("Never mind"),
        assistant(None, vec![]),
        user("Go on"),
        assistant(Some("x"), vec![call(&"long".repeat(20), "list", json!({}))]),
        PromptMessage::Tool { results: vec![result(&"long".repeat(20), "list", json!([1, 2]), true)] },
    ]
}

fn full_prompt(provider: &str) -> Prompt {
    Prompt { system: "Be kind.".into(), tools: Arc::new([tool("read"), tool("list")]), ..prompt(provider, history()) }
}

/// The rules of Anthropic's messages: roles alternate, begin with the user; all calls of a message are answered at the start of the next, and only they.
fn check_anthropic(body: &Json) {
    let mut open: Vec<String> = Vec::new();
    let mut all = std::collections::HashSet::new();
    for (n, message) in body["messages"].as_array().unwrap().iter().enumerate() {
        assert_eq!(message["role"], if n % 2 == 0 { "user" } else { "assistant" }, "{body:#}");
        let blocks = message["content"].as_array().unwrap();
        assert!(!blocks.is_empty());
        let results: Vec<&Json> = blocks.iter().take_while(|block| block["type"] == "tool_result").collect();
        assert_eq!(results.iter().map(|block| block["tool_use_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), open, "{body:#}");
        open.clear();
        for block in &blocks[results.len()..] {
            match block["type"].as_str().unwrap() {
                "text" => assert!(!block["text"].as_str().unwrap().trim().is_empty()),
                "tool_use" => {
                    let id = block["id"].as_str().unwrap().to_owned();
                    assert!(id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'), "{id}");
                    assert!(block["input"].is_object() && all.insert(id.clone()), "ids are unique: {id}");
                    open.push(id);
                }
                other => panic!("{other} does not belong here"),
            }
        }
    }
    assert!(open.is_empty());
}

/// The rules of Chat Completions and of Ollama: each call is answered, in order, before anything else is said.
fn check_openai(body: &Json, id_bytes_max: usize) {
    let mut open: Vec<String> = Vec::new();
    for message in body["messages"].as_array().unwrap() {
        if message["role"] == "tool" {
            assert_eq!(message["tool_call_id"], open.remove(0), "{body:#}");
            assert!(message["content"].is_string());
            continue;
        }
        assert!(open.is_empty(), "{body:#}");
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let id = call["id"].as_str().unwrap();
            assert!(!id.is_empty() && id.len() <= id_bytes_max);
            open.push(id.to_owned());
        }
        assert!(message["content"].is_string() || !open.is_empty());
    }
    assert!(open.is_empty());
}

#[test]
fn the_same_history_is_valid_on_every_wire() {
    let body = body_of(&full_prompt("anthropic"));
    check_anthropic(&body);
    assert_eq!(body["system"], "Be kind.");
    assert_eq!(
        body["tools"][0],
        json!({"name": "read", "input_schema": {"type": "object", "properties": {}, "additionalProperties": true}})
    );
    assert_eq!((&body["max_tokens"], &body["stream"]), (&json!(4096), &json!(true)));
    assert_eq!(body["messages"][4]["content"][1]["is_error"], true);
    assert_eq!(body["messages"][4]["content"][1]["content"], "{\"gone\":true}");
    // "Never mind" follows a result, and "Go on" an answer of nothing: all three are one message of the user's.
    assert_eq!(body["messages"][6]["content"].as_array().unwrap().len(), 3);

    let body = body_of(&full_prompt("openai"));
    check_openai(&body, 40);
    assert_eq!(body["messages"][0], json!({"role": "system", "content": "Be kind."}));
    assert_eq!(body["max_completion_tokens"], 4096);
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    assert_eq!(body["messages"][4]["tool_calls"][0]["function"], json!({"name": "read", "arguments": "{\"path\":\"a\"}"}));
    assert_eq!(body["messages"][6]["content"], "Error: {\"gone\":true}");

    let body = body_of(&full_prompt("moonshotai"));
    check_openai(&body, 1_000);
    assert_eq!(body["max_tokens"], 4096);
    assert_eq!(body["messages"][7]["tool_calls"][0]["id"], "call_r1", "an id that comes again is replaced");

    for local in ["ollama", "echo"] {
        let body = body_of(&full_prompt(local));
        check_openai(&body, 1_000);
        assert_eq!(body["options"]["num_predict"], 4096);
        assert_eq!(body["messages"][5]["tool_name"], "read");
        assert_eq!(body["messages"][4]["tool_calls"][0]["function"]["arguments"], json!({"path": "a"}));
    }
}

fn thought(answering: &str, keep_thinking: bool) -> Prompt {
    let json = json!({"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Reading."},
        {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}},
    ]});
    let raw = Some(Arc::new(RawAnswer::new(model("anthropic", answering), json)));
    let calls = vec![call("toolu_1", "read", json!({}))];
    let said = PromptMessage::Assistant { text: Some("Reading.".into()), calls, raw, keep_thinking };
    let results = PromptMessage::Tool { results: vec![result("toolu_1", "read", json!("x"), true)] };
    Prompt { tools: Arc::new([tool("read")]), ..prompt("anthropic", vec![user("Read"), said, results]) }
}

fn kinds(body: &Json) -> Vec<&str> {
    body["messages"][1]["content"].as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect()
}

#[test]
fn anthropic_thinking_goes_back_only_where_it_holds() {
    let bound = |mut prompt: Prompt| {
        prompt.facts.thinking_bound = true;
        body_of(&prompt)
    };
    assert_eq!(kinds(&bound(thought("m-1", true))), ["thinking", "text", "tool_use"]);
    assert_eq!(bound(thought("m-1", true))["messages"][1]["content"][0]["signature"], "sig");
    assert_eq!(kinds(&bound(thought("m-1", false))), ["text", "tool_use"], "its prefix changed");
    assert_eq!(kinds(&body_of(&thought("m-1", false))), ["thinking", "text", "tool_use"], "older models do not mind");
    assert_eq!(kinds(&body_of(&thought("m-2", true))), ["text", "tool_use"], "another model's");

    let mut renamed = thought("m-1", true);
    if let PromptMessage::Assistant { calls, .. } = &mut renamed.messages[1] {
        calls[0].id = "other".into();
    }
    renamed.messages[2] = PromptMessage::Tool { results: vec![result("other", "read", json!("x"), true)] };
    assert_eq!(kinds(&body_of(&renamed)), ["text", "tool_use"], "what was stored rules over what is raw");
    check_anthropic(&body_of(&renamed));
}

#[test]
fn anthropic_thinking_with_a_budget_keeps_room_and_needs_its_beginning() {
    let ask = |mut prompt: Prompt, max_tokens: u32| {
        prompt.max_tokens = max_tokens;
        prompt.params.insert("thinking".into(), json!({"type": "enabled", "budget_tokens": 2048}));
        body_of(&prompt)["thinking"].clone()
    };
    assert_eq!(ask(prompt("anthropic", vec![user("x")]), 4_096)["budget_tokens"], 2_048);
    assert_eq!(ask(prompt("anthropic", vec![user("x")]), 2_000)["budget_tokens"], 1_999);
    assert_eq!(ask(prompt("anthropic", vec![user("x")]), 1_024), Json::Null, "a budget is at least 1,024");
    assert_eq!(ask(thought("m-1", true), 4_096)["budget_tokens"], 2_048);
    assert_eq!(ask(thought("m-2", true), 4_096), Json::Null, "the tool loop was begun by another model");
}

#[test]
fn anthropic_parameters_are_put_in_its_words() {
    let mut asked = Prompt { tools: Arc::new([tool("read")]), ..prompt("anthropic", vec![user(" ")]) };
    asked.params = json!({"stop": "END", "parallel_tool_calls": false, "temperature": 0.5, "top_k": 5}).as_object().unwrap().clone();
    let body = body_of(&asked);
    assert_eq!((&body["stop_sequences"], &body["stop"]), (&json!(["END"]), &Json::Null));
    assert_eq!(body["tool_choice"], json!({"type": "auto", "disable_parallel_tool_use": true}));
    assert_eq!((&body["temperature"], &body["parallel_tool_calls"]), (&json!(0.5), &Json::Null));
    check_anthropic(&body);
    asked.facts.sampling_refused = true;
    asked.tools = Arc::new([]);
    let body = body_of(&asked);
    assert_eq!((&body["temperature"], &body["top_k"], &body["tool_choice"]), (&Json::Null, &Json::Null, &Json::Null));
}

#[test]
fn openai_models_that_reason_get_what_they_take() {
    let mut asked = Prompt { tools: Arc::new([tool("read")]), ..prompt("openai", vec![user("x")]) };
    asked.params = json!({"temperature": 0.5, "stop": "x", "seed": 1, "tool_choice": "required", "user": "u", "top_k": 5})
        .as_object()
        .unwrap()
        .clone();
    let body = body_of(&asked);
    assert_eq!((&body["temperature"], &body["top_k"]), (&json!(0.5), &Json::Null));
    asked.facts.reasoning = true;
    let body = body_of(&asked);
    assert_eq!((&body["temperature"], &body["stop"], &body["seed"]), (&Json::Null, &Json::Null, &json!(1)));
    asked.facts.tools_effort_none = true;
    let body = body_of(&asked);
    assert_eq!((&body["reasoning_effort"], &body["temperature"], &body["tool_choice"]), (&json!("none"), &json!(0.5), &json!("required")));
    asked.tools = Arc::new([]);
    let body = body_of(&asked);
    assert_eq!((&body["reasoning_effort"], &body["tool_choice"]), (&Json::Null, &Json::Null), "nothing about tools where there are none");
}

#[test]
fn dialects_are_known_by_name_or_host() {
    use crate::provider::openai::Dialect;
    for (name, base, dialect) in [
        ("openai", "http://127.0.0.1:9/v1", Dialect::OpenAi),
        ("mine", "https://api.openai.com/v1", Dialect::OpenAi),
        ("mine", "https://user@x.openai.azure.com:443/openai/v1", Dialect::OpenAi),
        ("deepseek", "http://127.0.0.1:9", Dialect::ReasoningBack),
        ("kimi-cn", "https://api.moonshot.cn/v1", Dialect::ReasoningBack),
        ("mine", "https://notopenai.com/v1", Dialect::Other),
        ("vllm", "http://localhost:8000/v1?x=openai.com", Dialect::Other),
    ] {
        assert_eq!(Dialect::of(&provider(name, Wire::OpenAi, base)), dialect, "{name} {base}");
    }
}

#[test]
fn reasoning_goes_back_where_the_vendor_wants_it() {
    let raw = |provider: &str, model_name: &str| {
        let json = json!({"role": "assistant", "content": null, "reasoning_content": "hm",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "read", "arguments": "{ }"}}]});
        Some(Arc::new(RawAnswer::new(model(provider, model_name), json)))
    };
    let ask = |provider: &str, raw| {
        let said = PromptMessage::Assistant { text: None, calls: vec![call("a", "read", json!({}))], raw, keep_thinking: false };
        let results = PromptMessage::Tool { results: vec![result("a", "read", json!("x"), true)] };
        body_of(&Prompt { tools: Arc::new([tool("read")]), ..prompt(provider, vec![user("x"), said, results]) })["messages"][1].clone()
    };
    for vendor in ["deepseek", "moonshotai"] {
        assert_eq!(ask(vendor, raw(vendor, "m-1"))["reasoning_content"], "hm", "{vendor}");
        assert_eq!(ask(vendor, raw("openai", "m-1"))["reasoning_content"], "", "{vendor}: the field must be there");
        assert_eq!(ask(vendor, None)["reasoning_content"], "");
        assert_eq!(ask(vendor, raw(vendor, "m-1"))["tool_calls"][0]["function"]["arguments"], "{ }", "as the model spelled it");
    }
    assert_eq!(ask("openai", raw("openai", "m-1")).get("reasoning_content"), None);
    assert_eq!(ask("openai", raw("openai", "m-1"))["tool_calls"][0]["function"]["arguments"], "{ }");
    assert_eq!(ask("openai", raw("openai", "m-2"))["tool_calls"][0]["function"]["arguments"], "{}");
}

#[test]
fn ollama_gets_results_in_the_order_of_the_calls() {
    let calls = vec![call("a", "read", json!({})), call("b", "list", json!({})), call("c", "read", json!({}))];
    let results = ["c", "b", "a"].map(|id| result(id, if id == "b" { "list" } else { "read" }, json!(id), true)).to_vec();
    let body = body_of(&prompt("ollama", vec![user("x"), assistant(None, calls), PromptMessage::Tool { results }]));
    let told: Vec<&Json> = body["messages"].as_array().unwrap().iter().skip(2).map(|message| &message["content"]).collect();
    assert_eq!(told, ["a", "b", "c"]);
}

#[test]
fn ollama_s_window_fits_the_prompt_and_the_card() {
    let window = |bytes: usize, num_ctx: Option<u64>| {
        let mut asked = prompt("ollama", vec![user(&"x".repeat(bytes))]);
        asked.params.extend(num_ctx.map(|tokens| ("num_ctx".to_owned(), tokens.into())));
        asked.params.insert("think".into(), true.into());
        let body = body_of(&asked);
        assert_eq!((&body["think"], &body["options"]["think"]), (&json!(true), &Json::Null));
        body["options"]["num_ctx"].as_u64().unwrap()
    };
    assert_eq!(window(10, None), 8_192);
    assert_eq!(window(30_000, None), 32_768);
    assert_eq!(window(1_000_000, None), 100_000, "the card's window");
    assert_eq!(window(10, Some(1_000_000_000)), 100_000);
    assert_eq!(window(10, Some(1)), 4_096);
}

#[test]
fn structure_wins_over_parameters() {
    for provider in ["anthropic", "openai", "ollama"] {
        let mut asked = prompt(provider, vec![user("x")]);
        asked.params = json!({"model": "dear", "stream": false, "messages": [], "max_tokens": 9, "max_completion_tokens": 9})
            .as_object()
            .unwrap()
            .clone();
        let body = body_of(&asked);
        assert_eq!((&body["model"], &body["stream"]), (&json!("m-1"), &json!(true)), "{provider}");
        assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    }
}
