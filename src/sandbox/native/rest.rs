//! Who never rests stands behind the others. A sandbox may use its processor without end, but then what wakes for a moment (another sandbox's
//! call, the server) goes first: the kernel lets it in at once, and does not wait for the other's turn to end, which can take milliseconds.

use super::cgroup::Group;
use std::time::{Duration, Instant};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looking at thousands of threads takes its time: no more than a twentieth of all.
const LOOK_SHARE: u32 = 20;
/// Looks that are remembered: all of them at work, and it stands back; half of them at rest, and it stands where it stood.
const LOOKS: u32 = u16::BITS;

/// What was seen of one sandbox.
#[derive(Default)]
pub(super) struct Rest {
    /// A bit a look, the last one lowest; set where something in it ran or waited for a processor.
    looks: u16,
    cpu_time: u64,
    back: bool,
}

impl Rest {
    fn look(&mut self, group: &Group) {
        let cpu_time = group.cpu_time();
        // Where nothing ran since a look at which nothing wanted to, nobody is asked.
        let at_work = (cpu_time != self.cpu_time || self.looks & 1 == 1) && group.at_work();
        self.cpu_time = cpu_time;
        if self.note(at_work) {
            group.stand_back(self.back);
        }
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
    all.for_each(|(group, rest)| rest.look(group));
    Instant::now() + LOOK_EVERY.max(begun.elapsed() * LOOK_SHARE)
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
}
