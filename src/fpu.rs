// SPDX-License-Identifier: GPL-2.0

//! The vector unit, in the kernel.
//!
//! C header: [`arch/x86/include/asm/fpu/api.h`](srctree/arch/x86/include/asm/fpu/api.h)

use kernel::prelude::*;

use crate::{
    process,
    scan::{
        digest,
        Host,
        Level,
        Scratch,
        Tables, //
    },
    sys, //
};

// SAFETY: By their documentation all zeros are a valid value, here and below.
unsafe impl Zeroable for Tables {}

// SAFETY: As above.
unsafe impl Zeroable for Scratch {}

// SAFETY: As above.
unsafe impl Zeroable for digest::Key {}

/// The current thread, which can sleep, as the search's host.
pub(crate) struct Thread;

impl Host for Thread {
    fn vector<R>(&self, work: impl FnOnce() -> R) -> R {
        let _in_use = InUse::begin();
        work()
    }

    fn breathe(&self) {
        process::yield_cpu();
    }
}

/// While this lives the vector registers may be used, and the task stays where it is.
struct InUse(());

impl InUse {
    fn begin() -> Self {
        // SAFETY: Task context, in which the FPU is usable but inside such a section; `vector` is
        // never called inside itself.
        unsafe { sys::kvm_inspect_fpu_begin() };
        Self(())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // SAFETY: Begun by `begin`, on this CPU.
        unsafe { sys::kvm_inspect_fpu_end() };
    }
}

/// Whether this CPU, and the kernel, can do `level`.
pub(crate) fn has(level: Level) -> bool {
    match level {
        Level::Portable => true,
        // SAFETY: No preconditions.
        Level::Avx2 => unsafe { sys::kvm_inspect_has_avx2() },
        // SAFETY: As above.
        Level::Avx512 => unsafe { sys::kvm_inspect_has_avx512() },
    }
}

/// How many CPUs there are now.
pub(crate) fn online_cpus() -> usize {
    // SAFETY: No preconditions.
    usize::try_from(unsafe { sys::kvm_inspect_online_cpus() }).unwrap_or(1)
}
