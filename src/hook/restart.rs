// SPDX-License-Identifier: GPL-2.0

//! Calls of KVM_RUN on their way to user space: which start over, and which end.
//!
//! A call that was under way before its VM was watched is not seen by the hook ([`crate::hook`]).
//! Kicked out of the guest, it returns `-EINTR`, which its VMM must not see. On its way to user
//! space each thread with a signal or a kick pending passes `arch_do_signal_or_restart`. A kprobe
//! there turns the result into one that makes the kernel restart the call, which then comes to the
//! hook.
//!
//! Work that others queue, as io_uring does, ends a call of KVM_RUN, and a VMM may wait for that.
//! It may come when the restart has been decided. A second kprobe, on `task_work_run`, is where it
//! cannot be missed: there a call that is to start over ends after all.

use kernel::prelude::*;

use super::table;
use crate::{
    bindings,
    linux::{
        kprobe::{
            Arguments,
            Handler,
            Kprobe, //
        },
        task, //
    }, //
};

/// The armed probes. The drop disarms them.
pub(super) struct Restart {
    _restart: Kprobe<RestartKvmRun>,
    _end: Kprobe<EndKvmRun>,
}

impl Restart {
    /// Restarts calls for watched VMs from now on.
    ///
    /// # Errors
    ///
    /// As [`Kprobe::register`] and [`Kprobe::enable`].
    pub(super) fn arm() -> Result<Self> {
        table::clear_starting_over();
        let end = Kprobe::<EndKvmRun>::register(c"task_work_run")?;
        end.enable()?;
        let restart = Kprobe::<RestartKvmRun>::register(c"arch_do_signal_or_restart")?;
        restart.enable()?;
        Ok(Self {
            _restart: restart,
            _end: end,
        })
    }
}

/// What is done to each thread that passes.
struct RestartKvmRun;

impl Handler for RestartKvmRun {
    fn handle(arguments: Arguments<'_>) -> Option<usize> {
        let registers = arguments.first() as *mut bindings::pt_regs;
        // SAFETY: The only probe with this handler is on `arch_do_signal_or_restart`, whose
        // argument is the current task's registers of user space. Nobody else touches them
        // meanwhile.
        let registers = unsafe { &mut *registers };
        if is_kicked_out_of_kvm_run(registers) {
            // If a signal with a handler comes first after all, this becomes `-EINTR` again.
            registers.ax = task::return_value(ERESTARTNOHAND) as c_ulong;
            table::set_starting_over(true);
        }
        None
    }
}

/// Returns whether the current task, of a watched VM's VMM, returns from KVM_RUN because of a kick.
///
/// Not if a signal is pending, too, or work that others have queued: then the VMM would have seen
/// the end of the call in any case, and may wait for it.
fn is_kicked_out_of_kvm_run(registers: &mut bindings::pt_regs) -> bool {
    registers.orig_ax == IOCTL
        && registers.ax == task::return_value(EINTR) as c_ulong
        && has_arguments_of_kvm_run(registers)
        && !task::task_sigpending()
        && !task::has_foreign_task_work()
        && table::has_vmm(task::current_mm().addr())
}

/// The number of the system call, in a register.
const IOCTL: c_ulong = bindings::KVM_INSPECT_NR_IOCTL as c_ulong;

/// Returns whether the arguments in these registers of user space are those of KVM_RUN.
fn has_arguments_of_kvm_run(registers: &mut bindings::pt_regs) -> bool {
    // SAFETY: Valid registers. (In 32-bit mode system calls have other numbers.)
    let is_64bit = unsafe { bindings::user_64bit_mode(registers) };
    is_64bit && registers.si as u32 == bindings::KVM_INSPECT_KVM_RUN && registers.dx == 0
}

/// What is done to each thread that does the work queued for it.
///
/// All work that can end a call is seen here, or is done together with work that was: what comes
/// later sets the thread's flag again, and brings it here once more before it is in user space
/// (`get_signal`, `kernel/signal.c`).
struct EndKvmRun;

impl Handler for EndKvmRun {
    fn handle(_arguments: Arguments<'_>) -> Option<usize> {
        if !task::current_mm().is_null() && task::has_foreign_task_work() {
            // SAFETY: A thread with an address space has registers of user space, which nobody
            // else touches while it is in the kernel.
            end_restart(unsafe { &mut *bindings::current_pt_regs() });
        }
        None
    }
}

/// Ends a call of KVM_RUN with `EINTR`, if it is about to start over, or could.
fn end_restart(registers: &mut bindings::pt_regs) {
    /// The length of the instruction `syscall`.
    const SYSCALL_LEN: c_ulong = 2;

    if !has_arguments_of_kvm_run(registers) {
        return;
    }
    let eintr = task::return_value(EINTR) as c_ulong;
    if registers.ax == IOCTL && (registers.orig_ax == IOCTL || is_at_syscall(registers)) {
        // The restart is prepared (`arch_do_signal_or_restart`), or the thread was in user space
        // already, where an interrupt has met it just before the call starts over.
        registers.ip = registers.ip.wrapping_add(SYSCALL_LEN);
    } else if registers.orig_ax != IOCTL
        || (registers.ax != task::return_value(ERESTARTNOHAND) as c_ulong && registers.ax != eintr)
    {
        return;
    }
    table::set_starting_over(false);
    registers.ax = eintr;
    // No system call any more: the thread may pass [`RestartKvmRun`] again, with this work done.
    registers.orig_ax = c_ulong::MAX;
}

/// Returns whether the current task, of a watched VM's VMM, is in user space, and its next
/// instruction is the system call that starts over. A fresh one would enter the guest without us,
/// too.
fn is_at_syscall(registers: &bindings::pt_regs) -> bool {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];

    if !table::is_starting_over() || !table::has_vmm(task::current_mm().addr()) {
        return false;
    }
    let mut code = [0_u8; 2];
    let from = registers.ip as *const c_void;
    // SAFETY: `code` may be written; any address of user space may be tried.
    let result =
        unsafe { bindings::copy_from_user_nofault((&raw mut code).cast(), from, code.len()) };
    result == 0 && code == SYSCALL
}
