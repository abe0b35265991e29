//! Many writes, one commit: each write undone alone when it fails, all answered only once the commit is durable.

use super::{database::step, errors::Health, tx::SqliteTx};
use crate::{
    error::{Error, Result},
    storage::engine::Job,
};
use rusqlite::Connection;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

/// Commits of queued writes that this process asked the disk for, each an fsync of a log. One for the process, as it runs one server.
pub(super) static COMMITS: AtomicU64 = AtomicU64::new(0);

/// A write and, once it failed, why.
struct Entry {
    job: Box<dyn Job>,
    failed: Option<Error>,
}

/// Runs the jobs as one transaction and answers them. False when the commit itself failed: the connection is not to be used again.
pub(super) fn run(conn: &Connection, health: &Health, jobs: Vec<Box<dyn Job>>) -> bool {
    let mut entries: Vec<Entry> = jobs.into_iter().map(|job| Entry { job, failed: None }).collect();
    let (outcome, durable) = match transact(conn, health, &mut entries) {
        Ok(()) => (Ok(()), true),
        Err(Failure::Begin(error)) => (Err(error), true),
        Err(Failure::Commit(error)) => {
            tracing::error!(database = %health.name, %error, jobs = entries.len(), "a commit failed");
            (Err(error), false)
        }
    };
    for Entry { job, failed } in entries {
        // Where the commit failed, a job's own failure may rest on what a neighbour wrote and lost: then the commit's counts.
        let answer = outcome.clone().and_then(|()| failed.map_or(Ok(()), Err));
        answered(job, answer);
    }
    durable
}

/// Answers the jobs that none of them was done.
pub(super) fn refuse(jobs: impl IntoIterator<Item = Box<dyn Job>>, error: &Error) {
    for job in jobs {
        answered(job, Err(error.clone()));
    }
}

/// A caller's panic on hearing its answer is its own affair.
fn answered(job: Box<dyn Job>, answer: Result<()>) {
    if catch_unwind(AssertUnwindSafe(move || job.done(answer))).is_err() {
        tracing::error!("a write panicked on being answered");
    }
}

enum Failure {
    /// Nothing was begun, nothing was changed.
    Begin(Error),
    /// What was done is lost, or nobody knows.
    Commit(Error),
}

fn transact(conn: &Connection, health: &Health, entries: &mut [Entry]) -> std::result::Result<(), Failure> {
    // Each round but the last fails one more job, so it ends.
    loop {
        step(conn, "BEGIN IMMEDIATE", health).map_err(Failure::Begin)?;
        let alone = entries.iter().filter(|entry| entry.failed.is_none()).count() == 1;
        let mut done = 0;
        let mut lost = false;
        for entry in entries.iter_mut().filter(|entry| entry.failed.is_none()) {
            match one(conn, health, entry.job.as_mut(), alone) {
                Ending::Done => done += 1,
                Ending::Undone(error) => entry.failed = Some(error),
                Ending::Lost(error) => {
                    entry.failed = Some(error);
                    lost = true;
                    break;
                }
            }
        }
        if lost {
            if !conn.is_autocommit() {
                step(conn, "ROLLBACK", health).map_err(Failure::Commit)?;
            }
            if entries.iter().any(|entry| entry.failed.is_none()) {
                continue;
            }
            return Ok(());
        }
        let end = if done == 0 { "ROLLBACK" } else { "COMMIT" };
        crate::failpoint::hit_in(&health.name, "before-commit");
        let ended = step(conn, end, health);
        if done > 0 {
            COMMITS.fetch_add(1, Ordering::Relaxed);
        }
        crate::failpoint::hit_in(&health.name, "after-commit");
        return ended.map_err(|error| {
            if !conn.is_autocommit()
                && let Err(error) = step(conn, "ROLLBACK", health)
            {
                tracing::error!(database = %health.name, %error, "a failed commit could not be rolled back");
            }
            Failure::Commit(error)
        });
    }
}

/// How one job ended inside the transaction.
enum Ending {
    Done,
    /// It failed, and nothing of it is left.
    Undone(Error),
    /// It failed and took the whole transaction along, neighbours included: a full disk, an I/O error or want of memory may do that.
    Lost(Error),
}

/// Runs one job, undoing it alone when it fails. `alone` means that the transaction is all its own, to be rolled back by the caller.
fn one(conn: &Connection, health: &Health, job: &mut dyn Job, alone: bool) -> Ending {
    if !alone && let Err(error) = step(conn, "SAVEPOINT job", health) {
        return Ending::Lost(error);
    }
    // A panic in one caller's work must not take its neighbours along; what it half did is rolled back like any failure.
    let outcome = catch_unwind(AssertUnwindSafe(|| job.run(&mut SqliteTx::new(conn, health))))
        .unwrap_or_else(|_| Err(Error::internal("a write panicked")));
    if conn.is_autocommit() {
        return Ending::Lost(outcome.err().unwrap_or_else(|| Error::internal("a write's transaction ended under it")));
    }
    let ended = match (&outcome, alone) {
        (_, true) => Ok(()),
        (Ok(()), false) => step(conn, "RELEASE job", health),
        (Err(_), false) => step(conn, "ROLLBACK TO job", health).and_then(|()| step(conn, "RELEASE job", health)),
    };
    match (outcome, ended) {
        (_, Err(error)) => Ending::Lost(error),
        (Ok(()), Ok(())) => Ending::Done,
        (Err(error), Ok(())) => Ending::Undone(error),
    }
}
