//! One open database: the pool of its single writer and the pool of its readers.

use super::{
    cipher::Key,
    connection::{self, Use},
    errors::{Health, Told},
    page_cache::{PageCache, Shared},
    search,
    tx::SqliteTx,
};
use crate::{
    error::{Error, Result},
    storage::engine::{Job, Work},
};
use parking_lot::Mutex;
use r2d2::{ManageConnection, Pool, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;
use scheduled_thread_pool::ScheduledThreadPool;
use std::{
    convert::Infallible,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Steps of SQLite's machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 20_000;

/// How a database's connections are made.
#[derive(Clone)]
pub(super) struct Settings {
    pub busy: Duration,
    /// Of one read.
    pub read_timeout: Duration,
    pub bytes_max: Option<u64>,
    pub readers_max: u32,
    pub page_cache: Arc<PageCache>,
    /// How long a second reader is kept after two reads met.
    pub spare_kept: Duration,
    /// r2d2 opens connections on these; all pools share them.
    pub threads: Arc<ScheduledThreadPool>,
}

/// An open database. Dropping it closes the file, which may write: on blocking threads only.
pub(super) struct Database {
    pub health: Health,
    writer: Pool<Source>,
    readers: Pool<Source>,
    busy: Duration,
    read_timeout: Duration,
    spare_kept: Duration,
    /// When reads met last: all readers were at work.
    met: Mutex<Instant>,
    /// What the file may grow to; the writer is told at its next write.
    bytes_max: Mutex<Option<u64>>,
    page_cache: Shared,
    /// Writes since messages were last put into the search index.
    unsearched: AtomicUsize,
    /// A commit failed: what it wrote may lie unfinished in the log, where a crash could bring it back.
    log_is_doubtful: AtomicBool,
}

impl Database {
    /// Around the writing connection that looked the file over.
    pub(super) fn new(path: &Path, key: &Key, health: Health, first: Connection, settings: &Settings) -> Self {
        let pool = |usage: Use, first: Option<Connection>, size: u32| {
            let (busy, key) = (settings.busy, key.clone());
            let manager = SqliteConnectionManager::file(path)
                .with_flags(connection::flags())
                .with_init(move |conn| connection::prepare(conn, &key, usage, busy));
            Pool::builder()
                .max_size(size)
                .min_idle(Some(0))
                .max_lifetime(None)
                .idle_timeout(None)
                .test_on_check_out(false)
                .connection_timeout(settings.busy)
                .thread_pool(Arc::clone(&settings.threads))
                .build_unchecked(Source { manager, first: Mutex::new(first), bytes_max: settings.bytes_max })
        };
        Self {
            writer: pool(Use::Write { bytes_max: settings.bytes_max }, Some(first), 1),
            readers: pool(Use::Read, None, settings.readers_max),
            health,
            busy: settings.busy,
            read_timeout: settings.read_timeout,
            spare_kept: settings.spare_kept,
            met: Mutex::new(Instant::now()),
            bytes_max: Mutex::new(settings.bytes_max),
            page_cache: settings.page_cache.join(),
            unsearched: AtomicUsize::new(0),
            log_is_doubtful: AtomicBool::new(false),
        }
    }

    /// Runs reading work in one read transaction, within the limit on its time.
    pub(super) fn read(&self, work: &mut Work<'_>) -> Result<()> {
        let mut link = self.take(&self.readers)?;
        let conn = link.conn(&self.health)?;
        let now = Instant::now();
        let deadline = now + self.read_timeout;
        conn.progress_handler(STEPS_PER_LOOK, Some(move || Instant::now() > deadline)).told(&self.health)?;
        let outcome = read(conn, &self.health, work);
        link.broken = self.is_spare(now);
        outcome
    }

    /// Whether a reader that goes back is one too many: another has been idle since reads met last, which is long ago. Else descriptors and
    /// caches of every chance meeting would be kept for as long as the tenant is open.
    fn is_spare(&self, now: Instant) -> bool {
        let state = self.readers.state();
        let mut met = self.met.lock();
        if state.idle_connections == 0 {
            if state.connections > 1 {
                *met = now;
            }
            return false;
        }
        now.saturating_duration_since(*met) > self.spare_kept
    }

    /// Connections that are open for reading.
    #[cfg(test)]
    pub(super) fn readers_open(&self) -> u32 {
        self.readers.state().connections
    }

    /// Says how large the file may grow from its next write on.
    pub(super) fn limit(&self, bytes_max: Option<u64>) {
        let mut known = self.bytes_max.lock();
        if *known != bytes_max {
            *known = bytes_max;
            self.health.cap(bytes_max.is_some());
        }
    }

    /// Counts writes that are about to be made; whether the search index should learn of what they and those before brought.
    pub(super) fn is_search_due(&self, writes: usize) -> bool {
        let is_due = self.unsearched.fetch_add(writes, Ordering::Relaxed) + writes >= search::WRITES;
        if is_due {
            self.unsearched.store(0, Ordering::Relaxed);
        }
        is_due
    }

    /// Brings everything into the file and cuts its log to nothing, unless someone reads from the log.
    pub(super) fn log_empty(&self) -> Result<()> {
        let link = self.writer()?;
        let conn = link.conn(&self.health)?;
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).told(&self.health)
    }

    /// The bytes of all pages that hold something.
    pub(super) fn used_bytes(&self) -> Result<u64> {
        let link = self.take(&self.readers)?;
        let conn = link.conn(&self.health)?;
        let number = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i64>(0)).told(&self.health);
        let pages = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
        Ok(pages.saturating_mul(number("PRAGMA page_size")?).unsigned_abs())
    }

    /// Runs writes as one transaction, durably, and answers them all after it ended.
    pub(super) fn write(&self, jobs: Vec<Box<dyn Job>>) {
        match self.writer() {
            Ok(mut link) => {
                let durable = match link.conn(&self.health) {
                    Ok(conn) => super::batch::run(conn, &self.health, jobs),
                    Err(error) => {
                        super::batch::refuse(jobs, &error);
                        return;
                    }
                };
                if !durable {
                    link.broken = true;
                    self.log_is_doubtful.store(true, Ordering::Release);
                }
            }
            Err(error) => super::batch::refuse(jobs, &error),
        }
    }

    /// The writing connection, once nothing doubtful is in the log.
    fn writer(&self) -> Result<PooledConnection<Source>> {
        let mut link = self.take(&self.writer)?;
        let bytes_max = *self.bytes_max.lock();
        if link.bytes_max != bytes_max {
            connection::limit(link.conn(&self.health)?, bytes_max).told(&self.health)?;
            link.bytes_max = bytes_max;
        }
        if self.log_is_doubtful.load(Ordering::Acquire) {
            // Emptying the log is the only way to be sure that a crash does not bring back what was answered as failed.
            let conn = link.conn(&self.health)?;
            let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).told(&self.health)?;
            if busy != 0 {
                return Err(Error::Overloaded { retry_after: self.busy });
            }
            self.log_is_doubtful.store(false, Ordering::Release);
        }
        Ok(link)
    }

    fn take(&self, pool: &Pool<Source>) -> Result<PooledConnection<Source>> {
        let mut link = pool.get().map_err(|_| Error::Overloaded { retry_after: self.busy })?;
        let kib = self.page_cache.kib();
        if link.cache_kib != Some(kib) {
            connection::cache_limit(link.conn(&self.health)?, kib).told(&self.health)?;
            link.cache_kib = Some(kib);
        }
        Ok(link)
    }
}

/// Runs reading work in one read transaction on a connection.
pub(super) fn read(conn: &Connection, health: &Health, work: &mut Work<'_>) -> Result<()> {
    step(conn, "BEGIN", health)?;
    let ended = Ended(conn);
    let outcome = work(&mut SqliteTx::new(conn, health));
    drop(ended);
    outcome
}

/// Runs one of the statements that begin and end transactions.
pub(super) fn step(conn: &Connection, sql: &str, health: &Health) -> Result<()> {
    conn.prepare_cached(sql).and_then(|mut statement| statement.execute([])).told(health).map(drop)
}

/// Ends a transaction on every way out, panics included: the connection goes back to a pool.
struct Ended<'a>(&'a Connection);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit()
            && let Err(error) = self.0.prepare_cached("ROLLBACK").and_then(|mut statement| statement.execute([]))
        {
            tracing::error!(%error, "a read transaction did not end");
        }
    }
}

/// What makes a pool's connections. It hands out its first one ready-made, and never fails: r2d2 would try again behind our back and
/// tell the caller of a time-out instead of the reason.
pub(super) struct Source {
    manager: SqliteConnectionManager,
    first: Mutex<Option<Connection>>,
    /// The limit that its connections begin with.
    bytes_max: Option<u64>,
}

/// A pooled connection, or why there is none.
pub(super) struct Link {
    opened: rusqlite::Result<Connection>,
    /// How large the file may grow through it.
    bytes_max: Option<u64>,
    /// What it keeps of the file's pages, once that was said.
    cache_kib: Option<usize>,
    /// Not to be used again.
    broken: bool,
}

impl Link {
    fn conn(&self, health: &Health) -> Result<&Connection> {
        self.opened.as_ref().map_err(|error| match error {
            rusqlite::Error::SqliteFailure(error, detail) => health.error(rusqlite::Error::SqliteFailure(*error, detail.clone())),
            other => Error::internal(format_args!("{}: {other}", health.name)),
        })
    }
}

impl ManageConnection for Source {
    type Connection = Link;
    type Error = Infallible;

    fn connect(&self) -> std::result::Result<Link, Infallible> {
        let first = self.first.lock().take();
        let opened = first.map_or_else(|| self.manager.connect(), Ok);
        Ok(Link { opened, bytes_max: self.bytes_max, cache_kib: None, broken: false })
    }

    fn is_valid(&self, _link: &mut Link) -> std::result::Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        link.broken || link.opened.is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_reader_goes_once_reads_no_longer_meet() {
        connection::begin().unwrap();
        for (spare_kept, left) in [(Duration::ZERO, 1), (Duration::from_secs(3_600), 2)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.db");
            std::fs::File::create(&path).unwrap();
            let (busy, threads) = (Duration::from_secs(10), ScheduledThreadPool::builder().num_threads(1).build());
            let (page_cache, threads) = (PageCache::new(1 << 20), Arc::new(threads));
            let settings = Settings { busy, read_timeout: busy, bytes_max: None, readers_max: 2, page_cache, spare_kept, threads };
            let first = connection::open(&path, &None, Use::Write { bytes_max: None }, busy).unwrap();
            let database = Database::new(&path, &None, Health::new("test", dir.path()), first, &settings);
            let reads = |inner: &mut Work<'_>| database.read(inner).unwrap();
            reads(&mut |_| Ok(()));
            assert_eq!(database.readers_open(), 1);
            for _ in 0..3 {
                reads(&mut |_| database.read(&mut |_| Ok(())));
                assert_eq!(database.readers_open(), 2, "two reads meet");
            }
            reads(&mut |_| Ok(()));
            reads(&mut |_| Ok(()));
            assert_eq!(database.readers_open(), left);
        }
    }
}
