// SPDX-License-Identifier: GPL-2.0

//! The filter in plain Rust.

use super::PLACES;
use crate::scan::{
    memory::Piece,
    tables::Choice,
    window::MOST, //
};

const WORD: usize = size_of::<u64>();

/// As [`super::blocks`].
pub(super) fn blocks(choice: &Choice, size: usize, piece: Piece<'_>, words: &mut [u64]) -> usize {
    // What all places have in which all is zero, as much of memory is.
    let zeros = choice.classes.iter().take(size);
    let zeros = zeros.fold(u8::MAX, |buckets, classes| buckets & classes[0]);
    let zeros = if zeros == 0 { 0 } else { u64::MAX };

    let mut count = 0;
    for (at, word) in (0..).step_by(PLACES).zip(words) {
        let mut bytes = [0; PLACES + WORD];
        let mut any = 0;
        for (at, bytes) in (at..).step_by(WORD).zip(bytes.chunks_exact_mut(WORD)) {
            // Beyond the last window the piece may end.
            let read = piece.word(at).unwrap_or_else(|| rest(piece, at));
            any |= read;
            bytes.copy_from_slice(&read.to_le_bytes());
        }
        *word = if any == 0 {
            zeros
        } else {
            places(choice, size, &bytes)
        };
        count += usize::from(*word != 0);
    }
    count
}

/// The places in `bytes`, which has what is needed to look at 64 of them.
fn places(choice: &Choice, size: usize, bytes: &[u8; PLACES + WORD]) -> u64 {
    let mut word = 0;
    // The buckets that are possible for the windows that began so many bytes ago, less one.
    let mut begun = [0; MOST];
    for (index, byte) in bytes.iter().enumerate() {
        begun.rotate_right(1);
        begun[0] = u8::MAX;
        for (begun, classes) in begun.iter_mut().zip(&choice.classes).take(size) {
            *begun &= classes[usize::from(*byte)];
        }
        let begins = index.checked_sub(size.saturating_sub(1));
        let Some(place) = begins.filter(|place| *place < PLACES) else {
            continue;
        };
        let passes = begun
            .get(size.saturating_sub(1))
            .is_some_and(|begun| *begun != 0);
        word |= u64::from(passes) << place;
    }
    word
}

/// The word of which some bytes are beyond the end of the piece.
#[cold]
fn rest(piece: Piece<'_>, at: usize) -> u64 {
    let mut bytes = [0; WORD];
    piece.after(at).copy(&mut bytes);
    u64::from_le_bytes(bytes)
}
