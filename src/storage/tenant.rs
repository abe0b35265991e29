//! One tenant's data. A [`TenantStore`] opens one file and cannot be made but from a witness; every statement it runs has the tenant's id
//! as `?1`, put there by [`TenantTx`], so that even a row in the wrong file would not answer.

use super::engine::{Engine, Lease, Param, Place, Row, Tx};
use crate::{clock::Clock, config::Limits, error::Result, ids::*};
use std::sync::Arc;

/// The way to one tenant's configs, conversations, messages, logs and wallet. Cheap to clone; while one lives the file stays open.
#[derive(Clone)]
pub struct TenantStore {
    pub(super) tenant: TenantId,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) boot: BootId,
    pub(super) clock: Clock,
    pub(super) limits: Arc<Limits>,
    pub(super) _lease: Lease,
}

impl TenantStore {
    /// Reads in one transaction, on a blocking thread.
    pub(super) async fn read<T: Send + 'static>(&self, mut work: impl FnMut(&mut TenantTx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        let id = self.tenant.to_string();
        super::read(&self.engine, Place::Tenant(self.tenant), move |tx| work(&mut TenantTx { tx, id: &id })).await
    }

    /// Writes in one transaction, whose commit may be shared with other writes of this tenant; answers after it. The work may run again.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&mut TenantTx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let id = self.tenant.to_string();
        super::write(&self.engine, Place::Tenant(self.tenant), move |tx| work(&mut TenantTx { tx, id: &id })).await
    }
}

/// An open transaction on one tenant's data: `?1` is the tenant's id, the caller's parameters begin at `?2`.
pub(super) struct TenantTx<'a> {
    tx: &'a mut dyn Tx,
    id: &'a str,
}

impl TenantTx<'_> {
    /// Runs a statement that gives no rows; answers how many rows it changed.
    pub(super) fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64> {
        self.tx.execute(sql, &with_tenant(self.id, params))
    }

    /// Runs a statement that gives rows, in order.
    pub(super) fn query(&mut self, sql: &str, params: &[Param<'_>], mut each: impl FnMut(&dyn Row) -> Result<()>) -> Result<()> {
        self.tx.query(sql, &with_tenant(self.id, params), &mut each)
    }

    /// The first row of a statement, if there is one.
    pub(super) fn first<T>(&mut self, sql: &str, params: &[Param<'_>], mut take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Option<T>> {
        let mut found = None;
        self.query(sql, params, |row| {
            if found.is_none() {
                found = Some(take(row)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// All rows of a statement.
    pub(super) fn all<T>(&mut self, sql: &str, params: &[Param<'_>], mut take: impl FnMut(&dyn Row) -> Result<T>) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        self.query(sql, params, |row| {
            rows.push(take(row)?);
            Ok(())
        })?;
        Ok(rows)
    }
}

fn with_tenant<'a>(id: &'a str, params: &[Param<'a>]) -> Vec<Param<'a>> {
    debug_assert!(params.len() < 64);
    std::iter::once(Param::Text(id)).chain(params.iter().copied()).collect()
}
