//! Randomness that can be had again: `SplitMix64`, and amounts that fall on edges more often than chance would have it.

#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another sequence, told apart by a number.
    pub fn of(seed: u64, number: u64) -> Self {
        let mut dice = Self(seed ^ number.wrapping_mul(0xA076_1D64_78BD_642F));
        dice.bits();
        dice
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// 0 up to but not including `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// True so many times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(of.len() as u64)).expect("an index");
        &of[at]
    }

    /// An amount: on or beside one of these edges half of the time, else of any size, seldom negative.
    pub fn amount(&mut self, edges: &[i64]) -> i64 {
        match self.below(8) {
            0..=3 => {
                let by = *self.pick(&[-1, 0, 0, 1]);
                self.pick(edges).saturating_add(by)
            }
            4 => *self.pick(&[0, 1, -1, i64::MAX, i64::MAX - 1, i64::MIN, i64::MIN + 1]),
            5 => -i64::try_from(self.below(1_000_000)).expect("small"),
            6 => i64::try_from(self.below(1_000)).expect("small"),
            // Every order of magnitude alike.
            _ => {
                let shift = self.below(62) + 1;
                i64::try_from(self.bits() >> shift).expect("63 bits at the most")
            }
        }
    }
}
