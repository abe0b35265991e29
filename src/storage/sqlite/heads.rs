//! What is known beside the databases themselves: the newest entry of each ledger, the newest link of each audit log's chain, and when each
//! key was used last.
//!
//! A file that was restored from an older day has an older ledger, with more money left. The head kept here tells. These facts are written
//! in the background: at most an interval of them is lost in a crash, which makes the check weaker by as much, never wrong.

use super::{
    connection::{self, Use},
    directory::{self, Directory},
    errors::{Health, Told},
};
use crate::{
    clock::Time,
    error::Result,
    ids::{KeyId, TenantId},
    money::Money,
    storage::engine::{Head, Link},
};
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, OptionalExtension};
use std::{collections::HashMap, sync::Arc, thread::JoinHandle, time::Duration};

const SCHEMA: &str = "
    CREATE TABLE heads (
        tenant_id TEXT PRIMARY KEY,
        seq       INTEGER NOT NULL,
        hash      TEXT NOT NULL,
        balance   INTEGER NOT NULL,
        at        INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE key_uses (
        key_id TEXT PRIMARY KEY,
        at     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    PRAGMA application_id = 0x4E534844;
    PRAGMA user_version = 1;";

/// Added to files of every age.
const LINKS: &str = "
    CREATE TABLE IF NOT EXISTS links (
        chain TEXT PRIMARY KEY,
        seq   INTEGER NOT NULL,
        hash  TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;";

/// The open file, and what waits to be written to it.
pub(super) struct Heads {
    shared: Arc<Shared>,
    /// Whether anyone writes what is noted.
    is_written: bool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    conn: Mutex<Connection>,
    health: Health,
    waiting: Mutex<Waiting>,
    stopped: Condvar,
}

#[derive(Default)]
struct Waiting {
    heads: HashMap<TenantId, Head>,
    links: HashMap<String, Link>,
    keys: HashMap<KeyId, Time>,
    stop: bool,
}

impl Heads {
    /// Opens the file, making it when it is not there. With an `interval` a thread writes to it; without, nothing is ever written.
    pub(super) fn open(directory: &Directory, busy: Duration, interval: Option<Duration>) -> Result<Self> {
        let health = Health::new("heads", directory.root());
        let conn = open(directory, busy, &health)?;
        if interval.is_some() {
            conn.execute_batch(LINKS).told(&health)?;
        }
        let shared = Arc::new(Shared { conn: Mutex::new(conn), health, waiting: Mutex::new(Waiting::default()), stopped: Condvar::new() });
        let writer = interval.map(|interval| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("nimblesite-heads".into()).spawn(move || shared.run(interval))
        });
        let writer = writer.transpose().map_err(crate::error::Error::internal)?;
        Ok(Self { shared, is_written: writer.is_some(), writer: Mutex::new(writer) })
    }

    /// The newest entry of a tenant's ledger, as far as it was noted.
    pub(super) fn head(&self, tenant: TenantId) -> Result<Option<Head>> {
        // What waits is newer than what is written.
        if let Some(head) = self.shared.waiting.lock().heads.get(&tenant) {
            return Ok(Some(head.clone()));
        }
        let conn = self.shared.conn.lock();
        let mut statement = conn.prepare_cached("SELECT seq, hash, balance FROM heads WHERE tenant_id = ?1").told(&self.shared.health)?;
        statement
            .query_row([tenant.to_string()], |row| {
                Ok(Head { seq: row.get(0)?, hash: row.get(1)?, balance: Money::from_nanos(row.get(2)?) })
            })
            .optional()
            .told(&self.shared.health)
    }

    /// Notes the newest entry of a tenant's ledger. Commits may be told of out of order; the newest stays.
    pub(super) fn head_note(&self, tenant: TenantId, head: Head) {
        if !self.is_written {
            return;
        }
        let mut waiting = self.shared.waiting.lock();
        if waiting.heads.get(&tenant).is_none_or(|known| known.seq < head.seq) {
            waiting.heads.insert(tenant, head);
        }
    }

    /// Notes the newest link of a chain. Commits may be told of out of order; the newest stays.
    pub(super) fn link_note(&self, link: Link) {
        if !self.is_written {
            return;
        }
        let mut waiting = self.shared.waiting.lock();
        if waiting.links.get(&link.chain).is_none_or(|known| known.seq < link.seq) {
            waiting.links.insert(link.chain.clone(), link);
        }
    }

    /// The newest link of a chain, as far as it was noted.
    pub(super) fn link_known(&self, chain: &str) -> Result<Option<Link>> {
        if let Some(link) = self.shared.waiting.lock().links.get(chain) {
            return Ok(Some(link.clone()));
        }
        let conn = self.shared.conn.lock();
        let read = || -> rusqlite::Result<Option<Link>> {
            // A file that only an older server has written to has none.
            if !conn.table_exists(None, "links")? {
                return Ok(None);
            }
            let mut statement = conn.prepare_cached("SELECT seq, hash FROM links WHERE chain = ?1")?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok(Link { chain: chain.to_owned(), seq: row.get::<_, i64>(0)?.unsigned_abs(), hash: row.get(1)? })
            };
            statement.query_row([chain], row).optional()
        };
        read().told(&self.shared.health)
    }

    /// Forgets a tenant that is gone, and its keys.
    pub(super) fn remove(&self, tenant: TenantId, keys: &[KeyId]) -> Result<()> {
        let conn = self.shared.conn.lock();
        {
            let mut waiting = self.shared.waiting.lock();
            waiting.heads.remove(&tenant);
            waiting.links.retain(|chain, _| !chain.ends_with(&tenant.to_string()));
            waiting.keys.retain(|key, _| !keys.contains(key));
        }
        let delete = || -> rusqlite::Result<()> {
            conn.execute("DELETE FROM heads WHERE tenant_id = ?1", [tenant.to_string()])?;
            if conn.table_exists(None, "links")? {
                conn.execute("DELETE FROM links WHERE chain LIKE ?1", [format!("%{tenant}")])?;
            }
            keys.iter().try_for_each(|key| conn.execute("DELETE FROM key_uses WHERE key_id = ?1", [key.to_string()]).map(drop))
        };
        delete().told(&self.shared.health)
    }

    /// Notes when a key was used.
    pub(super) fn key_used(&self, key: KeyId, at: Time) {
        if self.is_written {
            self.shared.waiting.lock().keys.insert(key, at);
        }
    }

    /// When these keys were used last, in their order.
    pub(super) fn key_uses(&self, keys: &[KeyId]) -> Result<Vec<Option<Time>>> {
        let conn = self.shared.conn.lock();
        let mut statement = conn.prepare_cached("SELECT at FROM key_uses WHERE key_id = ?1").told(&self.shared.health)?;
        keys.iter()
            .map(|key| {
                if let Some(at) = self.shared.waiting.lock().keys.get(key) {
                    return Ok(Some(*at));
                }
                let at = statement.query_row([key.to_string()], |row| row.get(0)).optional().told(&self.shared.health)?;
                Ok(at.map(Time::from_ms))
            })
            .collect()
    }

    /// Writes what waits and ends the thread.
    pub(super) fn close(&self) {
        self.shared.waiting.lock().stop = true;
        self.shared.stopped.notify_all();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes ledger heads panicked");
        }
    }
}

impl Shared {
    fn run(&self, interval: Duration) {
        loop {
            let stop = {
                let mut waiting = self.waiting.lock();
                if !waiting.stop {
                    self.stopped.wait_for(&mut waiting, interval);
                }
                waiting.stop
            };
            if let Err(error) = self.write() {
                tracing::error!(%error, "ledger heads could not be written");
            }
            if stop {
                return;
            }
        }
    }

    /// Writes what waits; keeps it waiting when that fails.
    fn write(&self) -> Result<()> {
        // Taken under the connection's lock, so that what is removed meanwhile is not written again.
        let mut conn = self.conn.lock();
        let taken = {
            let mut waiting = self.waiting.lock();
            let stop = waiting.stop;
            std::mem::replace(&mut *waiting, Waiting { stop, ..Waiting::default() })
        };
        if taken.heads.is_empty() && taken.links.is_empty() && taken.keys.is_empty() {
            return Ok(());
        }
        let written = self.write_all(&mut conn, &taken);
        if written.is_err() {
            self.put_back(taken);
        }
        written
    }

    fn write_all(&self, conn: &mut Connection, Waiting { heads, links, keys, .. }: &Waiting) -> Result<()> {
        let now = crate::clock::Clock.now().ms();
        let write = |conn: &mut Connection| -> rusqlite::Result<()> {
            let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for (tenant, head) in heads {
                transaction
                    .prepare_cached(
                        "INSERT INTO heads (tenant_id, seq, hash, balance, at) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (tenant_id) DO UPDATE
                         SET seq = excluded.seq, hash = excluded.hash, balance = excluded.balance, at = excluded.at
                         WHERE excluded.seq >= heads.seq",
                    )?
                    .execute((tenant.to_string(), head.seq, &head.hash, head.balance.nanos(), now))?;
            }
            for (chain, link) in links {
                transaction
                    .prepare_cached(
                        "INSERT INTO links (chain, seq, hash) VALUES (?1, ?2, ?3)
                         ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, hash = excluded.hash WHERE excluded.seq >= links.seq",
                    )?
                    .execute((chain, i64::try_from(link.seq).unwrap_or(i64::MAX), &link.hash))?;
            }
            for (key, at) in keys {
                transaction
                    .prepare_cached(
                        "INSERT INTO key_uses (key_id, at) VALUES (?1, ?2) ON CONFLICT (key_id) DO UPDATE SET at = excluded.at",
                    )?
                    .execute((key.to_string(), at.ms()))?;
            }
            transaction.commit()
        };
        write(conn).told(&self.health)
    }

    fn put_back(&self, taken: Waiting) {
        let mut waiting = self.waiting.lock();
        let Waiting { heads, links, keys, .. } = taken;
        for (chain, link) in links {
            waiting.links.entry(chain).or_insert(link);
        }
        for (tenant, head) in heads {
            waiting.heads.entry(tenant).or_insert(head);
        }
        for (key, at) in keys {
            waiting.keys.entry(key).or_insert(at);
        }
    }
}

/// Opens the file. One that is damaged is put aside and begun anew: it only guards, and must not keep every tenant from being served.
fn open(directory: &Directory, busy: Duration, health: &Health) -> Result<Connection> {
    let path = directory.heads();
    if path.exists() {
        match try_open(&path, busy) {
            Ok(conn) => return Ok(conn),
            Err(error) => {
                let told = health.error(error);
                if !health.is_corrupt() {
                    return Err(told);
                }
            }
        }
        let aside = path.with_extension(format!("db.damaged-{}", crate::clock::Clock.now().ms()));
        tracing::error!(aside = %aside.display(), "heads.db was damaged: until every ledger has moved on, a rolled-back one is not noticed");
        std::fs::rename(&path, &aside).map_err(directory::io_error)?;
        for side in ["db-wal", "db-shm"] {
            // They belong to the file that was put aside; they may well not be there.
            drop(std::fs::remove_file(path.with_extension(side)));
        }
    }
    directory::file_create(&path)?;
    let conn = connection::open(&path, &None, Use::Write { bytes_max: None }, busy).told(health)?;
    conn.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;")).told(health)?;
    Ok(conn)
}

fn try_open(path: &std::path::Path, busy: Duration) -> rusqlite::Result<Connection> {
    let conn = connection::open(path, &None, Use::Write { bytes_max: None }, busy)?;
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 0 {
        // A crash came between making the file and filling it.
        conn.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?;
    }
    Ok(conn)
}
