//! A whole backup into an empty data directory. It knows nothing of sets and manifests: it is given files that were looked over.

use super::{
    connection,
    directory::{self, Directory},
    errors::{Health, Told},
};
use crate::{
    error::{Error, Result},
    ids::{BootId, TenantId},
};
use rusqlite::Connection;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

/// Puts the tenants' files in place, then the catalog, without which nothing opens the directory: a restore that was cut off is not taken for
/// a whole one.
pub(in crate::storage) fn restore_all(
    dir: &Path,
    catalog: &Path,
    tenants: &[(TenantId, PathBuf)],
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
    for (count, (tenant, copy)) in tenants.iter().enumerate() {
        let folder = directory.tenant_folder(*tenant);
        directory::folder_create(folder.parent().unwrap_or(directory.root()))?;
        directory::folder_create(&folder)?;
        let file = directory.tenant(*tenant);
        put(copy, &file)?;
        let health = Health::of_tenant(*tenant, &folder, false);
        let conn = Connection::open_with_flags(&file, connection::flags()).told(&health)?;
        conn.execute_batch("DROP TABLE export_manifest").told(&health)?;
        conn.close().map_err(|(_, error)| health.error(error))?;
        directory::folder_sync(&folder)?;
        progress(count + 1);
    }
    put(catalog, &directory.catalog())?;
    directory::folder_sync(directory.root())
}

/// Copies a file under another name first: it appears whole or not at all.
fn put(source: &Path, target: &Path) -> Result<()> {
    let making = target.with_extension("restoring");
    directory::file_create(&making)?;
    let copied = fs::copy(source, &making).and_then(|_| File::open(&making)?.sync_all()).and_then(|()| fs::rename(&making, target));
    copied.map_err(directory::io_error)
}
