//! How a tenant's file comes to be, is opened, looked over and removed. Blocks; who may do so when is `tenants`' affair.

use super::{
    cipher::{Key, Keys},
    connection::{self, Refusal, Use},
    content::Source,
    database::{self, Database, Settings},
    directory::{self, Directory},
    errors::{Health, Told},
    heads::Heads,
    tenants::Trouble,
    tx::SqliteTx,
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::TenantId,
    money::Money,
    storage::{
        Mode,
        engine::{Head, Opening, Param, Tx, TxExt},
        schema::Kind,
    },
};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::{collections::HashSet, path::Path, sync::Arc};

/// All tenants' files of one directory.
pub(super) struct TenantFiles {
    pub directory: Directory,
    pub settings: Settings,
    pub mode: Mode,
    pub heads: Arc<Heads>,
    pub keys: Arc<Keys>,
    /// What the server does in the transaction of a tenant's first opening.
    pub opening: Box<Opening>,
    /// Tenants that this server has opened before.
    pub seen: Arc<Mutex<HashSet<TenantId>>>,
}

impl TenantFiles {
    /// Opens a tenant's file and looks whether it is what it should be.
    pub(super) fn open(&self, tenant: TenantId) -> std::result::Result<Database, Trouble> {
        let path = self.directory.tenant(tenant);
        let health = Health::of_tenant(tenant, self.directory.tenant_folder(tenant), self.settings.bytes_max.is_some());
        if !path.exists() {
            tracing::error!(%tenant, path = %path.display(), "the tenant's file is not there");
            return Err(Trouble::Passing(Error::TenantUnavailable));
        }
        let key = self.keys.of(tenant)?;
        let opened = self.look_over(tenant, &path, &key, &health);
        match opened {
            Ok(conn) => Ok(Database::new(&path, &key, health, conn, &self.settings)),
            Err(Refusal::Unfit(why)) => Err(Trouble::Unfit(why)),
            Err(Refusal::Passing(_)) if health.is_corrupt() && key.is_some() => {
                Err(Trouble::Unfit("the file is damaged, or is not encrypted with this tenant's data key".into()))
            }
            Err(Refusal::Passing(_)) if health.is_corrupt() => Err(Trouble::Unfit("the file is damaged".into())),
            Err(Refusal::Passing(error)) => Err(Trouble::Passing(error)),
        }
    }

    fn look_over(&self, tenant: TenantId, path: &Path, key: &Key, health: &Health) -> std::result::Result<Connection, Refusal> {
        let usage = Use::Write { bytes_max: self.settings.bytes_max };
        let conn = connection::open(path, key, usage, self.settings.busy).told(health)?;
        connection::schema_check(&conn, Kind::Tenant, health, || super::catalog::may_migrate(&self.directory, self.mode))?;
        let first = self.mode == Mode::Server && !self.seen.lock().contains(&tenant);
        // Before the transaction, whose view of the ledger is then at least as new: a server may be adding to both.
        let known = self.heads.head(tenant)?;
        database::step(&conn, if first { "BEGIN IMMEDIATE" } else { "BEGIN" }, health)?;
        let head = {
            let mut tx = SqliteTx::new(&conn, health);
            let head = check(tenant, known.as_ref(), &mut tx)?;
            if first {
                (self.opening)(tenant, &mut tx)?;
            }
            head
        };
        database::step(&conn, "COMMIT", health)?;
        if first {
            self.seen.lock().insert(tenant);
        }
        // A command beside the server may have added entries that nobody noted.
        self.heads.head_note(tenant, head);
        // What was asked here is not asked again: prepared statements of it would lie about for as long as the file is open.
        conn.flush_prepared_statement_cache();
        Ok(conn)
    }
}

/// Whether the file is this tenant's, and its ledger not an older one than is known. Answers the ledger's newest entry.
fn check(tenant: TenantId, known: Option<&Head>, tx: &mut dyn Tx) -> std::result::Result<Head, Refusal> {
    let id = tenant.to_string();
    let found = tx.all("SELECT id FROM tenant", &[], |row| Ok(row.text(0)?.to_owned()))?;
    if found != [id.as_str()] {
        let found = found.first().map_or("no tenant", String::as_str);
        return Err(Refusal::Unfit(format!("the file belongs to {found}: it was put here under a wrong name")));
    }
    let sql = "SELECT seq, head, deposited - settled FROM wallet WHERE tenant_id = ?1";
    let now = tx.first(sql, &[Param::Text(&id)], |row| {
        Ok(Head { seq: row.int(0)?, hash: row.text(1)?.to_owned(), balance: Money::from_nanos(row.int(2)?) })
    })?;
    let Some(now) = now else { return Err(Refusal::Unfit("the file has no wallet".into())) };
    let Some(known) = known else { return Ok(now) };
    if now.seq < known.seq {
        let why = format!("its ledger was rolled back: it ends with entry {}, entry {} was written before", now.seq, known.seq);
        return Err(Refusal::Unfit(why));
    }
    let then = if known.seq == 0 {
        Some(crate::wallet::chain_start(tenant))
    } else {
        let sql = "SELECT hash FROM ledger WHERE tenant_id = ?1 AND seq = ?2";
        tx.first(sql, &[Param::Text(&id), Param::Int(known.seq)], |row| Ok(row.text(0)?.to_owned()))?
    };
    if then.as_deref() != Some(known.hash.as_str()) || (now.seq == known.seq && now.hash != known.hash) {
        return Err(Refusal::Unfit(format!("its ledger is not the one that was written here: entry {} differs", known.seq)));
    }
    Ok(now)
}

/// Makes a new tenant's file. It appears whole or not at all: it is filled under another name first.
pub(super) fn create(
    directory: &Directory,
    settings: &Settings,
    key: &Key,
    (tenant, name, at): (TenantId, &str, Time),
    content: Option<&Source>,
) -> Result<()> {
    let folder = directory.tenant_folder(tenant);
    if folder.exists() {
        return Err(Error::internal(format_args!("tenant {tenant} has a file already")));
    }
    let (making, shelf) = (folder.with_extension("new"), folder.parent().unwrap_or(directory.root()));
    if !shelf.exists() {
        directory::folder_create(&directory.tenants())?;
        directory::folder_create(shelf)?;
        directory::folder_sync(&directory.tenants())?;
        directory::folder_sync(directory.root())?;
    }
    directory::folder_remove(&making)?;
    directory::folder_create(&making)?;
    let filled = fill(&making.join("tenant.db"), key, settings, (tenant, name, at), content)
        .and_then(|()| content.map_or(Ok(()), |content| super::content::workspaces_lay(content, &making.join("workspaces"))));
    if filled.is_err() {
        // What is left would be cleared away by the next attempt, too.
        drop(directory::folder_remove(&making));
    }
    filled?;
    directory::folder_sync(&making)?;
    std::fs::rename(&making, &folder).map_err(directory::io_error)?;
    directory::folder_sync(shelf)
}

fn fill(path: &Path, key: &Key, settings: &Settings, (tenant, name, at): (TenantId, &str, Time), content: Option<&Source>) -> Result<()> {
    directory::file_create(path)?;
    let health = Health::of_tenant(tenant, path, false);
    let conn = connection::open(path, key, Use::Fill, settings.busy).told(&health)?;
    database::step(&conn, "BEGIN IMMEDIATE", &health)?;
    connection::schema_apply(&conn, Kind::Tenant, &health)?;
    let id = tenant.to_string();
    let mut tx = SqliteTx::new(&conn, &health);
    let row = [Param::Text(&id), Param::Text(name), Param::Int(at.ms())];
    tx.execute("INSERT INTO tenant (id, name, created_at) VALUES (?1, ?2, ?3)", &row)?;
    let wallet = "INSERT INTO wallet (tenant_id, deposited, settled, held, seq, head) VALUES (?1, 0, 0, 0, 0, ?2)";
    tx.execute(wallet, &[Param::Text(&id), Param::Text(&crate::wallet::chain_start(tenant))])?;
    if let Some(content) = content {
        super::content::import(content, &conn, tenant, &health)?;
    }
    database::step(&conn, "COMMIT", &health)?;
    connection::filled(conn, path, &health)
}

/// Removes every byte of a tenant.
pub(super) fn remove(directory: &Directory, tenant: TenantId) -> Result<()> {
    let folder = directory.tenant_folder(tenant);
    directory::folder_remove(&folder)?;
    directory::folder_remove(&folder.with_extension("new"))?;
    match folder.parent() {
        Some(shelf) if shelf.exists() => directory::folder_sync(shelf),
        _ => Ok(()),
    }
}
