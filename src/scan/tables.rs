// SPDX-License-Identifier: GPL-2.0

//! What is prepared for a set of patterns: for each of two choices of windows what the filter looks
//! for, and how a place that passes it leads to the patterns that may stand there.
//!
//! For the filter each pattern belongs to one of eight buckets, each a bit. For each byte of a
//! window a table leads from the value of that byte to the buckets with a pattern that takes it. A
//! place passes if the entries of its bytes have a bit in common.
//!
//! What passes is looked up by a hash of the four bytes there.

use super::{
    pattern::Pattern,
    window::{
        self,
        MOST, //
    },
};

/// The most patterns.
pub const MAX_PATTERNS: usize = 256;

/// The number of buckets.
const BUCKETS: usize = 8;

/// The number of bits of a hash.
const HASH_BITS: u32 = 11;

/// What stands for no pattern; otherwise the index of one, and one more.
const NONE: u16 = 0;

/// What is prepared for a set of patterns. All zeros are a valid value.
///
/// It is too large for a kernel stack. As it is nothing but integers it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Tables {
    /// With the rarest windows first.
    pub(super) choices: [Choice; 2],
    /// The number of bytes that the filter looks at.
    pub(super) size: usize,
    /// The length of the longest pattern.
    pub(super) longest: usize,
}

/// One choice of windows.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Choice {
    /// For each byte of a window, and each value of it: the buckets.
    pub(super) classes: [[u8; 256]; MOST],
    /// The same, with a table each for the low and the high half of the byte, whose entries have to
    /// have a bit in common: more passes.
    pub(super) halves: [[[u8; 16]; 2]; MOST],
    /// The greatest offset of a window in its pattern.
    pub(super) farthest: usize,
    /// For each hash the first pattern that it leads to.
    heads: [u16; 1 << HASH_BITS],
    /// The pattern after this one.
    next: [u16; MAX_PATTERNS],
    /// The first pattern that no hash leads to, since bits that the hash is made of are open.
    loose: u16,
    /// The bits that the hash is made of.
    hashed: u32,
    windows: [Window; MAX_PATTERNS],
}

/// A pattern's window: four bytes as a little-endian word.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Window {
    value: u32,
    mask: u32,
    /// Where it begins in the pattern.
    at: usize,
}

impl Tables {
    /// Those of no pattern.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            choices: [const { Choice::new() }; 2],
            size: 0,
            longest: 0,
        }
    }

    /// Prepares them for `patterns`; those beyond [`MAX_PATTERNS`] are left out.
    pub(super) fn prepare(&mut self, patterns: &[Pattern]) {
        let patterns = patterns.get(..MAX_PATTERNS).unwrap_or(patterns);
        self.size = match patterns.len() {
            0..=8 => 2,
            9..=64 => 3,
            _ => 4,
        };
        self.longest = patterns.iter().map(Pattern::len).max().unwrap_or(0);
        for (number, choice) in self.choices.iter_mut().enumerate() {
            choice.prepare(patterns, self.size, number);
        }
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}

impl Choice {
    const fn new() -> Self {
        Self {
            classes: [[0; 256]; MOST],
            halves: [[[0; 16]; 2]; MOST],
            farthest: 0,
            heads: [NONE; 1 << HASH_BITS],
            next: [NONE; MAX_PATTERNS],
            loose: NONE,
            hashed: 0,
            windows: [const {
                Window {
                    value: 0,
                    mask: 0,
                    at: 0,
                }
            }; MAX_PATTERNS],
        }
    }

    fn prepare(&mut self, patterns: &[Pattern], size: usize, number: usize) {
        self.hashed = u32::MAX;
        self.farthest = 0;
        for (window, pattern) in self.windows.iter_mut().zip(patterns) {
            let [first, second] = window::choose(pattern, size);
            *window = Window::of(pattern, if number == 0 { first } else { second });
            self.farthest = self.farthest.max(window.at);
            if window.mask != u32::MAX && window.mask | CASES == u32::MAX {
                self.hashed = !CASES;
            }
        }
        self.lead(patterns.len());
        self.classify(patterns.len(), size);
    }

    /// Makes the lists that hashes lead to.
    fn lead(&mut self, count: usize) {
        self.heads = [NONE; 1 << HASH_BITS];
        self.loose = NONE;
        // From the last one on, so that each list ascends.
        for index in (0..count).rev() {
            let Some(window) = self.windows.get(index).copied() else {
                continue;
            };
            let head = if window.mask & self.hashed == self.hashed {
                self.heads.get_mut(hash(window.value & self.hashed))
            } else {
                Some(&mut self.loose)
            };
            if let (Some(head), Some(next), Ok(this)) =
                (head, self.next.get_mut(index), u16::try_from(index))
            {
                *next = *head;
                *head = this.wrapping_add(1);
            }
        }
    }

    /// Makes the tables of the filter, for the first `size` bytes of the windows.
    fn classify(&mut self, count: usize, size: usize) {
        self.classes = [[0; 256]; MOST];
        self.halves = [[[0; 16]; 2]; MOST];
        for index in 0..count {
            let bucket = self.bucket(index, count);
            let Some(window) = self.windows.get(index) else {
                continue;
            };
            let values = window.value.to_le_bytes().into_iter();
            let bytes = values.zip(window.mask.to_le_bytes()).take(size);
            let tables = self.classes.iter_mut().zip(&mut self.halves);
            for ((classes, [low, high]), (value, mask)) in tables.zip(bytes) {
                for (byte, buckets) in (0..=u8::MAX).zip(classes) {
                    if byte & mask == value {
                        *buckets |= bucket;
                        if let (Some(low), Some(high)) = (
                            low.get_mut(usize::from(byte & 0xf)),
                            high.get_mut(usize::from(byte >> 4)),
                        ) {
                            *low |= bucket;
                            *high |= bucket;
                        }
                    }
                }
            }
        }
    }

    /// The bucket of a pattern, as a bit. Patterns whose windows are alike share one: so the buckets
    /// with a pattern that takes a value are few.
    fn bucket(&self, index: usize, count: usize) -> u8 {
        let windows = self.windows.get(..count).unwrap_or_default();
        let key = |index: usize, window: &Window| (window.value.to_le_bytes(), index);
        let Some(this) = windows.get(index).map(|window| key(index, window)) else {
            return 0;
        };
        let mut rank = 0_usize;
        for (other, window) in windows.iter().enumerate() {
            rank = rank.saturating_add(usize::from(key(other, window) < this));
        }
        let place = rank.saturating_mul(BUCKETS).checked_div(count);
        1_u8 << place.unwrap_or(0).min(BUCKETS - 1)
    }

    /// The indices and window offsets of the patterns of which the four bytes of `word` are what their
    /// windows ask for.
    #[inline]
    pub(super) fn candidates(&self, word: u32) -> impl Iterator<Item = (usize, usize)> + '_ {
        let head = self.heads.get(hash(word & self.hashed));
        let found = self.list(head.copied().unwrap_or(NONE));
        let all = found.chain(self.list(self.loose));
        all.filter(move |(_, window)| word & window.mask == window.value)
            .map(|(index, window)| (index, window.at))
    }

    #[inline]
    fn list(&self, head: u16) -> impl Iterator<Item = (usize, &Window)> + '_ {
        let mut next = head;
        core::iter::from_fn(move || {
            let index = usize::from(next.checked_sub(1)?);
            next = self.next.get(index).copied().unwrap_or(NONE);
            Some((index, self.windows.get(index)?))
        })
    }
}

impl Window {
    /// The four bytes of `pattern` from `at` on. Where it has none any value may be.
    fn of(pattern: &Pattern, at: usize) -> Self {
        let (mut value, mut mask) = ([0; MOST], [0; MOST]);
        for (index, bytes) in (at..).zip(value.iter_mut().zip(&mut mask)) {
            (*bytes.0, *bytes.1) = pattern.byte(index).unwrap_or((0, 0));
        }
        Self {
            value: u32::from_le_bytes(value),
            mask: u32::from_le_bytes(mask),
            at,
        }
    }
}

/// The bits that tell letters of the two cases apart.
const CASES: u32 = 0x2020_2020;

/// A number below the length of `heads`.
#[inline]
fn hash(word: u32) -> usize {
    let hash = word.wrapping_mul(0x9e37_79b1) >> (u32::BITS - HASH_BITS);
    usize::try_from(hash).unwrap_or(0)
}
