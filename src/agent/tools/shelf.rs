//! Snapshots on disk: `snapshots/TENANT/CONFIG/` in the data directory, a file each, whose name says all that is known of it: its id, why it was
//! made, the workspace's mark. A name appears when all bytes are on the disk, so that a crash leaves nothing but what has no such name, which
//! whoever comes next removes. It knows no sandboxes and never looks into a file: what lies there is the tenant's.

use crate::{
    clock::Time,
    ids::{ConfigId, SnapshotId, TenantId},
    model::{Snapshot, SnapshotMade},
};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

/// The end of the name of what is whole.
const WHOLE: &str = ".tar.gz";
/// The end of the name of what is being written.
const PART: &str = ".part";

/// All snapshots of a data directory.
pub(super) struct Shelf {
    home: PathBuf,
}

/// One that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) id: SnapshotId,
    pub(super) made: SnapshotMade,
    /// What stood for the workspace just before.
    pub(super) mark: String,
    pub(super) size_bytes: u64,
    path: PathBuf,
}

/// One that is being written; removed when dropped.
pub(super) struct Draft {
    id: SnapshotId,
    path: PathBuf,
    pub(super) file: File,
}

impl Shelf {
    pub(super) fn new(data: &Path) -> Self {
        Self { home: data.join("snapshots") }
    }

    fn of_tenant(&self, tenant: TenantId) -> PathBuf {
        self.home.join(tenant.to_string())
    }

    fn of_config(&self, tenant: TenantId, config: ConfigId) -> PathBuf {
        self.of_tenant(tenant).join(config.to_string())
    }

    /// A config's, oldest first.
    pub(super) fn list(&self, tenant: TenantId, config: ConfigId) -> io::Result<Vec<Kept>> {
        let mut kept: Vec<Kept> = entries(&self.of_config(tenant, config))?.into_iter().filter_map(Kept::read).collect();
        kept.sort_by_key(|kept| kept.id);
        Ok(kept)
    }

    /// Bytes of all that a tenant has here, what is being written included.
    pub(super) fn bytes(&self, tenant: TenantId) -> io::Result<u64> {
        let mut sum = 0;
        for folder in entries(&self.of_tenant(tenant))? {
            sum += entries(&folder)?.iter().filter_map(|file| fs::symlink_metadata(file).ok()).map(|facts| facts.len()).sum::<u64>();
        }
        Ok(sum)
    }

    /// A place for one more. The config's own half ones of an earlier life go.
    pub(super) fn begin(&self, tenant: TenantId, config: ConfigId) -> io::Result<Draft> {
        let folder = self.of_config(tenant, config);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        remove_halves(&folder)?;
        let id = SnapshotId::new();
        let path = folder.join(format!("{id}{PART}"));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Draft { id, path, file })
    }

    /// Removes one; answers whether it was there.
    pub(super) fn remove(kept: &Kept) -> io::Result<bool> {
        match fs::remove_file(&kept.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes all of a config's.
    pub(super) fn remove_config(&self, tenant: TenantId, config: ConfigId) -> io::Result<()> {
        remove_folder(&self.of_config(tenant, config))
    }

    /// Removes all of a tenant's.
    pub(super) fn remove_tenant(&self, tenant: TenantId) -> io::Result<()> {
        remove_folder(&self.of_tenant(tenant))
    }

    /// The tenants that have some.
    pub(super) fn tenants(&self) -> io::Result<Vec<TenantId>> {
        named(&self.home)
    }

    /// Removes what an earlier life left of a tenant's: all of configs that are not among these, and what is half.
    pub(super) fn tidy(&self, tenant: TenantId, configs: &[ConfigId]) -> io::Result<()> {
        for config in named::<ConfigId>(&self.of_tenant(tenant))? {
            if configs.contains(&config) {
                remove_halves(&self.of_config(tenant, config))?;
            } else {
                self.remove_config(tenant, config)?;
            }
        }
        Ok(())
    }
}

impl Draft {
    /// Whole: from now on it is a snapshot. All was written.
    pub(super) fn keep(self, made: SnapshotMade, mark: &str) -> io::Result<Kept> {
        self.file.sync_all()?;
        let path = self.path.with_file_name(format!("{}.{}.{mark}{WHOLE}", self.id, made.name()));
        fs::rename(&self.path, &path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Kept::read(path).ok_or_else(|| io::Error::other("a snapshot that was just written is not there"))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already where it was kept.
        drop(fs::remove_file(&self.path));
    }
}

impl Kept {
    fn read(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(WHOLE)?;
        let mut parts = name.split('.');
        let (id, made, mark) = (parts.next()?.parse().ok()?, SnapshotMade::from_name(parts.next()?)?, parts.next()?.to_owned());
        let size_bytes = fs::symlink_metadata(&path).ok()?.len();
        Some(Self { id, made, mark, size_bytes, path })
    }

    /// To be read from its beginning.
    pub(super) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// As the API shows it.
    pub(super) fn shown(&self, config_id: ConfigId) -> Snapshot {
        // A UUIDv7 begins with its time: 48 bits of milliseconds (RFC 9562 §5.7).
        let ms = self.id.as_bytes()[..6].iter().fold(0_i64, |ms, byte| ms << 8 | i64::from(*byte));
        Snapshot { id: self.id, config_id, made: self.made, size_bytes: self.size_bytes, created_at: Time::from_ms(ms) }
    }
}

/// Removes what an earlier life began in a folder and did not finish.
fn remove_halves(folder: &Path) -> io::Result<()> {
    let is_half = |path: &&PathBuf| path.to_string_lossy().ends_with(PART);
    entries(folder)?.iter().filter(is_half).try_for_each(fs::remove_file)
}

/// What lies in a folder, which need not be there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What lies in a folder under an id.
fn named<T: FromStr>(folder: &Path) -> io::Result<Vec<T>> {
    Ok(entries(folder)?.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_whole_is_there_and_what_is_half_is_not() {
        let data = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(data.path());
        let (tenant, config, other) = (TenantId::new(), ConfigId::new(), ConfigId::new());
        assert_eq!((shelf.list(tenant, config).unwrap(), shelf.bytes(tenant).unwrap()), (Vec::new(), 0));
        let mut first = shelf.begin(tenant, config).unwrap();
        first.file.write_all(b"12345").unwrap();
        assert_eq!((shelf.list(tenant, config).unwrap().len(), shelf.bytes(tenant).unwrap()), (0, 5), "half, but counted");
        let first = first.keep(SnapshotMade::Idle, "0123abcd").unwrap();
        drop(shelf.begin(tenant, config).unwrap());
        let second = shelf.begin(tenant, config).unwrap().keep(SnapshotMade::Asked, "9").unwrap();
        assert_eq!(shelf.list(tenant, config).unwrap(), [first.clone(), second]);
        assert_eq!((first.mark.as_str(), first.size_bytes, first.made), ("0123abcd", 5, SnapshotMade::Idle));
        assert!(Shelf::remove(&first).unwrap() && !Shelf::remove(&first).unwrap());
        // As a killed server leaves it.
        let half = shelf.begin(tenant, other).unwrap();
        std::mem::forget(half);
        shelf.tidy(tenant, &[config, other]).unwrap();
        assert_eq!((shelf.list(tenant, config).unwrap().len(), entries(&shelf.of_config(tenant, other)).unwrap().len()), (1, 0));
        shelf.tidy(tenant, &[other]).unwrap();
        assert_eq!(shelf.list(tenant, config).unwrap(), Vec::new());
        shelf.remove_tenant(tenant).unwrap();
        assert_eq!(shelf.tenants().unwrap(), Vec::new());
    }
}
