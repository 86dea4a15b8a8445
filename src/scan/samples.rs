// SPDX-License-Identifier: GPL-2.0

//! Finds where patterns may stand by looking at a few places of memory only.
//!
//! Of each pattern a stretch is taken of which every bit is given. The places lie so close together that one of
//! them is in the stretch of each match, with all the bytes that are looked at there. So each few bytes of
//! the stretch go into a table, and a place passes if what stands there is in it. That takes the same time for
//! one pattern and for hundreds, and no vector registers.
//!
//! What passes is looked up in a second table, which leads to the pattern, and to where it begins.

mod general;

use core::num::NonZeroUsize;

use super::{
    level::Level,
    memory::Piece,
    pattern::{
        Pattern,
        EITHER_CASE, //
    },
    tables::MAX_PATTERNS,
    tail::Tail,
    window, //
};

/// The most bytes between two places.
const FARTHEST: usize = 16;

/// The fewest and the most bytes that are looked at in one place.
const SIZES: (usize, usize) = (4, 8);

/// The shortest stretch that is worth it: places are then seven bytes apart.
const SHORTEST: usize = 10;

/// How far apart places are to be: a longer stretch is used for more bytes. The more patterns there are, the
/// more of what few bytes make is met by chance.
const fn distance(patterns: usize) -> usize {
    match patterns {
        0..=8 => FARTHEST,
        _ => 11,
    }
}

/// The room for windows, with that of no pattern. A power of two, so that any number is soon made an index.
const ROOM: usize = 1 << 12;

/// The number of bits of the hash that leads to patterns.
const HEAD_BITS: u32 = 13;

/// How many windows [`Samples::sift`] considers at a place.
const FEW: usize = 8;

/// The most bits of the hash that tells whether something passes.
const PASS_BITS: u32 = 16;

/// The number of places that a word tells of.
const PLACES: usize = u64::BITS as usize;

/// The index that stands for no window.
const NONE: u16 = 0;

/// The bits that tell letters of the two cases apart.
const CASES: u64 = 0x2020_2020_2020_2020;

/// What hashes are made with; of several the one is taken with which the fewest frequent words pass.
const MULTIPLIERS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xd134_2543_de82_ef95,
    0xbf58_476d_1ce4_e5b9,
    0xa24b_aed4_963e_e407,
];

/// A pattern is not looked for in this way if one in so many places, as memory is thought to be, is what some
/// window of it asks for.
const TOO_FREQUENT: u64 = 512;

/// What is prepared for the patterns that are looked for in this way. All zeros are a valid value.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Samples {
    /// The distance of two places; 0 if there is no pattern.
    stride: usize,
    /// The greatest offset of a window in its pattern.
    farthest: usize,
    /// The bytes of a word that are looked at.
    mask: u64,
    /// How many bits of a hash lead into `passes`.
    pass_bits: u32,
    /// Bits that are set in each word before it is looked up: [`CASES`] or none.
    fold: u64,
    /// What the hash is made with.
    multiplier: u64,
    /// Which patterns are looked for in this way.
    has: [bool; MAX_PATTERNS],
    /// 1 for each hash that some window has.
    passes: [u8; 1 << PASS_BITS],
    /// For each hash the first window that it leads to.
    heads: [u16; 1 << HEAD_BITS],
    /// The first one is that of no pattern, which stands nowhere.
    windows: [Window; ROOM],
    /// The number of windows.
    len: usize,
}

/// Some bytes of a pattern.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Window {
    /// The bytes, as a word with zeros for those that are not looked at.
    value: u64,
    /// How the pattern ends.
    tail: Tail,
    /// How far after the window that begins.
    to_tail: i16,
    pattern: u16,
    /// Where the window begins in the pattern.
    at: u16,
    /// The window after this one.
    next: u16,
}

impl Window {
    /// That of no pattern.
    const NONE: Self = Self {
        value: 0,
        tail: Tail::NOWHERE,
        to_tail: 0,
        pattern: 0,
        at: 0,
        next: NONE,
    };

    /// Whether the pattern may stand where `value` is found in the place of the window.
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
            windows: [const { Window::NONE }; ROOM],
            len: 0,
        }
    }

    /// Prepares it for those of `patterns` that can be looked for in this way.
    pub(super) fn prepare(&mut self, patterns: &[Pattern]) {
        self.forget();
        let lengths = patterns.iter().map(longest_stretch);
        let lengths = lengths.filter(|len| *len >= SHORTEST);
        let count = lengths.clone().count();
        let distance = distance(count);
        let Some(shortest) = lengths.min() else {
            return;
        };
        let (least, most) = SIZES;
        let size = shortest.saturating_sub(distance.saturating_sub(1));
        let size = size.clamp(least, most);
        // For each pattern there is room for so many windows.
        let farthest = (ROOM - 1).checked_div(count).unwrap_or(0).min(FARTHEST);
        let stride = shortest.saturating_sub(size - 1).min(farthest);
        self.mask = (0..size).fold(0, |mask, _| (mask << u8::BITS) | u64::from(u8::MAX));
        self.count_alike(patterns);
        for (index, pattern) in patterns.iter().enumerate().take(MAX_PATTERNS) {
            let best = self.best_stretch(pattern, size, stride);
            if let (Some(first), Some(has)) = (best, self.has.get_mut(index)) {
                *has = true;
                for at in first..first.saturating_add(stride) {
                    self.add(pattern, index, at);
                }
            }
        }
        if self.len > 0 {
            self.stride = stride;
            self.lead();
        }
    }

    /// Whether a pattern is looked for in this way.
    pub(super) fn has(&self, pattern: usize) -> bool {
        self.has.get(pattern).copied().unwrap_or(false)
    }

    /// The distance of two places that are looked at, or [`None`] if there is nothing to be looked for.
    pub(super) fn stride(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.stride)
    }

    /// How far beyond the last place where a match may begin places are to be looked at.
    pub(super) fn farthest(&self) -> usize {
        self.farthest
    }

    fn forget(&mut self) {
        (self.stride, self.farthest, self.len, self.fold) = (0, 0, 0, 0);
        self.has = [false; MAX_PATTERNS];
        // It may have been made as zeros.
        self.windows[0] = Window::NONE;
    }

    /// Counts in `heads` how many patterns have what leads to each hash, wherever they have it.
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

    /// Where the stretch of a pattern begins whose windows are met least often, if there is one, and
    /// none of them is met too often.
    fn best_stretch(&self, pattern: &Pattern, size: usize, stride: usize) -> Option<usize> {
        let len = size.saturating_add(stride).saturating_sub(1);
        let judged = size.min(window::MOST);
        let most = window::places(judged) / TOO_FREQUENT;
        let cost = |first: usize| {
            let windows = first..first.saturating_add(stride);
            windows.clone().try_fold(0, |sum: u64, at| {
                // The others share what they are looked up by.
                let alike = self.heads.get(hash_of_few(pattern, at)).copied();
                let rarity = window::rarity(pattern, at, judged);
                let cost = rarity.saturating_mul(u64::from(alike.unwrap_or(0).max(1)));
                (rarity <= most).then(|| sum.saturating_add(cost))
            })
        };
        let firsts = 0..=pattern.len().checked_sub(len)?;
        let given = firsts.filter(|first| is_given(pattern, *first, len));
        let costs = given.filter_map(|first| Some((cost(first)?, first)));
        costs.min().map(|(_, first)| first)
    }

    /// Adds the window of a pattern at `at`.
    fn add(&mut self, pattern: &Pattern, index: usize, at: usize) {
        let mut bytes = [0; size_of::<u64>()];
        for (byte, at) in bytes.iter_mut().zip(at..) {
            let (value, mask) = pattern.byte(at).unwrap_or((0, 0));
            *byte = value;
            if mask == EITHER_CASE {
                self.fold = CASES;
            }
        }
        if let (Some(window), Ok(index), Ok(offset), Ok(tail_at)) = (
            self.windows.get_mut(1 + self.len),
            u16::try_from(index),
            i16::try_from(at),
            i16::try_from(Tail::at(pattern)),
        ) {
            *window = Window {
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

    /// Makes the tables that lead to the windows.
    fn lead(&mut self) {
        for window in self.windows.iter_mut().skip(1).take(self.len) {
            window.value = (window.value | self.fold) & self.mask;
        }
        self.pass_bits = if self.len <= 512 { 15 } else { PASS_BITS };
        // What is not looked at is moved out of the product.
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
            let Some(window) = self.windows.get_mut(index) else {
                continue;
            };
            let hash = window.value.wrapping_mul(self.multiplier);
            if let (Some(head), Ok(this)) = (
                self.heads.get_mut(top(hash, HEAD_BITS)),
                u16::try_from(index),
            ) {
                window.next = *head;
                *head = this;
            }
        }
    }

    /// Lets the windows pass, by hashes made with `multiplier`.
    fn let_pass(&mut self, multiplier: u64) {
        self.multiplier = multiplier;
        self.passes.fill(0);
        for window in self.windows.iter().skip(1).take(self.len) {
            let hash = window.value.wrapping_mul(multiplier);
            if let Some(passes) = self.passes.get_mut(top(hash, self.pass_bits)) {
                *passes = 1;
            }
        }
    }

    /// How many frequent words pass; zeros count for many, since memory is full of them.
    fn frequent_words(&self) -> u32 {
        let words = (0..=u8::MAX).map(|byte| u64::from_le_bytes([byte; size_of::<u64>()]));
        let passing = words.filter(|word| {
            let hash = (word | self.fold).wrapping_mul(self.multiplier);
            self.passes.get(top(hash, self.pass_bits)) == Some(&1)
        });
        passing.fold(0, |count, word| count + if word == 0 { 1000 } else { 1 })
    }

    /// Looks at the first `count` places in `piece`, which has all the words that begin there. The bits of
    /// those that pass come to stand in `words`, the highest one for the first place. `ahead` is what is
    /// looked at some time later.
    pub(super) fn look(
        &self,
        level: Level,
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
        look(self, level, piece, ahead, words, PLACES);
        let at = full.saturating_mul(PLACES).saturating_mul(self.stride);
        let (piece, ahead) = (piece.after(at), ahead.after(at));
        look(self, level, piece, ahead, last, count % PLACES);
    }

    /// Looks at places, `each` for each word: all of 64, or fewer for one word.
    fn look_at_each<const BITS: u32, const FOLD: bool>(
        &self,
        level: Level,
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
        let groups = match level {
            Level::Portable => 0,
            Level::Avx2 | Level::Avx512 => each / general::GROUP,
        };
        if groups > 0 {
            // SAFETY: There are the bytes, by `read`. `passes` has an entry for each hash of so many bits.
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

    /// Of the places in `piece` that the bits of `word` tell of, the lowest one of that at `first`, leaves those
    /// where a pattern may stand: few. A loop that does nothing else, so that memory full of such places
    /// does not cost much.
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

    /// The place of a bit of a word whose lowest one tells of that at `first`.
    #[inline]
    pub(super) fn place(&self, first: usize, number: u32) -> usize {
        // A number of bits is no more than 64.
        let number = usize::try_from(number).unwrap_or(0);
        first.wrapping_add(number.wrapping_mul(self.stride))
    }

    /// Whether [`Self::for_each_candidate`] may have any, as far as a few windows tell.
    #[inline]
    fn may_have_candidate(&self, word: u64, read: impl Fn(isize) -> Option<u64>) -> bool {
        let word = word | self.fold;
        let value = word & self.mask;
        // Where there is none it is that of no pattern: not to ask for that first makes the loop faster.
        let mut next = self.head(word);
        for _ in 0..FEW {
            let window = self.window(next);
            if window.may_be(value, &read) {
                return true;
            }
            next = window.next;
            if next == NONE {
                return false;
            }
        }
        true
    }

    /// The first window that a word leads to, in which the case of letters does not matter any more.
    #[inline]
    fn head(&self, word: u64) -> u16 {
        let hash = word.wrapping_mul(self.multiplier);
        let head = self.heads.get(top(hash, HEAD_BITS));
        head.copied().unwrap_or(NONE)
    }

    #[inline]
    fn window(&self, index: u16) -> &Window {
        &self.windows[usize::from(index) % ROOM]
    }

    /// Calls `candidate` for each pattern that may stand where `word` is found at a place, and where the
    /// place then is in it. `read` reads a word that far after the place, if it can at once. Says how many
    /// had to be considered.
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
            let window = self.window(next);
            next = window.next;
            count = count.wrapping_add(1);
            if window.may_be(word & self.mask, &read) {
                candidate(usize::from(window.pattern), usize::from(window.at));
            }
        }
        count
    }
}

/// The highest `bits` bits of a hash.
#[inline]
fn top(hash: u64, bits: u32) -> usize {
    // No more than 16 bits.
    usize::try_from(hash >> (u64::BITS - bits)).unwrap_or(0)
}

/// A number below the length of `heads`, the same for the same few bytes of a pattern.
fn hash_of_few(pattern: &Pattern, at: usize) -> usize {
    let mut bytes = [0; size_of::<u64>()];
    for (byte, at) in bytes.iter_mut().zip(at..at.saturating_add(window::MOST)) {
        *byte = pattern.byte(at).map_or(0, |(value, _)| value);
    }
    let [multiplier, ..] = MULTIPLIERS;
    top(
        u64::from_le_bytes(bytes).wrapping_mul(multiplier),
        HEAD_BITS,
    )
}

/// Whether of each of the `len` bytes from `first` on all bits are given, but for the case of letters.
fn is_given(pattern: &Pattern, first: usize, len: usize) -> bool {
    let mut bytes = first..first.saturating_add(len);
    bytes.all(|at| {
        let mask = pattern.byte(at).map(|(_, mask)| mask);
        matches!(mask, Some(u8::MAX | EITHER_CASE))
    })
}

/// The length of the longest stretch of a pattern of which all is given.
fn longest_stretch(pattern: &Pattern) -> usize {
    let lengths = (0..pattern.len()).scan(0_usize, |len, at| {
        *len = if is_given(pattern, at, 1) {
            len.saturating_add(1)
        } else {
            0
        };
        Some(*len)
    });
    lengths.max().unwrap_or(0)
}
