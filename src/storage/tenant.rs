//! One tenant's data. A [`TenantStore`] opens one file and cannot be made but from a witness; every statement it runs has the tenant's id
//! as `?1`, put there by [`TenantTx`], so that even a row in the wrong file would not answer.

use super::{
    bodies::Bodies,
    engine::{Engine, Head, Lease, Link, Param, Place, Row, Tx, TxExt},
    history::Histories,
    sealing::Sealing,
    writers::Writers,
};
use crate::{
    clock::Clock,
    config::Limits,
    error::{Error, Result},
    ids::*,
    money::Money,
};
use std::sync::Arc;

/// The way to one tenant's configs, conversations, messages, logs and wallet. Cheap to clone; while one lives the file stays open.
#[derive(Clone)]
pub struct TenantStore {
    pub(super) tenant: TenantId,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) sealing: Arc<Sealing>,
    pub(super) writers: Arc<Writers>,
    pub(super) bodies: Arc<Bodies>,
    pub(super) histories: Arc<Histories>,
    pub(super) boot: BootId,
    pub(super) clock: Clock,
    pub(super) limits: Arc<Limits>,
    /// How large the tenant's file may grow, as the catalog said when this was made.
    pub(super) bytes_max: Option<u64>,
    pub(super) _lease: Lease,
}

impl TenantStore {
    /// Reads in one transaction, on a blocking thread.
    pub(super) async fn read<T: Send + 'static>(&self, mut work: impl FnMut(&mut TenantTx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        let id = self.tenant.to_string();
        super::read(&self.engine, Place::Tenant(self.tenant), move |tx| work(&mut TenantTx::new(tx, &id))).await
    }

    /// Writes in one transaction, whose commit may be shared with other writes of this tenant; answers after it. The work may run again.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&mut TenantTx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let id = self.tenant.to_string();
        super::write(&self.engine, &self.writers, Place::Tenant(self.tenant), move |tx| work(&mut TenantTx::new(tx, &id))).await
    }

    /// Says, after a commit that changed the ledger, what its newest entry is now.
    pub(super) fn head_note(&self, seq: i64, hash: String, balance: Money) {
        self.engine.head_note(self.tenant, Head { seq, hash, balance });
    }

    /// A condition on `conversations` that holds where a message matches a search; its one bare `?` stands for what [`Self::search`] made.
    pub(super) fn search_condition(&self) -> &'static str {
        self.engine.search_condition()
    }

    /// What a person typed, as a search that cannot be malformed: every word must occur. None when there is no word in it.
    pub(super) fn search(&self, typed: &str) -> Option<String> {
        self.engine.search(typed)
    }

    /// Has what was said a moment ago found as well. Where nothing can be written, a search finds what it can.
    pub(super) async fn search_fill(&self) {
        let statements = self.engine.search_fill();
        let filled = self.write(move |tx| statements.iter().try_for_each(|sql| tx.execute(sql, &[]).map(drop))).await;
        if let Err(error) = filled {
            tracing::warn!(tenant = %self.tenant, %error, "a search may miss the newest messages");
        }
    }

    /// [`Error::TenantFull`] when the tenant's size limit is reached. Ask before a turn begins: a turn that runs is let finish, on a reserve.
    pub async fn room_check(&self) -> Result<()> {
        let Some(bytes_max) = self.bytes_max else { return Ok(()) };
        let (engine, tenant) = (Arc::clone(&self.engine), self.tenant);
        let used = tokio::task::spawn_blocking(move || engine.used_bytes(tenant)).await.map_err(Error::internal)??;
        if used >= bytes_max { Err(Error::TenantFull) } else { Ok(()) }
    }

    /// Writes a consistent copy of this tenant's database to a new file, while work on it goes on.
    pub async fn copy_to(&self, target: std::path::PathBuf) -> Result<()> {
        let (engine, tenant) = (Arc::clone(&self.engine), self.tenant);
        tokio::task::spawn_blocking(move || engine.copy_to(Place::Tenant(tenant), &target)).await.map_err(Error::internal)?
    }

    /// The time, by the clock that this tenant's rows are stamped with.
    pub fn now(&self) -> crate::clock::Time {
        self.clock.now()
    }

    /// The size of this tenant's database in bytes.
    pub async fn size_bytes(&self) -> Result<u64> {
        let (engine, tenant) = (Arc::clone(&self.engine), self.tenant);
        tokio::task::spawn_blocking(move || engine.size_bytes(tenant)).await.map_err(Error::internal)?
    }
}

/// An open transaction on one tenant's data: `?1` is the tenant's id, the caller's parameters begin at `?2`.
pub(super) struct TenantTx<'a> {
    tx: &'a mut dyn Tx,
    id: &'a str,
}

impl<'a> TenantTx<'a> {
    /// The transaction of one tenant, whose id is `id`.
    pub(super) fn new(tx: &'a mut dyn Tx, id: &'a str) -> Self {
        Self { tx, id }
    }

    /// The tenant's id, as it stands in its rows.
    pub(super) fn id(&self) -> &str {
        self.id
    }

    /// Keeps a link of an audit log's chain, to be noted once it is committed.
    pub(super) fn link_keep(&mut self, link: Link) {
        self.tx.link_keep(link);
    }

    /// Runs a statement that gives no rows; answers how many rows it changed.
    pub(super) fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64> {
        self.tx.execute(bound(sql)?, &with_tenant(self.id, params))
    }

    /// Runs a statement that gives rows, in order.
    pub(super) fn query(&mut self, sql: &str, params: &[Param<'_>], mut each: impl FnMut(&dyn Row) -> Result<()>) -> Result<()> {
        self.tx.query(bound(sql)?, &with_tenant(self.id, params), &mut each)
    }

    /// The first row of a statement, if there is one.
    pub(super) fn first<T>(&mut self, sql: &str, params: &[Param<'_>], take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Option<T>> {
        self.tx.first(bound(sql)?, &with_tenant(self.id, params), take)
    }

    /// All rows of a statement.
    pub(super) fn all<T>(&mut self, sql: &str, params: &[Param<'_>], take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Vec<T>> {
        self.tx.all(bound(sql)?, &with_tenant(self.id, params), take)
    }
}

/// Lets a statement pass that says which tenant it means: one that forgot to would see whatever file it is in.
fn bound(sql: &str) -> Result<&str> {
    if sql.contains("?1") { Ok(sql) } else { Err(Error::internal(format_args!("a tenant's statement does not name ?1: {sql}"))) }
}

fn with_tenant<'a>(id: &'a str, params: &[Param<'a>]) -> Vec<Param<'a>> {
    std::iter::once(Param::Text(id)).chain(params.iter().copied()).collect()
}
