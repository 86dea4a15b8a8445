// SPDX-License-Identifier: GPL-2.0

//! Looking at places with the general registers of x86-64, in half as many instructions as a
//! compiler needs.

use core::arch::asm;

use super::Index;
use crate::scan::memory::Piece;

/// The number of places that are looked at in one turn of the inner loop.
pub(super) const GROUP: usize = 8;

/// Looks at the place at an address. Moves a bit into `places` from below: 0 if it passes.
macro_rules! look_at {
    ($at:literal) => {
        concat!(
            "mov {hash}, [",
            $at,
            "]\n",
            "and {hash}, {mask}\n",
            "imul {hash}, {multiplier}\n",
            "shr {hash}, {shift}\n",
            // Carries if it is less than 1.
            "cmp byte ptr [{passes} + {hash}], 1\n",
            "adc {places}, {places}\n",
        )
    };
}

/// Looks at places that are `stride` bytes apart, `groups` times [`GROUP`] for each of the `words`.
/// Sets the bits of those that pass, the lowest bit for the last place. `ahead` is what will be
/// looked at some time later.
///
/// # Safety
///
/// `piece` has the eight bytes at each place. A hash of `BITS` bits leads into the table. There are
/// 1 to 8 `groups`, all 8 if there is more than one word, and at least one word.
pub(super) unsafe fn look<const BITS: u32>(
    index: &Index,
    stride: usize,
    piece: Piece<'_>,
    ahead: Piece<'_>,
    words: &mut [u64],
    groups: usize,
) {
    // SAFETY: By the caller's contract the bytes can be read, and a hash of so many bits leads into
    // the table; `words` is written from its beginning to its end. What is fetched ahead need not
    // be mapped. Nothing else is touched.
    unsafe {
        asm!(
            "2:",
            "mov {group:e}, {groups:e}",
            "3:",
            "prefetcht0 [{at} + {ahead}]",
            "prefetcht0 [{at} + {ahead} + 64]",
            look_at!("{at}"),
            look_at!("{at} + {stride}"),
            look_at!("{at} + 2 * {stride}"),
            look_at!("{at} + {thrice}"),
            "lea {at}, [{at} + 4 * {stride}]",
            look_at!("{at}"),
            look_at!("{at} + {stride}"),
            look_at!("{at} + 2 * {stride}"),
            look_at!("{at} + {thrice}"),
            "lea {at}, [{at} + 4 * {stride}]",
            "dec {group:e}",
            "jnz 3b",
            "not {places}",
            "mov [{words}], {places}",
            "add {words}, 8",
            "cmp {words}, {end}",
            "jb 2b",
            at = inout(reg) piece.as_ptr() => _,
            ahead = in(reg) ahead.as_ptr().addr().wrapping_sub(piece.as_ptr().addr()),
            stride = in(reg) stride,
            thrice = in(reg) stride.wrapping_mul(3),
            mask = in(reg) index.mask,
            multiplier = in(reg) index.multiplier,
            passes = in(reg) index.passes.as_ptr(),
            group = out(reg) _,
            groups = in(reg) groups,
            words = inout(reg) words.as_mut_ptr() => _,
            end = in(reg) words.as_mut_ptr_range().end,
            hash = out(reg) _,
            // What is above the places of a word that has fewer is 0.
            places = inout(reg) u64::MAX => _,
            shift = const u64::BITS - BITS,
            options(nostack),
        );
    }
}

/// Looks at places of windows of two bytes, 64 for each of the `words`. Sets the bits of those that
/// pass, the lowest bit for the last place.
///
/// Both halves of a word are looked at side by side: one after the other, each place would have to
/// wait for the bit of the one before it.
///
/// # Safety
///
/// As above, with a hash of 16 bits.
pub(super) unsafe fn look_at_pairs(
    index: &Index,
    stride: usize,
    piece: Piece<'_>,
    ahead: Piece<'_>,
    words: &mut [u64],
) {
    macro_rules! look_at_both {
        ($more:literal) => {
            concat!(
                "movzx {hash:e}, word ptr [{at}",
                $more,
                "]\n",
                "movzx {other_hash:e}, word ptr [{other}",
                $more,
                "]\n",
                "cmp byte ptr [{passes} + {hash}], 1\n",
                "adc {places:e}, {places:e}\n",
                "cmp byte ptr [{passes} + {other_hash}], 1\n",
                "adc {other_places:e}, {other_places:e}\n",
            )
        };
    }
    // SAFETY: By the caller's contract the bytes can be read, and a pair leads into the table;
    // `words` is written from its beginning to its end. What is fetched ahead need not be mapped.
    // Nothing else is touched.
    unsafe {
        asm!(
            "2:",
            "lea {other}, [{at} + {half}]",
            "mov {group:e}, 8",
            "3:",
            "prefetcht0 [{at} + {ahead}]",
            "prefetcht0 [{other} + {ahead}]",
            look_at_both!(""),
            look_at_both!(" + {stride}"),
            look_at_both!(" + 2 * {stride}"),
            "add {at}, {stride}",
            "add {other}, {stride}",
            look_at_both!(" + 2 * {stride}"),
            "lea {at}, [{at} + 2 * {stride}]",
            "lea {other}, [{other} + 2 * {stride}]",
            "add {at}, {stride}",
            "add {other}, {stride}",
            "dec {group:e}",
            "jnz 3b",
            "mov {at}, {other}",
            "shl {places}, 32",
            "or {places}, {other_places}",
            "not {places}",
            "mov [{words}], {places}",
            "add {words}, 8",
            "cmp {words}, {end}",
            "jb 2b",
            at = inout(reg) piece.as_ptr() => _,
            other = out(reg) _,
            half = in(reg) stride.wrapping_mul(32),
            ahead = in(reg) ahead.as_ptr().addr().wrapping_sub(piece.as_ptr().addr()),
            stride = in(reg) stride,
            passes = in(reg) index.passes.as_ptr(),
            group = out(reg) _,
            words = inout(reg) words.as_mut_ptr() => _,
            end = in(reg) words.as_mut_ptr_range().end,
            hash = out(reg) _,
            other_hash = out(reg) _,
            places = out(reg) _,
            other_places = out(reg) _,
            options(nostack),
        );
    }
}
