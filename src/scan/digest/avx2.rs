// SPDX-License-Identifier: GPL-2.0

//! The sums of a page with AVX2.

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
/// The CPU has AVX2, whose registers may be used. `piece` has a page.
pub(super) unsafe fn sums(key: &Key, piece: Piece<'_>) -> [u64; 2] {
    let mut parts = [[0_u64; 4]; 2];
    // SAFETY: By this function's contract; the key has 64 bytes more than a page; `parts` takes 32
    // bytes twice. What is fetched ahead need not be there. Nothing else is touched.
    unsafe {
        asm!(
            "vpxor xmm0, xmm0, xmm0",
            "vpxor xmm1, xmm1, xmm1",
            "2:",
            "prefetcht0 [{at} + 1024]",
            "vmovdqu ymm2, [{at}]",
            "vpaddd ymm3, ymm2, [{key}]",
            "vpaddd ymm4, ymm2, [{key} + 64]",
            "vpsrlq ymm5, ymm3, 32",
            "vpsrlq ymm6, ymm4, 32",
            "vpmuludq ymm3, ymm3, ymm5",
            "vpmuludq ymm4, ymm4, ymm6",
            "vpaddq ymm0, ymm0, ymm3",
            "vpaddq ymm1, ymm1, ymm4",
            "add {at}, 32",
            "add {key}, 32",
            "cmp {at}, {end}",
            "jb 2b",
            "vmovdqu [{parts}], ymm0",
            "vmovdqu [{parts} + 32], ymm1",
            "vzeroupper",
            at = inout(reg) piece.as_ptr() => _,
            end = in(reg) piece.as_ptr().wrapping_add(PAGE),
            key = inout(reg) key.page.as_ptr() => _,
            parts = in(reg) parts.as_mut_ptr(),
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("ymm4") _, out("ymm5") _, out("ymm6") _,
            options(nostack),
        );
    }
    parts.map(|parts| parts.into_iter().fold(0, u64::wrapping_add))
}
