// SPDX-License-Identifier: GPL-2.0

//! The scanner: finds every match of every pattern in a stretch of memory.

mod filtered;
mod sampled;

use core::ops::Range;

use self::sampled::Sampled;
use super::{
    engine::Engine,
    filter::PLACES,
    memory::{
        Host,
        Memory,
        Piece, //
    },
    pattern::{
        Pattern,
        MAX_LEN,
        MAX_PATTERNS, //
    },
    tables::Tables, //
};

/// How many places are filtered at once: for so long the vector registers are in use.
const PORTION: usize = 128 << 10;

/// How much of one piece is filtered at once. Where nothing passes, nothing is looked at again.
const RUN: usize = 16 << 10;

/// The most pieces that are filtered at once: so many pages, two that are not whole, and what is
/// cut.
const PIECES: usize = PORTION / 4096 + 2 + PORTION / RUN;

/// The most blocks in a portion. Some lie beyond it, where the fingerprints of matches that begin
/// in it may be, and each piece may end in a block that is not whole.
const BLOCKS: usize = (PORTION + MAX_LEN) / PLACES + 1 + PIECES;

/// How many words are skipped at once.
const GROUP: usize = 8;

/// After how many close looks others may have the CPU. Each look may cost as many comparisons as
/// there are patterns.
const CLOSE_LOOKS: u32 = 64;

/// A place that matches a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The offset of its first byte in the memory.
    pub offset: usize,
    /// The index of the pattern.
    pub pattern: usize,
}

/// What one thread needs to search. All zeros are a valid value.
///
/// It is too large for a kernel stack. It consists of integers, so it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Scratch {
    /// What has passed the filter, for each choice of fingerprints.
    lists: [List; 2],
}

/// What has passed the filter in one portion.
#[derive(Debug)]
#[repr(C)]
struct List {
    words: [u64; BLOCKS],
    runs: [Run; PIECES],
    /// The number of runs.
    len: usize,
}

/// What has passed the filter in one piece.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Run {
    /// The offset in the memory of the first place.
    at: usize,
    /// Its words: the index of the first one, and their number.
    first: usize,
    len: usize,
}

impl Scratch {
    /// Creates one, where stacks are large.
    #[must_use]
    #[allow(clippy::large_stack_arrays, reason = "not for the kernel")]
    pub const fn new() -> Self {
        Self {
            lists: [const { List::new() }; 2],
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl List {
    #[allow(clippy::large_stack_arrays, reason = "not for the kernel")]
    const fn new() -> Self {
        Self {
            words: [0; BLOCKS],
            runs: [Run {
                at: 0,
                first: 0,
                len: 0,
            }; PIECES],
            len: 0,
        }
    }
}

/// Scans memory for a set of patterns. Any number of threads may share it.
#[derive(Clone, Copy, Debug)]
pub struct Scanner<'a> {
    patterns: &'a [Pattern],
    tables: &'a Tables,
    engine: Engine,
}

impl<'a> Scanner<'a> {
    /// Prepares `tables` for `patterns`. Those beyond [`MAX_PATTERNS`] are left out.
    #[must_use]
    pub fn new(tables: &'a mut Tables, patterns: &'a [Pattern], engine: Engine) -> Self {
        tables.prepare(patterns, engine);
        Self {
            patterns,
            tables,
            engine,
        }
    }

    /// Returns the scanner that [`Self::new`] returned for the same `tables`, `patterns` and
    /// `engine`.
    #[must_use]
    pub const fn of_prepared(tables: &'a Tables, patterns: &'a [Pattern], engine: Engine) -> Self {
        Self {
            patterns,
            tables,
            engine,
        }
    }

    /// Returns the length of the longest pattern, 0 if there is none.
    #[must_use]
    pub const fn longest(&self) -> usize {
        self.tables.longest
    }

    /// Calls `found` for every match that begins in `begin`, a range of offsets, and ends in
    /// `memory`. Overlapping matches are all found, each once. They may be out of order, by less
    /// than 128 KiB.
    ///
    /// Returns whether that was done: not if the host gave up. Then some were found, or none.
    pub fn search<M: Memory + ?Sized, H: Host>(
        &self,
        memory: &M,
        begin: Range<usize>,
        scratch: &mut Scratch,
        host: &H,
        mut found: impl FnMut(Match),
    ) -> bool {
        if self.tables.longest == 0 {
            return true;
        }
        let end = begin.end.min(memory.len());
        let mut first = begin.start;
        while first < end {
            let portion = Portion {
                scanner: self,
                memory,
                begin: first..end.min(first.saturating_add(PORTION)),
            };
            let Some(next) = portion.search(scratch, host, &mut found) else {
                return false;
            };
            first = next;
            if first < end && !host.breathe() {
                return false;
            }
        }
        true
    }
}

/// What is scanned at once: all matches that begin in a part of the memory.
struct Portion<'a, M: ?Sized> {
    scanner: &'a Scanner<'a>,
    memory: &'a M,
    begin: Range<usize>,
}

impl<M: Memory + ?Sized> Portion<'_, M> {
    /// Scans the portion. Returns where the next one begins; [`None`] if the host gave up.
    fn search<H: Host>(
        &self,
        scratch: &mut Scratch,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> Option<usize> {
        let Tables {
            samples,
            has_others,
            filter_first,
            ..
        } = self.scanner.tables;
        if *filter_first {
            return self.search_with_filter(scratch, host, found);
        }
        let end = if *has_others {
            self.search_with_filter(scratch, host, found)?
        } else {
            self.begin.end
        };
        let Some(stride) = samples.stride() else {
            return Some(end);
        };
        let [List { words, .. }, _] = &mut scratch.lists;
        let begin = self.begin.start..end;
        match self.search_some_places(&begin, stride, words, host, found) {
            Sampled::Done => Some(end),
            Sampled::TooMany => self.search_with_filter(scratch, host, found),
            Sampled::GivenUp => None,
        }
    }

    /// Returns what is `distance` bytes after the beginning of `piece`, the piece from `at` on.
    /// Where memory ends before that, returns `piece`.
    fn ahead<'b>(&'b self, at: usize, distance: usize, piece: Piece<'b>) -> Piece<'b> {
        let ahead = at.saturating_add(distance);
        if ahead < self.memory.len() {
            self.memory.piece(ahead)
        } else {
            piece
        }
    }

    /// Looks at `offset` for the patterns that `includes` allows: there are so many small pieces
    /// that not even the fingerprints of the first matches were filtered.
    #[cold]
    fn look_at(
        &self,
        offset: usize,
        includes: impl Fn(usize) -> bool,
        found: &mut impl FnMut(Match),
    ) {
        let all = 0..self.scanner.patterns.len().min(MAX_PATTERNS);
        for index in all.filter(|index| includes(*index)) {
            if self.matches_at(index, offset) {
                found(Match {
                    offset,
                    pattern: index,
                });
            }
        }
    }

    /// Returns whether a pattern matches at `offset`: decided on a copy, since the memory may
    /// change.
    #[inline(never)]
    fn matches_at(&self, index: usize, offset: usize) -> bool {
        let Some(pattern) = self.scanner.patterns.get(index) else {
            return false;
        };
        let mut copy = [0; MAX_LEN];
        let Some(copy) = copy.get_mut(..pattern.len()) else {
            return false;
        };
        let fits = offset
            .checked_add(copy.len())
            .is_some_and(|end| end <= self.memory.len());
        if fits {
            self.memory.copy(offset, copy);
        }
        fits && pattern.matches(copy)
    }
}

/// Returns the number of the lowest bit of `word` that is set.
fn lowest(word: u64) -> Option<usize> {
    if word == 0 {
        return None;
    }
    usize::try_from(word.trailing_zeros()).ok()
}
