//! Backups: sets while the server runs, the way back for one tenant and for all, import elsewhere, and what deletion leaves of it all.

use crate::{
    fake_provider::{At, Gate, Reply},
    harness::{Process, Server, Settings, Tenant, full},
};
use rusqlite::{Connection, types::Value as Cell};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

async fn run(data: &Path, args: &[&str]) -> (i32, Value, String) {
    let output = Process::command(data).arg("--json").args(args).output().await.unwrap();
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), value, String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn done(data: &Path, args: &[&str]) -> Value {
    let (code, value, stderr) = run(data, args).await;
    assert_eq!(code, 0, "{args:?}: {stderr}");
    value
}

async fn refused(data: &Path, args: &[&str], why: &str) {
    let (code, _, stderr) = run(data, args).await;
    assert!(code == 1 && stderr.contains(why), "{args:?}: {code} {stderr}");
}

async fn backup(server: &Server, dir: &Path, more: &[&str]) -> (PathBuf, u64, u64) {
    // So old that a file's last change can be told from the next.
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let told = done(&server.data(), &[&["backup", dir.to_str().unwrap()], more].concat()).await;
    assert_eq!(told["failed"], json!({}));
    (told["set"].as_str().unwrap().into(), told["copied"].as_u64().unwrap(), told["unchanged"].as_u64().unwrap())
}

fn copy_of(set: &Path, tenant: &str) -> PathBuf {
    set.join("tenants").join(&tenant[tenant.len() - 2..]).join(format!("{tenant}.db"))
}

/// All files below a folder, with their bytes.
fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                let bytes = fs::read(&path).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}

fn found_below(folder: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    files_below(folder).into_iter().filter(|(_, bytes)| holds(bytes)).map(|(path, _)| path).collect()
}

async fn paying(server: &Server, name: &str) -> (Tenant, String) {
    server.vendor.otherwise(Reply::text("Fine."));
    let tenant = server.rich_tenant(name).await;
    let config = server.config(&tenant, "fake-openai", "smart", &json!({})).await;
    (tenant, config)
}

#[tokio::test]
async fn a_set_links_what_did_not_change_and_keeps_as_many_as_asked() {
    let mut server = Settings::default().process().start().await;
    let (busy, config) = paying(&server, "Busy").await;
    let (quiet, _) = paying(&server, "Quiet").await;
    let dir = tempfile::tempdir().unwrap();
    let (first, copied, unchanged) = backup(&server, dir.path(), &[]).await;
    assert_eq!((copied, unchanged), (2, 0));
    server.say(&busy.key, &config, "one more").await;
    let (second, copied, unchanged) = backup(&server, dir.path(), &[]).await;
    assert_eq!((copied, unchanged), (1, 1));
    let inode = |set: &Path, tenant: &Tenant| fs::metadata(copy_of(set, &tenant.id)).unwrap().ino();
    assert_eq!(inode(&first, &quiet), inode(&second, &quiet));
    assert_ne!(inode(&first, &busy), inode(&second, &busy));
    let copy = Connection::open(copy_of(&second, &busy.id)).unwrap();
    let words: i64 = copy.query_row("SELECT COUNT(*) FROM messages WHERE content = 'one more'", [], |row| row.get(0)).unwrap();
    assert_eq!(words, 1);
    for path in files_below(dir.path()).keys() {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o077, 0, "{}", path.display());
    }
    let (third, ..) = backup(&server, dir.path(), &["--keep", "2"]).await;
    assert!(!first.exists() && second.exists() && third.exists());
    refused(&server.data(), &["backup", server.data().join("backups").to_str().unwrap()], "outside of it").await;
    server.stop().await;
}

/// The bytes of all tenants' files but this one's.
fn others_of(server: &Server, tenant: &Tenant) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files_below(&server.data().join("tenants")).into_iter();
    files.filter(|(path, _)| !path.to_string_lossy().contains(&tenant.id) && path.extension().is_some_and(|end| end != "db-shm")).collect()
}

#[tokio::test]
async fn one_tenant_gets_its_content_back_and_no_money_and_no_other_file_changes() {
    let mut server = Settings::default().process().start().await;
    let (tenant, config) = paying(&server, "Acme").await;
    let (other, others) = paying(&server, "Other").await;
    let kept = server.say(&tenant.key, &config, "kept-words").await;
    server.say(&other.key, &others, "hello").await;
    let dir = tempfile::tempdir().unwrap();
    backup(&server, dir.path(), &[]).await;
    let path = dir.path().to_str().unwrap();
    // Beside the server first, then without one.
    for is_served in [true, false] {
        server.delete(&format!("/api/v1/conversations/{kept}"), &tenant.key).await.expect(204);
        let later = server.say(&tenant.key, &config, "later-words").await;
        let (balance, logs) = (server.wallet(&tenant.key).await, server.logs(&tenant.key).await.len());
        if !is_served {
            server.stop().await;
        }
        let before = others_of(&server, &tenant);
        assert!(!before.is_empty());
        done(&server.data(), &["restore", path, "--tenant", &tenant.id]).await;
        assert!(before == others_of(&server, &tenant), "another tenant's file changed");
        if !is_served {
            server.run().await;
        }
        assert_eq!(server.history(&tenant.key, &kept).await.len(), 2);
        server.get(&format!("/api/v1/conversations/{later}"), &tenant.key).await.problem(404, "not_found");
        assert_eq!(server.wallet(&tenant.key).await, balance, "what was spent stays spent");
        assert_eq!(server.logs(&tenant.key).await.len(), logs);
        assert_eq!(server.get("/api/v1/conversations?q=kept", &tenant.key).await.expect(200).ids(), [kept.as_str()]);
        server.chat(&tenant.key, &config, &json!({"conversation_id": kept, "message": "go on"})).await.expect(200);
    }
    let nobody = "0192f0c4-0000-7000-8000-000000000000";
    refused(&server.data(), &["restore", path, "--tenant", nobody], "has tenant").await;
    // A copy that rotted is not put back.
    let set = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let copy = copy_of(&set, &tenant.id);
    let mut bytes = fs::read(&copy).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&copy, bytes).unwrap();
    refused(&server.data(), &["restore", path, "--tenant", &tenant.id], "damaged").await;
    assert_eq!(server.history(&tenant.key, &kept).await.len(), 4, "nothing was touched");
    server.done().await;
}

#[tokio::test]
async fn a_restore_ends_the_turn_that_runs_and_the_ledger_stays_whole() {
    let mut server = Settings::default().process().start().await;
    let (tenant, config) = paying(&server, "Acme").await;
    let conversation = server.say(&tenant.key, &config, "before").await;
    let dir = tempfile::tempdir().unwrap();
    backup(&server, dir.path(), &[]).await;
    server.vendor.then(Reply::text("never told").stall(At::AfterHead, &Gate::new()));
    let ask = json!({"conversation_id": conversation, "message": "wait"});
    let (answer, ()) = tokio::join!(server.chat(&tenant.key, &config, &ask), async {
        server.eventually("a hold", || (server.number(&tenant.id, "SELECT COUNT(*) FROM holds") == 1).then_some(())).await;
        done(&server.data(), &["restore", dir.path().to_str().unwrap(), "--tenant", &tenant.id]).await;
    });
    assert_ne!(answer.status, 200, "{}", answer.body);
    assert_eq!(server.history(&tenant.key, &conversation).await.len(), 2);
    assert_eq!(server.number(&tenant.id, "SELECT COUNT(*) FROM holds"), 0);
    server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "go on"})).await.expect(200);
    server.stop().await;
    server.audit();
}

#[tokio::test]
async fn all_comes_back_into_an_empty_directory_and_only_there() {
    let mut server = Settings::default().process().start().await;
    let (tenant, config) = paying(&server, "Acme").await;
    let conversation = server.say(&tenant.key, &config, "hello").await;
    let balance = server.wallet(&tenant.key).await;
    let dir = tempfile::tempdir().unwrap();
    backup(&server, dir.path(), &[]).await;
    server.say(&tenant.key, &config, "lost").await;
    server.stop().await;
    let path = dir.path().to_str().unwrap();
    refused(&server.data(), &["restore", path], "holds data already").await;
    let aside = server.data().with_extension("lost");
    fs::rename(server.data(), &aside).unwrap();
    done(&server.data(), &["restore", path]).await;
    for file in ["nimblesite.toml", "models.toml"] {
        if aside.join(file).exists() {
            fs::copy(aside.join(file), server.data().join(file)).unwrap();
        }
    }
    server.run().await;
    assert_eq!(server.history(&tenant.key, &conversation).await.len(), 2);
    assert_eq!(server.wallet(&tenant.key).await, balance, "money as it was then");
    server.chat(&tenant.key, &config, &json!({"conversation_id": conversation, "message": "go on"})).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn a_file_becomes_a_tenant_elsewhere_without_money() {
    let (mut here, mut there) = (Settings::default().process().start().await, Settings::default().process().start().await);
    let (tenant, config) = paying(&here, "Acme").await;
    let conversation = here.say(&tenant.key, &config, "moved-words").await;
    there.vendor.otherwise(Reply::text("Fine."));
    let owner = there.user("owner@example.org").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("acme.db");
    let path = file.to_str().unwrap();
    done(&here.data(), &["tenant", "export", &tenant.id, path]).await;
    let made = done(&there.data(), &["tenant", "import", path, "--owner", &owner.email]).await;
    assert_eq!(made["name"], tenant.name);
    let key = made["key"].as_str().unwrap();
    assert_eq!(there.history(key, &conversation).await.len(), 2);
    assert_eq!(there.wallet(key).await, ("0.000000000".to_owned(), "0.000000000".to_owned()));
    let go_on = json!({"conversation_id": conversation, "message": "go on"});
    there.chat(key, &config, &go_on).await.problem(402, "insufficient_credit");
    let id = made["id"].as_str().unwrap();
    done(&there.data(), &["credit", "add", "--tenant", id, "--amount", "5"]).await;
    there.chat(key, &config, &go_on).await.expect(200);
    assert_eq!(there.get("/api/v1/conversations?q=moved", key).await.expect(200).ids(), [conversation.as_str()]);
    // What is not ours, or not as we wrote it, is refused, and leaves nothing.
    let owner = ["--owner", owner.email.as_str()];
    let changed = |name: &str, sql: &str| {
        let target = dir.path().join(name);
        fs::copy(&file, &target).unwrap();
        Connection::open(&target).unwrap().execute_batch(sql).unwrap();
        target
    };
    let foreign = changed("foreign.db", "PRAGMA application_id = 1");
    let newer = changed("newer.db", "PRAGMA user_version = 99");
    let more = changed("more.db", "CREATE TRIGGER t AFTER INSERT ON messages BEGIN DELETE FROM ledger; END");
    let other = changed("other.db", "UPDATE messages SET content = 'never said' WHERE role = 'assistant'");
    let text = dir.path().join("text.db");
    fs::write(&text, "words ".repeat(5_000)).unwrap();
    for (file, why) in [
        (foreign, "was not made by"),
        (newer, "form 99"),
        (more, "its tables are not"),
        (other, "its content is not"),
        (text, "no SQLite file"),
    ] {
        refused(&there.data(), &[&["tenant", "import", file.to_str().unwrap()][..], &owner].concat(), why).await;
    }
    assert_eq!(there.tenant_files().len(), 1);
    here.stop().await;
    there.stop().await;
    there.audit();
}

/// Makes of an exported file what the first version wrote: without the tables of later steps, with the column that one took away, and with the
/// hash of what is left.
fn make_older(file: &Path) {
    let form1 = include_str!("../../src/storage/sqlite/form1.sql");
    let first = Connection::open_in_memory().unwrap();
    first.execute_batch(&form1[form1.rfind("-- =====").unwrap()..]).unwrap();
    let tables = |db: &Connection| -> Vec<String> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'messages_fts%' ORDER BY rowid";
        db.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let db = Connection::open(file).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA user_version = 1").unwrap();
    let kept = tables(&first);
    for table in tables(&db).iter().filter(|table| !kept.contains(table) && *table != "export_manifest") {
        db.execute_batch(&format!("DROP TABLE {table}; DELETE FROM export_manifest WHERE name = 'rows_{table}'")).unwrap();
    }
    let made =
        |name: &str| first.query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [name], |row| row.get::<_, String>(0)).unwrap();
    db.execute_batch(&format!(
        "CREATE TEMP TABLE kept AS SELECT *, 0 FROM key_spend; DROP TABLE key_spend; {}; INSERT INTO key_spend SELECT * FROM kept;
         DROP TRIGGER messages_fts_delete; {}; {}",
        made("key_spend"),
        made("messages_fts_delete"),
        made("messages_fts_insert")
    ))
    .unwrap();
    let mut hash = blake3::Hasher::new();
    for table in &kept {
        hash.update(table.as_bytes());
        let mut select = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = select.column_count();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                match row.get::<_, Cell>(column).unwrap() {
                    Cell::Null => hash.update(b"n"),
                    Cell::Integer(number) => hash.update(b"i").update(&number.to_le_bytes()),
                    Cell::Real(number) => hash.update(b"r").update(&number.to_le_bytes()),
                    Cell::Text(text) => hash.update(b"t").update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes()),
                    Cell::Blob(blob) => hash.update(b"b").update(&(blob.len() as u64).to_le_bytes()).update(&blob),
                };
            }
        }
    }
    db.execute("UPDATE export_manifest SET value = '1' WHERE name = 'schema_version'", []).unwrap();
    let changed = db.execute("UPDATE export_manifest SET value = ?1 WHERE name = 'content_blake3'", [hash.finalize().to_hex().as_str()]);
    assert_eq!(changed.unwrap(), 1);
}

/// Copies of an older form are brought to the newest first, beside the file, which stays as it is.
#[tokio::test]
async fn an_older_file_is_restored_and_imported_in_the_newest_form() {
    let mut server = Settings::default().process().start().await;
    let (tenant, config) = paying(&server, "Acme").await;
    let kept = server.say(&tenant.key, &config, "kept-words").await;
    let dir = tempfile::tempdir().unwrap();
    let (set, ..) = backup(&server, dir.path(), &[]).await;
    let copy = copy_of(&set, &tenant.id);
    make_older(&copy);
    // The set knows the file that it has now.
    let manifest = set.join("manifest.json");
    let mut known: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let bytes = fs::read(&copy).unwrap();
    let entry = &mut known["tenants"][&tenant.id];
    (entry["bytes"], entry["blake3"]) = (json!(bytes.len()), json!(blake3::hash(&bytes).to_hex().as_str()));
    fs::write(&manifest, known.to_string()).unwrap();

    server.delete(&format!("/api/v1/conversations/{kept}"), &tenant.key).await.expect(204);
    done(&server.data(), &["restore", dir.path().to_str().unwrap(), "--tenant", &tenant.id]).await;
    assert_eq!(server.history(&tenant.key, &kept).await.len(), 2);
    let owner = tenant.owner.email.as_str();
    let made = done(&server.data(), &["tenant", "import", copy.to_str().unwrap(), "--owner", owner]).await;
    let key = made["key"].as_str().unwrap();
    assert_eq!(server.get("/api/v1/conversations?q=kept", key).await.expect(200).ids(), [kept.as_str()]);
    assert_eq!(fs::read(&copy).unwrap(), bytes, "what was read is as it was");
    let made_in = server.data().join("exports");
    assert!(!made_in.exists() || fs::read_dir(made_in).unwrap().next().is_none(), "no copy is left");
    // An older form is no excuse.
    for (name, sql, why) in [
        ("trigger.db", "CREATE TRIGGER t AFTER INSERT ON messages BEGIN DELETE FROM ledger; END", "its tables are not"),
        ("view.db", "DROP TABLE logs; CREATE VIEW logs AS SELECT * FROM turns", "its tables are not"),
        ("less.db", "DROP TABLE logs", "its content is not"),
        ("other.db", "UPDATE messages SET content = 'never said' WHERE role = 'assistant'", "its content is not"),
        ("none.db", "PRAGMA user_version = 0", "form 0"),
    ] {
        let changed = dir.path().join(name);
        fs::copy(&copy, &changed).unwrap();
        Connection::open(&changed).unwrap().execute_batch(sql).unwrap();
        refused(&server.data(), &["tenant", "import", changed.to_str().unwrap(), "--owner", owner], why).await;
    }
    server.stop().await;
    server.audit();
}

#[tokio::test]
async fn a_deleted_tenant_leaves_its_backups_too() {
    let mut server = Settings::default().process().start().await;
    let (tenant, config) = paying(&server, "Acme Corporation Limited").await;
    let (other, others) = paying(&server, "Other").await;
    let word = "unmistakable-words-0123456789";
    server.say(&tenant.key, &config, word).await;
    let kept = server.say(&other.key, &others, "hello").await;
    let (one, two, gone) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [one.path(), one.path(), two.path(), gone.path()] {
        backup(&server, dir, &[]).await;
    }
    assert_eq!(found_below(one.path(), word).len(), 2, "a file with two names");
    let away = gone.path().to_owned();
    drop(gone);
    let told = done(&server.data(), &["tenant", "delete", &tenant.id, "--yes"]).await;
    let unreached = told["unreached"].as_array().unwrap();
    assert!(unreached.len() == 1 && unreached[0].as_str().unwrap().contains(away.to_str().unwrap()), "{unreached:?}");
    server.stop().await;
    for dir in [one.path(), two.path(), &server.data()] {
        for canary in [word, tenant.id.as_str(), "Acme Corporation Limited"] {
            // The id alone is left, in the stub that the catalog keeps.
            let stub = (dir == server.data() && canary == tenant.id).then(|| dir.join("catalog.db"));
            assert_eq!(found_below(dir, canary), Vec::from_iter(stub), "{canary}");
        }
    }
    // The sets are still good for the others.
    done(&server.data(), &["restore", two.path().to_str().unwrap(), "--tenant", &other.id]).await;
    server.run().await;
    assert_eq!(server.history(&other.key, &kept).await.len(), 2);
    server.done().await;
}

/// In full: 1,000 tenants and 200 turns a second.
#[tokio::test]
async fn turns_go_on_while_all_tenants_are_backed_up() {
    let (count, per_second) = if full() { (1_000, 200) } else { (30, 50) };
    let mut server = Settings::default().limit("tenants_per_user_max", 2_000).process().start().await;
    let owner = server.user("owner@example.org").await;
    let mut tenants = Vec::new();
    for n in 0..count {
        let tenant = server.tenant_of(&owner, &format!("Tenant {n}")).await;
        let config = server.config(&tenant, "echo", "echo", &json!({})).await;
        tenants.push((tenant.key, config));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    let data = server.data();
    let backing =
        tokio::spawn(async move { (std::time::Instant::now(), done(&data, &["backup", &path]).await, std::time::Instant::now()) });
    let (mut turns, mut n) = (tokio::task::JoinSet::new(), 0_usize);
    let mut tick = tokio::time::interval(std::time::Duration::from_micros(1_000_000 / per_second));
    while !backing.is_finished() {
        tick.tick().await;
        let (key, config) = &tenants[n % tenants.len()];
        n += 1;
        let asked = server.request("POST", &format!("/api/v1/chat/{config}"), key).body(json!({"message": "hello"}).to_string()).send();
        turns.spawn(async move { asked.await.unwrap().status().as_u16() });
    }
    let (began, told, ended) = backing.await.unwrap();
    let mut fine = 0;
    while let Some(status) = turns.join_next().await {
        assert_eq!(status.unwrap(), 200);
        fine += 1;
    }
    assert_eq!((&told["copied"], &told["failed"]), (&json!(count), &json!({})));
    assert!(fine > 0);
    println!("{count} tenants backed up in {:?}; {fine} turns meanwhile, none failed", ended - began);
    server.stop().await;
    server.audit();
}
