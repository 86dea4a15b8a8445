// SPDX-License-Identifier: GPL-2.0

//! Fingerprints: the few neighbouring bytes of a pattern that the filter looks for.
//!
//! The choice decides how often the filter stops in vain: guests are full of zeros, of text, and of
//! a few instructions. So the rarest neighbours are chosen, judged by how frequent each byte value
//! is in the memory of guests. The figures need not be exact: a bad choice costs time, never a
//! match.
//!
//! Memory can be full of a fingerprint, by chance or because a guest wants it. For that there is a
//! second choice, in another part of the pattern.

use super::pattern::Pattern;

/// The most bytes of a fingerprint.
pub(super) const MAX_WIDTH: usize = 4;

/// The number of bytes that [`frequency`] counts in. The sum of all its values is less.
pub(super) const TOTAL: u64 = 4096;

/// How many of [`TOTAL`] bytes have the value of the byte before, or of the one before that: memory
/// is full of runs and tables.
const REPEATED: u64 = 1024;

/// Returns roughly how many of [`TOTAL`] bytes of memory have the value `byte`.
pub(super) const fn frequency(byte: u8) -> u64 {
    match byte {
        0x00 => 2048,
        0xff => 128,
        // Small numbers, spaces, frequent letters, and what most x86-64 instructions begin with.
        0x01 | 0x02 | 0x04 | 0x08 | b' ' | b'e' | b't' | b'a' | 0x48 | 0x89 | 0x8b => 32,
        b'0'..=b'9' | b'a'..=b'z' | 0x0f | 0x24 | 0x4c | 0x80 | 0xe8 => 16,
        _ => 4,
    }
}

/// Returns roughly how many of [`TOTAL`] bytes of memory are `value` under `mask`.
fn share((value, mask): (u8, u8)) -> u64 {
    match mask {
        0 => TOTAL,
        0xff => frequency(value),
        _ => (0..=u8::MAX)
            .filter(|byte| byte & mask == value)
            .fold(0, |sum: u64, byte| sum.saturating_add(frequency(byte))),
    }
}

/// Returns the number of places that [`rarity`] counts in: [`TOTAL`] to the power of `size`, up to
/// [`MAX_WIDTH`].
pub(super) fn places(size: usize) -> u64 {
    (0..size).fold(1, |places: u64, _| places.saturating_mul(TOTAL))
}

/// Returns roughly at how many of [`places`] in memory the `size` bytes of `pattern` from `at` on
/// match.
pub(super) fn rarity(pattern: &Pattern, at: usize, size: usize) -> u64 {
    let byte = |index: usize| pattern.byte(index).unwrap_or((0, 0));
    (at..at.saturating_add(size)).fold(1, |product: u64, index| {
        let this = byte(index);
        let is_repeated = (1..=2).any(|back| {
            let before = index.checked_sub(back).filter(|before| *before >= at);
            before.is_some_and(|before| byte(before) == this)
        });
        let share = share(this);
        let share = if is_repeated {
            share.max(REPEATED)
        } else {
            share
        };
        product.saturating_mul(share)
    })
}

/// Returns where the best `size` neighbouring bytes of `pattern` begin, among the positions that
/// `may_be` allows: rare ones that few patterns have. If the pattern is shorter, or none is
/// allowed: 0.
fn best(
    pattern: &Pattern,
    size: usize,
    others: &impl Fn(usize) -> u64,
    may_be: impl Fn(usize) -> bool,
) -> usize {
    let last = pattern.len().saturating_sub(size);
    let places = (0..=last).filter(|at| may_be(*at));
    let best = places.fold(None, |best: Option<(u64, usize)>, at| {
        let rarity = rarity(pattern, at, size).saturating_mul(others(at).max(1));
        match best {
            Some((rarest, _)) if rarest <= rarity => best,
            _ => Some((rarity, at)),
        }
    });
    best.map_or(0, |(_, at)| at)
}

/// Returns where the fingerprint of `size` bytes begins, and where the second choice does, for
/// memory that is full of the first. `others` returns how many patterns have the bytes of this one
/// at a position.
///
/// One of the two has the pattern's last byte, so that memory full of its beginning does not have
/// both.
pub(super) fn choose(
    pattern: &Pattern,
    size: usize,
    others: impl Fn(usize) -> u64, //
) -> [usize; 2] {
    let last = pattern.len().saturating_sub(size);
    let first = best(pattern, size, &others, |_| true);
    let second = if first == last {
        best(pattern, size, &others, |at| {
            at.saturating_add(size) <= first
        })
    } else {
        last
    };
    [first, second]
}
