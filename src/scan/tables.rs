// SPDX-License-Identifier: GPL-2.0

//! What is prepared for a set of patterns: for each of two choices of windows what the filter looks
//! for, and how a place that passes it leads to the patterns that may stand there.
//!
//! For the filter each pattern belongs to one of eight buckets, each a bit. For each byte of a
//! window a table leads from the value of that byte to the buckets with a pattern that takes it. A
//! place passes if the entries of its bytes have a bit in common.
//!
//! Few patterns can have windows of which the bytes in each place are told apart by their low halves. A
//! table then leads from that to the one byte that is meant, and a place passes if its bytes are those:
//! that takes the least time.
//!
//! What passes is looked up by a hash of the four bytes there.
//!
//! Patterns that are long enough can be looked for in another way ([`samples`](super::samples)), which is faster
//! but for few of them in wide vectors.

use super::{
    exact::{
        self,
        Exact, //
    },
    level::Level,
    pattern::Pattern,
    samples::Samples,
    tail::Tail,
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
    /// For the patterns that few places are enough for.
    pub(super) samples: Samples,
    /// For all others, with the rarest windows first. If there are none, for all patterns, if they are few.
    pub(super) choices: [Choice; 2],
    /// There are patterns that few places are not enough for.
    pub(super) has_others: bool,
    /// The filter comes first, for all patterns, and few places are looked at where too much passes it.
    pub(super) filter_first: bool,
    /// The length of the longest pattern.
    pub(super) longest: usize,
    tails: [Tail; MAX_PATTERNS],
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
    /// For each value of a byte its `classes`, that of the first byte of a window lowest.
    steps: [u32; 256],
    /// The same for bytes that their low halves tell apart: for each of these the byte. Only if `is_exact`.
    pub(super) bytes: [exact::Bytes; exact::SIZE],
    /// `bytes` is all that is needed.
    pub(super) is_exact: bool,
    /// The number of bytes that the filter looks at, 0 if there is nothing for it.
    pub(super) size: usize,
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
    /// The index of the pattern.
    pattern: usize,
}

/// Up to how many patterns, at a level, the filter is always faster than looking at few places; and up
/// to how many it is where of these too many pass.
const fn few(level: Level) -> (usize, usize) {
    match level {
        Level::Portable => (0, 0),
        Level::Avx2 => (0, BUCKETS),
        Level::Avx512 => (64, MAX_PATTERNS),
    }
}

/// Whether so few patterns are best looked for by the filter first, unless what it looks for is met too often.
const fn is_filter_first(level: Level, patterns: usize) -> bool {
    matches!(level, Level::Avx2) && patterns <= exact::MOST_PATTERNS
}

impl Tables {
    /// Those of no pattern, where stacks are large.
    #[must_use]
    #[allow(clippy::large_stack_arrays, reason = "not for the kernel")]
    pub const fn new() -> Self {
        Self {
            samples: Samples::new(),
            choices: [const { Choice::new() }; 2],
            has_others: false,
            filter_first: false,
            longest: 0,
            tails: [Tail::NONE; MAX_PATTERNS],
        }
    }

    /// Prepares them for a search at `level` for `patterns`; those beyond [`MAX_PATTERNS`] are left out.
    pub(super) fn prepare(&mut self, patterns: &[Pattern], level: Level) {
        let patterns = patterns.get(..MAX_PATTERNS).unwrap_or(patterns);
        self.longest = patterns.iter().map(Pattern::len).max().unwrap_or(0);
        for (tail, pattern) in self.tails.iter_mut().zip(patterns) {
            *tail = Tail::of(pattern);
        }
        let (few, not_many) = few(level);
        let for_samples = if patterns.len() > few { patterns } else { &[] };
        self.samples.prepare(for_samples);
        let Self {
            samples, choices, ..
        } = self;
        let all = patterns.iter().enumerate();
        let others = all.clone().filter(|(index, _)| !samples.has(*index));
        self.has_others = others.clone().next().is_some();
        self.filter_first = !self.has_others && is_filter_first(level, patterns.len());
        let filtered = if self.has_others {
            others.clone().count()
        } else if patterns.len() <= not_many {
            patterns.len()
        } else {
            0
        };
        let size = match filtered {
            0 => 0,
            _ if self.filter_first => exact::SIZE,
            1..=BUCKETS => 3,
            _ => 4,
        };
        for (number, choice) in choices.iter_mut().enumerate() {
            choice.is_exact = false;
            choice.size = size;
            if self.has_others {
                choice.prepare(others.clone(), number);
            } else if size > 0 && !(self.filter_first && choice.prepare_exact(all.clone(), number))
            {
                choice.prepare(all.clone(), number);
            }
        }
    }

    /// Whether a pattern is looked for by the filter.
    pub(super) fn is_filtered(&self, pattern: usize) -> bool {
        !(self.has_others && self.samples.has(pattern))
    }

    /// The tail of a pattern.
    #[inline]
    pub(super) fn tail(&self, pattern: usize) -> &Tail {
        self.tails.get(pattern).unwrap_or(&Tail::NONE)
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
            bytes: [[0; 16]; exact::SIZE],
            is_exact: false,
            size: 0,
            steps: [0; 256],
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
                    pattern: 0,
                }
            }; MAX_PATTERNS],
        }
    }

    /// Prepares it for `patterns`, each with its index.
    fn prepare<'a>(
        &mut self,
        patterns: impl Iterator<Item = (usize, &'a Pattern)> + Clone,
        number: usize,
    ) {
        let size = self.size;
        self.count(patterns.clone().map(|(_, pattern)| pattern));
        self.hashed = u32::MAX;
        self.farthest = 0;
        for (window, (index, pattern)) in self.windows.iter_mut().zip(patterns.clone()) {
            let others = |at| {
                let count = self.heads.get(hash(Window::of(pattern, at).value));
                u64::from(count.copied().unwrap_or(0))
            };
            let [first, second] = window::choose(pattern, size, others);
            *window = Window::of(pattern, if number == 0 { first } else { second });
            window.pattern = index;
            self.farthest = self.farthest.max(window.at);
            if window.mask != u32::MAX && window.mask | CASES == u32::MAX {
                self.hashed = !CASES;
            }
        }
        let count = patterns.count();
        self.lead(count);
        self.classify(count, size, number);
    }

    /// Prepares it for few `patterns`, each with its index, if the bytes of their windows can be told apart by
    /// their low halves. Says whether that is so: otherwise it is as it was.
    fn prepare_exact<'a>(
        &mut self,
        patterns: impl Iterator<Item = (usize, &'a Pattern)> + Clone,
        number: usize,
    ) -> bool {
        let count = patterns.clone().count();
        let all = patterns.clone().map(|(_, pattern)| pattern);
        let Some(exact) = Exact::of(all, number == 1) else {
            return false;
        };
        self.bytes = exact.bytes;
        self.is_exact = true;
        self.hashed = u32::MAX;
        self.farthest = 0;
        let windows = self.windows.iter_mut().zip(patterns.zip(exact.places));
        for (window, ((index, pattern), at)) in windows {
            *window = Window::of(pattern, at);
            window.pattern = index;
            self.farthest = self.farthest.max(at);
        }
        self.lead(count);
        true
    }

    /// Counts in `heads` how many patterns have what leads to each hash, wherever they have it.
    fn count<'a>(&mut self, patterns: impl Iterator<Item = &'a Pattern>) {
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
        for (value, step) in self.steps.iter_mut().enumerate() {
            let classes = self.classes.each_ref().map(|classes| classes.get(value));
            *step = u32::from_le_bytes(classes.map(|class| class.copied().unwrap_or(0)));
        }
    }

    /// The buckets that are possible for the windows that began so many bytes ago, in a byte each, the lowest one for
    /// that which begins with `byte`. `begun` are those before it.
    #[inline]
    pub(super) fn step(&self, begun: u32, byte: u8) -> u32 {
        ((begun << u8::BITS) | u32::from(u8::MAX)) & self.steps[usize::from(byte)]
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
        all.filter(move |window| word & window.mask == window.value)
            .map(|window| (window.pattern, window.at))
    }

    #[inline]
    fn list(&self, head: u16) -> impl Iterator<Item = &Window> + '_ {
        let mut next = head;
        core::iter::from_fn(move || {
            let index = usize::from(next.checked_sub(1)?);
            next = self.next.get(index).copied().unwrap_or(NONE);
            self.windows.get(index)
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
            pattern: 0,
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
