// SPDX-License-Identifier: GPL-2.0

//! Looks closely at the places that have passed.

use core::ops::Range;

use super::{
    passing::List,
    Match,
    Portion,
    Work, //
};
use crate::scan::{
    filter::PLACES,
    index::{
        Entry,
        Index, //
    },
    memory::{
        Host,
        Memory,
        Piece, //
    }, //
};

/// After how many close looks others may have the CPU. Each look may cost as many comparisons as
/// there are patterns.
const CLOSE_LOOKS: u32 = 64;

impl<M: Memory + ?Sized> Portion<'_, M> {
    #[allow(clippy::too_many_arguments, reason = "each is another thing")]
    /// Looks for matches that begin in `begin` where something has passed. Returns whether the host
    /// went on.
    pub(super) fn look_closely<H: Host>(
        &self,
        index: &Index,
        entries: &[Entry],
        stride: usize,
        list: &List,
        begin: &Range<usize>,
        host: &H,
        work: &mut Work,
        found: &mut impl FnMut(Match),
    ) -> bool {
        let mut looks = 0_u32;
        let stretch = PLACES.saturating_mul(stride);
        for (run, words) in list.runs() {
            let piece = self.memory.piece(run);
            for (number, word) in words {
                let first = number.saturating_mul(stretch);
                let (mut left, looked) = worth(index, entries, piece, first, stride, word);
                work.close = work.close.wrapping_add(looked.into());
                looks = looks.saturating_add(looked);
                if !goes_on(&mut looks, host) {
                    return false;
                }
                while left != 0 {
                    let place = place(first, stride, left.trailing_zeros());
                    left &= left.wrapping_sub(1);
                    let at = run.saturating_add(place);
                    let here = piece.word(place);
                    let here = here.unwrap_or_else(|| self.word_at(at));
                    let considered = index.for_each_candidate(
                        entries,
                        here,
                        |distance| piece.word(place.wrapping_add_signed(distance)),
                        |pattern, window| {
                            work.compared = work.compared.wrapping_add(1);
                            self.decide(pattern, at, window, begin, found);
                        },
                    );
                    work.windows = work.windows.wrapping_add(considered.into());
                    looks = looks.saturating_add(considered);
                    if !goes_on(&mut looks, host) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Decides whether a pattern matches where its window, which begins at `window` in it, is at
    /// `at`.
    // Not inlined, to keep the loop small.
    #[inline(never)]
    fn decide(
        &self,
        pattern: usize,
        at: usize,
        window: usize,
        begin: &Range<usize>,
        found: &mut impl FnMut(Match),
    ) {
        let offset = at.checked_sub(window).filter(|at| begin.contains(at));
        if let Some(offset) = offset.filter(|offset| self.matches_at(pattern, *offset)) {
            found(Match { offset, pattern });
        }
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

/// Returns those bits of `word` whose places a pattern may match: few. The lowest bit is that of
/// the place at `first` in `piece`. The loop does nothing else, so that memory full of such places
/// does not cost much. Returns also how many it looked at.
fn worth(
    index: &Index,
    entries: &[Entry],
    piece: Piece<'_>,
    first: usize,
    stride: usize,
    word: u64,
) -> (u64, u32) {
    let (mut left, mut worth, mut looked) = (word, 0, 0_u32);
    while left != 0 {
        let number = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        let place = place(first, stride, number);
        // What lies in several pieces is decided later.
        let may_be = piece.word(place).is_none_or(|word| {
            let read = |distance| piece.word(place.wrapping_add_signed(distance));
            index.may_have_candidate(entries, word, read)
        });
        worth |= u64::from(may_be) << number;
        looked = looked.wrapping_add(1);
    }
    (worth, looked)
}

/// Returns the place of a bit of a word whose lowest bit is that of the place at `first`.
#[inline]
fn place(first: usize, stride: usize, number: u32) -> usize {
    // A number of bits is no more than 64.
    let number = usize::try_from(number).unwrap_or(0);
    first.wrapping_add(number.wrapping_mul(stride))
}
