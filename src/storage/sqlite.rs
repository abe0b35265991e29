//! The SQLite engine, and the only file that names rusqlite and r2d2.

use super::{Mode, engine::*};
use crate::{config::Limits, error::Result, ids::TenantId};
use std::path::Path;

pub(super) struct Sqlite {}

impl Sqlite {
    pub(super) fn open(_dir: &Path, _mode: Mode, _limits: &Limits) -> Result<Self> {
        todo!()
    }
}

impl Engine for Sqlite {
    fn read(&self, _place: Place, _work: &mut Work<'_>) -> Result<()> {
        todo!()
    }
    fn enqueue(&self, _place: Place, _job: Box<dyn Job>) -> Turnout {
        todo!()
    }
    fn drain(&self, _place: Place) {
        todo!()
    }
    fn lease(&self, _tenant: TenantId) -> Result<Lease> {
        todo!()
    }
    fn create(&self, _tenant: TenantId, _name: &str, _created_at_ms: i64) -> Result<()> {
        todo!()
    }
    fn destroy(&self, _tenant: TenantId) -> Result<()> {
        todo!()
    }
    fn size_bytes(&self, _tenant: TenantId) -> Result<u64> {
        todo!()
    }
    fn catalog_version(&self) -> Result<u64> {
        todo!()
    }
    fn catalog_read_now(&self, _work: &mut Work<'_>) -> Result<()> {
        todo!()
    }
    fn close(&self) {
        todo!()
    }
}
