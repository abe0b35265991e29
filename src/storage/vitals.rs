//! What storage is busy with, for the operator's metrics: numbers alone, of no tenant in particular.

use super::Storage;
use std::sync::atomic::Ordering;

/// Numbers of this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitals {
    /// Tenants whose files are open.
    pub tenants_open: usize,
    /// Proofs of keys that run or wait for a core.
    pub key_checks: usize,
    /// Proofs of keys that were made since the server began; what is remembered is not made again.
    pub key_checks_made: u64,
    /// Passwords that are hashed or wait for a core.
    pub password_checks: usize,
    /// Turns of an earlier run that were found cut off and closed, since this one began.
    pub turns_interrupted: u64,
    /// Statements run inside transactions since the process began.
    pub statements: u64,
    /// Commits of queued writes since the process began; each waits for the disk once.
    pub commits: u64,
}

impl Storage {
    /// What storage is busy with now. Cheap.
    pub fn vitals(&self) -> Vitals {
        let inner = &self.inner;
        let (statements, commits) = inner.engine.work_done();
        Vitals {
            tenants_open: inner.engine.tenants_open(),
            key_checks: inner.access.key_checks(),
            key_checks_made: inner.access.key_checks_made(),
            password_checks: inner.access.passwords.waiting(),
            turns_interrupted: inner.interrupted.load(Ordering::Relaxed),
            statements,
            commits,
        }
    }
}
