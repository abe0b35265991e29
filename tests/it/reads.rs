//! What is written once and read often, over HTTP: configs and their versions, log, usage, models, ledger, and the operator's view.

use crate::{
    fake_provider::Reply,
    harness::{Answer, OPERATOR, Server},
};
use serde_json::{Value, json};

/// The pointers of a 422's errors.
#[track_caller]
fn faults(answer: Answer) -> Vec<String> {
    let errors = answer.problem(422, "validation_failed").at("/errors");
    errors.as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_config_is_written_in_versions() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let key = &tenant.key;
    let body = json!({"name": "Site Editor", "system_prompt": "For {tenant_name}, {who}.", "agent_type": "disembodied",
        "model_config": {"provider": "fake-anthropic", "model": "smart", "temperature": 0.5, "max_tokens": 100},
        "tools_config": ["read_file", {"name": "write_file", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}]});
    let made = server.post("/api/v1/configs", key, &body).await.expect(201).json();
    assert_eq!((&made["agent_type"], &made["template_variables"]), (&json!("client-side"), &json!(["tenant_name", "who"])));
    assert_eq!((&made["model_config"], &made["tools_config"]), (&body["model_config"], &body["tools_config"]));
    assert_eq!((&made["id"], &made["version"]), (&made["config_id"], &json!(1)));
    let path = format!("/api/v1/configs/{}", made["id"].as_str().unwrap());

    let patched = server.patch(&path, key, &json!({"metadata": {"team": "web"}})).await.expect(200).json();
    assert_eq!(
        (&patched["version"], &patched["system_prompt"], &patched["metadata"]),
        (&json!(2), &body["system_prompt"], &json!({"team": "web"}))
    );
    let replaced =
        server.call("PUT", &path, key, Some(&json!({"name": "Plain", "model_config": {"provider": "echo", "model": "x"}}))).await;
    let replaced = replaced.expect(200).json();
    assert_eq!((&replaced["version"], &replaced["tools_config"], &replaced["metadata"]), (&json!(3), &json!([]), &json!({})));
    assert_eq!(server.get(&path, key).await.expect(200).json(), replaced);

    let versions = server.get(&format!("{path}/versions?limit=2"), key).await.expect(200).json();
    assert_eq!(
        (&versions["data"][0]["name"], &versions["data"][1]["version"], &versions["has_more"]),
        (&json!("Plain"), &json!(2), &json!(true))
    );
    let first = server.get(&format!("{path}/versions?after=2"), key).await.expect(200).json();
    assert_eq!((&first["data"][0]["version"], &first["has_more"]), (&json!(1), &json!(false)));

    // What is wrong with a change is told, and nothing of it is stored.
    assert_eq!(faults(server.patch(&path, key, &json!({"name": null})).await), ["/name"]);
    assert_eq!(faults(server.patch(&path, key, &json!({"colour": "red"})).await), ["/colour"]);
    assert_eq!(
        faults(server.patch(&path, key, &json!({"name": "", "model_config": {"provider": "none", "model": "x"}})).await),
        ["/name", "/model_config/provider"]
    );
    let twice = server.request("PATCH", &path, key).body(r#"{"metadata": {"a": 1, "a": 2}}"#).send().await.unwrap();
    assert_eq!(faults(Answer::read(twice).await), ["/metadata/a"]);
    assert_eq!(server.get(&path, key).await.expect(200).json(), replaced);

    server.delete(&path, key).await.expect(204);
    server.get(&path, key).await.problem(404, "not_found");
    server.post("/api/v1/configs", key, &body).await.expect(201);
    server.done().await;
}

#[tokio::test]
async fn log_usage_and_ledger_tell_of_every_step() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let key = &tenant.key;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("One."));
    server.say(key, &config, "Hello").await;
    let unpriced = server.config(&tenant, "fake-anthropic", "unheard-of", &json!({})).await;
    server.chat(key, &unpriced, &json!({"message": "Hello"})).await.problem(503, "pricing_unavailable");

    let steps = server.get("/api/v1/logs?event=step", key).await.expect(200).json();
    let step = &steps["data"][0];
    assert_eq!((steps["data"].as_array().unwrap().len(), &step["status"], &step["model"]), (1, &json!(200), &json!("smart")));
    let id = step["id"].as_str().unwrap();
    assert_eq!(&server.get(&format!("/api/v1/logs/{id}"), key).await.expect(200).json(), step);
    for (query, rows) in [("code=pricing_unavailable&status=503", 1), ("status=200", 1), ("since=2100-01-01T00:00:00Z", 0), ("", 2)] {
        let found = server.get(&format!("/api/v1/logs?{query}"), key).await.expect(200).ids();
        assert_eq!(found.len(), rows, "{query}");
    }
    for (query, name) in
        [("event=x", "event"), ("status=x", "status"), ("since=today", "since"), ("colour=red", "colour"), ("limit=0", "limit")]
    {
        assert_eq!(faults(server.get(&format!("/api/v1/logs?{query}"), key).await), [name]);
    }

    let usage = server.get("/api/v1/usage?group_by=model,config_id&period=hour", key).await.expect(200).json();
    let rows = usage["data"].as_array().unwrap();
    let row = rows.iter().find(|row| row["model"] == "smart").expect("a row of the model");
    assert_eq!((&row["turns"], &row["errors"], &row["config_id"], &row["cost"]), (&json!(1), &json!(0), &json!(config), &step["cost"]));
    assert_eq!(&row["input_tokens"], &step["usage"]["input_tokens"]);
    assert_eq!((&row["user_id"], &row["key_id"]), (&Value::Null, &Value::Null));
    let all = server.get("/api/v1/usage", key).await.expect(200).json();
    assert_eq!((&all["data"][0]["turns"], &all["data"][0]["errors"]), (&json!(1), &json!(1)));
    for (query, name) in [("group_by=colour", "group_by"), ("period=week", "period"), ("since=2000-01-01T00:00:00Z", "since")] {
        assert_eq!(faults(server.get(&format!("/api/v1/usage?{query}"), key).await), [name]);
    }

    let ledger = server.get("/api/v1/wallet/ledger", key).await.expect(200).json();
    let kinds: Vec<_> = ledger["data"].as_array().unwrap().iter().map(|entry| (entry["seq"].clone(), entry["kind"].clone())).collect();
    assert_eq!(kinds, [(json!(1), json!("topup")), (json!(2), json!("spend"))]);
    let spend = &ledger["data"][1];
    assert_eq!((&spend["model"], &spend["turn_id"]), (&json!("fake-anthropic/smart"), &step["turn_id"]));
    assert_eq!(spend["amount"], format!("-{}", step["cost"].as_str().unwrap()));
    let wallet = server.get("/api/v1/wallet", key).await.expect(200).json();
    assert_eq!((&wallet["balance"], &wallet["held"], &wallet["currency"]), (&spend["balance"], &json!("0.000000000"), &json!("USD")));
    server.done().await;
}

#[tokio::test]
async fn models_are_the_rate_card_in_force() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let models = server.get("/api/v1/models", &tenant.key).await.expect(200).json();
    let find = |provider: &str| models["data"].as_array().unwrap().iter().find(|model| model["provider"] == provider).cloned();
    let smart = find("fake-anthropic").unwrap();
    assert_eq!((&smart["input"], &smart["output"], &smart["context_window"]), (&json!("3"), &json!("15"), &json!(200_000)));
    assert_eq!((&smart["configured"], &find("echo").unwrap()["name"]), (&json!(true), &json!("*")));
    let echo = server.get("/api/v1/models?provider=echo", &tenant.key).await.expect(200).json();
    assert_eq!(echo["data"].as_array().unwrap().len(), 1);
    server.done().await;
}

#[tokio::test]
async fn the_operator_makes_tenants_and_credit_and_sees_no_content() {
    let server = Server::start().await;
    let ada = server.user("ada@example.com").await;
    let tenants = "/api/v1/operator/tenants";
    let made = server.post(tenants, OPERATOR, &json!({"name": "Acme", "owner": ada.email})).await.expect(201);
    let (key, id) = (made.text("/api_key"), made.text("/id"));
    server.post(tenants, OPERATOR, &json!({"name": "Acme", "owner": "nobody@example.com"})).await.problem(404, "not_found");
    assert_eq!(server.get(tenants, OPERATOR).await.expect(200).ids(), std::slice::from_ref(&id));

    let credit = format!("{tenants}/{id}/credit");
    let entry = server.post(&credit, OPERATOR, &json!({"amount": "10.00", "reference": "INV-1"})).await.expect(201).json();
    assert_eq!((&entry["kind"], &entry["balance"]), (&json!("topup"), &json!("10.000000000")));
    let again = server.post(&credit, OPERATOR, &json!({"amount": "10.00", "reference": "INV-1"})).await.expect(201).json();
    assert_eq!(again, entry);
    assert_eq!(faults(server.post(&credit, OPERATOR, &json!({"amount": "-10.01"})).await), ["/amount"]);
    assert_eq!(faults(server.post(&credit, OPERATOR, &json!({"amount": 1.5})).await), ["/amount"]);
    server.post(&credit, OPERATOR, &json!({"amount": "-4.00", "note": "a mistake"})).await.expect(201);
    let shown = server.get(&credit, OPERATOR).await.expect(200).json();
    assert_eq!((&shown["balance"], &shown["ledger"]["data"][1]["kind"]), (&json!("6.000000000"), &json!("adjustment")));
    let unknown = format!("{tenants}/0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d");
    for path in [format!("{unknown}/credit"), format!("{tenants}/x/credit")] {
        server.get(&path, OPERATOR).await.problem(404, "not_found");
    }
    server.post(&format!("{unknown}/suspend"), OPERATOR, &json!({})).await.problem(404, "not_found");

    // A suspended tenant reads and does not chat.
    let config = json!({"name": "e", "model_config": {"provider": "echo", "model": "echo"}});
    let config = server.post("/api/v1/configs", &key, &config).await.expect(201).text("/id");
    let suspended = server.post(&format!("{tenants}/{id}/suspend"), OPERATOR, &json!({})).await.expect(200);
    assert_eq!(suspended.at("/suspended"), json!(true));
    server.chat(&key, &config, &json!({"message": "hi"})).await.problem(403, "tenant_suspended");
    server.get("/api/v1/configs", &key).await.expect(200);
    let status = server.get("/api/v1/operator/status", OPERATOR).await.expect(200).json();
    assert_eq!((&status["tenants"], &status["tenants_suspended"], &status["users"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!((&status["providers"]["echo"], &status["rates_as_of"]), (&json!(true), &json!("2026-11-24")));
    assert!(status["disk_free_bytes"].as_u64().unwrap() > 0);
    server.post(&format!("{tenants}/{id}/resume"), OPERATOR, &json!({})).await.expect(200);
    server.chat(&key, &config, &json!({"message": "hi"})).await.expect(200);

    // None of it is a tenant's: its key, its owner's token and no token at all are turned away.
    server.get(tenants, &key).await.problem(401, "invalid_token");
    server.get(tenants, &ada.token).await.problem(401, "invalid_token");
    server.get(tenants, "").await.problem(401, "missing_credentials");
    server.done().await;
}
