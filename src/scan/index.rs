// SPDX-License-Identifier: GPL-2.0

//! Leads from the eight bytes at a place of memory to the patterns that may match there.
//!
//! Each pattern contributes a window, or several in a row: eight of its bytes, of which some bits
//! count, the same bits for all patterns. A place passes if a table has the hash of its bits. That
//! is decided in a few instructions, without a branch, for one pattern as for thousands. What has
//! passed is looked up in a second table, which leads to the patterns, and to where they begin.

mod general;
mod sift;

use super::{
    engine::{
        Engine,
        EngineKind, //
    },
    memory::Piece,
    pattern::Pattern,
    tail::Tail, //
};

/// The number of bits of the hash that leads to patterns.
const HEAD_BITS: u32 = 15;

/// How many windows [`Index::sift`] considers at a place.
const SIFT_DEPTH: usize = 8;

/// The most bits of the hash by which places pass. The table has a bit for each hash, and takes
/// 256 KiB: as much as any second cache has.
const PASS_BITS: u32 = 21;

/// How many windows do with a table that has a byte for each hash, and the bits of that. It fits
/// into the first cache, and to look into it is faster.
const FEW: usize = 256;
const FEW_BITS: u32 = 15;

/// The number of words of the table, each with a bit for each value of the lowest bits of a window,
/// and the bits of the hash that leads to them.
const PASS_WORDS: usize = 1 << HASH_BITS;
const HASH_BITS: u32 = PASS_BITS - u32::BITS.ilog2();

/// The number of places in a word.
const PLACES: usize = u64::BITS as usize;

/// From so many places of a word on it is faster to look at all of them.
const DENSE: u32 = 24;

/// Stands for no window.
const NONE: u16 = 0;

/// What hashes are made with: the first one is used with which no frequent word passes.
const MULTIPLIERS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xd134_2543_de82_ef95,
    0xbf58_476d_1ce4_e5b9,
    0xa24b_aed4_963e_e407,
];

/// An index of some patterns. All zeros are a valid value.
///
/// Its windows are in a slice beside it, since indexes need room for different numbers of them: all
/// functions that take `entries` must get the same. The first one is that of no pattern, which
/// matches nowhere.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Index {
    /// The bits that count.
    mask: u64,
    /// What the hash is made with. The bits above those that count do not matter to it.
    multiplier: u64,
    /// The number of windows.
    len: usize,
    /// The greatest offset of a window in its pattern.
    farthest: usize,
    /// For each hash whether some window has it: a bit, or, if there are few windows or only two
    /// bytes count, a byte.
    passes: [u32; PASS_WORDS],
    /// For each hash the first window that it leads to.
    heads: [u16; 1 << HEAD_BITS],
}

/// A window of a pattern. All zeros are a valid value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Entry {
    /// Its bits that count.
    value: u64,
    /// The end of the pattern.
    tail: Tail,
    /// How far after the window the tail begins.
    to_tail: i16,
    pattern: u16,
    /// Where the window begins in the pattern.
    at: u16,
    /// The window after this one.
    next: u16,
}

impl Entry {
    /// The window of no pattern.
    pub(super) const NONE: Self = Self {
        value: 0,
        tail: Tail::NOWHERE,
        to_tail: 0,
        pattern: 0,
        at: 0,
        next: NONE,
    };

    /// Returns whether the pattern may match where `value` is in the place of the window.
    #[inline]
    fn may_be(&self, value: u64, read: impl Fn(isize) -> Option<u64>) -> bool {
        self.value == value
            && read(isize::from(self.to_tail)).is_none_or(|tail| self.tail.may_be(tail))
    }
}

/// What is left of a word.
#[derive(Clone, Copy, Default)]
pub(super) struct Sifted {
    /// The bits of those places that pass.
    pub(super) word: u64,
    /// How many places were looked at, and how many of them pass.
    pub(super) looked: u32,
    pub(super) passing: u32,
}

impl Index {
    /// Forgets all windows. Of those that follow the bits in `mask` count.
    pub(super) fn begin(&mut self, mask: u64) {
        self.mask = mask;
        (self.len, self.farthest) = (0, 0);
        self.heads.fill(NONE);
    }

    /// Counts, until [`Self::link`], one more pattern with these bits.
    pub(super) fn count_alike(&mut self, bits: u64) {
        let hash = self.head_of(bits);
        if let Some(count) = self.heads.get_mut(hash) {
            *count = count.saturating_add(1);
        }
    }

    /// Returns how many patterns with these bits were counted, and others of the same hash.
    pub(super) fn alike(&self, bits: u64) -> u16 {
        self.heads.get(self.head_of(bits)).copied().unwrap_or(0)
    }

    fn head_of(&self, bits: u64) -> usize {
        let [multiplier, ..] = MULTIPLIERS;
        top((bits & self.mask).wrapping_mul(multiplier), HEAD_BITS)
    }

    /// Adds the window of a pattern at `at`, if there is room.
    pub(super) fn add(
        &mut self,
        entries: &mut [Entry],
        pattern: &Pattern,
        index: usize,
        at: usize, //
    ) {
        if let (Some(entry), Ok(index), Ok(offset), Ok(tail_at)) = (
            entries.get_mut(self.len.saturating_add(1)),
            u16::try_from(index),
            i16::try_from(at),
            i16::try_from(Tail::at(pattern)),
        ) {
            *entry = Entry {
                value: pattern.window(at).0 & self.mask,
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

    /// Makes the tables that lead to the windows.
    pub(super) fn link(&mut self, entries: &mut [Entry]) {
        if let Some(first) = entries.first_mut() {
            // It may have been made as zeros.
            *first = Entry::NONE;
        }
        for multiplier in MULTIPLIERS {
            self.let_pass(multiplier, entries);
            if is_pair(self.mask) || !self.pass_frequent_words() {
                break;
            }
        }

        self.heads.fill(NONE);
        // From the last one on, so that each list ascends.
        for index in (1..=self.len).rev() {
            let Some(entry) = entries.get_mut(index) else {
                continue;
            };
            let hash = entry.value.wrapping_mul(self.multiplier);
            if let (Some(head), Ok(this)) = (
                self.heads.get_mut(top(hash, HEAD_BITS)),
                u16::try_from(index),
            ) {
                entry.next = *head;
                *head = this;
            }
        }
    }

    /// Lets the windows pass, by hashes made with `multiplier`.
    fn let_pass(&mut self, multiplier: u64, entries: &[Entry]) {
        // Whatever is above the bits that count is moved out, and need not be masked.
        let above = self.mask.leading_zeros();
        self.multiplier = multiplier.checked_shl(above).unwrap_or(0);
        let used = self.pass_words();
        let used = self.passes.get_mut(..used);
        used.unwrap_or_default().fill(0);
        for entry in entries.iter().skip(1).take(self.len) {
            self.let_hash_pass(self.pass_of(entry.value));
        }
        if is_pair(self.mask) && self.mask != PAIR {
            // What is in the bits that do not count makes no difference.
            for pair in 0..=PAIR {
                let same = self.pass_of(pair & self.mask);
                if self.hash_passes(same) {
                    self.let_hash_pass(self.pass_of(pair));
                }
            }
        }
    }

    /// Returns whether the table has a byte for each hash.
    #[inline]
    fn has_bytes(&self) -> bool {
        self.len <= FEW || is_pair(self.mask)
    }

    /// Returns how many words of the table are in use.
    fn pass_words(&self) -> usize {
        if is_pair(self.mask) {
            (1 << u16::BITS) / size_of::<u32>()
        } else if self.has_bytes() {
            (1 << FEW_BITS) / size_of::<u32>()
        } else {
            PASS_WORDS
        }
    }

    /// Returns the word and its bit that say whether a hash passes.
    #[inline]
    fn pass_bit(&self, hash: usize) -> (usize, u32) {
        if self.has_bytes() {
            (hash / 4, 1 << (hash % 4 * 8))
        } else {
            (hash / 32, 1 << (hash % 32))
        }
    }

    fn let_hash_pass(&mut self, hash: usize) {
        let (word, bit) = self.pass_bit(hash);
        if let Some(word) = self.passes.get_mut(word) {
            *word |= bit;
        }
    }

    #[inline]
    fn hash_passes(&self, hash: usize) -> bool {
        let (word, bit) = self.pass_bit(hash);
        self.passes.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Returns which hash of `passes` these bits have.
    #[inline]
    fn pass_of(&self, bits: u64) -> usize {
        if is_pair(self.mask) {
            usize::try_from(bits & PAIR).unwrap_or(0)
        } else if self.has_bytes() {
            top(bits.wrapping_mul(self.multiplier), FEW_BITS)
        } else {
            let word = top(bits.wrapping_mul(self.multiplier), HASH_BITS);
            (word << u32::BITS.ilog2()) | usize::try_from(bits % u64::from(u32::BITS)).unwrap_or(0)
        }
    }

    /// Returns whether a frequent word passes.
    fn pass_frequent_words(&self) -> bool {
        let words = [0, 0xcc, 0xff, b' '].map(|byte| u64::from_le_bytes([byte; size_of::<u64>()]));
        words.into_iter().any(|word| self.passes(word))
    }

    /// Returns the length of the longest list of windows that one hash leads to.
    pub(super) fn longest_list(&self, entries: &[Entry]) -> usize {
        let lengths = self.heads.iter().map(|head| {
            let mut next = *head;
            let list = core::iter::from_fn(|| {
                let this = entry(entries, next);
                (next != NONE).then(|| next = this.next)
            });
            list.count()
        });
        lengths.max().unwrap_or(0)
    }

    /// Returns it with its windows.
    pub(super) fn with<'a>(&'a self, entries: &'a [Entry]) -> Windows<'a> {
        let entries = entries.get(1..).unwrap_or_default();
        let entries = entries.get(..self.len).unwrap_or_default();
        Windows {
            mask: self.mask,
            entries,
        }
    }

    /// Returns how far beyond the last place where a match may begin to look.
    pub(super) fn farthest(&self) -> usize {
        self.farthest
    }

    /// Returns at how many of `of` places something passes by chance, if `mask` counts.
    pub(super) fn chance(mask: u64, windows: usize, of: u64) -> u64 {
        if is_pair(mask) {
            return 0;
        }
        let bits = if windows <= FEW { FEW_BITS } else { PASS_BITS };
        of.saturating_mul(u64::try_from(windows).unwrap_or(u64::MAX)) >> bits
    }

    /// Returns whether a place with these eight bytes passes.
    #[inline]
    pub(super) fn passes(&self, word: u64) -> bool {
        self.hash_passes(self.pass_of(word & self.mask))
    }

    /// Looks at the first `count` places in `piece` that are `stride` bytes apart; it has all the
    /// words that begin there. Sets the bits of those that pass in `words`, the highest one for the
    /// first place. `ahead` is what will be looked at some time later. Returns how many places were
    /// passed by: where all bytes are equal, one look does for all.
    pub(super) fn look(
        &self,
        engine: Engine,
        stride: usize,
        piece: Piece<'_>,
        ahead: Piece<'_>,
        count: usize,
        words: &mut [u64],
    ) -> usize {
        let full = count / PLACES;
        let words = words.get_mut(..count.div_ceil(PLACES)).unwrap_or_default();
        let (first, last) = words.split_at_mut_checked(full).unwrap_or_default();
        let passed_by = self.look_at_each(engine, stride, piece, ahead, first, PLACES);
        let at = full.saturating_mul(PLACES).saturating_mul(stride);
        let (piece, ahead) = (piece.after(at), ahead.after(at));
        let last = self.look_at_each(engine, stride, piece, ahead, last, count % PLACES);
        passed_by.saturating_add(last)
    }

    /// Looks at `each` places for each word: all 64, or fewer for one word. Returns as above.
    fn look_at_each(
        &self,
        engine: Engine,
        stride: usize,
        piece: Piece<'_>,
        ahead: Piece<'_>,
        words: &mut [u64],
        each: usize,
    ) -> usize {
        let places = words.len().saturating_mul(each);
        let read = piece.words(stride, places);
        if places == 0 || read.len() < places {
            return 0;
        }
        let groups = match engine.kind() {
            EngineKind::Portable if cfg!(miri) => 0,
            _ => each / general::GROUP,
        };
        let mut passed_by = 0;
        if groups > 0 {
            let look = match step(self.mask, self.len) {
                Step::Pair => general::look_at_pairs,
                Step::Byte => general::look_for_few,
                Step::MaskedByte => general::look_for_few_masked,
                Step::Bit => general::look_for_many,
                Step::MaskedBit => general::look_for_many_masked,
            };
            // SAFETY: The piece has the bytes, by `read`. `passes` is made for this step: it has a
            // byte or a bit for each hash of so many bits, and for each pair.
            passed_by = unsafe { look(self, stride, piece, ahead, words, groups) };
        }
        let done = groups.saturating_mul(general::GROUP);
        let left = each.saturating_sub(done);
        if done == PLACES {
            return passed_by;
        }
        let mut read = read.after(done);
        for word in words {
            let mut places = if done > 0 { *word } else { 0 };
            for word in read.by_ref().take(left) {
                places = (places << 1) | u64::from(self.passes(word));
            }
            *word = places << PLACES.saturating_sub(each);
        }
        passed_by
    }

    /// Returns whether all bytes of a block, at least 64, are equal, and nothing passes there.
    /// `ahead` is what will be looked at some time later.
    #[inline]
    pub(super) fn is_run(&self, block: Piece<'_>, ahead: Piece<'_>) -> bool {
        let first = block.word(0);
        let first = first.filter(|word| *word == word.rotate_left(u8::BITS));
        first.is_some_and(|first| self.is_run_of(block, ahead, first))
    }

    #[inline(never)]
    fn is_run_of(&self, block: Piece<'_>, ahead: Piece<'_>, word: u64) -> bool {
        let is_possible = block.len() >= general::LINE && !cfg!(miri) && !self.passes(word);
        // SAFETY: The block has the bytes.
        is_possible && unsafe { general::is_filled(block, ahead, word) }
    }

    /// Returns those bits of `word` whose places pass, for what a filter of `engine` has found. The
    /// lowest bit is that of the place at `first` in `piece`, and the others follow; the piece has
    /// all the words that begin there, and eight bytes more.
    #[inline]
    pub(super) fn sift(&self, engine: Engine, piece: Piece<'_>, first: usize, word: u64) -> Sifted {
        let piece = piece.after(first);
        let looked = count_ones(engine, word);
        let mut passing = word;
        if looked > DENSE {
            let mut places = [0];
            self.look(engine, 1, piece, piece, PLACES, &mut places);
            passing &= places[0].reverse_bits();
        } else if piece.len() >= PLACES + size_of::<u64>() && has_instructions(engine) {
            // SAFETY: There are enough bytes, and the CPU has the instructions. `passes` is made
            // for this step.
            passing = unsafe {
                match step(self.mask, self.len) {
                    Step::Pair => sift::pairs(self, piece, word),
                    Step::Byte | Step::MaskedByte => sift::few(self, piece, word),
                    Step::Bit | Step::MaskedBit => sift::many(self, piece, word),
                }
            };
        } else {
            let mut left = word;
            while left != 0 {
                let place = usize::try_from(left.trailing_zeros()).unwrap_or(0);
                if !piece.word(place).is_some_and(|word| self.passes(word)) {
                    passing &= !(1 << place);
                }
                left &= left.wrapping_sub(1);
            }
        }
        Sifted {
            word: passing,
            looked,
            passing: count_ones(engine, passing),
        }
    }

    /// Returns whether [`Self::for_each_candidate`] may have any, by the first few windows. `read`
    /// reads the word at a distance from the place, if that is in the same piece.
    #[inline]
    pub(super) fn may_have_candidate(
        &self,
        entries: &[Entry],
        word: u64,
        read: impl Fn(isize) -> Option<u64>, //
    ) -> bool {
        let value = word & self.mask;
        // Where there is none, it is that of no pattern: not to ask first makes the loop faster.
        let mut next = self.head(value);
        for _ in 0..SIFT_DEPTH {
            let entry = entry(entries, next);
            if entry.may_be(value, &read) {
                return true;
            }
            next = entry.next;
            if next == NONE {
                return false;
            }
        }
        true
    }

    /// Returns the first window that some bits lead to.
    #[inline]
    fn head(&self, value: u64) -> u16 {
        let head = self
            .heads
            .get(top(value.wrapping_mul(self.multiplier), HEAD_BITS));
        head.copied().unwrap_or(NONE)
    }

    /// Calls `candidate` with each pattern that may match where `word` is at a place, and with the
    /// position of the place in the pattern. `read` reads the word at a distance from the place, if
    /// that is in the same piece. Returns how many windows were considered.
    #[inline]
    pub(super) fn for_each_candidate(
        &self,
        entries: &[Entry],
        word: u64,
        read: impl Fn(isize) -> Option<u64>,
        mut candidate: impl FnMut(usize, usize),
    ) -> u32 {
        let value = word & self.mask;
        let mut next = self.head(value);
        let mut count = 0_u32;
        while next != NONE {
            let entry = entry(entries, next);
            next = entry.next;
            count = count.wrapping_add(1);
            if entry.may_be(value, &read) {
                candidate(usize::from(entry.pattern), usize::from(entry.at));
            }
        }
        count
    }
}

/// The windows of an index.
#[derive(Clone, Copy)]
pub(super) struct Windows<'a> {
    mask: u64,
    entries: &'a [Entry],
}

impl<'a> Windows<'a> {
    /// Returns the bits that count.
    pub(super) fn mask(&self) -> u64 {
        self.mask
    }

    /// Returns the bits of each window.
    pub(super) fn bits(&self) -> impl Iterator<Item = u64> + Clone + 'a {
        self.entries.iter().map(|entry| entry.value)
    }

    /// Returns for each window the pattern, and where it begins in it.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> + Clone + 'a {
        let entries = self.entries.iter();
        entries.map(|entry| (usize::from(entry.pattern), usize::from(entry.at)))
    }
}

/// Returns whether the CPU has POPCNT and BMI1, and they may be used.
fn has_instructions(engine: Engine) -> bool {
    engine.kind() != EngineKind::Portable && !cfg!(miri)
}

/// Returns the number of bits set. The kernel's code may use no instruction for that, unless the
/// CPU was asked.
#[inline]
fn count_ones(engine: Engine, word: u64) -> u32 {
    if has_instructions(engine) {
        // SAFETY: As the name says.
        unsafe { sift::count_ones(word) }
    } else {
        word.count_ones()
    }
}

/// Returns a window; that of no pattern if there is none.
#[inline]
fn entry(entries: &[Entry], index: u16) -> &Entry {
    entries.get(usize::from(index)).unwrap_or(&Entry::NONE)
}

/// The bits of two bytes.
const PAIR: u64 = 0xffff;

/// What is done to look at a place, which decides how long that takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Two bytes lead to a byte of a table.
    Pair,
    /// The hash of the lowest bytes, or of any bits, leads to a byte.
    Byte,
    MaskedByte,
    /// The same, to a bit.
    Bit,
    MaskedBit,
}

/// Returns how places are looked at with so many windows, of which the bits in `mask` count.
pub(super) const fn step(mask: u64, windows: usize) -> Step {
    let is_low = mask & mask.wrapping_add(1) == 0;
    match (is_low, windows <= FEW) {
        _ if is_pair(mask) => Step::Pair,
        (true, true) => Step::Byte,
        (false, true) => Step::MaskedByte,
        (true, false) => Step::Bit,
        (false, false) => Step::MaskedBit,
    }
}

/// Returns whether only two bytes count: they are looked up without a hash.
pub(super) const fn is_pair(mask: u64) -> bool {
    mask & !PAIR == 0
}

/// Returns the highest `bits` bits of a hash.
#[inline]
fn top(hash: u64, bits: u32) -> usize {
    // No more than 21 bits.
    usize::try_from(hash >> (u64::BITS - bits)).unwrap_or(0)
}
