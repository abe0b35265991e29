//! Proofs by argon2: run on permits of their own behind a short queue, once for a text however many bring it, and remembered for a
//! while.
//!
//! What is remembered is "this text is that key's", never "that key may": permission is looked up at every request (`access`).

use crate::{
    config::Limits,
    error::{Error, Result},
    fair::{Fair, Full, Places},
    ids::{KeyId, TenantId},
    secret::{KeyHash, KeyText},
};
use quick_cache::sync::Cache;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Different texts that may wait to be tried on one key, so that guessing at one leaves the queue to the others. A key that many requests
/// bring at once is one text.
const TEXTS_PER_KEY_MAX: usize = 16;
/// What a refused caller is told to wait: the whole queue is worked off sooner.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Slow hashing, bounded: so many at once, so many waiting, the rest refused.
pub(super) struct Checks {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue_max: usize,
}

/// A place in the queue of [`Checks`]; given back when dropped.
struct Waiting<'a>(&'a Checks);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Checks {
    pub(super) fn new(at_once: usize, queue_max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once.max(1))), waiting: AtomicUsize::new(0), queue_max: queue_max.max(1) }
    }

    /// How many run or wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn queue(&self) -> Result<Waiting<'_>> {
        let waiting = Waiting(self);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue_max {
            return Err(Error::TooManyChecks { retry_after: RETRY_AFTER });
        }
        Ok(waiting)
    }

    /// Runs slow work on a blocking thread; [`Error::TooManyChecks`] when too many wait already.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let waiting = self.queue()?;
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(Error::internal)?;
        drop(waiting);
        // The permit goes along: a caller that went away must not let more run at once than there are cores.
        let run = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(run).await.map_err(Error::internal)
    }
}

/// What tells a key's hash from its next one.
pub(super) fn version_of(hash: &KeyHash) -> blake3::Hash {
    blake3::hash(hash.as_str().as_bytes())
}

/// What is known of one presented text.
#[derive(Clone, Copy)]
struct Known {
    key: KeyId,
    /// Which hash it was compared with.
    hash: blake3::Hash,
    until: Instant,
}

/// The texts that were proved, and those that were proved wrong, each under a keyed hash.
pub(super) struct Proofs {
    /// Random for this process, so that what is in memory fits no table made elsewhere.
    secret: [u8; 32],
    right: Cache<[u8; 32], Known>,
    wrong: Cache<[u8; 32], Known>,
    keep: Duration,
    flights: Mutex<Flights>,
    /// The cores, taken by tenants in turn: one that brings many new keys at once waits behind itself.
    checks: Arc<Fair<TenantId>>,
    /// Texts that were tried since the start.
    tried: AtomicU64,
}

impl Proofs {
    /// How many run or wait.
    pub(super) fn waiting(&self) -> usize {
        self.checks.count()
    }

    /// How many texts were tried since the start.
    pub(super) fn tried(&self) -> u64 {
        self.tried.load(Ordering::Relaxed)
    }

    pub(super) fn new(limits: &Limits) -> Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| Error::internal(format!("no randomness: {error}")))?;
        let waiting = limits.key_checks_queue_max.max(1);
        let places = Places { at_once: cores(), at_once_each: cores(), waiting, waiting_each: waiting.div_ceil(2) };
        Ok(Self {
            secret,
            right: Cache::new(limits.key_proofs_max.max(1)),
            // Apart from the others: guessing must not push out what was proved.
            wrong: Cache::new((limits.key_proofs_max / 8).max(1)),
            keep: limits.key_proof_ms,
            flights: Mutex::default(),
            checks: Fair::new(places),
            tried: AtomicU64::new(0),
        })
    }

    /// What is remembered of `text` as the key with this id and hash, by [`version_of`] it; nothing where it has to be proved.
    pub(super) fn remembered(&self, text: &str, key: KeyId, version: blake3::Hash) -> Option<bool> {
        self.known(blake3::keyed_hash(&self.secret, text.as_bytes()).as_bytes(), key, version)
    }

    /// Whether `text` (of which `parsed` are the parts) is the key with this id and hash, of this tenant.
    pub(super) async fn prove(&self, text: &str, parsed: KeyText<'_>, (tenant, key): (TenantId, KeyId), hash: &KeyHash) -> Result<bool> {
        let tag = *blake3::keyed_hash(&self.secret, text.as_bytes()).as_bytes();
        let version = version_of(hash);
        if let Some(known) = self.known(&tag, key, version) {
            return Ok(known);
        }
        let flight = self.flight(tag);
        let _turn = flight.lock.lock().await;
        // Whoever was before us has perhaps proved the same text.
        if let Some(known) = self.known(&tag, key, version) {
            return Ok(known);
        }
        let _guess = self.guess(key)?;
        let place = self.checks.enter(tenant).await.map_err(|Full| Error::TooManyChecks { retry_after: RETRY_AFTER })?;
        self.tried.fetch_add(1, Ordering::Relaxed);
        let (presented, stored) = (parsed.kept(), hash.clone());
        let run = move || {
            // The place goes along: a caller that went away must not let more run at once than there are cores.
            let _place = place;
            stored.proves(&presented.text())
        };
        let right = tokio::task::spawn_blocking(run).await.map_err(Error::internal)?;
        let known = Known { key, hash: version, until: Instant::now() + self.keep };
        if right { &self.right } else { &self.wrong }.insert(tag, known);
        Ok(right)
    }

    fn known(&self, tag: &[u8; 32], key: KeyId, hash: blake3::Hash) -> Option<bool> {
        let stands = |known: Known| known.key == key && known.hash == hash && Instant::now() < known.until;
        if self.right.get(tag).is_some_and(stands) {
            return Some(true);
        }
        self.wrong.get(tag).is_some_and(stands).then_some(false)
    }

    /// The turn-taking of one text's proofs: the first does the work, the others find it done.
    fn flight(&self, tag: [u8; 32]) -> Flight<'_> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Arc::clone(flights.texts.entry(tag).or_default());
        Flight { proofs: self, tag, lock }
    }

    /// A place among the texts that are tried on one key.
    fn guess(&self, key: KeyId) -> Result<Guess<'_>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let tried = flights.keys.entry(key).or_default();
        if *tried >= TEXTS_PER_KEY_MAX {
            return Err(Error::TooManyChecks { retry_after: RETRY_AFTER });
        }
        *tried += 1;
        Ok(Guess { proofs: self, key })
    }
}

/// What is being proved at this moment.
#[derive(Default)]
struct Flights {
    texts: HashMap<[u8; 32], Arc<tokio::sync::Mutex<()>>>,
    keys: HashMap<KeyId, usize>,
}

/// One request among those that bring the same text; the last one out forgets the text.
struct Flight<'a> {
    proofs: &'a Proofs,
    tag: [u8; 32],
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.proofs.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours: nobody can take another while the map is locked.
        if Arc::strong_count(&self.lock) == 2 {
            flights.texts.remove(&self.tag);
        }
    }
}

/// One text among those that are tried on the same key.
struct Guess<'a> {
    proofs: &'a Proofs,
    key: KeyId,
}

impl Drop for Guess<'_> {
    fn drop(&mut self) {
        let mut flights = self.proofs.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tried) = flights.keys.get_mut(&self.key) {
            *tried -= 1;
            if *tried == 0 {
                flights.keys.remove(&self.key);
            }
        }
    }
}

/// How many hash at once.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::NewKey;

    fn proofs(limits: &Limits) -> Proofs {
        Proofs::new(limits).unwrap()
    }

    #[tokio::test]
    async fn a_proof_is_remembered_for_its_key_and_hash_only() {
        let proofs = proofs(&Limits::default());
        let (key, other) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
        let (text, wrong) = (key.text().expose(), other.text().expose());
        let parse = |text| KeyText::parse(text).unwrap();
        let (id, hash) = ((TenantId::new(), KeyId::new()), KeyHash::of(&parse(text)).unwrap());
        assert!(proofs.prove(text, parse(text), id, &hash).await.unwrap());
        assert!(!proofs.prove(wrong, parse(wrong), id, &hash).await.unwrap());
        assert_eq!((proofs.right.len(), proofs.wrong.len()), (1, 1));
        assert_eq!(proofs.tried(), 2);
        assert!(proofs.prove(text, parse(text), id, &hash).await.unwrap());
        assert!(!proofs.prove(wrong, parse(wrong), id, &hash).await.unwrap());
        // Of another key, or of another hash of this one, nothing is known.
        assert_eq!(proofs.tried(), 2, "remembered");
        assert!(proofs.prove(text, parse(text), (id.0, KeyId::new()), &hash).await.unwrap());
        assert!(proofs.prove(text, parse(text), id, &KeyHash::of(&parse(text)).unwrap()).await.unwrap());
        assert_eq!(proofs.tried(), 4);
        let flights = proofs.flights.lock().unwrap();
        assert!(flights.texts.is_empty() && flights.keys.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_burst_with_one_key_is_one_proof_and_guessing_at_it_is_bounded() {
        let proofs = Arc::new(proofs(&Limits { key_checks_queue_max: 4, ..Limits::default() }));
        let key = Arc::new(NewKey::generate().unwrap());
        let (id, hash) = ((TenantId::new(), KeyId::new()), KeyHash::of(&KeyText::parse(key.text().expose()).unwrap()).unwrap());
        let mut burst = tokio::task::JoinSet::new();
        for _ in 0..500 {
            let (proofs, key, hash) = (Arc::clone(&proofs), Arc::clone(&key), hash.clone());
            burst.spawn(async move {
                let text = key.text().expose();
                proofs.prove(text, KeyText::parse(text).unwrap(), id, &hash).await
            });
        }
        assert!(burst.join_all().await.into_iter().all(|outcome| outcome == Ok(true)));
        let guesses: Vec<_> = (0..TEXTS_PER_KEY_MAX).map(|_| proofs.guess(id.1).unwrap()).collect();
        assert_eq!(proofs.guess(id.1).err(), Some(Error::TooManyChecks { retry_after: RETRY_AFTER }));
        assert!(proofs.guess(KeyId::new()).is_ok(), "other keys have places of their own");
        drop(guesses);
        assert!(proofs.guess(id.1).is_ok());
    }

    #[tokio::test]
    async fn a_proof_is_forgotten_after_its_time() {
        let proofs = proofs(&Limits { key_proof_ms: Duration::ZERO, ..Limits::default() });
        let key = NewKey::generate().unwrap();
        let parsed = KeyText::parse(key.text().expose()).unwrap();
        let (id, hash) = ((TenantId::new(), KeyId::new()), KeyHash::of(&parsed).unwrap());
        assert!(proofs.prove(key.text().expose(), parsed, id, &hash).await.unwrap());
        assert!(proofs.prove(key.text().expose(), parsed, id, &hash).await.unwrap());
        assert_eq!(proofs.tried(), 2);
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_empties_again() {
        let checks = Checks::new(1, 2);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let first = checks.run(move || wait.recv().is_ok());
        let both = async {
            // Polled after the first has its permit: two more may wait, a third may not.
            tokio::task::yield_now().await;
            let (second, third) = (checks.queue().unwrap(), checks.queue().unwrap());
            assert_eq!(checks.queue().map(drop), Err(Error::TooManyChecks { retry_after: RETRY_AFTER }));
            drop(second);
            assert!(checks.queue().is_ok());
            drop(third);
            go.send(()).unwrap();
            checks.run(|| 7).await
        };
        assert_eq!(tokio::join!(first, both), (Ok(true), Ok(7)));
        assert_eq!(checks.waiting.load(Ordering::Relaxed), 0);
    }
}
