//! What became of what was asked for, added up by host, until someone takes it to where it is kept. Bounded, whatever is asked for meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// So many hosts are told apart between two takings.
const TARGETS_MAX: usize = 256;
/// What stands for the others.
const OTHERS: &str = "*";

/// What was asked for, and whether it was let through.
type Asked = (String, bool);

/// The news of one config's sandboxes.
#[derive(Debug, Default)]
pub struct News {
    sums: Mutex<BTreeMap<Asked, Sum>>,
}

/// What there is to say of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sum {
    /// Of the last attempt: the address that was dialled, or why it was refused.
    pub detail: String,
    /// How often it was asked for.
    pub attempts: u64,
    /// Bytes that went out, of connections that ended by themselves.
    pub bytes_out: u64,
    /// Bytes that came in.
    pub bytes_in: u64,
}

impl News {
    /// Adds to a host's sum. `target` is as it was asked for.
    pub(super) fn add(&self, target: &str, allowed: bool, sum: Sum) {
        let mut sums = self.lock();
        let known = sums.contains_key(&(target.to_owned(), allowed)) || sums.len() < TARGETS_MAX;
        sums.entry((if known { target } else { OTHERS }.to_owned(), allowed)).or_default().plus(sum);
    }

    /// All of them, which begin anew.
    pub fn take(&self) -> Vec<(String, bool, Sum)> {
        std::mem::take(&mut *self.lock()).into_iter().map(|((target, allowed), sum)| (target, allowed, sum)).collect()
    }

    /// Back again, where they could not be kept.
    pub fn put_back(&self, news: Vec<(String, bool, Sum)>) {
        for (target, allowed, sum) in news {
            self.add(&target, allowed, sum);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Asked, Sum>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sum {
    fn plus(&mut self, more: Self) {
        self.detail = more.detail;
        self.attempts += more.attempts;
        self.bytes_out += more.bytes_out;
        self.bytes_in += more.bytes_in;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(detail: &str) -> Sum {
        Sum { detail: detail.to_owned(), attempts: 1, bytes_out: 2, bytes_in: 3 }
    }

    #[test]
    fn hosts_are_told_apart_up_to_a_bound_and_every_attempt_is_counted() {
        let news = News::default();
        news.add("api.test:443", true, once("192.0.2.1"));
        news.add("api.test:443", true, once("192.0.2.2"));
        for n in 0..1_000 {
            news.add(&format!("{n}.test:1"), false, once("no"));
        }
        news.add("api.test:443", true, once("192.0.2.3"));
        let taken = news.take();
        assert_eq!(taken.len(), TARGETS_MAX + 1);
        let (_, _, api) = taken.iter().find(|(target, ..)| target == "api.test:443").unwrap();
        assert_eq!(*api, Sum { detail: "192.0.2.3".to_owned(), attempts: 3, bytes_out: 6, bytes_in: 9 });
        assert_eq!(taken.iter().map(|(.., sum)| sum.attempts).sum::<u64>(), 1_003);
        assert_eq!(taken.iter().find(|(target, ..)| target == OTHERS).unwrap().2.attempts, 1_000 - 255);
        assert_eq!(news.take(), Vec::new());
        news.put_back(taken.clone());
        assert_eq!(news.take().len(), taken.len());
    }
}
