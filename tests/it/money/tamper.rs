//! The auditor against someone who writes to a tenant's file by hand: whatever is changed, `doctor` names it.

use crate::{
    fake_provider::Reply,
    harness::{Server, Tenant},
};
use nimblesite::{
    config::Limits,
    storage::{Mode, Storage},
};
use rusqlite::Connection;
use serde_json::json;
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// What is done to the file, and what the auditor must say.
const TAMPERED: &[(&str, &str, &str)] = &[
    ("a spend made smaller", "UPDATE ledger SET amount = amount + 1 WHERE seq = 3", "entry 3 does not match its hash"),
    ("a running balance", "UPDATE ledger SET balance = balance + 1 WHERE seq = 2", "entry 2 shows a balance"),
    (
        "one digit of a hash",
        "UPDATE ledger SET hash = substr(hash, 2) || substr(hash, 1, 1) WHERE seq = 2",
        "entry 2 does not match its hash",
    ),
    ("a note", "UPDATE ledger SET note = 'x' WHERE seq = 1", "entry 1 does not match its hash"),
    ("a reference", "UPDATE ledger SET reference = 'x' WHERE seq = 1", "entry 1 does not match its hash"),
    ("a moment", "UPDATE ledger SET created_at = created_at + 1 WHERE seq = 4", "entry 4 does not match its hash"),
    ("an id", "UPDATE ledger SET id = '00000000-0000-7000-8000-000000000000' WHERE seq = 4", "entry 4 does not match its hash"),
    ("a kind of deposit", "UPDATE ledger SET kind = 'refund' WHERE seq = 1", "entry 1 does not match its hash"),
    (
        "whose turn it was",
        "UPDATE ledger SET turn_id = (SELECT turn_id FROM ledger WHERE seq = 3) WHERE seq = 2",
        "entry 2 does not match its hash",
    ),
    ("the model", "UPDATE ledger SET model = 'other' WHERE seq = 2", "entry 2 does not match its hash"),
    ("the usage", "UPDATE ledger SET usage = replace(usage, '100', '101') WHERE seq = 2", "entry 2 does not match its hash"),
    ("the rates", "UPDATE ledger SET rates = replace(rates, '15', '16') WHERE seq = 2", "entry 2 does not match its hash"),
    ("usage that is no JSON", "UPDATE ledger SET usage = '{' WHERE seq = 2", "cannot be read"),
    ("whose key it was", "UPDATE ledger SET key_id = 'nobody' WHERE seq = 2", "key nobody"),
    ("a missing entry", "DELETE FROM ledger WHERE seq = 3", "entry 4 stands where 3 should"),
    ("no entries at all", "DELETE FROM ledger", "refused:"),
    ("a top-up out of nothing", FORGED_TOPUP, "entry 6 does not match its hash"),
    ("more deposited", "UPDATE wallet SET deposited = deposited + 1", "the wallet says"),
    ("less settled", "UPDATE wallet SET settled = settled - 1", "the wallet says"),
    ("something held", "UPDATE wallet SET held = held + 1", "the wallet holds"),
    ("another newest entry", "UPDATE wallet SET seq = seq - 1", "refused:"),
    ("another newest hash", "UPDATE wallet SET head = 'x'", "refused:"),
    ("a hold of nobody's", FORGED_HOLD, "the wallet holds"),
    ("a key that spent less", "UPDATE key_spend SET spent = spent - 1", "spent"),
    ("a key that never spent", "DELETE FROM key_spend", "key "),
    ("a cheaper answer in the log", "UPDATE logs SET cost = cost - 1 WHERE cost > 0", "the ledger charged"),
    ("a cheaper answer", "UPDATE messages SET cost = cost - 1 WHERE role = 'assistant'", "an answer of turn"),
    ("an answer that used more", "UPDATE messages SET output_tokens = output_tokens + 1 WHERE role = 'assistant'", "no entry tells of it"),
    ("a dearer answer", "UPDATE messages SET cost = cost + 1 WHERE role = 'assistant'", "an answer of turn"),
];

const FORGED_TOPUP: &str = "INSERT INTO ledger (tenant_id, seq, id, kind, amount, balance, created_at, hash)
    SELECT tenant_id, 6, '00000000-0000-7000-8000-000000000000', 'topup', 1000, balance + 1000, created_at, hash FROM ledger WHERE seq = 5;
    UPDATE wallet SET deposited = deposited + 1000, seq = 6";

const FORGED_HOLD: &str = "INSERT INTO holds (tenant_id, id, turn_id, step, key_id, provider, model, amount, boot_id, created_at)
    SELECT tenant_id, 'h', 't', 1, key_id, 'p', 'm', 5, 'b', 1 FROM ledger WHERE key_id IS NOT NULL LIMIT 1";

/// Five entries: two deposits and three answers.
async fn spent() -> (Server, Tenant) {
    let mut server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    for message in ["one", "two", "three"] {
        server.vendor.then(Reply::text("Yes."));
        server.say(&tenant.key, &config, message).await;
    }
    server.credit(&tenant, "1.00").await;
    server.stop().await;
    (server, tenant)
}

fn copied(from: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a directory");
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).expect("our own directory");
        for entry in std::fs::read_dir(from).expect("a directory").flatten() {
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                copy(&source, &target);
            } else if kind.is_file() {
                std::fs::copy(&source, &target).expect("a copy");
            }
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    copy(from, dir.path());
    dir
}

fn file_of(server: &Server, dir: &Path) -> PathBuf {
    let (_, path) = server.tenant_files().into_iter().next().expect("a tenant's file");
    dir.join(path.strip_prefix(server.data()).expect("inside the data directory"))
}

/// What the auditor has to say of a data directory: its faults, or why the file is not opened at all.
async fn faults(dir: &Path, tenant: &Tenant) -> Vec<String> {
    let storage = Storage::open(dir, Mode::Beside, &Limits::default()).expect("storage");
    let told = storage.audit(&storage.operator_here(), tenant.id.parse().expect("an id")).await;
    let told = match told {
        Ok(audit) => audit.faults,
        Err(error) => vec![format!("refused: {error:?}")],
    };
    storage.close();
    told
}

#[tokio::test]
async fn the_auditor_names_whatever_was_changed_by_hand() {
    let (server, tenant) = spent().await;
    let sound = copied(&server.data());
    assert_eq!(faults(sound.path(), &tenant).await, Vec::<String>::new(), "an untouched copy");
    for (what, sql, expected) in TAMPERED {
        let dir = copied(&server.data());
        let db = Connection::open(file_of(&server, dir.path())).expect("the file");
        let unlock = "DROP TRIGGER ledger_append_only_update; DROP TRIGGER ledger_append_only_delete; PRAGMA foreign_keys = OFF;";
        db.execute_batch(unlock).expect("the triggers can be dropped by who owns the file");
        db.execute_batch(sql).unwrap_or_else(|error| panic!("{what}: {error}"));
        drop(db);
        let found = faults(dir.path(), &tenant).await;
        assert!(found.iter().any(|fault| fault.contains(expected)), "{what}: the auditor says {found:?}, not {expected:?}");
        println!("{what}: {}", found.join("; "));
    }
    server.done().await;
}

#[tokio::test]
async fn a_ledger_from_an_earlier_day_is_not_opened() {
    let (server, tenant) = spent().await;
    let dir = copied(&server.data());
    let db = Connection::open(file_of(&server, dir.path())).expect("the file");
    // A whole ledger, as it was two entries ago, wallet and keys with it: nothing in the file is wrong.
    db.execute_batch(
        "DROP TRIGGER ledger_append_only_delete; DELETE FROM ledger WHERE seq > 3; DELETE FROM messages; DELETE FROM logs;
         UPDATE wallet SET seq = 3, head = (SELECT hash FROM ledger WHERE seq = 3),
             deposited = (SELECT sum(amount) FROM ledger WHERE kind <> 'spend'), settled = (SELECT -sum(amount) FROM ledger WHERE kind = 'spend');
         UPDATE key_spend SET spent = (SELECT -sum(amount) FROM ledger WHERE kind = 'spend');",
    )
    .expect("an earlier day");
    drop(db);
    let found = faults(dir.path(), &tenant).await;
    assert!(found.len() == 1 && found[0].starts_with("refused:"), "{found:?}");
    server.done().await;
}

#[tokio::test]
async fn the_file_itself_refuses_to_change_its_ledger_or_to_overspend() {
    let (server, tenant) = spent().await;
    let dir = copied(&server.data());
    let db = Connection::open(file_of(&server, dir.path())).expect("the file");
    for (sql, why) in [
        ("UPDATE ledger SET amount = 0", "append-only"),
        ("DELETE FROM ledger WHERE seq = 1", "append-only"),
        ("UPDATE wallet SET held = deposited + 1", "CHECK"),
        ("UPDATE wallet SET settled = deposited + 1", "CHECK"),
        ("UPDATE wallet SET deposited = 0", "CHECK"),
        ("UPDATE wallet SET held = -1", "CHECK"),
    ] {
        let error = db.execute_batch(sql).expect_err(sql).to_string();
        assert!(error.contains(why), "{sql}: {error}");
    }
    drop(db);
    assert_eq!(faults(dir.path(), &tenant).await, Vec::<String>::new());
    server.done().await;
}
