//! How many connections each address holds: none may take all that the server accepts. And how it behaved: one that just sent what is no HTTP
//! waits a little before its next connection is read.

use super::limit::neighbourhood;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How many connections of a misbehaving address are read in one pause.
const STEPS_PER_PAUSE: u32 = 64;

/// How many pauses the longest wait is, for whoever shares an address with one who misbehaves.
const PAUSES_MAX: u32 = 4;

/// Connections by address.
pub(super) struct Crowd {
    open: Mutex<HashMap<IpAddr, Address>>,
    max: usize,
    pause: Duration,
}

/// What is known of one address.
#[derive(Default)]
struct Address {
    open: usize,
    /// Its connections are not read before this.
    calm: Option<Instant>,
}

impl Address {
    fn is_idle(&self, now: Instant) -> bool {
        self.open == 0 && self.calm.is_none_or(|calm| calm <= now)
    }
}

/// One connection's place. It is given back when dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    pub(super) fn new(max: usize, pause: Duration) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), max, pause })
    }

    /// A place for one more connection of this peer, unless its address has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let address = neighbourhood(peer.to_canonical());
        let mut open = self.lock();
        let known = open.entry(address).or_default();
        if known.open >= self.max {
            return None;
        }
        known.open += 1;
        Some(Place { crowd: Arc::clone(self), address })
    }

    /// Forgets addresses that have no connection and no pause left.
    pub(super) fn forget(&self) {
        let now = Instant::now();
        let mut open = self.lock();
        open.retain(|_, known| !known.is_idle(now));
        open.shrink_to_fit();
    }

    /// Counts stay right whoever panicked while they held the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Address>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits, if the address misbehaved just now: its connections are read one by one, not all at the end of the same pause.
    pub(super) async fn calm(&self) {
        let pause = self.crowd.pause;
        let calm = {
            let (now, mut open) = (Instant::now(), self.crowd.lock());
            let known = open.get_mut(&self.address).filter(|known| known.calm.is_some_and(|calm| calm > now));
            known.and_then(|known| {
                let mine = known.calm?;
                known.calm = Some((mine + pause / STEPS_PER_PAUSE).min(now + pause * PAUSES_MAX));
                Some(mine)
            })
        };
        if let Some(calm) = calm {
            tokio::time::sleep_until(calm.into()).await;
        }
    }

    /// Notes that what came on this connection was no request at all.
    pub(super) fn misbehaved(&self) {
        if let Some(known) = self.crowd.lock().get_mut(&self.address) {
            known.calm = known.calm.max(Some(Instant::now() + self.crowd.pause));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.crowd.lock();
        if let Some(known) = open.get_mut(&self.address) {
            known.open -= 1;
            if known.is_idle(Instant::now()) {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_leaves_nothing_behind() {
        let crowd = Crowd::new(2, Duration::ZERO);
        let enter = |text: &str| crowd.enter(text.parse().unwrap());
        let (first, second) = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some() && enter("192.0.2.1").is_none() && enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        drop(second);
        assert!(crowd.lock().is_empty());
    }

    #[tokio::test]
    async fn an_address_that_misbehaved_waits_and_others_do_not() {
        let crowd = Crowd::new(2, Duration::from_millis(60));
        let enter = |text: &str| crowd.enter(text.parse().unwrap()).unwrap();
        enter("192.0.2.1").misbehaved();
        let began = Instant::now();
        enter("192.0.2.2").calm().await;
        assert!(began.elapsed() < Duration::from_millis(40));
        enter("192.0.2.1").calm().await;
        assert!(began.elapsed() >= Duration::from_millis(60));
        crowd.forget();
        assert!(crowd.lock().is_empty());
    }
}
