//! The yardstick's databases: the product's own schema, one file a tenant, filled by copying one file that is ready; and its lists.

use rusqlite::{Connection, params};
use std::{error::Error, path::Path, sync::Mutex};

/// Opens the catalog; makes it and `tenants` tenants first where they are not there.
pub fn fill(data: &Path, tenants: usize) -> Result<Connection, Box<dyn Error + Send + Sync>> {
    let catalog = connect(&data.join("catalog.db"))?;
    catalog.execute_batch("CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, tenant TEXT NOT NULL)")?;
    let template = data.join("template.db");
    if !template.exists() {
        let (_, schema) = include_str!("../../schema.sql").split_once("= tenant\n").ok_or("the schema has no second part")?;
        let conn = connect(&template)?;
        conn.execute_batch(schema)?;
        // The plain way to keep a search index: message by message.
        conn.execute_batch(
            "CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages WHEN new.content IS NOT NULL BEGIN
                 INSERT INTO messages_fts (rowid, content) VALUES (new.rowid, new.content);
             END",
        )?;
        conn.execute_batch(
            "INSERT INTO tenant (id, name, created_at) VALUES ('t', 'T', 0);
             INSERT INTO wallet VALUES ('t', 1000000000000000, 0, 0, 0, '');
             INSERT INTO configs VALUES ('t', 'c', 'C', 1, 0, 0, NULL);
             INSERT INTO config_versions VALUES ('t', 'c', 1, '{\"model\":\"fast\",\"system\":\"You are a test.\"}', 'u', 0);",
        )?;
        conn.close().map_err(|(_, error)| error)?;
        catalog.execute_batch("BEGIN")?;
        for tenant in 0..tenants {
            std::fs::copy(&template, data.join(format!("{tenant}.db")))?;
            catalog.execute("INSERT INTO keys VALUES (?1, ?2)", params![format!("ns_{tenant}"), tenant.to_string()])?;
        }
        catalog.execute_batch("COMMIT")?;
    }
    Ok(catalog)
}

/// Opens a database.
pub fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.set_prepared_statement_cache_capacity(64);
    conn.execute_batch(
        "PRAGMA page_size = 2048; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA cache_size = -512;",
    )?;
    Ok(conn)
}

/// The newest conversations; with `q=` only those that say the word.
pub fn list(tenant: &Mutex<Connection>, query: &str) -> Result<String, Box<dyn Error + Send + Sync>> {
    let conn = tenant.lock().map_err(|_| "poisoned")?;
    let sql = if query.contains("q=") {
        "SELECT id FROM conversations c WHERE tenant_id = 't' AND EXISTS (SELECT 1 FROM messages m JOIN messages_fts f ON f.rowid = m.rowid WHERE m.tenant_id = 't' AND m.conversation_id = c.id AND messages_fts MATCH 'words') ORDER BY id DESC LIMIT 20"
    } else {
        "SELECT id FROM conversations WHERE tenant_id = 't' ORDER BY id DESC LIMIT 20"
    };
    let ids: Vec<String> = conn.prepare_cached(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(serde_json::json!({"data": ids}).to_string())
}
