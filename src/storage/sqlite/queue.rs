//! The writes that wait for one database, and who works on them.

use crate::{
    error::Error,
    storage::engine::{Job, Turnout},
};
use parking_lot::Mutex;
use std::{collections::VecDeque, time::Duration};

/// Jobs that share one commit at most, so that the first of them does not wait for all of a flood.
const BATCH_MAX: usize = 256;

/// What a caller is told to wait when the queue is full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A bounded queue with at most one drainer.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    jobs_max: usize,
}

struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    /// Someone was told to drain, and not yet that nothing is left.
    drained: bool,
}

impl Queue {
    pub(super) fn new(jobs_max: usize) -> Self {
        Self { waiting: Mutex::new(Waiting { jobs: VecDeque::new(), drained: false }), jobs_max: jobs_max.max(1) }
    }

    /// Lets a job wait; a full queue gives it back, for [`turned_away`].
    pub(super) fn push(&self, job: Box<dyn Job>) -> Result<Turnout, Box<dyn Job>> {
        let mut waiting = self.waiting.lock();
        if waiting.jobs.len() >= self.jobs_max {
            return Err(job);
        }
        waiting.jobs.push_back(job);
        Ok(if std::mem::replace(&mut waiting.drained, true) { Turnout::Queued } else { Turnout::Drain })
    }

    /// What shares the next commit; none when the queue is empty.
    pub(super) fn take(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut waiting = self.waiting.lock();
        let count = waiting.jobs.len().min(BATCH_MAX);
        (count > 0).then(|| waiting.jobs.drain(..count).collect())
    }

    /// What is to be done after a commit: drain again, or nothing, and then the next to come drains.
    pub(super) fn left(&self) -> Turnout {
        let mut waiting = self.waiting.lock();
        waiting.drained = !waiting.jobs.is_empty();
        if waiting.drained { Turnout::Drain } else { Turnout::Queued }
    }

    /// Refuses all that waits.
    pub(super) fn refuse(&self, error: &Error) {
        let jobs = std::mem::take(&mut self.waiting.lock().jobs);
        super::batch::refuse(jobs, error);
    }

    /// Whether nothing waits and nobody works on it.
    pub(super) fn is_idle(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.jobs.is_empty() && !waiting.drained
    }

    /// Frees the queue for the next drainer should this one panic, whose jobs would else wait for ever.
    pub(super) fn drainer(&self) -> Drainer<'_> {
        Drainer { queue: self }
    }
}

/// Tells a job that its queue was full. It may let go of what it holds, so no lock may be held here.
pub(super) fn turned_away(job: Box<dyn Job>) -> Turnout {
    job.done(Err(Error::Overloaded { retry_after: RETRY_AFTER }));
    Turnout::Queued
}

/// One who works on a queue.
pub(super) struct Drainer<'a> {
    queue: &'a Queue,
}

impl Drop for Drainer<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.refuse(&Error::internal("the writer panicked"));
            self.queue.waiting.lock().drained = false;
        }
    }
}
