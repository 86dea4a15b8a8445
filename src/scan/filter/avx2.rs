// SPDX-License-Identifier: GPL-2.0

//! The filters with AVX2, twice 32 places at once.
//!
//! `vpshufb` looks up bytes in a table of 16.

use core::arch::asm;

use super::{
    Filter,
    Kind, //
};
use crate::scan::memory::Piece;

/// Looks up the 32 bytes at an address in two tables, for their low and their high halves. Leaves
/// in `ymm0` the buckets that are in both.
macro_rules! look_up {
    ($at:expr, $low:literal, $high:literal) => {
        concat!(
            "vmovdqu ymm0, [",
            $at,
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

/// Compares those bits of the 32 bytes at an address that count with what a table has for their
/// low halves. Leaves in `$to` whether they are equal.
macro_rules! compare {
    ($to:literal, $at:expr, $mask:literal, $table:literal) => {
        concat!(
            "vpand ymm0, ymm",
            $mask,
            ", [",
            $at,
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

/// The same with two tables: either may be equal.
macro_rules! compare_two {
    ($to:literal, $at:expr, $mask:literal, $table:literal, $other:literal) => {
        concat!(
            compare!($to, $at, $mask, $table),
            "vpshufb ymm1, ymm",
            $other,
            ", ymm0\n",
            "vpcmpeqb ymm0, ymm0, ymm1\n",
            "vpor ymm",
            $to,
            ", ymm",
            $to,
            ", ymm0\n",
        )
    };
}

/// The loop over all blocks. `$load` loads the tables, and `$look` finds the places of both halves
/// of a block.
macro_rules! filter {
    (
        $filter:expr, $tables:expr, $load:expr, $piece:expr, $ahead:expr, $words:expr,
        $marks:expr, $look:expr
    ) => {{
        let last: u64;
        let [_, second, third, fourth] = $filter.offsets;
        // SAFETY: By the caller's contract the CPU has the instructions, there are the bytes that
        // are read; `words` is written from its beginning to its end, and a mark for each
        // 64 of them; there are the tables that are
        // loaded, 68 bytes or 128. What is fetched ahead need not be there. Nothing else is
        // touched.
        unsafe {
            asm!(
                "/* {third} {fourth} */",
                $load,
                ".p2align 5",
                "2:",
                "prefetcht0 [{ahead}]",
                $look,
                "mov [{words}], {low}",
                // Moves a bit into the marks from below: 1 if it is 0. After 64 of them the 1 that
                // was there first leaves.
                "cmp {low}, 1",
                "adc {mark}, {mark}",
                "jc 5f",
                "4:",
                "add {at}, 64",
                "add {ahead}, 64",
                "add {words}, 8",
                "cmp {words}, {end}",
                "jb 2b",
                "jmp 6f",
                "5:",
                "not {mark}",
                "mov [{marks}], {mark}",
                "add {marks}, 8",
                "mov {mark:e}, 1",
                "jmp 4b",
                "6:",
                "vzeroupper",
                low = inout(reg) $tables => _,
                high = out(reg) _,
                at = inout(reg) $piece.as_ptr() => _,
                ahead = inout(reg) $ahead.as_ptr() => _,
                words = inout(reg) $words.as_mut_ptr() => _,
                end = in(reg) $words.as_mut_ptr().wrapping_add($words.len()),
                mark = inout(reg) 1_u64 => last,
                marks = inout(reg) $marks.as_mut_ptr() => _,
                second = in(reg) second,
                third = in(reg) third,
                fourth = in(reg) fourth,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nostack),
            );
        }
        last
    }};
}

/// Makes one word of two halves.
macro_rules! join {
    () => {
        "shl {high}, 32\n or {low}, {high}\n"
    };
}

/// The loop with a comparison of few bytes.
macro_rules! filter_exact {
    ($filter:expr, $piece:expr, $ahead:expr, $words:expr, $marks:expr, $look:expr) => {
        filter!(
            $filter,
            (&raw const $filter.exact),
            "vbroadcasti128 ymm8, [{low}]
            vbroadcasti128 ymm9, [{low} + 16]
            vbroadcasti128 ymm10, [{low} + 32]
            vbroadcasti128 ymm11, [{low} + 48]
            vpbroadcastb ymm12, [{low} + 64]
            vpbroadcastb ymm13, [{low} + 65]
            vpbroadcastb ymm14, [{low} + 66]",
            $piece,
            $ahead,
            $words,
            $marks,
            concat!($look, join!())
        )
    };
}

/// The loop with lookups of halves. `$look` finds the places that do not pass.
macro_rules! filter_halves {
    ($filter:expr, $piece:expr, $ahead:expr, $words:expr, $marks:expr, $first:expr, $look:expr) => {
        filter!(
            $filter,
            $filter.classes.halves.as_ptr(),
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
            vpxor xmm6, xmm6, xmm6",
            $piece,
            $ahead,
            $words,
            $marks,
            concat!($first, $look, join!(), "not {low}\n 3:")
        )
    };
}

/// Skips a block of zeros.
macro_rules! skip_zeros {
    () => {
        "vmovdqu ymm0, [{at}]
        vpor ymm0, ymm0, [{at} + 32]
        xor {low:e}, {low:e}
        vptest ymm0, ymm0
        jz 3f\n"
    };
}

/// Finds the places of both halves of a block by two bytes.
macro_rules! two {
    () => {
        concat!(
            places!(
                "low",
                look_up!("{at}", 8, 9),
                look_up!("{at} + {second}", 10, 11)
            ),
            places!(
                "high",
                look_up!("{at} + 32", 8, 9),
                look_up!("{at} + {second} + 32", 10, 11)
            ),
        )
    };
}

/// The same by three bytes.
macro_rules! three {
    () => {
        concat!(
            places!(
                "low",
                look_up!("{at}", 8, 9),
                look_up!("{at} + {second}", 10, 11),
                look_up!("{at} + {third}", 12, 13)
            ),
            places!(
                "high",
                look_up!("{at} + 32", 8, 9),
                look_up!("{at} + {second} + 32", 10, 11),
                look_up!("{at} + {third} + 32", 12, 13)
            ),
        )
    };
}

/// The same by four.
macro_rules! four {
    () => {
        concat!(
            places!(
                "low",
                look_up!("{at}", 8, 9),
                look_up!("{at} + {second}", 10, 11),
                look_up!("{at} + {third}", 12, 13),
                look_up!("{at} + {fourth}", 14, 15)
            ),
            places!(
                "high",
                look_up!("{at} + 32", 8, 9),
                look_up!("{at} + {second} + 32", 10, 11),
                look_up!("{at} + {third} + 32", 12, 13),
                look_up!("{at} + {fourth} + 32", 14, 15)
            ),
        )
    };
}

/// Finds 32 places where three bytes are equal.
macro_rules! three_exact {
    ($places:literal, $more:literal) => {
        concat!(
            compare!(2, concat!("{at}", $more), 12, 8),
            compare!(3, concat!("{at} + {second}", $more), 13, 9),
            compare!(4, concat!("{at} + {third}", $more), 14, 10),
            "vpand ymm2, ymm2, ymm3\n",
            "vpand ymm2, ymm2, ymm4\n",
            "vpmovmskb {",
            $places,
            ":e}, ymm2\n",
        )
    };
}

/// Finds 32 places where two bytes are equal.
macro_rules! two_exact {
    ($places:literal, $more:literal) => {
        concat!(
            compare_two!(2, concat!("{at}", $more), 12, 8, 9),
            compare_two!(3, concat!("{at} + {second}", $more), 13, 10, 11),
            "vpand ymm2, ymm2, ymm3\n",
            "vpmovmskb {",
            $places,
            ":e}, ymm2\n",
        )
    };
}

/// As [`Filter::blocks`].
///
/// # Safety
///
/// The CPU has AVX2, whose registers may be used. `piece` has 64 bytes for each word, and
/// [`super::REACH`] more. `words` is not empty. `marks` has a bit
/// for each of them.
///
/// Returns the marks of the last words, fewer than 64, each 0 if its word is not, below a 1.
pub(super) unsafe fn blocks(
    filter: &Filter,
    piece: Piece<'_>,
    ahead: Piece<'_>,
    words: &mut [u64],
    marks: &mut [u64],
) -> u64 {
    match (filter.kind, filter.skips_zeros) {
        (Kind::ThreeExact, _) => filter_exact!(
            filter,
            piece,
            ahead,
            words,
            marks,
            concat!(three_exact!("low", ""), three_exact!("high", " + 32"))
        ),
        (Kind::TwoExact, _) => filter_exact!(
            filter,
            piece,
            ahead,
            words,
            marks,
            concat!(two_exact!("low", ""), two_exact!("high", " + 32"))
        ),
        (Kind::TwoClasses, true) => {
            filter_halves!(filter, piece, ahead, words, marks, skip_zeros!(), two!())
        }
        (Kind::TwoClasses, false) => {
            filter_halves!(filter, piece, ahead, words, marks, "", two!())
        }
        (Kind::ThreeClasses, true) => {
            filter_halves!(filter, piece, ahead, words, marks, skip_zeros!(), three!())
        }
        (Kind::ThreeClasses, false) => {
            filter_halves!(filter, piece, ahead, words, marks, "", three!())
        }
        (Kind::FourClasses, true) => {
            filter_halves!(filter, piece, ahead, words, marks, skip_zeros!(), four!())
        }
        (Kind::FourClasses, false) => {
            filter_halves!(filter, piece, ahead, words, marks, "", four!())
        }
        _ => u64::MAX,
    }
}
