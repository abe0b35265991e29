//! The manifest inside an exported file: what the file is, and a hash over all that it holds. It knows nothing of whom the file is for.

use super::errors::{Health, Told};
use crate::{
    error::Result,
    ids::TenantId,
    storage::{
        engine::{Manifest, Secrets},
        schema::Kind,
    },
};
use rusqlite::{Connection, types::ValueRef};
use std::{path::Path, time::Duration};

/// Names and values, so that whoever opens the file with any SQLite can read what it is.
pub(super) const TABLE: &str = "CREATE TABLE export_manifest (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID";

/// The tables of a tenant, without those that SQLite's full-text search keeps for itself: they follow from `messages`.
const TABLES: [&str; 20] = [
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
];

/// Puts the manifest into a copy that nobody else has open yet. Rows are read one by one: memory does not grow with the file.
pub(super) fn seal(copy: &Path, tenant: TenantId, busy: Duration, made_at: &str, secrets: Secrets) -> Result<Manifest> {
    let health = Health::new(format!("export of {tenant}"), copy);
    let conn = Connection::open_with_flags(copy, super::connection::flags()).told(&health)?;
    super::connection::prepare(&conn, super::connection::Use::Fill, busy).told(&health)?;
    let transaction = rusqlite::Transaction::new_unchecked(&conn, rusqlite::TransactionBehavior::Immediate).told(&health)?;
    if secrets == Secrets::LeftOut {
        transaction.execute("DELETE FROM config_secrets WHERE tenant_id = ?1", [tenant.to_string()]).told(&health)?;
    }
    let manifest = read(&transaction, tenant, made_at).told(&health)?;
    transaction.execute_batch(TABLE).told(&health)?;
    for (name, value) in &manifest {
        transaction.execute("INSERT INTO export_manifest (name, value) VALUES (?1, ?2)", [name, value]).told(&health)?;
    }
    transaction.commit().told(&health)?;
    // One file is handed on: nothing of it may stay in a log beside it.
    conn.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0)).told(&health)?;
    conn.close().map_err(|(_, error)| health.error(error))?;
    super::copy::check(copy, &health)?;
    Ok(manifest)
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
    for table in TABLES {
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
        let named: Vec<&str> = schema.split("CREATE TABLE ").skip(1).map(|table| table.split([' ', '(']).next().unwrap()).collect();
        assert_eq!(named, TABLES);
    }
}
