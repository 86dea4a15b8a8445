// SPDX-License-Identifier: GPL-2.0

//! Looking at places with the general registers of x86-64, in half as many instructions as a
//! compiler needs.

use core::arch::asm;

use super::{
    Samples,
    CASES, //
};
use crate::scan::memory::Piece;

/// The number of places that are looked at in one turn of the inner loop.
pub(super) const GROUP: usize = 8;

/// Looks at the place at an address. Moves a bit into `places` from below: 0 if it passes.
macro_rules! look_at {
    ($fold:literal, $at:literal) => {
        concat!(
            "mov {hash}, [",
            $at,
            "]\n",
            $fold,
            "imul {hash}, {multiplier}\n",
            "shr {hash}, {shift}\n",
            // Carries if it is less than 1.
            "cmp byte ptr [{passes} + {hash}], 1\n",
            "adc {places}, {places}\n",
        )
    };
}

/// The loop over all words.
macro_rules! look {
    (
        $fold:literal, $samples:expr, $piece:expr, $ahead:expr, $words:expr, $groups:expr
        $(, $name:ident = $more:expr)?
    ) => {
        // SAFETY: By the caller's contract the bytes can be read, and a hash of so many bits leads
        // into the table; `words` is written from its beginning to its end. What is fetched ahead
        // need not be mapped. Nothing else is touched.
        unsafe {
            asm!(
                "2:",
                "mov {group:e}, {groups:e}",
                "3:",
                "prefetcht0 [{at} + {ahead}]",
                "prefetcht0 [{at} + {ahead} + 64]",
                look_at!($fold, "{at}"),
                look_at!($fold, "{at} + {stride}"),
                look_at!($fold, "{at} + 2 * {stride}"),
                look_at!($fold, "{at} + {thrice}"),
                "lea {at}, [{at} + 4 * {stride}]",
                look_at!($fold, "{at}"),
                look_at!($fold, "{at} + {stride}"),
                look_at!($fold, "{at} + 2 * {stride}"),
                look_at!($fold, "{at} + {thrice}"),
                "lea {at}, [{at} + 4 * {stride}]",
                "dec {group:e}",
                "jnz 3b",
                "not {places}",
                "mov [{words}], {places}",
                "add {words}, 8",
                "cmp {words}, {end}",
                "jb 2b",
                at = inout(reg) $piece.as_ptr() => _,
                ahead = in(reg) $ahead.as_ptr().addr().wrapping_sub($piece.as_ptr().addr()),
                stride = in(reg) $samples.stride,
                thrice = in(reg) $samples.stride.wrapping_mul(3),
                multiplier = in(reg) $samples.multiplier,
                passes = in(reg) $samples.passes.as_ptr(),
                group = out(reg) _,
                groups = in(reg) $groups,
                words = inout(reg) $words.as_mut_ptr() => _,
                end = in(reg) $words.as_mut_ptr_range().end,
                hash = out(reg) _,
                // What is above the places of a word that has fewer is 0.
                places = inout(reg) u64::MAX => _,
                shift = const u64::BITS - BITS,
                $($name = in(reg) $more,)?
                options(nostack),
            );
        }
    };
}

/// Looks at places, `groups` times [`GROUP`] for each of the `words`. Sets the bits of those that
/// pass, the lowest bit for the last place. `ahead` is what will be looked at some time later.
///
/// # Safety
///
/// `piece` has the eight bytes at each place. A hash of `BITS` bits leads into the table. There are
/// 1 to 8 `groups`, all 8 if there is more than one word, and at least one word.
pub(super) unsafe fn look<const BITS: u32, const FOLD: bool>(
    samples: &Samples,
    piece: Piece<'_>,
    ahead: Piece<'_>,
    words: &mut [u64],
    groups: usize,
) {
    if FOLD {
        look!(
            "or {hash}, {cases}\n",
            samples,
            piece,
            ahead,
            words,
            groups,
            cases = CASES
        );
    } else {
        look!("", samples, piece, ahead, words, groups);
    }
}
