// SPDX-License-Identifier: GPL-2.0

//! The speed at which this machine reads memory.

use std::arch::asm;

/// Reads all of it, and does next to nothing with it.
pub(crate) fn sum(memory: &[u8], has_avx512: bool, fetch: bool) -> u64 {
    let size = memory.len() - memory.len() % 256;
    let mut sum = 0_u64;
    if size == 0 {
        return sum;
    }
    // Each in a loop of its own, so that none has instructions of the other.
    macro_rules! sum {
        ($fetch:literal, $($line:literal),+) => {
            // SAFETY: The CPU has the instructions. Only `memory` is read; prefetched addresses
            // need not be mapped.
            unsafe {
                asm!(
                    "2:",
                    $fetch,
                    $($line,)+
                    "add {at}, 256",
                    "cmp {at}, {end}",
                    "jb 2b",
                    "vmovq {sum}, xmm0",
                    "vzeroupper",
                    at = inout(reg) memory.as_ptr() => _,
                    end = in(reg) memory.as_ptr().wrapping_add(size),
                    sum = out(reg) sum,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    options(nostack, readonly),
                )
            }
        };
    }
    macro_rules! avx512 {
        ($fetch:literal) => {
            sum!(
                $fetch,
                "vpaddq zmm0, zmm0, [{at}]",
                "vpaddq zmm1, zmm1, [{at} + 64]",
                "vpaddq zmm2, zmm2, [{at} + 128]",
                "vpaddq zmm3, zmm3, [{at} + 192]"
            )
        };
    }
    macro_rules! avx2 {
        ($fetch:literal) => {
            sum!(
                $fetch,
                "vpaddq ymm0, ymm0, [{at}]",
                "vpaddq ymm1, ymm1, [{at} + 32]",
                "vpaddq ymm2, ymm2, [{at} + 64]",
                "vpaddq ymm3, ymm3, [{at} + 96]",
                "vpaddq ymm0, ymm0, [{at} + 128]",
                "vpaddq ymm1, ymm1, [{at} + 160]",
                "vpaddq ymm2, ymm2, [{at} + 192]",
                "vpaddq ymm3, ymm3, [{at} + 224]"
            )
        };
    }
    match (has_avx512, fetch) {
        (true, true) => avx512!(
            "prefetcht0 [{at} + 1024]
            prefetcht0 [{at} + 1088]
            prefetcht0 [{at} + 1152]
            prefetcht0 [{at} + 1216]"
        ),
        (true, false) => avx512!("nop"),
        (false, true) => avx2!(
            "prefetcht0 [{at} + 1024]
            prefetcht0 [{at} + 1088]
            prefetcht0 [{at} + 1152]
            prefetcht0 [{at} + 1216]"
        ),
        (false, false) => avx2!("nop"),
    }
    sum
}
