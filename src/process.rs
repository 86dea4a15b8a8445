// SPDX-License-Identifier: GPL-2.0

//! Processes and threads: finding one, its open files, making a thread leave the kernel.
//!
//! C headers: [`include/linux/pid.h`](srctree/include/linux/pid.h),
//! [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use core::ptr::NonNull;

use kernel::{
    bindings,
    fs::LocalFile,
    prelude::*,
    sync::aref::ARef,
    task::Task,
    types::NotThreadSafe, //
};

use crate::sys;

/// A process, which may have ended: its number is no other's while this lives.
///
/// # Invariants
///
/// A reference to the `struct pid` is owned.
pub(crate) struct Process(NonNull<sys::pid>);

// SAFETY: A `struct pid` may be used and released from any task.
unsafe impl Send for Process {}

impl Process {
    /// Finds the process with this number, in the PID namespace of the current task.
    ///
    /// # Errors
    ///
    /// `ESRCH`: there is no such process, or the number is that of a thread.
    pub(crate) fn find(number: bindings::pid_t) -> Result<Self> {
        // SAFETY: Any number may be asked for; the result is null or a reference that is ours.
        let pid = unsafe { sys::find_get_pid(number) };
        // INVARIANT: The reference has just been taken.
        let this = Self(NonNull::new(pid).ok_or(ESRCH)?);
        this.task()?;
        Ok(this)
    }

    /// Its first thread.
    ///
    /// # Errors
    ///
    /// `ESRCH`: it has ended.
    pub(crate) fn task(&self) -> Result<ARef<Task>> {
        // SAFETY: By the type invariant.
        let task = unsafe { sys::get_pid_task(self.0.as_ptr(), sys::pid_type_PIDTYPE_TGID) };
        // SAFETY: `get_pid_task` returns null or a reference that is now ours.
        unsafe { owned(task) }.ok_or(ESRCH)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { sys::put_pid(self.0.as_ptr()) };
    }
}

/// Takes over a counted reference to a task.
///
/// # Safety
///
/// `task` is null, or the caller owns a reference to it and passes that on.
pub(crate) unsafe fn owned(task: *mut bindings::task_struct) -> Option<ARef<Task>> {
    // SAFETY: `Task` is a transparent wrapper of `task_struct`, and by this function's contract
    // the reference is the caller's to give.
    NonNull::new(task.cast::<Task>()).map(|task| unsafe { ARef::from_raw(task) })
}

/// Whether a process has been killed or is exiting, whatever its threads still do.
pub(crate) fn is_dying(process: &Task) -> bool {
    // SAFETY: `process` is a valid task.
    unsafe { sys::kvm_inspect_is_dying(process.as_ptr()) }
}

/// Calls `visit` with each open file of a process and its number, in ascending order.
///
/// Spin locks are held meanwhile: `visit` must not sleep, and be quick, for a process may have a
/// million files. A process that is exiting has none.
pub(crate) fn for_each_file<F: FnMut(u32, &LocalFile)>(process: &Task, mut visit: F) {
    /// # Safety
    ///
    /// Only for the call of `iterate_fd` below.
    unsafe extern "C" fn step<F: FnMut(u32, &LocalFile)>(
        visit: *const c_void,
        file: *mut bindings::file,
        number: c_uint,
    ) -> c_int {
        // SAFETY: `iterate_fd` passes on the pointer it got below, which is only used here.
        let visit = unsafe { &mut *visit.cast_mut().cast::<F>() };
        // SAFETY: The file is open, and stays so while `files->file_lock` is held.
        visit(number, unsafe { LocalFile::from_raw_file(file) });
        0
    }

    // SAFETY: `process` is a valid task.
    let files = unsafe { sys::kvm_inspect_lock_files(process.as_ptr()) };
    if files.is_null() {
        return;
    }
    // SAFETY: The task lock keeps `files` in place, and `visit` outlives the call.
    unsafe { sys::iterate_fd(files, 0, Some(step::<F>), (&raw mut visit).cast()) };
    // SAFETY: Locked above.
    unsafe { sys::kvm_inspect_unlock_files(process.as_ptr()) };
}

/// Makes a thread leave an interruptible wait or a guest, without sending it a signal.
///
/// This is what `TWA_SIGNAL` task work does, less the work (`kernel/task_work.c`): whoever looks
/// for pending signals sees one, KVM_RUN returns `-EINTR`, and on its way to user space the thread
/// finds nothing to do.
pub(crate) fn kick(thread: &Task) {
    // SAFETY: `thread` is a valid task, here and in the next calls.
    unsafe { sys::kvm_inspect_set_notify_flag(thread.as_ptr()) };
    // Halted in the kernel: `wake_up_state(TASK_INTERRUPTIBLE)` is not exported. Code that waits
    // otherwise takes a spurious wake-up well.
    thread.wake_up();
    // SAFETY: As above. In a guest: an interrupt makes it exit.
    unsafe { sys::kick_process(thread.as_ptr()) };
}

/// Whether a thread has been kicked, and has not come to take note of it.
pub(crate) fn is_kicked(thread: &Task) -> bool {
    // SAFETY: `thread` is a valid task.
    unsafe { sys::kvm_inspect_has_notify_flag(thread.as_ptr()) }
}

/// The value for a system call to return that makes it start over, unseen by user space.
///
/// If a signal handler has to run first the call ends with `EINTR` instead, as if the signal had
/// interrupted it: no signal is lost on the way (`arch/x86/kernel/signal.c`).
pub(crate) fn restart_current_call() -> c_long {
    // The restart is done by the signal code, which a thread visits only when this flag is set.
    // SAFETY: `current` is a valid task.
    unsafe { sys::kvm_inspect_set_notify_flag(Task::current_raw()) };
    return_value(ERESTARTNOHAND)
}

/// Whether a signal waits for the current thread. A [`kick`] is none.
pub(crate) fn current_has_signal() -> bool {
    // SAFETY: `current` is a valid task.
    unsafe { sys::kvm_inspect_has_signal(Task::current_raw()) }
}

/// Whether the current thread has been killed, and shall not go on for long.
pub(crate) fn current_is_being_killed() -> bool {
    // SAFETY: `current` is a valid task.
    unsafe { sys::kvm_inspect_is_being_killed(Task::current_raw()) }
}

/// Whether a thread runs, or would if it had a CPU.
pub(crate) fn is_running(thread: &Task) -> bool {
    // SAFETY: `thread` is a valid task.
    unsafe { sys::kvm_inspect_is_running(thread.as_ptr()) }
}

/// While this lives the current task's allocations start no input or output, to which the guest that
/// stands still might have to contribute: it may be what the host's swap or disks are served by.
pub(crate) struct NoIo {
    before: c_uint,
    _not_send: NotThreadSafe,
}

impl NoIo {
    /// Begins here and now.
    pub(crate) fn begin() -> Self {
        Self {
            // SAFETY: Changes a flag of the current task, which `drop` puts back.
            before: unsafe { sys::kvm_inspect_memalloc_noio_save() },
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: Still the same task, for the value cannot be sent.
        unsafe { sys::kvm_inspect_memalloc_noio_restore(self.before) };
    }
}

/// An error as a system call returns it.
pub(crate) fn return_value(error: Error) -> c_long {
    // Only ever widens.
    error.to_errno() as c_long
}

/// Offers the CPU to others. The caller must be able to sleep.
pub(crate) fn yield_cpu() {
    // SAFETY: No condition beyond the caller's being able to sleep, which the debug kernel checks.
    unsafe { sys::kvm_inspect_cond_resched() };
}
