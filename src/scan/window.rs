// SPDX-License-Identifier: GPL-2.0

//! The part of a pattern that the filter looks for.
//!
//! The filter sees [`SIZE`] neighbouring bytes of each pattern. Which ones decides how often it
//! stops in vain: guests are full of zeros, of text, and of a few instructions. So the rarest
//! neighbours are taken, judged by how often each byte value is met in the memory of guests. The
//! figures need not be exact: a bad choice costs time, never a match.

use super::pattern::Pattern;

/// The number of neighbouring bytes that the filter sees.
pub(super) const SIZE: usize = 3;

/// The number of bytes that [`frequency`] speaks of. All its values together are less.
const TOTAL: u64 = 4096;

/// Roughly how many of `TOTAL` bytes of memory have the value `byte`.
const fn frequency(byte: u8) -> u64 {
    match byte {
        0x00 => 2048,
        0xff => 128,
        // Small numbers, spaces, frequent letters, and what most x86-64 instructions begin with.
        0x01 | 0x02 | 0x04 | 0x08 | b' ' | b'e' | b't' | b'a' | 0x48 | 0x89 | 0x8b => 32,
        b'0'..=b'9' | b'a'..=b'z' | 0x0f | 0x24 | 0x4c | 0x80 | 0xe8 => 16,
        _ => 4,
    }
}

/// Roughly how many of `TOTAL` bytes of memory are `value` under `mask`.
fn share(value: u8, mask: u8) -> u64 {
    match mask {
        0 => TOTAL,
        0xff => frequency(value),
        _ => (0..=u8::MAX)
            .filter(|byte| byte & mask == value)
            .fold(0, |sum: u64, byte| sum.saturating_add(frequency(byte))),
    }
}

/// The index of the last byte of the pattern's rarest [`SIZE`] neighbours.
///
/// The window may begin before the pattern does, over bytes that no value is asked of: so even a
/// pattern of one byte has one, and it never ends later than the pattern itself.
pub(super) fn rarest(pattern: &Pattern) -> usize {
    let mut shares = [TOTAL; SIZE];
    let mut best = (u64::MAX, 0);

    for (index, (value, mask)) in pattern.bytes().enumerate() {
        shares.rotate_left(1);
        if let Some(last) = shares.last_mut() {
            *last = share(value, mask);
        }
        let product = shares
            .iter()
            .fold(1, |product: u64, &share| product.saturating_mul(share));
        if product < best.0 {
            best = (product, index);
        }
    }
    best.1
}
