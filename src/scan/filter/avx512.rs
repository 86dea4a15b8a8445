// SPDX-License-Identifier: GPL-2.0

//! The filter with AVX-512, 64 places at once.
//!
//! `vpermi2b` looks up 64 bytes at once in a table of 128, which two registers hold; so a table of
//! 256 takes four registers, and two lookups of which the highest bit of a byte chooses one. All
//! tables stay in registers.

use core::arch::asm;

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
            ", [{word} + 256 * ",
            $table,
            "]\n",
            "vmovdqu64 zmm",
            $t1,
            ", [{word} + 256 * ",
            $table,
            " + 64]\n",
            "vmovdqu64 zmm",
            $t2,
            ", [{word} + 256 * ",
            $table,
            " + 128]\n",
            "vmovdqu64 zmm",
            $t3,
            ", [{word} + 256 * ",
            $table,
            " + 192]\n",
        )
    };
}

/// The loop over all blocks, whose places `$look` finds in `k2`.
macro_rules! filter {
    ($choice:expr, $piece:expr, $ahead:expr, $words:expr, $load:expr, $look:expr) => {{
        let count: usize;
        // SAFETY: By the caller's contract the CPU has the instructions, there are the bytes that
        // are read; `words` is written from its beginning to its end; the tables have 256 bytes
        // each. What is fetched ahead need not be there. Nothing else is touched.
        unsafe {
            asm!(
                $load,
                "2:",
                "prefetcht0 [{ahead}]",
                $look,
                "kmovq {word}, k2",
                "mov [{words}], {word}",
                // One more if it is not 0.
                "cmp {word}, 1",
                "sbb {count}, -1",
                "add {at}, 64",
                "add {ahead}, 64",
                "add {words}, 8",
                "cmp {words}, {end}",
                "jb 2b",
                "vzeroupper",
                word = inout(reg) $choice.classes.as_ptr() => _,
                at = inout(reg) $piece.as_ptr() => _,
                ahead = inout(reg) $ahead.as_ptr() => _,
                words = inout(reg) $words.as_mut_ptr() => _,
                end = in(reg) $words.as_mut_ptr().wrapping_add($words.len()),
                count = inout(reg) 0_usize => count,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                out("k1") _, out("k2") _,
                options(nostack),
            );
        }
        count
    }};
}

/// As [`super::blocks`].
///
/// # Safety
///
/// The CPU has AVX-512 F, BW and VBMI, whose registers may be used. `piece` has 64 bytes for each
/// word, and `size - 1` more. `words` is not empty.
pub(super) unsafe fn blocks(
    choice: &Choice,
    size: usize,
    piece: Piece<'_>,
    ahead: Piece<'_>,
    words: &mut [u64],
) -> usize {
    match size {
        2 => filter!(
            choice,
            piece,
            ahead,
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
            ahead,
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
            ahead,
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
