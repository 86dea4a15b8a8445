// SPDX-License-Identifier: GPL-2.0

//! Numbers that look random, the same in each run.

/// A generator of numbers that look random (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns any number.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns any byte.
    pub fn byte(&mut self) -> u8 {
        self.word().to_be_bytes()[0]
    }

    /// Returns a number below `end`, which is at most 2^32.
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
    pub fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// Returns text of letters of this alphabet.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn string(&mut self, alphabet: &[u8], len: usize) -> String {
        let letter = |_| char::from(alphabet[usize::from(self.byte()) % alphabet.len()]);
        (0..len).map(letter).collect()
    }
}
