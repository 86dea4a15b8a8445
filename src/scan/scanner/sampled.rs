// SPDX-License-Identifier: GPL-2.0

//! Scanning by samples: only some places are looked at.

use core::{
    num::NonZeroUsize,
    ops::Range, //
};

use super::{
    Match,
    Portion,
    Scanner,
    CLOSE_LOOKS, //
};
use crate::scan::{
    filter::PLACES,
    memory::{
        Host,
        Memory,
        Piece, //
    }, //
};

/// How far ahead of the places that are looked at memory is fetched.
const AHEAD: usize = 3072;

/// If more than one of so many places passes, the filter is faster.
const GIVE_UP_RATIO: usize = 8;

/// How many words of places are looked at before that is decided.
const TRIAL_WORDS: usize = 16;

/// How a look at some places ended.
pub(super) enum Sampled {
    /// All matches were found.
    Done,
    /// So many of the first places pass that the filter, where it can be used, is faster. Nothing
    /// was found yet.
    TooMany,
    /// The host gave up.
    GivenUp,
}

impl<M: Memory + ?Sized> Portion<'_, M> {
    /// Scans for matches that begin in `begin`, by looking at places that are `stride` bytes apart.
    /// `words` are overwritten.
    pub(super) fn search_some_places<H: Host>(
        &self,
        begin: &Range<usize>,
        stride: NonZeroUsize,
        words: &mut [u64],
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> Sampled {
        let Scanner { tables, engine, .. } = self.scanner;
        let samples = &tables.samples;
        let can_give_up = !tables.has_others && tables.choices[0].size > 0;
        let stride = stride.get();
        let end = begin.end.saturating_add(samples.farthest());
        let end = end.min(self.memory.len());
        let all = words.len().saturating_mul(PLACES);
        // At first only as many as are needed to decide whether to give up.
        let mut most = if can_give_up {
            all.min(TRIAL_WORDS * PLACES)
        } else {
            all
        };
        let mut looks = 0;
        let mut at = begin.start;
        while at < end {
            let piece = self.memory.piece(at);
            // Places with a whole word after them.
            let places = piece.len().saturating_sub(size_of::<u64>() - 1);
            let places = places.min(end.saturating_sub(at));
            let count = places.div_ceil(stride).min(most);
            let used = words.get_mut(..count.div_ceil(PLACES)).unwrap_or_default();
            if used.is_empty() {
                // The word here lies in several pieces.
                looks += samples.for_each_candidate(
                    self.word_at(at),
                    |_| None,
                    |pattern, sample_at| self.decide(pattern, at, sample_at, begin, found),
                );
                if !goes_on(&mut looks, host) {
                    return Sampled::GivenUp;
                }
                at = at.saturating_add(stride);
                continue;
            }
            samples.look(*engine, piece, self.ahead(at, AHEAD, piece), count, used);
            if can_give_up && at == begin.start && passed(used) > count / GIVE_UP_RATIO {
                return Sampled::TooMany;
            }
            let looked =
                self.look_closely_at_some(begin, stride, at, piece, used, &mut looks, host, found);
            if !looked {
                return Sampled::GivenUp;
            }
            at = at.saturating_add(count.saturating_mul(stride));
            most = all;
        }
        Sampled::Done
    }

    /// Looks for matches at the places that have passed, by `words`, in the piece from `at` on.
    /// Returns whether the host went on.
    #[allow(clippy::too_many_arguments, reason = "it is a part of its only caller")]
    fn look_closely_at_some<H: Host>(
        &self,
        begin: &Range<usize>,
        stride: usize,
        at: usize,
        piece: Piece<'_>,
        words: &[u64],
        looks: &mut u32,
        host: &H,
        found: &mut impl FnMut(Match),
    ) -> bool {
        let samples = &self.scanner.tables.samples;
        let firsts = (0..).step_by(PLACES.saturating_mul(stride));
        for (first, word) in firsts.zip(words).filter(|(_, word)| **word != 0) {
            // The highest bit is that of the first place.
            let mut left = samples.sift(piece, first, word.reverse_bits());
            while left != 0 {
                let place = samples.place(first, left.trailing_zeros());
                left &= left.wrapping_sub(1);
                let Some(word) = piece.word(place) else {
                    break;
                };
                *looks += samples.for_each_candidate(
                    word,
                    |distance| piece.word(place.wrapping_add_signed(distance)),
                    |pattern, sample_at| {
                        self.decide(pattern, at.saturating_add(place), sample_at, begin, found);
                    },
                );
                if !goes_on(looks, host) {
                    return false;
                }
            }
        }
        true
    }

    /// Decides whether a pattern matches where its sample, which begins at `sample_at` in it, is at
    /// `at`.
    // Not inlined, to keep the loop small.
    #[inline(never)]
    fn decide(
        &self,
        pattern: usize,
        at: usize,
        sample_at: usize,
        begin: &Range<usize>,
        found: &mut impl FnMut(Match),
    ) {
        let offset = at.checked_sub(sample_at).filter(|at| begin.contains(at));
        if let Some(offset) = offset.filter(|offset| self.matches_at(pattern, *offset)) {
            found(Match { offset, pattern });
        }
    }

    /// Returns the eight bytes at `at`, which may lie in several pieces; zeros beyond the end.
    #[cold]
    fn word_at(&self, at: usize) -> u64 {
        let mut bytes = [0; size_of::<u64>()];
        self.memory.copy(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// Lets others have the CPU after [`CLOSE_LOOKS`]. Returns whether the host goes on.
fn goes_on<H: Host>(looks: &mut u32, host: &H) -> bool {
    if *looks < CLOSE_LOOKS {
        return true;
    }
    *looks = 0;
    host.breathe()
}

/// Returns how many places have passed.
fn passed(words: &[u64]) -> usize {
    let ones = words.iter().map(|word| word.count_ones());
    usize::try_from(ones.fold(0, u32::saturating_add)).unwrap_or(0)
}
