// SPDX-License-Identifier: GPL-2.0

//! The sums of a page with AVX-512.

use core::arch::asm;

use super::{
    Key,
    PAGE, //
};
use crate::scan::memory::Piece;

/// Returns the two sums of the first page in `piece`.
///
/// # Safety
///
/// The CPU has AVX-512 F, whose registers may be used. `piece` has a page.
pub(super) unsafe fn sums(key: &Key, piece: Piece<'_>) -> [u64; 2] {
    let mut parts = [[0_u64; 8]; 2];
    // SAFETY: By this function's contract; the key has 64 bytes more than a page; `parts` takes 64
    // bytes twice. What is fetched ahead need not be there. Nothing else is touched.
    unsafe {
        asm!(
            "vpxorq zmm0, zmm0, zmm0",
            "vpxorq zmm1, zmm1, zmm1",
            "2:",
            "prefetcht0 [{at} + 1024]",
            "vmovdqu64 zmm2, [{at}]",
            "vpaddd zmm3, zmm2, [{key}]",
            "vpaddd zmm4, zmm2, [{key} + 64]",
            "vpsrlq zmm5, zmm3, 32",
            "vpsrlq zmm6, zmm4, 32",
            "vpmuludq zmm3, zmm3, zmm5",
            "vpmuludq zmm4, zmm4, zmm6",
            "vpaddq zmm0, zmm0, zmm3",
            "vpaddq zmm1, zmm1, zmm4",
            "add {at}, 64",
            "add {key}, 64",
            "cmp {at}, {end}",
            "jb 2b",
            "vmovdqu64 [{parts}], zmm0",
            "vmovdqu64 [{parts} + 64], zmm1",
            "vzeroupper",
            at = inout(reg) piece.as_ptr() => _,
            end = in(reg) piece.as_ptr().wrapping_add(PAGE),
            key = inout(reg) key.page.as_ptr() => _,
            parts = in(reg) parts.as_mut_ptr(),
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
            out("zmm4") _, out("zmm5") _, out("zmm6") _,
            options(nostack),
        );
    }
    parts.map(|parts| parts.into_iter().fold(0, u64::wrapping_add))
}
