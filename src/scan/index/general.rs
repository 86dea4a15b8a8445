// SPDX-License-Identifier: GPL-2.0

//! Looking at places with the general registers of x86-64, in half as many instructions as a
//! compiler needs.

use core::arch::asm;

use super::{
    Index,
    FEW_BITS,
    HASH_BITS, //
};
use crate::scan::memory::Piece;

/// The number of places that are looked at in one turn of the inner loop.
pub(super) const GROUP: usize = 8;

/// Makes a function that looks at places that are `stride` bytes apart, `groups` times [`GROUP`]
/// for each of the `words`. It sets the bits of those that pass, the lowest bit for the last place.
/// `ahead` is what will be looked at some time later.
///
/// Both halves of a word are looked at side by side: one after the other, each place would have to
/// wait for the bit of the one before it. Where all bytes are equal one look does for all places;
/// the function returns how many it passes by so.
///
/// `$step` looks at the place at an address, and moves a bit into a register from below. A hash of
/// so many `$bits` leads into its table.
macro_rules! look {
    ($(#[$meta:meta])* $name:ident, $step:ident, $bits:expr) => {
        $(#[$meta])*
        ///
        /// # Safety
        ///
        /// `piece` has the eight bytes at each place. There are 1 to 8 `groups`. The table of the
        /// index is made for this step.
        pub(super) unsafe fn $name(
            index: &Index,
            stride: usize,
            piece: Piece<'_>,
            ahead: Piece<'_>,
            words: &mut [u64],
            groups: usize,
        ) -> usize {
            let half = groups.wrapping_mul(GROUP / 2);
            let stretch = half.wrapping_mul(2).wrapping_mul(stride);
            let reach = stretch.wrapping_sub(stride).wrapping_add(size_of::<u64>());
            let mut at = piece.as_ptr();
            let mut passed_by = 0_usize;
            for (number, word) in words.iter_mut().enumerate() {
                let here = number.wrapping_mul(stretch);
                if index.is_run(piece.after(here).up_to(reach), ahead.after(here)) {
                    *word = 0;
                    at = at.wrapping_add(stretch);
                    passed_by = passed_by.wrapping_add(half.wrapping_mul(2));
                    continue;
                }
                let (first_places, second_places): (u64, u64);
                let second_at = at.wrapping_add(half.wrapping_mul(stride));
                // SAFETY: By the caller's contract the bytes can be read, and a hash of so many
                // bits leads into the table. What is fetched ahead need not be mapped. Nothing else
                // is touched.
                unsafe {
                    asm!(
                        "2:",
                        "prefetcht0 [{first} + {ahead}]",
                        "prefetcht0 [{second} + {ahead}]",
                        $step!("{first}", "{first_places}"),
                        $step!("{second}", "{second_places}"),
                        $step!("{first} + {stride}", "{first_places}"),
                        $step!("{second} + {stride}", "{second_places}"),
                        "lea {first}, [{first} + 2 * {stride}]",
                        "lea {second}, [{second} + 2 * {stride}]",
                        $step!("{first}", "{first_places}"),
                        $step!("{second}", "{second_places}"),
                        $step!("{first} + {stride}", "{first_places}"),
                        $step!("{second} + {stride}", "{second_places}"),
                        "lea {first}, [{first} + 2 * {stride}]",
                        "lea {second}, [{second} + 2 * {stride}]",
                        "dec {group:e}",
                        "jnz 2b",
                        "# {mask} {multiplier} {word} {shift}",
                        first = inout(reg) at => _,
                        second = inout(reg) second_at => at,
                        ahead = in(reg) ahead.as_ptr().addr().wrapping_sub(piece.as_ptr().addr()),
                        stride = in(reg) stride,
                        mask = in(reg) index.mask,
                        multiplier = in(reg) index.multiplier,
                        passes = in(reg) index.passes.as_ptr(),
                        group = inout(reg) groups => _,
                        hash = out(reg) _,
                        word = out(reg) _,
                        first_places = inout(reg) 0_u64 => first_places,
                        second_places = inout(reg) 0_u64 => second_places,
                        shift = const u64::BITS - $bits,
                        options(nostack, readonly),
                    );
                }
                *word = (first_places << half) | second_places;
            }
            passed_by
        }
    };
}

/// Looks at a byte of the table.
macro_rules! byte {
    ($places:literal) => {
        concat!(
            "movzx {hash:e}, byte ptr [{passes} + {hash}]\n",
            "lea ",
            $places,
            ", [{hash} + 2 * ",
            $places,
            "]\n",
        )
    };
}

/// Looks at a bit of the table: the hash leads to four bytes, and the lowest bits of the word say
/// which bit of them.
macro_rules! bit {
    ($places:literal) => {
        concat!(
            "mov {hash:e}, [{passes} + 4 * {hash}]\n",
            "bt {hash:e}, {word:e}\n",
            "adc ",
            $places,
            ", ",
            $places,
            "\n",
        )
    };
}

macro_rules! read {
    ($at:literal) => {
        concat!("mov {word}, [", $at, "]\n")
    };
}

macro_rules! read_masked {
    ($at:literal) => {
        concat!(read!($at), "and {word}, {mask}\n")
    };
}

macro_rules! hash {
    () => {
        "mov {hash}, {multiplier}\nimul {hash}, {word}\nshr {hash}, {shift}\n"
    };
}

macro_rules! pair_step {
    ($at:literal, $places:literal) => {
        concat!("movzx {hash:e}, word ptr [", $at, "]\n", byte!($places))
    };
}

macro_rules! byte_step {
    ($at:literal, $places:literal) => {
        concat!(
            "mov {hash}, [",
            $at,
            "]\n",
            "imul {hash}, {multiplier}\nshr {hash}, {shift}\n",
            byte!($places),
        )
    };
}

macro_rules! masked_byte_step {
    ($at:literal, $places:literal) => {
        concat!(
            "mov {hash}, [",
            $at,
            "]\n",
            "and {hash}, {mask}\n",
            "imul {hash}, {multiplier}\nshr {hash}, {shift}\n",
            byte!($places),
        )
    };
}

macro_rules! bit_step {
    ($at:literal, $places:literal) => {
        concat!(read!($at), hash!(), bit!($places))
    };
}

macro_rules! masked_bit_step {
    ($at:literal, $places:literal) => {
        concat!(read_masked!($at), hash!(), bit!($places))
    };
}

look!(
    /// For windows of two bytes, which lead to a byte without a hash.
    look_at_pairs, pair_step, FEW_BITS
);
look!(
    /// For a few windows of the lowest bytes of a word.
    look_for_few, byte_step, FEW_BITS
);
look!(
    /// For a few windows of any bits.
    look_for_few_masked, masked_byte_step, FEW_BITS
);
look!(
    /// For many windows of the lowest bytes of a word.
    look_for_many, bit_step, HASH_BITS
);
look!(
    /// For many windows of any bits.
    look_for_many_masked, masked_bit_step, HASH_BITS
);

/// How many bytes are compared at once by [`is_filled`].
pub(super) const LINE: usize = 64;

/// Returns whether all bytes of a piece are those of `word`. `ahead` is what will be looked at some
/// time later.
///
/// # Safety
///
/// The piece has at least [`LINE`] bytes.
pub(super) unsafe fn is_filled(piece: Piece<'_>, ahead: Piece<'_>, word: u64) -> bool {
    let is_other: u8;
    let last = piece.as_ptr().wrapping_add(piece.len().wrapping_sub(LINE));
    // SAFETY: By the caller's contract the last bytes are within the piece, and so are those before
    // them. What is fetched ahead need not be mapped. Nothing else is touched.
    unsafe {
        asm!(
            "2:",
            "prefetcht0 [{at} + {ahead}]",
            "cmp {word}, [{at}]",
            "jne 3f",
            "cmp {word}, [{at} + 8]",
            "jne 3f",
            "cmp {word}, [{at} + 16]",
            "jne 3f",
            "cmp {word}, [{at} + 24]",
            "jne 3f",
            "cmp {word}, [{at} + 32]",
            "jne 3f",
            "cmp {word}, [{at} + 40]",
            "jne 3f",
            "cmp {word}, [{at} + 48]",
            "jne 3f",
            "cmp {word}, [{at} + 56]",
            "jne 3f",
            "cmp {at}, {last}",
            // Which is equal.
            "je 3f",
            "add {at}, 64",
            "cmp {at}, {last}",
            "cmova {at}, {last}",
            "jmp 2b",
            "3:",
            "setne {is_other}",
            at = inout(reg) piece.as_ptr() => _,
            ahead = in(reg) ahead.as_ptr().addr().wrapping_sub(piece.as_ptr().addr()),
            last = in(reg) last,
            word = in(reg) word,
            is_other = lateout(reg_byte) is_other,
            options(nostack, readonly),
        );
    }
    is_other == 0
}
