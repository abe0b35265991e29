//! How calls of each provider went lately, in memory, for the operator's eyes. What Prometheus counts is `metrics`'.

use crate::clock::Time;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The last calls of each provider. Cheap to clone.
#[derive(Clone)]
pub struct Pulse {
    most: usize,
    calls: Arc<Mutex<HashMap<String, VecDeque<Call>>>>,
}

/// One call, as it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// When.
    pub at: Time,
    /// A fixed word such as `answered`, `overloaded`, `broken`.
    pub outcome: &'static str,
    /// Whether the provider did what it should. A caller who let go is no fault of its.
    pub ok: bool,
    /// From sending to the end.
    pub took: Duration,
}

/// A provider's calls since some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vital {
    /// How many are remembered.
    pub calls: usize,
    /// Those of them that failed.
    pub failed: usize,
    /// Half, and all but one in twenty, of those that did not fail took at most so many milliseconds.
    pub latency_ms: Option<[u64; 2]>,
    /// The last failure.
    pub last_failure: Option<Call>,
}

impl Pulse {
    /// Remembers so many calls of each provider.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), calls: Arc::default() }
    }

    /// A call ended. Providers are those of the configuration, so there are few.
    pub fn beat(&self, provider: &str, call: Call) {
        let mut all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = match all.get_mut(provider) {
            Some(calls) => calls,
            None => all.entry(provider.to_owned()).or_default(),
        };
        if calls.len() >= self.most {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    /// How a provider's remembered calls went since then.
    pub fn since(&self, provider: &str, since: Time) -> Vital {
        let all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let recent: Vec<Call> = all.get(provider).into_iter().flatten().filter(|call| call.at >= since).copied().collect();
        drop(all);
        let mut took: Vec<u64> =
            recent.iter().filter(|call| call.ok).map(|call| u64::try_from(call.took.as_millis()).unwrap_or(u64::MAX)).collect();
        took.sort_unstable();
        let rank = |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Vital {
            calls: recent.len(),
            failed: recent.iter().filter(|call| !call.ok).count(),
            latency_ms: rank(50).zip(rank(95)).map(|(half, most)| [half, most]),
            last_failure: recent.iter().rev().find(|call| !call.ok).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(at: i64, ok: bool, ms: u64) -> Call {
        let outcome = if ok { "answered" } else { "overloaded" };
        Call { at: Time::from_ms(at), outcome, ok, took: Duration::from_millis(ms) }
    }

    #[test]
    fn the_last_calls_are_summed_up_and_older_ones_forgotten() {
        let pulse = Pulse::new(4);
        assert_eq!(pulse.since("x", Time::from_ms(0)), Vital::default());
        for at in 1..=5 {
            pulse.beat("x", call(at, at != 4, u64::try_from(at).unwrap() * 10));
        }
        let vital = pulse.since("x", Time::from_ms(0));
        assert_eq!((vital.calls, vital.failed, vital.latency_ms), (4, 1, Some([30, 50])));
        assert_eq!(vital.last_failure, Some(call(4, false, 40)));
        assert_eq!(pulse.since("x", Time::from_ms(5)).calls, 1);
        assert_eq!(pulse.since("y", Time::from_ms(0)).calls, 0);
    }
}
