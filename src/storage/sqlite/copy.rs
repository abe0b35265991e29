//! A consistent copy of one database while work on it goes on.

use super::{
    cipher::{self, Key},
    directory,
    errors::{Health, Told},
};
use crate::{
    error::{Error, Result},
    ids::TenantId,
};
use rusqlite::{Connection, OpenFlags};
use std::{path::Path, time::Duration};

/// Writes a copy to a new file (0600), and checks it. The copy is one moment's, however long it takes: a stepped backup would begin again
/// with each write and not end under load.
///
/// It works on a connection of its own: `VACUUM INTO` attaches its target, which no other connection may.
pub(super) fn copy(source: &Path, key: &Key, target: &Path, health: &Health, busy: Duration) -> Result<()> {
    let name = target.to_str().ok_or_else(|| Error::internal("the copy's name is not UTF-8"))?;
    directory::file_create(target)?;
    let copied = vacuum_into(source, key, name, health, busy).and_then(|()| check(target, key, health));
    if copied.is_err() {
        drop(std::fs::remove_file(target));
    }
    copied
}

fn vacuum_into(source: &Path, key: &Key, target: &str, health: &Health, busy: Duration) -> Result<()> {
    let conn = Connection::open_with_flags(source, super::connection::flags()).told(health)?;
    // What it attaches gets the same key.
    cipher::unlock(&conn, key).told(health)?;
    conn.busy_timeout(busy).told(health)?;
    conn.execute("VACUUM INTO ?1", [target]).told(health).map(drop)
}

/// Whether a copy is whole.
pub(super) fn check(target: &Path, key: &Key, health: &Health) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    // Damage of the copy is not damage of the original.
    let copy = Health::new(format!("copy of {}", health.name), target);
    let conn = Connection::open_with_flags(target, flags).told(&copy)?;
    cipher::unlock(&conn, key).told(&copy)?;
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).told(&copy)?;
    if found == "ok" { Ok(()) } else { Err(Error::internal(format_args!("{}: {found}", copy.name))) }
}

/// Removes all rows about a tenant from a copy of the catalog that nobody has open. What is deleted is overwritten, and the file is written
/// anew, so that nothing is left in its free pages.
pub(super) fn erase(copy: &Path, tenant: TenantId, busy: Duration) -> Result<()> {
    let health = Health::new("copy of the catalog", copy);
    let conn = Connection::open_with_flags(copy, super::connection::flags()).told(&health)?;
    conn.busy_timeout(busy).told(&health)?;
    conn.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA secure_delete = ON; PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE;")
        .told(&health)?;
    // The tenant's row first: as long as it says that the tenant lives, its audit log stays.
    conn.execute("DELETE FROM tenants WHERE id = ?1", [tenant.to_string()]).told(&health)?;
    for table in ["sessions", "api_keys", "invitations", "memberships", "model_breaches", "audit"] {
        // A set may be older than a table.
        if !conn.table_exists(None, table).told(&health)? {
            continue;
        }
        conn.execute(&format!("DELETE FROM {table} WHERE tenant_id = ?1"), [tenant.to_string()]).told(&health)?;
    }
    conn.execute_batch("COMMIT; VACUUM;").told(&health)?;
    conn.close().map_err(|(_, error)| health.error(error))?;
    std::fs::File::open(copy).and_then(|file| file.sync_all()).map_err(directory::io_error)
}
