//! Encryption at rest: a tenant's file is `SQLCipher`'s where the catalog has a data key for it, and `SQLite`'s where it has none. The key goes into
//! a connection before anything else does; this file says how, and turns a file of the one kind into one of the other.
//!
//! It must not know where keys are kept or who wraps them: `storage::sealing` does.

use super::{
    connection,
    database::Database,
    directory,
    errors::{Health, Told},
};
use crate::{
    error::{Error, Result},
    ids::TenantId,
    storage::engine::Keyring,
    vault::DataKey,
};
use rusqlite::Connection;
use std::{io::Read, path::Path, sync::Arc, time::Duration};

pub(super) use crate::storage::engine::FileKey as Key;

/// Where the keys of tenants come from.
pub(super) struct Keys {
    pub catalog: Arc<Database>,
    pub keyring: Box<Keyring>,
}

impl Keys {
    /// A tenant's key. [`Error::Sealed`] when it cannot be had, or could not be used.
    pub(super) fn of(&self, tenant: TenantId) -> Result<Key> {
        let mut key = None;
        self.catalog.read(&mut |tx| {
            key = (self.keyring)(tenant, tx)?;
            Ok(())
        })?;
        usable(key.as_ref())?;
        Ok(key.map(Arc::new))
    }
}

/// Whether this binary can do anything with a key. Without the feature, SQLite would pass over `PRAGMA key` in silence.
fn usable(key: Option<&DataKey>) -> Result<()> {
    if key.is_none() || cfg!(feature = "encryption") {
        return Ok(());
    }
    Err(Error::Sealed { detail: "the file is encrypted, and this nimblesite was built without encryption: use one that was built with `--features encryption`, or have that one `restore --encryption off` a backup into a new directory".to_owned() })
}

/// Gives a connection its key: nothing may be asked of it before.
pub(super) fn unlock(conn: &Connection, key: &Key) -> rusqlite::Result<()> {
    let Some(key) = key else { return Ok(()) };
    // SQLCipher writes to stderr where something does not open; what does not open is told by us. The key is raw: there is no password that
    // would have to be stretched.
    let sql = zeroize::Zeroizing::new(format!("PRAGMA cipher_log = off; PRAGMA key = \"x'{}'\";", *key.expose()));
    conn.execute_batch(&sql)
}

/// Whether a file that nobody has open begins as SQLite's do: it is not encrypted then.
pub(super) fn is_plain(path: &Path) -> bool {
    let mut head = [0_u8; 16];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *b"SQLite format 3\0"
}

/// Writes a database to a new file (0600) under another key, or none, as it is at one moment.
pub(super) fn recode(source: &Path, key: &Key, target: &Path, target_key: &Key, health: &Health, busy: Duration) -> Result<()> {
    let name = target.to_str().ok_or_else(|| Error::internal("the copy's name is not UTF-8"))?;
    directory::file_create(target)?;
    let written = export(source, key, name, target_key, health, busy).and_then(|()| super::copy::check(target, target_key, health));
    if written.is_err() {
        drop(std::fs::remove_file(target));
    }
    written
}

fn export(source: &Path, key: &Key, target: &str, target_key: &Key, health: &Health, busy: Duration) -> Result<()> {
    let conn = Connection::open_with_flags(source, connection::flags()).told(health)?;
    unlock(&conn, key).told(health)?;
    conn.busy_timeout(busy).told(health)?;
    // An empty key is SQLCipher's word for none.
    let words =
        target_key.as_ref().map_or_else(zeroize::Zeroizing::default, |key| zeroize::Zeroizing::new(format!("x'{}'", *key.expose())));
    conn.execute("ATTACH DATABASE ?1 AS copy KEY ?2", [target, &words]).told(health)?;
    conn.execute_batch("PRAGMA copy.synchronous = OFF; PRAGMA copy.journal_mode = MEMORY; BEGIN;").told(health)?;
    let number = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i64>(0)).told(health);
    // The first read: from here on it is one moment's.
    let (id, version) = (number("PRAGMA main.application_id")?, number("PRAGMA main.user_version")?);
    conn.query_row("SELECT sqlcipher_export('copy')", [], |_| Ok(())).told(health)?;
    conn.execute_batch(&format!("PRAGMA copy.application_id = {id}; PRAGMA copy.user_version = {version}; COMMIT; DETACH copy;"))
        .told(health)?;
    conn.close().map_err(|(_, error)| health.error(error))
}
