// SPDX-License-Identifier: GPL-2.0

//! The filters with AVX-512, 64 places at once.
//!
//! `vpermi2b` looks up 64 bytes at once in a table of 128, which two registers hold; so a table of
//! 256 takes four registers, and two lookups of which the highest bit of a byte chooses one. All
//! tables stay in registers.

use core::arch::asm;

use super::{
    Filter,
    Kind, //
};
use crate::scan::memory::Piece;

/// Looks up each byte of register `$to` in the table in four registers, and leaves there what it
/// has. Register 31 is overwritten.
macro_rules! look_up {
    ($to:literal, $t0:literal, $t1:literal, $t2:literal, $t3:literal) => {
        concat!(
            "vpmovb2m k1, zmm",
            $to,
            "\n",
            "vmovdqa64 zmm31, zmm",
            $to,
            "\n",
            "vpermi2b zmm",
            $to,
            ", zmm",
            $t0,
            ", zmm",
            $t1,
            "\n",
            "vpermi2b zmm31, zmm",
            $t2,
            ", zmm",
            $t3,
            "\n",
            "vmovdqu8 zmm",
            $to,
            "{{k1}}, zmm31\n",
        )
    };
}

/// Looks up the 64 bytes at an address. Leaves the buckets in register `$to`.
macro_rules! classes_of {
    ($at:expr, $to:literal, $t0:literal, $t1:literal, $t2:literal, $t3:literal) => {
        concat!(
            "vmovdqu64 zmm",
            $to,
            ", [",
            $at,
            "]\n",
            look_up!($to, $t0, $t1, $t2, $t3),
        )
    };
}

/// Loads the table of 256 bytes at an offset into four registers.
macro_rules! load {
    ($offset:literal, $t0:literal, $t1:literal, $t2:literal, $t3:literal) => {
        concat!(
            "vmovdqu64 zmm",
            $t0,
            ", [{word} + ",
            $offset,
            "]\n",
            "vmovdqu64 zmm",
            $t1,
            ", [{word} + ",
            $offset,
            " + 64]\n",
            "vmovdqu64 zmm",
            $t2,
            ", [{word} + ",
            $offset,
            " + 128]\n",
            "vmovdqu64 zmm",
            $t3,
            ", [{word} + ",
            $offset,
            " + 192]\n",
        )
    };
}

/// The loop over all blocks, whose places `$look` finds in `k2`.
macro_rules! filter {
    (
        $filter:expr, $tables:expr, $piece:expr, $ahead:expr, $words:expr,
        $marks:expr, $load:expr, $look:expr
    ) => {{
        let last: u64;
        let [_, second, third, fourth] = $filter.offsets;
        // SAFETY: By the caller's contract the CPU has the instructions, there are the bytes that
        // are read; `words` is written from its beginning to its end, and a mark for each
        // 64 of them; there are the tables that are
        // loaded. What is fetched ahead need not be there. Nothing else is touched.
        unsafe {
            asm!(
                "/* {fourth} {choose} */",
                $load,
                ".p2align 6",
                "2:",
                "prefetcht0 [{ahead}]",
                $look,
                "kmovq {word}, k2",
                "mov [{words}], {word}",
                // Moves a bit into the marks from below: 1 if it is 0. After 64 of them the 1 that
                // was there first leaves.
                "cmp {word}, 1",
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
                word = inout(reg) $tables => _,
                at = inout(reg) $piece.as_ptr() => _,
                ahead = inout(reg) $ahead.as_ptr() => _,
                words = inout(reg) $words.as_mut_ptr() => _,
                end = in(reg) $words.as_mut_ptr().wrapping_add($words.len()),
                mark = inout(reg) 1_u64 => last,
                marks = inout(reg) $marks.as_mut_ptr() => _,
                second = in(reg) second,
                third = in(reg) third,
                fourth = in(reg) fourth,
                choose = in(reg) CHOOSE.0.as_ptr(),
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
                out("zmm5") _, out("zmm6") _, out("zmm8") _, out("zmm9") _, out("zmm10") _,
                out("zmm11") _, out("zmm12") _, out("zmm13") _,
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                out("zmm14") _,
                out("k1") _, out("k2") _,
                options(nostack),
            );
        }
        last
    }};
}

/// For each value of six bits, the bit that its lowest three bits choose; and then the one that its
/// highest three bits choose.
#[repr(C, align(64))]
struct Choose([u8; 128]);

static CHOOSE: Choose = {
    let mut bits = [0; 128];
    let mut at = 0;
    while at < 64 {
        bits[at] = 1 << (at & 7);
        bits[at + 64] = 1 << (at >> 3);
        at += 1;
    }
    Choose(bits)
};

/// Loads the matrices of [`Joint`](super::joint::Joint), and which bits to choose.
macro_rules! load_joint {
    () => {
        "vpbroadcastq zmm8, [{word}]
        vpbroadcastq zmm9, [{word} + 8]
        vpbroadcastq zmm10, [{word} + 16]
        vpbroadcastq zmm11, [{word} + 24]
        vmovdqa64 zmm12, [{choose}]
        vmovdqa64 zmm13, [{choose} + 64]\n"
    };
}

/// Makes both hashes of all places in registers 0 and 2, their sum in 3, and the bits that they
/// choose in 5 and 6.
macro_rules! hash {
    () => {
        "vmovdqu64 zmm0, [{at}]
        vmovdqu64 zmm1, [{at} + {second}]
        vmovdqu64 zmm2, [{at} + {third}]
        vmovdqu64 zmm3, [{at} + {fourth}]
        vgf2p8affineqb zmm0, zmm0, zmm8, 0
        vgf2p8affineqb zmm1, zmm1, zmm9, 0
        vgf2p8affineqb zmm2, zmm2, zmm10, 0
        vgf2p8affineqb zmm3, zmm3, zmm11, 0
        vpxorq zmm0, zmm0, zmm1
        vpxorq zmm2, zmm2, zmm3
        vpxorq zmm3, zmm0, zmm2
        vpermb zmm5, zmm2, zmm12
        vpermb zmm6, zmm0, zmm13\n"
    };
}

/// Tests the bits that the three hashes choose in what the tables have.
macro_rules! test {
    () => {
        "vptestmb k1, zmm0, zmm5
        vptestmb k2{{k1}}, zmm2, zmm6
        vptestmb k2{{k2}}, zmm3, zmm6"
    };
}

/// As [`Filter::blocks`].
///
/// # Safety
///
/// The CPU has AVX-512 F, BW and VBMI, and GFNI, whose registers may be used. `piece` has 64 bytes
/// for each word, and [`super::REACH`] more. `words` is not empty. `marks` has a bit
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
    match filter.kind {
        Kind::ThreeClasses => filter!(
            filter,
            filter.classes.whole.as_ptr(),
            piece,
            ahead,
            words,
            marks,
            concat!(
                load!(0, 16, 17, 18, 19),
                load!(256, 20, 21, 22, 23),
                load!(512, 24, 25, 26, 27),
            ),
            concat!(
                classes_of!("{at}", 0, 16, 17, 18, 19),
                classes_of!("{at} + {second}", 1, 20, 21, 22, 23),
                "vpandq zmm0, zmm0, zmm1\n",
                classes_of!("{at} + {third}", 2, 24, 25, 26, 27),
                "vptestmb k2, zmm0, zmm2",
            )
        ),
        Kind::FourClasses => filter!(
            filter,
            filter.classes.whole.as_ptr(),
            piece,
            ahead,
            words,
            marks,
            concat!(
                load!(0, 16, 17, 18, 19),
                load!(256, 20, 21, 22, 23),
                load!(512, 24, 25, 26, 27),
                load!(768, 28, 29, 30, 14),
            ),
            concat!(
                classes_of!("{at}", 0, 16, 17, 18, 19),
                classes_of!("{at} + {second}", 1, 20, 21, 22, 23),
                classes_of!("{at} + {third}", 2, 24, 25, 26, 27),
                "vpternlogq zmm0, zmm1, zmm2, 0x80\n",
                classes_of!("{at} + {fourth}", 3, 28, 29, 30, 14),
                "vptestmb k2, zmm0, zmm3",
            )
        ),
        Kind::Joint => filter!(
            filter,
            (&raw const filter.joint),
            piece,
            ahead,
            words,
            marks,
            concat!(
                load_joint!(),
                "vmovdqu64 zmm16, [{word} + 32]
                vmovdqu64 zmm17, [{word} + 96]
                vmovdqu64 zmm18, [{word} + 288]
                vmovdqu64 zmm19, [{word} + 352]
                vmovdqu64 zmm20, [{word} + 544]
                vmovdqu64 zmm21, [{word} + 608]",
            ),
            concat!(
                hash!(),
                "vpermi2b zmm0, zmm16, zmm17
                vpermi2b zmm2, zmm18, zmm19
                vpermi2b zmm3, zmm20, zmm21\n",
                test!(),
            )
        ),
        Kind::WideJoint => filter!(
            filter,
            (&raw const filter.joint),
            piece,
            ahead,
            words,
            marks,
            concat!(
                load_joint!(),
                load!(32, 16, 17, 18, 19),
                load!(288, 20, 21, 22, 23),
                load!(544, 24, 25, 26, 27),
            ),
            concat!(
                hash!(),
                look_up!(0, 16, 17, 18, 19),
                look_up!(2, 20, 21, 22, 23),
                look_up!(3, 24, 25, 26, 27),
                test!(),
            )
        ),
        _ => u64::MAX,
    }
}
