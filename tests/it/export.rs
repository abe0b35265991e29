//! A tenant as one file: exported while turns go on, whole, with a manifest inside, and nothing left behind by who goes away.

use crate::harness::{Process, Server, Settings};
use rusqlite::Connection;
use serde_json::json;
use std::{fs, path::Path};

const ROUTE: &str = "/api/v1/tenant/export";

fn value(db: &Connection, name: &str) -> String {
    db.query_row("SELECT value FROM export_manifest WHERE name = ?1", [name], |row| row.get(0)).unwrap()
}

/// The file is whole, is this tenant's alone, and says so.
fn check(path: &Path, tenant: &str) -> Connection {
    let db = Connection::open(path).unwrap();
    assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    db.execute("INSERT INTO messages_fts (messages_fts, rank) VALUES ('integrity-check', 1)", []).unwrap();
    assert_eq!((value(&db, "tenant_id").as_str(), value(&db, "schema_version").as_str()), (tenant, "6"));
    for table in ["messages", "ledger", "logs", "configs"] {
        let sql = format!("SELECT COUNT(*), COUNT(*) FILTER (WHERE tenant_id <> ?1) FROM {table}");
        let (rows, foreign): (i64, i64) = db.query_row(&sql, [tenant], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!((value(&db, &format!("rows_{table}")), foreign), (rows.to_string(), 0), "{table}");
    }
    let (seq, head): (i64, String) = db.query_row("SELECT seq, head FROM wallet", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!((value(&db, "ledger_seq"), value(&db, "ledger_head")), (seq.to_string(), head));
    assert_eq!(value(&db, "content_blake3").len(), 64);
    db
}

#[tokio::test]
async fn an_owner_gets_one_whole_file_while_turns_go_on() {
    let server = Server::start().await;
    let (tenant, other) = (server.rich_tenant("Acme").await, server.tenant("Other").await);
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let others = server.config(&other, "echo", "echo", &json!({})).await;
    server.say(&tenant.key, &config, "acme-canary").await;
    server.say(&other.key, &others, "other-canary").await;
    let talk = async {
        for n in 0..20 {
            server.say(&tenant.key, &config, &format!("message {n}")).await;
        }
    };
    let fetch = async {
        let answer = server.request("GET", ROUTE, &tenant.key).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(answer.headers()["content-type"], "application/vnd.sqlite3");
        assert!(answer.headers()["content-disposition"].to_str().unwrap().contains(&tenant.id));
        let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(bytes.len(), length);
        bytes
    };
    let ((), bytes) = tokio::join!(talk, fetch);
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("acme-canary") && !has("other-canary"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acme.db");
    fs::write(&path, &bytes).unwrap();
    check(&path, &tenant.id);
    let (admin, _) = server.key(&tenant, "admin").await;
    server.get(ROUTE, &admin).await.problem(403, "insufficient_role");
    assert_eq!(fs::read_dir(server.data().join("exports")).unwrap().count(), 0);
    server.done().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_file_and_the_next_is_served() {
    let server = Settings::default().limit("exports_max", 1).start().await;
    let tenant = server.tenant("Acme").await;
    for _ in 0..3 {
        // Dropped with its body unread.
        drop(server.request("GET", ROUTE, &tenant.key).send().await.unwrap());
        assert_eq!(fs::read_dir(server.data().join("exports")).unwrap().count(), 0);
        let mut status = 503;
        for _ in 0..100 {
            status = server.request("GET", ROUTE, &tenant.key).send().await.unwrap().status().as_u16();
            if status == 200 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(status, 200);
    }
    server.done().await;
}

#[tokio::test]
async fn the_command_writes_a_file_beside_the_server_and_overwrites_none() {
    let mut server = Settings::default().process().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    server.say(&tenant.key, &config, "hello").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acme.db");
    for code in [0, 1] {
        let run = Process::command(&server.data()).args(["tenant", "export", &tenant.id]).arg(&path).output().await.unwrap();
        assert_eq!(run.status.code(), Some(code), "{}", String::from_utf8_lossy(&run.stderr));
    }
    let db = check(&path, &tenant.id);
    let words: i64 = db.query_row("SELECT COUNT(*) FROM messages WHERE content = 'hello'", [], |row| row.get(0)).unwrap();
    assert!(words >= 1);
    server.stop().await;
}

/// What was built without encryption does not pass for more: not at the start, not on the command line, not over HTTP.
#[cfg(not(feature = "encryption"))]
#[tokio::test]
async fn a_build_without_encryption_says_so() {
    let mut server = Settings::default().process().start().await;
    let tenant = server.tenant("Acme").await;
    let key = "0123456789abcdef".repeat(4);
    let asked = server.request("GET", ROUTE, &tenant.key).header("export-key", key).send().await.unwrap();
    assert_eq!(asked.status().as_u16(), 409);
    let told = asked.text().await.unwrap();
    assert!(told.contains("built without encryption"), "{told}");
    let file = server.data().join("none.db");
    let sets = server.data().with_extension("sets");
    let sets = sets.to_str().unwrap();
    for args in [&["tenant", "export", &tenant.id, file.to_str().unwrap(), "--encrypted"][..], &["restore", sets, "--encryption", "on"]] {
        fs::create_dir_all(sets).unwrap();
        let run = Process::command(&server.data()).args(args).output().await.unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!run.status.success() && said.contains("without encryption"), "{args:?}: {said}");
    }
    assert!(!file.exists());
    server.stop().await;
    let mut serve = Process::command(&server.data());
    let run = serve.env("NIMBLESITE_ENCRYPTION", "on").args(["serve", "--listen", "127.0.0.1:0"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(2) && said.contains("--features encryption"), "{:?} {said}", run.status);
    fs::remove_dir_all(sets).unwrap();
}
