//! Kills, full disks, damaged files and wrong clocks: what they may cost is the turn that was cut, and nothing else. The real binary is ended
//! with SIGKILL, by a fail point inside it or from outside, started again on what it left, and audited.
//!
//! `NIMBLESITE_TEST_FULL=1` runs the long variants; docs/testing.md has the command.

mod catalog;
mod clock;
mod copies;
mod damage;
mod disk;
mod load;
mod retention;
mod steps;
mod thousand;

use crate::harness::{Answer, Process, Server, Tenant, full};
use nimblesite::money::Money;
use serde_json::{Value, json};
use std::{io::Write, time::Duration};

/// Tells, past the test runner's capture, that a test could not be run here. `tests/run` counts these lines.
fn skipped(test: &str, why: &str) {
    drop(writeln!(std::io::stderr(), "!!! SKIPPED TEST: {test}: {why}"));
}

/// Arms fail points for the next start.
fn arm(server: &mut Server, points: &str) {
    server.env.insert("NIMBLESITE_FAILPOINTS", points.to_owned());
}

/// A chat request with an idempotency key; nothing when the connection broke.
async fn ask(server: &Server, key: &str, config: &str, claim: &str, body: &Value) -> Option<Answer> {
    let request = server.request("POST", &format!("/api/v1/chat/{config}"), key).header("Idempotency-Key", claim);
    let response = request.body(body.to_string()).send().await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.text().await.ok()?;
    Some(Answer { status, headers, body })
}

/// The same, asked again as long as the first request with this key still runs.
async fn ask_on(server: &Server, key: &str, config: &str, claim: &str, body: &Value) -> Option<Answer> {
    for _ in 0..400 {
        let answer = ask(server, key, config, claim, body).await?;
        if answer.status != 409 {
            return Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{claim} was in progress for too long");
}

/// Dollars as they stand in JSON, in nano-dollars.
pub fn nanos(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse::<Money>().ok()).unwrap_or_else(|| panic!("no amount: {value}")).nanos()
}

/// What must hold after a kill and a start, once someone has come to each of these tenants: nothing is held, no turn runs, no key waits for an
/// answer; every file is sound in the tests' own eyes and in the doctor's; and the vendor's bill is covered.
async fn sound(server: &Server, tenants: &[&Tenant]) {
    for tenant in tenants {
        // Whoever comes first to a tenant has its file opened, and what an earlier life left there closed.
        assert_eq!(server.get("/api/v1/wallet", &tenant.key).await.expect(200).text("/held"), "0.000000000", "{}", tenant.name);
        for (what, sql) in [
            ("holds", "SELECT count(*) FROM holds"),
            ("running turns", "SELECT count(*) FROM turns WHERE state = 'running'"),
            ("unanswered keys", "SELECT count(*) FROM idempotency WHERE status IS NULL"),
        ] {
            assert_eq!(server.number(&tenant.id, sql), 0, "{}: {what} after a restart", tenant.name);
        }
    }
    server.audit();
    doctor(server).await;
    covered(server);
}

/// `nimblesite doctor`, beside the server: no file and no ledger is bad. The disk and the modes of what the tests wrote are not asked about.
pub async fn doctor(server: &Server) {
    for finding in findings(server).await {
        assert_ne!(finding["state"], "bad", "{finding}");
    }
}

/// What the doctor says of files and ledgers.
async fn findings(server: &Server) -> Vec<Value> {
    let output = Process::command(&server.data()).args(["doctor", "--json"]).output().await.expect("the doctor");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let about = |finding: &&Value| ["catalog", "tenant", "ledger", "tenants"].iter().any(|area| finding["area"] == *area);
    let found: Vec<Value> = json.as_array().expect("findings").iter().filter(about).cloned().collect();
    assert!(found.iter().any(|finding| finding["area"] == "tenants"), "the doctor audited nothing: {text}");
    found
}

/// What the vendor billed was deposited, and is charged or told to the operator as the price of a crash.
fn covered(server: &Server) {
    let sum = |sql: &str| -> i64 { server.tenant_files().iter().map(|(tenant, _)| server.number(tenant, sql)).sum() };
    let (deposited, settled) = (sum("SELECT deposited FROM wallet"), sum("SELECT settled FROM wallet"));
    let operator = sum("SELECT coalesce(sum(operator_cost), 0) FROM logs WHERE event = 'interrupted'");
    let billed = server.vendor.billed_nanos();
    assert!(billed <= deposited, "the vendor billed {billed}, the tenants deposited {deposited}");
    assert!(billed <= settled + operator, "the vendor billed {billed}; {settled} is charged, {operator} is told to the operator");
}

/// What a client was told is stored and charged once.
fn kept(server: &Server, tenant: &Tenant, told: &Value) {
    let text = |name: &str| told[name].as_str().unwrap_or_else(|| panic!("no {name}: {told}")).to_owned();
    let db = server.tenant_db(&tenant.id);
    let (content, cost): (String, i64) = db
        .query_row("SELECT content, cost FROM messages WHERE id = ?1 AND role = 'assistant'", [text("message_id")], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap_or_else(|error| panic!("an answer was told and is not there ({error}): {told}"));
    assert_eq!((content, cost), (text("response"), nanos(&told["cost"])), "{told}");
    let (entries, charged): (i64, i64) = db
        .query_row("SELECT count(*), coalesce(-sum(amount), 0) FROM ledger WHERE turn_id = ?1", [text("turn_id")], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("a ledger");
    assert_eq!((entries, charged), (1, cost), "charged once: {told}");
}

fn message(text: &str, conversation: Option<&str>) -> Value {
    match conversation {
        Some(id) => json!({"message": text, "conversation_id": id}),
        None => json!({"message": text}),
    }
}
