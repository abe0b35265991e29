//! How much of each open database's pages its connections keep: a share of one allowance, so that many open tenants do not take many times
//! what few do. What a connection does not keep it reads again from the operating system's cache.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What a connection keeps at most: more does not make a turn faster.
const SHARE_KIB_MAX: usize = 512;

/// What it keeps at least: the pages that one turn works on.
const SHARE_KIB_MIN: usize = 64;

/// The allowance, and among how many open databases it is shared out.
pub(super) struct PageCache {
    kib: usize,
    open: AtomicUsize,
}

/// One open database, as long as it lives.
pub(super) struct Shared(Arc<PageCache>);

impl PageCache {
    /// So many bytes for all.
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { kib: bytes / 1_024, open: AtomicUsize::new(0) })
    }

    /// One database more.
    pub(super) fn join(self: &Arc<Self>) -> Shared {
        self.open.fetch_add(1, Ordering::Relaxed);
        Shared(Arc::clone(self))
    }
}

impl Shared {
    /// What a connection may keep now, in KiB. It changes only where the number of open databases doubles or halves, and not with each one.
    pub(super) fn kib(&self) -> usize {
        let open = self.0.open.load(Ordering::Relaxed).next_power_of_two();
        (self.0.kib / open).clamp(SHARE_KIB_MIN, SHARE_KIB_MAX)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowance_is_shared_out_among_those_that_are_open() {
        let cache = PageCache::new(64 * 1024 * 1024);
        let mut open: Vec<_> = (0..128).map(|_| cache.join()).collect();
        assert_eq!(open[0].kib(), SHARE_KIB_MAX);
        open.extend((0..372).map(|_| cache.join()));
        assert_eq!(open[0].kib(), 128);
        open.extend((0..4_000).map(|_| cache.join()));
        assert_eq!(open[0].kib(), SHARE_KIB_MIN);
        open.truncate(200);
        assert_eq!(open[0].kib(), 256);
    }
}
