// SPDX-License-Identifier: GPL-2.0

//! Finds where patterns may match by looking at samples: a few places of memory only.
//!
//! Each pattern contributes a run of fully specified bytes. Places are so close together that each
//! match has one in its run, with all the bytes that are looked at there. So all pieces of the run
//! of that size go into a table as samples, and a place passes if its bytes are in the table. That
//! takes the same time for one pattern and for hundreds, and no vector registers.
//!
//! What passes is looked up in a second table, which leads to the pattern, and to where it begins.
//!
//! This file is longer than others: preparing the tables and looking at places rely on each other.

mod general;

use core::num::NonZeroUsize;

use super::{
    engine::{
        Engine,
        EngineKind, //
    },
    fingerprint,
    memory::Piece,
    pattern::{
        Pattern,
        EITHER_CASE,
        MAX_PATTERNS, //
    },
    tail::Tail, //
};

/// The most bytes between two places.
const FARTHEST: usize = 16;

/// The fewest and the most bytes of a sample.
const SIZES: (usize, usize) = (4, 8);

/// The shortest run that is worth it: places are then seven bytes apart.
const SHORTEST: usize = 10;

/// Returns how far apart places are at most; longer runs make larger samples. The more patterns
/// there are, the more often short samples match by chance.
const fn distance(patterns: usize) -> usize {
    match patterns {
        0..=8 => FARTHEST,
        _ => 11,
    }
}

/// The most samples, with that of no pattern. A power of two, so that any number is quickly an
/// index.
const MAX_SAMPLES: usize = 1 << 12;

/// The number of bits of the hash that leads to patterns.
const HEAD_BITS: u32 = 13;

/// How many samples [`Samples::sift`] considers at a place.
const SIFT_DEPTH: usize = 8;

/// The most bits of the hash by which places pass.
const PASS_BITS: u32 = 16;

/// The number of places in a word.
const PLACES: usize = u64::BITS as usize;

/// Stands for no sample.
const NONE: u16 = 0;

/// The bits that tell letters of the two cases apart.
const CASES: u64 = 0x2020_2020_2020_2020;

/// What hashes are made with: the one is used with which the fewest frequent words pass.
const MULTIPLIERS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xd134_2543_de82_ef95,
    0xbf58_476d_1ce4_e5b9,
    0xa24b_aed4_963e_e407,
];

/// A pattern has no samples if one of them is expected at more than one of so many places.
const TOO_FREQUENT: u64 = 512;

/// What is prepared for the patterns that have samples. All zeros are a valid value.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Samples {
    /// The distance of two places; 0 if no pattern has samples.
    stride: usize,
    /// The greatest offset of a sample in its pattern.
    farthest: usize,
    /// The bytes of a word that belong to a sample.
    mask: u64,
    /// How many bits of a hash lead into `passes`.
    pass_bits: u32,
    /// Bits that are set in each word before it is looked up: [`CASES`] or none.
    fold: u64,
    /// What the hash is made with.
    multiplier: u64,
    /// Which patterns have samples.
    has: [bool; MAX_PATTERNS],
    /// 1 for each hash that some sample has.
    passes: [u8; 1 << PASS_BITS],
    /// For each hash the first sample that it leads to.
    heads: [u16; 1 << HEAD_BITS],
    /// The first one is that of no pattern, which matches nowhere.
    entries: [Sample; MAX_SAMPLES],
    /// The number of samples.
    len: usize,
}

/// Some bytes of a pattern.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Sample {
    /// The bytes, as a word with zeros for those that do not belong to it.
    value: u64,
    /// The end of the pattern.
    tail: Tail,
    /// How far after the sample the tail begins.
    to_tail: i16,
    pattern: u16,
    /// Where the sample begins in the pattern.
    at: u16,
    /// The sample after this one.
    next: u16,
}

impl Sample {
    /// The sample of no pattern.
    const NONE: Self = Self {
        value: 0,
        tail: Tail::NOWHERE,
        to_tail: 0,
        pattern: 0,
        at: 0,
        next: NONE,
    };

    /// Returns whether the pattern may match where `value` is in the place of the sample.
    #[inline]
    fn may_be(&self, value: u64, read: impl Fn(isize) -> Option<u64>) -> bool {
        self.value == value
            && read(isize::from(self.to_tail)).is_none_or(|tail| self.tail.may_be(tail))
    }
}

impl Samples {
    #[allow(clippy::large_stack_arrays, reason = "not for the kernel")]
    pub(super) const fn new() -> Self {
        Self {
            stride: 0,
            farthest: 0,
            mask: 0,
            pass_bits: 0,
            fold: 0,
            multiplier: 0,
            has: [false; MAX_PATTERNS],
            passes: [0; 1 << PASS_BITS],
            heads: [NONE; 1 << HEAD_BITS],
            entries: [const { Sample::NONE }; MAX_SAMPLES],
            len: 0,
        }
    }

    /// Prepares the samples of those of `patterns` that can have some.
    pub(super) fn prepare(&mut self, patterns: &[Pattern]) {
        self.forget();
        let lengths = patterns.iter().map(longest_run);
        let lengths = lengths.filter(|len| *len >= SHORTEST);
        let count = lengths.clone().count();
        let distance = distance(count);
        let Some(shortest) = lengths.min() else {
            return;
        };
        let (least, most) = SIZES;
        let size = shortest.saturating_sub(distance.saturating_sub(1));
        let size = size.clamp(least, most);
        // There is room for so many samples of each pattern.
        let farthest = (MAX_SAMPLES - 1)
            .checked_div(count)
            .unwrap_or(0)
            .min(FARTHEST);
        let stride = shortest.saturating_sub(size - 1).min(farthest);
        self.mask = (0..size).fold(0, |mask, _| (mask << u8::BITS) | u64::from(u8::MAX));
        self.count_alike(patterns);
        for (index, pattern) in patterns.iter().enumerate().take(MAX_PATTERNS) {
            let best = self.best_run(pattern, size, stride);
            if let (Some(first), Some(has)) = (best, self.has.get_mut(index)) {
                *has = true;
                for at in first..first.saturating_add(stride) {
                    self.add(pattern, index, at);
                }
            }
        }
        if self.len > 0 {
            self.stride = stride;
            self.link();
        }
    }

    /// Returns whether a pattern has samples.
    pub(super) fn has(&self, pattern: usize) -> bool {
        self.has.get(pattern).copied().unwrap_or(false)
    }

    /// Returns the distance of two places; [`None`] if no pattern has samples.
    pub(super) fn stride(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.stride)
    }

    /// Returns how far beyond the last place where a match may begin to look.
    pub(super) fn farthest(&self) -> usize {
        self.farthest
    }

    fn forget(&mut self) {
        (self.stride, self.farthest, self.len, self.fold) = (0, 0, 0, 0);
        self.has = [false; MAX_PATTERNS];
        // It may have been made as zeros.
        self.entries[0] = Sample::NONE;
    }

    /// Counts in `heads`, for each hash, in how many positions patterns have bytes with this hash.
    fn count_alike(&mut self, patterns: &[Pattern]) {
        self.heads.fill(0);
        for pattern in patterns {
            for at in 0..pattern.len() {
                if let Some(count) = self.heads.get_mut(hash_of_few(pattern, at)) {
                    *count = count.saturating_add(1);
                }
            }
        }
    }

    /// Returns where the run of a pattern begins whose samples are least frequent. [`None`]: there
    /// is no run, or a sample is too frequent.
    fn best_run(&self, pattern: &Pattern, size: usize, stride: usize) -> Option<usize> {
        let len = size.saturating_add(stride).saturating_sub(1);
        let judged = size.min(fingerprint::MAX_WIDTH);
        let most = fingerprint::places(judged) / TOO_FREQUENT;
        let cost = |first: usize| {
            let samples = first..first.saturating_add(stride);
            samples.clone().try_fold(0, |sum: u64, at| {
                // Similar ones share a hash.
                let alike = self.heads.get(hash_of_few(pattern, at)).copied();
                let rarity = fingerprint::rarity(pattern, at, judged);
                let cost = rarity.saturating_mul(u64::from(alike.unwrap_or(0).max(1)));
                (rarity <= most).then(|| sum.saturating_add(cost))
            })
        };
        let firsts = 0..=pattern.len().checked_sub(len)?;
        let specified = firsts.filter(|first| is_specified(pattern, *first, len));
        let costs = specified.filter_map(|first| Some((cost(first)?, first)));
        costs.min().map(|(_, first)| first)
    }

    /// Adds the sample of a pattern at `at`.
    fn add(&mut self, pattern: &Pattern, index: usize, at: usize) {
        let mut bytes = [0; size_of::<u64>()];
        for (byte, at) in bytes.iter_mut().zip(at..) {
            let (value, mask) = pattern.byte(at).unwrap_or((0, 0));
            *byte = value;
            if mask == EITHER_CASE {
                self.fold = CASES;
            }
        }
        if let (Some(sample), Ok(index), Ok(offset), Ok(tail_at)) = (
            self.entries.get_mut(1 + self.len),
            u16::try_from(index),
            i16::try_from(at),
            i16::try_from(Tail::at(pattern)),
        ) {
            *sample = Sample {
                value: u64::from_le_bytes(bytes),
                tail: Tail::of(pattern),
                to_tail: tail_at.wrapping_sub(offset),
                pattern: index,
                at: offset.unsigned_abs(),
                next: NONE,
            };
            self.len = self.len.saturating_add(1);
            self.farthest = self.farthest.max(at);
        }
    }

    /// Makes the tables that lead to the samples.
    fn link(&mut self) {
        for sample in self.entries.iter_mut().skip(1).take(self.len) {
            sample.value = (sample.value | self.fold) & self.mask;
        }
        self.pass_bits = if self.len <= 512 { 15 } else { PASS_BITS };
        // Bytes that do not belong to a sample are moved out of the product.
        let shift = self.mask.leading_zeros();
        let multipliers = MULTIPLIERS.map(|multiplier| multiplier << shift);
        let best = multipliers.into_iter().min_by_key(|multiplier| {
            self.let_pass(*multiplier);
            self.frequent_words()
        });
        self.let_pass(best.unwrap_or(1));

        self.heads.fill(NONE);
        // From the last one on, so that each list ascends.
        for index in (1..=self.len).rev() {
            let Some(sample) = self.entries.get_mut(index) else {
                continue;
            };
            let hash = sample.value.wrapping_mul(self.multiplier);
            if let (Some(head), Ok(this)) = (
                self.heads.get_mut(top(hash, HEAD_BITS)),
                u16::try_from(index),
            ) {
                sample.next = *head;
                *head = this;
            }
        }
    }

    /// Lets the samples pass, by hashes made with `multiplier`.
    fn let_pass(&mut self, multiplier: u64) {
        self.multiplier = multiplier;
        self.passes.fill(0);
        for sample in self.entries.iter().skip(1).take(self.len) {
            let hash = sample.value.wrapping_mul(multiplier);
            if let Some(passes) = self.passes.get_mut(top(hash, self.pass_bits)) {
                *passes = 1;
            }
        }
    }

    /// Returns how many frequent words pass. Zeros count for many, since memory is full of them.
    fn frequent_words(&self) -> u32 {
        let words = (0..=u8::MAX).map(|byte| u64::from_le_bytes([byte; size_of::<u64>()]));
        let passing = words.filter(|word| {
            let hash = (word | self.fold).wrapping_mul(self.multiplier);
            self.passes.get(top(hash, self.pass_bits)) == Some(&1)
        });
        passing.fold(0, |count, word| count + if word == 0 { 1000 } else { 1 })
    }

    /// Looks at the first `count` places in `piece`, which has all the words that begin there. Sets
    /// the bits of those that pass in `words`, the highest one for the first place. `ahead` is what
    /// will be looked at some time later.
    pub(super) fn look(
        &self,
        engine: Engine,
        piece: Piece<'_>,
        ahead: Piece<'_>,
        count: usize,
        words: &mut [u64],
    ) {
        let look = match (self.pass_bits, self.fold) {
            (15, 0) => Self::look_at_each::<15, false>,
            (15, _) => Self::look_at_each::<15, true>,
            (_, 0) => Self::look_at_each::<PASS_BITS, false>,
            (_, _) => Self::look_at_each::<PASS_BITS, true>,
        };
        let full = count / PLACES;
        let words = words.get_mut(..count.div_ceil(PLACES)).unwrap_or_default();
        let (words, last) = words.split_at_mut_checked(full).unwrap_or_default();
        look(self, engine, piece, ahead, words, PLACES);
        let at = full.saturating_mul(PLACES).saturating_mul(self.stride);
        let (piece, ahead) = (piece.after(at), ahead.after(at));
        look(self, engine, piece, ahead, last, count % PLACES);
    }

    /// Looks at `each` places for each word: all 64, or fewer for one word.
    fn look_at_each<const BITS: u32, const FOLD: bool>(
        &self,
        engine: Engine,
        piece: Piece<'_>,
        ahead: Piece<'_>,
        words: &mut [u64],
        each: usize,
    ) {
        let places = words.len().saturating_mul(each);
        let read = piece.words(self.stride, places);
        if places == 0 || read.len() < places {
            return;
        }
        let groups = match engine.kind() {
            EngineKind::Portable => 0,
            EngineKind::Avx2 | EngineKind::Avx512 => each / general::GROUP,
        };
        if groups > 0 {
            // SAFETY: The piece has the bytes, by `read`. `passes` has an entry for each hash of so
            // many bits.
            unsafe { general::look::<BITS, FOLD>(self, piece, ahead, words, groups) };
        }
        let done = groups.saturating_mul(general::GROUP);
        let left = each.saturating_sub(done);
        if done == PLACES {
            return;
        }
        let mut read = read.after(done);
        for word in words {
            let mut places = if done > 0 { *word } else { 0 };
            for word in read.by_ref().take(left) {
                let word = if FOLD { word | CASES } else { word };
                let passes = self
                    .passes
                    .get(top(word.wrapping_mul(self.multiplier), BITS));
                places = (places << 1) | u64::from(passes.copied().unwrap_or(0));
            }
            *word = places << PLACES.saturating_sub(each);
        }
    }

    /// Returns those bits of `word` whose places a pattern may match: few. The lowest bit is that
    /// of the place at `first` in `piece`. The loop does nothing else, so that memory full of such
    /// places does not cost much.
    pub(super) fn sift(&self, piece: Piece<'_>, first: usize, word: u64) -> u64 {
        let (mut left, mut worth) = (word, 0);
        while left != 0 {
            let number = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            let place = self.place(first, number);
            let may_be = piece.word(place).is_some_and(|word| {
                let read = |distance| piece.word(place.wrapping_add_signed(distance));
                self.may_have_candidate(word, read)
            });
            if may_be {
                worth |= 1 << number;
            }
        }
        worth
    }

    /// Returns the place of a bit of a word whose lowest bit is that of the place at `first`.
    #[inline]
    pub(super) fn place(&self, first: usize, number: u32) -> usize {
        // A number of bits is no more than 64.
        let number = usize::try_from(number).unwrap_or(0);
        first.wrapping_add(number.wrapping_mul(self.stride))
    }

    /// Returns whether [`Self::for_each_candidate`] may have any, by the first few samples.
    #[inline]
    fn may_have_candidate(&self, word: u64, read: impl Fn(isize) -> Option<u64>) -> bool {
        let word = word | self.fold;
        let value = word & self.mask;
        // Where there is none, it is that of no pattern: not to ask first makes the loop faster.
        let mut next = self.head(word);
        for _ in 0..SIFT_DEPTH {
            let sample = self.sample(next);
            if sample.may_be(value, &read) {
                return true;
            }
            next = sample.next;
            if next == NONE {
                return false;
            }
        }
        true
    }

    /// Returns the first sample that a word leads to; the word is folded already.
    #[inline]
    fn head(&self, word: u64) -> u16 {
        let hash = word.wrapping_mul(self.multiplier);
        let head = self.heads.get(top(hash, HEAD_BITS));
        head.copied().unwrap_or(NONE)
    }

    #[inline]
    fn sample(&self, index: u16) -> &Sample {
        &self.entries[usize::from(index) % MAX_SAMPLES]
    }

    /// Calls `candidate` with each pattern that may match where `word` is at a place, and with the
    /// position of the place in the pattern. `read` reads the word at a distance from the place, if
    /// that is in the same piece. Returns how many samples were considered.
    #[inline]
    pub(super) fn for_each_candidate(
        &self,
        word: u64,
        read: impl Fn(isize) -> Option<u64>,
        mut candidate: impl FnMut(usize, usize),
    ) -> u32 {
        let word = word | self.fold;
        let mut next = self.head(word);
        let mut count = 0_u32;
        while next != NONE {
            let sample = self.sample(next);
            next = sample.next;
            count = count.wrapping_add(1);
            if sample.may_be(word & self.mask, &read) {
                candidate(usize::from(sample.pattern), usize::from(sample.at));
            }
        }
        count
    }
}

/// Returns the highest `bits` bits of a hash.
#[inline]
fn top(hash: u64, bits: u32) -> usize {
    // No more than 16 bits.
    usize::try_from(hash >> (u64::BITS - bits)).unwrap_or(0)
}

/// Returns a number below the length of `heads`, the same for the same few bytes of a pattern.
fn hash_of_few(pattern: &Pattern, at: usize) -> usize {
    let mut bytes = [0; size_of::<u64>()];
    for (byte, at) in bytes
        .iter_mut()
        .zip(at..at.saturating_add(fingerprint::MAX_WIDTH))
    {
        *byte = pattern.byte(at).map_or(0, |(value, _)| value);
    }
    let [multiplier, ..] = MULTIPLIERS;
    top(
        u64::from_le_bytes(bytes).wrapping_mul(multiplier),
        HEAD_BITS,
    )
}

/// Returns whether the `len` bytes from `first` on are fully specified, but for the case of
/// letters.
fn is_specified(pattern: &Pattern, first: usize, len: usize) -> bool {
    let mut bytes = first..first.saturating_add(len);
    bytes.all(|at| {
        let mask = pattern.byte(at).map(|(_, mask)| mask);
        matches!(mask, Some(u8::MAX | EITHER_CASE))
    })
}

/// Returns the length of a pattern's longest run of fully specified bytes.
fn longest_run(pattern: &Pattern) -> usize {
    let lengths = (0..pattern.len()).scan(0_usize, |len, at| {
        *len = if is_specified(pattern, at, 1) {
            len.saturating_add(1)
        } else {
            0
        };
        Some(*len)
    });
    lengths.max().unwrap_or(0)
}
