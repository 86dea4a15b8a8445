// SPDX-License-Identifier: GPL-2.0

//! Scanning by a filter, which looks at each place.

use core::ops::Range;

use super::{
    lowest,
    sampled::Sampled,
    List,
    Match,
    Portion,
    Run,
    Scanner,
    Scratch,
    CLOSE_LOOKS,
    GROUP,
    RUN, //
};
use crate::scan::{
    engine::{
        Engine,
        EngineKind, //
    },
    filter::{
        self,
        PLACES, //
    },
    fingerprint,
    memory::{
        Host,
        Memory,
        Piece, //
    },
    tables::Choice,
    tail::Tail, //
};

/// Returns how far ahead of what is filtered memory is fetched, as measured.
const fn distance(engine: Engine) -> usize {
    match engine.kind() {
        EngineKind::Portable | EngineKind::Avx2 => 1536,
        // About as much as is on its way at a time.
        EngineKind::Avx512 => 8192,
    }
}

/// If a place passes in more than one of so many blocks, the second choice is tried.
const SECOND_CHOICE_RATIO: usize = 2;

/// The same where fingerprints are pairs of bytes, and samples are a third way.
const SECOND_CHOICE_RATIO_OF_PAIRS: usize = 8;

/// How a portion was filtered.
#[derive(Clone, Copy)]
struct Filtered {
    /// All matches that begin before this offset were covered.
    end: usize,
    /// How many words are not 0.
    count: usize,
}

impl<M: Memory + ?Sized> Portion<'_, M> {
    /// Scans for the patterns that samples do not find. Returns the offset up to which it did;
    /// [`None`] if the host gave up.
    pub(super) fn search_with_filter<H: Host>(
        &self,
        scratch: &mut Scratch,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> Option<usize> {
        let tables = self.scanner.tables;
        let [first, second] = &tables.choices;
        let [first_list, second_list] = &mut scratch.lists;
        let (mut choice, mut list, mut other_list) = (first, first_list, second_list);
        let mut filtered = host.vector(|| self.filter(first, list));
        let blocks = filtered.end.saturating_sub(self.begin.start) / PLACES;
        let share = if tables.filter_first {
            SECOND_CHOICE_RATIO_OF_PAIRS
        } else {
            SECOND_CHOICE_RATIO
        };
        let many = blocks / share;
        if filtered.count > many {
            // Perhaps the other fingerprints are less frequent.
            let other = host.vector(|| self.filter(second, other_list));
            if other.count < filtered.count && other.end == filtered.end {
                (choice, filtered) = (second, other);
                (list, other_list) = (other_list, list);
            }
        }
        let begin = self.begin.start..filtered.end;
        if begin.is_empty() {
            self.look_at(begin.start, |pattern| tables.is_filtered(pattern), found);
            return Some(begin.start.saturating_add(1));
        }
        if tables.filter_first && filtered.count > many {
            if let Some(stride) = tables.samples.stride() {
                let words = &mut other_list.words;
                match self.search_some_places(&begin, stride, words, host, found) {
                    Sampled::Done => return Some(begin.end),
                    Sampled::TooMany => {}
                    Sampled::GivenUp => return None,
                }
            }
        }
        let is_done = filtered.count == 0 || self.look_closely(choice, list, &begin, host, found);
        is_done.then_some(begin.end)
    }

    /// Finds the places where the fingerprints of matches in this portion may begin.
    fn filter(&self, choice: &Choice, list: &mut List) -> Filtered {
        let mut at = self.begin.start;
        // Fingerprints may begin that much later than their matches.
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
                // Nothing to look at.
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
                // There were many pieces. Matches that begin before this were covered.
                at.saturating_sub(choice.farthest).max(self.begin.start)
            },
            count,
        }
    }

    /// Filters the first `places` places of a piece, the one from `at` on. Returns how many of the
    /// words are not 0.
    fn filter_piece(
        &self,
        choice: &Choice,
        at: usize,
        piece: Piece<'_>,
        places: usize,
        words: &mut [u64],
    ) -> usize {
        let Scanner { engine, .. } = self.scanner;
        let ahead = self.ahead(at, distance(*engine), piece);
        // The end of a fingerprint may lie beyond the piece: such places all pass.
        let whole = piece.len().saturating_sub(choice.size.saturating_sub(1));
        let known = places.min(whole);
        let full = known / PLACES;
        let (words, rest) = words.split_at_mut_checked(full).unwrap_or_default();
        let mut count = filter::blocks(*engine, choice, piece, ahead, words);

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

    /// Returns the word of the block that begins at `first` and is not whole. `whole` is the number
    /// of places whose fingerprints lie in the piece.
    fn filter_rest(&self, choice: &Choice, piece: Piece<'_>, whole: usize, first: usize) -> u64 {
        let Scanner { engine, .. } = self.scanner;
        // From the last 64 places that can be filtered.
        let back = whole.saturating_sub(PLACES).min(first);
        let skip = first.saturating_sub(back);
        if whole < PLACES || skip >= PLACES {
            return u64::MAX;
        }
        let mut word = [0];
        let piece = piece.after(back);
        filter::blocks(*engine, choice, piece, piece, &mut word);
        word[0] >> skip
    }

    /// Looks for matches that begin in `begin` where something has passed. Returns whether the host
    /// went on.
    fn look_closely<H: Host>(
        &self,
        choice: &Choice,
        list: &List,
        begin: &Range<usize>,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> bool {
        let mut looks = 0_u32;
        for run in list.runs.iter().take(list.len).filter(|run| run.len > 0) {
            let piece = self.memory.piece(run.at);
            let words = list.words.get(run.first..).unwrap_or_default();
            let words = words.get(..run.len).unwrap_or_default();
            // Most of them are 0: several at once are skipped.
            let groups = (0..).step_by(PLACES * GROUP).zip(words.chunks(GROUP));
            let is_any = |group: &[u64]| group.iter().fold(0, |any, word| any | word) != 0;
            for (first, group) in groups.filter(|(_, group)| is_any(group)) {
                for (first, word) in (first..).step_by(PLACES).zip(group) {
                    let mut left = *word;
                    while let Some(bit) = lowest(left) {
                        left &= left.wrapping_sub(1);
                        let place = bit.saturating_add(first);
                        looks = looks.saturating_add(1);
                        let candidates = self.look(choice, run.at, piece, place, begin, found);
                        looks = looks.saturating_add(candidates);
                        if looks >= CLOSE_LOOKS {
                            looks = 0;
                            if !host.breathe() {
                                return false;
                            }
                        }
                    }
                }
            }
        }
        true
    }

    /// Looks for matches whose fingerprint begins at a place of a piece, the one from `at` on.
    /// Returns how many patterns it compared.
    #[inline]
    fn look(
        &self,
        choice: &Choice,
        at: usize,
        piece: Piece<'_>,
        place: usize,
        begin: &Range<usize>,
        found: &mut impl FnMut(Match),
    ) -> u32 {
        let mut compared = 0_u32;
        let fingerprint_at = at.saturating_add(place);
        let word = piece.half_word(place);
        let word = word.unwrap_or_else(|| self.half_word_at(fingerprint_at));
        for (index, fingerprint) in choice.candidates(word) {
            let offset = fingerprint_at.checked_sub(fingerprint);
            let Some(offset) = offset.filter(|at| begin.contains(at)) else {
                continue;
            };
            if self.may_match(index, offset, at, piece) {
                compared = compared.saturating_add(1);
                if self.matches_at(index, offset) {
                    found(Match {
                        offset,
                        pattern: index,
                    });
                }
            }
        }
        compared
    }

    /// Returns whether a pattern may match at `offset`, by its tail if that is in `piece`, the one
    /// from `at` on.
    #[inline]
    fn may_match(&self, index: usize, offset: usize, at: usize, piece: Piece<'_>) -> bool {
        let Scanner {
            patterns, tables, ..
        } = self.scanner;
        let tail_at = patterns.get(index).map_or(0, Tail::at);
        let place = offset.saturating_add(tail_at).checked_sub(at);
        let word = place.and_then(|place| piece.word(place));
        word.is_none_or(|word| tables.tail(index).may_be(word))
    }

    /// Returns the four bytes at `at`, which may lie in several pieces; zeros beyond the end.
    #[cold]
    fn half_word_at(&self, at: usize) -> u32 {
        let mut bytes = [0; fingerprint::MAX_WIDTH];
        self.memory.copy(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

/// Returns a word with the `count` lowest bits set, up to 64.
const fn low_bits(count: usize) -> u64 {
    if count >= PLACES {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}
