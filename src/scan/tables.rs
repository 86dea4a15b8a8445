// SPDX-License-Identifier: GPL-2.0

//! What is prepared for a set of patterns: for each of two choices of fingerprints, what the filter
//! looks for, and how a place that passes leads to the patterns that may begin there.
//!
//! The filter puts each pattern into one of eight buckets, each a bit. For each byte of a
//! fingerprint a table leads from the value of that byte to the buckets with a pattern that takes
//! it. A place passes if the entries of its bytes have a bit in common.
//!
//! Few patterns can have fingerprints whose bytes the low halves tell apart, in each position. A
//! table then leads from the low half to the one byte that is meant, and a place passes if its
//! bytes are those. That takes the least time.
//!
//! A place that passes is looked up by a hash of its four bytes.
//!
//! Long patterns can be found in another way ([`samples`](super::samples)). It is faster, except
//! for few of them in wide vectors.

use super::{
    engine::{
        Engine,
        EngineKind, //
    },
    exact::{
        self,
        Exact, //
    },
    fingerprint::{
        self,
        MAX_WIDTH, //
    },
    pattern::{
        Pattern,
        MAX_PATTERNS, //
    },
    samples::Samples,
    tail::Tail, //
};

/// The number of buckets.
const BUCKETS: usize = 8;

/// The number of bits of a hash.
const HASH_BITS: u32 = 11;

/// Stands for no pattern. Other values are the index of a pattern, plus one.
const NONE: u16 = 0;

/// What is prepared for a set of patterns. All zeros are a valid value.
///
/// It is too large for a kernel stack. It consists of integers, so it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Tables {
    /// For the patterns that samples can find.
    pub(super) samples: Samples,
    /// For all others, with the rarest fingerprints first. If there are no others, for all
    /// patterns, if they are few.
    pub(super) choices: [Choice; 2],
    /// There are patterns that samples cannot find.
    pub(super) has_others: bool,
    /// The filter comes first, for all patterns, and samples where too much passes it.
    pub(super) filter_first: bool,
    /// The length of the longest pattern.
    pub(super) longest: usize,
    tails: [Tail; MAX_PATTERNS],
}

/// One choice of fingerprints.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Choice {
    /// The buckets, for each byte of a fingerprint and each value of it.
    pub(super) classes: [[u8; 256]; MAX_WIDTH],
    /// The same, with a table each for the low and the high half of the byte, whose entries must
    /// have a bit in common: more passes.
    pub(super) halves: [[[u8; 16]; 2]; MAX_WIDTH],
    /// For each value of a byte its `classes`, with that of a fingerprint's first byte lowest.
    steps: [u32; 256],
    /// For each low half of a byte the byte that is meant. Only if `is_exact`.
    pub(super) bytes: [exact::Bytes; exact::SIZE],
    /// `bytes` is all that is needed.
    pub(super) is_exact: bool,
    /// The number of bytes that the filter looks at, 0 if there is nothing for it.
    pub(super) size: usize,
    /// The greatest offset of a fingerprint in its pattern.
    pub(super) farthest: usize,
    /// For each hash the first pattern that it leads to.
    heads: [u16; 1 << HASH_BITS],
    /// The pattern after this one.
    next: [u16; MAX_PATTERNS],
    /// The first pattern that no hash leads to, since bits that go into the hash are open.
    loose: u16,
    /// The bits that go into the hash.
    hashed: u32,
    fingerprints: [Fingerprint; MAX_PATTERNS],
}

/// A pattern's fingerprint: four bytes as a little-endian word.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Fingerprint {
    value: u32,
    mask: u32,
    /// Where it begins in the pattern.
    at: usize,
    /// The index of the pattern.
    pattern: usize,
}

/// Up to how many patterns the filter is always faster than samples, and up to how many it is where
/// too many samples pass.
const fn filter_limits(engine: Engine) -> (usize, usize) {
    match engine.kind() {
        EngineKind::Portable => (0, 0),
        EngineKind::Avx2 => (0, BUCKETS),
        EngineKind::Avx512 => (64, MAX_PATTERNS),
    }
}

/// Returns whether so few patterns are best looked for by the filter, unless too much passes.
const fn is_filter_first(engine: Engine, patterns: usize) -> bool {
    matches!(engine.kind(), EngineKind::Avx2) && patterns <= exact::MAX_PATTERNS
}

impl Tables {
    /// Creates the tables of no pattern, where stacks are large.
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

    /// Prepares them for a scan by `engine`. Patterns beyond [`MAX_PATTERNS`] are left out.
    pub(super) fn prepare(&mut self, patterns: &[Pattern], engine: Engine) {
        let patterns = patterns.get(..MAX_PATTERNS).unwrap_or(patterns);
        self.longest = patterns.iter().map(Pattern::len).max().unwrap_or(0);
        for (tail, pattern) in self.tails.iter_mut().zip(patterns) {
            *tail = Tail::of(pattern);
        }
        let (always, where_many_pass) = filter_limits(engine);
        let for_samples = if patterns.len() > always {
            patterns
        } else {
            &[]
        };
        self.samples.prepare(for_samples);
        let Self {
            samples, choices, ..
        } = self;
        let all = patterns.iter().enumerate();
        let others = all.clone().filter(|(index, _)| !samples.has(*index));
        self.has_others = others.clone().next().is_some();
        self.filter_first = !self.has_others && is_filter_first(engine, patterns.len());
        let filtered = if self.has_others {
            others.clone().count()
        } else if patterns.len() <= where_many_pass {
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

    /// Returns whether the filter looks for a pattern.
    pub(super) fn is_filtered(&self, pattern: usize) -> bool {
        !(self.has_others && self.samples.has(pattern))
    }

    /// Returns the tail of a pattern.
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
            classes: [[0; 256]; MAX_WIDTH],
            halves: [[[0; 16]; 2]; MAX_WIDTH],
            bytes: [[0; 16]; exact::SIZE],
            is_exact: false,
            size: 0,
            steps: [0; 256],
            farthest: 0,
            heads: [NONE; 1 << HASH_BITS],
            next: [NONE; MAX_PATTERNS],
            loose: NONE,
            hashed: 0,
            fingerprints: [const {
                Fingerprint {
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
        for (fingerprint, (index, pattern)) in self.fingerprints.iter_mut().zip(patterns.clone()) {
            let others = |at| {
                let count = self.heads.get(hash(Fingerprint::of(pattern, at).value));
                u64::from(count.copied().unwrap_or(0))
            };
            let [first, second] = fingerprint::choose(pattern, size, others);
            *fingerprint = Fingerprint::of(pattern, if number == 0 { first } else { second });
            fingerprint.pattern = index;
            self.farthest = self.farthest.max(fingerprint.at);
            if fingerprint.mask != u32::MAX && fingerprint.mask | CASES == u32::MAX {
                self.hashed = !CASES;
            }
        }
        let count = patterns.count();
        self.link(count);
        self.classify(count, size, number);
    }

    /// Prepares it for few `patterns`, each with its index, if low halves tell the bytes of their
    /// fingerprints apart. Returns whether they do; otherwise nothing has changed.
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
        let fingerprints = self.fingerprints.iter_mut().zip(patterns.zip(exact.places));
        for (fingerprint, ((index, pattern), at)) in fingerprints {
            *fingerprint = Fingerprint::of(pattern, at);
            fingerprint.pattern = index;
            self.farthest = self.farthest.max(at);
        }
        self.link(count);
        true
    }

    /// Counts in `heads`, for each hash, in how many positions patterns have bytes with this hash.
    fn count<'a>(&mut self, patterns: impl Iterator<Item = &'a Pattern>) {
        self.heads = [NONE; 1 << HASH_BITS];
        for pattern in patterns {
            for at in 0..pattern.len() {
                if let Some(count) = self.heads.get_mut(hash(Fingerprint::of(pattern, at).value)) {
                    *count = count.saturating_add(1);
                }
            }
        }
    }

    /// Makes the lists that hashes lead to.
    fn link(&mut self, count: usize) {
        self.heads = [NONE; 1 << HASH_BITS];
        self.loose = NONE;
        // From the last one on, so that each list ascends.
        for index in (0..count).rev() {
            let Some(fingerprint) = self.fingerprints.get(index).copied() else {
                continue;
            };
            let head = if fingerprint.mask & self.hashed == self.hashed {
                self.heads.get_mut(hash(fingerprint.value & self.hashed))
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

    /// Makes the tables of the filter, for the first `size` bytes of the fingerprints.
    fn classify(&mut self, count: usize, size: usize, number: usize) {
        self.classes = [[0; 256]; MAX_WIDTH];
        self.halves = [[[0; 16]; 2]; MAX_WIDTH];
        // For each bucket, the estimated share of memory that its bytes are.
        let mut shares = [[0; MAX_WIDTH]; BUCKETS];
        for index in 0..count {
            let Some(fingerprint) = self.fingerprints.get(index).copied() else {
                continue;
            };
            let bucket = if number == 0 {
                self.cheapest(fingerprint, size, &mut shares)
            } else {
                // Similar ones go into different buckets: each then has few of the values that a
                // kind of strings consists of. Where this choice is needed, memory is full of such
                // strings.
                self.rank(index, count) % BUCKETS
            };
            // Similar fingerprints share the high halves of their bytes, so they are best together.
            let rank = self.rank(index, count);
            let together = rank.saturating_mul(BUCKETS).checked_div(count);
            self.add(fingerprint, size, bit(bucket), bit(together.unwrap_or(0)));
        }
        for (value, step) in self.steps.iter_mut().enumerate() {
            let classes = self.classes.each_ref().map(|classes| classes.get(value));
            *step = u32::from_le_bytes(classes.map(|class| class.copied().unwrap_or(0)));
        }
    }

    /// Returns the buckets that are still possible: byte `i` of the result for a fingerprint that
    /// began `i` bytes ago, the lowest one for one that begins with `byte`. `begun` is the result
    /// before it.
    #[inline]
    pub(super) fn step(&self, begun: u32, byte: u8) -> u32 {
        ((begun << u8::BITS) | u32::from(u8::MAX)) & self.steps[usize::from(byte)]
    }

    /// Adds a fingerprint to a bucket for whole bytes, and to one for their halves.
    fn add(&mut self, fingerprint: Fingerprint, size: usize, whole: u8, half: u8) {
        let tables = self.classes.iter_mut().zip(&mut self.halves);
        for ((classes, [low, high]), (value, mask)) in tables.zip(fingerprint.bytes()).take(size) {
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

    /// Returns the bucket where one more fingerprint lets the fewest further places pass, as memory
    /// is expected to be. `shares` are those of the fingerprints that the buckets have.
    fn cheapest(
        &self,
        fingerprint: Fingerprint,
        size: usize,
        shares: &mut [[u64; MAX_WIDTH]; BUCKETS],
    ) -> usize {
        let product = |shares: &[u64; MAX_WIDTH]| {
            let shares = shares.iter().take(size);
            shares.fold(1, |product: u64, share| product.saturating_mul(*share))
        };
        let mut best = (u64::MAX, 0, [0; MAX_WIDTH]);
        for (bucket, before) in shares.iter().enumerate() {
            let mut after = *before;
            let classes = self.classes.iter().zip(&mut after);
            for ((classes, share), (value, mask)) in classes.zip(fingerprint.bytes()) {
                for (byte, buckets) in (0..=u8::MAX).zip(classes) {
                    if byte & mask == value && buckets & (1 << bucket) == 0 {
                        *share = share
                            .saturating_add(fingerprint::frequency(byte))
                            .min(fingerprint::TOTAL);
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

    /// Returns the position of a pattern's fingerprint among all, sorted.
    fn rank(&self, index: usize, count: usize) -> usize {
        let fingerprints = self.fingerprints.get(..count).unwrap_or_default();
        let key =
            |index: usize, fingerprint: &Fingerprint| (fingerprint.value.to_le_bytes(), index);
        let Some(this) = fingerprints
            .get(index)
            .map(|fingerprint| key(index, fingerprint))
        else {
            return 0;
        };
        let all = fingerprints.iter().enumerate();
        all.filter(|(other, fingerprint)| key(*other, fingerprint) < this)
            .count()
    }

    /// Returns the patterns whose fingerprints match the four bytes of `word`: their indices, and
    /// where their fingerprints begin in them.
    #[inline]
    pub(super) fn candidates(&self, word: u32) -> impl Iterator<Item = (usize, usize)> + '_ {
        let head = self.heads.get(hash(word & self.hashed));
        let found = self.list(head.copied().unwrap_or(NONE));
        let all = found.chain(self.list(self.loose));
        all.filter(move |fingerprint| word & fingerprint.mask == fingerprint.value)
            .map(|fingerprint| (fingerprint.pattern, fingerprint.at))
    }

    #[inline]
    fn list(&self, head: u16) -> impl Iterator<Item = &Fingerprint> + '_ {
        let mut next = head;
        core::iter::from_fn(move || {
            let index = usize::from(next.checked_sub(1)?);
            next = self.next.get(index).copied().unwrap_or(NONE);
            self.fingerprints.get(index)
        })
    }
}

impl Fingerprint {
    /// Returns the four bytes of `pattern` from `at` on. Beyond its end any value matches.
    fn of(pattern: &Pattern, at: usize) -> Self {
        let (mut value, mut mask) = ([0; MAX_WIDTH], [0; MAX_WIDTH]);
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

    /// Returns the value and the mask of each byte.
    fn bytes(self) -> impl Iterator<Item = (u8, u8)> {
        let values = self.value.to_le_bytes().into_iter();
        values.zip(self.mask.to_le_bytes())
    }
}

/// Returns a bucket as a bit.
fn bit(bucket: usize) -> u8 {
    1 << bucket.min(BUCKETS - 1)
}

/// The bits that tell letters of the two cases apart.
const CASES: u32 = 0x2020_2020;

/// Returns a number below the length of `heads`.
#[inline]
fn hash(word: u32) -> usize {
    let hash = word.wrapping_mul(0x9e37_79b1) >> (u32::BITS - HASH_BITS);
    usize::try_from(hash).unwrap_or(0)
}
