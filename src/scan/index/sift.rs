// SPDX-License-Identifier: GPL-2.0

//! Looking at some of 64 places, those that have passed a filter, with the instructions for bits
//! that each CPU with vectors has.

use core::arch::asm;

use super::{
    Index,
    FEW_BITS,
    HASH_BITS, //
};
use crate::scan::memory::Piece;

/// Makes a function that returns those bits of `word` whose places pass. The lowest bit is that of
/// the place at the beginning of `piece`.
///
/// Four places are looked at in each turn, whether there are so many or not: how often the loop
/// turns is easier to predict.
macro_rules! sift {
    ($(#[$meta:meta])* $name:ident, $step:ident, $bits:expr) => {
        $(#[$meta])*
        ///
        /// # Safety
        ///
        /// `piece` has the eight bytes at each of 65 places. The CPU has BMI1. The table of the
        /// index is made for this step.
        #[inline]
        pub(super) unsafe fn $name(index: &Index, piece: Piece<'_>, word: u64) -> u64 {
            let mut passing = 0_u64;
            // SAFETY: By the caller's contract the bytes can be read: if no bit is left, those at
            // the 65th place. A hash of so many bits leads into the table. Nothing else is touched.
            unsafe {
                asm!(
                    "2:",
                    $step!(),
                    $step!(),
                    $step!(),
                    $step!(),
                    "test {left}, {left}",
                    "jnz 2b",
                    "# {mask} {multiplier} {word} {shift}",
                    at = in(reg) piece.as_ptr(),
                    mask = in(reg) index.mask,
                    multiplier = in(reg) index.multiplier,
                    passes = in(reg) index.passes.as_ptr(),
                    left = inout(reg) word => _,
                    bit = out(reg) _,
                    hash = out(reg) _,
                    word = out(reg) _,
                    passing = inout(reg) passing,
                    shift = const u64::BITS - $bits,
                    options(nostack, readonly),
                );
            }
            passing
        }
    };
}

macro_rules! next_place {
    () => {
        "tzcnt {word}, {left}\nblsi {bit}, {left}\nblsr {left}, {left}\n"
    };
}

/// Keeps the bit of the place if it carries.
macro_rules! keep {
    () => {
        "sbb {hash}, {hash}\nand {hash}, {bit}\nor {passing}, {hash}\n"
    };
}

macro_rules! hash_of_place {
    () => {
        concat!(
            "mov {word}, [{at} + {word}]\n",
            "and {word}, {mask}\n",
            "mov {hash}, {multiplier}\n",
            "imul {hash}, {word}\n",
            "shr {hash}, {shift}\n",
        )
    };
}

macro_rules! sift_pair_step {
    () => {
        concat!(
            next_place!(),
            "movzx {hash:e}, word ptr [{at} + {word}]\n",
            "bt dword ptr [{passes} + {hash}], 0\n",
            keep!(),
        )
    };
}

macro_rules! sift_byte_step {
    () => {
        concat!(
            next_place!(),
            hash_of_place!(),
            "bt dword ptr [{passes} + {hash}], 0\n",
            keep!(),
        )
    };
}

macro_rules! sift_bit_step {
    () => {
        concat!(
            next_place!(),
            hash_of_place!(),
            "mov {hash:e}, [{passes} + 4 * {hash}]\n",
            "bt {hash:e}, {word:e}\n",
            keep!(),
        )
    };
}

sift!(
    /// For windows of two bytes.
    pairs, sift_pair_step, FEW_BITS
);
sift!(
    /// For a few windows.
    few, sift_byte_step, FEW_BITS
);
sift!(
    /// For many windows.
    many, sift_bit_step, HASH_BITS
);

/// Returns the number of bits set.
///
/// # Safety
///
/// The CPU has POPCNT.
#[inline]
pub(super) unsafe fn count_ones(word: u64) -> u32 {
    let count: u64;
    // SAFETY: By the caller's contract. Nothing else is touched.
    unsafe {
        asm!(
            "popcnt {count}, {word}",
            word = in(reg) word,
            count = lateout(reg) count,
            options(pure, nomem, nostack),
        );
    }
    u32::try_from(count).unwrap_or(0)
}
