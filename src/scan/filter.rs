// SPDX-License-Identifier: GPL-2.0

//! Finds the places where a window of a pattern may begin, all patterns in one pass.
//!
//! For each 64 bytes of memory there is one word, with a bit for each place. Neither the time nor the
//! way of the code depends on what is in memory.

mod avx2;
mod avx512;
mod portable;

use super::{
    level::Level,
    memory::Piece,
    tables::Choice, //
};

/// The number of places in a word.
pub(super) const PLACES: usize = u64::BITS as usize;

/// How far ahead of what is filtered memory is fetched, in bytes.
const AHEAD: usize = 1024;

/// Fills `words` for the first places in `piece`, and gives what they have in common.
///
/// A window may reach beyond the last place: there are `size - 1` more bytes in `piece` at least;
/// of words for which there are not enough bytes nothing is told.
pub(super) fn words(
    level: Level,
    choice: &Choice,
    size: usize,
    piece: Piece<'_>,
    words: &mut [u64],
) -> u64 {
    let enough = piece.len().saturating_sub(size.saturating_sub(1)) / PLACES;
    let count = words.len().min(enough);
    let Some(words) = words.get_mut(..count).filter(|words| !words.is_empty()) else {
        return 0;
    };
    match level {
        Level::Portable => portable::words(choice, size, piece, words),
        // SAFETY: The caller of the search says what the CPU has (`Searcher::new`); there are
        // enough bytes.
        Level::Avx2 => unsafe { avx2::words(choice, size, piece, words) },
        // SAFETY: As above.
        Level::Avx512 => unsafe { avx512::words(choice, size, piece, words) },
    }
}
