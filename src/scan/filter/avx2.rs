// SPDX-License-Identifier: GPL-2.0

//! The filter with AVX2, twice 32 places at once.
//!
//! `vpshufb` looks up bytes in a table of 16: one for their low halves, one for the high ones.
//! Where low halves tell apart what is looked for one table is enough, from which comes the byte
//! that it should be.

use core::arch::asm;

use crate::scan::{
    memory::Piece,
    tables::Choice, //
};

/// Looks up the 32 bytes at an offset from the current place in two tables. Leaves in `ymm0` the
/// buckets that are in both.
macro_rules! look_up {
    ($offset:literal, $low:literal, $high:literal) => {
        concat!(
            "vmovdqu ymm0, [{at} + ",
            $offset,
            "]\n",
            "vpsrlw ymm1, ymm0, 4\n",
            "vpand ymm0, ymm0, ymm7\n",
            "vpand ymm1, ymm1, ymm7\n",
            "vpshufb ymm0, ymm",
            $low,
            ", ymm0\n",
            "vpshufb ymm1, ymm",
            $high,
            ", ymm1\n",
            "vpand ymm0, ymm0, ymm1\n",
        )
    };
}

/// Looks up the bytes of 32 places by `$first` and `$more`. Leaves in a register the places that do
/// not pass.
macro_rules! places {
    ($places:literal, $first:expr, $($more:expr),+) => {
        concat!(
            $first,
            "vmovdqa ymm2, ymm0\n",
            $($more, "vpand ymm2, ymm2, ymm0\n",)+
            "vpcmpeqb ymm2, ymm2, ymm6\n",
            "vpmovmskb {", $places, ":e}, ymm2\n",
        )
    };
}

/// Compares the 32 bytes at an offset from the current place with what a table has for their low
/// halves. Leaves in `$to` whether they are equal. A byte from 0x80 on never is: `vpshufb` makes it
/// 0.
macro_rules! compare {
    ($to:literal, $offset:literal, $table:literal) => {
        concat!(
            "vmovdqu ymm0, [{at} + ",
            $offset,
            "]\n",
            "vpshufb ymm1, ymm",
            $table,
            ", ymm0\n",
            "vpcmpeqb ymm",
            $to,
            ", ymm0, ymm1\n",
        )
    };
}

/// Compares the bytes of the fingerprints at 32 places by `$first` and `$second`, with results in
/// `ymm2` and `ymm3`. Leaves in a register the places that pass.
macro_rules! equal_places {
    ($places:literal, $first:expr, $second:expr) => {
        concat!(
            $first,
            $second,
            "vpand ymm2, ymm2, ymm3\n",
            "vpmovmskb {",
            $places,
            ":e}, ymm2\n",
        )
    };
}

/// Loads two tables that say which byte is meant.
macro_rules! load_bytes {
    () => {
        "vbroadcasti128 ymm8, [{low}]
        vbroadcasti128 ymm9, [{low} + 16]"
    };
}

/// Loads all tables of halves, and what else is needed to look them up.
macro_rules! load_halves {
    () => {
        "vbroadcasti128 ymm8, [{low}]
        vbroadcasti128 ymm9, [{low} + 16]
        vbroadcasti128 ymm10, [{low} + 32]
        vbroadcasti128 ymm11, [{low} + 48]
        vbroadcasti128 ymm12, [{low} + 64]
        vbroadcasti128 ymm13, [{low} + 80]
        vbroadcasti128 ymm14, [{low} + 96]
        vbroadcasti128 ymm15, [{low} + 112]
        mov {low:e}, 0x0f0f0f0f
        vmovd xmm7, {low:e}
        vpbroadcastd ymm7, xmm7
        vpxor xmm6, xmm6, xmm6"
    };
}

/// The loop over all blocks. `$load` loads the tables, `$look` finds the places of both halves of a
/// block, and `$last` makes one word of both.
macro_rules! filter {
    (
        $tables:expr, $load:expr, $piece:expr, $ahead:expr, $words:expr, $look:expr,
        $last:literal
    ) => {{
        let count: usize;
        // SAFETY: By the caller's contract the CPU has the instructions, there are the bytes that
        // are read; `words` is written from its beginning to its end; there are the tables that are
        // loaded, 32 bytes or 128. What is fetched ahead need not be there. Nothing else is
        // touched.
        unsafe {
            asm!(
                $load,
                "2:",
                "prefetchnta [{ahead}]",
                $look,
                "shl {high}, 32",
                "or {low}, {high}",
                $last,
                "mov [{words}], {low}",
                // One more if it is not 0.
                "cmp {low}, 1",
                "sbb {count}, -1",
                "add {at}, 64",
                "add {ahead}, 64",
                "add {words}, 8",
                "cmp {words}, {end}",
                "jb 2b",
                "vzeroupper",
                low = inout(reg) $tables.as_ptr() => _,
                high = out(reg) _,
                at = inout(reg) $piece.as_ptr() => _,
                ahead = inout(reg) $ahead.as_ptr() => _,
                words = inout(reg) $words.as_mut_ptr() => _,
                end = in(reg) $words.as_mut_ptr().wrapping_add($words.len()),
                count = inout(reg) 0_usize => count,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nostack),
            );
        }
        count
    }};
}

/// The loop with lookups of halves. `$look` finds the places that do not pass.
macro_rules! filter_halves {
    ($choice:expr, $piece:expr, $ahead:expr, $words:expr, $look:expr) => {
        filter!(
            $choice.halves,
            load_halves!(),
            $piece,
            $ahead,
            $words,
            $look,
            "not {low}"
        )
    };
}

/// As [`super::blocks`].
///
/// # Safety
///
/// The CPU has AVX2, whose registers may be used. `piece` has 64 bytes for each word, and one less
/// than the size of fingerprints more. `words` is not empty.
pub(super) unsafe fn blocks(
    choice: &Choice,
    piece: Piece<'_>,
    ahead: Piece<'_>,
    words: &mut [u64],
) -> usize {
    match choice.size {
        _ if choice.is_exact => filter!(
            choice.bytes,
            load_bytes!(),
            piece,
            ahead,
            words,
            concat!(
                equal_places!("low", compare!(2, 0, 8), compare!(3, 1, 9)),
                equal_places!("high", compare!(2, 32, 8), compare!(3, 33, 9)),
            ),
            ""
        ),
        2 => filter_halves!(
            choice,
            piece,
            ahead,
            words,
            concat!(
                places!("low", look_up!(0, 8, 9), look_up!(1, 10, 11)),
                places!("high", look_up!(32, 8, 9), look_up!(33, 10, 11)),
            )
        ),
        3 => filter_halves!(
            choice,
            piece,
            ahead,
            words,
            concat!(
                places!(
                    "low",
                    look_up!(0, 8, 9),
                    look_up!(1, 10, 11),
                    look_up!(2, 12, 13)
                ),
                places!(
                    "high",
                    look_up!(32, 8, 9),
                    look_up!(33, 10, 11),
                    look_up!(34, 12, 13)
                ),
            )
        ),
        _ => filter_halves!(
            choice,
            piece,
            ahead,
            words,
            concat!(
                places!(
                    "low",
                    look_up!(0, 8, 9),
                    look_up!(1, 10, 11),
                    look_up!(2, 12, 13),
                    look_up!(3, 14, 15)
                ),
                places!(
                    "high",
                    look_up!(32, 8, 9),
                    look_up!(33, 10, 11),
                    look_up!(34, 12, 13),
                    look_up!(35, 14, 15)
                ),
            )
        ),
    }
}
