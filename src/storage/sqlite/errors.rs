//! What SQLite says, in the product's words.

use crate::{
    error::{Error, Result},
    ids::TenantId,
};
use rusqlite::ErrorCode;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// What a caller is told to wait when another process holds a lock too long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Free bytes below which a failed write is the disk's fault.
const DISK_FULL_BYTES: u64 = 1024 * 1024;

/// What is known of one database's health, and what its errors are told with.
#[derive(Debug)]
pub(super) struct Health {
    /// `catalog`, `tenant 0192…`: for the log.
    pub name: String,
    /// Whose it is, when it is a tenant's: damage closes this tenant alone.
    tenant: Option<TenantId>,
    /// The folder the file is in.
    pub folder: PathBuf,
    /// Whether the file's size is limited.
    capped: AtomicBool,
    /// Set once SQLite said that the file is damaged.
    corrupt: AtomicBool,
}

impl Health {
    /// Of a database of ours.
    pub(super) fn new(name: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), tenant: None, folder: folder.into(), capped: AtomicBool::new(false), corrupt: AtomicBool::new(false) }
    }

    /// Of a tenant's database; `capped` where its size is limited.
    pub(super) fn of_tenant(tenant: TenantId, folder: impl Into<PathBuf>, capped: bool) -> Self {
        Self { tenant: Some(tenant), capped: AtomicBool::new(capped), ..Self::new(format!("tenant {tenant}"), folder) }
    }

    /// Says whether the file's size is limited.
    pub(super) fn cap(&self, capped: bool) {
        self.capped.store(capped, Ordering::Release);
    }

    /// Whether SQLite said that the file is damaged.
    pub(super) fn is_corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Acquire)
    }

    /// The error in the product's words; remembers damage.
    #[allow(clippy::needless_pass_by_value, reason = "it is used as map_err(|e| health.error(e))")]
    pub(super) fn error(&self, error: rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                if !self.corrupt.swap(true, Ordering::AcqRel) {
                    tracing::error!(database = %self.name, %error, "the database file is damaged");
                }
                match self.tenant {
                    Some(_) => Error::TenantUnavailable,
                    None => Error::internal(format_args!("{}: {error}", self.name)),
                }
            }
            // Nothing but the limit on a read's time interrupts.
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OperationInterrupted) => {
                Error::Overloaded { retry_after: RETRY_AFTER }
            }
            Some(ErrorCode::DiskFull) if self.capped.load(Ordering::Acquire) && !self.disk_is_full() => Error::TenantFull,
            Some(ErrorCode::DiskFull) => Error::DiskFull,
            // A full disk shows as an I/O error where SQLite makes its side files.
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if self.disk_is_full() => Error::DiskFull,
            // The machine fails, perhaps not for long: what was to be written is tried again, and nobody takes it for a defect of ours.
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
                if self.tenant.is_some() =>
            {
                tracing::error!(database = %self.name, %error, "the database file cannot be read or written");
                Error::TenantUnavailable
            }
            _ => Error::internal(format_args!("{}: {error}", self.name)),
        }
    }

    fn disk_is_full(&self) -> bool {
        super::directory::disk_free_bytes(&self.folder).is_ok_and(|free| free < DISK_FULL_BYTES)
    }
}

/// Shorthand for results of rusqlite.
pub(super) trait Told<T> {
    /// The result with the error in the product's words.
    fn told(self, health: &Health) -> Result<T>;
}

impl<T> Told<T> for rusqlite::Result<T> {
    fn told(self, health: &Health) -> Result<T> {
        self.map_err(|error| health.error(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::{Error as Sqlite, ffi};

    #[test]
    fn a_failing_machine_is_told_from_a_defect_and_damage_is_remembered() {
        let failure = |code| Sqlite::SqliteFailure(ffi::Error::new(code), None);
        let folder = std::env::temp_dir();
        let tenant = Health::of_tenant(TenantId::new(), &folder, false);
        for code in [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_READONLY, ffi::SQLITE_CANTOPEN, ffi::SQLITE_PERM] {
            assert_eq!(tenant.error(failure(code)), Error::TenantUnavailable, "{code}");
        }
        assert!(!tenant.is_corrupt(), "a disk that fails is no damage: it is tried again");
        assert_eq!(tenant.error(failure(ffi::SQLITE_FULL)), Error::DiskFull);
        assert!(matches!(tenant.error(failure(ffi::SQLITE_BUSY)), Error::Overloaded { .. }));
        assert!(matches!(tenant.error(failure(ffi::SQLITE_CONSTRAINT)), Error::Internal { .. }));
        assert!(matches!(Health::new("catalog", &folder).error(failure(ffi::SQLITE_IOERR_WRITE)), Error::Internal { .. }));
        assert_eq!(tenant.error(failure(ffi::SQLITE_CORRUPT)), Error::TenantUnavailable);
        assert!(tenant.is_corrupt());
    }
}
