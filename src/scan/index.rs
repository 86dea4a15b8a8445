// SPDX-License-Identifier: GPL-2.0

//! Leads from the eight bytes at a place of memory to the patterns that may match there.
//!
//! Each pattern contributes a window, or several in a row: eight of its bytes, of which some bits
//! count, the same bits for all patterns. A place passes if a table has the hash of its bits. That
//! is decided in a few instructions, without a branch, for one pattern as for thousands. What has
//! passed is looked up in a second table, which leads to the patterns, and to where they begin.

mod general;

use super::{
    engine::{
        Engine,
        EngineKind, //
    },
    memory::Piece,
    pattern::Pattern,
    tail::Tail, //
};

/// The most windows, with that of no pattern. A power of two, so that any number is quickly an
/// index.
const MAX_ENTRIES: usize = 1 << 13;

/// The most windows that patterns can have.
pub(super) const MAX_WINDOWS: usize = MAX_ENTRIES - 1;

/// The number of bits of the hash that leads to patterns.
const HEAD_BITS: u32 = 13;

/// How many windows [`Index::sift`] considers at a place.
const SIFT_DEPTH: usize = 8;

/// The most bits of the hash by which places pass.
const PASS_BITS: u32 = 16;

/// How many windows have room in a table that fits into the first cache, and its bits.
const FEW: usize = 512;
const FEW_BITS: u32 = 15;

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
#[derive(Debug)]
#[repr(C)]
pub(super) struct Index {
    /// The bits that count.
    mask: u64,
    /// What the hash is made with.
    multiplier: u64,
    /// How many bits of a hash lead into `passes`.
    pass_bits: u32,
    /// The number of windows.
    len: usize,
    /// The greatest offset of a window in its pattern.
    farthest: usize,
    /// 1 for each hash that some window has.
    passes: [u8; 1 << PASS_BITS],
    /// For each hash the first window that it leads to.
    heads: [u16; 1 << HEAD_BITS],
    /// The first one is that of no pattern, which matches nowhere.
    entries: [Entry; MAX_ENTRIES],
}

/// A window of a pattern.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Entry {
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
    const NONE: Self = Self {
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
        // It may have been made as zeros.
        self.entries[0] = Entry::NONE;
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

    /// Adds the window of a pattern at `at`. Beyond [`MAX_WINDOWS`] it does nothing.
    pub(super) fn add(&mut self, pattern: &Pattern, index: usize, at: usize) {
        if let (Some(entry), Ok(index), Ok(offset), Ok(tail_at)) = (
            self.entries.get_mut(self.len.saturating_add(1)),
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
    pub(super) fn link(&mut self) {
        self.pass_bits = if self.len <= FEW { FEW_BITS } else { PASS_BITS };
        for multiplier in MULTIPLIERS {
            self.let_pass(multiplier);
            if is_pair(self.mask) || !self.pass_frequent_words() {
                break;
            }
        }

        self.heads.fill(NONE);
        // From the last one on, so that each list ascends.
        for index in (1..=self.len).rev() {
            let Some(entry) = self.entries.get_mut(index) else {
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
    fn let_pass(&mut self, multiplier: u64) {
        self.multiplier = multiplier;
        self.passes.fill(0);
        for entry in self.entries.iter().skip(1).take(self.len) {
            let hash = self.pass_of(entry.value);
            if let Some(passes) = self.passes.get_mut(hash) {
                *passes = 1;
            }
        }
        if is_pair(self.mask) && self.mask != PAIR {
            // What is in the bits that do not count makes no difference.
            for pair in 0..self.passes.len() {
                let bits = u64::try_from(pair).unwrap_or(0) & self.mask;
                let same = usize::try_from(bits).unwrap_or(0);
                if let (Some(passes), true) = (self.passes.get(same).copied(), same != pair) {
                    self.passes[pair % (1 << PASS_BITS)] = passes;
                }
            }
        }
    }

    /// Returns where in `passes` these bits are.
    #[inline]
    fn pass_of(&self, bits: u64) -> usize {
        if is_pair(self.mask) {
            usize::try_from(bits & PAIR).unwrap_or(0)
        } else {
            top(bits.wrapping_mul(self.multiplier), self.pass_bits)
        }
    }

    /// Returns whether a frequent word passes.
    fn pass_frequent_words(&self) -> bool {
        let words = [0, 0xcc, 0xff, b' '].map(|byte| u64::from_le_bytes([byte; size_of::<u64>()]));
        words.into_iter().any(|word| self.passes(word))
    }

    /// Returns the length of the longest list of windows that one hash leads to.
    pub(super) fn longest_list(&self) -> usize {
        let lengths = self.heads.iter().map(|head| {
            let mut next = *head;
            let list = core::iter::from_fn(|| {
                let this = self.entry(next);
                (next != NONE).then(|| next = this.next)
            });
            list.count()
        });
        lengths.max().unwrap_or(0)
    }

    /// Returns the bits that count.
    pub(super) fn mask(&self) -> u64 {
        self.mask
    }

    /// Returns the bits of each window.
    pub(super) fn windows(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        let entries = self.entries.iter().skip(1).take(self.len);
        entries.map(|entry| entry.value)
    }

    /// Returns for each window the pattern, and where it begins in it.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> + Clone + '_ {
        let entries = self.entries.iter().skip(1).take(self.len);
        entries.map(|entry| (usize::from(entry.pattern), usize::from(entry.at)))
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
        self.passes.get(self.pass_of(word & self.mask)) == Some(&1)
    }

    /// Looks at the first `count` places in `piece` that are `stride` bytes apart; it has all the
    /// words that begin there. Sets the bits of those that pass in `words`, the highest one for the
    /// first place. `ahead` is what will be looked at some time later.
    pub(super) fn look(
        &self,
        engine: Engine,
        stride: usize,
        piece: Piece<'_>,
        ahead: Piece<'_>,
        count: usize,
        words: &mut [u64],
    ) {
        let look = match self.pass_bits {
            _ if is_pair(self.mask) => Self::look_at_each::<0>,
            PASS_BITS => Self::look_at_each::<PASS_BITS>,
            _ => Self::look_at_each::<FEW_BITS>,
        };
        let full = count / PLACES;
        let words = words.get_mut(..count.div_ceil(PLACES)).unwrap_or_default();
        let (first, last) = words.split_at_mut_checked(full).unwrap_or_default();
        look(self, engine, stride, piece, ahead, first, PLACES);
        let at = full.saturating_mul(PLACES).saturating_mul(stride);
        let (piece, ahead) = (piece.after(at), ahead.after(at));
        look(self, engine, stride, piece, ahead, last, count % PLACES);
    }

    /// Looks at `each` places for each word: all 64, or fewer for one word. `BITS` is that of a
    /// hash, 0 for pairs of bytes.
    #[allow(clippy::too_many_arguments, reason = "it is a part of its only caller")]
    fn look_at_each<const BITS: u32>(
        &self,
        engine: Engine,
        stride: usize,
        piece: Piece<'_>,
        ahead: Piece<'_>,
        words: &mut [u64],
        each: usize,
    ) {
        let places = words.len().saturating_mul(each);
        let read = piece.words(stride, places);
        if places == 0 || read.len() < places {
            return;
        }
        let groups = match engine.kind() {
            EngineKind::Portable if cfg!(miri) => 0,
            _ if BITS == 0 && each < PLACES => 0,
            _ => each / general::GROUP,
        };
        if groups > 0 {
            // SAFETY: The piece has the bytes, by `read`. `passes` has an entry for each hash of so
            // many bits, and for each pair.
            unsafe {
                if BITS == 0 {
                    general::look_at_pairs(self, stride, piece, ahead, words);
                } else {
                    general::look::<BITS>(self, stride, piece, ahead, words, groups);
                }
            };
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
                places = (places << 1) | u64::from(self.passes(word));
            }
            *word = places << PLACES.saturating_sub(each);
        }
    }

    /// Returns those bits of `word` whose places pass. The lowest bit is that of the place at
    /// `first` in `piece`, and the others follow; the piece has all the words that begin there.
    // Without counting bits first: the kernel may use no instruction for that.
    #[inline]
    pub(super) fn sift(&self, engine: Engine, piece: Piece<'_>, first: usize, word: u64) -> Sifted {
        let (mut left, mut sifted) = (word, Sifted::default());
        while left != 0 {
            if sifted.looked == DENSE {
                let mut passing = [0];
                let piece = piece.after(first);
                self.look(engine, 1, piece, piece, PLACES, &mut passing);
                let word = word & passing[0].reverse_bits();
                return Sifted {
                    word,
                    looked: u64::BITS,
                    passing: word.count_ones(),
                };
            }
            let number = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            // A number of bits is no more than 64.
            let place = first.wrapping_add(usize::try_from(number).unwrap_or(0));
            let passes = piece.word(place).is_some_and(|word| self.passes(word));
            sifted.word |= u64::from(passes) << number;
            sifted.looked = sifted.looked.wrapping_add(1);
            sifted.passing = sifted.passing.wrapping_add(passes.into());
        }
        sifted
    }

    /// Returns whether [`Self::for_each_candidate`] may have any, by the first few windows. `read`
    /// reads the word at a distance from the place, if that is in the same piece.
    #[inline]
    pub(super) fn may_have_candidate(
        &self,
        word: u64,
        read: impl Fn(isize) -> Option<u64>, //
    ) -> bool {
        let value = word & self.mask;
        // Where there is none, it is that of no pattern: not to ask first makes the loop faster.
        let mut next = self.head(value);
        for _ in 0..SIFT_DEPTH {
            let entry = self.entry(next);
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

    #[inline]
    fn entry(&self, index: u16) -> &Entry {
        &self.entries[usize::from(index) % MAX_ENTRIES]
    }

    /// Calls `candidate` with each pattern that may match where `word` is at a place, and with the
    /// position of the place in the pattern. `read` reads the word at a distance from the place, if
    /// that is in the same piece. Returns how many windows were considered.
    #[inline]
    pub(super) fn for_each_candidate(
        &self,
        word: u64,
        read: impl Fn(isize) -> Option<u64>,
        mut candidate: impl FnMut(usize, usize),
    ) -> u32 {
        let value = word & self.mask;
        let mut next = self.head(value);
        let mut count = 0_u32;
        while next != NONE {
            let entry = self.entry(next);
            next = entry.next;
            count = count.wrapping_add(1);
            if entry.may_be(value, &read) {
                candidate(usize::from(entry.pattern), usize::from(entry.at));
            }
        }
        count
    }
}

/// The bits of two bytes.
const PAIR: u64 = 0xffff;

/// Returns whether only two bytes count: they are looked up without a hash.
pub(super) const fn is_pair(mask: u64) -> bool {
    mask & !PAIR == 0
}

/// Returns the highest `bits` bits of a hash.
#[inline]
fn top(hash: u64, bits: u32) -> usize {
    // No more than 16 bits.
    usize::try_from(hash >> (u64::BITS - bits)).unwrap_or(0)
}
