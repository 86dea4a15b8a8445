// SPDX-License-Identifier: GPL-2.0

//! The scanner: finds every match of every pattern in a stretch of memory.

mod close;
mod passing;

use core::ops::Range;

use self::passing::List;
use super::{
    engine::Engine,
    memory::{
        Host,
        Memory, //
    },
    pattern::{
        Pattern,
        MAX_PATTERNS, //
    },
    tables::{
        Tables,
        GROUPS,
        WAYS, //
    }, //
};

/// How many bytes are scanned at once: for so long the vector registers are in use.
const PORTION: usize = 128 << 10;

/// What it costs to look at a place that has passed a filter, and what a close look costs, as
/// multiples of what it costs to look at each of many places.
const SIFT: usize = 8;
const CLOSE: usize = 12;

/// How much a block may cost, in the same, before the other way is tried.
const MANY: usize = 48;

/// For how many portions the better way is kept before both are tried again.
const KEEP: u8 = 16;

/// A place that matches a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The offset of its first byte in the memory.
    pub offset: usize,
    /// The index of the pattern.
    pub pattern: usize,
}

/// What a search had to do: counts, which do not depend on the machine's speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Work {
    /// Bytes that were filtered, by each filter.
    pub filtered: u64,
    /// Places that were looked at in place of a filter, each some bytes after the one before.
    pub stepped: u64,
    /// Places that were looked at by themselves, since they had passed a filter.
    pub looked: u64,
    /// Places that were looked at closely.
    pub close: u64,
    /// Windows that were considered there.
    pub windows: u64,
    /// Patterns that were compared in full.
    pub compared: u64,
}

/// What one thread needs to search. All zeros are a valid value.
///
/// It is too large for a kernel stack. It consists of integers, so it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Scratch {
    /// What has passed, for each way.
    lists: [List; WAYS],
    /// For how many portions each group keeps to a way.
    keep: [u8; GROUPS],
    /// Whether that is the second one.
    takes_second: [bool; GROUPS],
    work: Work,
}

impl Scratch {
    /// Creates one, where stacks are large.
    #[must_use]
    #[allow(clippy::large_stack_arrays, reason = "not for the kernel")]
    pub const fn new() -> Self {
        Self {
            lists: [const { List::new() }; WAYS],
            keep: [0; GROUPS],
            takes_second: [false; GROUPS],
            work: Work::NONE,
        }
    }

    /// Returns what all searches with this had to do.
    #[must_use]
    pub const fn work(&self) -> Work {
        self.work
    }
}

impl Work {
    const NONE: Self = Self {
        filtered: 0,
        stepped: 0,
        looked: 0,
        close: 0,
        windows: 0,
        compared: 0,
    };
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
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
        tables.prepare(patterns, engine, &|| {});
        Self::of_prepared(tables, patterns, engine)
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
            let next = end.min(first.saturating_add(PORTION));
            for group in 0..GROUPS {
                let mut at = first;
                while at < next {
                    let portion = Portion {
                        scanner: self,
                        memory,
                        begin: at..next,
                        group,
                    };
                    let Some(done) = portion.search(scratch, host, &mut found) else {
                        return false;
                    };
                    at = done;
                }
            }
            first = next;
            if first < end && !host.breathe() {
                return false;
            }
        }
        true
    }
}

/// What is scanned at once: all matches of a group that begin in a part of the memory.
struct Portion<'a, M: ?Sized> {
    scanner: &'a Scanner<'a>,
    memory: &'a M,
    begin: Range<usize>,
    group: usize,
}

impl<M: Memory + ?Sized> Portion<'_, M> {
    /// Scans the portion, or its first part. Returns where that ends; [`None`] if the host gave up.
    fn search<H: Host>(
        &self,
        scratch: &mut Scratch,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> Option<usize> {
        let Scanner { tables, .. } = self.scanner;
        let [first, second] = tables.groups.get(self.group)?;
        let [entries, other_entries] = tables.entries_of(self.group);
        let (Some(stride), Some(other_stride)) = (first.stride(), second.stride()) else {
            return Some(self.begin.end);
        };
        let Scratch {
            lists: [list, other_list],
            keep,
            takes_second,
            work,
        } = scratch;
        let keep = keep.get_mut(self.group)?;
        let takes_second = takes_second.get_mut(self.group)?;
        let mut this = (first, stride, entries);
        let mut other = (second, other_stride, other_entries);
        if *keep > 0 && *takes_second {
            (this, other) = (other, this);
        }
        let mut list = list;
        let mut passing = self.passing(this.0, this.1, list, host, work);
        let blocks = passing.end.saturating_sub(self.begin.start) / super::filter::PLACES;
        if *keep > 0 {
            *keep = keep.saturating_sub(1);
        } else if passing.more() > blocks.saturating_mul(MANY) {
            // Perhaps the other windows are less frequent.
            let others = self.passing(other.0, other.1, other_list, host, work);
            *keep = KEEP;
            *takes_second = others.all() < passing.all() && others.end >= passing.end;
            if *takes_second {
                (this, passing) = (other, others);
                list = other_list;
            }
        }
        let begin = self.begin.start..passing.end;
        if begin.is_empty() {
            self.look_at(begin.start, found);
            return Some(begin.start.saturating_add(1));
        }
        let is_done = passing.count == 0 || {
            let (way, stride, entries) = this;
            let index = &way.index;
            self.look_closely(
                index,
                entries,
                stride.get(),
                list,
                &begin,
                host,
                work,
                found,
            )
        };
        is_done.then_some(begin.end)
    }

    /// Looks at `offset` for the patterns of the group: there are so many small pieces that not
    /// even the windows of the first matches were looked for.
    #[cold]
    fn look_at(&self, offset: usize, found: &mut impl FnMut(Match)) {
        let Scanner {
            patterns, tables, ..
        } = self.scanner;
        for index in 0..patterns.len().min(MAX_PATTERNS) {
            if tables.group_of(index) == self.group && self.matches_at(index, offset) {
                found(Match {
                    offset,
                    pattern: index,
                });
            }
        }
    }

    /// Returns whether a pattern matches at `offset`. The memory may change meanwhile, so each of
    /// its bytes is read once.
    #[inline(never)]
    fn matches_at(&self, index: usize, offset: usize) -> bool {
        let Some(pattern) = self.scanner.patterns.get(index) else {
            return false;
        };
        let fits = offset
            .checked_add(pattern.len())
            .is_some_and(|end| end <= self.memory.len());
        if !fits {
            return false;
        }
        let piece = self.memory.piece(offset);
        let mut words = (0..pattern.len()).step_by(size_of::<u64>());
        words.all(|at| {
            let word = piece.word(at);
            let word = word.unwrap_or_else(|| self.word_at(offset.saturating_add(at)));
            let (value, mask) = pattern.window(at);
            word & mask == value
        })
    }
}
