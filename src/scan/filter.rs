// SPDX-License-Identifier: GPL-2.0

//! Finds the places where a window of a pattern may begin, all patterns in one pass.
//!
//! Memory is looked at in blocks of 64 bytes. For each of them there is one word, with a bit for each
//! place. Neither the time nor the way of the code depends on what is in memory.

mod avx2;
mod avx512;
mod portable;

use super::{
    level::Level,
    memory::Piece,
    tables::Choice, //
};

/// The number of places in a block.
pub(super) const PLACES: usize = u64::BITS as usize;

/// Filters the first blocks in `piece`, as many as there are `words`. Says how many of these are not 0.
///
/// A window may reach beyond the last place: there are as many bytes less one more in `piece` at least.
/// Where there are not enough bytes the words stay as they are. `ahead` is what is searched some time
/// later: as much is fetched of it.
pub(super) fn blocks(
    level: Level,
    choice: &Choice,
    piece: Piece<'_>,
    ahead: Piece<'_>,
    words: &mut [u64],
) -> usize {
    let size = choice.size;
    let enough = piece.len().saturating_sub(size.saturating_sub(1)) / PLACES;
    let count = words.len().min(enough);
    let Some(words) = words.get_mut(..count).filter(|words| !words.is_empty()) else {
        return 0;
    };
    match level {
        Level::Portable => portable::blocks(choice, size, piece, words),
        // SAFETY: The maker of the searcher says what the CPU has (`Searcher::new`); there are
        // enough bytes.
        Level::Avx2 => unsafe { avx2::blocks(choice, piece, ahead, words) },
        // SAFETY: As above.
        Level::Avx512 => unsafe { avx512::blocks(choice, size, piece, ahead, words) },
    }
}
