//! How large a tenant may grow, and how long it keeps what it has: its own limit by the operator, its own days by its owner.

use crate::{
    fake_provider::Reply,
    harness::{OPERATOR, Process, Server, Settings, Tenant},
};
use serde_json::{Value, json};

async fn limit(server: &Server, tenant: &Tenant, args: &[&str]) -> Value {
    let output = Process::command(&server.data()).args(["--json", "tenant", "limit", &tenant.id]).args(args).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_tenant_at_its_own_limit_is_refused_before_any_vendor_call_until_it_is_raised() {
    let server = Settings::default().process().start().await;
    let (tenant, other) = (server.rich_tenant("Acme").await, server.rich_tenant("Other").await);
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    let others = server.config(&other, "fake-openai", "smart", &json!({})).await;
    server.vendor.otherwise(Reply::text(&"words ".repeat(4_000)));
    let size = |answer: crate::harness::Answer| answer.expect(200).at("/size_limit_bytes");
    assert_eq!(size(server.get("/api/v1/tenant", &tenant.key).await), Value::Null);
    assert_eq!(limit(&server, &tenant, &["--size", "300KiB"]).await["size_limit_bytes"], 300 << 10);
    assert_eq!(size(server.get("/api/v1/tenant", &tenant.key).await), json!(300 << 10));

    let body = json!({"message": "go"});
    let mut conversation = Value::Null;
    let full = loop {
        let answer = server.chat(&tenant.key, &config, &body).await;
        if answer.status != 200 {
            break answer;
        }
        conversation = answer.at("/conversation_id");
        assert!(server.vendor.call_count() < 60);
    };
    full.problem(507, "tenant_full");
    let (calls, wallet) = (server.vendor.call_count(), server.wallet(&tenant.key).await);
    server.chat(&tenant.key, &config, &body).await.problem(507, "tenant_full");
    assert_eq!((server.vendor.call_count(), server.wallet(&tenant.key).await), (calls, wallet), "nobody was asked, nothing was spent");
    // Reading goes on, and so do others.
    server.get("/api/v1/logs", &tenant.key).await.expect(200);
    server.chat(&other.key, &others, &body).await.expect(200);

    // Each counts from the next request on: raised, lowered, lifted, the server's own again.
    limit(&server, &tenant, &["--size", "400MiB"]).await;
    server.chat(&tenant.key, &config, &body).await.expect(200);
    limit(&server, &tenant, &["--size", "1KiB"]).await;
    server.chat(&tenant.key, &config, &body).await.problem(507, "tenant_full");
    let route = format!("/api/v1/operator/tenants/{}/limit", tenant.id);
    assert_eq!(size(server.post(&route, OPERATOR, &json!({"size_bytes": 0})).await), Value::Null);
    server.chat(&tenant.key, &config, &body).await.expect(200);
    assert_eq!(size(server.post(&route, OPERATOR, &json!({"size_bytes": 1})).await), json!(1));
    server.delete(&format!("/api/v1/conversations/{}", conversation.as_str().unwrap()), &tenant.key).await.expect(204);
    assert_eq!(limit(&server, &tenant, &["--default"]).await["size_limit_bytes"], Value::Null);
    server.chat(&tenant.key, &config, &body).await.expect(200);
    for wrong in [json!({}), json!({"size_bytes": -1}), json!({"size_bytes": "1GiB"}), json!({"size_bytes": u64::MAX})] {
        server.post(&route, OPERATOR, &wrong).await.problem(422, "validation_failed");
    }
    let unknown = format!("/api/v1/operator/tenants/{}/limit", crate::isolation::random_id());
    server.post(&unknown, OPERATOR, &json!({"size_bytes": 1})).await.problem(404, "not_found");
    let told = server.get("/api/v1/audit?act=tenant.limit&limit=100", &tenant.key).await.expect(200);
    assert_eq!((told.ids().len(), told.at("/data/0/detail")), (6, json!({"size_bytes": null})));
    server.done().await;
}

#[tokio::test]
async fn an_owner_says_how_long_content_is_kept_and_nobody_else() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let shown = async || server.get("/api/v1/tenant", &tenant.key).await.expect(200).at("/retention");
    assert_eq!(shown().await, json!({"conversations_days": null, "logs_days": null}));
    let set = async |days: Value| server.patch("/api/v1/tenant", &tenant.key, &json!({"retention": days})).await;
    set(json!({"conversations_days": 30, "logs_days": 90})).await.expect(200);
    set(json!({"logs_days": null})).await.expect(200);
    assert_eq!(shown().await, json!({"conversations_days": 30, "logs_days": null}));
    server.patch("/api/v1/tenant", &tenant.key, &json!({"name": "Other"})).await.expect(200);
    assert_eq!(shown().await, json!({"conversations_days": 30, "logs_days": null}));
    for wrong in [json!({"logs_days": 0}), json!({"logs_days": 36_501}), json!({"logs_days": -1}), json!({"days": 1}), json!("short")] {
        set(wrong).await.problem(422, "validation_failed");
    }
    let admin = server.key(&tenant, "admin").await.0;
    server.patch("/api/v1/tenant", &admin, &json!({"retention": {"logs_days": 1}})).await.problem(403, "insufficient_role");
    let told = server.get("/api/v1/audit?act=tenant.update&order=asc", &tenant.key).await.expect(200);
    let expected = json!({"changed": ["retention"], "retention": {"conversations_days": 30, "logs_days": 90}});
    assert_eq!((told.ids().len(), told.at("/data/0/detail")), (3, expected));
    server.done().await;
}
