//! What a conversation remembers and leaves out: variables, truncation, open calls, lists and search.

use crate::{
    check,
    fake_provider::Reply,
    harness::{Server, Tenant},
};
use serde_json::json;

async fn begun(config: &serde_json::Value) -> (Server, Tenant, String) {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", config).await;
    server.vendor.otherwise(Reply::text("Yes."));
    (server, tenant, config)
}

#[tokio::test]
async fn variables_stay_with_the_conversation_until_replaced() {
    let prompt = json!({"system_prompt": "{greeting}, {tenant_name}'s {agent_name}! {{literal}} {\"json\": 1} {n} {flag}"});
    let (server, tenant, config) = begun(&prompt).await;
    let missing = server.chat(&tenant.key, &config, &json!({"message": "go", "template_vars": {"greeting": "Hi"}})).await;
    check!(missing.problem(422, "template_variable_missing"), @r#"
    422  x-credit-available: 10.000000000
    {
      "type": "http://<address>/docs/errors#template_variable_missing",
      "title": "The prompt uses variables that have no value",
      "status": 422,
      "detail": "Pass n, flag in template_vars.",
      "code": "template_variable_missing",
      "request_id": "<id 1>",
      "errors": [
        {
          "pointer": "/template_vars/n",
          "message": "the prompt uses this variable and it has no value"
        },
        {
          "pointer": "/template_vars/flag",
          "message": "the prompt uses this variable and it has no value"
        }
      ]
    }
    "#);
    assert_eq!(server.vendor.call_count(), 0);
    let vars = json!({"greeting": "Hi {n}", "n": 7, "flag": true});
    let first = server.chat(&tenant.key, &config, &json!({"message": "go", "template_vars": vars})).await.expect(200);
    let system = server.vendor.last().system;
    assert!(system.starts_with("Hi {n}, Acme's Config "), "a value is never expanded again: {system}");
    assert!(system.ends_with("! {literal} {\"json\": 1} 7 true"), "{system}");
    let conversation = first.text("/conversation_id");
    let on = json!({"conversation_id": conversation, "message": "go", "template_vars": {"greeting": "Bye"}});
    server.chat(&tenant.key, &config, &on).await.expect(200);
    assert!(server.vendor.last().system.starts_with("Bye, ") && server.vendor.last().system.ends_with(" 7 true"));
    server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "go"})).await.expect(200);
    assert!(server.vendor.last().system.starts_with("Bye, "), "the new value stays too");
    for (vars, pointer) in [
        (json!({"tenant_name": "Evil"}), "/template_vars/tenant_name"),
        (json!({"date": "never"}), "/template_vars/date"),
        (json!({"greeting": ["a"]}), "/template_vars/greeting"),
        (json!({"greeting": "x".repeat(9000)}), "/template_vars/greeting"),
        (json!({"not an identifier": "x"}), "/template_vars/not an identifier"),
    ] {
        let answer =
            server.chat(&tenant.key, &config, &json!({"message": "go", "template_vars": vars})).await.problem(422, "validation_failed");
        assert_eq!(answer.text("/errors/0/pointer"), pointer);
    }
    assert_eq!(server.get(&format!("/api/v1/configs/{config}"), &tenant.key).await.at("/template_variables").as_array().unwrap().len(), 5);
    server.done().await;
}

#[tokio::test]
async fn the_date_is_the_tenant_s() {
    let (server, tenant, config) = begun(&json!({"system_prompt": "{date}"})).await;
    server.patch("/api/v1/tenant", &tenant.key, &json!({"time_zone": "Pacific/Kiritimati"})).await.expect(200);
    server.say(&tenant.key, &config, "go").await;
    let expected = nimblesite::clock::Clock.now().date_in("Pacific/Kiritimati");
    assert_eq!(server.vendor.last().system, expected);
    server.patch("/api/v1/tenant", &tenant.key, &json!({"time_zone": "Middle/Earth"})).await.problem(422, "validation_failed");
    server.done().await;
}

#[tokio::test]
async fn a_history_that_outgrows_the_window_loses_its_oldest_turns_whole() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for provider in ["fake-anthropic", "fake-openai", "fake-ollama"] {
        let narrow = json!({"tools_config": ["look"], "model_config": {"max_tokens": 100}});
        let config = server.config(&tenant, provider, "narrow", &narrow).await;
        let padding = "x".repeat(1_500);
        let mut conversation = serde_json::Value::Null;
        let mut left_out = 0;
        for n in 0..12 {
            server.vendor.then(Reply::calls(&[("c1", "look", json!({}))])).then(Reply::text(&format!("Answer {n} {padding}")));
            let mut body = json!({"message": format!("Question {n} {padding}")});
            if !conversation.is_null() {
                body["conversation_id"] = conversation.clone();
            }
            let asked = server.chat(&tenant.key, &config, &body).await.expect(200);
            conversation = asked.at("/conversation_id");
            let results = json!([{"tool_call_id": asked.text("/tool_calls/0/id"), "content": "seen"}]);
            let told = json!({"conversation_id": conversation, "tool_results": results});
            let answer = server.chat(&tenant.key, &config, &told).await.expect(200);
            let said = server.vendor.last().said;
            assert!(said[0].starts_with("user: Question"), "a prompt begins with what a user said: {}", said[0]);
            assert!(said.iter().any(|line| line.starts_with(&format!("user: Question {n} "))), "the newest is always there");
            let left = answer.at("/context/turns_left_out").as_u64().unwrap();
            assert!(left >= left_out, "what was left out does not come back by itself");
            left_out = left;
            assert_eq!(said.iter().filter(|line| line.starts_with("user: ")).count() as u64, n + 1 - left, "whole turns");
            assert!(server.vendor.last().body_bytes < 3_000 * 6, "it fits, about");
        }
        assert!(left_out > 0, "the window is narrow");
        // Nothing is lost in the store.
        let conversation = conversation.as_str().unwrap();
        assert_eq!(server.history(&tenant.key, conversation).await.len(), 48);
        // Who asks for an error gets one, before any vendor call.
        server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &json!({"context_policy": "error"})).await.expect(200);
        let calls = server.vendor.call_count();
        let on = json!({"conversation_id": conversation, "message": "on"});
        server.chat(&tenant.key, &config, &on).await.problem(422, "context_too_long");
        let one = json!({"message": "y".repeat(60_000)});
        server.chat(&tenant.key, &config, &one).await.problem(422, "context_too_long");
        assert_eq!(server.vendor.call_count(), calls);
    }
    server.done().await;
}

#[tokio::test]
async fn open_calls_want_their_results_first() {
    let (server, tenant, config) = begun(&json!({"tools_config": ["look", "listen"]})).await;
    server.vendor.then(Reply::calls(&[("c1", "look", json!({})), ("c2", "look", json!({})), ("c3", "listen", json!({}))]));
    let first = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    let conversation = first.text("/conversation_id");
    let shown = server.get(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.expect(200);
    assert_eq!(shown.at("/open_tool_calls"), first.at("/tool_calls"));
    let post = async |body: serde_json::Value| {
        let mut body = body;
        body["conversation_id"] = json!(conversation);
        server.chat(&tenant.key, &config, &body).await
    };
    check!(post(json!({"message": "never mind"})).await.problem(409, "tool_results_required"), @r#"
    409  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#tool_results_required",
      "title": "Tool calls wait for their results",
      "status": 409,
      "detail": "Post tool_results for look (c1), look (c2), listen (c3) first, or pass \"cancel_open_calls\": true.",
      "code": "tool_results_required",
      "request_id": "<id 1>",
      "errors": [],
      "open_tool_calls": [
        {
          "id": "c1",
          "name": "look"
        },
        {
          "id": "c2",
          "name": "look"
        },
        {
          "id": "c3",
          "name": "listen"
        }
      ]
    }
    "#);
    let good = |id: &str| json!({"tool_call_id": id, "content": "ok"});
    check!(post(json!({"tool_results": [good("c1"), good("c2")]})).await.problem(422, "tool_results_mismatch"), @r#"
    422  x-credit-available: 9.999400000
    {
      "type": "http://<address>/docs/errors#tool_results_mismatch",
      "title": "The tool results do not match the open calls",
      "status": 422,
      "detail": "/tool_results: no result for call c3 of listen; every open call needs one",
      "code": "tool_results_mismatch",
      "request_id": "<id 1>",
      "errors": [
        {
          "pointer": "/tool_results",
          "message": "no result for call c3 of listen; every open call needs one"
        }
      ]
    }
    "#);
    let missing = post(json!({"tool_results": [good("c3")]})).await.problem(422, "tool_results_mismatch").text("/detail");
    assert!(missing.contains("c1") && missing.contains("c2"), "{missing}");
    post(json!({"tool_results": [good("c1"), good("c2"), good("c3"), good("c4")]})).await.problem(422, "tool_results_mismatch");
    post(json!({"tool_results": [good("c1"), good("c2"), good("c3"), good("c3")]})).await.problem(422, "tool_results_mismatch");
    let unclear = json!([{"name": "look", "result": "a"}, {"name": "look", "result": "b"}, {"name": "listen", "result": "c"}]);
    post(json!({"tool_results": unclear})).await.problem(422, "tool_results_mismatch");
    post(json!({"tool_results": [], "message": null})).await.problem(422, "validation_failed");
    post(json!({"tool_results": [good("c1")], "message": "both"})).await.problem(422, "validation_failed");
    assert_eq!(server.vendor.call_count(), 1, "nothing of that was sent");
    // A name alone will do where it can mean one call only.
    let mixed = json!([{"name": "listen", "result": {"heard": ["a", 1]}}, good("c2"), good("c1")]);
    post(json!({"tool_results": mixed})).await.expect(200);
    assert_eq!(server.vendor.last().said.last().unwrap(), "tool listen: {\"heard\":[\"a\",1]}");
    post(json!({"tool_results": [good("c9")]})).await.problem(422, "tool_results_mismatch");
    // Or give the calls up.
    server.vendor.then(Reply::calls(&[("c1", "look", json!({}))]));
    post(json!({"message": "again"})).await.expect(200);
    post(json!({"message": "never mind", "cancel_open_calls": true})).await.expect(200);
    let said = server.vendor.last().said;
    assert!(said[said.len() - 2].starts_with("tool look failed:"), "{said:?}");
    assert_eq!(said[said.len() - 1], "user: never mind");
    server.done().await;
}

#[tokio::test]
async fn conversations_are_listed_found_changed_and_deleted() {
    let (server, tenant, config) = begun(&json!({})).await;
    let second = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    let mut ids = Vec::new();
    for (n, config) in [&config, &config, &second].into_iter().enumerate() {
        let body = json!({"message": format!("word{n} of the zebra"), "metadata": {"n": n.to_string()}, "user": "end-user"});
        ids.push(server.chat(&tenant.key, config, &body).await.expect(200).text("/conversation_id"));
    }
    let list = async |query: &str| server.get(&format!("/api/v1/conversations{query}"), &tenant.key).await.expect(200);
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(list("").await.ids(), newest_first);
    assert_eq!(list("?order=asc").await.ids(), ids);
    let page = list("?limit=2").await;
    assert_eq!((page.ids(), page.at("/has_more")), (newest_first[..2].to_vec(), json!(true)));
    assert_eq!(list(&format!("?limit=2&after={}", page.text("/last_id"))).await.ids(), newest_first[2..]);
    assert_eq!(list(&format!("?before={}", ids[0])).await.ids(), newest_first[..2]);
    assert_eq!(list(&format!("?config_id={second}")).await.ids(), [ids[2].clone()]);
    assert_eq!(list("?metadata.n=1").await.ids(), [ids[1].clone()]);
    assert_eq!(list("?q=word2").await.ids(), [ids[2].clone()]);
    assert_eq!(list("?q=zebra").await.ids().len(), 3);
    assert_eq!(list("?q=%22%20OR%20*").await.ids().len(), 0, "a search is words, not a language");
    assert_eq!(list(&format!("?user_id={}", tenant.owner.id)).await.ids().len(), 3);
    server.get("/api/v1/conversations?limit=0", &tenant.key).await.problem(422, "validation_failed");
    server.get("/api/v1/conversations?limit=101", &tenant.key).await.problem(422, "validation_failed");
    server.get("/api/v1/conversations?order=up", &tenant.key).await.problem(422, "validation_failed");
    let unknown = nimblesite::ids::ConversationId::new();
    server.get(&format!("/api/v1/conversations?after={unknown}"), &tenant.key).await.problem(422, "validation_failed");
    let path = format!("/api/v1/conversations/{}", ids[0]);
    let changed = server.patch(&path, &tenant.key, &json!({"title": "A title", "metadata": {"k": "v"}})).await.expect(200);
    assert_eq!((changed.text("/title"), changed.at("/metadata")), ("A title".to_owned(), json!({"k": "v"})));
    check!(server.get(&path, &tenant.key).await, @r#"
        200
        {
          "id": "<id 1>",
          "config_id": "<id 2>",
          "user_id": "<id 3>",
          "key_id": "<id 4>",
          "user": "end-user",
          "title": "A title",
          "metadata": {
            "k": "v"
          },
          "message_count": 2,
          "open_tool_calls": [],
          "active_turn_id": null,
          "created_at": "<time>",
          "updated_at": "<time>",
          "messages": [
            {
              "id": "<id 5>",
              "seq": 1,
              "role": "user",
              "content": "word0 of the zebra",
              "tool_calls": [],
              "tool_call_id": null,
              "name": null,
              "ok": null,
              "model": null,
              "config_version": null,
              "usage": null,
              "cost": null,
              "created_at": "<time>"
            },
            {
              "id": "<id 6>",
              "seq": 2,
              "role": "assistant",
              "content": "Yes.",
              "tool_calls": [],
              "tool_call_id": null,
              "name": null,
              "ok": null,
              "model": {
                "provider": "fake-anthropic",
                "model": "smart"
              },
              "config_version": 1,
              "usage": {
                "input_tokens": 100,
                "output_tokens": 20,
                "cache_read_tokens": 0,
                "cache_write_tokens": 0
              },
              "cost": "0.000600000",
              "created_at": "<time>"
            }
          ]
        }
    "#);
    server.delete(&path, &tenant.key).await.expect(204);
    server.get(&path, &tenant.key).await.problem(404, "not_found");
    assert_eq!(list("?q=word0").await.ids().len(), 0, "what is deleted is not found");
    let on = json!({"conversation_id": ids[0], "message": "hello?"});
    server.chat(&tenant.key, &config, &on).await.problem(404, "not_found");
    // Another config's conversation is not this one's.
    let on = json!({"conversation_id": ids[1], "message": "hello?"});
    server.chat(&tenant.key, &second, &on).await.problem(409, "conversation_config_mismatch");
    // A deleted config's conversations stay readable; nobody can go on with them.
    server.delete(&format!("/api/v1/configs/{config}"), &tenant.key).await.expect(204);
    assert_eq!(server.history(&tenant.key, &ids[1]).await.len(), 2);
    server.chat(&tenant.key, &config, &on).await.problem(404, "not_found");
    server.done().await;
}

#[tokio::test]
async fn a_member_deletes_own_conversations_and_an_admin_any() {
    let (server, tenant, config) = begun(&json!({})).await;
    let colleague = server.user("bob@example.com").await;
    server.post("/api/v1/members", &tenant.key, &json!({"email": "bob@example.com", "role": "member"})).await.expect(202);
    let body = json!({"name": "bob", "role": "member", "tenant_id": tenant.id});
    let theirs = server.post("/api/v1/keys", &colleague.token, &body).await.expect(201).text("/key");
    let mine = server.say(&tenant.key, &config, "the owner's").await;
    let bobs = server.say(&theirs, &config, "bob's").await;
    server.delete(&format!("/api/v1/conversations/{mine}"), &theirs).await.problem(403, "insufficient_role");
    server.delete(&format!("/api/v1/conversations/{bobs}"), &theirs).await.expect(204);
    server.delete(&format!("/api/v1/conversations/{mine}"), &tenant.key).await.expect(204);
    server.done().await;
}
