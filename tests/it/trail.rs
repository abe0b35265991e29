//! The audit log: whoever acts is told of, in chains that anyone can check, and nobody can change what was told.

use crate::harness::{OPERATOR, Process, Server, Settings, Tenant, config_body};
use rusqlite::Connection;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path};

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The whole log, oldest first, in pages of three.
async fn log(server: &Server, tenant: &Tenant) -> Vec<Value> {
    let (mut rows, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/api/v1/audit?order=asc&limit=3{after}"), &tenant.key).await.expect(200);
        rows.extend(page.at("/data").as_array().unwrap().clone());
        if page.at("/has_more") == false {
            return rows;
        }
        after = format!("&after={}", page.text("/last_id"));
    }
}

/// Checks every link as a stranger would who has read the page about it, with none of the server's code.
fn links_hold(rows: &[Value], tenant: &str) {
    let mut ends: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for row in rows {
        let chain = row["chain"].as_str().unwrap().to_owned();
        let end = ends.entry(chain.clone()).or_insert_with(|| (0, sha256(&format!("nimblesite audit {chain} {tenant}"))));
        let names = ["chain", "seq", "id", "act", "actor", "user_id", "key_id", "target", "detail", "created_at"];
        let line: Vec<Value> = std::iter::once(json!(end.1)).chain(names.map(|name| row[name].clone())).collect();
        *end = (end.0 + 1, sha256(&json!(line).to_string()));
        assert_eq!((row["seq"].as_u64(), row["hash"].as_str()), (Some(end.0), Some(end.1.as_str())), "{row}");
    }
}

fn acts(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["act"].as_str().unwrap()).collect()
}

async fn run(data: &Path, args: &[&str]) -> (i32, Value) {
    let output = Process::command(data).arg("--json").args(args).output().await.unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

#[tokio::test]
async fn an_owner_reads_who_did_what_in_chains_that_anyone_can_check() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let (admin, admin_id) = server.key(&tenant, "admin").await;
    server.patch(&format!("/api/v1/keys/{admin_id}"), &tenant.key, &json!({"spend_limit": "2", "name": "secret-name"})).await.expect(200);
    server.patch(&format!("/api/v1/keys/{admin_id}"), &tenant.key, &json!({"spend_limit": null})).await.expect(200);
    let rotated = server.post(&format!("/api/v1/keys/{admin_id}/rotate"), &tenant.key, &json!({})).await.expect(201);
    server.delete(&format!("/api/v1/keys/{admin_id}"), &tenant.key).await.expect(204);
    // Twice is once.
    server.delete(&format!("/api/v1/keys/{admin_id}"), &tenant.key).await.expect(204);
    let bob = server.user("bob@example.com").await;
    server.post("/api/v1/members", &tenant.key, &json!({"email": bob.email, "role": "viewer"})).await.expect(202);
    server.post("/api/v1/members", &tenant.key, &json!({"email": "carol@example.com"})).await.expect(202);
    server.user("carol@example.com").await;
    server.patch(&format!("/api/v1/members/{}", bob.id), &tenant.key, &json!({"role": "member"})).await.expect(200);
    server.delete(&format!("/api/v1/members/{}", bob.id), &tenant.key).await.expect(204);
    server.patch("/api/v1/tenant", &tenant.key, &json!({"name": "Acme", "time_zone": "UTC"})).await.expect(200);
    let successor = rotated.text("/key");
    let body = config_body("secret-name", "echo", "echo", &json!({"system_prompt": "secret-content"}));
    let config = server.post("/api/v1/configs", &successor, &body).await.expect(201).text("/id");
    server.patch(&format!("/api/v1/configs/{config}"), &successor, &json!({"system_prompt": "secret-content"})).await.expect(200);
    let conversation = server.say(&successor, &config, "secret-content").await;
    server.delete(&format!("/api/v1/conversations/{conversation}"), &successor).await.expect(204);
    server.delete(&format!("/api/v1/configs/{config}"), &successor).await.expect(204);
    for act in ["suspend", "suspend", "resume"] {
        server.post(&format!("/api/v1/operator/tenants/{}/{act}", tenant.id), OPERATOR, &json!({})).await.expect(200);
    }
    server.get("/api/v1/tenant/export", &tenant.key).await.expect(200);
    // What is refused is no act.
    server.get("/api/v1/audit", &successor).await.problem(403, "insufficient_role");
    server.delete(&format!("/api/v1/configs/{config}"), &successor).await.problem(404, "not_found");

    let rows = log(&server, &tenant).await;
    links_hold(&rows, &tenant.id);
    assert_eq!(
        acts(&rows).join(" "),
        "tenant.create key.create credit.add key.create key.update key.update key.rotate key.revoke member.add member.invite member.join \
         member.update member.remove tenant.update config.create config.update conversation.delete config.delete tenant.suspend \
         tenant.resume tenant.export"
    );
    let row = |act: &str| rows.iter().find(|row| row["act"] == act).unwrap();
    assert_eq!((&row("tenant.create")["actor"], &row("tenant.create")["user_id"]), (&json!("user"), &json!(tenant.owner.id)));
    assert_eq!((&row("key.revoke")["target"], &row("key.revoke")["key_id"]), (&json!(admin_id), &json!(tenant.key_id)));
    assert_eq!(row("key.rotate")["detail"]["successor"], rotated.text("/id"));
    assert_eq!(row("key.update")["detail"], json!({"changed": ["name"], "spend_limit": "2.000000000"}));
    assert_eq!((&row("credit.add")["actor"], &row("credit.add")["user_id"]), (&json!("operator"), &Value::Null));
    assert_eq!(row("member.update")["detail"], json!({"role": "member", "role_before": "viewer"}));
    assert_eq!((&row("config.update")["detail"], &row("config.update")["chain"]), (&json!({"version": 2}), &json!("content")));
    let text = json!(rows).to_string();
    for secret in ["secret-", "ns_live", &tenant.key, &admin, &successor] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }

    // Newest first, backwards, filtered; a cursor that is none is told.
    let newest = server.get("/api/v1/audit?limit=2", &tenant.key).await.expect(200);
    assert_eq!(acts(newest.at("/data").as_array().unwrap()), ["tenant.export", "tenant.resume"]);
    let before = format!("/api/v1/audit?order=asc&limit=2&before={}", rows[3]["id"].as_str().unwrap());
    let before = server.get(&before, &tenant.key).await.expect(200);
    assert_eq!((acts(before.at("/data").as_array().unwrap()), before.at("/has_more")), (vec!["key.create", "credit.add"], json!(true)));
    for (filter, count) in [("act=key.update", 2), (&format!("target={config}"), 3), (&format!("user_id={}", bob.id), 0)] {
        let found = server.get(&format!("/api/v1/audit?limit=100&{filter}"), &tenant.key).await.expect(200);
        assert_eq!(found.ids().len(), count, "{filter}");
    }
    server.get("/api/v1/audit?act=key.steal", &tenant.key).await.problem(422, "validation_failed");
    server.get(&format!("/api/v1/audit?after={config}"), &tenant.key).await.problem(422, "validation_failed");
    server.done().await;
}

#[tokio::test]
async fn nobody_changes_the_audit_log_without_its_chain_telling() {
    let mut server = Settings::default().process().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    server.delete(&format!("/api/v1/configs/{config}"), &tenant.key).await.expect(204);
    server.key(&tenant, "admin").await;
    let data = server.data();
    let verify = ["audit", "--tenant", tenant.id.as_str(), "--verify"];
    assert_eq!(run(&data, &verify).await.1["faults"], json!([]));
    let listed = run(&data, &["audit", "--tenant", &tenant.id]).await.1;
    assert_eq!(json!(log(&server, &tenant).await), listed);
    server.stop().await;

    let file = server.tenant_files().remove(0).1;
    let catalog = data.join("catalog.db");
    for (path, chain) in [(&file, "content"), (&catalog, "access")] {
        let db = Connection::open(path).unwrap();
        for sql in ["UPDATE audit SET act = 'key.update'", "DELETE FROM audit"] {
            let refused = db.execute(sql, []).unwrap_err().to_string();
            assert!(refused.contains("append-only"), "{sql}: {refused}");
        }
        drop(db);
        // Who can write the file can drop the trigger; the chain tells.
        let saved = std::fs::read(path).unwrap();
        for change in [
            "UPDATE audit SET actor = 'operator', user_id = NULL WHERE seq = 2",
            "DELETE FROM audit WHERE seq = 2 AND tenant_id <> ''",
            "DELETE FROM audit WHERE seq >= 2 AND tenant_id <> ''",
        ] {
            let db = Connection::open(path).unwrap();
            db.execute_batch(&format!("DROP TRIGGER audit_append_only_update; DROP TRIGGER audit_append_only_delete; {change}")).unwrap();
            db.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
            drop(db);
            let (code, told) = run(&data, &verify).await;
            let faults = told["faults"].as_array().unwrap_or_else(|| panic!("{told}"));
            assert!(code == 1 && faults[0].as_str().unwrap().starts_with(chain), "{change}: {code} {faults:?}");
            let (code, told) = run(&data, &["doctor"]).await;
            assert!(code == 1 && told.to_string().contains("someone wrote to the file"), "{told}");
            std::fs::write(path, &saved).unwrap();
        }
    }
    assert_eq!(run(&data, &verify).await.0, 0);
    server.run().await;
    server.done().await;
}

#[tokio::test]
async fn a_deleted_tenant_leaves_a_stub_that_names_nobody() {
    let server = Settings::default().process().start().await;
    let (tenant, other) = (server.rich_tenant("Acme").await, server.tenant("Other").await);
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let rows = log(&server, &tenant).await;
    let end = |chain: &str| {
        let last = rows.iter().rev().find(|row| row["chain"] == chain).unwrap();
        json!({"entries": last["seq"], "hash": last["hash"]})
    };
    let ledger = server.get("/api/v1/wallet/ledger", &tenant.key).await.at("/data/0/hash");
    let made = server.get("/api/v1/tenant", &tenant.key).await.text("/created_at");
    server.call("DELETE", "/api/v1/tenant", &tenant.key, Some(&json!({"confirm": "Acme"}))).await.expect(204);
    let data = server.data();
    let (_, own) = run(&data, &["audit"]).await;
    let stub = own.as_array().unwrap().last().unwrap().clone();
    assert_eq!((&stub["act"], &stub["target"], &stub["actor"]), (&json!("tenant.delete"), &json!(tenant.id), &json!("key")));
    assert_eq!((&stub["user_id"], &stub["key_id"]), (&Value::Null, &Value::Null));
    let expected = json!({
        "created_at": made,
        "access": end("access"),
        "content": end("content"),
        "ledger": {"entries": 1, "hash": ledger},
    });
    assert_eq!(stub["detail"], expected);
    let catalog = Connection::open(data.join("catalog.db")).unwrap();
    let left: i64 = catalog.query_row("SELECT COUNT(*) FROM audit WHERE tenant_id = ?1", [&tenant.id], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
    // The owner's account goes on, and their id with it; nothing else of the tenant's is named any more.
    for gone in [&tenant.key_id, &config] {
        let named = std::fs::read(data.join("catalog.db")).unwrap().windows(gone.len()).any(|bytes| bytes == gone.as_bytes());
        assert!(!named, "{gone}");
    }
    assert_eq!(run(&data, &["audit", "--verify"]).await.0, 0);
    assert_eq!(run(&data, &["audit", "--tenant", &other.id, "--verify"]).await.0, 0);
    server.done().await;
}

#[tokio::test]
async fn restoring_a_tenant_s_content_keeps_its_audit_log() {
    let server = Settings::default().process().start().await;
    let tenant = server.tenant("Acme").await;
    server.config(&tenant, "echo", "echo", &json!({})).await;
    let (data, sets) = (server.data(), tempfile::tempdir().unwrap());
    assert_eq!(run(&data, &["backup", sets.path().to_str().unwrap()]).await.0, 0);
    let later = server.config(&tenant, "echo", "echo", &json!({})).await;
    assert_eq!(run(&data, &["restore", sets.path().to_str().unwrap(), "--tenant", &tenant.id]).await.0, 0);
    server.get(&format!("/api/v1/configs/{later}"), &tenant.key).await.problem(404, "not_found");
    let rows = log(&server, &tenant).await;
    links_hold(&rows, &tenant.id);
    assert_eq!(acts(&rows), ["tenant.create", "key.create", "config.create", "config.create", "tenant.restore"]);
    assert_eq!(rows[3]["target"], later);
    server.done().await;
}
