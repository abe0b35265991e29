//! The files on disk: one a tenant, closed to others, refused under a wrong name, gone when deleted.

use crate::{
    fake_provider::Reply,
    harness::{Server, Settings, Tenant},
};
use rusqlite::Connection;
use serde_json::json;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Whether these bytes stand in any file below a folder.
fn found_below(folder: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| fs::read(path).unwrap_or_default().windows(text.len()).any(|window| window == text.as_bytes());
    files_below(folder).into_iter().filter(holds).collect()
}

async fn talking(server: &Server, name: &str, word: &str) -> Tenant {
    let tenant = server.tenant(name).await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    server.say(&tenant.key, &config, word).await;
    tenant
}

#[tokio::test]
async fn there_is_one_file_a_tenant_and_nobody_else_may_read_it() {
    let mut server = Server::start().await;
    let mut tenants = Vec::new();
    for n in 0..3 {
        tenants.push(talking(&server, &format!("Tenant {n}"), "hello").await.id);
    }
    tenants.sort();
    for path in files_below(&server.data()).iter().filter(|path| path.extension().is_some_and(|end| end != "toml")) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
    server.stop().await;
    let found: Vec<_> = files_below(&server.data().join("tenants"));
    assert_eq!(found.len(), 3, "{found:?}");
    for (id, path) in server.tenant_files() {
        assert!(tenants.contains(&id));
        let shard = path.parent().unwrap().parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(shard, id[id.len() - 2..]);
        // Anyone who may read the file can, with any SQLite.
        let db = Connection::open(&path).unwrap();
        let words: String = db.query_row("SELECT content FROM messages WHERE role = 'user'", [], |row| row.get(0)).unwrap();
        assert_eq!(words, "hello");
        assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    }
    server.run().await;
    server.done().await;
}

#[tokio::test]
async fn the_sqlite3_program_opens_a_file_beside_the_server() {
    let server = Server::start().await;
    let tenant = talking(&server, "Acme", "hello").await;
    let (_, path) = server.tenant_files().remove(0);
    let run = tokio::process::Command::new("sqlite3")
        .arg("-readonly")
        .arg(&path)
        .arg("SELECT count(*), min(tenant_id) FROM messages")
        .output()
        .await;
    match run {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("2|{}", tenant.id)),
        // Told by tests/run, which installs it where it can.
        Err(error) => println!("skipped: there is no sqlite3 program here ({error})"),
    }
    server.done().await;
}

#[tokio::test]
async fn a_row_of_another_tenant_cannot_be_put_in() {
    let mut server = Server::start().await;
    let tenant = talking(&server, "Acme", "hello").await;
    server.stop().await;
    let (_, path) = server.tenant_files().remove(0);
    let stranger = nimblesite::ids::TenantId::new().to_string();
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "foreign_keys", true).unwrap();
    let mut tables =
        db.prepare("SELECT name FROM pragma_table_list WHERE type = 'table' AND schema = 'main' AND name NOT LIKE 'sqlite%'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut tried = 0;
    for table in tables.iter().filter(|table| *table != "tenant") {
        let has_tenant: i64 =
            db.query_row("SELECT count(*) FROM pragma_table_info(?1) WHERE name = 'tenant_id'", [table], |row| row.get(0)).unwrap();
        assert_eq!(has_tenant, 1, "{table} has no tenant_id");
        let references: i64 = db
            .query_row(
                "SELECT count(*) FROM pragma_foreign_key_list(?1) WHERE \"table\" = 'tenant' AND \"from\" = 'tenant_id'",
                [table],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(references, 1, "{table} does not reference the file's tenant");
        let moved = db.execute(&format!("UPDATE {table} SET tenant_id = ?1"), [&stranger]);
        let rows: i64 = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert!(rows == 0 || moved.is_err(), "{table} took a row of another tenant");
        tried += i64::from(rows > 0);
    }
    assert!(tried >= 6, "{tried}");
    let second = db.execute("INSERT INTO tenant (id, name, created_at) VALUES (?1, 'Second', 1)", [&stranger]);
    assert!(second.is_err(), "a file has one tenant");
    for sql in ["UPDATE ledger SET amount = amount + 1", "DELETE FROM ledger"] {
        db.execute(
            "INSERT INTO ledger (tenant_id, seq, id, kind, amount, balance, created_at, hash) VALUES (?1, 99, 'x', 'topup', 0, 0, 1, 'x')",
            [&tenant.id],
        )
        .map_or_else(drop, drop);
        assert!(db.execute(sql, []).is_err(), "the ledger is append-only: {sql}");
    }
}

#[tokio::test]
async fn a_file_under_the_wrong_name_is_refused_and_the_others_go_on() {
    let mut server = Server::start().await;
    let (a, b, c) = (talking(&server, "A", "a").await, talking(&server, "B", "b").await, talking(&server, "C", "c").await);
    server.stop().await;
    let files = server.tenant_files();
    let path = |tenant: &Tenant| files.iter().find(|(id, _)| *id == tenant.id).unwrap().1.clone();
    let aside = server.data().join("aside.db");
    fs::rename(path(&a), &aside).unwrap();
    fs::copy(path(&b), path(&a)).unwrap();
    server.run().await;
    // B's file under A's name: A's key gets neither A's data nor B's.
    for route in ["/api/v1/configs", "/api/v1/conversations", "/api/v1/wallet", "/api/v1/logs"] {
        server.get(route, &a.key).await.problem(503, "tenant_unavailable");
    }
    let config = nimblesite::ids::ConfigId::new();
    server.post(&format!("/api/v1/chat/{config}"), &a.key, &json!({"message": "go"})).await.problem(503, "tenant_unavailable");
    for tenant in [&b, &c] {
        assert_eq!(server.get("/api/v1/conversations", &tenant.key).await.expect(200).ids().len(), 1);
    }
    server.stop().await;
    // Put right, it answers again.
    fs::rename(&aside, path(&a)).unwrap();
    server.run().await;
    assert_eq!(server.get("/api/v1/conversations", &a.key).await.expect(200).ids().len(), 1);
    server.done().await;
}

#[tokio::test]
async fn a_broken_missing_or_newer_file_is_one_tenant_s_matter() {
    let mut server = Server::start().await;
    let (broken, missing, newer, well) = (
        talking(&server, "Broken", "x").await,
        talking(&server, "Missing", "x").await,
        talking(&server, "Newer", "x").await,
        talking(&server, "Well", "x").await,
    );
    server.stop().await;
    let files = server.tenant_files();
    let path = |tenant: &Tenant| files.iter().find(|(id, _)| *id == tenant.id).unwrap().1.clone();
    let saved: Vec<_> = [&broken, &missing, &newer].map(|tenant| (path(tenant), fs::read(path(tenant)).unwrap())).into();
    fs::write(path(&broken), "this is no database, whatever its name says".repeat(200)).unwrap();
    fs::remove_file(path(&missing)).unwrap();
    Connection::open(path(&newer)).unwrap().pragma_update(None, "user_version", 9_999).unwrap();
    server.run().await;
    for tenant in [&broken, &missing, &newer] {
        let answer = server.get("/api/v1/configs", &tenant.key).await.problem(503, "tenant_unavailable");
        assert!(!answer.body.contains("sqlite") && !answer.body.contains(".db"), "{}", answer.body);
    }
    server.get("/api/v1/configs", &well.key).await.expect(200);
    server.get("/readyz", "").await.expect(200);
    assert!(!path(&missing).exists(), "nothing is made anew in its place");
    server.stop().await;
    for (path, bytes) in saved {
        fs::write(path, bytes).unwrap();
    }
    server.run().await;
    for tenant in [&broken, &missing, &newer] {
        server.get("/api/v1/configs", &tenant.key).await.expect(200);
    }
    server.done().await;
}

#[tokio::test]
async fn a_deleted_tenant_leaves_no_byte() {
    let mut server = Server::start().await;
    let word = "unmistakable-words-0123456789";
    let tenant = talking(&server, "Acme Corporation Limited", word).await;
    let other = talking(&server, "Other", "hello").await;
    assert!(!found_below(&server.data(), word).is_empty());
    let breach = "INSERT INTO model_breaches (provider, model, tenant_id, rate_hash, created_at) VALUES ('p', 'm', ?1, 'h', 1)";
    Connection::open(server.data().join("catalog.db")).unwrap().execute(breach, [&tenant.id]).unwrap();
    server.call("DELETE", "/api/v1/tenant", &tenant.key, Some(&json!({"confirm": tenant.name}))).await.expect(204);
    server.get("/api/v1/tenant", &tenant.key).await.problem(401, "invalid_api_key");
    assert_eq!(server.get("/api/v1/tenants", &tenant.owner.token).await.expect(200).at("/data"), json!([]));
    server.get("/api/v1/configs", &other.key).await.expect(200);
    server.stop().await;
    assert_eq!(server.tenant_files().len(), 1);
    assert_eq!(found_below(&server.data(), word), Vec::<PathBuf>::new());
    assert_eq!(found_below(&server.data(), "Acme Corporation Limited"), Vec::<PathBuf>::new());
    // Its id alone is left, in the stub that the catalog keeps.
    assert_eq!(found_below(&server.data(), &tenant.id), [server.data().join("catalog.db")]);
    // The vendor's breach still counts for the others, without saying whom it struck.
    let catalog = Connection::open(server.data().join("catalog.db")).unwrap();
    assert_eq!(catalog.query_row("SELECT COUNT(*) FROM model_breaches", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    drop(catalog);
    server.run().await;
    server.done().await;
}

#[tokio::test]
async fn a_deleted_conversation_leaves_no_word_of_it() {
    let mut server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let word = "unmistakablewords0123456789";
    let conversation = server.say(&tenant.key, &config, word).await;
    server.delete(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.expect(204);
    server.stop().await;
    assert_eq!(found_below(&server.data(), word), Vec::<PathBuf>::new());
    server.run().await;
    server.done().await;
}

#[tokio::test]
async fn a_full_tenant_is_told_so_before_anything_is_spent() {
    let server = Settings::default().limit("tenant_bytes_max", 400_000).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let words = "words ".repeat(4_000);
    let mut full = None;
    for _ in 0..60 {
        let answer = server.chat(&tenant.key, &config, &json!({"message": words})).await;
        if answer.status != 200 {
            full = Some(answer);
            break;
        }
    }
    full.expect("a limit").problem(507, "tenant_full");
    // Reading goes on, and making room helps.
    let list = server.get("/api/v1/conversations?limit=100", &tenant.key).await.expect(200).ids();
    for conversation in list {
        server.delete(&format!("/api/v1/conversations/{conversation}"), &tenant.key).await.expect(204);
    }
    server.chat(&tenant.key, &config, &json!({"message": "short"})).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn an_answer_that_a_tenant_has_no_room_for_is_charged_and_ends_its_turn() {
    let server = Settings::default().limit("tenant_bytes_max", 1_000_000).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    server.vendor.otherwise(Reply::text("Short."));
    let conversation = server.say(&tenant.key, &config, "first").await;
    let before = server.wallet(&tenant.key).await.0;
    server.vendor.then(Reply::text(&"much ".repeat(600_000)));
    let much = json!({"conversation_id": conversation, "message": "go"});
    server.chat(&tenant.key, &config, &much).await.problem(500, "internal");
    let (balance, held) = server.wallet(&tenant.key).await;
    assert!(balance < before && held == "0.000000000", "charged all the same: {before} {balance} {held}");
    let row = &server.logs(&tenant.key).await[0];
    assert_eq!((&row["event"], &row["status"], &row["code"]), (&json!("step"), &json!(500), &json!("internal")), "{row:#}");
    assert_eq!(server.history(&tenant.key, &conversation).await.len(), 2);
    server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "short"})).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn one_server_holds_a_data_directory() {
    let server = Server::start().await;
    let mut command = crate::harness::Process::command(&server.data());
    let second = command.args(["serve", "--listen", "127.0.0.1:0"]).output();
    let output = tokio::time::timeout(crate::fake_provider::PATIENCE, second).await.expect("it gives up").unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    server.get("/healthz", "").await.expect(200);
    server.done().await;
}
