// SPDX-License-Identifier: GPL-2.0

//! A digest of memory, with a secret key: who does not know the key can keep the digest of changed
//! memory only by luck.
//!
//! Each page gives two sums, those of NH, the fast part of UMAC (RFC 4418, section 5.2), with keys
//! that are shifted against each other: two different pages have the same sums with a probability
//! of 2^-64. The sums and the place of the page are mixed with two more secret numbers into the
//! page's digest. The digest of several pages is the sum of theirs, so that they may be read in any
//! order, and in any portions.

mod avx2;
mod avx512;

use super::{
    engine::{
        Engine,
        EngineKind, //
    },
    memory::{
        Host,
        Memory,
        Piece, //
    }, //
};

/// The size of a page, in bytes.
const PAGE: usize = 4096;

const WORD: usize = size_of::<u64>();

/// The number of words by which the keys of the two sums are shifted.
const SHIFT: usize = 8;

const PAGE_WORDS: usize = PAGE / WORD;

/// A secret. All zeros are a valid value, but not a secret.
#[derive(Debug)]
#[repr(C)]
pub struct Key {
    page: [u64; PAGE_WORDS + SHIFT],
    odd: [u64; 2],
}

impl Key {
    /// Fills the key with random words, which `fill` writes.
    pub fn fill(&mut self, fill: impl Fn(&mut [u64])) {
        fill(&mut self.page);
        fill(&mut self.odd);
    }

    /// Creates a key with no secret in it, to be filled.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            page: [0; PAGE_WORDS + SHIFT],
            odd: [0; 2],
        }
    }
}

impl Default for Key {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the digest of all whole pages in `memory`, the first of which is at `place`, the next
/// one at the place after it.
///
/// It is the sum of the digests of each page. That of no page is 0.
pub fn digest<M: Memory + ?Sized, H: Host>(
    engine: Engine,
    key: &Key,
    memory: &M,
    place: u64,
    host: &H,
) -> u64 {
    let mut digest = 0_u64;
    for_each_page(engine, key, memory, host, |page, sums| {
        let place = place.wrapping_add(u64::try_from(page).unwrap_or(0));
        digest = digest.wrapping_add(key.mix(sums, place));
    });
    digest
}

/// What is the digest of no page: nothing is known.
pub const UNKNOWN: u64 = 1;

/// Calls `put` with the number and the digest of each whole page in `memory`. Pages that are equal
/// have equal digests, wherever they are; none is 0 or [`UNKNOWN`].
///
/// `put` must not sleep.
pub fn digest_each<M: Memory + ?Sized, H: Host>(
    engine: Engine,
    key: &Key,
    memory: &M,
    host: &H,
    mut put: impl FnMut(usize, u64),
) {
    for_each_page(engine, key, memory, host, |page, sums| {
        put(page, key.mix(sums, 0).max(UNKNOWN + 1));
    });
}

/// Calls `put` with the number and the sums of each whole page in `memory`, where vector registers
/// may be used.
fn for_each_page<M: Memory + ?Sized, H: Host>(
    engine: Engine,
    key: &Key,
    memory: &M,
    host: &H,
    mut put: impl FnMut(usize, [u64; 2]),
) {
    let pages = memory.len() / PAGE;
    let mut page = 0;
    while page < pages {
        let end = pages.min(page.saturating_add(16));
        host.vector(|| {
            for page in page..end {
                let at = page.saturating_mul(PAGE);
                let piece = memory.piece(at);
                let sums = if piece.len() < PAGE {
                    in_pieces(key, memory, at, PAGE_WORDS)
                } else {
                    match engine.kind() {
                        EngineKind::Portable => portable(key, piece),
                        // SAFETY: By its invariant the engine has the instructions; there is a
                        // page.
                        EngineKind::Avx2 => unsafe { avx2::sums(key, piece) },
                        // SAFETY: By its invariant the engine has the instructions; there is a
                        // page.
                        EngineKind::Avx512 => unsafe { avx512::sums(key, piece) },
                    }
                };
                put(page, sums);
            }
        });
        // A digest is quick: it is finished.
        let _ = host.breathe();
        page = end;
    }
}

/// Returns the digest of a part of `memory`: of `words` words of eight bytes from `at` on, at most
/// those of a page. `place` is to be that of no page.
pub fn digest_part<M: Memory + ?Sized>(
    key: &Key,
    memory: &M,
    at: usize,
    words: usize,
    place: u64,
) -> u64 {
    key.mix(in_pieces(key, memory, at, words.min(PAGE_WORDS)), place)
}

impl Key {
    /// Makes the digest of a page out of its sums and its place.
    fn mix(&self, sums: [u64; 2], place: u64) -> u64 {
        let [first, second] = self.odd;
        let [low, high] = sums;
        let mixed = low
            .wrapping_add(place.wrapping_mul(first | 1))
            .wrapping_mul(second | 1)
            .rotate_left(29)
            .wrapping_add(high);
        // Not linear, so that pages which change places do not leave the sum as it is.
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(first | 1);
        (mixed ^ (mixed >> 29)).wrapping_mul(second | 1)
    }

    /// Adds a word to the sums, the one with this number in its page.
    fn add_word(&self, sums: &mut [u64; 2], number: usize, word: u64) {
        for (sum, shift) in sums.iter_mut().zip([0, SHIFT]) {
            let key = self.page.get(number.saturating_add(shift));
            *sum = sum.wrapping_add(product(word, key.copied().unwrap_or(0)));
        }
    }
}

/// Adds the halves of the key to those of a word, and multiplies the two.
fn product(word: u64, key: u64) -> u64 {
    const LOW: u64 = 0xffff_ffff;
    let low = (word & LOW).wrapping_add(key & LOW) & LOW;
    let high = (word >> 32).wrapping_add(key >> 32) & LOW;
    low.wrapping_mul(high)
}

fn portable(key: &Key, piece: Piece<'_>) -> [u64; 2] {
    let mut sums = [0; 2];
    for number in 0..PAGE_WORDS {
        let word = piece.word(number.saturating_mul(WORD)).unwrap_or(0);
        key.add_word(&mut sums, number, word);
    }
    sums
}

/// Returns the sums of the first `words` words of a page that may be in several pieces.
#[cold]
fn in_pieces<M: Memory + ?Sized>(key: &Key, memory: &M, at: usize, words: usize) -> [u64; 2] {
    let mut sums = [0; 2];
    for number in 0..words {
        let mut word = [0; WORD];
        memory.copy(at.saturating_add(number.saturating_mul(WORD)), &mut word);
        key.add_word(&mut sums, number, u64::from_le_bytes(word));
    }
    sums
}
