//! The overview of a tenant whose log is long. With `NIMBLESITE_TEST_FULL=1` it has a million rows, and what the page costs is printed.

use super::Browser;
use crate::harness::{Settings, full};
use rusqlite::{Connection, params};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn percentiles_come_from_the_newest_answers_however_long_the_log_is() {
    let newest = 1_000_i64;
    let server = Settings::default().limit("overview_answers_max", newest.unsigned_abs()).start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let rows: i64 = if full() { 1_000_000 } else { 20_000 };
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let (_, file) = server.tenant_files().into_iter().find(|(id, _)| *id == tenant.id).unwrap();
    let db = Connection::open(file).unwrap();
    db.busy_timeout(Duration::from_secs(60)).unwrap();
    // A month of them, the newest first; the last thousand took half a second, those before a millisecond.
    let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1) \
               INSERT INTO logs (tenant_id, id, turn_id, step, created_at, key_id, user_id, config_id, event, status, provider, model, \
                 input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost, latency_ms, time_to_first_token_ms) \
               SELECT ?2, printf('01930000-%04x-7%03x-8000-%012x', 60000 - i / 4096, 4095 - i % 4096, i), \
                 printf('01930000-%04x-7%03x-8000-%012x', 60000 - i / 4096, 4095 - i % 4096, i), 1, \
                 ?3 - 1000 - i * (2400000000 / ?1), ?4, ?5, ?6, 'step', 200, 'echo', 'echo-' || (i % 4), 100, 10, 0, 0, 0, \
                 CASE WHEN i < ?7 THEN 500 ELSE 1 END, 1 FROM n";
    db.execute(sql, params![rows, tenant.id, now, tenant.key_id, tenant.owner.id, config, newest]).unwrap();
    drop(db);
    let browser = Browser::of_user(&server, &tenant.owner.email).await;
    for range in ["24h", "7d", "30d"] {
        let begun = Instant::now();
        let page = browser.get(&format!("/dashboard?range={range}")).await.expect(200);
        println!("the overview of {range} in a log of {rows} rows: {} ms", begun.elapsed().as_millis());
        if range == "30d" {
            let median = super::between(&page.body, "Latency, median</dt><dd>", "<");
            assert_eq!(median, "500 ms");
            assert!(page.body.contains("Latencies are those of the newest 1,000 answers."), "{}", page.body);
        }
    }
    server.done().await;
}
