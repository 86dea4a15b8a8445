// SPDX-License-Identifier: GPL-2.0

//! A kernel thread that does one piece of work.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)

use kernel::{
    error::from_err_ptr,
    prelude::*,
    str::CStr,
    sync::aref::ARef,
    task::Task,
    types::NotThreadSafe, //
};

use crate::{
    bindings,
    linux::task, //
};

/// What a [`Kthread`] does.
pub(crate) trait Work: Send + 'static {
    /// Does the work. It ends early if [`OnKthread::should_stop`] says so.
    fn run(self, thread: OnKthread);
}

/// A kernel thread. Dropping it asks it to stop ([`OnKthread::should_stop`]), ends its killable
/// waits, and waits for its end.
///
/// # Invariants
///
/// `task` was made by `kthread_create_on_node`, was woken up, and is stopped by nobody else.
/// `work` is what was given to it; it belongs to the thread once that runs.
pub(crate) struct Kthread<W: Work> {
    task: ARef<Task>,
    work: *mut W,
}

// SAFETY: `work` is only touched by the thread, or, when that has never run, by `drop`.
unsafe impl<W: Work> Send for Kthread<W> {}

// SAFETY: A shared reference allows nothing.
unsafe impl<W: Work> Sync for Kthread<W> {}

impl<W: Work> Kthread<W> {
    /// Starts a thread that does `work` and ends.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or `EINTR` if the caller is being killed.
    pub(crate) fn spawn(name: &'static CStr, work: W) -> Result<Self> {
        let work = KBox::into_raw(KBox::new(work, GFP_KERNEL)?);
        // SAFETY: `run` fits `work`; the format takes one string.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(Self::run),
                work.cast(),
                bindings::NUMA_NO_NODE,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })
        .inspect_err(|_| {
            // SAFETY: There is no thread, so this is still the only pointer to the box.
            drop(unsafe { KBox::from_raw(work) });
        })?;
        // SAFETY: The new thread cannot end before it is woken up, so that `task` is valid.
        unsafe { bindings::get_task_struct(task) };
        // SAFETY: The reference has just been taken.
        let task = unsafe { task::owned(task) }.ok_or(EINVAL)?;
        task.wake_up();
        Ok(Self { task, work })
    }

    /// The function of the thread.
    ///
    /// # Safety
    ///
    /// Only for `kthread()`, with the pointer that `spawn` gave it.
    unsafe extern "C" fn run(work: *mut c_void) -> c_int {
        // SAFETY: The current task is a kthread.
        unsafe { bindings::allow_kill() };
        // SAFETY: `spawn` gave this thread the box, and it runs once.
        let work = unsafe { KBox::from_raw(work.cast::<W>()) };
        KBox::into_inner(work).run(OnKthread(NotThreadSafe));
        0
    }
}

impl<W: Work> Drop for Kthread<W> {
    fn drop(&mut self) {
        // It may wait for a disk, or a file's server. If it has ended already, nothing happens.
        // SAFETY: The task is referenced. A kthread dies of no signal.
        unsafe { bindings::kill(self.task.as_ptr()) };
        // SAFETY: The task is a kthread of ours, referenced, and not stopped yet.
        let result = unsafe { bindings::kthread_stop(self.task.as_ptr()) };
        // It was stopped before it could call `run` (`kernel/kthread.c`, `kthread()`).
        if result == EINTR.to_errno() {
            // SAFETY: `run` did not and will not take the box.
            drop(unsafe { KBox::from_raw(self.work) });
        }
    }
}

/// Proof that the current task is a [`Kthread`] that uses no address space.
pub(crate) struct OnKthread(NotThreadSafe);

impl OnKthread {
    /// Lets killable waits of this thread last again, though it is to stop.
    pub(crate) fn forget_kill(&self) {
        // SAFETY: The current task is a kthread.
        unsafe { bindings::forget_kill() };
    }

    /// Returns whether this thread has been asked to stop.
    pub(crate) fn should_stop(&self) -> bool {
        // SAFETY: Reads a flag of the current task, which is a kthread.
        unsafe { bindings::kthread_should_stop() }
    }
}
