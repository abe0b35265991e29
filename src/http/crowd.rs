//! How many connections each address holds: none may take all that the server accepts.

use super::limit::neighbourhood;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections by address.
pub(super) struct Crowd {
    open: Mutex<HashMap<IpAddr, usize>>,
    max: usize,
}

/// One connection's place. It is given back when dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), max })
    }

    /// A place for one more connection of this peer, unless its address has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let address = neighbourhood(peer.to_canonical());
        let mut open = self.lock();
        let count = open.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { crowd: Arc::clone(self), address })
    }

    /// Counts stay right whoever panicked while they held the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.crowd.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
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
        let crowd = Crowd::new(2);
        let enter = |text: &str| crowd.enter(text.parse().unwrap());
        let (first, second) = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some() && enter("192.0.2.1").is_none() && enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        drop(second);
        assert!(crowd.lock().is_empty());
    }
}
