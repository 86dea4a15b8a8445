// SPDX-License-Identifier: GPL-2.0

//! Finds every match of every pattern in a stretch of memory.

use core::ops::Range;

use super::{
    filter::{
        self,
        PLACES, //
    },
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
        Choice,
        Tables,
        MAX_PATTERNS, //
    },
    window,
};

/// How many places are filtered at once: so long the vector registers are used.
const STEP: usize = 128 << 10;

/// The most pieces that are filtered at once: as many pages, and two that are not whole.
const PIECES: usize = STEP / 4096 + 2;

/// The most blocks in a step: some are searched beyond it, where the windows of matches that begin in
/// it may lie, and each piece may end in a block that is not whole.
const BLOCKS: usize = (STEP + MAX_LEN) / PLACES + 1 + PIECES;

/// How far ahead of what is filtered memory is fetched: about as much as is on its way at a time.
const AHEAD: usize = 8192;

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
        tables.prepare(patterns);
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
    /// `memory`. Overlapping matches are all found, each once; those of one pattern ascend, those of
    /// different patterns may be out of order by less than 128 KiB.
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
            first = match step.search(scratch, host, &mut found) {
                // So many so small pieces that not even the windows of those matches were seen that
                // begin first.
                next if next == first => {
                    step.look_at_first(&mut found);
                    first.saturating_add(1)
                }
                next => next,
            };
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

/// How a step was filtered.
#[derive(Clone, Copy)]
struct Filtered {
    /// All matches that begin before this offset.
    end: usize,
    /// How many words are not 0.
    count: usize,
}

impl<M: Memory + ?Sized> Step<'_, M> {
    /// Searches; says where the next step begins.
    fn search<H: Host>(
        &self,
        scratch: &mut Scratch,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> usize {
        let [first, second] = &self.searcher.tables.choices;
        let [first_list, second_list] = &mut scratch.lists;
        let (mut choice, mut list) = (first, first_list);
        let mut filtered = host.vector(|| self.filter(first, list));
        // In each second block: perhaps the other windows are met less often.
        if filtered.count > filtered.end.saturating_sub(self.begin.start) / PLACES / 2 {
            let other = host.vector(|| self.filter(second, second_list));
            if other.count < filtered.count && other.end == filtered.end {
                (choice, list, filtered) = (second, second_list, other);
            }
        }
        if filtered.count > 0 {
            let begin = self.begin.start..filtered.end;
            self.look_closely(choice, list, &begin, host, found);
        }
        filtered.end
    }

    /// Finds the places where windows of matches may begin that begin here.
    fn filter(&self, choice: &Choice, list: &mut List) -> Filtered {
        let mut at = self.begin.start;
        // Windows may be that much further on than their matches.
        let end = self.begin.end.saturating_add(choice.farthest);
        let end = end.min(self.memory.len());
        let (mut len, mut first, mut count) = (0, 0_usize, 0);
        for run in &mut list.runs {
            if at >= end {
                break;
            }
            let piece = self.memory.piece(at);
            let places = piece.len().min(end.saturating_sub(at));
            let words = places.div_ceil(PLACES);
            let next = first.saturating_add(words);
            let Some(words) = list.words.get_mut(first..next) else {
                break;
            };
            let passed = self.filter_piece(choice, at, piece, places, words);
            *run = Run {
                at,
                first,
                // Nothing to be looked at.
                len: if passed > 0 { words.len() } else { 0 },
            };
            len += 1;
            first = next;
            count = passed.saturating_add(count);
            at = at.saturating_add(places.max(1));
        }
        list.len = len;
        Filtered {
            end: if at >= end {
                self.begin.end
            } else {
                // There were many pieces. The windows of all that begin so far back have been filtered.
                at.saturating_sub(choice.farthest).max(self.begin.start)
            },
            count,
        }
    }

    /// Filters the first `places` places of a piece, which is that from `at` on. Says how many of the
    /// words are not 0.
    fn filter_piece(
        &self,
        choice: &Choice,
        at: usize,
        piece: Piece<'_>,
        places: usize,
        words: &mut [u64],
    ) -> usize {
        let Searcher { tables, level, .. } = self.searcher;
        let ahead = at.saturating_add(AHEAD);
        let ahead = if ahead < self.memory.len() {
            self.memory.piece(ahead)
        } else {
            piece
        };
        // What a window has beyond the piece is not known here: such places all pass.
        let whole = piece.len().saturating_sub(tables.size.saturating_sub(1));
        let known = places.min(whole);
        let full = known / PLACES;
        let (words, rest) = words.split_at_mut_checked(full).unwrap_or_default();
        let mut count = filter::blocks(*level, choice, tables.size, piece, ahead, words);

        let mut first = full.saturating_mul(PLACES);
        for word in rest {
            let here = places.saturating_sub(first).min(PLACES);
            let known = known.saturating_sub(first).min(here);
            let passes = if known == 0 {
                0
            } else {
                self.filter_rest(choice, piece, whole, first)
            };
            *word = (passes & low_bits(known)) | (low_bits(here) & !low_bits(known));
            count = count.saturating_add(usize::from(*word != 0));
            first = first.saturating_add(PLACES);
        }
        count
    }

    /// The word of the block that begins at `first`, and is not whole: `whole` is the number of places
    /// of which something is known.
    fn filter_rest(&self, choice: &Choice, piece: Piece<'_>, whole: usize, first: usize) -> u64 {
        let Searcher { tables, level, .. } = self.searcher;
        // From the last 64 places that are known.
        let back = whole.saturating_sub(PLACES).min(first);
        let skip = first.saturating_sub(back);
        if whole < PLACES || skip >= PLACES {
            return u64::MAX;
        }
        let mut word = [0];
        let piece = piece.after(back);
        filter::blocks(*level, choice, tables.size, piece, piece, &mut word);
        word[0] >> skip
    }

    /// Looks for matches that begin in `begin` where something has passed.
    fn look_closely<H: Host>(
        &self,
        choice: &Choice,
        list: &List,
        begin: &Range<usize>,
        host: &H,
        found: &mut impl FnMut(Match),
    ) {
        let mut looks = 0;
        for run in list.runs.iter().take(list.len).filter(|run| run.len > 0) {
            let piece = self.memory.piece(run.at);
            let words = list.words.get(run.first..).unwrap_or_default();
            let words = words.get(..run.len).unwrap_or_default();
            // Most of them are 0: several at once are passed by.
            let groups = (0..).step_by(PLACES * GROUP).zip(words.chunks(GROUP));
            for (first, group) in groups.filter(|(_, group)| group.iter().any(|word| *word != 0)) {
                for (first, word) in (first..).step_by(PLACES).zip(group) {
                    let mut left = *word;
                    while let Some(bit) = lowest(left) {
                        left &= left.wrapping_sub(1);
                        let place = bit.saturating_add(first);
                        self.look(choice, run.at, piece, place, begin, found);
                        looks += 1;
                        if looks == CLOSE_LOOKS {
                            looks = 0;
                            host.breathe();
                        }
                    }
                }
            }
        }
    }

    /// Looks for matches whose window begins at a place of a piece, which begins at `at`.
    #[inline]
    fn look(
        &self,
        choice: &Choice,
        at: usize,
        piece: Piece<'_>,
        place: usize,
        begin: &Range<usize>,
        found: &mut impl FnMut(Match),
    ) {
        let word = piece.half_word(place);
        let at = at.saturating_add(place);
        let word = word.unwrap_or_else(|| self.half_word_at(at));
        for (index, window) in choice.candidates(word) {
            let Some(offset) = at.checked_sub(window).filter(|at| begin.contains(at)) else {
                continue;
            };
            if self.stands(index, offset) {
                found(Match {
                    offset,
                    pattern: index,
                });
            }
        }
    }

    /// Looks for matches at the first place, without a filter.
    #[cold]
    fn look_at_first(&self, found: &mut impl FnMut(Match)) {
        let offset = self.begin.start;
        for index in 0..self.searcher.patterns.len().min(MAX_PATTERNS) {
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

    /// The four bytes at `at`, which may lie in several pieces; zeros beyond the end.
    #[cold]
    fn half_word_at(&self, at: usize) -> u32 {
        let mut bytes = [0; window::MOST];
        self.memory.copy(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

/// A word with the `count` lowest bits set, up to 64.
const fn low_bits(count: usize) -> u64 {
    if count >= PLACES {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// The number of the lowest bit of `word` that is set.
fn lowest(word: u64) -> Option<usize> {
    if word == 0 {
        return None;
    }
    usize::try_from(word.trailing_zeros()).ok()
}
