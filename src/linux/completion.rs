// SPDX-License-Identifier: GPL-2.0

//! Completions, with the waits that `kernel::sync::Completion` lacks.
//!
//! C header: [`include/linux/completion.h`](srctree/include/linux/completion.h)

use kernel::{
    error::to_result,
    prelude::*,
    time::{
        msecs_to_jiffies,
        Delta, //
    },
    types::Opaque, //
};

use crate::{
    bindings,
    linux::kernels::as_millis_ceil, //
};

/// A `struct completion` that is completed once and for all.
///
/// # Invariants
///
/// `completion` is initialized.
#[pin_data]
pub(crate) struct Completion {
    #[pin]
    completion: Opaque<bindings::completion>,
}

// SAFETY: A completion may be used from any task.
unsafe impl Send for Completion {}

// SAFETY: A completion has a lock of its own.
unsafe impl Sync for Completion {}

impl Completion {
    /// Creates one that is not complete.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: Initialized here.
            completion <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writes, and pinned from here on.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Lets all go on that wait, or will wait.
    pub(crate) fn complete_all(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::complete_all(self.completion.get()) };
    }

    /// Returns whether it is complete. Does not sleep.
    pub(crate) fn is_complete(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::completion_done(self.completion.get()) }
    }

    /// Waits for the completion.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the current thread has a signal.
    pub(crate) fn wait_interruptible(&self) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::wait_for_completion_interruptible(self.completion.get()) })
    }

    /// Waits for the completion, at most for `timeout`. Returns whether it is complete.
    ///
    /// For kernel threads: a signal would end the wait, too.
    pub(crate) fn wait_timeout(&self, timeout: Delta) -> bool {
        let timeout = u32::try_from(as_millis_ceil(timeout)).unwrap_or(u32::MAX);
        let jiffies = msecs_to_jiffies(timeout);
        // SAFETY: By the type invariant.
        let left = unsafe {
            bindings::wait_for_completion_interruptible_timeout(self.completion.get(), jiffies)
        };
        left > 0
    }

    /// Waits for the completion, at most for `timeout`. Returns whether it is complete.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the current thread is being killed.
    pub(crate) fn wait_killable_timeout(&self, timeout: Delta) -> Result<bool> {
        let timeout = u32::try_from(as_millis_ceil(timeout)).unwrap_or(u32::MAX);
        let jiffies = msecs_to_jiffies(timeout);
        // SAFETY: By the type invariant.
        let left = unsafe {
            bindings::wait_for_completion_killable_timeout(self.completion.get(), jiffies)
        };
        if left < 0 {
            return Err(ERESTARTSYS);
        }
        Ok(left > 0)
    }

    /// Waits for the completion.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the current thread is being killed.
    pub(crate) fn wait_killable(&self) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::wait_for_completion_killable(self.completion.get()) })
    }
}
