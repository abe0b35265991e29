//! Who never rests stands behind the others. A sandbox may use its processor without end, but then what wakes for a moment (another sandbox's
//! call, the server) goes first: the kernel lets it in at once, and does not wait for the other's turn to end, which can take milliseconds.
//! Those that do rest share, all of them together, what one of the host's own groups weighs.

use super::cgroup::{Group, PARTS_MIN};
use std::time::{Duration, Instant};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looking at thousands of threads takes its time: no more than a twentieth of all.
const LOOK_SHARE: u32 = 20;
/// Looks that are remembered: all of them at work, and it stands back; half of them at rest, and it stands where it stood.
const LOOKS: u32 = u16::BITS;

/// What was seen of one sandbox.
pub(super) struct Rest {
    /// A bit a look, the last one lowest; set where something in it ran or waited for a processor.
    looks: u16,
    cpu_time: u64,
    back: bool,
    /// Of how many parts it weighs one; none when that has to be said anew.
    parts: Option<u32>,
}

impl Default for Rest {
    fn default() -> Self {
        Self { looks: 0, cpu_time: 0, back: false, parts: Some(PARTS_MIN) }
    }
}

impl Rest {
    fn look(&mut self, group: &Group) {
        let cpu_time = group.cpu_time();
        // Where nothing ran since a look at which nothing wanted to, nobody is asked.
        let at_work = (cpu_time != self.cpu_time || self.looks & 1 == 1) && group.at_work();
        self.cpu_time = cpu_time;
        if self.note(at_work) {
            group.stand_back(self.back);
            self.parts = None;
        }
    }

    /// Whether it shares what the sandboxes weigh: it was seen at work, and is not behind.
    fn shares(&self) -> bool {
        !self.back && self.looks != 0
    }

    /// Whether it changes its place.
    fn note(&mut self, at_work: bool) -> bool {
        self.looks = self.looks << 1 | u16::from(at_work);
        let before = self.back;
        self.back = self.looks.count_ones() == LOOKS || before && self.looks.count_ones() > LOOKS / 2;
        self.back != before
    }
}

/// Looks at all of them; says when the next look is due.
pub(super) fn look<'a>(all: impl Iterator<Item = (&'a Group, &'a mut Rest)>) -> Instant {
    let begun = Instant::now();
    let mut all: Vec<_> = all.collect();
    all.iter_mut().for_each(|(group, rest)| rest.look(group));
    let parts = parts(all.iter().filter(|(_, rest)| rest.shares()).count());
    for (group, rest) in all.iter_mut().filter(|(_, rest)| !rest.back && rest.parts != Some(parts)) {
        drop(group.weigh(parts));
        rest.parts = Some(parts);
    }
    Instant::now() + LOOK_EVERY.max(begun.elapsed() * LOOK_SHARE)
}

/// How many parts so many make of what they weigh together. In steps, for each change is told to each of them.
fn parts(sharing: usize) -> u32 {
    u32::try_from(sharing).unwrap_or(u32::MAX).clamp(PARTS_MIN, 1 << 16).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_back_when_it_never_rested_and_returns_when_it_rests_half_the_time() {
        let mut rest = Rest::default();
        assert!((1..LOOKS).all(|_| !rest.note(true)) && rest.note(true) && rest.back);
        // One rest more or less in between moves nothing.
        assert!((0..20).all(|n| !rest.note(n % 3 > 0)) && rest.back);
        assert_eq!((0..LOOKS).filter(|_| rest.note(false)).count(), 1);
        assert!(!rest.back && (0..100).all(|n| !rest.note(n % 8 > 0)), "who rests now and then stays");
    }

    #[test]
    fn however_many_they_are_they_weigh_no_more_together() {
        let weights = [0, 1, 2, 3, 4, 5, 50, 1 << 40].map(parts);
        assert_eq!(weights, [2, 2, 2, 4, 4, 8, 64, 1 << 16]);
    }
}
