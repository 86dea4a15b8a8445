// SPDX-License-Identifier: GPL-2.0

//! The filter with AVX-512, 64 places at once.
//!
//! `vpermi2b` looks up 64 bytes at once in a table of 128, which two registers hold; so a table of
//! 256 takes four registers, and two lookups of which the highest bit of a byte chooses one. All tables
//! stay in registers.

use core::arch::asm;

use super::AHEAD;
use crate::scan::{
    memory::Piece,
    tables::Choice, //
};

/// Looks up the 64 bytes at an offset from the current place in the table in four registers.
/// Leaves the buckets in register `$to`.
macro_rules! look_up {
    ($offset:literal, $to:literal, $t0:literal, $t1:literal, $t2:literal, $t3:literal) => {
        concat!(
            "vmovdqu64 zmm",
            $to,
            ", [{at} + ",
            $offset,
            "]\n",
            "vpmovb2m k1, zmm",
            $to,
            "\n",
            "vmovdqa64 zmm4, zmm",
            $to,
            "\n",
            "vpermi2b zmm",
            $to,
            ", zmm",
            $t0,
            ", zmm",
            $t1,
            "\n",
            "vpermi2b zmm4, zmm",
            $t2,
            ", zmm",
            $t3,
            "\n",
            "vmovdqu8 zmm",
            $to,
            "{{k1}}, zmm4\n",
        )
    };
}

/// Loads a table into four registers.
macro_rules! load {
    ($table:literal, $t0:literal, $t1:literal, $t2:literal, $t3:literal) => {
        concat!(
            "vmovdqu64 zmm",
            $t0,
            ", [{tables} + 256 * ",
            $table,
            "]\n",
            "vmovdqu64 zmm",
            $t1,
            ", [{tables} + 256 * ",
            $table,
            " + 64]\n",
            "vmovdqu64 zmm",
            $t2,
            ", [{tables} + 256 * ",
            $table,
            " + 128]\n",
            "vmovdqu64 zmm",
            $t3,
            ", [{tables} + 256 * ",
            $table,
            " + 192]\n",
        )
    };
}

/// The loop over all words, whose places `$look` finds in `k2`.
macro_rules! filter {
    ($choice:expr, $piece:expr, $words:expr, $load:expr, $look:expr) => {{
        let all: u64;
        let size = $words.len().wrapping_mul(8);
        // SAFETY: By the caller's contract the CPU has the instructions, and there are the bytes that
        // are read; the tables have 256 bytes each; `words` is written from its beginning to its end.
        // What is fetched ahead need not be there. Nothing else is touched.
        unsafe {
            asm!(
                $load,
                "2:",
                // The last byte of the piece is the last to be fetched.
                "lea {ahead}, [{at} + {distance}]",
                "cmp {ahead}, {last}",
                "cmova {ahead}, {last}",
                "prefetcht0 [{ahead}]",
                $look,
                "kmovq {word}, k2",
                "mov [{words}], {word}",
                "or {all}, {word}",
                "add {at}, 64",
                "add {words}, 8",
                "cmp {words}, {end}",
                "jb 2b",
                "vzeroupper",
                distance = const AHEAD,
                tables = in(reg) $choice.classes.as_ptr(),
                at = inout(reg) $piece.as_ptr() => _,
                last = in(reg) $piece.as_ptr().wrapping_add($piece.len().saturating_sub(1)),
                words = inout(reg) $words.as_mut_ptr() => _,
                end = in(reg) $words.as_mut_ptr().wrapping_byte_add(size),
                all = inout(reg) 0_u64 => all,
                word = out(reg) _,
                ahead = out(reg) _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                out("k1") _, out("k2") _,
                options(nostack),
            );
        }
        all
    }};
}

/// As [`super::words`].
///
/// # Safety
///
/// The CPU has AVX-512 F, BW and VBMI, whose registers may be used. `piece` has 64 bytes for each
/// word, and `size - 1` more. `words` is not empty.
pub(super) unsafe fn words(
    choice: &Choice,
    size: usize,
    piece: Piece<'_>,
    words: &mut [u64],
) -> u64 {
    match size {
        2 => filter!(
            choice,
            piece,
            words,
            concat!(load!(0, 16, 17, 18, 19), load!(1, 20, 21, 22, 23)),
            concat!(
                look_up!(0, 0, 16, 17, 18, 19),
                look_up!(1, 1, 20, 21, 22, 23),
                "vptestmb k2, zmm0, zmm1",
            )
        ),
        3 => filter!(
            choice,
            piece,
            words,
            concat!(
                load!(0, 16, 17, 18, 19),
                load!(1, 20, 21, 22, 23),
                load!(2, 24, 25, 26, 27),
            ),
            concat!(
                look_up!(0, 0, 16, 17, 18, 19),
                look_up!(1, 1, 20, 21, 22, 23),
                "vpandq zmm0, zmm0, zmm1\n",
                look_up!(2, 2, 24, 25, 26, 27),
                "vptestmb k2, zmm0, zmm2",
            )
        ),
        _ => filter!(
            choice,
            piece,
            words,
            concat!(
                load!(0, 16, 17, 18, 19),
                load!(1, 20, 21, 22, 23),
                load!(2, 24, 25, 26, 27),
                load!(3, 28, 29, 30, 31),
            ),
            concat!(
                look_up!(0, 0, 16, 17, 18, 19),
                look_up!(1, 1, 20, 21, 22, 23),
                look_up!(2, 2, 24, 25, 26, 27),
                "vpternlogq zmm0, zmm1, zmm2, 0x80\n",
                look_up!(3, 3, 28, 29, 30, 31),
                "vptestmb k2, zmm0, zmm3",
            )
        ),
    }
}
