//! Backups: dated sets of checked copies in a folder of the operator's. A set is whole by itself; a tenant that did not change since the set
//! before is the same file under a second name. The catalog remembers the folders, so that a deleted tenant leaves them, too.
//!
//! This file knows names, hashes and hard links; what is in a copy is the engine's affair.

use super::{
    Operator, Storage,
    engine::{Along, Engine, Param, Place, TxExt},
    rows,
    trail::{Actor, Deed, access_record, server_record},
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    ids::TenantId,
    model::Act,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

const MANIFEST: &str = "manifest.json";
const CATALOG: &str = "catalog.db";
/// A set that is being made begins with this; one that a crash left is removed by the next backup.
const MAKING: &str = ".making-";

/// What a set says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupSet {
    /// The version of nimblesite that made it.
    pub product_version: String,
    /// When.
    pub made_at: String,
    /// The data directory it is of.
    pub data: PathBuf,
    /// The catalog's copy.
    pub catalog: CopyNote,
    /// The tenants' copies.
    pub tenants: BTreeMap<TenantId, CopyNote>,
}

/// One file of a set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CopyNote {
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub blake3: String,
    /// What the database looked like from outside when it was copied; tells whether it changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    stamp: Option<String>,
}

/// What a backup did.
#[derive(Debug, Serialize)]
pub struct BackupDone {
    /// The new set.
    pub set: PathBuf,
    /// Tenants that were copied.
    pub copied: usize,
    /// Tenants that had not changed since the set before.
    pub unchanged: usize,
    /// Tenants that could not be copied, and why.
    pub failed: BTreeMap<TenantId, String>,
    /// Older sets that were removed.
    pub removed: Vec<PathBuf>,
}

/// Two that erase from the same sets would lose each other's change of a manifest.
static ERASING: Mutex<()> = Mutex::new(());

impl Storage {
    /// Makes a set of everything in `folder`, beside a running server or without one, and then removes all but the newest `keep` sets,
    /// unless a tenant failed. Blocks. `progress` is told how many tenants are done, and how many there are.
    pub fn backup(&self, _: &Operator, folder: &Path, keep: Option<usize>, mut progress: impl FnMut(usize, usize)) -> Result<BackupDone> {
        let engine = &self.inner.engine;
        let folder = self.backup_folder(folder)?;
        let _lock = lock(&folder)?;
        let before = sets(&folder)?.pop();
        let old = before.as_deref().map(set_read).transpose()?;
        let data = engine.folder();
        if let Some(old) = old.as_ref().filter(|old| old.data != data) {
            let detail = format!(
                "{} holds backups of {}; name another folder for those of {}",
                folder.display(),
                old.data.display(),
                data.display()
            );
            return Err(Error::Conflict { detail });
        }
        self.place_note(&folder)?;
        let made_at = Clock.now().to_string();
        let name = made_at.replace(':', "-");
        let making = folder.join(format!("{MAKING}{name}"));
        folder_make(&making)?;
        engine.copy_to(Place::Catalog, &making.join(CATALOG))?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let catalog = note(&making.join(CATALOG), None)?;
        let mut set = BackupSet { product_version: version, made_at, data, catalog, tenants: BTreeMap::new() };
        let mut done = BackupDone { set: folder.join(&name), copied: 0, unchanged: 0, failed: BTreeMap::new(), removed: Vec::new() };
        let tenants = active(engine)?;
        for (count, tenant) in tenants.iter().enumerate() {
            let earlier = old.as_ref().and_then(|old| Some((before.as_deref()?, old.tenants.get(tenant)?)));
            match copy(engine, *tenant, &making, earlier, &set.made_at) {
                Ok((note, fresh)) => {
                    set.tenants.insert(*tenant, note);
                    if fresh { done.copied += 1 } else { done.unchanged += 1 }
                }
                Err(error) => {
                    done.failed.insert(*tenant, error.to_string());
                }
            }
            progress(count + 1, tenants.len());
        }
        set_write(&making, &set)?;
        fs::rename(&making, &done.set).and_then(|()| File::open(&folder)?.sync_all()).map_err(|error| trouble(&folder, &error))?;
        self.gone_meanwhile(&mut done, &set)?;
        if let (Some(keep), true) = (keep, done.failed.is_empty()) {
            let mut all = sets(&folder)?;
            all.truncate(all.len().saturating_sub(keep.max(1)));
            for old in all {
                fs::remove_dir_all(&old).map_err(|error| trouble(&old, &error))?;
                done.removed.push(old);
            }
        }
        Ok(done)
    }

    /// A tenant that was deleted while the set was made: whoever deleted it did not see the set.
    fn gone_meanwhile(&self, done: &mut BackupDone, set: &BackupSet) -> Result<()> {
        let left = active(&self.inner.engine)?;
        done.failed.retain(|tenant, _| left.binary_search(tenant).is_ok());
        for tenant in set.tenants.keys().filter(|tenant| left.binary_search(tenant).is_err()) {
            erase(&self.inner.engine, &done.set, *tenant)?;
        }
        Ok(())
    }

    /// The folder with every link resolved, made where it is not there. Backups of a directory do not lie in it.
    fn backup_folder(&self, folder: &Path) -> Result<PathBuf> {
        if !folder.exists() {
            folder_make(folder)?;
        }
        let folder = folder.canonicalize().map_err(|error| trouble(folder, &error))?;
        if folder.starts_with(self.inner.engine.folder()) {
            let detail = format!("{} lies in the data directory; name a folder outside of it, best on another disk", folder.display());
            return Err(Error::Conflict { detail });
        }
        Ok(folder)
    }

    /// Remembers where backups are, before the first byte is there.
    fn place_note(&self, folder: &Path) -> Result<()> {
        let (path, now) = (folder.to_string_lossy().into_owned(), self.inner.clock.now());
        let storage = self.clone();
        let write = storage.catalog_write(move |tx| {
            let sql = "INSERT INTO backup_places (path, created_at) VALUES (?1, ?2) ON CONFLICT (path) DO NOTHING";
            tx.execute(sql, &[Param::Text(&path), Param::Int(now.ms())])?;
            server_record(tx, Deed::new(Actor::OPERATOR, Act::BackupCreate, now).with("folder", &path))
        });
        tokio::runtime::Handle::current().block_on(write)
    }

    /// When the newest set of the known folders was made, and where it is. Folders that cannot be read are passed over.
    pub async fn backup_newest(&self, _: &Operator) -> Result<Option<(String, String)>> {
        let places = self.backup_places().await?;
        let work = move || {
            let found = places.iter().filter_map(|place| sets(place).ok()).flatten();
            let told = found.filter_map(|set| Some((set_read(&set).ok()?.made_at, set.display().to_string())));
            told.max()
        };
        tokio::task::spawn_blocking(work).await.map_err(Error::internal)
    }

    async fn backup_places(&self) -> Result<Vec<PathBuf>> {
        self.catalog_read(|tx| tx.all("SELECT path FROM backup_places ORDER BY path", &[], |row| Ok(row.text(0)?.into()))).await
    }

    /// Removes a tenant from every set of every known folder. Answers what could not be reached, with the reason.
    pub(super) async fn backups_erase(&self, tenant: TenantId) -> Result<Vec<String>> {
        let places = self.backup_places().await?;
        let engine = std::sync::Arc::clone(&self.inner.engine);
        let work = move || {
            let _alone = ERASING.lock().unwrap_or_else(PoisonError::into_inner);
            let mut unreached = Vec::new();
            for place in places {
                match sets(&place) {
                    Ok(sets) => {
                        let failed = sets.iter().filter_map(|set| erase(&engine, set, tenant).err());
                        unreached.extend(failed.map(|error| error.to_string()));
                    }
                    Err(error) => unreached.push(error.to_string()),
                }
            }
            unreached
        };
        tokio::task::spawn_blocking(work).await.map_err(Error::internal)
    }

    /// Brings a tenant's content back from an exported file; its money stays as it is. In the server's own process, or under its lock; the
    /// caller has the tenant's turns cancelled meanwhile.
    pub async fn tenant_restore(&self, _: &Operator, tenant: TenantId, file: PathBuf) -> Result<()> {
        let now = self.inner.clock.now();
        let found = self
            .catalog_write(move |tx| {
                access_record(tx, tenant, Deed::new(Actor::OPERATOR, Act::TenantRestore, now).to(tenant))?;
                super::tenants::tenant_find(tx, tenant)
            })
            .await?;
        let bytes_max = self.bytes_max(found.size_limit_bytes);
        let mut tries = 0;
        loop {
            let (engine, file) = (std::sync::Arc::clone(&self.inner.engine), file.clone());
            let restored =
                tokio::task::spawn_blocking(move || engine.restore_from(tenant, &file, bytes_max)).await.map_err(Error::internal)?;
            match restored {
                // A turn settles first.
                Err(Error::Overloaded { .. }) if tries < RESTORE_TRIES => tries += 1,
                other => return other,
            }
            tokio::time::sleep(RESTORE_STEP).await;
        }
    }
}

/// How often and how long apart a restore waits for running turns to settle.
const RESTORE_TRIES: u32 = 300;
const RESTORE_STEP: std::time::Duration = std::time::Duration::from_millis(100);

/// The sets of a folder, oldest first.
pub fn sets(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| trouble(folder, &error))? {
        let entry = entry.map_err(|error| trouble(folder, &error))?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.path().join(MANIFEST).is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// What a set says of itself.
pub fn set_read(set: &Path) -> Result<BackupSet> {
    let path = set.join(MANIFEST);
    let bytes = fs::read(&path).map_err(|error| trouble(&path, &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Conflict { detail: format!("{}: {error}; this set cannot be used", path.display()) })
}

impl BackupSet {
    /// The tenant's copy in the set, after its bytes were held against the manifest. None when the set has no such tenant.
    pub fn tenant_file(&self, set: &Path, tenant: TenantId) -> Result<Option<PathBuf>> {
        self.tenants.get(&tenant).map(|known| checked(tenant_path(set, tenant), known)).transpose()
    }

    /// The catalog's copy in the set, after its bytes were held against the manifest.
    pub fn catalog_file(&self, set: &Path) -> Result<PathBuf> {
        checked(set.join(CATALOG), &self.catalog)
    }
}

fn checked(path: PathBuf, known: &CopyNote) -> Result<PathBuf> {
    let found = note(&path, None)?;
    if (found.bytes, &found.blake3) == (known.bytes, &known.blake3) {
        return Ok(path);
    }
    Err(Error::Conflict { detail: format!("{} is not what its set's manifest says: it is damaged; use another set", path.display()) })
}

fn tenant_path(set: &Path, tenant: TenantId) -> PathBuf {
    let id = tenant.to_string();
    set.join("tenants").join(&id[id.len() - 2..]).join(format!("{id}.db"))
}

fn active(engine: &std::sync::Arc<dyn Engine>) -> Result<Vec<TenantId>> {
    let mut tenants = Vec::new();
    engine.read(Place::Catalog, &mut |tx| {
        tenants = tx.all("SELECT id FROM tenants WHERE state = 'active' ORDER BY id", &[], |row| rows::parsed(row, 0))?;
        Ok(())
    })?;
    tenants.sort();
    Ok(tenants)
}

/// One tenant into a set; whether it was copied, not just linked.
fn copy(
    engine: &std::sync::Arc<dyn Engine>,
    tenant: TenantId,
    set: &Path,
    earlier: Option<(&Path, &CopyNote)>,
    made_at: &str,
) -> Result<(CopyNote, bool)> {
    let target = tenant_path(set, tenant);
    let shelf = target.parent().unwrap_or(set);
    folder_make(shelf)?;
    // Looked at before the copy is made: what changes meanwhile is copied again the next time.
    let stamp = engine.stamp(tenant);
    if let Some((before, known)) = earlier
        && stamp.is_some()
        && known.stamp == stamp
    {
        let source = tenant_path(before, tenant);
        let same_size = fs::metadata(&source).is_ok_and(|found| found.len() == known.bytes);
        if same_size && fs::hard_link(&source, &target).is_ok() {
            return Ok((known.clone(), false));
        }
    }
    engine.export_to(tenant, &target, made_at, Along::Secrets, &None)?;
    Ok((note(&target, stamp)?, true))
}

/// Size and hash of a file, which is durable from then on.
fn note(path: &Path, stamp: Option<String>) -> Result<CopyNote> {
    let read = || {
        let file = File::open(path)?;
        let mut hash = blake3::Hasher::new();
        let bytes = std::io::copy(&mut &file, &mut hash)?;
        file.sync_all()?;
        Ok((bytes, hash.finalize().to_hex().to_string()))
    };
    let (bytes, blake3) = read().map_err(|error: std::io::Error| trouble(path, &error))?;
    Ok(CopyNote { bytes, blake3, stamp })
}

/// Removes a tenant from a set: its file, its rows in the catalog's copy, its line in the manifest.
fn erase(engine: &std::sync::Arc<dyn Engine>, set: &Path, tenant: TenantId) -> Result<()> {
    let file = tenant_path(set, tenant);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(trouble(&file, &error)),
        _ => {}
    }
    let mut known = set_read(set)?;
    let catalog = set.join(CATALOG);
    engine.copy_erase(&catalog, tenant)?;
    known.catalog = note(&catalog, None)?;
    known.tenants.remove(&tenant);
    set_write(set, &known)
}

/// Writes a set's manifest, whole or not at all.
fn set_write(set: &Path, known: &BackupSet) -> Result<()> {
    let (path, new) = (set.join(MANIFEST), set.join(".manifest.new"));
    let text = serde_json::to_vec_pretty(known).map_err(Error::internal)?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(set)?.sync_all()
    };
    write().map_err(|error| trouble(&path, &error))
}

/// One backup at a time in a folder; what an earlier one left half made goes.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(|error| trouble(&path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Conflict { detail: format!("another backup into {} runs; wait for it", folder.display()) });
        }
        Err(TryLockError::Error(error)) => return Err(trouble(&path, &error)),
    }
    for entry in fs::read_dir(folder).map_err(|error| trouble(folder, &error))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(MAKING) {
            fs::remove_dir_all(entry.path()).map_err(|error| trouble(&entry.path(), &error))?;
        }
    }
    Ok(file)
}

fn folder_make(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| trouble(path, &error))
}

fn trouble(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull,
        _ => Error::Conflict { detail: format!("{}: {error}", path.display()) },
    }
}
