//! A restart after `kill -9` with many tenants, some of them in the middle of a turn.

use super::{full, message, sound};
use crate::{
    fake_provider::{At, Gate, Reply, Wire},
    harness::{Settings, Tenant},
};
use futures_util::{StreamExt, future::join_all, stream};
use nimblesite::{
    config::Limits,
    storage::{CreditInput, Mode, Storage},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_many_tenants_is_ready_soon_after_a_kill_under_load() {
    let (tenants_count, running) = if full() { (1_000, 100) } else { (100, 20) };
    let mut server = Settings::default().process().start().await;
    let owner = server.user("owner@example.com").await;
    server.stop().await;
    let data = server.data();
    let storage = Storage::open(&data, Mode::Server, &Limits::default()).expect("the data directory");
    let operator = storage.operator_here();
    let made: Vec<_> = stream::iter(0..tenants_count)
        .map(|number| {
            let (storage, operator, email) = (&storage, &operator, owner.email.as_str());
            async move {
                let name = format!("Tenant {number}");
                let made = storage.tenant_create_for(operator, &name, email).await.expect("a tenant");
                let amount = "10.00".parse().expect("dollars");
                storage.credit_add(operator, made.id, CreditInput { amount, reference: None, note: None }).await.expect("credit");
                (name, made)
            }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    let closing = storage.clone();
    tokio::task::spawn_blocking(move || closing.close()).await.expect("closed");
    drop((storage, operator));

    let tenants: Vec<Tenant> = made
        .into_iter()
        .map(|(name, made)| Tenant {
            id: made.id.to_string(),
            name,
            key: made.api_key,
            key_id: made.api_key_id.to_string(),
            owner: owner.clone(),
        })
        .take(running)
        .collect();
    server.run().await;
    let mut configs = Vec::new();
    for tenant in &tenants {
        configs.push(server.config(tenant, Wire::Anthropic.provider(), "smart", &json!({})).await);
    }
    let gate = Gate::new();
    server.vendor.otherwise(Reply::text("An answer.").stall(At::AfterHead, &gate));
    let asking = join_all(tenants.iter().zip(&configs).map(|(tenant, config)| {
        let path = format!("/api/v1/chat/{config}");
        server.request("POST", &path, &tenant.key).body(message("In flight", None).to_string()).send()
    }));
    let killing = async {
        server.vendor.called(running).await;
        let pid = server.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a process");
        kill_process(pid, Signal::KILL).expect("kill -9");
    };
    let (asked, ()) = tokio::join!(asking, killing);
    assert!(asked.iter().all(std::result::Result::is_err), "nobody was told anything");
    server.died().await;

    let begun = Instant::now();
    server.run().await;
    server.get("/readyz", "").await.expect(200);
    let ready = begun.elapsed();
    println!("ready {} ms after a kill with {tenants_count} tenants, {running} of them in the middle of a turn", ready.as_millis());
    assert!(ready < Duration::from_secs(10), "{ready:?}");

    gate.open();
    let all: Vec<&Tenant> = tenants.iter().collect();
    sound(&server, &all).await;
    for tenant in &tenants {
        assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM logs WHERE event = 'interrupted' AND operator_cost > 0"), 1);
    }
    let going_on = tenants.iter().zip(&configs).map(|(tenant, config)| server.say(&tenant.key, config, "Again"));
    join_all(going_on).await;
    assert_eq!(server.tenant_files().len(), tenants_count);
    server.done().await;
}
