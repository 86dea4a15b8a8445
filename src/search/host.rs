// SPDX-License-Identifier: GPL-2.0

//! The kernel as the host of `scan/`: which engines the CPU has, where they may run, and their
//! memory.

use kernel::prelude::*;

use crate::{
    linux::{
        fpu,
        task, //
    },
    scan::{
        digest,
        Engine,
        EngineKind,
        Host,
        Scratch,
        Tables, //
    }, //
};

// SAFETY: By its documentation all zeros are a valid value.
unsafe impl Zeroable for Tables {}

// SAFETY: By its documentation all zeros are a valid value.
unsafe impl Zeroable for Scratch {}

// SAFETY: By its documentation all zeros are a valid value.
unsafe impl Zeroable for digest::Key {}

/// The current thread, which can sleep.
pub(crate) struct CurrentThread;

/// The current thread, which searches until it is to give up.
pub(super) struct SearchingThread<'a> {
    /// Asked after each few steps.
    pub(super) give_up: &'a dyn Fn() -> bool,
}

impl Host for SearchingThread<'_> {
    fn vector<R>(&self, work: impl FnOnce() -> R) -> R {
        CurrentThread.vector(work)
    }

    fn breathe(&self) -> bool {
        CurrentThread.breathe() && !(self.give_up)()
    }
}

impl Host for CurrentThread {
    fn vector<R>(&self, work: impl FnOnce() -> R) -> R {
        // SAFETY: A thread is in task context, and `work` of `scan/` neither sleeps nor calls its
        // host.
        unsafe { fpu::with_vector_registers(work) }
    }

    fn breathe(&self) -> bool {
        task::cond_resched();
        true
    }
}

/// Returns the engine of this kind, if this machine has it.
pub(crate) fn engine(kind: EngineKind) -> Option<Engine> {
    let has = match kind {
        EngineKind::Portable => true,
        EngineKind::Avx2 => fpu::has_avx2(),
        EngineKind::Avx512 => fpu::has_avx512(),
    };
    // SAFETY: The machine was asked.
    has.then(|| unsafe { Engine::new_unchecked(kind) })
}
