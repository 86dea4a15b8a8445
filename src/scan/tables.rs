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
    /// Those of no pattern, where stacks are large.
    #[must_use]
    #[allow(clippy::large_stack_arrays, reason = "not for the kernel")]
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
            0..=8 => 3,
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
        self.count(patterns);
        self.hashed = u32::MAX;
        self.farthest = 0;
        for (window, pattern) in self.windows.iter_mut().zip(patterns) {
            let others = |at| {
                let count = self.heads.get(hash(Window::of(pattern, at).value));
                u64::from(count.copied().unwrap_or(0))
            };
            let [first, second] = window::choose(pattern, size, others);
            *window = Window::of(pattern, if number == 0 { first } else { second });
            self.farthest = self.farthest.max(window.at);
            if window.mask != u32::MAX && window.mask | CASES == u32::MAX {
                self.hashed = !CASES;
            }
        }
        self.lead(patterns.len());
        self.classify(patterns.len(), size, number);
    }

    /// Counts in `heads` how many patterns have what leads to each hash, wherever they have it.
    fn count(&mut self, patterns: &[Pattern]) {
        self.heads = [NONE; 1 << HASH_BITS];
        for pattern in patterns {
            for at in 0..pattern.len() {
                if let Some(count) = self.heads.get_mut(hash(Window::of(pattern, at).value)) {
                    *count = count.saturating_add(1);
                }
            }
        }
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
    fn classify(&mut self, count: usize, size: usize, number: usize) {
        self.classes = [[0; 256]; MOST];
        self.halves = [[[0; 16]; 2]; MOST];
        // How much of memory the bytes of each bucket are thought to be.
        let mut shares = [[0; MOST]; BUCKETS];
        for index in 0..count {
            let Some(window) = self.windows.get(index).copied() else {
                continue;
            };
            let bucket = if number == 0 {
                self.cheapest(window, size, &mut shares)
            } else {
                // Alike ones in different buckets: each of these then has few of the values that a kind
                // of strings is made of, of which memory is full if this choice is needed.
                self.rank(index, count) % BUCKETS
            };
            // Of halves of bytes, alike windows have the high ones in common: together they are best.
            let rank = self.rank(index, count);
            let together = rank.saturating_mul(BUCKETS).checked_div(count);
            self.add(window, size, bit(bucket), bit(together.unwrap_or(0)));
        }
    }

    /// Adds a window to a bucket of whole bytes, and to one of their halves.
    fn add(&mut self, window: Window, size: usize, whole: u8, half: u8) {
        let tables = self.classes.iter_mut().zip(&mut self.halves);
        for ((classes, [low, high]), (value, mask)) in tables.zip(window.bytes()).take(size) {
            for (byte, buckets) in (0..=u8::MAX).zip(classes) {
                if byte & mask == value {
                    *buckets |= whole;
                    if let (Some(low), Some(high)) = (
                        low.get_mut(usize::from(byte & 0xf)),
                        high.get_mut(usize::from(byte >> 4)),
                    ) {
                        *low |= half;
                        *high |= half;
                    }
                }
            }
        }
    }

    /// The bucket that another window makes pass the fewest places more, as memory is thought to be.
    /// `shares` tells of the windows that the buckets have.
    fn cheapest(&self, window: Window, size: usize, shares: &mut [[u64; MOST]; BUCKETS]) -> usize {
        let product = |shares: &[u64; MOST]| {
            let shares = shares.iter().take(size);
            shares.fold(1, |product: u64, share| product.saturating_mul(*share))
        };
        let mut best = (u64::MAX, 0, [0; MOST]);
        for (bucket, before) in shares.iter().enumerate() {
            let mut after = *before;
            let classes = self.classes.iter().zip(&mut after);
            for ((classes, share), (value, mask)) in classes.zip(window.bytes()) {
                for (byte, buckets) in (0..=u8::MAX).zip(classes) {
                    if byte & mask == value && buckets & (1 << bucket) == 0 {
                        *share = share
                            .saturating_add(window::frequency(byte))
                            .min(window::TOTAL);
                    }
                }
            }
            let more = product(&after).saturating_sub(product(before));
            if more < best.0 {
                best = (more, bucket, after);
            }
        }
        let (_, bucket, after) = best;
        if let Some(shares) = shares.get_mut(bucket) {
            *shares = after;
        }
        bucket
    }

    /// The place of a pattern's window among all, sorted.
    fn rank(&self, index: usize, count: usize) -> usize {
        let windows = self.windows.get(..count).unwrap_or_default();
        let key = |index: usize, window: &Window| (window.value.to_le_bytes(), index);
        let Some(this) = windows.get(index).map(|window| key(index, window)) else {
            return 0;
        };
        let all = windows.iter().enumerate();
        all.filter(|(other, window)| key(*other, window) < this)
            .count()
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

    /// The value and the mask of each byte.
    fn bytes(self) -> impl Iterator<Item = (u8, u8)> {
        let values = self.value.to_le_bytes().into_iter();
        values.zip(self.mask.to_le_bytes())
    }
}

/// A bucket as a bit.
fn bit(bucket: usize) -> u8 {
    1 << bucket.min(BUCKETS - 1)
}

/// The bits that tell letters of the two cases apart.
const CASES: u32 = 0x2020_2020;

/// A number below the length of `heads`.
#[inline]
fn hash(word: u32) -> usize {
    let hash = word.wrapping_mul(0x9e37_79b1) >> (u32::BITS - HASH_BITS);
    usize::try_from(hash).unwrap_or(0)
}
