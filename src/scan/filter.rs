// SPDX-License-Identifier: GPL-2.0

//! Finds the places where fingerprints may begin, those of all patterns in one pass.
//!
//! Memory is looked at in blocks of 64 bytes. Each of them gives one word, with a bit for each
//! place. Neither the time nor the code path depends on what is in memory.

mod avx2;
mod avx512;
mod portable;

use super::{
    engine::{
        Engine,
        EngineKind, //
    },
    memory::Piece,
    tables::Choice, //
};

/// The number of places in a block.
pub(super) const PLACES: usize = u64::BITS as usize;

/// Filters the first blocks in `piece`, one for each of `words`. Returns how many of these are not
/// 0.
///
/// A fingerprint may reach beyond the last place: `piece` must have its size, less one, more bytes.
/// Where it does not, words stay as they are. `ahead` is what will be scanned some time later; as
/// much of it is fetched.
pub(super) fn blocks(
    engine: Engine,
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
    match engine.kind() {
        EngineKind::Portable => portable::blocks(choice, size, piece, words),
        // SAFETY: By its invariant the engine has the instructions; there are enough bytes.
        EngineKind::Avx2 => unsafe { avx2::blocks(choice, piece, ahead, words) },
        // SAFETY: By its invariant the engine has the instructions; there are enough bytes.
        EngineKind::Avx512 => unsafe { avx512::blocks(choice, size, piece, ahead, words) },
    }
}
