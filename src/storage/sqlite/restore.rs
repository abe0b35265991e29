//! A whole backup into an empty data directory. It knows nothing of sets and manifests: it is given files that were looked over.

use super::{
    cipher,
    connection::{self, Refusal, Use},
    directory::{self, Directory},
    errors::{Health, Told},
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::{BootId, TenantId},
    storage::{
        engine::{Change, Placed},
        schema::Kind,
    },
};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    time::Duration,
};

/// Puts the tenants' files in place, then the catalog, without which nothing opens the directory: a restore that was cut off is not taken for
/// a whole one.
pub(in crate::storage) fn restore_all(
    dir: &Path,
    catalog: &Path,
    tenants: &[Placed],
    key: Option<(&str, Time)>,
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let directory = Directory::open(dir)?;
    let _lock = directory.lock(BootId::new(), Duration::ZERO)?;
    if directory.catalog().exists() || directory.tenants().exists() {
        let detail = format!(
            "{} holds data already: give --tenant to bring back one tenant's content, or name an empty directory with --data",
            directory.root().display()
        );
        return Err(Error::Conflict { detail });
    }
    directory::folder_create(&directory.tenants())?;
    for (count, placed) in tenants.iter().enumerate() {
        let folder = directory.tenant_folder(placed.tenant);
        directory::folder_create(folder.parent().unwrap_or(directory.root()))?;
        directory::folder_create(&folder)?;
        let file = directory.tenant(placed.tenant);
        let health = Health::of_tenant(placed.tenant, &folder, false);
        let key = match &placed.change {
            Some(change) => {
                cipher::recode(&placed.copy, &change.old, &file, &change.new, &health, Duration::ZERO)?;
                File::open(&file).and_then(|file| file.sync_all()).map_err(directory::io_error)?;
                &change.new
            }
            None => {
                put(&placed.copy, &file)?;
                &None
            }
        };
        // A file that stays encrypted keeps its manifest until it is exported again: its key may not be at hand here.
        if key.is_some() || !placed.encrypted {
            let conn = Connection::open_with_flags(&file, connection::flags()).told(&health)?;
            cipher::unlock(&conn, key).told(&health)?;
            conn.execute_batch("DROP TABLE export_manifest").told(&health)?;
            conn.close().map_err(|(_, error)| health.error(error))?;
        }
        directory::folder_sync(&folder)?;
        progress(count + 1);
    }
    let changed: Vec<_> = tenants.iter().filter_map(|placed| Some((placed.tenant, placed.change.as_ref()?))).collect();
    if changed.is_empty() && key.is_none() {
        put(catalog, &directory.catalog())?;
    } else {
        let made = directory.root().join("catalog.rekeyed");
        drop(fs::remove_file(&made));
        put(catalog, &made)?;
        rekey(&made, &changed, key)?;
        fs::rename(&made, directory.catalog()).map_err(directory::io_error)?;
    }
    directory::folder_sync(directory.root())
}

/// Writes the changed keys into a catalog that nobody has open.
fn rekey(catalog: &Path, changed: &[(TenantId, &Change)], key: Option<(&str, Time)>) -> Result<()> {
    let health = Health::new("catalog", catalog);
    let conn = connection::open(catalog, &None, Use::Write { bytes_max: None }, Duration::ZERO).told(&health)?;
    match connection::schema_check(&conn, Kind::Catalog, &health, || Ok(())) {
        Ok(()) => {}
        Err(Refusal::Passing(error)) => return Err(error),
        Err(Refusal::Unfit(why)) => return Err(Error::Conflict { detail: format!("the set's catalog: {why}") }),
    }
    for (tenant, change) in changed {
        let sql = "UPDATE tenants SET data_key = ?2 WHERE id = ?1";
        conn.execute(sql, params![tenant.to_string(), change.wrapped]).told(&health)?;
    }
    if let Some((id, now)) = key {
        let sql = "INSERT INTO sealing (one, key_id, created_at) VALUES (1, ?1, ?2) ON CONFLICT (one) DO NOTHING";
        conn.execute(sql, params![id, now.ms()]).told(&health)?;
    }
    conn.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0)).told(&health)?;
    conn.close().map_err(|(_, error)| health.error(error))?;
    File::open(catalog).and_then(|file| file.sync_all()).map_err(directory::io_error)
}

/// The wrapped data keys in a set's copy of the catalog, and the name of the operator's key that sealed them. A catalog from before there were any
/// has none.
pub(in crate::storage) fn catalog_keys(copy: &Path) -> Result<(BTreeMap<TenantId, String>, Option<String>)> {
    let health = Health::new("copy of the catalog", copy);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let conn = Connection::open_with_flags(copy, flags).told(&health)?;
    let sql = "SELECT COUNT(*) FROM pragma_table_info('tenants') WHERE name = 'data_key'";
    if conn.query_row(sql, [], |row| row.get::<_, i64>(0)).told(&health)? == 0 {
        return Ok((BTreeMap::new(), None));
    }
    let mut keys = BTreeMap::new();
    let mut select = conn.prepare("SELECT id, data_key FROM tenants WHERE data_key IS NOT NULL").told(&health)?;
    let mut rows = select.query([]).told(&health)?;
    while let Some(row) = rows.next().told(&health)? {
        let id: String = row.get(0).told(&health)?;
        let id = id.parse().map_err(|_| Error::internal("the set's catalog holds a tenant id that is none"))?;
        keys.insert(id, row.get(1).told(&health)?);
    }
    let noted = conn.query_row("SELECT key_id FROM sealing", [], |row| row.get(0)).optional().told(&health)?;
    Ok((keys, noted))
}

/// Makes a data directory that is not there yet, as a server would.
pub(in crate::storage) fn folder_make(dir: &Path) -> Result<()> {
    Directory::open(dir).map(drop)
}

/// Copies a file under another name first: it appears whole or not at all.
fn put(source: &Path, target: &Path) -> Result<()> {
    let making = target.with_extension("restoring");
    directory::file_create(&making)?;
    let copied = fs::copy(source, &making).and_then(|_| File::open(&making)?.sync_all()).and_then(|()| fs::rename(&making, target));
    copied.map_err(directory::io_error)
}
