// SPDX-License-Identifier: GPL-2.0

//! The search by a filter, which looks at each place.

use core::ops::Range;

use super::{
    lowest,
    List,
    Match,
    Run,
    Scratch,
    Searcher,
    Step,
    CLOSE_LOOKS,
    GROUP,
    RUN, //
};
use crate::scan::{
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
    tables::Choice,
    tail::Tail,
    window, //
};

/// How far ahead of what is filtered memory is fetched, as measured.
const fn distance(level: Level) -> usize {
    match level {
        Level::Portable | Level::Avx2 => 1536,
        // About as much as is on its way at a time.
        Level::Avx512 => 8192,
    }
}

/// If in one of so many blocks a place passes, those are many.
const MANY: usize = 2;

/// The same where only two bytes are looked at, and there is another way.
const MANY_PAIRS: usize = 8;

/// How a step was filtered.
#[derive(Clone, Copy)]
struct Filtered {
    /// All matches that begin before this offset.
    end: usize,
    /// How many words are not 0.
    count: usize,
}

impl<M: Memory + ?Sized> Step<'_, M> {
    /// Searches for what is not looked for at some places only. Says up to where.
    pub(super) fn search_with_filter<H: Host>(
        &self,
        scratch: &mut Scratch,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> usize {
        let tables = self.searcher.tables;
        let [first, second] = &tables.choices;
        let [first_list, second_list] = &mut scratch.lists;
        let (mut choice, mut list, mut other_list) = (first, first_list, second_list);
        let mut filtered = host.vector(|| self.filter(first, list));
        let blocks = filtered.end.saturating_sub(self.begin.start) / PLACES;
        let share = if tables.filter_first {
            MANY_PAIRS
        } else {
            MANY
        };
        let many = blocks / share;
        if filtered.count > many {
            // Perhaps the other windows are met less often.
            let other = host.vector(|| self.filter(second, other_list));
            if other.count < filtered.count && other.end == filtered.end {
                (choice, filtered) = (second, other);
                (list, other_list) = (other_list, list);
            }
        }
        let begin = self.begin.start..filtered.end;
        if begin.is_empty() {
            self.look_at(begin.start, |pattern| tables.is_filtered(pattern), found);
            return begin.start.saturating_add(1);
        }
        if tables.filter_first && filtered.count > many {
            if let Some(stride) = tables.samples.stride() {
                let words = &mut other_list.words;
                if self.search_some_places(&begin, stride, words, host, found) {
                    return begin.end;
                }
            }
        }
        if filtered.count > 0 {
            self.look_closely(choice, list, &begin, host, found);
        }
        begin.end
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
            let places = piece.len().min(end.saturating_sub(at)).min(RUN);
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
        let Searcher { level, .. } = self.searcher;
        let ahead = self.ahead(at, distance(*level), piece);
        // What a window has beyond the piece is not known here: such places all pass.
        let whole = piece.len().saturating_sub(choice.size.saturating_sub(1));
        let known = places.min(whole);
        let full = known / PLACES;
        let (words, rest) = words.split_at_mut_checked(full).unwrap_or_default();
        let mut count = filter::blocks(*level, choice, piece, ahead, words);

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
        let Searcher { level, .. } = self.searcher;
        // From the last 64 places that are known.
        let back = whole.saturating_sub(PLACES).min(first);
        let skip = first.saturating_sub(back);
        if whole < PLACES || skip >= PLACES {
            return u64::MAX;
        }
        let mut word = [0];
        let piece = piece.after(back);
        filter::blocks(*level, choice, piece, piece, &mut word);
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
            let is_any = |group: &[u64]| group.iter().fold(0, |any, word| any | word) != 0;
            for (first, group) in groups.filter(|(_, group)| is_any(group)) {
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
        let window_at = at.saturating_add(place);
        let word = piece.half_word(place);
        let word = word.unwrap_or_else(|| self.half_word_at(window_at));
        for (index, window) in choice.candidates(word) {
            let offset = window_at.checked_sub(window);
            let Some(offset) = offset.filter(|at| begin.contains(at)) else {
                continue;
            };
            if self.may_stand(index, offset, at, piece) && self.stands(index, offset) {
                found(Match {
                    offset,
                    pattern: index,
                });
            }
        }
    }

    /// Whether a pattern may stand at `offset`, by how it would end, if that is in `piece`, which begins at
    /// `at`.
    #[inline]
    fn may_stand(&self, index: usize, offset: usize, at: usize, piece: Piece<'_>) -> bool {
        let Searcher {
            patterns, tables, ..
        } = self.searcher;
        let tail_at = patterns.get(index).map_or(0, Tail::at);
        let place = offset.saturating_add(tail_at).checked_sub(at);
        let word = place.and_then(|place| piece.word(place));
        word.is_none_or(|word| tables.tail(index).may_be(word))
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
