// SPDX-License-Identifier: GPL-2.0

//! Finds every match of every pattern in a stretch of memory.

mod filtered;
mod sampled;

use core::ops::Range;

use super::{
    filter::PLACES,
    level::Level,
    memory::{
        Host,
        Memory,
        Piece, //
    },
    pattern::{
        Pattern,
        MAX_LEN, //
    },
    tables::{
        Tables,
        MAX_PATTERNS, //
    },
};

/// How many places are filtered at once: so long the vector registers are used.
const STEP: usize = 128 << 10;

/// How much is filtered at once if it lies in one piece. Where nothing passes nothing is looked at again.
const RUN: usize = 16 << 10;

/// The most pieces that are filtered at once: as many pages, and two that are not whole, and what is cut.
const PIECES: usize = STEP / 4096 + 2 + STEP / RUN;

/// The most blocks in a step: some are searched beyond it, where the windows of matches that begin in
/// it may lie, and each piece may end in a block that is not whole.
const BLOCKS: usize = (STEP + MAX_LEN) / PLACES + 1 + PIECES;

/// How many words are passed by at once.
const GROUP: usize = 8;

/// After how many places that are looked at closely others may have the CPU: each may cost as many
/// comparisons as there are patterns.
const CLOSE_LOOKS: u32 = 64;

/// A place where a pattern stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The offset of its first byte in the memory.
    pub offset: usize,
    /// The index of the pattern.
    pub pattern: usize,
}

/// What one thread needs to search. All zeros are a valid value.
///
/// It is too large for a kernel stack. As it is nothing but integers it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Scratch {
    /// What has passed the filter, by either choice of windows.
    lists: [List; 2],
}

/// What has passed the filter in one step.
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
    /// Which words tell of it: the first one, and their number.
    first: usize,
    len: usize,
}

impl Scratch {
    /// One that is ready to be used, where stacks are large.
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

/// A set of patterns, ready to be searched for. Any number of threads may share it.
#[derive(Clone, Copy, Debug)]
pub struct Searcher<'a> {
    patterns: &'a [Pattern],
    tables: &'a Tables,
    level: Level,
}

impl<'a> Searcher<'a> {
    /// Prepares `tables` for a search for `patterns`, of which those beyond
    /// [`MAX_PATTERNS`](super::MAX_PATTERNS) are left out.
    ///
    /// # Safety
    ///
    /// The CPU has `level`.
    #[must_use]
    pub unsafe fn new(tables: &'a mut Tables, patterns: &'a [Pattern], level: Level) -> Self {
        tables.prepare(patterns, level);
        Self {
            patterns,
            tables,
            level,
        }
    }

    /// As [`Self::new`] gave it for the same `tables`, `patterns` and `level`.
    ///
    /// # Safety
    ///
    /// The CPU has `level`.
    #[must_use]
    pub const unsafe fn of_prepared(
        tables: &'a Tables,
        patterns: &'a [Pattern],
        level: Level,
    ) -> Self {
        Self {
            patterns,
            tables,
            level,
        }
    }

    /// The length of the longest pattern, 0 if there is none.
    #[must_use]
    pub const fn longest(&self) -> usize {
        self.tables.longest
    }

    /// Calls `found` for every match that begins in `begin`, offsets in `memory`, and ends in
    /// `memory`. Overlapping matches are all found, each once. They may be out of order, by less than 128 KiB.
    pub fn search<M: Memory + ?Sized, H: Host>(
        &self,
        memory: &M,
        begin: Range<usize>,
        scratch: &mut Scratch,
        host: &H,
        mut found: impl FnMut(Match),
    ) {
        if self.tables.longest == 0 {
            return;
        }
        let end = begin.end.min(memory.len());
        let mut first = begin.start;
        while first < end {
            let step = Step {
                searcher: self,
                memory,
                begin: first..end.min(first.saturating_add(STEP)),
            };
            first = step.search(scratch, host, &mut found);
            host.breathe();
        }
    }
}

/// What is searched at once: all matches that begin in a part of the memory.
struct Step<'a, M: ?Sized> {
    searcher: &'a Searcher<'a>,
    memory: &'a M,
    begin: Range<usize>,
}

impl<M: Memory + ?Sized> Step<'_, M> {
    /// Searches; says where the next step begins.
    fn search<H: Host>(
        &self,
        scratch: &mut Scratch,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> usize {
        let Tables {
            samples,
            has_others,
            filter_first,
            ..
        } = self.searcher.tables;
        if *filter_first {
            return self.search_with_filter(scratch, host, found);
        }
        let end = if *has_others {
            self.search_with_filter(scratch, host, found)
        } else {
            self.begin.end
        };
        let Some(stride) = samples.stride() else {
            return end;
        };
        let [List { words, .. }, _] = &mut scratch.lists;
        let begin = self.begin.start..end;
        if self.search_some_places(&begin, stride, words, host, found) {
            end
        } else {
            self.search_with_filter(scratch, host, found)
        }
    }

    /// What is `distance` bytes after the beginning of `piece`, which is that from `at` on; `piece` where memory ends
    /// before that.
    fn ahead<'b>(&'b self, at: usize, distance: usize, piece: Piece<'b>) -> Piece<'b> {
        let ahead = at.saturating_add(distance);
        if ahead < self.memory.len() {
            self.memory.piece(ahead)
        } else {
            piece
        }
    }

    /// Looks at `offset` for those patterns that `is_wanted` says: there are so many so small pieces that not
    /// even the windows of the first matches have been looked at.
    #[cold]
    fn look_at(
        &self,
        offset: usize,
        is_wanted: impl Fn(usize) -> bool,
        found: &mut impl FnMut(Match),
    ) {
        let all = 0..self.searcher.patterns.len().min(MAX_PATTERNS);
        for index in all.filter(|index| is_wanted(*index)) {
            if self.stands(index, offset) {
                found(Match {
                    offset,
                    pattern: index,
                });
            }
        }
    }

    /// Whether a pattern stands at `offset`: decided on a copy, since the memory may change.
    #[inline(never)]
    fn stands(&self, index: usize, offset: usize) -> bool {
        let Some(pattern) = self.searcher.patterns.get(index) else {
            return false;
        };
        let mut copy = [0; MAX_LEN];
        let Some(copy) = copy.get_mut(..pattern.len()) else {
            return false;
        };
        let is_there = offset
            .checked_add(copy.len())
            .is_some_and(|end| end <= self.memory.len());
        if is_there {
            self.memory.copy(offset, copy);
        }
        is_there && pattern.matches(copy)
    }
}

/// The number of the lowest bit of `word` that is set.
fn lowest(word: u64) -> Option<usize> {
    if word == 0 {
        return None;
    }
    usize::try_from(word.trailing_zeros()).ok()
}
