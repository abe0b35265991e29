//! The data directory: where what lies, who may look into it, and which process is its server.
//!
//! Only SQLite opens database files: closing any other descriptor of one would drop the locks that SQLite holds on it (POSIX), so this file
//! makes, renames and unlinks, and asks for sizes by name.

use crate::{
    error::{Error, Result},
    ids::{BootId, TenantId},
};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What may lie in a directory that we make our own, besides what we put there.
const FOREIGN_FILES_FINE: [&str; 4] = ["models.toml", "nimblesite.toml", ".gitignore", crate::vault::FILE_NAME];

/// The files and folders of one data directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Opens the directory, making it (0700) when it is not there. Refuses one that others may look into or that lies on a network.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let refuse = |what: &str, error: io::Error| Error::Conflict { detail: format!("{what} {}: {error}", root.display()) };
        if !root.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|error| refuse("cannot make", error))?;
        }
        // With every link resolved, SQLite can be told to follow none.
        let root = &root.canonicalize().map_err(|error| refuse("cannot open", error))?;
        let directory = Self { root: root.clone() };
        refuse_network(root)?;
        let metadata = fs::metadata(root).map_err(|error| refuse("cannot open", error))?;
        if !metadata.is_dir() {
            return Err(Error::Conflict { detail: format!("{} is not a directory", root.display()) });
        }
        let mode = metadata.permissions().mode();
        if mode & 0o007 != 0 && !(directory.is_new()? && fs::set_permissions(root, Permissions::from_mode(0o700)).is_ok()) {
            let detail = format!("{} can be opened by every user of this machine: run chmod 700 {0}", root.display());
            return Err(Error::Conflict { detail });
        }
        Ok(directory)
    }

    /// Whether nothing lies here that would make it someone else's directory, or an older one of ours.
    fn is_new(&self) -> Result<bool> {
        for entry in fs::read_dir(&self.root).map_err(Error::internal)? {
            let name = entry.map_err(Error::internal)?.file_name();
            if !FOREIGN_FILES_FINE.iter().any(|fine| name == *fine) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The catalog's file.
    pub(super) fn catalog(&self) -> PathBuf {
        self.root.join("catalog.db")
    }

    /// The file of ledger heads and last uses of keys.
    pub(super) fn heads(&self) -> PathBuf {
        self.root.join("heads.db")
    }

    /// The folder that holds all tenants' folders.
    pub(super) fn tenants(&self) -> PathBuf {
        self.root.join("tenants")
    }

    /// A tenant's folder: under the last digits of its id, since the first of a `UUIDv7` are its clock and would fill one folder a time.
    pub(super) fn tenant_folder(&self, tenant: TenantId) -> PathBuf {
        let id = tenant.to_string();
        self.tenants().join(&id[id.len() - 2..]).join(id)
    }

    /// A tenant's file.
    pub(super) fn tenant(&self, tenant: TenantId) -> PathBuf {
        self.tenant_folder(tenant).join("tenant.db")
    }

    /// What an imported or restored file brought for a tenant's workspaces.
    pub(super) fn workspaces_waiting(&self, tenant: TenantId) -> PathBuf {
        self.tenant_folder(tenant).join("workspaces")
    }

    /// The folder of exports that are being made.
    pub(super) fn exports(&self) -> PathBuf {
        self.root.join("exports")
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the directory for this server, waiting so long for another to let go of it; the lock is held as long as the file lives. Blocks.
    pub(super) fn lock(&self, boot: BootId, wait: Duration) -> Result<File> {
        let path = self.root.join("server.lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::Conflict { detail: format!("cannot open {}: {error}", path.display()) })?;
        let deadline = Instant::now() + wait;
        let mut taken = file.try_lock();
        while matches!(taken, Err(TryLockError::WouldBlock)) && Instant::now() < deadline {
            std::thread::sleep(LOCK_STEP);
            taken = file.try_lock();
        }
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                (&file).take(200).read_to_string(&mut holder).map_err(Error::internal)?;
                let holder = holder.lines().next().unwrap_or("another process").to_owned();
                let detail = format!("a server already runs on {} ({holder}); stop it first, or use another --data", self.root.display());
                return Err(Error::Conflict { detail });
            }
            Err(TryLockError::Error(error)) => return Err(Error::internal(error)),
        }
        file.set_len(0).and_then(|()| writeln!(&file, "{LOCK_LINE}{}, boot {boot}", std::process::id())).map_err(Error::internal)?;
        Ok(file)
    }

    /// Whether this disk takes writes, for the server that holds the lock: says again what the lock's file says. Nothing waits for the disk.
    pub(super) fn write_check(&self) -> Result<()> {
        let file = OpenOptions::new().write(true).open(self.root.join("server.lock"));
        file.and_then(|mut file| file.write_all(LOCK_LINE.as_bytes())).map_err(io_error)
    }
}

/// How often a waiting server looks whether the lock is free.
const LOCK_STEP: Duration = Duration::from_millis(10);

/// How the line in the lock's file begins.
const LOCK_LINE: &str = "process ";

/// Makes a folder (0700) and those above it, whatever the umask says.
pub(super) fn folder_create(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error)?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io_error)
}

/// Makes an empty file (0600), which SQLite takes for an empty database and whose mode its side files get. It must not be there yet.
pub(super) fn file_create(path: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error)?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(io_error)
}

/// Makes a folder's entries durable.
pub(super) fn folder_sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error)
}

/// Removes a folder and all in it; gone already is fine.
pub(super) fn folder_remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(error)),
        _ => Ok(()),
    }
}

/// The bytes of a database: its file and its log.
pub(super) fn size_bytes(path: &Path) -> Result<u64> {
    let file = fs::metadata(path).map_err(io_error)?.len();
    let log = fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len());
    Ok(file + log)
}

/// Size and time of a database's file and log: they change with whatever is written. None while the last change is so young that another
/// could bear the same time (a clock of the kernel's moves every 10 ms at the slowest).
pub(super) fn stamp(path: &Path) -> Option<String> {
    let of = |path: &Path| -> Option<(u64, Duration)> {
        let metadata = fs::metadata(path).ok()?;
        let at = metadata.modified().ok()?;
        if at.elapsed().ok()? < STAMP_SETTLED {
            return None;
        }
        Some((metadata.len(), at.duration_since(std::time::UNIX_EPOCH).ok()?))
    };
    let (bytes, at) = of(path)?;
    let log = path.with_extension("db-wal");
    // An empty log says no more than none.
    let log = if fs::metadata(&log).is_ok_and(|log| log.len() > 0) { Some(of(&log)?) } else { None };
    let log = log.map_or_else(String::new, |(bytes, at)| format!(" log {bytes} {}", at.as_nanos()));
    Some(format!("{bytes} {}{log}", at.as_nanos()))
}

/// How old a file's last change must be to be told from the next by its time.
const STAMP_SETTLED: Duration = Duration::from_millis(100);

/// What is free for us on the disk of a path, in bytes.
pub(super) fn disk_free_bytes(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).map_err(Error::internal)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// An I/O error in the product's words.
#[allow(clippy::needless_pass_by_value, reason = "it is used as map_err(io_error)")]
pub(super) fn io_error(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull,
        _ => Error::internal(error),
    }
}

/// Raises the soft limit of open files to the hard one, and answers it.
pub(super) fn files_max() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Refuses network file systems: their locks and shared memory do not carry SQLite's log.
#[cfg(target_os = "linux")]
fn refuse_network(path: &Path) -> Result<()> {
    // Magic numbers of statfs(2).
    const NETWORK: [(u32, &str); 9] = [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFE53_4D42, "SMB 2"),
        (0xFF53_4D42, "CIFS"),
        (0x5346_414F, "AFS"),
        (0x7375_7245, "Coda"),
        (0x564C, "NCP"),
        (0x00C3_6400, "Ceph"),
        (0x0BD0_0BD0, "Lustre"),
    ];
    let stat = rustix::fs::statfs(path).map_err(Error::internal)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the numbers are 32 bits, whatever type the platform gives")]
    let found = stat.f_type as u32;
    match NETWORK.iter().find(|(magic, _)| *magic == found) {
        None => Ok(()),
        Some((_, name)) => {
            let detail = format!("{} lies on a network file system ({name}), where SQLite is not safe: use a local disk", path.display());
            Err(Error::Conflict { detail })
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_network(_path: &Path) -> Result<()> {
    Ok(())
}
