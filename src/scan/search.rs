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
const STEP: usize = 64 << 10;

/// The most pieces that are filtered at once.
const PIECES: usize = 18;

/// The number of words for the places of a step: some are searched beyond it, where the windows of
/// matches that begin in it may lie, and each piece begins a word.
const WORDS: usize = (STEP + MAX_LEN) / PLACES + 1 + PIECES;

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
    words: [[u64; WORDS]; 2],
}

impl Scratch {
    /// One that is ready to be used.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            words: [[0; WORDS]; 2],
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
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
    /// different patterns may be out of order by less than 64 KiB.
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

/// Places in one piece, and the words that tell of them.
#[derive(Clone, Copy, Default)]
struct Run<'a> {
    /// The offset of the first place in the memory.
    at: usize,
    /// The piece, from that place on.
    piece: Option<Piece<'a>>,
    /// The number of places.
    places: usize,
    /// The first word.
    word: usize,
}

/// What has passed a filter.
struct Passed<'a> {
    runs: [Run<'a>; PIECES],
    /// Where those matches begin of which all have been filtered.
    end: usize,
    /// How many places have passed.
    count: usize,
}

impl<'a, M: Memory + ?Sized> Step<'a, M> {
    /// Searches; says where the next step begins.
    fn search<H: Host>(
        &self,
        scratch: &mut Scratch,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> usize {
        let [first, second] = &self.searcher.tables.choices;
        let [first_words, second_words] = &mut scratch.words;
        let mut choice = first;
        let mut words = first_words;
        let mut passed = host.vector(|| self.filter(first, words));
        // More than one in each word: perhaps the other windows are met less often.
        if passed.count > passed.end.saturating_sub(self.begin.start) / PLACES {
            let other = host.vector(|| self.filter(second, second_words));
            if other.count < passed.count && other.end == passed.end {
                (choice, words, passed) = (second, second_words, other);
            }
        }
        if passed.count > 0 {
            self.look_closely(choice, &passed, words, host, found);
        }
        passed.end
    }

    /// Finds the places where windows of matches may begin that begin here.
    fn filter(&self, choice: &Choice, words: &mut [u64; WORDS]) -> Passed<'a> {
        let mut passed = Passed {
            runs: [Run::default(); PIECES],
            end: self.begin.start,
            count: 0,
        };
        let mut at = self.begin.start;
        // Windows may be that much further on than their matches.
        let end = self.begin.end.saturating_add(choice.farthest);
        let end = end.min(self.memory.len());
        let mut word = 0_usize;
        for run in &mut passed.runs {
            if at >= end {
                break;
            }
            let piece = self.memory.piece(at);
            let places = piece.len().min(end.saturating_sub(at));
            let count = places.div_ceil(PLACES);
            let Some(words) = words.get_mut(word..word.saturating_add(count)) else {
                break;
            };
            *run = Run {
                at,
                piece: Some(piece),
                places,
                word,
            };
            let all = self.filter_run(choice, piece, places, words);
            if all == 0 {
                // There is nothing to look at.
                run.places = 0;
            } else {
                let counts = words.iter().map(|word| word.count_ones());
                let count = usize::try_from(counts.sum::<u32>()).unwrap_or(usize::MAX);
                passed.count = passed.count.saturating_add(count);
            }
            word = word.saturating_add(count);
            at = at.saturating_add(places.max(1));
        }
        passed.end = if at >= end {
            self.begin.end
        } else {
            // There were many pieces. The windows of all that begin so far back have been filtered.
            at.saturating_sub(choice.farthest).max(self.begin.start)
        };
        passed
    }

    /// Fills in the words of a run.
    fn filter_run(
        &self,
        choice: &Choice,
        piece: Piece<'_>,
        places: usize,
        words: &mut [u64],
    ) -> u64 {
        let Searcher { tables, level, .. } = self.searcher;
        // What a window has beyond the piece is not known here: such places all pass.
        let whole = piece.len().saturating_sub(tables.size.saturating_sub(1));
        let known = places.min(whole);
        let full = known / PLACES;
        let (full_words, rest) = words.split_at_mut_checked(full).unwrap_or_default();
        let mut all = filter::words(*level, choice, tables.size, piece, full_words);

        for (word, at) in rest
            .iter_mut()
            .zip((full..).map(|word| word.saturating_mul(PLACES)))
        {
            let here = places.saturating_sub(at).min(PLACES);
            let known = known.saturating_sub(at).min(here);
            // The known ones, from the last 64 bytes for which that can be told.
            let mut last = [0];
            let mut passes = 0;
            if known > 0 {
                let back = whole.saturating_sub(PLACES).min(at);
                let skip = at.saturating_sub(back);
                if whole >= PLACES && skip < PLACES {
                    filter::words(*level, choice, tables.size, piece.after(back), &mut last);
                    passes = last[0] >> skip;
                } else {
                    passes = u64::MAX;
                }
            }
            *word = (passes & low_bits(known)) | (low_bits(here) & !low_bits(known));
            all |= *word;
        }
        all
    }

    /// Looks for matches where something has passed.
    fn look_closely<H: Host>(
        &self,
        choice: &Choice,
        passed: &Passed<'_>,
        words: &[u64; WORDS],
        host: &H,
        found: &mut impl FnMut(Match),
    ) {
        let begin = self.begin.start..passed.end;
        let mut looks = 0;
        for run in &passed.runs {
            let Some(piece) = run.piece.filter(|_| run.places > 0) else {
                continue;
            };
            let words = words.get(run.word..).unwrap_or_default();
            let words = words.iter().take(run.places.div_ceil(PLACES));
            for (first, word) in (0..).step_by(PLACES).zip(words) {
                let mut left = *word;
                while let Some(bit) = lowest(left) {
                    left &= left.wrapping_sub(1);
                    let place = bit.saturating_add(first);
                    self.look(choice, run.at, piece, place, &begin, found);
                    looks += 1;
                    if looks == CLOSE_LOOKS {
                        looks = 0;
                        host.breathe();
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
