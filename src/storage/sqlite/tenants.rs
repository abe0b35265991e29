//! The bounded cache of open tenants: who is open, who is being opened or closed, who is closed for good.
//!
//! One lock guards all states and is never held while a file is opened, closed or worked on. What waits for a state waits on a blocking
//! thread, with a limit.

use super::{
    database::Database,
    queue::{Queue, turned_away},
    search::Fill,
};
use crate::{
    error::{Error, Result},
    ids::TenantId,
    storage::engine::{Job, Lease, Turnout},
};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Readers of one tenant.
pub(super) const READERS_MAX: u32 = 2;

/// How long a removal waits for the tenant's running reads and writes.
const REMOVE_WAIT: Duration = Duration::from_secs(30);

/// Why a tenant could not be opened.
pub(super) enum Trouble {
    /// The file is not what it should be: this tenant alone is closed until someone looks. The text is for the log.
    Unfit(String),
    /// Something that may pass.
    Passing(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Passing(error)
    }
}

/// Opens one tenant's file; blocks.
pub(super) type Opener = dyn Fn(TenantId) -> std::result::Result<Database, Trouble> + Send + Sync;

/// The cache.
pub(super) struct Tenants {
    cache: Mutex<Cache>,
    /// Told of every change of state.
    changed: Condvar,
    opener: Box<Opener>,
    open_max: usize,
    queue_max: usize,
    wait: Duration,
}

struct Cache {
    entries: HashMap<TenantId, Entry>,
    /// Files that are open, being opened or being closed.
    open: usize,
    /// Grows with every use; tells who was used longest ago.
    tick: u64,
    closing: bool,
}

struct Entry {
    state: State,
    /// Reads and drains that run on the file now.
    busy: usize,
    used: u64,
    queue: Arc<Queue>,
    readers: Arc<Semaphore>,
    /// Cloned for every lease.
    lease: Arc<()>,
}

enum State {
    Closed,
    Opening,
    Open(Arc<Database>),
    /// Being closed, or about to be removed: nobody may begin to use it.
    Draining,
    Quarantined,
}

impl Entry {
    fn new(queue_max: usize) -> Self {
        Self {
            state: State::Closed,
            busy: 0,
            used: 0,
            queue: Arc::new(Queue::new(queue_max)),
            readers: Arc::new(Semaphore::new(READERS_MAX as usize)),
            lease: Arc::new(()),
        }
    }

    /// Whether nobody needs it: no lease, no work, none waiting.
    fn is_idle(&self) -> bool {
        self.busy == 0 && Arc::strong_count(&self.lease) == 1 && self.queue.is_idle()
    }
}

impl Tenants {
    pub(super) fn new(opener: Box<Opener>, open_max: usize, queue_max: usize, wait: Duration) -> Arc<Self> {
        let cache = Cache { entries: HashMap::new(), open: 0, tick: 0, closing: false };
        Arc::new(Self { cache: Mutex::new(cache), changed: Condvar::new(), opener, open_max: open_max.max(1), queue_max, wait })
    }

    /// Uses a tenant's database, opening it first where it is closed; blocks.
    pub(super) fn acquire(self: &Arc<Self>, tenant: TenantId) -> Result<InUse> {
        let mut cache = self.cache.lock();
        let acquired = self.acquire_in(&mut cache, tenant);
        if acquired.is_err() {
            self.forget(&mut cache, tenant);
        }
        acquired
    }

    fn acquire_in(self: &Arc<Self>, cache: &mut MutexGuard<'_, Cache>, tenant: TenantId) -> Result<InUse> {
        let deadline = Instant::now() + self.wait;
        loop {
            if cache.closing {
                return Err(Error::ShuttingDown);
            }
            let full = cache.open >= self.open_max;
            cache.tick += 1;
            let tick = cache.tick;
            let entry = cache.entries.entry(tenant).or_insert_with(|| Entry::new(self.queue_max));
            match &entry.state {
                State::Open(database) => {
                    entry.busy += 1;
                    entry.used = tick;
                    let ticket = Ticket { tenants: Arc::clone(self), tenant };
                    return Ok(InUse { database: Arc::clone(database), _ticket: ticket });
                }
                State::Quarantined => return Err(Error::TenantUnavailable),
                State::Closed if !full => self.open(cache, tenant)?,
                State::Closed => {
                    if !self.evict(cache) {
                        self.wait_until(cache, deadline)?;
                    }
                }
                State::Opening | State::Draining => self.wait_until(cache, deadline)?,
            }
        }
    }

    fn wait_until(&self, cache: &mut MutexGuard<'_, Cache>, deadline: Instant) -> Result<()> {
        let now = Instant::now();
        if now >= deadline {
            return Err(Error::Overloaded { retry_after: Duration::from_secs(1) });
        }
        // A lease that ends tells nobody, so look again now and then.
        self.changed.wait_until(cache, deadline.min(now + Duration::from_millis(20)));
        Ok(())
    }

    /// Opens a closed tenant.
    fn open(&self, cache: &mut MutexGuard<'_, Cache>, tenant: TenantId) -> Result<()> {
        cache.open += 1;
        self.set(cache, tenant, State::Opening);
        let opened = MutexGuard::unlocked(cache, || {
            // A panic must not leave the tenant half open for ever.
            catch_unwind(AssertUnwindSafe(|| (self.opener)(tenant)))
                .unwrap_or_else(|_| Err(Trouble::Passing(Error::internal("opening a tenant panicked"))))
        });
        let (state, outcome) = match opened {
            Ok(database) => (State::Open(Arc::new(database)), Ok(())),
            Err(Trouble::Unfit(why)) => {
                tracing::error!(%tenant, why, "tenant is quarantined");
                (State::Quarantined, Err(Error::TenantUnavailable))
            }
            Err(Trouble::Passing(error)) => (State::Closed, Err(error)),
        };
        if outcome.is_err() {
            cache.open -= 1;
        }
        self.set(cache, tenant, state);
        self.forget(cache, tenant);
        outcome
    }

    /// Closes the tenant that was used longest ago among those that nobody needs. False when there is none.
    fn evict(&self, cache: &mut MutexGuard<'_, Cache>) -> bool {
        let idle = cache.entries.iter().filter(|(_, entry)| matches!(entry.state, State::Open(_)) && entry.is_idle());
        let Some(tenant) = idle.min_by_key(|(_, entry)| entry.used).map(|(tenant, _)| *tenant) else { return false };
        self.shut(cache, tenant, State::Closed);
        true
    }

    /// Closes an open tenant that nobody works on, and leaves it in the state.
    fn shut(&self, cache: &mut MutexGuard<'_, Cache>, tenant: TenantId, then: State) {
        let was = self.set(cache, tenant, State::Draining);
        if let Some(State::Open(database)) = was {
            MutexGuard::unlocked(cache, || drop(database));
            cache.open -= 1;
        }
        self.set(cache, tenant, then);
        self.forget(cache, tenant);
    }

    /// Puts a tenant into a state, and tells; answers the state before.
    fn set(&self, cache: &mut Cache, tenant: TenantId, state: State) -> Option<State> {
        let was = cache.entries.get_mut(&tenant).map(|entry| std::mem::replace(&mut entry.state, state));
        self.changed.notify_all();
        was
    }

    /// Drops the entry of a closed tenant that nobody needs, so that the map stays as small as its use.
    #[allow(clippy::unused_self)]
    fn forget(&self, cache: &mut Cache, tenant: TenantId) {
        if cache.entries.get(&tenant).is_some_and(|entry| matches!(entry.state, State::Closed) && entry.is_idle()) {
            cache.entries.remove(&tenant);
        }
    }

    /// Keeps a tenant open; opens it, which blocks.
    pub(super) fn lease(self: &Arc<Self>, tenant: TenantId) -> Result<Lease> {
        let in_use = self.acquire(tenant)?;
        let lease = self.lease_open(tenant).ok_or(Error::TenantUnavailable);
        drop(in_use);
        lease
    }

    /// Keeps a tenant open that is.
    pub(super) fn lease_open(&self, tenant: TenantId) -> Option<Lease> {
        let mut cache = self.cache.lock();
        cache.tick += 1;
        let tick = cache.tick;
        let entry = cache.entries.get_mut(&tenant).filter(|entry| matches!(entry.state, State::Open(_)))?;
        entry.used = tick;
        Some(Arc::clone(&entry.lease) as Lease)
    }

    /// Says how large an open tenant's file may grow from its next write on.
    pub(super) fn limit(&self, tenant: TenantId, bytes_max: Option<u64>) {
        if let Some(State::Open(database)) = self.cache.lock().entries.get(&tenant).map(|entry| &entry.state) {
            database.limit(bytes_max);
        }
    }

    /// The permits of a tenant's readers.
    pub(super) fn readers(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut cache = self.cache.lock();
        Arc::clone(&cache.entries.entry(tenant).or_insert_with(|| Entry::new(self.queue_max)).readers)
    }

    /// Lets a write wait. The entry cannot be taken away meanwhile: a job in a queue that nobody finds again would never be answered.
    pub(super) fn push(&self, tenant: TenantId, job: Box<dyn Job>) -> Turnout {
        let mut cache = self.cache.lock();
        if cache.closing {
            drop(cache);
            job.done(Err(Error::ShuttingDown));
            return Turnout::Queued;
        }
        let pushed = cache.entries.entry(tenant).or_insert_with(|| Entry::new(self.queue_max)).queue.push(job);
        drop(cache);
        pushed.unwrap_or_else(turned_away)
    }

    /// Works on what waits in a tenant's queue, and says whether more came meanwhile; blocks.
    pub(super) fn drain(self: &Arc<Self>, tenant: TenantId) -> Turnout {
        let queue = self.cache.lock().entries.get(&tenant).map(|entry| Arc::clone(&entry.queue));
        let Some(queue) = queue else { return Turnout::Queued };
        let drainer = queue.drainer();
        if let Some(mut jobs) = queue.take() {
            match self.acquire(tenant) {
                Ok(in_use) => {
                    if in_use.database.is_search_due(jobs.len()) {
                        jobs.push(Box::new(Fill(tenant)));
                    }
                    in_use.database.write(jobs);
                }
                Err(error) => super::batch::refuse(jobs, &error),
            }
        }
        let left = queue.left();
        drop(drainer);
        if left == Turnout::Queued {
            let mut cache = self.cache.lock();
            self.forget(&mut cache, tenant);
        }
        left
    }

    /// Waits until nobody works on the tenant's file, closes it, lets `work` have it, and leaves it closed. Lifts a quarantine.
    pub(super) fn alone<T>(&self, tenant: TenantId, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + REMOVE_WAIT;
        let mut cache = self.cache.lock();
        // Others who open, close or remove it come first.
        let database = loop {
            let entry = cache.entries.entry(tenant).or_insert_with(|| Entry::new(self.queue_max));
            match std::mem::replace(&mut entry.state, State::Draining) {
                State::Open(database) => break Some(database),
                State::Closed | State::Quarantined => break None,
                other => entry.state = other,
            }
            self.wait_until(&mut cache, deadline)?;
        };
        let held = database.is_some();
        let mut outcome = Ok(());
        while outcome.is_ok() && cache.entries.get(&tenant).is_some_and(|entry| entry.busy > 0) {
            outcome = self.wait_until(&mut cache, deadline);
        }
        if let Err(error) = outcome {
            self.set(&mut cache, tenant, database.map_or(State::Closed, State::Open));
            return Err(error);
        }
        let outcome = MutexGuard::unlocked(&mut cache, || {
            drop(database);
            catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Error::internal("work on a closed tenant panicked")))
        });
        if held {
            cache.open -= 1;
        }
        // Leases that are still about belong to the tenant as it was; whoever comes now begins anew.
        let entry = cache.entries.remove(&tenant);
        self.changed.notify_all();
        drop(cache);
        if let Some(entry) = entry {
            entry.queue.refuse(&Error::TenantUnavailable);
        }
        outcome
    }

    /// Waits for running work up to a limit, then closes every file. Nothing opens again.
    pub(super) fn close(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        let mut cache = self.cache.lock();
        cache.closing = true;
        while cache.entries.values().any(|entry| entry.busy > 0 || matches!(entry.state, State::Opening | State::Draining))
            && self.wait_until(&mut cache, deadline).is_ok()
        {}
        let entries = std::mem::take(&mut cache.entries);
        cache.open = 0;
        drop(cache);
        let mut databases = Vec::new();
        for (_, entry) in entries {
            entry.queue.refuse(&Error::ShuttingDown);
            if let State::Open(database) = entry.state {
                databases.push(database);
            }
        }
        // Closing moves each log into its file and waits for the disk: eight at a time.
        let share = databases.len().div_ceil(8).max(1);
        std::thread::scope(|scope| {
            while !databases.is_empty() {
                let some = databases.split_off(databases.len().saturating_sub(share));
                scope.spawn(move || drop(some));
            }
        });
    }

    /// How many files are open.
    pub(super) fn open_count(&self) -> usize {
        self.cache.lock().open
    }

    fn release(&self, tenant: TenantId) {
        let mut cache = self.cache.lock();
        let Some(entry) = cache.entries.get_mut(&tenant) else { return };
        entry.busy = entry.busy.saturating_sub(1);
        if entry.busy > 0 {
            return;
        }
        if matches!(&entry.state, State::Open(database) if database.health.is_corrupt()) {
            tracing::error!(%tenant, "tenant is quarantined: its file is damaged");
            self.shut(&mut cache, tenant, State::Quarantined);
        } else {
            self.changed.notify_all();
        }
    }
}

/// A tenant's database in use: not closed as long as this lives. The fields drop in their order, so that nothing of the database is left
/// here once the ticket says that the use ended.
pub(super) struct InUse {
    pub database: Arc<Database>,
    _ticket: Ticket,
}

struct Ticket {
    tenants: Arc<Tenants>,
    tenant: TenantId,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tenants.release(self.tenant);
    }
}
