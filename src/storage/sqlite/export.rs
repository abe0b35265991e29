//! The manifest inside an exported file: what the file is, and a hash over all that it holds. It knows nothing of whom the file is for.

use super::{
    cipher::Key,
    errors::{Health, Told},
};
use crate::{
    error::{Error, Result},
    ids::{ConfigId, TenantId},
    storage::{
        engine::{Along, Manifest},
        schema::Kind,
    },
};
use rusqlite::{Connection, types::ValueRef};
use std::{fs::File, io::Read, path::Path, time::Duration};

/// Names and values, so that whoever opens the file with any SQLite can read what it is.
pub(super) const TABLE: &str = "CREATE TABLE export_manifest (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID";

/// The files of workspaces, where someone asked for them: tar archives, cut into parts.
pub(super) const WORKSPACES: &str = "CREATE TABLE workspace_parts (config_id TEXT NOT NULL, part INTEGER NOT NULL, bytes BLOB NOT NULL, \
     PRIMARY KEY (config_id, part)) STRICT";

/// No row is longer than the engine takes.
const PART_BYTES: u64 = 4 * 1024 * 1024;

/// The tables of a tenant, without those that SQLite's full-text search keeps for itself: they follow from `messages`.
const TABLES: [&str; 21] = [
    "tenant",
    "configs",
    "config_versions",
    "conversations",
    "conversation_metadata",
    "messages",
    "turns",
    "idempotency",
    "wallet",
    "holds",
    "ledger",
    "key_spend",
    "closed_models",
    "logs",
    "audit",
    "config_secrets",
    "bundles",
    "bundle_parts",
    "config_bundles",
    "sandboxes",
    "egress",
];

/// Puts the manifest into a copy that nobody else has open yet. Rows are read one by one: memory does not grow with the file.
pub(super) fn seal(copy: &Path, key: &Key, tenant: TenantId, busy: Duration, made_at: &str, along: Along<'_>) -> Result<Manifest> {
    let health = Health::new(format!("export of {tenant}"), copy);
    let conn = Connection::open_with_flags(copy, super::connection::flags()).told(&health)?;
    super::connection::prepare(&conn, key, super::connection::Use::Fill, busy).told(&health)?;
    let transaction = rusqlite::Transaction::new_unchecked(&conn, rusqlite::TransactionBehavior::Immediate).told(&health)?;
    if along != Along::Secrets {
        transaction.execute("DELETE FROM config_secrets WHERE tenant_id = ?1", [tenant.to_string()]).told(&health)?;
    }
    if let Along::Workspaces(folder) = along {
        transaction.execute_batch(WORKSPACES).told(&health)?;
        workspaces_take(&transaction, folder, &health)?;
    }
    if transaction.table_exists(None, "messages_searchable").told(&health)? {
        super::search::fill(&transaction, tenant).told(&health)?;
    }
    let manifest = read(&transaction, tenant, made_at).told(&health)?;
    // One that came out of a backup may have its old one still.
    transaction.execute_batch("DROP TABLE IF EXISTS export_manifest").told(&health)?;
    transaction.execute_batch(TABLE).told(&health)?;
    for (name, value) in &manifest {
        transaction.execute("INSERT INTO export_manifest (name, value) VALUES (?1, ?2)", [name, value]).told(&health)?;
    }
    transaction.commit().told(&health)?;
    // One file is handed on: nothing of it may stay in a log beside it.
    conn.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0)).told(&health)?;
    conn.close().map_err(|(_, error)| health.error(error))?;
    super::copy::check(copy, key, &health)?;
    Ok(manifest)
}

fn workspaces_take(copy: &Connection, folder: &Path, health: &Health) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::internal)? {
        let path = entry.map_err(Error::internal)?.path();
        let config = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<ConfigId>().ok());
        let Some(config) = config.filter(|_| path.extension().is_some_and(|end| end == "tar")) else { continue };
        let mut file = File::open(&path).map_err(Error::internal)?;
        for part in 0_i64.. {
            let mut bytes = Vec::new();
            (&mut file).take(PART_BYTES).read_to_end(&mut bytes).map_err(Error::internal)?;
            if bytes.is_empty() {
                break;
            }
            let sql = "INSERT INTO workspace_parts (config_id, part, bytes) VALUES (?1, ?2, ?3)";
            copy.execute(sql, (config.to_string(), part, bytes)).told(health)?;
        }
    }
    Ok(())
}

/// Whether the files of workspaces came along.
pub(super) fn has_workspaces(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("SELECT COUNT(*) FROM sqlite_schema WHERE name = 'workspace_parts'", [], |row| Ok(row.get::<_, i64>(0)? > 0))
}

/// The manifest that stands in an exported file.
pub(super) fn manifest(conn: &Connection) -> rusqlite::Result<Manifest> {
    conn.prepare("SELECT name, value FROM export_manifest")?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// What a file holds, as its manifest should say.
pub(super) fn read(conn: &Connection, tenant: TenantId, made_at: &str) -> rusqlite::Result<Manifest> {
    let (seq, head): (i64, String) =
        conn.query_row("SELECT seq, head FROM wallet WHERE tenant_id = ?1", [tenant.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let name: String = conn.query_row("SELECT name FROM tenant", [], |row| row.get(0))?;
    let mut manifest: Manifest = [
        ("product", "nimblesite".to_owned()),
        ("product_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("schema_version", Kind::Tenant.version().to_string()),
        ("tenant_id", tenant.to_string()),
        ("tenant_name", name),
        ("made_at", made_at.to_owned()),
        ("ledger_seq", seq.to_string()),
        ("ledger_head", head),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut hash = blake3::Hasher::new();
    let along = has_workspaces(conn)?.then_some("workspace_parts");
    for table in TABLES.into_iter().chain(along) {
        // A file of an older form lacks the newest.
        if !conn.table_exists(None, table)? {
            continue;
        }
        let rows = rows_hash(conn, table, &mut hash)?;
        manifest.insert(format!("rows_{table}"), rows.to_string());
    }
    manifest.insert("content_blake3".to_owned(), hash.finalize().to_hex().to_string());
    Ok(manifest)
}

/// Adds a table's name and its rows, in the order in which they lie, to the hash. Every value is told apart by its type and length.
fn rows_hash(conn: &Connection, table: &str, hash: &mut blake3::Hasher) -> rusqlite::Result<u64> {
    hash.update(table.as_bytes());
    let mut statement = conn.prepare(&format!("SELECT * FROM {table}"))?;
    let columns = statement.column_count();
    let (mut rows, mut count) = (statement.query([])?, 0);
    while let Some(row) = rows.next()? {
        count += 1;
        for column in 0..columns {
            match row.get_ref(column)? {
                ValueRef::Null => hash.update(b"n"),
                ValueRef::Integer(number) => hash.update(b"i").update(&number.to_le_bytes()),
                ValueRef::Real(number) => hash.update(b"r").update(&number.to_le_bytes()),
                ValueRef::Text(text) => hash.update(b"t").update(&(text.len() as u64).to_le_bytes()).update(text),
                ValueRef::Blob(blob) => hash.update(b"b").update(&(blob.len() as u64).to_le_bytes()).update(blob),
            };
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_a_tenant_is_in_the_manifest() {
        let schema = Kind::Tenant.schema();
        let named = schema.split("CREATE TABLE ").skip(1).map(|table| table.split([' ', '(']).next().unwrap());
        // How far the search index got is not content.
        assert_eq!(named.filter(|name| *name != "messages_searchable").collect::<Vec<_>>(), TABLES);
    }
}
