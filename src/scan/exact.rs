// SPDX-License-Identifier: GPL-2.0

//! Exact fingerprints: those of few patterns, whose bytes the low halves tell apart in each
//! position.
//!
//! A table leads from the low half of a byte to the one byte that is meant, and a place passes the
//! filter if all its bytes are those. That takes less time than to look up both halves. But a place
//! with the first byte of one fingerprint and the second one of another passes, too.

use super::{
    fingerprint,
    pattern::Pattern, //
};

/// The most patterns.
pub(super) const MAX_PATTERNS: usize = 2;

/// The number of bytes in a fingerprint.
pub(super) const SIZE: usize = 2;

/// For each low half of a byte the byte that is meant, or a byte with another low half.
pub(super) type Bytes = [u8; 16];

/// Matches no byte.
const NONE: Bytes = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14];

/// Exact fingerprints of some patterns.
#[derive(Clone, Copy)]
pub(super) struct Exact {
    /// The bytes in each position of a fingerprint.
    pub(super) bytes: [Bytes; SIZE],
    /// Where the fingerprint of each pattern begins in the pattern.
    pub(super) places: [usize; MAX_PATTERNS],
    /// The estimated share of memory that matches each position, in parts of
    /// [`fingerprint::TOTAL`].
    shares: [u64; SIZE],
}

impl Exact {
    /// Returns the rarest exact fingerprints, if there are any. `second`: those of the second
    /// choice, as [`fingerprint::choose`] has them; otherwise others.
    pub(super) fn of<'a>(
        patterns: impl Iterator<Item = &'a Pattern> + Clone,
        second: bool,
    ) -> Option<Self> {
        let count = patterns.clone().count();
        let patterns = patterns.enumerate().cycle();
        // What is left for others depends on who chooses first.
        let orders = (0..count).map(|first| patterns.clone().skip(first).take(count));
        let found = orders.filter_map(|mut order| {
            let none = Self {
                bytes: [NONE; SIZE],
                places: [0; MAX_PATTERNS],
                shares: [0; SIZE],
            };
            order.try_fold(none, |all, (index, pattern)| {
                all.with(index, pattern, second)
            })
        });
        found.min_by_key(Self::product)
    }

    /// Returns this with a fingerprint of one more pattern, the one that lets the fewest places
    /// pass.
    fn with(self, index: usize, pattern: &Pattern, second: bool) -> Option<Self> {
        let [_, at_second] = fingerprint::choose(pattern, SIZE, |_| 1);
        let places = 0..=pattern.len().checked_sub(SIZE)?;
        let places = places.filter(|at| (*at == at_second) == second);
        let all = places.filter_map(|at| self.with_fingerprint(index, pattern, at));
        all.min_by_key(Self::product)
    }

    fn with_fingerprint(self, index: usize, pattern: &Pattern, at: usize) -> Option<Self> {
        let mut with = self;
        *with.places.get_mut(index)? = at;
        let tables = with.bytes.iter_mut().zip(&mut with.shares);
        for (at, (bytes, share)) in (at..).zip(tables) {
            // Bytes from 0x80 on are not looked up (`vpshufb`).
            let (value @ 0..0x80, u8::MAX) = pattern.byte(at)? else {
                return None;
            };
            let low = usize::from(value & 0xf);
            let known = bytes.get_mut(low)?;
            if *known == *NONE.get(low)? {
                *known = value;
                *share = share.saturating_add(fingerprint::frequency(value));
            } else if *known != value {
                return None;
            }
        }
        Some(with)
    }

    fn product(&self) -> u64 {
        let shares = self.shares.iter();
        shares.fold(1, |product: u64, share| product.saturating_mul(*share))
    }
}
