//! The SQLite engine, and the only folder that names rusqlite and r2d2: a catalog, one file a tenant, and what is known beside them.
#![allow(clippy::disallowed_methods, reason = "this folder is SQLite's room")]

mod batch;
mod catalog;
mod cipher;
mod connection;
mod content;
mod copy;
mod database;
mod directory;
mod errors;
mod export;
mod files;
mod heads;
mod log_file;
mod page_cache;
mod queue;
mod restore;
mod search;
mod tenants;
#[cfg(test)]
mod tests;
mod tx;

use super::{
    Mode,
    engine::{Along, Engine, FileKey, Head, Job, Keyring, Lease, Link, Manifest, Opening, Place, Turnout, Work},
};
use crate::{
    clock::Time,
    config::Limits,
    error::{Error, Result},
    ids::{BootId, KeyId, TenantId},
};
use cipher::Key;
use connection::Use;
use database::{Database, Settings};
use directory::Directory;
use errors::Told;
use files::TenantFiles;
use heads::Heads;
use page_cache::PageCache;
use parking_lot::Mutex;
use queue::Queue;
pub(super) use restore::{catalog_keys, folder_make, restore_all};
use rusqlite::Connection;
use scheduled_thread_pool::ScheduledThreadPool;
use std::{
    collections::HashSet,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tenants::Tenants;
use tokio::sync::Semaphore;

/// Readers of the catalog, besides those of [`Engine::catalog_read_now`].
const CATALOG_READERS_MAX: u32 = 4;

/// Connections for [`Engine::catalog_read_now`].
const LOOKERS: usize = 4;

/// Descriptors that are not for tenants: client and vendor connections, the catalog, logs.
const FILES_KEPT: u64 = 1_024;

/// Descriptors of one open tenant: file, log and shared memory, and two more for each reader.
const FILES_PER_TENANT: u64 = 7;

/// Open tenants, whatever the descriptors allow: each takes up to a few megabytes of memory.
const TENANTS_OPEN_MAX: u64 = 1_024;

/// How long a second reader of a database is kept after two reads met.
const SPARE_READER_KEPT: Duration = Duration::from_secs(60);

/// How long closing waits for running reads and writes.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The engine over one data directory.
pub(super) struct Sqlite {
    directory: Directory,
    settings: Settings,
    catalog: Arc<Database>,
    keys: Arc<cipher::Keys>,
    catalog_queue: Queue,
    catalog_readers: Arc<Semaphore>,
    /// Writes nothing and is in no transaction, so that its `data_version` moves with everyone's commits.
    watch: Mutex<Connection>,
    lookers: Vec<Mutex<Connection>>,
    tenants: Arc<Tenants>,
    /// Tenants that this server has opened before, so that nothing is left in them of an earlier one.
    seen: Arc<Mutex<HashSet<TenantId>>>,
    heads: Arc<Heads>,
    closed: AtomicBool,
    /// Held as long as the server lives; taken away on closing.
    lock: Mutex<Option<File>>,
}

impl Sqlite {
    /// Opens the directory and its catalog. `opening` runs in the transaction of a tenant's first opening by this server; `keyring` finds
    /// the keys of those that are encrypted.
    pub(super) fn open(
        dir: &Path,
        mode: Mode,
        limits: &Limits,
        boot: BootId,
        opening: Box<Opening>,
        keyring: Box<Keyring>,
    ) -> Result<Self> {
        connection::begin()?;
        let directory = Directory::open(dir)?;
        let lock = match mode {
            Mode::Server => {
                let lock = directory.lock(boot, limits.lock_wait_ms)?;
                // Exports that a crash cut off.
                directory::folder_remove(&directory.exports())?;
                Some(lock)
            }
            Mode::Beside => None,
        };
        let busy = limits.busy_timeout_ms;
        let threads = ScheduledThreadPool::builder().num_threads(2).thread_name_pattern("nimblesite-open-{}").build();
        let settings = Settings {
            busy,
            read_timeout: limits.read_timeout_ms,
            bytes_max: None,
            readers_max: CATALOG_READERS_MAX,
            page_cache: PageCache::new(limits.page_cache_bytes_max),
            spare_kept: SPARE_READER_KEPT,
            threads: Arc::new(threads),
        };
        let catalog = Arc::new(catalog::open(&directory, mode, &settings)?);
        let keys = Arc::new(cipher::Keys { catalog: Arc::clone(&catalog), keyring });
        let path = directory.catalog();
        let reader = || connection::open(&path, &None, Use::Read, busy).told(&catalog.health).map(Mutex::new);
        let watch = reader()?;
        let lookers = (0..LOOKERS).map(|_| reader()).collect::<Result<Vec<_>>>()?;
        let heads = Arc::new(Heads::open(&directory, busy, (mode == Mode::Server).then_some(limits.heads_interval_ms))?);
        let bytes_max = (limits.tenant_bytes_max > 0).then_some(limits.tenant_bytes_max as u64);
        let settings = Settings { bytes_max, readers_max: tenants::READERS_MAX, ..settings };
        let seen = Arc::new(Mutex::new(HashSet::new()));
        let files = TenantFiles {
            directory: directory.clone(),
            settings: settings.clone(),
            mode,
            heads: Arc::clone(&heads),
            keys: Arc::clone(&keys),
            opening,
            seen: Arc::clone(&seen),
        };
        let opener = Box::new(move |tenant| files.open(tenant));
        let tenants = Tenants::new(opener, tenants_open_max(limits), limits.tenant_queue_max, busy);
        Ok(Self {
            directory,
            settings,
            keys,
            catalog,
            catalog_queue: Queue::new(limits.tenant_queue_max),
            catalog_readers: Arc::new(Semaphore::new(CATALOG_READERS_MAX as usize)),
            watch,
            lookers,
            tenants,
            seen,
            heads,
            closed: AtomicBool::new(false),
            lock: Mutex::new(lock),
        })
    }
}

/// How many tenants may be open at once.
fn tenants_open_max(limits: &Limits) -> usize {
    let files = directory::files_max();
    let fit = (files.saturating_sub(FILES_KEPT) / FILES_PER_TENANT).clamp(16, TENANTS_OPEN_MAX);
    let fit = usize::try_from(fit).unwrap_or(usize::MAX);
    if limits.tenants_open_max == 0 { fit } else { limits.tenants_open_max }
}

impl Engine for Sqlite {
    fn read(&self, place: Place, work: &mut Work<'_>) -> Result<()> {
        match place {
            Place::Catalog => self.catalog.read(work),
            Place::Tenant(tenant) => self.tenants.acquire(tenant)?.database.read(work),
        }
    }

    fn readers(&self, place: Place) -> Arc<Semaphore> {
        match place {
            Place::Catalog => Arc::clone(&self.catalog_readers),
            Place::Tenant(tenant) => self.tenants.readers(tenant),
        }
    }

    fn enqueue(&self, place: Place, job: Box<dyn Job>) -> Turnout {
        match place {
            Place::Tenant(tenant) => self.tenants.push(tenant, job),
            Place::Catalog if self.closed.load(Ordering::Acquire) => {
                job.done(Err(Error::ShuttingDown));
                Turnout::Queued
            }
            Place::Catalog => self.catalog_queue.push(job).unwrap_or_else(queue::turned_away),
        }
    }

    fn drain(&self, place: Place) -> Turnout {
        match place {
            Place::Tenant(tenant) => self.tenants.drain(tenant),
            Place::Catalog => {
                let _drainer = self.catalog_queue.drainer();
                if let Some(jobs) = self.catalog_queue.take() {
                    self.catalog.write(jobs);
                }
                self.catalog_queue.left()
            }
        }
    }

    fn lease(&self, tenant: TenantId) -> Result<Lease> {
        self.tenants.lease(tenant)
    }

    fn lease_open(&self, tenant: TenantId) -> Option<Lease> {
        self.tenants.lease_open(tenant)
    }

    fn limit(&self, tenant: TenantId, bytes_max: Option<u64>) {
        self.tenants.limit(tenant, bytes_max);
    }

    fn create(&self, tenant: TenantId, name: &str, created_at: Time) -> Result<()> {
        let key = self.keys.of(tenant)?;
        self.tenants.alone(tenant, || files::create(&self.directory, &self.settings, &key, (tenant, name, created_at), None))
    }

    fn destroy(&self, tenant: TenantId, keys: &[KeyId]) -> Result<()> {
        self.tenants.alone(tenant, || {
            self.seen.lock().remove(&tenant);
            files::remove(&self.directory, tenant)?;
            self.heads.remove(tenant, keys)
        })
    }

    fn size_bytes(&self, tenant: TenantId) -> Result<u64> {
        directory::size_bytes(&self.directory.tenant(tenant))
    }

    fn used_bytes(&self, tenant: TenantId) -> Result<u64> {
        self.tenants.acquire(tenant)?.database.used_bytes()
    }

    fn log_empty(&self, tenant: TenantId) -> Result<()> {
        self.tenants.acquire(tenant)?.database.log_empty()
    }

    fn copy_to(&self, place: Place, target: &Path) -> Result<()> {
        match place {
            Place::Catalog => copy::copy(&self.directory.catalog(), &None, target, &self.catalog.health, self.settings.busy),
            Place::Tenant(tenant) => {
                let in_use = self.tenants.acquire(tenant)?;
                let key = self.keys.of(tenant)?;
                copy::copy(&self.directory.tenant(tenant), &key, target, &in_use.database.health, self.settings.busy)
            }
        }
    }

    fn export_to(&self, tenant: TenantId, target: &Path, made_at: &str, along: Along<'_>, file_key: &FileKey) -> Result<Manifest> {
        let (path, busy, key) = (self.directory.tenant(tenant), self.settings.busy, self.keys.of(tenant)?);
        let target_key = if along == Along::Secrets { key.clone() } else { file_key.clone() };
        let in_use = self.tenants.acquire(tenant)?;
        if along == Along::Secrets || (key.is_none() && target_key.is_none()) {
            // One key, or none, for both: `VACUUM INTO` leaves no free page behind.
            copy::copy(&path, &key, target, &in_use.database.health, busy)?;
        } else {
            cipher::recode(&path, &key, target, &target_key, &in_use.database.health, busy)?;
        }
        drop(in_use);
        let sealed = export::seal(target, &target_key, tenant, busy, made_at, along);
        if sealed.is_err() {
            // What cannot be removed is told by the error that stands already.
            drop(std::fs::remove_file(target));
        }
        sealed
    }

    fn export_open(&self, tenant: TenantId, made_at: &str, along: Along<'_>, key: &FileKey) -> Result<(File, u64)> {
        let folder = self.directory.exports();
        directory::folder_create(&folder)?;
        let path = folder.join(format!("{}.db", crate::ids::RequestId::new()));
        self.export_to(tenant, &path, made_at, along, key)?;
        let file = File::open(&path).map_err(directory::io_error);
        // Without a name it goes with its last reader, whatever ends that.
        std::fs::remove_file(&path).map_err(directory::io_error)?;
        let file = file?;
        let size_bytes = file.metadata().map_err(directory::io_error)?.len();
        Ok((file, size_bytes))
    }

    fn export_read(&self, file: &Path, key: &Key) -> Result<Manifest> {
        content::source(file, key, self.settings.busy, &self.directory.exports()).map(|source| source.manifest)
    }

    fn restore_from(&self, tenant: TenantId, file: &Path, bytes_max: Option<u64>) -> Result<()> {
        let key = self.keys.of(tenant)?;
        let source = content::source(file, &key, self.settings.busy, &self.directory.exports())?;
        // Opened once as ever: what an earlier server left running is closed, and a file that is unfit is refused.
        drop(self.tenants.acquire(tenant)?);
        self.tenants.alone(tenant, || {
            let health = errors::Health::of_tenant(tenant, self.directory.tenant_folder(tenant), bytes_max.is_some());
            let settings = Settings { bytes_max, ..self.settings.clone() };
            content::restore(&source, &self.directory.tenant(tenant), &key, tenant, &health, &settings)?;
            content::workspaces_lay(&source, &self.directory.workspaces_waiting(tenant))
        })
    }

    fn import_from(&self, tenant: TenantId, name: &str, created_at: Time, file: &Path, file_key: &Key) -> Result<()> {
        let source = content::source(file, file_key, self.settings.busy, &self.directory.exports())?;
        let key = self.keys.of(tenant)?;
        self.tenants.alone(tenant, || files::create(&self.directory, &self.settings, &key, (tenant, name, created_at), Some(&source)))
    }

    fn workspaces_waiting(&self, tenant: TenantId) -> PathBuf {
        self.directory.workspaces_waiting(tenant)
    }

    fn folder(&self) -> PathBuf {
        self.directory.root().to_owned()
    }

    fn stamp(&self, tenant: TenantId) -> Option<String> {
        directory::stamp(&self.directory.tenant(tenant))
    }

    fn copy_erase(&self, copy: &Path, tenant: TenantId) -> Result<()> {
        copy::erase(copy, tenant, self.settings.busy)
    }

    fn catalog_version(&self) -> Result<u64> {
        let watch = self.watch.lock();
        let mut statement = watch.prepare_cached("PRAGMA data_version").told(&self.catalog.health)?;
        let version: i64 = statement.query_row([], |row| row.get(0)).told(&self.catalog.health)?;
        Ok(version.unsigned_abs())
    }

    fn catalog_read_now(&self, work: &mut Work<'_>) -> Result<()> {
        let looker = self.lookers.iter().find_map(Mutex::try_lock);
        // All are taken: each is back in microseconds.
        let looker = looker.or_else(|| self.lookers.first().map(Mutex::lock));
        let looker = looker.ok_or_else(|| Error::internal("the catalog has no readers"))?;
        database::read(&looker, &self.catalog.health, work)
    }

    fn search_condition(&self) -> &'static str {
        search::CONDITION
    }

    fn search(&self, typed: &str) -> Option<String> {
        search::query(typed)
    }

    fn search_fill(&self) -> &'static [&'static str] {
        search::FILL
    }

    fn head_note(&self, tenant: TenantId, head: Head) {
        self.heads.head_note(tenant, head);
    }

    fn link_note(&self, link: Link) {
        self.heads.link_note(link);
    }

    fn link_known(&self, chain: &str) -> Result<Option<Link>> {
        self.heads.link_known(chain)
    }

    fn key_used(&self, key: KeyId, at: Time) {
        self.heads.key_used(key, at);
    }

    fn key_uses(&self, keys: &[KeyId]) -> Result<Vec<Option<Time>>> {
        self.heads.key_uses(keys)
    }

    fn tenants_open(&self) -> usize {
        self.tenants.open_count()
    }

    fn work_done(&self) -> (u64, u64) {
        (tx::STATEMENTS.load(Ordering::Relaxed), batch::COMMITS.load(Ordering::Relaxed))
    }

    fn write_check(&self) -> Result<()> {
        self.directory.write_check()
    }

    fn disk_free_bytes(&self) -> Result<u64> {
        directory::disk_free_bytes(self.directory.root())
    }

    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.catalog_queue.refuse(&Error::ShuttingDown);
        self.tenants.close(CLOSE_WAIT);
        self.heads.close();
        // The lock goes last: whoever takes it finds everything written.
        drop(self.lock.lock().take());
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.close();
    }
}
