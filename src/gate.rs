// SPDX-License-Identifier: GPL-2.0

//! A gate that is closed at first, and once opened stays open.
//!
//! C header: [`include/linux/completion.h`](srctree/include/linux/completion.h)

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    time::{
        msecs_to_jiffies,
        Delta, //
    },
    types::Opaque, //
};

use crate::sys;

/// A `struct completion` with the killable wait that `kernel::sync::Completion` lacks.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    completion: Opaque<bindings::completion>,
}

// SAFETY: A completion may be used from any task.
unsafe impl Send for Gate {}

// SAFETY: A completion has a lock of its own.
unsafe impl Sync for Gate {}

impl Gate {
    /// A closed gate.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            completion <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writes, and pinned from here on.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Opens the gate: all who wait go on, and nobody waits any more.
    pub(crate) fn open(&self) {
        // SAFETY: Initialized by `new`.
        unsafe { bindings::complete_all(self.completion.get()) };
    }

    /// Waits until the gate is open, but no longer than `timeout`; says whether it is open.
    ///
    /// For kernel threads: a signal would end the wait, too.
    pub(crate) fn wait_timeout(&self, timeout: Delta) -> bool {
        let timeout = u32::try_from(timeout.as_millis_ceil()).unwrap_or(u32::MAX);
        let jiffies = msecs_to_jiffies(timeout);
        // SAFETY: Initialized by `new`.
        let left = unsafe {
            sys::wait_for_completion_interruptible_timeout(self.completion.get(), jiffies)
        };
        left > 0
    }

    /// Waits until the gate is open.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the waiting thread is being killed.
    pub(crate) fn wait_killable(&self) -> Result {
        // SAFETY: Initialized by `new`.
        to_result(unsafe { sys::wait_for_completion_killable(self.completion.get()) })
    }
}
