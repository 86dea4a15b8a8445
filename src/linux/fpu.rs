// SPDX-License-Identifier: GPL-2.0

//! The vector unit, in the kernel.
//!
//! C header: [`arch/x86/include/asm/fpu/api.h`](srctree/arch/x86/include/asm/fpu/api.h)

use kernel::types::NotThreadSafe;

use crate::bindings;

/// Calls `work`, which may use vector registers. Meanwhile the task is not preempted and must not
/// sleep.
///
/// # Safety
///
/// The caller is in task context. `work` neither sleeps nor calls this function.
pub(crate) unsafe fn with_vector_registers<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: In task context the FPU is usable, but for such a section, which by this function's
    // contract there is not.
    unsafe { bindings::kernel_fpu_begin() };
    // INVARIANT: Just called.
    let _section = Section(NotThreadSafe);
    work()
}

/// A section in which vector registers may be used, ended by the drop.
///
/// # Invariants
///
/// `kernel_fpu_begin` was called on this CPU.
struct Section(NotThreadSafe);

impl Drop for Section {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kernel_fpu_end() };
    }
}

/// Returns whether the CPU has AVX2, BMI1 and POPCNT, and the kernel saves their registers.
pub(crate) fn has_avx2() -> bool {
    // SAFETY: No preconditions.
    unsafe { bindings::has_avx2() }
}

/// Returns whether the CPU has the parts of AVX-512 that the search uses, and the kernel saves
/// their registers.
pub(crate) fn has_avx512() -> bool {
    // SAFETY: No preconditions.
    unsafe { bindings::has_avx512() }
}
