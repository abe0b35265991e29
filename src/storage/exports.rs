//! A tenant's data as one file: a consistent copy while writes go on, checked, with a manifest inside.

use super::{
    Operator, Principal, Storage, TenantStore, catalog,
    engine::{Along, FileKey, Manifest},
    tenants,
    trail::{Actor, Deed, access_record},
};
use crate::{
    error::{Error, Result},
    ids::{RequestId, TenantId},
    model::{Act, Role},
    vault::DataKey,
};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt,
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
    /// Where files of workspaces are packed for it, if they are to go along.
    packing: PathBuf,
    /// What the file is encrypted with, if it is.
    key: FileKey,
}

impl ExportHeld {
    /// A folder for what goes along: one tar a config, under its id. It goes with this.
    pub fn packing(&self) -> Result<&Path> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.packing);
        made.map_err(Error::internal)?;
        Ok(&self.packing)
    }

    /// Leaves the folder to the caller.
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.packing)
    }
}

impl Drop for ExportHeld {
    fn drop(&mut self) {
        self.exports.running.lock().remove(&self.tenant);
        // There is none where nobody asked for it, or where someone keeps it.
        if !self.packing.as_os_str().is_empty() {
            drop(std::fs::remove_dir_all(&self.packing));
        }
    }
}

impl Exports {
    fn begin(self: &Arc<Self>, tenant: TenantId, max: usize, data: &Path) -> Result<ExportHeld> {
        let mut running = self.running.lock();
        if running.len() >= max || !running.insert(tenant) {
            return Err(Error::Overloaded { retry_after: RETRY_AFTER });
        }
        let packing = data.join("exports").join(format!("{}-workspaces", RequestId::new()));
        Ok(ExportHeld { exports: Arc::clone(self), tenant, packing, key: None })
    }
}

impl Storage {
    /// A place among the exports for the key's own tenant, for a file that any SQLite opens, or that is encrypted with the key that is given.
    /// Needs an owner's key. [`Error::Overloaded`] while this tenant is exported already, or too many are.
    pub async fn tenant_export_begin(&self, who: &Principal, workspaces: bool, key: Option<DataKey>) -> Result<ExportHeld> {
        let key = usable(key)?;
        let (witness, now, tenant) = (who.clone(), self.inner.clock.now(), who.tenant_id);
        self.catalog_read(move |tx| catalog::standing_at_least(tx, &witness, now, Role::Owner).map(drop)).await?;
        let mut held = self.inner.exports.begin(tenant, self.inner.limits.exports_max, &self.inner.engine.folder())?;
        held.key = key;
        let by = Actor::from(who);
        // Told before the first byte is there, so that no copy is made of which nothing is told.
        let deed = move || Deed::new(by, Act::TenantExport, now).to(tenant).with("workspaces", workspaces);
        self.catalog_write(move |tx| access_record(tx, tenant, deed())).await?;
        Ok(held)
    }

    /// A place for packing a tenant's workspaces, for the operator.
    pub async fn workspaces_pack_begin(&self, operator: &Operator, tenant: TenantId) -> Result<(TenantStore, ExportHeld)> {
        let store = self.operator_store(operator, tenant).await?;
        Ok((store, self.inner.exports.begin(tenant, self.inner.limits.exports_max, &self.inner.engine.folder())?))
    }

    /// The tenant of a place as one file, with what was packed for it.
    pub async fn tenant_export(&self, held: ExportHeld) -> Result<Export> {
        let (engine, made_at) = (Arc::clone(&self.inner.engine), self.inner.clock.now().to_string());
        let make = move || {
            let tenant = held.tenant;
            let packed = held.packing.exists();
            let along = if packed { Along::Workspaces(&held.packing) } else { Along::Nothing };
            let size: u64 = if packed { folder_bytes(&held.packing) } else { 0 };
            let needed = engine.size_bytes(tenant)?.saturating_add(size).saturating_add(DISK_LEFT_BYTES);
            if engine.disk_free_bytes()? < needed {
                return Err(Error::DiskFull);
            }
            let (file, size_bytes) = engine.export_open(tenant, &made_at, along, &held.key)?;
            Ok(Export { file, size_bytes, held })
        };
        tokio::task::spawn_blocking(make).await.map_err(Error::internal)?
    }

    /// One tenant as a file that is not there yet, with the workspaces that are packed in a folder; answers its manifest. Beside a running
    /// server, too. With a key the file is encrypted.
    pub async fn tenant_export_to(
        &self,
        _: &Operator,
        tenant: TenantId,
        (target, key): (PathBuf, Option<DataKey>),
        packed: Option<PathBuf>,
    ) -> Result<Manifest> {
        let key = usable(key)?;
        let (target, now, along) = (absolute(&target)?, self.inner.clock.now(), packed.is_some());
        self.catalog_write(move |tx| {
            tenants::tenant_find(tx, tenant)?;
            access_record(tx, tenant, Deed::new(Actor::OPERATOR, Act::TenantExport, now).to(tenant).with("workspaces", along))
        })
        .await?;
        let (engine, made_at) = (Arc::clone(&self.inner.engine), now.to_string());
        let make = move || {
            let along = packed.as_deref().map_or(Along::Nothing, Along::Workspaces);
            engine.export_to(tenant, &target, &made_at, along, &key)
        };
        tokio::task::spawn_blocking(make).await.map_err(Error::internal)?
    }
}

/// A key for what is handed out. It is nobody's but the asker's: no key of ours opens such a file.
fn usable(key: Option<DataKey>) -> Result<FileKey> {
    match key {
        Some(_) if !cfg!(feature = "encryption") => {
            let detail = "This server was built without encryption: it exports plain files alone. Encrypt the file yourself.";
            Err(Error::Conflict { detail: detail.to_owned() })
        }
        key => Ok(key.map(Arc::new)),
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|facts| facts.len()).sum()
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
