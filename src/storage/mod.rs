//! The only door to data: a catalog and one database a tenant, behind the [`engine`] seam.
//!
//! Storage knows no HTTP, no vendor, no agent. Authority is a value: a [`Principal`], a [`SignedIn`] user or an [`Operator`] can only be made
//! here, from a proved credential, and only they lead to a tenant's data.

mod access;
#[cfg(test)]
mod accounts_tests;
mod audit;
mod backups;
mod bodies;
mod breaches;
mod catalog;
mod configs;
#[cfg(test)]
mod conformance;
mod conversations;
mod credit;
mod egress;
mod engine;
mod exports;
mod figures;
mod grant;
mod history;
mod keys;
mod ledger;
mod logs;
mod members;
mod operate;
mod proof;
#[cfg(test)]
mod read_tests;
mod retention;
mod rows;
mod sandboxes;
mod schema;
mod sealing;
mod select;
mod sessions;
mod snapshots;
mod sqlite;
mod status;
mod steps;
mod tenant;
mod tenants;
mod trail;
mod turns;
mod users;
mod vitals;
mod wallet;
mod writers;

pub use access::{Operator, Principal, SignedIn};
pub use audit::Audit;
pub use backups::{BackupDone, BackupSet, CopyNote, set_read, sets};
pub use conversations::ConversationFilter;
pub use credit::CreditInput;
pub use exports::{Export, ExportHeld};
pub use figures::{Figures, Span};
pub use logs::{LogFilter, Pace, UsageAsk, UsageGroup};
pub use retention::Swept;
pub use sandboxes::{Kit, NewBundle, SandboxRow};
pub use sessions::{Session, Visitor};
pub use status::Counts;
pub use steps::{Kept, NewAnswer, NewMessage, Settled, Step, StepEnd};
pub use tenant::TenantStore;
pub use trail::{AuditFilter, Author};
pub use turns::{Admission, Claim, OpenTurn, Opened, Stored, TurnAsk};
pub use vitals::Vitals;
pub use wallet::{Hold, HoldAsk};

use crate::{
    clock::Clock,
    config::{Config, Limits},
    error::{Error, Result},
    ids::{BootId, KeyId, TenantId},
    vault::{DataKey, KeySource},
};
use engine::{Engine, Job, Lease, Link, Param, Place, Turnout, Tx, TxExt};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tenant::TenantTx;
use writers::Writers;

/// Whether this process is the server of the data directory, or a command beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Takes the lock; closes turns and holds that an earlier server left.
    Server,
    /// Reads and writes rows beside a running server, or without one.
    Beside,
}

/// All data of one data directory. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    sealing: Arc<sealing::Sealing>,
    writers: Arc<Writers>,
    bodies: Arc<bodies::Bodies>,
    histories: Arc<history::Histories>,
    /// Whether new tenants are encrypted.
    encrypts: bool,
    access: access::Access,
    exports: Arc<exports::Exports>,
    refusals: logs::Refusals,
    figures: figures::Kept,
    limits: Arc<Limits>,
    clock: Clock,
    boot: BootId,
    /// Turns of an earlier run that were closed in this one.
    interrupted: Arc<AtomicU64>,
}

impl Storage {
    /// Opens the data directory of a configuration, making it (0700) when it is not there.
    ///
    /// Fails when another server holds it, when it lies on a network file system, when the catalog is newer than this binary, or when the
    /// operator's key is readable by others.
    pub fn of(config: &Config, mode: Mode) -> Result<Self> {
        Self::opened(&config.data, mode, &config.limits, &config.secret_key, config.encryption)
    }

    /// The same with nothing but limits set.
    pub fn open(dir: &Path, mode: Mode, limits: &Limits) -> Result<Self> {
        Self::opened(dir, mode, limits, &KeySource::Data, false)
    }

    fn opened(dir: &Path, mode: Mode, limits: &Limits, key: &KeySource, encrypts: bool) -> Result<Self> {
        let (boot, clock) = (BootId::new(), Clock);
        let interrupted = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&interrupted);
        let opening = move |tenant: TenantId, tx: &mut dyn Tx| {
            let turns = turns::recover(&mut TenantTx::new(tx, &tenant.to_string()), boot, clock.now())?;
            counted.fetch_add(turns, Ordering::Relaxed);
            Ok(())
        };
        // The engine finds the catalog, the catalog says which key is needed, and the key opens what the engine opens next. Neither keeps the
        // other alive: files are closed when the engine goes.
        let found: Arc<OnceLock<Weak<sealing::Sealing>>> = Arc::default();
        let asked = Arc::clone(&found);
        let keyring = move |tenant: TenantId, tx: &mut dyn Tx| match asked.get().and_then(Weak::upgrade) {
            Some(sealing) => sealing.data_key(tenant, tx),
            None => Err(Error::internal("a tenant was opened before the operator's key was looked for")),
        };
        let engine: Arc<dyn Engine> = Arc::new(sqlite::Sqlite::open(dir, mode, limits, boot, Box::new(opening), Box::new(keyring))?);
        let writers = Writers::new(limits.writers_max);
        let sealing = Arc::new(sealing::Sealing::open(&engine, &writers, mode, key)?);
        drop(found.set(Arc::downgrade(&sealing)));
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                sealing,
                writers,
                bodies: bodies::Bodies::new(limits.config_cache_bytes_max),
                histories: history::Histories::new(limits.history_cache_bytes_max),
                encrypts,
                access: access::Access::new(limits)?,
                exports: Arc::default(),
                refusals: logs::Refusals::default(),
                figures: figures::Kept::default(),
                limits: Arc::new(limits.clone()),
                clock,
                boot,
                interrupted,
            }),
        })
    }

    /// Puts a whole backup into a directory that holds none of our data yet: the catalog and the tenants' files as they were, money and
    /// revocations included. With `encrypted` every tenant is written encrypted, or none; else each as it was. Blocks. `progress` is told how
    /// many tenants are done.
    pub fn restore_all(
        config: &Config,
        catalog: &Path,
        tenants: &[(TenantId, PathBuf)],
        encrypted: Option<bool>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let plan = sealing::Plan::new(config, catalog, tenants, encrypted)?;
        sqlite::restore_all(&config.data, catalog, &plan.tenants, plan.key_id.as_deref().map(|id| (id, Clock.now())), progress)
    }

    /// Writes what is still to be written in the background and closes every file. Blocks. No call may follow.
    pub fn close(&self) {
        self.inner.engine.close();
    }

    /// Whether the catalog can be written, and the disk takes what is written to it.
    pub async fn ready(&self) -> Result<()> {
        let engine = Arc::clone(&self.inner.engine);
        tokio::task::spawn_blocking(move || engine.write_check()).await.map_err(Error::internal)??;
        self.catalog_write(|_| Ok(())).await
    }

    /// What is free for us on the data directory's disk, in bytes.
    pub fn disk_free_bytes(&self) -> Result<u64> {
        self.inner.engine.disk_free_bytes()
    }

    /// Opens every tenant's database once, which brings it to the newest form, and calls `progress` with how many are done, how many there
    /// are, and what went wrong with this one. Blocks; one broken file does not stop the others.
    pub fn migrate_all(&self, mut progress: impl FnMut(usize, usize, Option<(TenantId, Error)>)) -> Result<()> {
        let mut tenants = Vec::new();
        self.inner.engine.read(Place::Catalog, &mut |tx| {
            tenants = tx.all("SELECT id FROM tenants WHERE state = 'active' ORDER BY id", &[], |row| {
                row.text(0)?.parse::<TenantId>().map_err(|_| Error::internal("the catalog holds a tenant id that is none"))
            })?;
            Ok(())
        })?;
        for (done, tenant) in tenants.iter().enumerate() {
            let trouble = self.inner.engine.lease(*tenant).err();
            progress(done + 1, tenants.len(), trouble.map(|error| (*tenant, error)));
        }
        Ok(())
    }

    /// Notes that a key was used now. Cheap: it is written in the background.
    pub(crate) fn key_used(&self, key: KeyId) {
        self.inner.engine.key_used(key, self.inner.clock.now());
    }

    /// When these keys were used last, in their order.
    pub(crate) async fn key_uses(&self, keys: Vec<KeyId>) -> Result<Vec<Option<crate::clock::Time>>> {
        let engine = Arc::clone(&self.inner.engine);
        tokio::task::spawn_blocking(move || engine.key_uses(&keys)).await.map_err(Error::internal)?
    }

    /// The way to one tenant's data. Whoever calls this inside storage has a witness that leads to this tenant, and has read how large its file
    /// may grow: `own_bytes_max` is the tenant's own limit, 0 for none, and nothing where the server's holds.
    async fn tenant_open(&self, tenant: TenantId, own_bytes_max: Option<u64>) -> Result<TenantStore> {
        let engine = &self.inner.engine;
        let lease = match engine.lease_open(tenant) {
            Some(lease) => lease,
            None => self.tenant_lease(tenant).await?,
        };
        let bytes_max = self.bytes_max(own_bytes_max);
        engine.limit(tenant, bytes_max);
        Ok(TenantStore {
            tenant,
            engine: Arc::clone(engine),
            sealing: Arc::clone(&self.inner.sealing),
            writers: Arc::clone(&self.inner.writers),
            bodies: Arc::clone(&self.inner.bodies),
            histories: Arc::clone(&self.inner.histories),
            boot: self.inner.boot,
            clock: self.inner.clock,
            limits: Arc::clone(&self.inner.limits),
            bytes_max,
            _lease: lease,
        })
    }

    /// How large a tenant's file may grow: by its own limit, else by the server's; 0 is no limit.
    fn bytes_max(&self, own: Option<u64>) -> Option<u64> {
        Some(own.unwrap_or(self.inner.limits.tenant_bytes_max as u64)).filter(|max| *max > 0)
    }

    async fn tenant_lease(&self, tenant: TenantId) -> Result<Lease> {
        let engine = Arc::clone(&self.inner.engine);
        // A file that is slow to open is waited for on the tenant's own few threads, not on all that there are.
        let waiting = engine.readers(Place::Tenant(tenant)).acquire_owned();
        let permit = tokio::time::timeout(READER_WAIT, waiting).await.map_err(|_| Error::Overloaded { retry_after: READER_WAIT })?;
        if let Some(lease) = engine.lease_open(tenant) {
            return Ok(lease);
        }
        let run = move || {
            let _permit = permit;
            engine.lease(tenant)
        };
        tokio::task::spawn_blocking(run).await.map_err(Error::internal)?
    }

    /// Makes a new tenant's database; its row in the catalog is `creating` meanwhile.
    async fn tenant_file_create(&self, tenant: TenantId, name: &str) -> Result<()> {
        let (engine, name, now) = (Arc::clone(&self.inner.engine), name.to_owned(), self.inner.clock.now());
        tokio::task::spawn_blocking(move || engine.create(tenant, &name, now)).await.map_err(Error::internal)?
    }

    /// The same, with the content of an exported file.
    async fn tenant_file_import(&self, tenant: TenantId, name: &str, (file, key): (PathBuf, Option<Arc<DataKey>>)) -> Result<()> {
        let (engine, name, now) = (Arc::clone(&self.inner.engine), name.to_owned(), self.inner.clock.now());
        tokio::task::spawn_blocking(move || engine.import_from(tenant, &name, now, &file, &key)).await.map_err(Error::internal)?
    }

    /// Removes every byte of a tenant's database; its row in the catalog is `deleting` meanwhile.
    async fn tenant_file_destroy(&self, tenant: TenantId) -> Result<()> {
        let sql = "SELECT id FROM api_keys WHERE tenant_id = ?1";
        let keys = self.catalog_read(move |tx| tx.all(sql, &[Param::Text(&tenant.to_string())], |row| rows::parsed(row, 0))).await?;
        let engine = Arc::clone(&self.inner.engine);
        self.inner.bodies.forget_tenant(tenant);
        self.inner.histories.forget_tenant(tenant);
        tokio::task::spawn_blocking(move || engine.destroy(tenant, &keys)).await.map_err(Error::internal)?
    }

    /// Moves whenever someone else committed to the catalog. Cheap: for async threads. Ask it before reading what it guards.
    fn catalog_version(&self) -> Result<u64> {
        self.inner.engine.catalog_version()
    }

    /// Reads a row or two of the catalog on the calling thread, in microseconds: for the look-ups of every request.
    fn catalog_read_now<T>(&self, mut work: impl FnMut(&mut dyn Tx) -> Result<T> + Send) -> Result<T>
    where
        T: Send,
    {
        let mut outcome = None;
        self.inner.engine.catalog_read_now(&mut |tx| {
            outcome = Some(work(tx)?);
            Ok(())
        })?;
        outcome.ok_or_else(|| Error::internal("a read ended without an outcome"))
    }

    /// Reads the catalog on a blocking thread.
    async fn catalog_read<T: Send + 'static>(&self, work: impl FnMut(&mut dyn Tx) -> Result<T> + Send + 'static) -> Result<T> {
        read(&self.inner.engine, Place::Catalog, work).await
    }

    /// Writes to the catalog; answers after the commit. The work may run more than once.
    async fn catalog_write<T: Send + 'static>(&self, work: impl FnMut(&mut dyn Tx) -> Result<T> + Send + 'static) -> Result<T> {
        write(&self.inner.engine, &self.inner.writers, Place::Catalog, work).await
    }
}

/// How long a read waits for one of its place's readers.
const READER_WAIT: Duration = Duration::from_secs(5);

/// Reading work at a place, from async code.
async fn read<T: Send + 'static>(
    engine: &Arc<dyn Engine>,
    place: Place,
    mut work: impl FnMut(&mut dyn Tx) -> Result<T> + Send + 'static,
) -> Result<T> {
    let engine = Arc::clone(engine);
    let waiting = engine.readers(place).acquire_owned();
    let permit = tokio::time::timeout(READER_WAIT, waiting).await.map_err(|_| Error::Overloaded { retry_after: READER_WAIT })?;
    let run = move || {
        let _permit = permit;
        let mut outcome = None;
        engine.read(place, &mut |tx| {
            outcome = Some(work(tx)?);
            Ok(())
        })?;
        outcome.ok_or_else(|| Error::internal("a read ended without an outcome"))
    };
    tokio::task::spawn_blocking(run).await.map_err(Error::internal)?
}

/// Writing work at a place, from async code; it shares its commit with what else waits there.
async fn write<T: Send + 'static>(
    engine: &Arc<dyn Engine>,
    writers: &Arc<Writers>,
    place: Place,
    work: impl FnMut(&mut dyn Tx) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let job = Pending { work, value: None, links: Vec::new(), engine: Arc::clone(engine), answer };
    if engine.enqueue(place, Box::new(job)) == Turnout::Drain {
        writers.work(engine, place);
    }
    outcome.await.map_err(|_| Error::internal("a write was dropped without an answer"))?
}

struct Pending<W, T> {
    work: W,
    value: Option<T>,
    /// Links that the work put to audit logs; noted beside the database once they are committed.
    links: Vec<Link>,
    engine: Arc<dyn Engine>,
    answer: tokio::sync::oneshot::Sender<Result<T>>,
}

impl<T: Send, W: FnMut(&mut dyn Tx) -> Result<T> + Send> Job for Pending<W, T> {
    fn run(&mut self, tx: &mut dyn Tx) -> Result<()> {
        self.value = Some((self.work)(tx)?);
        self.links = tx.links_take();
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<()>) {
        let Self { value, answer, links, engine, .. } = *self;
        if outcome.is_ok() {
            links.into_iter().for_each(|link| engine.link_note(link));
        }
        let value = outcome.and_then(|()| value.ok_or_else(|| Error::internal("a write ended without an outcome")));
        // A caller that went away does not want the answer; what was committed stays.
        drop(answer.send(value));
    }
}
