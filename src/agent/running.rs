//! What runs now, in memory: turns and their feeds, the queue before each conversation, idempotency keys in flight. One server holds a data
//! directory, so this is all there is to know; the turn's row in the tenant's file is what survives it.

use super::feed::Feed;
use crate::{
    config::Limits,
    error::{Error, Result},
    ids::{ConversationId, TenantId, TurnId},
    storage::Claim,
};
use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// A turn that runs or ran.
#[derive(Debug)]
pub struct TurnEntry {
    /// Its events.
    pub feed: Arc<Feed>,
    /// Stops it.
    pub cancel: CancellationToken,
}

/// All that runs. Every key begins with the tenant, from a proved credential: another tenant's turn is not found, as one that never was.
pub struct Running {
    turns: Mutex<Turns>,
    conversations: Mutex<HashMap<(TenantId, ConversationId), Arc<Semaphore>>>,
    claims: Mutex<HashMap<(TenantId, String), String>>,
    per_tenant: Mutex<HashMap<TenantId, usize>>,
    slots: Arc<Semaphore>,
    limits: Limits,
}

/// The turns that run, and those that ended not long ago.
#[derive(Default)]
struct Turns {
    running: HashMap<(TenantId, TurnId), Arc<TurnEntry>>,
    ended: HashMap<(TenantId, TurnId), Arc<TurnEntry>>,
    /// In the order of their ends, so that the oldest are found without a look at the others.
    ends: VecDeque<Ended>,
    /// What the events of the ended ones weigh.
    ended_bytes: usize,
}

struct Ended {
    key: (TenantId, TurnId),
    at: Instant,
    bytes: usize,
}

/// About what an ended turn weighs beside its events, in bytes.
const ENDED_BYTES: usize = 512;

impl Turns {
    /// Keeps an ended turn's events for a while, within the limits; the oldest go first.
    fn end(&mut self, key: (TenantId, TurnId), now: Instant, limits: &Limits) {
        if let Some(entry) = self.running.remove(&key) {
            let bytes = entry.feed.bytes();
            if bytes <= limits.turn_replay_bytes_max {
                let bytes = bytes + ENDED_BYTES;
                self.ended_bytes += bytes;
                self.ended.insert(key, entry);
                self.ends.push_back(Ended { key, at: now, bytes });
            }
        }
        self.expire(now, limits);
    }

    fn expire(&mut self, now: Instant, limits: &Limits) {
        let (bytes_max, kept_for) = (limits.turn_replay_total_bytes_max, limits.turn_replay_ms);
        while let Some(oldest) = self.ends.front()
            && (self.ended_bytes > bytes_max || now.duration_since(oldest.at) > kept_for)
        {
            self.ended_bytes -= oldest.bytes;
            self.ended.remove(&oldest.key);
            self.ends.pop_front();
        }
    }
}

impl Running {
    /// Nothing runs yet.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            turns: Mutex::default(),
            conversations: Mutex::default(),
            claims: Mutex::default(),
            per_tenant: Mutex::default(),
            slots: Arc::new(Semaphore::new(limits.turns_max.min(Semaphore::MAX_PERMITS))),
            limits: limits.clone(),
        })
    }

    /// Takes one of the places for running turns, of the server and of the tenant.
    pub fn slot(self: &Arc<Self>, tenant: TenantId) -> Result<Slot> {
        let retry_after = Duration::from_secs(1);
        let Ok(server) = Arc::clone(&self.slots).try_acquire_owned() else { return Err(Error::Overloaded { retry_after }) };
        let mut counts = lock(&self.per_tenant);
        let count = counts.get(&tenant).copied().unwrap_or_default();
        let parties = counts.len() + usize::from(count == 0);
        // The last quarter of the server's places is for tenants with less than an equal share, one for whoever comes next included.
        let scarce = self.slots.available_permits() < self.limits.turns_max / 4;
        let share = if scarce { (self.limits.turns_max / (parties + 1)).max(1) } else { usize::MAX };
        if count >= self.limits.turns_per_tenant_max.min(share) {
            return Err(Error::RateLimited { retry_after });
        }
        counts.insert(tenant, count + 1);
        drop(counts);
        Ok(Slot { running: Arc::clone(self), tenant, _server: server })
    }

    /// Notes an idempotency key in flight, until the guard is dropped.
    pub fn claim(self: &Arc<Self>, tenant: TenantId, route: &str, claim: &Claim) -> Result<ClaimGuard> {
        let key = (tenant, format!("{route} {}", claim.key));
        let mut claims = lock(&self.claims);
        match claims.get(&key) {
            Some(fingerprint) if *fingerprint != claim.fingerprint => Err(Error::IdempotencyKeyReused),
            Some(_) => Err(Error::IdempotencyInProgress { retry_after: Duration::from_secs(1) }),
            None => {
                claims.insert(key.clone(), claim.fingerprint.clone());
                Ok(ClaimGuard { running: Arc::clone(self), key })
            }
        }
    }

    /// Waits for a conversation, first come first served; nothing when it did not come free within `wait`.
    pub async fn conversation(
        self: &Arc<Self>,
        tenant: TenantId,
        conversation: ConversationId,
        wait: Duration,
    ) -> Option<ConversationGuard> {
        let key = (tenant, conversation);
        let gate = Arc::clone(lock(&self.conversations).entry(key).or_insert_with(|| Arc::new(Semaphore::new(1))));
        let permit = match Arc::clone(&gate).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => tokio::time::timeout(wait, Arc::clone(&gate).acquire_owned()).await.ok().and_then(std::result::Result::ok),
        };
        drop(gate);
        match permit {
            Some(permit) => Some(ConversationGuard { running: Arc::clone(self), key, permit: Some(permit) }),
            None => {
                self.conversation_forget(key);
                None
            }
        }
    }

    /// Removes a gate that nobody holds or waits at.
    fn conversation_forget(&self, key: (TenantId, ConversationId)) {
        let mut gates = lock(&self.conversations);
        if gates.get(&key).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            gates.remove(&key);
        }
    }

    /// Makes a turn known, so that it can be followed and cancelled.
    pub fn turn_begin(self: &Arc<Self>, tenant: TenantId, turn: TurnId) -> TurnGuard {
        let entry = Arc::new(TurnEntry { feed: Arc::default(), cancel: CancellationToken::new() });
        lock(&self.turns).running.insert((tenant, turn), Arc::clone(&entry));
        TurnGuard { running: Arc::clone(self), key: (tenant, turn), entry }
    }

    /// A turn of this tenant that runs, or ended not long ago.
    pub fn turn_find(&self, tenant: TenantId, turn: TurnId) -> Option<Arc<TurnEntry>> {
        let mut turns = lock(&self.turns);
        turns.expire(Instant::now(), &self.limits);
        let key = (tenant, turn);
        turns.running.get(&key).or_else(|| turns.ended.get(&key)).cloned()
    }

    /// How many turns run.
    pub fn turns_running(&self) -> usize {
        lock(&self.turns).running.len()
    }

    /// Cancels every turn that runs.
    pub fn cancel_all(&self) {
        for entry in lock(&self.turns).running.values() {
            entry.cancel.cancel();
        }
    }

    /// Cancels every running turn of a tenant.
    pub fn cancel_tenant(&self, tenant: TenantId) {
        for (_, entry) in lock(&self.turns).running.iter().filter(|((of, _), _)| *of == tenant) {
            entry.cancel.cancel();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each of these maps is changed by single calls, so a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget<K: Eq + Hash, V>(map: &Mutex<HashMap<K, V>>, key: &K) {
    lock(map).remove(key);
}

/// A place for a running turn.
pub struct Slot {
    running: Arc<Running>,
    tenant: TenantId,
    _server: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = lock(&self.running.per_tenant);
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

/// An idempotency key in flight.
pub struct ClaimGuard {
    running: Arc<Running>,
    key: (TenantId, String),
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        forget(&self.running.claims, &self.key);
    }
}

/// The right to work on a conversation.
pub struct ConversationGuard {
    running: Arc<Running>,
    key: (TenantId, ConversationId),
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for ConversationGuard {
    fn drop(&mut self) {
        self.permit = None;
        self.running.conversation_forget(self.key);
    }
}

/// A turn that runs.
pub struct TurnGuard {
    running: Arc<Running>,
    key: (TenantId, TurnId),
    /// The turn.
    pub entry: Arc<TurnEntry>,
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        // A driver that panicked left its followers waiting.
        self.entry.feed.push(super::feed::Event::Failed(Error::internal("a turn ended without an outcome")));
        lock(&self.running.turns).end(self.key, Instant::now(), &self.running.limits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(change: impl FnOnce(&mut Limits)) -> Arc<Running> {
        let mut limits = Limits::default();
        change(&mut limits);
        Running::new(&limits)
    }

    #[tokio::test]
    async fn a_conversation_is_one_turns_at_a_time_and_forgotten_when_free() {
        let running = running(|_| ());
        let (tenant, conversation) = (TenantId::new(), ConversationId::new());
        let first = running.conversation(tenant, conversation, Duration::ZERO).await.unwrap();
        assert!(running.conversation(tenant, conversation, Duration::ZERO).await.is_none());
        assert!(running.conversation(TenantId::new(), conversation, Duration::ZERO).await.is_some());
        let waiting = tokio::spawn({
            let running = Arc::clone(&running);
            async move { running.conversation(tenant, conversation, Duration::from_secs(60)).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
        assert!(lock(&running.conversations).is_empty());
    }

    #[test]
    fn places_are_bounded_for_a_tenant_and_for_the_server() {
        let running = running(|limits| (limits.turns_max, limits.turns_per_tenant_max) = (3, 2));
        let tenant = TenantId::new();
        let taken = [running.slot(tenant).unwrap(), running.slot(tenant).unwrap()];
        assert!(matches!(running.slot(tenant), Err(Error::RateLimited { .. })));
        let other = running.slot(TenantId::new()).unwrap();
        assert!(matches!(running.slot(TenantId::new()), Err(Error::Overloaded { .. })));
        drop((taken, other));
        assert!(running.slot(tenant).is_ok());
    }

    #[test]
    fn the_last_places_are_for_tenants_that_have_few() {
        let running = running(|limits| (limits.turns_max, limits.turns_per_tenant_max) = (40, 20));
        let (one, two, three) = (TenantId::new(), TenantId::new(), TenantId::new());
        let take = |tenant| std::iter::from_fn(|| running.slot(tenant).ok()).collect::<Vec<_>>();
        let first = take(one);
        assert_eq!(first.len(), 20);
        let second = take(two);
        assert_eq!(second.len(), 13, "less than a quarter is free, and it has a third");
        let late = take(three);
        assert_eq!(late.len(), 7, "a third finds places, whatever the two do");
        drop((first, second, late));
        assert!(lock(&running.per_tenant).is_empty());
    }

    #[test]
    fn a_turn_is_found_by_its_own_tenant_alone_and_not_for_ever() {
        let running = running(|limits| limits.turn_replay_ms = Duration::ZERO);
        let (tenant, turn) = (TenantId::new(), TurnId::new());
        let guard = running.turn_begin(tenant, turn);
        assert!(running.turn_find(tenant, turn).is_some());
        assert!(running.turn_find(TenantId::new(), turn).is_none());
        assert_eq!(running.turns_running(), 1);
        drop(guard);
        std::thread::sleep(Duration::from_millis(2));
        assert!(running.turn_find(tenant, turn).is_none());
        assert_eq!(running.turns_running(), 0);
    }

    #[test]
    fn ended_turns_are_kept_within_a_bound_and_the_oldest_go_first() {
        let running = running(|limits| (limits.turn_replay_bytes_max, limits.turn_replay_total_bytes_max) = (2_000, 5_000));
        let tenant = TenantId::new();
        let end = |bytes: usize| {
            let turn = TurnId::new();
            let guard = running.turn_begin(tenant, turn);
            guard.entry.feed.push(super::super::feed::Event::Delta("x".repeat(bytes)));
            turn
        };
        let turns = [end(1_000), end(3_000), end(1_000), end(1_000), end(1_000)];
        let found = turns.map(|turn| running.turn_find(tenant, turn).is_some());
        assert_eq!(found, [false, false, true, true, true], "too old, too large, kept");
        let kept = lock(&running.turns);
        assert_eq!((kept.running.len(), kept.ended.len(), kept.ends.len()), (0, 3, 3));
        assert!(kept.ended_bytes <= 5_000 && kept.ended_bytes > 3_000, "{}", kept.ended_bytes);
    }

    #[test]
    fn a_key_in_flight_is_told_from_one_that_stands_for_something_else() {
        let running = running(|_| ());
        let tenant = TenantId::new();
        let claim = |fingerprint: &str| Claim { key: "k".to_owned(), fingerprint: fingerprint.to_owned() };
        let guard = running.claim(tenant, "chat/1", &claim("a")).unwrap();
        assert!(matches!(running.claim(tenant, "chat/1", &claim("a")), Err(Error::IdempotencyInProgress { .. })));
        assert!(matches!(running.claim(tenant, "chat/1", &claim("b")), Err(Error::IdempotencyKeyReused)));
        assert!(running.claim(TenantId::new(), "chat/1", &claim("b")).is_ok());
        drop(guard);
        assert!(running.claim(tenant, "chat/1", &claim("b")).is_ok());
    }
}
