//! The seam between what we store and what stores it: run this work in a transaction at this place.
//!
//! Everything above this file is SQL that SQLite and PostgreSQL both take (`TEXT`, `BIGINT`, no engine-made keys, no engine date functions;
//! `?1` is always the tenant id on tenant tables). Everything below, DDL and full-text search included, is an engine's own (`sqlite`).

use crate::{
    clock::Time,
    error::Result,
    ids::{KeyId, TenantId},
    money::Money,
    vault::DataKey,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// What of a tenant goes into a copy beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Along<'a> {
    /// Sealed secrets: the copy stays with this host.
    Secrets,
    /// Nothing.
    Nothing,
    /// The files of workspaces, packed in this folder: one tar a config, under its id.
    Workspaces(&'a Path),
}

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Users, tenants, memberships, keys.
    Catalog,
    /// One tenant's own.
    Tenant(TenantId),
}

/// A value on its way into a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Param<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Param<'a> {
    /// A text, or NULL.
    pub(super) fn text_opt(value: Option<&'a str>) -> Self {
        value.map_or(Self::Null, Self::Text)
    }

    /// A number, or NULL.
    pub(super) fn int_opt(value: Option<i64>) -> Self {
        value.map_or(Self::Null, Self::Int)
    }
}

/// A row on its way out. Columns count from 0; a wrong type is an internal error.
pub(super) trait Row {
    fn int(&self, column: usize) -> Result<i64>;
    fn int_opt(&self, column: usize) -> Result<Option<i64>>;
    fn text(&self, column: usize) -> Result<&str>;
    fn text_opt(&self, column: usize) -> Result<Option<&str>>;
    fn bytes(&self, column: usize) -> Result<&[u8]>;
}

/// An open transaction.
pub(super) trait Tx {
    /// Runs a statement that gives no rows; answers how many rows it changed.
    fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64>;

    /// Runs a statement that gives rows, in order.
    fn query(&mut self, sql: &str, params: &[Param<'_>], each: &mut dyn FnMut(&dyn Row) -> Result<()>) -> Result<()>;

    /// Keeps a link that this transaction put to a chain, for whoever is to note it once it is committed.
    fn link_keep(&mut self, link: Link);

    /// The links that were kept, which are forgotten then.
    fn links_take(&mut self) -> Vec<Link>;
}

/// The newest link of an audit log's chain, kept outside of the database that the chain is in, so that one that was cut off shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Which chain: the name that its first hash is made of.
    pub chain: String,
    /// Its number.
    pub seq: u64,
    /// Its hash, in hexadecimal.
    pub hash: String,
}

/// What every transaction can do besides.
pub(super) trait TxExt {
    /// The first row of a statement, if there is one.
    fn first<T>(&mut self, sql: &str, params: &[Param<'_>], take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Option<T>>;

    /// All rows of a statement.
    fn all<T>(&mut self, sql: &str, params: &[Param<'_>], take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Vec<T>>;
}

impl TxExt for dyn Tx + '_ {
    fn first<T>(&mut self, sql: &str, params: &[Param<'_>], mut take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Option<T>> {
        let mut found = None;
        self.query(sql, params, &mut |row| {
            if found.is_none() {
                found = Some(take(row)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn all<T>(&mut self, sql: &str, params: &[Param<'_>], mut take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        self.query(sql, params, &mut |row| {
            rows.push(take(row)?);
            Ok(())
        })?;
        Ok(rows)
    }
}

/// Work inside a transaction. The engine may run it again from the start (after it rolled back), so it only keeps its last outcome.
/// An `Err` undoes this piece of work alone, never its neighbours in a shared commit.
pub(super) type Work<'a> = dyn FnMut(&mut dyn Tx) -> Result<()> + Send + 'a;

/// A write that waits in a place's queue.
pub(super) trait Job: Send {
    /// The work; see [`Work`].
    fn run(&mut self, tx: &mut dyn Tx) -> Result<()>;
    /// Called once, after the commit (`Ok`) or when the work is certainly not stored (`Err`).
    fn done(self: Box<Self>, outcome: Result<()>);
}

/// What to do after [`Engine::enqueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Turnout {
    /// Nobody works on this queue: call [`Engine::drain`] on a thread that may block.
    Drain,
    /// Someone does, and will take the job along.
    Queued,
}

/// Keeps a tenant's database open (never evicted) as long as it lives.
pub(super) type Lease = Arc<dyn std::any::Any + Send + Sync>;

/// The newest entry of a tenant's ledger, kept outside of the tenant's file, so that an older file cannot give credit back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Its sequence number; 0 before the first entry.
    pub seq: i64,
    /// Its hash, in hexadecimal.
    pub hash: String,
    /// What was settled for by then: deposited less settled.
    pub balance: Money,
}

/// What an exported file says of itself: names and values.
pub(super) type Manifest = std::collections::BTreeMap<String, String>;

/// What a tenant's file is encrypted with, if it is.
pub(super) type FileKey = Option<Arc<DataKey>>;

/// What a tenant's copy in a backup becomes where the whole is restored.
pub(super) struct Placed {
    pub tenant: TenantId,
    pub copy: PathBuf,
    /// Whether the file is encrypted where it comes to lie.
    pub encrypted: bool,
    /// What is to be changed of that on the way.
    pub change: Option<Change>,
}

/// A file that gets another key, or none.
pub(super) struct Change {
    pub old: FileKey,
    pub new: FileKey,
    /// The new one, for the catalog.
    pub wrapped: Option<String>,
}

/// Finds a tenant's data key in the catalog; none for a tenant that is not encrypted.
pub(super) type Keyring = dyn Fn(TenantId, &mut dyn Tx) -> Result<Option<DataKey>> + Send + Sync;

/// Work that the server does on a tenant in the transaction of its first opening.
pub(super) type Opening = dyn Fn(TenantId, &mut dyn Tx) -> Result<()> + Send + Sync;

/// A database engine. Synchronous; async callers come through `spawn_blocking`, but for what is said to be cheap.
pub(super) trait Engine: Send + Sync + 'static {
    /// Runs reading work in one read transaction on the calling thread.
    fn read(&self, place: Place, work: &mut Work<'_>) -> Result<()>;

    /// As many permits as the place has readers. Take one before going to a blocking thread: those are shared by all tenants, and must not
    /// all wait for one tenant's readers. Cheap.
    fn readers(&self, place: Place) -> Arc<Semaphore>;

    /// Puts a write into the place's bounded queue. When it is full the job is done with [`crate::error::Error::Overloaded`]. Cheap.
    fn enqueue(&self, place: Place, job: Box<dyn Job>) -> Turnout;

    /// Takes what waits in the place's queue, runs it as one transaction with a savepoint a job, commits durably, answers. Says whether more
    /// came meanwhile.
    fn drain(&self, place: Place) -> Turnout;

    /// The same until the queue is empty.
    fn drain_all(&self, place: Place) {
        while self.drain(place) == Turnout::Drain {}
    }

    /// Opens a tenant's database and keeps it open.
    fn lease(&self, tenant: TenantId) -> Result<Lease>;

    /// The same, but only when it is open already. Cheap.
    fn lease_open(&self, tenant: TenantId) -> Option<Lease>;

    /// Says how large a tenant's open database may grow, in bytes, from its next write on; none is without a limit. Until it is said, the
    /// server's own limit holds. Cheap.
    fn limit(&self, tenant: TenantId, bytes_max: Option<u64>);

    /// Makes a new tenant's database, empty but for its schema, its one tenant row (name, creation time) and its empty wallet.
    fn create(&self, tenant: TenantId, name: &str, created_at: Time) -> Result<()>;

    /// Waits for the tenant's work to end, closes its database and removes every byte of it, and what is known beside it of the tenant and
    /// its keys. Gone already is fine.
    fn destroy(&self, tenant: TenantId, keys: &[KeyId]) -> Result<()>;

    /// The size of a tenant's database in bytes.
    fn size_bytes(&self, tenant: TenantId) -> Result<u64>;

    /// How many bytes of a tenant's database hold something. Room that was freed inside the file does not count.
    fn used_bytes(&self, tenant: TenantId) -> Result<u64>;

    /// Leaves nothing of what was deleted in the database's log, where nobody reads from it at this moment.
    fn log_empty(&self, tenant: TenantId) -> Result<()>;

    /// Writes a consistent copy of a place to a new file, checked, while work on it goes on.
    fn copy_to(&self, place: Place, target: &Path) -> Result<()>;

    /// The same of a tenant, with a manifest inside; `made_at` is the time to write there.
    /// With secrets it is as the tenant's own, under its own key where it has one; else under this key, or none.
    fn export_to(&self, tenant: TenantId, target: &Path, made_at: &str, along: Along<'_>, key: &FileKey) -> Result<Manifest>;

    /// The same as an open file without a name, which goes when it is closed, and its size in bytes.
    fn export_open(&self, tenant: TenantId, made_at: &str, along: Along<'_>, key: &FileKey) -> Result<(File, u64)>;

    /// What an exported file says of itself, once it was found to be ours, whole and unchanged; [`crate::error::Error::Conflict`] else.
    /// `key` is for one that is encrypted.
    fn export_read(&self, file: &Path, key: &FileKey) -> Result<Manifest>;

    /// Replaces a tenant's content by an exported file's, in one transaction, with nobody else at work on it. Money stays as it is.
    /// [`crate::error::Error::Overloaded`] while a turn of the tenant runs.
    fn restore_from(&self, tenant: TenantId, file: &Path, bytes_max: Option<u64>) -> Result<()>;

    /// As [`Self::create`], with the content of an exported file, and no money.
    fn import_from(&self, tenant: TenantId, name: &str, created_at: Time, file: &Path, file_key: &FileKey) -> Result<()>;

    /// Where the files of workspaces lie that an exported file brought and nobody has laid out yet, as [`Along::Workspaces`] has them.
    fn workspaces_waiting(&self, tenant: TenantId) -> PathBuf;

    /// The data directory, with every link resolved.
    fn folder(&self) -> PathBuf;

    /// Whatever changes with a tenant's database, as text; none when that cannot be told at this moment. Cheap, and opens nothing.
    fn stamp(&self, tenant: TenantId) -> Option<String>;

    /// Removes all rows about a tenant, and every byte of them, from a copy of the catalog.
    fn copy_erase(&self, copy: &Path, tenant: TenantId) -> Result<()>;

    /// Moves whenever any other connection, of this or another process, commits to the catalog. Cheap enough to be asked at every request
    /// from an async thread.
    fn catalog_version(&self) -> Result<u64>;

    /// Reads the catalog on the calling thread, without a queue: for the one-row look-ups of every request. Cheap.
    fn catalog_read_now(&self, work: &mut Work<'_>) -> Result<()>;

    /// A condition on `conversations` that holds where a message matches a search; its one bare `?` stands for what [`Self::search`] made.
    fn search_condition(&self) -> &'static str;

    /// What a person typed, as a search that cannot be malformed: every word must occur. None when there is no word in it.
    fn search(&self, typed: &str) -> Option<String>;

    /// Statements, `?1` being the tenant, that have its newest messages found, too: an engine may leave that until many can be added together, or
    /// someone searches.
    fn search_fill(&self) -> &'static [&'static str];

    /// Remembers the newest entry of a tenant's ledger; written in the background. Cheap.
    fn head_note(&self, tenant: TenantId, head: Head);

    /// Remembers the newest link of a chain; written in the background. Cheap.
    fn link_note(&self, link: Link);

    /// The newest link of a chain, as far as it was noted.
    fn link_known(&self, chain: &str) -> Result<Option<Link>>;

    /// Remembers when a key was used last; written in the background. Cheap.
    fn key_used(&self, key: KeyId, at: Time);

    /// When these keys were used last, in their order.
    fn key_uses(&self, keys: &[KeyId]) -> Result<Vec<Option<Time>>>;

    /// How many tenants' databases are open. Cheap.
    fn tenants_open(&self) -> usize;

    /// Statements run inside transactions, and commits of queued writes, since the process began. Cheap.
    fn work_done(&self) -> (u64, u64);
    /// Whether the data's disk takes writes: an empty transaction would not notice that it does not. Blocks.
    fn write_check(&self) -> Result<()>;

    /// What is free for us on the data's disk, in bytes.
    fn disk_free_bytes(&self) -> Result<u64>;

    /// Writes what is still to be written in the background and closes everything.
    fn close(&self);
}
