// SPDX-License-Identifier: GPL-2.0

//! Restarts calls of KVM_RUN that were under way before their VM was watched.
//!
//! The hook does not see such a call ([`crate::hook`]). Kicked out of the guest, it returns
//! `-EINTR`, which its VMM must not see. On its way to user space each thread with a signal or a
//! kick pending passes `arch_do_signal_or_restart`. A kprobe there turns the result into one that
//! makes the kernel restart the call, which then comes to the hook.

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

/// The armed probe. The drop disarms it.
pub(super) struct Restart {
    _probe: Pin<KBox<Kprobe<RestartKvmRun>>>,
}

impl Restart {
    /// Restarts calls for watched VMs from now on.
    ///
    /// # Errors
    ///
    /// As [`Kprobe::register`] and [`Kprobe::enable`].
    pub(super) fn arm() -> Result<Self> {
        let probe = Kprobe::<RestartKvmRun>::register(c"arch_do_signal_or_restart");
        let probe = KBox::pin_init(probe, GFP_KERNEL)?;
        probe.enable()?;
        Ok(Self { _probe: probe })
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
        }
        None
    }
}

/// Returns whether the current task, of a watched VM's VMM, returns from KVM_RUN because of a kick.
///
/// Not if a signal is pending, too, or work that others have queued: then the VMM would have seen
/// the end of the call in any case, and may wait for it.
fn is_kicked_out_of_kvm_run(registers: &mut bindings::pt_regs) -> bool {
    // SAFETY: Valid registers. (In 32-bit mode system calls have other numbers.)
    let is_kvm_run = unsafe { bindings::user_64bit_mode(registers) }
        && registers.orig_ax == bindings::KVM_INSPECT_NR_IOCTL as c_ulong
        && registers.si as u32 == bindings::KVM_INSPECT_KVM_RUN
        && registers.dx == 0;
    is_kvm_run
        && registers.ax == task::return_value(EINTR) as c_ulong
        && !task::task_sigpending()
        && !task::has_foreign_task_work()
        && table::has_vmm(task::current_mm().addr())
}
