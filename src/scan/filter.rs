// SPDX-License-Identifier: GPL-2.0

//! Finds the places where a pattern may stand, all patterns in one pass.
//!
//! Every pattern belongs to one of 64 buckets, each a bit of a word. What is looked for is a
//! window of each pattern, its three rarest neighbouring bytes. For each of the three there is a
//! table: from the byte value to the buckets with a pattern that takes it there. A window ends
//! where the entries of three neighbouring bytes have a bit in common. With up to 64 patterns that
//! is exact; with more, windows that share a bucket mix, and the search has more to check.

use super::{
    pattern::Pattern,
    window, //
};

/// The number of buckets.
pub(super) const BUCKETS: usize = 64;

/// The tables of the filter; all zeros are those of no pattern at all.
///
/// They are too large for a kernel stack. As a plain array they can be made in zeroed memory.
pub type Tables = [[u64; 256]; window::SIZE];

/// Makes `tables` those of `patterns`.
pub(super) fn fill(tables: &mut Tables, patterns: &[Pattern]) {
    for table in tables.iter_mut() {
        table.fill(0);
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let bucket = 1 << (index % BUCKETS);
        // The window ends at the anchor. What of it lies before the pattern takes every byte.
        let mut window = [(0, 0); window::SIZE];
        for byte in pattern.bytes().take(pattern.anchor().saturating_add(1)) {
            window.rotate_left(1);
            if let Some(last) = window.last_mut() {
                *last = byte;
            }
        }
        for (table, (value, mask)) in tables.iter_mut().zip(window) {
            for (byte, buckets) in (0..=u8::MAX).zip(table) {
                if byte & mask == value {
                    *buckets |= bucket;
                }
            }
        }
    }
}

/// Where the filter is in the memory: what the bytes just before have left possible.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// The buckets of which a window may have begun one byte ago.
    one: u64,
    /// The buckets of which a window may have begun two bytes ago and gone on one byte ago.
    two: u64,
}

impl State {
    /// At a place of which nothing is known but what follows: every window may have begun.
    pub(super) const fn new() -> Self {
        Self {
            one: u64::MAX,
            two: u64::MAX,
        }
    }

    /// Takes one byte. Returns the buckets of which a window may end with it.
    #[inline]
    pub(super) fn byte(&mut self, tables: &Tables, byte: u8) -> u64 {
        let [first, second, third] = tables;
        let byte = usize::from(byte);
        let end = self.two & third[byte];
        self.two = self.one & second[byte];
        self.one = first[byte];
        end
    }

    /// Takes the eight bytes of a little-endian word. Returns the buckets of which a window may
    /// end with one of them.
    #[inline]
    pub(super) fn word(&mut self, tables: &Tables, word: u64) -> u64 {
        if word == 0 {
            return self.zeros(tables);
        }
        let mut ends = 0;
        for byte in word.to_le_bytes() {
            ends |= self.byte(tables, byte);
        }
        ends
    }

    /// Takes eight zero bytes. Much of a guest's memory is zeros, and from the third one on they
    /// all give the same, so this is worth a way of its own.
    #[inline]
    fn zeros(&mut self, tables: &Tables) -> u64 {
        self.byte(tables, 0) | self.byte(tables, 0) | self.byte(tables, 0)
    }
}
