// SPDX-License-Identifier: GPL-2.0

//! Processes and threads: finding one, its open files, kicking it, and the current one.
//!
//! C headers: [`include/linux/pid.h`](srctree/include/linux/pid.h),
//! [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use core::{
    ops::ControlFlow,
    ptr::NonNull, //
};

use kernel::{
    alloc::Flags,
    fs::LocalFile,
    prelude::*,
    sync::aref::ARef,
    task::Task,
    types::NotThreadSafe, //
};

use crate::{
    bindings,
    linux::symbol::Symbol, //
};

/// A process, which may have ended. While this lives, no other gets its number.
///
/// # Invariants
///
/// This owns a reference to the `struct pid`.
pub(crate) struct Process(NonNull<bindings::pid>);

// SAFETY: A `struct pid` may be used and released from any task.
unsafe impl Send for Process {}

impl Process {
    /// Finds the process with this number, or that with a thread of this number, in the PID
    /// namespace of the current task.
    ///
    /// # Errors
    ///
    /// `ESRCH`: there is neither.
    pub(crate) fn find(number: bindings::pid_t) -> Result<Self> {
        // SAFETY: Any number is valid; the result is null or a reference that is ours.
        let pid = unsafe { bindings::find_get_tgid(number) };
        // INVARIANT: The reference has just been taken.
        let this = Self(NonNull::new(pid).ok_or(ESRCH)?);
        this.task()?;
        Ok(this)
    }

    /// Returns the process of a pidfd of the current task, also of one that is a thread's.
    ///
    /// # Errors
    ///
    /// `EBADF`: it is no pidfd. `ESRCH`: the process has ended.
    pub(crate) fn of_pidfd(fd: u32) -> Result<Self> {
        let file = LocalFile::fget(fd)?;
        // SAFETY: An open file has operations, which do not change.
        let ioctl = unsafe { (*(*file.as_ptr()).f_op).unlocked_ioctl }.ok_or(EBADF)?;
        let symbol = Symbol::at(ioctl as usize);
        if !symbol.is(b"pidfd_ioctl") || symbol.is_in_other_module(b"[]") {
            return Err(EBADF);
        }
        // SAFETY: The inode of a pidfd has a reference to its `struct pid` there for as long as it
        // lives (`pidfd_pid`, `fs/pidfs.c`, which is not exported). The result is null or a
        // reference that is ours.
        let pid = unsafe {
            let inode = (*file.as_ptr()).f_inode;
            bindings::get_tgid((*inode).i_private.cast())
        };
        // INVARIANT: The reference has just been taken.
        let this = Self(NonNull::new(pid).ok_or(ESRCH)?);
        this.task()?;
        Ok(this)
    }

    /// Returns its number, in the PID namespace of the current task.
    pub(crate) fn number(&self) -> bindings::pid_t {
        // SAFETY: By the type invariant.
        unsafe { bindings::pid_vnr(self.0.as_ptr()) }
    }

    /// Returns its first thread, which may have ended before the others.
    ///
    /// # Errors
    ///
    /// `ESRCH`: it has ended.
    pub(crate) fn task(&self) -> Result<ARef<Task>> {
        // SAFETY: By the type invariant.
        let task =
            unsafe { bindings::get_pid_task(self.0.as_ptr(), bindings::pid_type_PIDTYPE_TGID) };
        // SAFETY: `get_pid_task` returns null or a reference that is now ours.
        unsafe { owned(task) }.ok_or(ESRCH)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::put_pid(self.0.as_ptr()) };
    }
}

/// Takes over a reference to a task.
///
/// # Safety
///
/// `task` is null, or the caller owns a reference to it and gives it up.
pub(crate) unsafe fn owned(task: *mut bindings::task_struct) -> Option<ARef<Task>> {
    // SAFETY: `Task` is a transparent wrapper of `task_struct`, and by this function's contract
    // the reference is the caller's to give.
    NonNull::new(task.cast::<Task>()).map(|task| unsafe { ARef::from_raw(task) })
}

/// Returns whether a process has been killed or is exiting, whatever its threads still do.
pub(crate) fn is_dying(process: &Task) -> bool {
    // SAFETY: `process` is a valid task.
    unsafe { bindings::is_dying(process.as_ptr()) }
}

/// What is done with each open file of a process.
pub(crate) trait FileVisitor {
    /// Looks at an open file. Spin locks are held: this must not sleep, and must be quick.
    ///
    /// With [`ControlFlow::Break`] the same file is looked at again, after [`Self::prepare`].
    fn visit(&mut self, number: u32, file: &LocalFile) -> ControlFlow<()>;

    /// Does what a visit could not do. No lock is held.
    ///
    /// # Errors
    ///
    /// They end the visits.
    fn prepare(&mut self) -> Result;
}

/// The most files that are visited with the locks held. A process may have millions.
const FILES_AT_ONCE: u32 = 1024;

/// Shows `visitor` each open file of a process and its number, in ascending order. A process that
/// is exiting has none.
///
/// # Errors
///
/// As [`FileVisitor::prepare`].
pub(crate) fn for_each_file<V: FileVisitor>(process: &Task, visitor: &mut V) -> Result {
    /// One stretch of files.
    struct Stretch<'a, V> {
        visitor: &'a mut V,
        left: u32,
        /// Where to go on, and whether to prepare before that.
        next: Option<u32>,
        prepare: bool,
    }

    /// # Safety
    ///
    /// Only for the call of `iterate_fd` below.
    unsafe extern "C" fn step<V: FileVisitor>(
        stretch: *const c_void,
        file: *mut bindings::file,
        number: c_uint,
    ) -> c_int {
        // SAFETY: `iterate_fd` passes on the pointer it got below, which is only used here.
        let stretch = unsafe { &mut *stretch.cast_mut().cast::<Stretch<'_, V>>() };
        if stretch.left == 0 {
            stretch.next = Some(number);
            return 1;
        }
        stretch.left -= 1;
        // SAFETY: The file is open, and stays so while `files->file_lock` is held.
        let file = unsafe { LocalFile::from_raw_file(file) };
        if stretch.visitor.visit(number, file).is_break() {
            (stretch.next, stretch.prepare) = (Some(number), true);
            return 1;
        }
        0
    }

    let mut from = Some(0);
    while let Some(first) = from {
        let mut stretch = Stretch {
            visitor: &mut *visitor,
            left: FILES_AT_ONCE,
            next: None,
            prepare: false,
        };
        // SAFETY: `process` is a valid task. The result is null or a reference that is ours.
        let thread = unsafe { owned(bindings::get_thread_with_files(process.as_ptr())) };
        let Some(thread) = thread else {
            break;
        };
        // SAFETY: `thread` is a valid task.
        let files = unsafe { bindings::lock_files(thread.as_ptr()) };
        if files.is_null() {
            // It has just ended. Another one may have them.
            cond_resched();
            continue;
        }
        // SAFETY: The task lock keeps `files` in place, and `stretch` outlives the call.
        unsafe { bindings::iterate_fd(files, first, Some(step::<V>), (&raw mut stretch).cast()) };
        // SAFETY: Locked above.
        unsafe { bindings::unlock_files(thread.as_ptr()) };
        let (next, prepare) = (stretch.next, stretch.prepare);
        if prepare {
            visitor.prepare()?;
        }
        cond_resched();
        from = next;
    }
    Ok(())
}

/// Kicks a thread: it leaves an interruptible wait or a guest, without a signal.
///
/// This is what `TWA_SIGNAL` task work does, less the work (`kernel/task_work.c`): code that looks
/// for pending signals sees one, KVM_RUN returns `-EINTR`, and on its way to user space the thread
/// finds nothing to do.
///
/// Does nothing if it is kicked already, by this module or by others, and has not noticed yet.
pub(crate) fn kick(thread: &Task) {
    // SAFETY: `thread` is a valid task.
    if unsafe { bindings::set_notify_flag(thread.as_ptr()) } {
        wake_kicked(thread);
    }
}

/// Completes a kick: makes a thread look at its flags.
pub(crate) fn wake_kicked(thread: &Task) {
    // For a vCPU that is halted in the kernel. `wake_up_state(TASK_INTERRUPTIBLE)` is not exported,
    // and code in other waits copes with a spurious wake-up.
    thread.wake_up();
    // For one in the guest: an interrupt makes it exit.
    // SAFETY: `thread` is a valid task.
    unsafe { bindings::kick_process(thread.as_ptr()) };
}

/// Returns whether a thread has been kicked, and has not noticed yet.
pub(crate) fn is_kicked(thread: &Task) -> bool {
    // SAFETY: `thread` is a valid task.
    unsafe { bindings::has_notify_flag(thread.as_ptr()) }
}

/// Returns a hash of the current thread that has so many bits, from 1 to 32.
pub(crate) fn hash_of_current(bits: u32) -> usize {
    // SAFETY: The pointer is not followed.
    unsafe { bindings::hash_ptr(Task::current_raw().cast(), bits) as usize }
}

/// Returns the value by which the current system call starts over, unseen by user space.
///
/// If a signal handler has to run first, the call ends with `EINTR` instead, as if the signal had
/// interrupted it: no signal is lost on the way (`arch/x86/kernel/signal.c`).
///
/// Where somebody else wants the thread back in user space, this is `EINTR`: see
/// [`has_foreign_task_work`].
pub(crate) fn restart_current_call() -> c_long {
    if has_foreign_task_work() {
        return return_value(EINTR);
    }
    // The signal code restarts the call, and a thread goes there only with this flag set.
    // SAFETY: `current` is a valid task.
    unsafe { bindings::set_notify_flag(Task::current_raw()) };
    return_value(ERESTARTNOHAND)
}

/// Returns whether others have queued work that makes the current system call return, as io_uring
/// does to tell of a completion. A user space that waits for that must see the `EINTR`.
pub(crate) fn has_foreign_task_work() -> bool {
    // SAFETY: No preconditions.
    unsafe { bindings::has_foreign_task_work() }
}

/// Returns whether a signal is pending for the current thread. A [`kick`] is none.
///
/// `kernel::task::Task::signal_pending` would count a kick.
pub(crate) fn task_sigpending() -> bool {
    // SAFETY: `current` is a valid task.
    unsafe { bindings::task_sigpending(Task::current_raw()) }
}

/// Returns whether the current thread is being killed.
pub(crate) fn fatal_signal_pending() -> bool {
    // SAFETY: `current` is a valid task.
    unsafe { bindings::fatal_signal_pending(Task::current_raw()) }
}

/// Returns whether the system, or the cgroup of the current thread, is being frozen.
pub(crate) fn is_freezing() -> bool {
    // SAFETY: No preconditions.
    unsafe { bindings::is_freezing() }
}

/// Returns whether the current thread has to leave the kernel: it is being killed, or frozen.
pub(crate) fn must_leave() -> bool {
    fatal_signal_pending() || is_freezing()
}

/// Returns the flags for what is allocated while a guest stands. There may be no memory until the
/// guest runs again, so this does not wait, and fails.
pub(crate) fn gfp_paused() -> Flags {
    GFP_NOWAIT | __GFP_NOWARN
}

/// Returns what a thread does, for a line about it.
pub(crate) fn doing(thread: &Task) -> &'static str {
    // SAFETY: `thread` is a valid task.
    let is_on_cpu = unsafe { bindings::task_is_on_cpu(thread.as_ptr()) };
    if is_on_cpu {
        "runs"
    } else if is_running(thread) {
        "waits for a CPU"
    } else {
        "sleeps"
    }
}

/// Returns whether a thread runs, or waits for a CPU.
pub(crate) fn is_running(thread: &Task) -> bool {
    // SAFETY: `thread` is a valid task.
    unsafe { bindings::task_is_running(thread.as_ptr()) }
}

/// No I/O for the current task's allocations while this lives: the frozen guest may serve the
/// host's swap or disks.
pub(crate) struct NoIo {
    before: c_uint,
    _not_send: NotThreadSafe,
}

impl NoIo {
    /// Begins now.
    pub(crate) fn begin() -> Self {
        Self {
            // SAFETY: No preconditions; `drop` puts the flags back.
            before: unsafe { bindings::memalloc_noio_save() },
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: The value cannot be sent, so this is still the same task.
        unsafe { bindings::memalloc_noio_restore(self.before) };
    }
}

/// Returns `error` as a system call returns it.
pub(crate) fn return_value(error: Error) -> c_long {
    // Only ever widens.
    error.to_errno() as c_long
}

/// Returns the address space of the current task; null for a kernel thread that has none. Only to
/// be compared.
pub(crate) fn current_mm() -> *const bindings::mm_struct {
    // SAFETY: The current task is valid, and only itself changes its address space.
    unsafe { (*Task::current_raw()).mm }
}

/// Offers the CPU to others. The caller must be able to sleep.
pub(crate) fn cond_resched() {
    // SAFETY: The caller may sleep, which the debug kernel checks.
    unsafe { bindings::cond_resched() };
}
