//! Encryption at rest, with the feature of that name: no word of a tenant's in any byte, keys that are lost, wrong or destroyed, exports and backups,
//! and the way from plain to encrypted and back.

use crate::{
    fake_provider::Reply,
    harness::{Process, Server, Settings},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::io::AsyncWriteExt;

/// What a tenant says, and nobody may read.
const CANARY: &str = "zimtstern-canary";
const EXPORT_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Every file below a folder that has these words in its bytes.
fn having(folder: &Path, words: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() && fs::read(&path).unwrap().windows(words.len()).any(|piece| piece == words.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

async fn run(data: &Path, args: &[&str], stdin: &str) -> (i32, Value, String) {
    let mut child = Process::command(data)
        .arg("--json")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), value, String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn done(data: &Path, args: &[&str]) -> Value {
    let (code, value, stderr) = run(data, args, "").await;
    assert_eq!(code, 0, "{args:?}: {value} {stderr}");
    value
}

/// Nothing is wrong with the data, and so many tenants are encrypted.
async fn doctor(data: &Path, said: &str) {
    let (_, findings, stderr) = run(data, &["doctor"], "").await;
    let findings = findings.as_array().unwrap_or_else(|| panic!("{stderr}"));
    // Vendors' keys, sandboxes and the test's own settings file are other matters.
    let bad = |finding: &&Value| {
        finding["state"] == "bad" && !["permissions", "providers", "sandboxes"].contains(&finding["area"].as_str().unwrap())
    };
    assert_eq!(findings.iter().filter(bad).count(), 0, "{findings:#?}");
    assert!(
        findings.iter().any(|finding| finding["area"] == "encryption" && finding["what"].as_str().unwrap().contains(said)),
        "{findings:#?}"
    );
}

/// A server with an encrypted tenant that has talked.
async fn encrypted() -> (Server, crate::harness::Tenant, String) {
    let server = Settings::default().toml("encryption = \"on\"").process().start().await;
    let tenant = server.rich_tenant("Locked").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({"system_prompt": format!("You keep {CANARY}.")})).await;
    // A gap in the numbers of rows, which the index of words goes by.
    server.vendor.then(Reply::text("Never mind.")).then(Reply::text(&format!("Yes, {CANARY}.")));
    let gone = server.say(&tenant.key, &config, "forget this").await;
    server.delete(&format!("/api/v1/conversations/{gone}"), &tenant.key).await.expect(204);
    server.say(&tenant.key, &config, &format!("remember {CANARY}")).await;
    (server, tenant, config)
}

/// A plain file is whole, and its index of words is that of its messages.
fn check(file: &Path) {
    let db = rusqlite::Connection::open(file).unwrap();
    assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    db.execute("INSERT INTO messages_fts (messages_fts, rank) VALUES ('integrity-check', 1)", []).unwrap();
}

#[tokio::test]
async fn no_word_of_an_encrypted_tenant_is_in_any_byte_of_the_directory_or_its_backups() {
    let (mut server, tenant, _) = encrypted().await;
    let out = tempfile::tempdir().unwrap();
    let sets = out.path().join("sets");
    // While it runs: log and shared memory, too.
    assert_eq!(having(&server.data(), CANARY), Vec::<PathBuf>::new());
    done(&server.data(), &["backup", sets.to_str().unwrap()]).await;
    assert_eq!(having(out.path(), CANARY), Vec::<PathBuf>::new());
    let found = server.get("/api/v1/conversations?q=zimtstern", &tenant.key).await.expect(200).json();
    assert_eq!(found["data"].as_array().unwrap().len(), 1, "it is searched all the same: {found}");
    server.stop().await;
    assert_eq!(having(&server.data(), CANARY), Vec::<PathBuf>::new());
    doctor(&server.data(), "the files of 1 tenants are encrypted").await;
}

#[tokio::test]
async fn exports_are_plain_or_under_a_key_of_the_asker_s_and_both_come_back() {
    let (server, tenant, _) = encrypted().await;
    let out = tempfile::tempdir().unwrap();
    let (plain, locked) = (out.path().join("plain.db"), out.path().join("locked.db"));
    done(&server.data(), &["tenant", "export", &tenant.id, plain.to_str().unwrap()]).await;
    let told = done(&server.data(), &["tenant", "export", &tenant.id, locked.to_str().unwrap(), "--encrypted"]).await;
    assert_eq!(having(out.path(), CANARY), vec![plain.clone()]);
    check(&plain);
    let key = told["key"].as_str().unwrap().to_owned();
    let owner = ["--owner", tenant.owner.email.as_str()];
    let import = |file: &Path, more: &[&'static str]| {
        let mut args: Vec<String> = ["tenant", "import", file.to_str().unwrap()].map(str::to_owned).to_vec();
        args.extend(owner.iter().chain(more).map(|&arg| arg.to_owned()));
        args
    };
    for (file, more, stdin) in [(&plain, &[][..], String::new()), (&locked, &["--key-stdin"][..], key.clone())] {
        let args = import(file, more);
        let (code, made, stderr) = run(&server.data(), &args.iter().map(String::as_str).collect::<Vec<_>>(), &stdin).await;
        assert_eq!(code, 0, "{stderr}");
        let found = server.get("/api/v1/conversations?q=zimtstern", made["key"].as_str().unwrap()).await.expect(200).json();
        assert_eq!(found["data"].as_array().unwrap().len(), 1, "{found}");
    }
    for (more, stdin, why) in [(&[][..], "", "without its key"), (&["--key-stdin"][..], EXPORT_KEY, "another key")] {
        let args = import(&locked, more);
        let (code, _, stderr) = run(&server.data(), &args.iter().map(String::as_str).collect::<Vec<_>>(), stdin).await;
        assert!(code == 1 && stderr.contains(why), "{code} {stderr}");
    }
    let asked = server.client.get(format!("{}/api/v1/tenant/export", server.base)).header("x-api-key", &tenant.key);
    let bytes = asked.header("export-key", EXPORT_KEY).send().await.unwrap().bytes().await.unwrap();
    let file = out.path().join("asked.db");
    fs::write(&file, &bytes).unwrap();
    let args = import(&file, &["--key-stdin"]);
    let (code, _, stderr) = run(&server.data(), &args.iter().map(String::as_str).collect::<Vec<_>>(), EXPORT_KEY).await;
    assert_eq!(code, 0, "{stderr}");
    let asked = server.client.get(format!("{}/api/v1/tenant/export", server.base)).header("x-api-key", &tenant.key);
    assert_eq!(asked.header("export-key", "12").send().await.unwrap().status(), 422);
}

#[tokio::test]
async fn without_the_operator_s_key_an_encrypted_tenant_is_unavailable_and_a_plain_one_goes_on() {
    let (mut server, tenant, config) = encrypted().await;
    server.stop().await;
    let settings = server.data().join("nimblesite.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("encryption = \"on\"", "")).unwrap();
    server.run().await;
    let plain = server.rich_tenant("Open").await;
    server.stop().await;
    let key = server.data().join("secret.key");
    let kept = fs::read_to_string(&key).unwrap();
    fs::remove_file(&key).unwrap();
    server.run().await;
    let refused = server.get("/api/v1/conversations", &tenant.key).await.expect(503).json();
    assert_eq!(refused["code"], "tenant_unavailable");
    server.get("/api/v1/conversations", &plain.key).await.expect(200);
    assert!(server.printed().contains("secret.key is missing"), "{}", server.printed());
    server.stop().await;
    fs::write(&key, kept).unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    server.run().await;
    server.vendor.then(Reply::text("Here again."));
    server.say(&tenant.key, &config, "and now?").await;
    server.stop().await;
}

#[tokio::test]
async fn deleting_an_encrypted_tenant_destroys_its_key_in_the_catalog_and_in_the_backups() {
    let (mut server, tenant, _) = encrypted().await;
    let out = tempfile::tempdir().unwrap();
    done(&server.data(), &["backup", out.path().to_str().unwrap()]).await;
    let db = rusqlite::Connection::open(server.data().join("catalog.db")).unwrap();
    let wrapped: String = db.query_row("SELECT data_key FROM tenants WHERE id = ?1", [&tenant.id], |row| row.get(0)).unwrap();
    drop(db);
    assert!(!having(out.path(), &wrapped).is_empty(), "a backup can be opened as long as its tenant lives");
    done(&server.data(), &["tenant", "delete", &tenant.id, "--yes"]).await;
    server.stop().await;
    assert_eq!(having(&server.data(), &wrapped), Vec::<PathBuf>::new());
    assert_eq!(having(out.path(), &wrapped), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_directory_becomes_encrypted_and_plain_again_by_way_of_a_backup() {
    let mut server = Settings::default().process().start().await;
    let tenant = server.rich_tenant("Wanderer").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.then(Reply::text("Yes."));
    server.say(&tenant.key, &config, &format!("remember {CANARY}")).await;
    let balance = server.get("/api/v1/wallet", &tenant.key).await.expect(200).json();
    server.stop().await;
    let home = tempfile::tempdir().unwrap();
    let mut from = server.data();
    for (number, (word, plain)) in [("on", 0), ("off", 1)].into_iter().enumerate() {
        let (sets, to) = (home.path().join(format!("sets-{number}")), home.path().join(format!("data-{number}")));
        done(&from, &["backup", sets.to_str().unwrap()]).await;
        fs::create_dir(&to).unwrap();
        fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        for name in ["models.toml", "nimblesite.toml"] {
            fs::copy(server.data().join(name), to.join(name)).unwrap();
        }
        if word == "off" {
            let (code, _, stderr) = run(&to, &["restore", sets.to_str().unwrap(), "--encryption", word], "").await;
            assert!(code == 1 && stderr.contains("secret.key"), "{stderr}");
            fs::copy(from.join("secret.key"), to.join("secret.key")).unwrap();
        }
        done(&to, &["restore", sets.to_str().unwrap(), "--encryption", word]).await;
        assert_eq!(having(&to, CANARY).len(), plain, "{word}");
        doctor(&to, if word == "on" { "the files of 1 tenants are encrypted" } else { "no tenant's file is encrypted" }).await;
        let again = Process::serve(&to, &server.env, None).await;
        server.base.clone_from(&again.base);
        assert_eq!(server.get("/api/v1/wallet", &tenant.key).await.expect(200).json(), balance);
        let found = server.get("/api/v1/conversations?q=zimtstern", &tenant.key).await.expect(200).json();
        assert_eq!(found["data"].as_array().unwrap().len(), 1, "{found}");
        drop(again);
        from = to;
    }
}
