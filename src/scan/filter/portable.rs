// SPDX-License-Identifier: GPL-2.0

//! The filter in plain Rust.

use super::PLACES;
use crate::scan::{
    memory::Piece,
    tables::Choice, //
};

const WORD: usize = size_of::<u64>();

/// As [`super::blocks`].
pub(super) fn blocks(choice: &Choice, size: usize, piece: Piece<'_>, words: &mut [u64]) -> usize {
    // What is left at the end of a fingerprint.
    let end = 0xff << size.saturating_sub(1).saturating_mul(8);
    // What all places have in which all is zero, as much of memory is.
    let zeros = (0..size).fold(0, |begun, _| choice.step(begun, 0)) & end;
    let zeros = if zeros == 0 { 0 } else { u64::MAX };

    let mut count = 0;
    for (at, word) in (0..).step_by(PLACES).zip(words) {
        let mut bytes = [0; PLACES + WORD];
        let mut any = 0;
        for (at, bytes) in (at..).step_by(WORD).zip(bytes.chunks_exact_mut(WORD)) {
            // Beyond the last fingerprint the piece may end.
            let read = piece.word(at).unwrap_or_else(|| rest(piece, at));
            any |= read;
            bytes.copy_from_slice(&read.to_le_bytes());
        }
        *word = if any == 0 {
            zeros
        } else {
            places(choice, size, end, &bytes)
        };
        count += usize::from(*word != 0);
    }
    count
}

/// Returns the places in `bytes`, which has what is needed to look at 64 of them.
fn places(choice: &Choice, size: usize, end: u32, bytes: &[u8; PLACES + WORD]) -> u64 {
    let (first, rest) = bytes
        .split_at_checked(size.saturating_sub(1))
        .unwrap_or_default();
    let begun = first
        .iter()
        .fold(0, |begun, byte| choice.step(begun, *byte));
    let places = rest
        .iter()
        .take(PLACES)
        .fold((begun, 0), |(begun, places), byte| {
            let begun = choice.step(begun, *byte);
            (begun, (places << 1) | u64::from(begun & end != 0))
        });
    places.1.reverse_bits()
}

/// Returns a word with some bytes beyond the end of the piece.
#[cold]
fn rest(piece: Piece<'_>, at: usize) -> u64 {
    let mut bytes = [0; WORD];
    piece.after(at).copy(&mut bytes);
    u64::from_le_bytes(bytes)
}
