// SPDX-License-Identifier: GPL-2.0

//! RCU tasks: waiting until no task is in a piece of code any more, even if it was preempted there.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use kernel::{
    prelude::*,
    types::Opaque, //
};

use crate::bindings;

/// A grace period of RCU tasks.
///
/// At its end each task has slept, or been in user space, since it began. That takes a tenth of a
/// second and more, by timers (`rcu_tasks_wait_gp` in `kernel/rcu/tasks.h`), so it pays to do
/// something else meanwhile. The drop waits for the end.
///
/// # Invariants
///
/// `wait` was given to `call_rcu_tasks`. Only `drop` waits for it, once.
#[pin_data(PinnedDrop)]
pub(crate) struct TasksGracePeriod {
    #[pin]
    wait: Opaque<bindings::rcu_synchronize>,
}

// SAFETY: Any task may wait for it.
unsafe impl Send for TasksGracePeriod {}

impl TasksGracePeriod {
    /// Begins a grace period.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn begin() -> Result<Pin<KBox<Self>>> {
        let new = pin_init!(Self {
            // INVARIANT: Given to `call_rcu_tasks` here, once.
            wait <- Opaque::ffi_init(|slot: *mut bindings::rcu_synchronize| {
                // SAFETY: `slot` is valid for writes, and stays in place until `drop` has waited.
                // The callback is the kernel's: none of this module's code is called.
                unsafe { bindings::rcu_tasks_begin(slot) };
            }),
        });
        KBox::pin_init(new, GFP_KERNEL)
    }
}

#[pinned_drop]
impl PinnedDrop for TasksGracePeriod {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant.
        unsafe { bindings::rcu_tasks_wait(self.wait.get()) };
    }
}

/// Waits for a whole grace period of RCU tasks.
pub(crate) fn synchronize_rcu_tasks() {
    // SAFETY: No preconditions but that the caller may sleep, which the debug kernel checks.
    unsafe { bindings::synchronize_rcu_tasks() };
}
