//! What the operator may know of the whole: counts, never a tenant's content.

use super::{
    Operator, Storage,
    engine::{Row, Tx, TxExt},
    rows,
};
use crate::error::{Error, Result};

/// Counts of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Tenants that are there.
    pub tenants: u64,
    /// Those of them that the operator stopped.
    pub tenants_suspended: u64,
    /// Tenants whose database is open now.
    pub tenants_open: usize,
    /// Accounts.
    pub users: u64,
    /// What is free for us on the data directory's disk, in bytes.
    pub disk_free_bytes: u64,
}

impl Storage {
    /// Counts what is there.
    pub async fn counts(&self, _: &Operator) -> Result<Counts> {
        let (tenants_open, disk_free_bytes) = (self.inner.engine.tenants_open(), self.disk_free_bytes()?);
        self.catalog_read(move |tx| {
            let tenants = "SELECT COUNT(*), COUNT(suspended_at) FROM tenants WHERE state = 'active'";
            let (tenants, tenants_suspended) = one(tx, tenants, |row| Ok((rows::number(row, 0)?, rows::number(row, 1)?)))?;
            let users = one(tx, "SELECT COUNT(*) FROM users", |row| rows::number(row, 0))?;
            Ok(Counts { tenants, tenants_suspended, tenants_open, users, disk_free_bytes })
        })
        .await
    }
}

fn one<T>(tx: &mut dyn Tx, sql: &str, take: impl FnMut(&dyn Row) -> Result<T>) -> Result<T> {
    tx.first(sql, &[], take)?.ok_or_else(|| Error::internal("a count gave no row"))
}
