// SPDX-License-Identifier: GPL-2.0

//! Finds the places of a portion that pass: the first of two steps, of which each place takes the
//! same time, whatever is in memory.

use core::num::NonZeroUsize;

use super::{
    Portion,
    Scanner,
    Work,
    CLOSE,
    PORTION,
    SIFT, //
};
use crate::scan::{
    filter::{
        PLACES,
        REACH, //
    },
    memory::{
        Host,
        Memory,
        Piece, //
    },
    pattern::MAX_LEN,
    way::Way, //
};

const WORD: usize = size_of::<u64>();

/// How far ahead memory is fetched by filters, about as much as is on its way at a time.
const AHEAD: usize = 8192;

/// The same where places are looked at one by one.
const AHEAD_OF_LOOKS: usize = 3072;

/// The most runs: so many pages, each with an end that is not whole, two that are not whole
/// themselves, and what is cut.
const RUNS: usize = 2 * (PORTION / 4096 + 3);

/// The most words. Some lie beyond the portion, where windows of matches that begin in it may be,
/// and each run may end in one that is not full.
const WORDS: usize = (PORTION + MAX_LEN) / PLACES + 1 + RUNS;

/// The most words of marks.
const MARKS: usize = WORDS / PLACES + 1 + RUNS;

/// What has passed in one portion. All zeros are a valid value.
#[derive(Debug)]
#[repr(C)]
pub(super) struct List {
    words: [u64; WORDS],
    /// Which words are not 0: most are, and to ask each of them would take long. For each run so
    /// many that each of its words has a bit; the lowest one is that of the first word.
    marks: [u64; MARKS],
    runs: [Run; RUNS],
    /// The number of runs.
    len: usize,
}

/// What has passed in a part of one piece.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Run {
    /// The offset in the memory of the first place.
    at: usize,
    /// The index of its first word.
    first: usize,
    /// Its marks: the index of the first, and their number.
    first_mark: usize,
    marks: usize,
}

/// Marks the word at `index`.
fn mark(marks: &mut [u64], index: usize) {
    if let Some(mark) = marks.get_mut(index / PLACES) {
        *mark |= 1 << (index % PLACES);
    }
}

/// Returns the number of each bit of `mark`, from the lowest one on.
fn marked(mark: u64) -> impl Iterator<Item = usize> {
    let mut left = mark;
    core::iter::from_fn(move || {
        let number = left.trailing_zeros();
        let is_any = left != 0;
        left &= left.wrapping_sub(1);
        // A number of bits is no more than 64.
        usize::try_from(number).ok().filter(|_| is_any)
    })
}

impl List {
    #[allow(clippy::large_stack_arrays, reason = "not for the kernel")]
    pub(super) const fn new() -> Self {
        Self {
            words: [0; WORDS],
            marks: [0; MARKS],
            runs: [Run {
                at: 0,
                first: 0,
                first_mark: 0,
                marks: 0,
            }; RUNS],
            len: 0,
        }
    }

    /// Returns each run in which something has passed: where it begins, and each word that is not
    /// 0, with its index in the run.
    pub(super) fn runs(
        &self,
    ) -> impl Iterator<Item = (usize, impl Iterator<Item = (usize, u64)> + '_)> + '_ {
        self.runs.iter().take(self.len).map(|run| {
            let words = self.words.get(run.first..).unwrap_or_default();
            let marks = self.marks.get(run.first_mark..).unwrap_or_default();
            let marks = (0_usize..).step_by(PLACES).zip(marks).take(run.marks);
            let marked = marks.flat_map(|(first, mark)| {
                marked(*mark).map(move |number| first.wrapping_add(number))
            });
            let marked = marked.filter_map(|index| Some((index, *words.get(index)?)));
            (run.at, marked)
        })
    }
}

/// How much has passed.
#[derive(Clone, Copy)]
pub(super) struct Passing {
    /// All matches that begin before this offset were covered.
    pub(super) end: usize,
    /// How many places have passed.
    pub(super) count: usize,
    /// How many places were looked at by themselves: in any memory, and because of what is in this.
    always: usize,
    looked: usize,
}

impl Passing {
    /// Returns how much more there was to do, and will be, than in memory where nothing passes.
    pub(super) fn more(&self) -> usize {
        let sift = self.looked.saturating_mul(SIFT);
        sift.saturating_add(self.count.saturating_mul(CLOSE))
    }

    /// Returns how much there was to do, and will be.
    pub(super) fn all(&self) -> usize {
        self.more().saturating_add(self.always)
    }
}

impl<M: Memory + ?Sized> Portion<'_, M> {
    /// Finds the places where windows of matches in this portion may be.
    pub(super) fn passing<H: Host>(
        &self,
        way: &Way,
        stride: NonZeroUsize,
        list: &mut List,
        host: &H,
        work: &mut Work,
    ) -> Passing {
        let (at, passed_by) = if way.filter.is_there() {
            host.vector(|| self.list(way, stride, list))
        } else {
            self.list(way, stride, list)
        };
        let bytes = at.saturating_sub(self.begin.start);
        let always = if way.filter.is_there() {
            work.filtered = work.filtered.wrapping_add(count_of(bytes));
            0
        } else {
            let places = bytes.checked_div(stride.get()).unwrap_or(0);
            places.saturating_sub(passed_by)
        };
        let (count, looked) = self.sift(way, list);
        work.stepped = work.stepped.wrapping_add(count_of(always));
        work.looked = work.looked.wrapping_add(count_of(looked));
        let farthest = way.index.farthest();
        let end = self.begin.end.saturating_add(farthest);
        Passing {
            end: if at >= end.min(self.memory.len()) {
                self.begin.end
            } else {
                // There were many pieces. Matches that begin before this were covered.
                at.saturating_sub(farthest).max(self.begin.start)
            },
            count,
            always,
            looked,
        }
    }

    /// Lists what has passed. Returns the offset up to which it did, and how many places it passed
    /// by.
    fn list(&self, way: &Way, stride: NonZeroUsize, list: &mut List) -> (usize, usize) {
        let (mut at, mut passed_by) = (self.begin.start, 0_usize);
        // Windows may begin that much later than their matches.
        let end = self.begin.end.saturating_add(way.index.farthest());
        let end = end.min(self.memory.len());
        let (mut len, mut first, mut first_mark) = (0, 0_usize, 0_usize);
        for run in &mut list.runs {
            if at >= end {
                break;
            }
            let piece = self.memory.piece(at);
            let bytes = piece.len().min(end.saturating_sub(at));
            let whole = piece.len().saturating_sub(WORD - 1).min(bytes);
            let (bytes, is_border) = match whole {
                0 => (bytes.max(1), true),
                _ if way.filter.is_there() => (bytes, false),
                whole => (whole, false),
            };
            let places = bytes.div_ceil(stride.get());
            let words = places.div_ceil(PLACES);
            let next = first.saturating_add(words);
            let next_mark = first_mark.saturating_add(words.div_ceil(PLACES));
            let (Some(words), Some(marks)) = (
                list.words.get_mut(first..next),
                list.marks.get_mut(first_mark..next_mark),
            ) else {
                break;
            };
            marks.fill(0);
            *run = Run {
                at,
                first,
                first_mark,
                marks: marks.len(),
            };
            if is_border {
                self.look_at_border(way, stride, at, places, words, marks);
            } else if way.filter.is_there() {
                self.filter(way, at, piece, places, words, marks);
            } else {
                let ahead = self.ahead(at, AHEAD_OF_LOOKS, piece);
                let engine = self.scanner.engine;
                let here = way
                    .index
                    .look(engine, stride.get(), piece, ahead, places, words);
                passed_by = passed_by.saturating_add(here);
                for (index, word) in words.iter_mut().enumerate().filter(|(_, word)| **word != 0) {
                    *word = word.reverse_bits();
                    mark(marks, index);
                }
            }
            len += 1;
            (first, first_mark) = (next, next_mark);
            at = at.saturating_add(places.saturating_mul(stride.get()));
        }
        list.len = len;
        (at, passed_by)
    }

    /// Filters the first `places` places of a piece, the one from `at` on.
    fn filter(
        &self,
        way: &Way,
        at: usize,
        piece: Piece<'_>,
        places: usize,
        words: &mut [u64],
        marks: &mut [u64],
    ) {
        let Scanner { engine, .. } = self.scanner;
        let ahead = self.ahead(at, AHEAD, piece);
        let full = places.min(piece.len().saturating_sub(REACH)) / PLACES;
        let (words, rest) = words.split_at_mut_checked(full).unwrap_or_default();
        let block = piece.up_to(full.saturating_mul(PLACES).saturating_add(REACH));
        if way.index.is_run(block, ahead) {
            words.fill(0);
        } else {
            way.filter.blocks(*engine, piece, ahead, words, marks);
        }

        // The last blocks need bytes beyond the piece.
        for (index, word) in (full..).zip(rest) {
            let first = index.saturating_mul(PLACES);
            let mut block = [0; PLACES + REACH];
            self.memory.copy(at.saturating_add(first), &mut block);
            let mut passing = [0];
            let block = Piece::from(&block[..]);
            way.filter
                .blocks(*engine, block, block, &mut passing, &mut [0]);
            let here = places.saturating_sub(first).min(PLACES);
            let passing = passing[0] & low_bits(here);
            *word = way.index.sift(*engine, block, 0, passing).word;
            if *word != 0 {
                mark(marks, index);
            }
        }
    }

    /// Looks at places whose words lie in several pieces.
    #[cold]
    fn look_at_border(
        &self,
        way: &Way,
        stride: NonZeroUsize,
        at: usize,
        places: usize,
        words: &mut [u64],
        marks: &mut [u64],
    ) {
        words.fill(0);
        let [word, ..] = words else {
            return;
        };
        for place in 0..places.min(PLACES) {
            let at = at.saturating_add(place.saturating_mul(stride.get()));
            *word |= u64::from(way.index.passes(self.word_at(at))) << place;
        }
        if *word != 0 {
            mark(marks, 0);
        }
    }

    /// Removes from a list what does not pass when looked at by itself. Returns how many places
    /// remain, and how many were looked at.
    fn sift(&self, way: &Way, list: &mut List) -> (usize, usize) {
        let List {
            words,
            marks,
            runs,
            len,
        } = list;
        let (mut count, mut looked) = (0_u32, 0_u32);
        let is_filtered = way.filter.is_there();
        for run in runs.iter_mut().take(*len) {
            let piece = self.memory.piece(run.at);
            let words = words.get_mut(run.first..).unwrap_or_default();
            let marks = marks.get_mut(run.first_mark..).unwrap_or_default();
            let marks = (0_usize..).step_by(PLACES).zip(marks).take(run.marks);
            for (first, mark) in marks {
                for number in marked(*mark) {
                    let index = first.wrapping_add(number);
                    let Some(word) = words.get_mut(index) else {
                        break;
                    };
                    let first = index.saturating_mul(PLACES);
                    // The last ones are sifted already.
                    if is_filtered && first.saturating_add(PLACES + REACH) <= piece.len() {
                        let engine = self.scanner.engine;
                        let sifted = way.index.sift(engine, piece, first, *word);
                        *word = sifted.word;
                        if *word == 0 {
                            *mark &= !(1 << (number % PLACES));
                        }
                        looked = looked.wrapping_add(sifted.looked);
                        count = count.wrapping_add(sifted.passing);
                    } else {
                        count = count.wrapping_add(word.count_ones());
                    }
                }
            }
        }
        // No more than places in a portion.
        let count_of = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        (count_of(count), count_of(looked))
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

    /// Returns the eight bytes at `at`, which may lie in several pieces; zeros beyond the end.
    #[cold]
    pub(super) fn word_at(&self, at: usize) -> u64 {
        let mut bytes = [0; WORD];
        self.memory.copy(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

fn count_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Returns a word with the `count` lowest bits set, up to 64.
const fn low_bits(count: usize) -> u64 {
    if count >= PLACES {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}
