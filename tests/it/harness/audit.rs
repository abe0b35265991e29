//! A second opinion on the files: opens them read-only, beside the server, and recomputes what must hold.

use super::Server;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// Rows by table, `catalog.` or the tenant's id before the table's name.
pub type Rows = BTreeMap<String, i64>;

/// Opens a database of the server for reading.
pub fn open(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    connection.busy_timeout(std::time::Duration::from_secs(5)).expect("a busy timeout");
    connection
}

/// How many rows each table of a file has. Logs are left out: a refusal may be logged.
pub fn rows_of(path: &Path) -> Rows {
    let db = open(path);
    let mut tables = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'messages_fts%' AND name NOT LIKE 'sqlite%'")
        .expect("a schema");
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).expect("tables").map(|name| name.expect("a name")).collect();
    let count = |name: &String| db.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0)).expect("a count");
    names.iter().filter(|name| *name != "logs").map(|name| (name.clone(), count(name))).collect()
}

impl Server {
    /// All rows of all files but the logs': what a refused request must not change.
    pub fn rows(&self) -> Rows {
        let mut all = Rows::new();
        for (file, path) in self.databases() {
            all.extend(rows_of(&path).into_iter().map(|(table, count)| (format!("{file}.{table}"), count)));
        }
        all
    }

    /// Every database by name: `catalog`, and the tenants' ids.
    pub fn databases(&self) -> Vec<(String, std::path::PathBuf)> {
        let mut found = vec![("catalog".to_owned(), self.data().join("catalog.db"))];
        found.extend(self.tenant_files());
        found
    }

    /// The tenants' files by id.
    pub fn tenant_files(&self) -> Vec<(String, std::path::PathBuf)> {
        let mut found = Vec::new();
        let list =
            |path: &Path| std::fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>();
        for shard in list(&self.data().join("tenants")) {
            for tenant in list(&shard) {
                let file = tenant.join("tenant.db");
                if file.exists() {
                    found.push((tenant.file_name().expect("a name").to_string_lossy().into_owned(), file));
                }
            }
        }
        found.sort();
        found
    }

    /// A tenant's database, for reading.
    pub fn tenant_db(&self, tenant: &str) -> Connection {
        let files = self.tenant_files();
        let (_, path) = files.iter().find(|(id, _)| id == tenant).unwrap_or_else(|| panic!("no file of {tenant} among {files:?}"));
        open(path)
    }

    /// One number out of a tenant's file.
    pub fn number(&self, tenant: &str, sql: &str) -> i64 {
        self.tenant_db(tenant).query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Audits every tenant's file: money, chain of sequence, histories.
    pub fn audit(&self) {
        for (tenant, path) in self.tenant_files() {
            let db = open(&path);
            money(&tenant, &db);
            histories(&tenant, &db);
            let broken: i64 = db.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0)).expect("a check");
            assert_eq!(broken, 0, "{tenant}: foreign keys");
        }
    }
}

/// Settled + held ≤ deposited, recomputed from the ledger and the holds alone.
fn money(tenant: &str, db: &Connection) {
    let one = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{tenant}: {sql}: {error}")) };
    let (deposited, settled, held, seq): (i64, i64, i64, i64) = db
        .query_row("SELECT deposited, settled, held, seq FROM wallet", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap_or_else(|error| panic!("{tenant}: wallet: {error}"));
    assert!(settled + held <= deposited, "{tenant}: {settled} + {held} > {deposited}");
    assert_eq!(one("SELECT coalesce(sum(amount), 0) FROM holds"), held, "{tenant}: the wallet's holds are the holds");
    assert_eq!(one("SELECT coalesce(sum(amount), 0) FROM ledger WHERE kind != 'spend'"), deposited, "{tenant}: deposits");
    assert_eq!(-one("SELECT coalesce(sum(amount), 0) FROM ledger WHERE kind = 'spend'"), settled, "{tenant}: spends");
    assert_eq!(one("SELECT coalesce(max(seq), 0) FROM ledger"), seq, "{tenant}: the newest entry");
    assert_eq!(one("SELECT count(*) FROM ledger"), seq, "{tenant}: no gap in the ledger");
    assert_eq!(one("SELECT coalesce(sum(cost), 0) FROM logs"), settled, "{tenant}: the log tells of every spend");
    assert_eq!(one("SELECT coalesce(sum(spent), 0) FROM key_spend"), settled, "{tenant}: every spend is some key's");
    let mut entries = db.prepare("SELECT amount, balance FROM ledger ORDER BY seq").expect("a ledger");
    let mut balance = 0;
    for entry in entries.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).expect("entries") {
        let (amount, after) = entry.expect("an entry");
        balance += amount;
        assert_eq!(after, balance, "{tenant}: a running balance");
    }
}

/// Every conversation can be sent to a vendor: each call is answered before anything else is said, or is still open.
fn histories(tenant: &str, db: &Connection) {
    let mut conversations = db.prepare("SELECT id, message_count, open_calls FROM conversations").expect("conversations");
    let rows = conversations.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<String>>(2)?)));
    for row in rows.expect("conversations") {
        let (id, count, open) = row.expect("a conversation");
        let who = format!("{tenant}, conversation {id}");
        let mut messages = db
            .prepare("SELECT seq, role, tool_calls, tool_call_id, content FROM messages WHERE conversation_id = ?1 ORDER BY seq")
            .expect("messages");
        let mut waiting: Vec<String> = Vec::new();
        let mut seen = 0;
        let mut rows = messages.query([&id]).expect("messages");
        while let Some(row) = rows.next().expect("a row") {
            seen += 1;
            let (seq, role): (i64, String) = (row.get(0).expect("seq"), row.get(1).expect("role"));
            assert_eq!(seq, seen, "{who}: sequence");
            match role.as_str() {
                "tool" => {
                    let answers: String = row.get(3).expect("a call's id");
                    let at = waiting.iter().position(|call| *call == answers);
                    waiting.remove(at.unwrap_or_else(|| panic!("{who}: message {seq} answers {answers}, which is not open")));
                }
                _ => {
                    assert!(waiting.is_empty(), "{who}: message {seq} comes before the results of {waiting:?}");
                    let calls: Option<String> = row.get(2).expect("calls");
                    waiting = call_ids(calls.as_deref());
                    if role == "user" {
                        assert!(row.get::<_, Option<String>>(4).expect("content").is_some(), "{who}: message {seq} says nothing");
                    }
                }
            }
        }
        assert_eq!(seen, count, "{who}: message_count");
        let mut open = call_ids(open.as_deref());
        open.sort();
        waiting.sort();
        assert_eq!(open, waiting, "{who}: the open calls are those without a result");
    }
}

fn call_ids(json: Option<&str>) -> Vec<String> {
    let calls: Value = json.map_or(Value::Null, |text| serde_json::from_str(text).expect("calls are JSON"));
    calls.as_array().into_iter().flatten().map(|call| call["id"].as_str().expect("an id").to_owned()).collect()
}
