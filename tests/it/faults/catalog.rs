//! Kills beside turns: while a tenant is made, while credit is added, and while the server closes what an earlier kill left.

use super::{arm, ask, kept, message, sound};
use crate::{
    fake_provider::{Reply, Wire},
    harness::{OPERATOR, Settings},
};
use serde_json::json;

#[tokio::test]
async fn a_tenant_is_made_whole_or_not_at_all_wherever_the_kill_comes() {
    let mut server = Settings::default().process().start().await;
    let owner = server.user("maker@example.com").await;
    let mut made = 0;
    // The row that is not shown yet; the file; the row that is.
    for point in ["tenant-row=kill", "tenant-file=kill", "tenant-active=kill"] {
        server.kill().await;
        arm(&mut server, point);
        server.run().await;
        let body = json!({"name": point}).to_string();
        let told = server.request("POST", "/api/v1/tenants", &owner.token).body(body.clone()).send().await;
        assert!(told.is_err(), "{point} killed nothing");
        server.died().await;
        server.env.clear();
        server.run().await;
        made += usize::from(point == "tenant-active=kill");
        let tenants = server.get("/api/v1/tenants", &owner.token).await.expect(200);
        assert_eq!(tenants.at("/data").as_array().map(Vec::len), Some(made), "{point}: {}", tenants.body);
        // Whoever got no answer asks again, and has a tenant that works.
        let tenant = server.tenant_of(&owner, point).await;
        made += 1;
        server.get("/api/v1/wallet", &tenant.key).await.expect(200);
        super::doctor(&server).await;
    }
    server.done().await;
}

#[tokio::test]
async fn credit_with_a_reference_counts_once_wherever_the_kill_comes() {
    let mut server = Settings::default().process().start().await;
    let tenant = server.tenant("Paid").await;
    let path = format!("/api/v1/operator/tenants/{}/credit", tenant.id);
    let mut paid = 0;
    for point in ["tenant.before-commit=kill", "tenant.after-commit=kill"] {
        server.kill().await;
        arm(&mut server, point);
        server.run().await;
        let body = json!({"amount": "7.00", "reference": point});
        let told = server.request("POST", &path, OPERATOR).body(body.to_string()).send().await;
        assert!(told.is_err(), "{point} killed nothing");
        server.died().await;
        server.env.clear();
        server.run().await;
        for _ in 0..3 {
            let answer = server.post(&path, OPERATOR, &body).await;
            assert!(answer.status < 300, "{}", answer.body);
        }
        paid += 7;
        assert_eq!(server.wallet(&tenant.key).await.0, format!("{paid}.000000000"));
        sound(&server, &[&tenant]).await;
    }
    server.done().await;
}

#[tokio::test]
async fn a_recovery_that_is_killed_is_done_by_the_next_start() {
    let mut server = Settings::default().process().start().await;
    server.vendor.otherwise(Reply::text("In the end."));
    let tenant = server.rich_tenant("Twice").await;
    let config = server.config(&tenant, Wire::Anthropic.provider(), "smart", &json!({})).await;
    server.kill().await;
    arm(&mut server, "after-piece=kill");
    server.run().await;
    let body = message("Twice killed", None);
    assert!(ask(&server, &tenant.key, &config, "twice", &body).await.is_none());
    server.died().await;
    for _ in 0..3 {
        arm(&mut server, "in-recovery=kill");
        server.run().await;
        assert!(server.request("GET", "/api/v1/wallet", &tenant.key).send().await.is_err(), "the recovery is killed");
        server.died().await;
        assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM holds"), 1, "what was half recovered is not");
    }
    server.env.clear();
    server.run().await;
    sound(&server, &[&tenant]).await;
    assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM logs WHERE event = 'interrupted'"), 1, "told once");
    let answer = ask(&server, &tenant.key, &config, "twice", &body).await.expect("an answer").expect(200);
    kept(&server, &tenant, &answer.json());
    server.done().await;
}
