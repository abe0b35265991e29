//! What is known of one config's sandbox: whether it runs, who is calling it, when it was called, how often it crashed.

use super::yard::Up;
use crate::{
    agent::lock,
    config::Limits,
    egress::news::News,
    sandbox::{ExitCause, SandboxSpec, StopReason},
};
use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore};

/// Crashes so soon after one another make a sandbox be left alone.
const CRASHES_WITHIN: Duration = Duration::from_secs(60);
/// So many of them.
const CRASHES_MAX: usize = 3;
/// What is known of one config's sandbox.
pub(super) struct Slot {
    pub(super) up: tokio::sync::Mutex<Option<Arc<Up>>>,
    /// Those before it whose last calls are not done yet.
    pub(super) retired: Mutex<Vec<Weak<Up>>>,
    pub(super) calls: Semaphore,
    pub(super) in_flight: AtomicUsize,
    pub(super) booting: AtomicBool,
    pub(super) facts: Mutex<Facts>,
    /// What its processes reached or were refused, and nobody has written down yet.
    pub(super) news: Arc<News>,
    /// Told when someone is about to use the workspace.
    pub(super) disturbed: Notify,
}

pub(super) struct Facts {
    pub(super) used: Instant,
    pub(super) crashes: Vec<Instant>,
    pub(super) last_exit: Option<String>,
    pub(super) stderr: String,
    /// Its workspace for work on files alone, once it was started in this life.
    pub(super) plain: Option<SandboxSpec>,
    /// Tools ran since the workspace was last looked at for a snapshot.
    pub(super) unsaved: bool,
}

impl Slot {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            up: tokio::sync::Mutex::new(None),
            retired: Mutex::default(),
            calls: Semaphore::new(limits.sandbox_calls_at_once_max.clamp(1, Semaphore::MAX_PERMITS)),
            in_flight: AtomicUsize::new(0),
            booting: AtomicBool::new(false),
            facts: Mutex::new(Facts {
                used: Instant::now(),
                crashes: Vec::new(),
                last_exit: None,
                stderr: String::new(),
                plain: None,
                unsaved: false,
            }),
            news: Arc::default(),
            disturbed: Notify::new(),
        }
    }

    /// How long the sandbox is still to be left alone.
    pub(super) fn left_alone(&self, limits: &Limits) -> Option<Duration> {
        let facts = lock(&self.facts);
        let newest = *facts.crashes.last().filter(|_| facts.crashes.len() >= CRASHES_MAX)?;
        limits.sandbox_backoff_ms.checked_sub(newest.elapsed()).filter(|left| !left.is_zero())
    }

    /// Notes how its process ended.
    pub(super) fn ended(&self, cause: ExitCause, stderr: String) {
        let mut facts = lock(&self.facts);
        facts.last_exit = Some(cause.to_string());
        facts.stderr = stderr;
        if !matches!(cause, ExitCause::Stopped(StopReason::Idle | StopReason::Revoked | StopReason::Deadline) | ExitCause::Exit(0)) {
            let now = Instant::now();
            facts.crashes.retain(|crash| now.duration_since(*crash) < CRASHES_WITHIN);
            facts.crashes.push(now);
        }
    }

    /// Ends the processes of those whose last calls are not done yet.
    pub(super) async fn end_retired(&self, why: StopReason) {
        let retired = std::mem::take(&mut *lock(&self.retired));
        for up in retired.iter().filter_map(Weak::upgrade) {
            up.session.kill(why).await;
        }
    }

    pub(super) fn idle_for(&self) -> Option<Duration> {
        (self.in_flight.load(Ordering::SeqCst) == 0).then(|| lock(&self.facts).used.elapsed())
    }
}

/// One call in flight, as long as it lives.
pub(super) struct InFlight<'a>(&'a Slot);

impl<'a> InFlight<'a> {
    pub(super) fn new(slot: &'a Slot) -> Self {
        slot.in_flight.fetch_add(1, Ordering::SeqCst);
        slot.disturb();
        Self(slot)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        // Health checks and lists do not count: only calls keep a sandbox awake.
        let mut facts = lock(&self.0.facts);
        facts.used = Instant::now();
        facts.unsaved = true;
        drop(facts);
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a sandbox seems to run; who holds its lock is at work on it.
pub(super) fn is_up(slot: &Slot) -> bool {
    slot.up.try_lock().is_ok_and(|up| up.is_some())
}

/// Stops a sandbox that was idle for so long; answers whether it did.
pub(super) async fn stop_idle(slot: &Slot, idle: Duration) -> bool {
    if slot.idle_for().is_none_or(|for_| for_ < idle) {
        return false;
    }
    let Ok(mut state) = slot.up.try_lock() else { return false };
    // A call that came meanwhile waits for the lock, and starts it anew.
    if slot.idle_for().is_none_or(|for_| for_ < idle) {
        return false;
    }
    let Some(up) = state.take() else { return false };
    up.session.stop(StopReason::Idle).await;
    true
}
