//! One connection: how it is opened, and what it may do.
//!
//! Every file is treated as if a stranger had written it: no double-quoted strings, no functions from a schema, no attaching of other files.

use super::{
    cipher::{self, Key},
    errors::{Health, Told},
};
use crate::{
    error::{Error, Result},
    storage::schema::Kind,
};
use rusqlite::{Connection, OpenFlags, config::DbConfig, limits::Limit};
use std::{path::Path, time::Duration};

/// The oldest SQLite that we trust: 3.51.3 mended a rare corruption of write-ahead logs.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// The largest text, blob or row, in bytes.
const LENGTH_BYTES_MAX: i32 = 16 * 1024 * 1024;

/// What a file may grow beyond its limit: turns that began below it must be able to store what they were charged for.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

/// The pages that SQLite lets a file have at most.
const PAGES_MAX: i64 = 4_294_967_294;

/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 96;

/// The page of a new tenant's file. Half of SQLite's usual one: most rows are short and most tenants small, so that a turn writes two thirds
/// of the bytes, and an empty file takes half the disk.
const PAGE_BYTES: u32 = 2_048;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The one that writes to its file; the file's size is bounded where a limit is given, in bytes.
    Write { bytes_max: Option<u64> },
    /// One of those that only read.
    Read,
    /// For a file that nobody knows of yet: nothing is durable until [`filled`].
    Fill,
}

/// Makes SQLite ready; refuses to run on one that is too old.
pub(super) fn begin() -> Result<()> {
    if rusqlite::version_number() >= SQLITE_VERSION_MIN {
        super::log_file::install();
        return Ok(());
    }
    Err(Error::Conflict { detail: format!("this binary has SQLite {}; it needs 3.51.3 or newer", rusqlite::version()) })
}

/// The flags that every file is opened with. A missing file is never made, and a symbolic link never followed.
pub(super) fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE | OpenFlags::SQLITE_OPEN_NOFOLLOW
}

/// Opens a file that is there.
pub(super) fn open(path: &Path, key: &Key, usage: Use, busy: Duration) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, flags())?;
    prepare(&conn, key, usage, busy)?;
    Ok(conn)
}

/// Sets up a connection that was just opened.
pub(super) fn prepare(conn: &Connection, key: &Key, usage: Use, busy: Duration) -> rusqlite::Result<()> {
    cipher::unlock(conn, key)?;
    // First of all else: what follows may meet another process's lock.
    conn.busy_timeout(busy)?;
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        // A plan depends on the statement alone: else some are compiled anew whenever other values are bound.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
    ] {
        conn.set_db_config(setting, on)?;
    }
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, LENGTH_BYTES_MAX)?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    conn.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);

    if let Use::Write { .. } = usage {
        log_ahead(conn)?;
    }
    // Temporary results stay in memory: a tenant's text has no business in /tmp.
    conn.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA cell_size_check = ON;
         PRAGMA secure_delete = ON;
         PRAGMA journal_size_limit = 8388608;
         PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -512;",
    )?;
    match usage {
        Use::Read => conn.execute_batch("PRAGMA query_only = ON;"),
        Use::Fill => {
            // An encrypted file keeps its cipher's page: whoever opens it has to know the size beforehand.
            let page = if key.is_some() { String::new() } else { format!("PRAGMA page_size = {PAGE_BYTES};") };
            conn.execute_batch(&format!("{page} PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;"))
        }
        Use::Write { bytes_max: None } => Ok(()),
        Use::Write { bytes_max } => limit(conn, bytes_max),
    }
}

/// Bounds how large a file may grow through this connection. One that is larger already keeps its size.
pub(super) fn limit(conn: &Connection, bytes_max: Option<u64>) -> rusqlite::Result<()> {
    let page_bytes: i64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let pages = |bytes: u64| i64::try_from(bytes.saturating_add(RESERVE_BYTES)).unwrap_or(i64::MAX) / page_bytes.max(512);
    let pages = bytes_max.map_or(PAGES_MAX, |bytes| pages(bytes).clamp(1, PAGES_MAX));
    conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}

/// Bounds what a connection keeps of the file's pages; what is too much is let go.
pub(super) fn cache_limit(conn: &Connection, kib: usize) -> rusqlite::Result<()> {
    conn.execute_batch(&format!("PRAGMA cache_size = -{kib}"))
}

/// Has the file's changes written to a log first, for good.
fn log_ahead(conn: &Connection) -> rusqlite::Result<()> {
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode == "wal" { Ok(()) } else { Err(rusqlite::Error::InvalidQuery) }
}

/// Closes a file that was opened with [`Use::Fill`], and makes it durable at one stroke: a tenth of the time that as many commits take.
pub(super) fn filled(conn: Connection, path: &Path, health: &Health) -> Result<()> {
    log_ahead(&conn).told(health)?;
    conn.close().map_err(|(_, error)| health.error(error))?;
    // No connection has this file open, so there is no lock of ours to lose by opening it once more.
    std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(super::directory::io_error)
}

/// Why a file is not served.
pub(super) enum Refusal {
    /// The file is not what it should be; it stays closed until someone looks.
    Unfit(String),
    /// Something that may pass.
    Passing(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Passing(error)
    }
}

/// Puts the newest form into an empty database.
pub(super) fn schema_apply(conn: &Connection, kind: Kind, health: &Health) -> Result<()> {
    let version = kind.version();
    let id = application_id(kind);
    conn.execute_batch(kind.schema()).told(health)?;
    conn.execute_batch(&format!("PRAGMA application_id = {id}; PRAGMA user_version = {version};")).told(health)
}

/// Looks whether the file is one of this kind that this binary understands, and brings it to the newest form where it is older.
///
/// `may_migrate` is asked before an older file is changed.
pub(super) fn schema_check(
    conn: &Connection,
    kind: Kind,
    health: &Health,
    may_migrate: impl FnOnce() -> Result<()>,
) -> std::result::Result<(), Refusal> {
    let number = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i64>(0)).told(health);
    if number("PRAGMA application_id")? != application_id(kind) {
        return Err(Refusal::Unfit("the file was not made by Nimblesite for this purpose".into()));
    }
    let (found, newest) = (number("PRAGMA user_version")?, kind.version());
    if found > newest {
        return Err(Refusal::Unfit(format!("the file has form {found}, this binary knows {newest}: use a newer nimblesite")));
    }
    if found == newest {
        return Ok(());
    }
    may_migrate()?;
    let done = usize::try_from(found - 1).map_err(|_| Refusal::Unfit("the file has no form".into()))?;
    let transaction =
        rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate).told(health).map_err(Refusal::Passing)?;
    for step in kind.steps().iter().skip(done) {
        transaction.execute_batch(step).told(health)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {newest}")).told(health)?;
    transaction.commit().told(health)?;
    tracing::info!(database = %health.name, from = found, to = newest, "migrated");
    Ok(())
}

/// The mark in a file's header that says what the file is (`file` and `sqlite3` show it).
pub(super) fn application_id(kind: Kind) -> i64 {
    match kind {
        Kind::Catalog => 0x4E53_4341,
        Kind::Tenant => 0x4E53_544E,
    }
}
