//! Content beyond its days, by a clock that can be set: gone to the last byte, and nothing else with it.

use crate::{
    fake_provider::{At, Gate, Reply},
    harness::{Process, Server, Settings},
};
use serde_json::json;
use std::fs;

const DAY: i64 = 24 * 3_600_000;

/// Sets the server's clock forward by so many days.
fn set(server: &Server, days: i64) {
    fs::write(server.data().join("../clock"), (days * DAY).to_string()).expect("a clock");
}

/// Whether a word stands in any file of the data directory.
fn stands(server: &Server, word: &str) -> bool {
    let mut folders = vec![server.data()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read(&path).is_ok_and(|bytes| bytes.windows(word.len()).any(|piece| piece == word.as_bytes())) {
                return true;
            }
        }
    }
    false
}

#[tokio::test]
async fn what_is_beyond_its_days_goes_to_the_last_byte_and_the_ledger_stays() {
    let mut server = Settings::default().limit("retention_interval_ms", 50).limit("retention_batch_max", 3).process().start().await;
    let (tenant, other) = (server.rich_tenant("Acme").await, server.rich_tenant("Other").await);
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    let others = server.config(&other, "fake-openai", "smart", &json!({})).await;
    server.vendor.otherwise(Reply::text("unmistakableanswer0123456789"));
    let clock = server.data().join("../clock").to_string_lossy().into_owned();
    server.stop().await;
    server.env.insert("NIMBLESITE_CLOCK_OFFSET_FILE", clock);
    set(&server, 0);
    server.run().await;
    let word = "unmistakablewords0123456789";
    // More than a batch, and one of the neighbour's.
    let mut old = Vec::new();
    for n in 0..7 {
        old.push(server.say(&tenant.key, &config, &format!("{word} {n}")).await);
    }
    let young = server.say(&tenant.key, &config, "a conversation that goes on").await;
    let kept = server.say(&other.key, &others, "hello").await;
    server.patch("/api/v1/tenant", &tenant.key, &json!({"retention": {"conversations_days": 10, "logs_days": 20}})).await.expect(200);
    let conversations = |server: &Server| server.number(&tenant.id, "SELECT count(*) FROM conversations");
    let logs = |server: &Server| server.number(&tenant.id, "SELECT count(*) FROM logs");
    let pages = server.number(&tenant.id, "PRAGMA page_count");
    let ledger = server.get("/api/v1/wallet/ledger?limit=100", &tenant.key).await.expect(200).body;

    set(&server, 9);
    server.chat(&tenant.key, &config, &json!({"message": "unmistakablelater0123456789", "conversation_id": young})).await.expect(200);
    // A turn runs all the while in a conversation that is long beyond its days.
    let gate = Gate::new();
    server.vendor.then(Reply::text("late").stall(At::BeforeHead, &gate));
    let running = {
        let request = server.request("POST", &format!("/api/v1/chat/{config}"), &tenant.key);
        tokio::spawn(request.body(json!({"message": "slow", "conversation_id": old[0]}).to_string()).send())
    };
    server.vendor.called(11).await;
    set(&server, 15);
    server.eventually("the old conversations to go", || (conversations(&server) == 2).then_some(())).await;
    set(&server, 60);
    server.eventually("the young one to go, too", || (conversations(&server) == 1).then_some(())).await;
    gate.open();
    let answer = running.await.expect("an answer").expect("an answer");
    assert_eq!(answer.status().as_u16(), 200, "the turn ended as if nobody had looked for it");
    server.get(&format!("/api/v1/conversations/{}", old[1]), &tenant.key).await.problem(404, "not_found");
    server.eventually("the log to go but for the turn's row", || (logs(&server) == 1).then_some(())).await;
    set(&server, 120);
    server.eventually("all of it to go", || (conversations(&server) == 0 && logs(&server) == 0).then_some(())).await;
    server
        .eventually("its bytes to go", || (!stands(&server, word) && !stands(&server, "unmistakablelater0123456789")).then_some(()))
        .await;

    // The money and the neighbour are as they were.
    let after = server.get("/api/v1/wallet/ledger?limit=100", &tenant.key).await.expect(200).body;
    assert!(after.starts_with(ledger.split(r#"],"first_id""#).next().expect("rows")), "the ledger is never touched");
    assert_eq!(server.history(&other.key, &kept).await.len(), 2);
    let doctor = Process::command(&server.data()).args(["--json", "doctor"]).output().await.expect("a verdict");
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&doctor.stdout).expect("findings");
    let bad = |finding: &&serde_json::Value| finding["state"] == "bad" && finding["area"] != "permissions";
    assert_eq!(findings.iter().find(bad), None);
    // Room is used again before the file grows.
    for n in 0..7 {
        server.say(&tenant.key, &config, &format!("{word} {n}")).await;
    }
    assert!(server.number(&tenant.id, "PRAGMA page_count") <= pages + 4);
    // The tests' own auditor wants a log row for each spend, which this owner did not.
    server.stop().await;
}
