//! The seam between what we store and what stores it: run this work in a transaction at this place.
//!
//! Everything above this file is SQL that SQLite and PostgreSQL both take (`TEXT`, `BIGINT`, no engine-made keys, no engine date functions;
//! `?1` is always the tenant id on tenant tables). Everything below, DDL and full-text search included, is an engine's own (`sqlite`).

use crate::{error::Result, ids::TenantId};

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
    Blob(&'a [u8]),
}

impl<'a> Param<'a> {
    /// A text, or NULL.
    pub(super) fn text_opt(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

/// A row on its way out. Columns count from 0; a wrong type is an internal error.
pub(super) trait Row {
    fn int(&self, column: usize) -> Result<i64>;
    fn int_opt(&self, column: usize) -> Result<Option<i64>>;
    fn text(&self, column: usize) -> Result<&str>;
    fn text_opt(&self, column: usize) -> Result<Option<&str>>;
    fn blob(&self, column: usize) -> Result<&[u8]>;
}

/// An open transaction.
pub(super) trait Tx {
    /// Runs a statement that gives no rows; answers how many rows it changed.
    fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64>;

    /// Runs a statement that gives rows, in order.
    fn query(&mut self, sql: &str, params: &[Param<'_>], each: &mut dyn FnMut(&dyn Row) -> Result<()>) -> Result<()>;
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
pub(super) type Lease = std::sync::Arc<dyn std::any::Any + Send + Sync>;

/// A database engine. Synchronous; async callers come through `spawn_blocking`.
pub(super) trait Engine: Send + Sync + 'static {
    /// Runs reading work in one read transaction on the calling thread.
    fn read(&self, place: Place, work: &mut Work<'_>) -> Result<()>;

    /// Puts a write into the place's bounded queue. When it is full the job is done with [`crate::error::Error::Overloaded`].
    fn enqueue(&self, place: Place, job: Box<dyn Job>) -> Turnout;

    /// Takes all that waits in the place's queue, runs it as one transaction with a savepoint a job, commits durably, answers; until the
    /// queue is empty.
    fn drain(&self, place: Place);

    /// Opens a tenant's database and keeps it open.
    fn lease(&self, tenant: TenantId) -> Result<Lease>;

    /// Makes a new tenant's database, empty but for its schema and its one tenant row (name, creation time).
    fn create(&self, tenant: TenantId, name: &str, created_at_ms: i64) -> Result<()>;

    /// Waits for the tenant's work to end, closes its database and removes every byte of it. Gone already is fine.
    fn destroy(&self, tenant: TenantId) -> Result<()>;

    /// The size of a tenant's database in bytes.
    fn size_bytes(&self, tenant: TenantId) -> Result<u64>;

    /// Moves whenever any other connection, of this or another process, commits to the catalog. Cheap enough to be asked at every request
    /// from an async thread.
    fn catalog_version(&self) -> Result<u64>;

    /// Reads the catalog on the calling thread, without a queue: for the one-row look-ups of every request.
    fn catalog_read_now(&self, work: &mut Work<'_>) -> Result<()>;

    /// Writes what is still to be written in the background and closes everything.
    fn close(&self);
}
