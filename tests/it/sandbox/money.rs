//! Never overspent, also where turns have many steps: models and machine time, many clients, dry wallets, a hostile vendor, and kills.

use super::shelf::{boxed, python};
use crate::{
    fake_provider::Reply,
    harness::{Server, full},
    money,
};
use serde_json::{Value, json};

const TOOLS: &str =
    "import os, time\n\ndef work(ms: int) -> str:\n    time.sleep(ms / 1000)\n    return 'worked'\n\ndef die() -> str:\n    os._exit(1)\n";

async fn spent(server: &Server, key: &str) -> (i64, i64) {
    let nanos = |text: String| text.replace('.', "").parse::<i64>().unwrap();
    let (balance, held) = server.wallet(key).await;
    (nanos(balance), nanos(held))
}

#[tokio::test]
async fn a_tool_s_time_is_held_charged_and_told() {
    let server = boxed().rates_head("machine_second = \"0.01\"").start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.boxed_config(&tenant, "fake-anthropic", "free", python(TOOLS), &json!({})).await;
    server.vendor.then(Reply::calls(&[("c1", "work", json!({"ms": 300}))])).then(Reply::text("Done."));
    let answer = server.chat(&tenant.key, &config, &json!({"message": "work"})).await.expect(200).json();
    let (balance, held) = spent(&server, &tenant.key).await;
    let cost = 10_000_000_000 - balance;
    // A hundredth of a dollar a second: at least 0.3 s and, on a slow machine, the sandbox's start.
    assert!((3_000_000..=100_000_000).contains(&cost) && held == 0, "{cost}");
    assert_eq!(answer["cost"].as_str().unwrap().replace('.', "").parse::<i64>().unwrap(), cost);
    let ledger = server.get("/api/v1/wallet/ledger", &tenant.key).await.expect(200);
    let entry = ledger.at("/data").as_array().unwrap().last().unwrap().clone();
    assert_eq!((&entry["model"], &entry["kind"]), (&json!("sandbox/machine_seconds"), &json!("spend")));
    assert!(entry["note"].as_str().unwrap().starts_with("tools ran for "), "{entry}");
    assert_eq!(server.sandbox(&tenant, &config).await["machine_second"], "0.01");
    server.done().await;
}

#[tokio::test]
async fn a_wallet_that_pays_no_second_of_a_tool_runs_none() {
    let server = boxed().rates_head("machine_second = \"1\"").start().await;
    let tenant = server.tenant("Poor").await;
    server.credit(&tenant, "0.50").await;
    let config = server.boxed_config(&tenant, "fake-anthropic", "free", python(TOOLS), &json!({})).await;
    server.vendor.then(Reply::calls(&[("c1", "work", json!({"ms": 1}))]));
    server.chat(&tenant.key, &config, &json!({"message": "work"})).await.problem(402, "insufficient_credit");
    assert_eq!(server.sandbox(&tenant, &config).await["state"], "absent", "nothing was started");
    // A few seconds can be paid: what is more than they is cut off.
    server.credit(&tenant, "1.50").await;
    server.vendor.then(Reply::calls(&[("c1", "work", json!({"ms": 60_000}))])).then(Reply::text("Done."));
    server.chat(&tenant.key, &config, &json!({"message": "work"})).await.expect(200);
    assert!(server.vendor.last().said.last().unwrap().contains("timed out"));
    let (balance, held) = spent(&server, &tenant.key).await;
    assert!(balance >= 0 && held == 0, "{balance}");
    server.done().await;
}

#[tokio::test]
async fn many_loops_on_dry_wallets_never_spend_more_than_there_is() {
    let mut server = boxed().rates_head("machine_second = \"0.001\"").process().start().await;
    let (tenants, rounds, clients) = if full() { (4, 40, 10) } else { (2, 2, 4) };
    let mut worlds = Vec::new();
    for n in 0..tenants {
        let tenant = server.tenant(&format!("Dry {n}")).await;
        server.credit(&tenant, "0.04").await;
        let params = json!({"model_config": {"max_tokens": 300}});
        let config = server.boxed_config(&tenant, "fake-anthropic", "smart", python(TOOLS), &params).await;
        worlds.push((tenant, config));
    }
    server.vendor.otherwise(Reply::text("Enough.").tokens(300, 20));
    for (word, reply) in [
        ("go-1", Reply::calls(&[("c1", "work", json!({"ms": 5})), ("c2", "work", json!({"ms": 20}))]).tokens(400, 40)),
        ("go-2", Reply::calls(&[("c1", "die", json!({}))]).tokens(400, 40)),
        ("go-3", Reply::calls(&[("c1", "work", json!({"ms": 10}))]).usage_missing()),
    ] {
        server.vendor.when(word, reply);
    }
    let mut seen = std::collections::BTreeMap::<u16, usize>::new();
    for round in 0_u32..rounds {
        let turns = worlds.iter().flat_map(|(tenant, config)| (0..clients).map(move |n| (tenant, config, n)));
        let server_now = &server;
        let ask = async |(tenant, config, n): (&crate::harness::Tenant, &String, usize)| {
            let body: Value = json!({"message": format!("go-{} {round}", n % 4)});
            let request = server_now.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key).body(body.to_string());
            request.send().await.map(|answer| answer.status().as_u16())
        };
        let all = futures_util::future::join_all(turns.map(ask));
        let kill = round % 2 == 1;
        let tenants: Vec<crate::harness::Tenant> = worlds.iter().map(|(tenant, _)| tenant.clone()).collect();
        let statuses = tokio::select! {
            statuses = all => statuses.into_iter().flatten().collect::<Vec<_>>(),
            () = tokio::time::sleep(std::time::Duration::from_millis(if full() { 20 + 23 * u64::from(round % 9) } else { 300 })), if kill => Vec::new(),
            // Reads the wallets all along: settled and held never pass what was deposited.
            never = money::watch(&server, &tenants) => match never {},
        };
        assert!(statuses.iter().all(|status| [200, 402, 429, 503].contains(status)), "{statuses:?}");
        statuses.iter().for_each(|status| *seen.entry(*status).or_default() += 1);
        if kill {
            server.kill().await;
            server.run().await;
        }
        for (tenant, _) in &worlds {
            let (balance, _) = spent(&server, &tenant.key).await;
            assert!(balance >= 0, "{balance}");
            // A wallet that stays dry shows nothing new.
            if full() && balance < 30_000_000 {
                server.credit(tenant, "0.08").await;
            }
        }
        if full() {
            server.audit();
        }
    }
    let turns: i64 = worlds.iter().map(|(tenant, _)| server.number(&tenant.id, "SELECT count(*) FROM turns")).sum();
    println!("{turns} turns of loops, {} vendor calls: {seen:?}", server.vendor.call_count());
    for (tenant, _) in &worlds {
        // Opening it closes what the kill left.
        let (balance, held) = spent(&server, &tenant.key).await;
        assert!(balance >= 0 && held == 0, "{balance} {held}");
    }
    server.stop().await;
    server.audit();
    server.run().await;
    server.done().await;
}
