// SPDX-License-Identifier: GPL-2.0

//! Numbers that look random, the same for each seed.

/// A generator of numbers that look random (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Returns any byte.
    pub fn byte(&mut self) -> u8 {
        self.word().to_be_bytes()[0]
    }

    /// Returns a number below `end`, which is neither 0 nor more than 2^32.
    ///
    /// # Panics
    ///
    /// If it is more.
    pub fn below(&mut self, end: usize) -> usize {
        let word = self.word() >> 32;
        usize::try_from((word * end as u64) >> 32).expect("it is below a usize")
    }

    /// Returns one of them.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}
