//! What a turn costs, counted where counting does not depend on how busy the machine is: statements, commits, writes, fsyncs. Who makes a turn dearer
//! changes a number here and says why.

use crate::{
    fake_provider::Reply,
    harness::{Server, Settings},
};
use serde_json::json;
use std::{fs, process::Stdio, time::Duration};
use tokio::process::Command;

/// Statements of a turn that begins a conversation, and of one that goes on with it, whatever its length.
const STATEMENTS: [u64; 2] = [16, 17];

/// What it takes besides to tell the search index of what was said, once in so many turns.
const SEARCH: (u64, usize) = (2, 32);

/// Commits of a turn that has its tenant to itself: opened and held for, settled.
const COMMITS: u64 = 2;

/// Writes to a file, of a turn on the average of many; without [the shim over SQLite's log](../../src/storage/sqlite/log_file.rs) there are 75.
const WRITES_MAX: usize = 12;

/// Statements and commits so far, as `/metrics` tells them.
async fn done(server: &Server) -> (u64, u64) {
    let text = server.get("/metrics", "").await.expect(200).body;
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).expect("a number")
    };
    (number("nimblesite_storage_statements_total"), number("nimblesite_storage_commits_total"))
}

#[tokio::test]
async fn a_turn_runs_so_many_statements_and_two_commits_however_long_its_conversation() {
    let server = Settings::default().process().start().await;
    server.vendor.otherwise(Reply::text("Hello."));
    let tenant = server.rich_tenant("Thrift").await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    let mut conversation = server.say(&tenant.key, &config, "The first turn opens the file.").await;
    let mut counts = Vec::new();
    for turn in 0..40 {
        let (statements, commits) = done(&server).await;
        let body = if turn == 0 { json!({"message": "Hi."}) } else { json!({"message": "Hi.", "conversation_id": conversation}) };
        conversation = server.chat(&tenant.key, &config, &body).await.expect(200).text("/conversation_id");
        let now = done(&server).await;
        counts.push((now.0 - statements, now.1 - commits));
    }
    assert_eq!(counts[0], (STATEMENTS[0], COMMITS), "a turn that begins a conversation");
    let (searched, plain): (Vec<_>, Vec<_>) = counts[1..].iter().partition(|(statements, _)| *statements == STATEMENTS[1] + SEARCH.0);
    assert!(plain.iter().all(|count| *count == (STATEMENTS[1], COMMITS)), "turns of the conversation: {counts:?}");
    assert!(searched.len() <= counts.len().div_ceil(SEARCH.1) && searched.iter().all(|(_, commits)| *commits == COMMITS), "{counts:?}");
    server.done().await;
}

#[tokio::test]
async fn a_turn_waits_for_the_disk_twice() {
    const TURNS: usize = 20;
    let server = Settings::default().limit("heads_interval_ms", 3_600_000).process().start().await;
    server.vendor.otherwise(Reply::text("Hello."));
    let tenant = server.rich_tenant("Thrift").await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    server.say(&tenant.key, &config, "The first turn opens the file.").await;
    let out = server.data().join("strace.txt");
    let pid = server.pid().expect("a process").to_string();
    let strace = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync,pwrite64", "-p", &pid, "-o"])
        .arg(&out)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut strace) = strace else {
        println!("!!! SKIPPED TEST: a_turn_waits_for_the_disk_twice (strace is missing)");
        return server.done().await;
    };
    // It says that it has attached before the first call can be missed.
    let mut said = tokio::io::BufReader::new(strace.stderr.take().expect("its stderr"));
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut said, &mut line).await.expect("a line");
    if !line.contains("attached") {
        println!("!!! SKIPPED TEST: a_turn_waits_for_the_disk_twice (strace may not attach: {})", line.trim());
        return server.done().await;
    }
    for _ in 0..TURNS {
        server.say(&tenant.key, &config, "Hi.").await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    Command::new("kill").args(["-INT", &strace.id().expect("it runs").to_string()]).status().await.expect("kill");
    strace.wait().await.expect("its end");
    let text = fs::read_to_string(&out).expect("its file");
    let count = text.lines().filter(|line| line.contains("sync(") && !line.contains("resumed")).count();
    // A log that grew is moved into its file now and then, which is two more.
    assert!((TURNS * 2..=TURNS * 2 + 4).contains(&count), "{count} fsyncs in {TURNS} turns");
    // Each commit is one write of its log. Where the log is moved into its file, each page is one more.
    let writes = text.lines().filter(|line| line.contains("pwrite64(") && !line.contains("resumed")).count();
    assert!(writes <= TURNS * WRITES_MAX, "{writes} writes in {TURNS} turns");
    server.done().await;
}
