//! A tenant's data as one file: a consistent copy while writes go on, checked, with a manifest inside.

use super::{
    Operator, Principal, Storage, catalog,
    engine::{Manifest, Secrets},
    tenants,
    trail::{Actor, Deed, access_record},
};
use crate::{
    error::{Error, Result},
    ids::TenantId,
    model::{Act, Role},
};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// What a refused caller is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Free space that a copy must leave on the disk, in bytes: turns go on meanwhile.
const DISK_LEFT_BYTES: u64 = 64 * 1024 * 1024;

/// The tenants that are being exported.
#[derive(Default)]
pub(super) struct Exports {
    running: Mutex<HashSet<TenantId>>,
}

/// An exported file. It has no name any more: whatever becomes of the reader, its bytes go when this is dropped.
pub struct Export {
    /// To be read from its beginning.
    pub file: File,
    /// How long the file is.
    pub size_bytes: u64,
    /// Lets the tenant be exported again.
    pub held: ExportHeld,
}

/// One tenant's place among the exports; given back when dropped.
pub struct ExportHeld {
    exports: Arc<Exports>,
    tenant: TenantId,
}

impl Drop for ExportHeld {
    fn drop(&mut self) {
        self.exports.running.lock().remove(&self.tenant);
    }
}

impl Exports {
    fn begin(self: &Arc<Self>, tenant: TenantId, max: usize) -> Result<ExportHeld> {
        let mut running = self.running.lock();
        if running.len() >= max || !running.insert(tenant) {
            return Err(Error::Overloaded { retry_after: RETRY_AFTER });
        }
        Ok(ExportHeld { exports: Arc::clone(self), tenant })
    }
}

impl Storage {
    /// The key's own tenant as one file. Needs an owner's key. [`Error::Overloaded`] while this tenant is exported already, or too many are.
    pub async fn tenant_export(&self, who: &Principal) -> Result<Export> {
        let (witness, now, tenant) = (who.clone(), self.inner.clock.now(), who.tenant_id);
        self.catalog_read(move |tx| catalog::standing_at_least(tx, &witness, now, Role::Owner).map(drop)).await?;
        let held = self.inner.exports.begin(tenant, self.inner.limits.exports_max)?;
        let by = Actor::from(who);
        // Told before the first byte is there, so that no copy is made of which nothing is told.
        self.catalog_write(move |tx| access_record(tx, tenant, Deed::new(by, Act::TenantExport, now).to(tenant))).await?;
        let (engine, made_at) = (Arc::clone(&self.inner.engine), now.to_string());
        let make = move || {
            let needed = engine.size_bytes(tenant)?.saturating_add(DISK_LEFT_BYTES);
            if engine.disk_free_bytes()? < needed {
                return Err(Error::DiskFull);
            }
            let (file, size_bytes) = engine.export_open(tenant, &made_at)?;
            Ok(Export { file, size_bytes, held })
        };
        tokio::task::spawn_blocking(make).await.map_err(Error::internal)?
    }

    /// One tenant as a file that is not there yet; answers its manifest. Beside a running server, too.
    pub async fn tenant_export_to(&self, _: &Operator, tenant: TenantId, target: PathBuf) -> Result<Manifest> {
        let (target, now) = (absolute(&target)?, self.inner.clock.now());
        self.catalog_write(move |tx| {
            tenants::tenant_find(tx, tenant)?;
            access_record(tx, tenant, Deed::new(Actor::OPERATOR, Act::TenantExport, now).to(tenant))
        })
        .await?;
        let (engine, made_at) = (Arc::clone(&self.inner.engine), now.to_string());
        tokio::task::spawn_blocking(move || engine.export_to(tenant, &target, &made_at, Secrets::LeftOut)).await.map_err(Error::internal)?
    }
}

/// The path with every link resolved: SQLite follows none.
fn absolute(target: &Path) -> Result<PathBuf> {
    let conflict = |why: String| Error::Conflict { detail: format!("{}: {why}", target.display()) };
    let name = target.file_name().ok_or_else(|| conflict("expected the name of a file".to_owned()))?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let target = folder.canonicalize().map_err(|error| conflict(error.to_string()))?.join(name);
    if target.exists() {
        return Err(conflict("there is a file of this name; nothing is overwritten".to_owned()));
    }
    Ok(target)
}
