//! Places that parties take in turn: whoever asks for many waits behind itself, not before the others. It knows no tenants and no requests.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// How many places there are, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// For all together.
    pub at_once: usize,
    /// For one party, whatever is free.
    pub at_once_each: usize,
    /// Who may wait, of all together.
    pub waiting: usize,
    /// Who may wait, of one party.
    pub waiting_each: usize,
}

/// As many wait already as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A bounded number of places. Free ones go to the waiting parties round robin, within a party in the order of coming.
pub struct Fair<K: Copy + Eq + Hash> {
    places: Places,
    state: Mutex<State<K>>,
}

struct State<K: Copy + Eq + Hash> {
    taken: usize,
    waiting: usize,
    parties: HashMap<K, Party<K>>,
    /// The parties that wait, each once, in the order in which it is their turn.
    turns: VecDeque<K>,
}

struct Party<K: Copy + Eq + Hash> {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Pass<K>>>,
}

/// A place; given back when dropped.
pub struct Pass<K: Copy + Eq + Hash> {
    fair: Arc<Fair<K>>,
    key: K,
}

impl<K: Copy + Eq + Hash> Fair<K> {
    /// All places are free.
    pub fn new(places: Places) -> Arc<Self> {
        let places = Places { at_once: places.at_once.max(1), at_once_each: places.at_once_each.max(1), ..places };
        Arc::new(Self { places, state: Mutex::new(State { taken: 0, waiting: 0, parties: HashMap::new(), turns: VecDeque::new() }) })
    }

    /// Waits for a place. Whoever stops waiting gives up nothing but its turn.
    pub async fn enter(self: &Arc<Self>, key: K) -> Result<Pass<K>, Full> {
        let waiting = {
            let mut state = self.lock();
            let party = state.parties.get(&key);
            let (taken, own) = party.map_or((0, 0), |party| (party.taken, party.waiting.len()));
            if state.taken < self.places.at_once && taken < self.places.at_once_each {
                // Others may wait only for want of places of their own, and this party for none: a free place is nobody else's turn.
                state.taken += 1;
                state.parties.entry(key).or_insert_with(Party::none).taken += 1;
                return Ok(Pass { fair: Arc::clone(self), key });
            }
            if own >= self.places.waiting_each || state.waiting >= self.places.waiting {
                return Err(Full);
            }
            let (sender, receiver) = oneshot::channel();
            state.parties.entry(key).or_insert_with(Party::none).waiting.push_back(sender);
            state.waiting += 1;
            if own == 0 {
                state.turns.push_back(key);
            }
            receiver
        };
        waiting.await.map_err(|_| Full)
    }

    /// Who has a place or waits for one.
    pub fn count(&self) -> usize {
        let state = self.lock();
        state.taken + state.waiting
    }

    fn release(self: &Arc<Self>, key: K) {
        let given = {
            let mut state = self.lock();
            state.taken -= 1;
            if let Some(party) = state.parties.get_mut(&key) {
                party.taken -= 1;
            }
            let given = self.give(&mut state);
            if state.parties.get(&key).is_some_and(Party::is_idle) {
                state.parties.remove(&key);
            }
            given
        };
        // Not under the lock: who no longer waits for its place gives it back at once, which takes the lock again.
        for (sender, pass) in given {
            drop(sender.send(pass));
        }
    }

    /// Gives free places to those who wait, each party one before any gets another.
    fn give(self: &Arc<Self>, state: &mut State<K>) -> Vec<(oneshot::Sender<Pass<K>>, Pass<K>)> {
        let mut given = Vec::new();
        let mut passed_over = 0;
        while state.taken < self.places.at_once && passed_over < state.turns.len() {
            let Some(key) = state.turns.pop_front() else { break };
            let Some(party) = state.parties.get_mut(&key) else { continue };
            while party.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                party.waiting.pop_front();
                state.waiting -= 1;
            }
            if party.taken < self.places.at_once_each
                && let Some(sender) = party.waiting.pop_front()
            {
                state.waiting -= 1;
                state.taken += 1;
                party.taken += 1;
                passed_over = 0;
                given.push((sender, Pass { fair: Arc::clone(self), key }));
            } else if !party.waiting.is_empty() {
                passed_over += 1;
            }
            if !party.waiting.is_empty() {
                state.turns.push_back(key);
            } else if party.is_idle() {
                state.parties.remove(&key);
            }
        }
        given
    }

    /// Nothing in here panics while it holds the lock, so the state is whole.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Party<K> {
    fn none() -> Self {
        Self { taken: 0, waiting: VecDeque::new() }
    }

    fn is_idle(&self) -> bool {
        self.taken == 0 && self.waiting.is_empty()
    }
}

impl<K: Copy + Eq + Hash> Drop for Pass<K> {
    fn drop(&mut self) {
        self.fair.release(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn places(at_once: usize, at_once_each: usize) -> Arc<Fair<char>> {
        Fair::new(Places { at_once, at_once_each, waiting: 100, waiting_each: 50 })
    }

    #[tokio::test]
    async fn who_asks_for_much_waits_behind_itself_and_not_before_others() {
        let fair = places(1, 1);
        let order = Arc::new(Mutex::new(String::new()));
        let first = fair.enter('x').await.unwrap();
        let mut waiting = Vec::new();
        for key in "aaaaaaaabbc".chars() {
            let (fair, order) = (Arc::clone(&fair), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let pass = fair.enter(key).await.unwrap();
                order.lock().unwrap().push(key);
                drop(pass);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), "abcabaaaaaa");
        assert_eq!(fair.count(), 0);
        assert!(fair.lock().parties.is_empty() && fair.lock().turns.is_empty());
    }

    #[tokio::test]
    async fn one_party_never_has_more_than_its_places_and_free_ones_are_for_others() {
        let fair = places(4, 2);
        let taken = [fair.enter('a').await.unwrap(), fair.enter('a').await.unwrap()];
        let mut third = std::pin::pin!(fair.enter('a'));
        assert!(third.as_mut().now_or_never().is_none());
        let other = fair.enter('b').await.unwrap();
        drop(other);
        assert!(third.as_mut().now_or_never().is_none(), "another's place is not for it");
        drop(taken);
        assert!(third.await.is_ok());
    }

    #[tokio::test]
    async fn queues_are_bounded_and_who_goes_away_leaves_its_place() {
        let fair: Arc<Fair<char>> = Fair::new(Places { at_once: 1, at_once_each: 1, waiting: 3, waiting_each: 2 });
        let held = fair.enter('a').await.unwrap();
        let mut some: Vec<_> = ['a', 'a', 'b'].into_iter().map(|key| Box::pin(fair.enter(key))).collect();
        for waiting in &mut some {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        assert_eq!(fair.enter('a').await.err(), Some(Full), "one party's queue");
        assert_eq!(fair.enter('c').await.err(), Some(Full), "all queues");
        // The first two lose patience; the place passes them by.
        some.drain(..2);
        drop(held);
        let pass = some.pop().unwrap().now_or_never().unwrap().unwrap();
        // One that was given its place and never looked gives it back.
        let unseen = Box::pin(fair.enter('d'));
        let mut unseen = unseen;
        assert!(unseen.as_mut().now_or_never().is_none());
        drop(pass);
        drop(unseen);
        assert!(fair.enter('e').await.is_ok());
        assert_eq!(fair.count(), 0);
    }

    #[test]
    fn whatever_comes_and_goes_no_place_is_lost() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let fair = places(3, 2);
        runtime.block_on(async {
            let tasks: Vec<_> = (0..600_u32)
                .map(|n| {
                    let fair = Arc::clone(&fair);
                    tokio::spawn(async move {
                        let key = char::from(b'a' + u8::try_from(n % 7).unwrap());
                        let entering = fair.enter(key);
                        if n % 3 == 0 {
                            drop(tokio::time::timeout(std::time::Duration::from_micros(u64::from(n) * 7 % 900), entering).await);
                        } else if let Ok(pass) = entering.await {
                            tokio::task::yield_now().await;
                            drop(pass);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!(fair.count(), 0);
        assert!(fair.lock().parties.is_empty());
    }
}
