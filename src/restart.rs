// SPDX-License-Identifier: GPL-2.0

//! Starting calls of KVM_RUN over that were under way before their VM was watched.
//!
//! Such a call is not the hook's ([`crate::hook`]). When it is kicked out of the guest it returns
//! `-EINTR`, which its VMM must not see. On its way to user space its thread passes
//! `arch_do_signal_or_restart`, as every thread does for which a signal waits, or a kick. A kprobe
//! there turns the result into one that has the kernel start the call over; it then comes to the
//! hook.

use kernel::{
    bindings,
    prelude::*,
    task::Task, //
};

use crate::{
    hook,
    kprobe::{
        Arguments,
        Handler,
        Kprobe, //
    },
    process,
    sys, //
};

/// The armed probe. Dropping it disarms.
pub(crate) struct Restart {
    _probe: Pin<KBox<Kprobe<StartOver>>>,
}

impl Restart {
    /// Has calls for watched VMs start over from now on.
    ///
    /// # Errors
    ///
    /// As [`Kprobe::register`] and [`Kprobe::enable`].
    pub(crate) fn arm() -> Result<Self> {
        let probe = Kprobe::<StartOver>::register(c"arch_do_signal_or_restart");
        let probe = KBox::pin_init(probe, GFP_KERNEL)?;
        probe.enable()?;
        Ok(Self { _probe: probe })
    }
}

/// What is done to each thread that passes.
struct StartOver;

impl Handler for StartOver {
    fn redirect(arguments: Arguments<'_>) -> Option<usize> {
        let registers = arguments.first() as *mut bindings::pt_regs;
        // SAFETY: The only probe with this handler is on `arch_do_signal_or_restart`, whose argument
        // are the registers of user space of the current task; nobody else touches them meanwhile.
        let registers = unsafe { &mut *registers };
        if is_kicked_out_of_kvm_run(registers) {
            // If a signal with a handler should still come first, this becomes `-EINTR` again.
            registers.ax = process::return_value(ERESTARTNOHAND) as c_ulong;
        }
        None
    }
}

/// Whether the current task, of a VMM that is watched, returns from KVM_RUN because it was kicked.
///
/// Not if a signal waits, too: then the VMM would have seen the end of the call in any case. Others
/// than this module may kick (task work), who want to be unseen no less.
fn is_kicked_out_of_kvm_run(registers: &mut bindings::pt_regs) -> bool {
    // SAFETY: Valid registers. (In 32-bit mode system calls have other numbers.)
    let is_kvm_run = unsafe { sys::kvm_inspect_user_64bit_mode(registers) }
        && registers.orig_ax == sys::KVM_INSPECT_NR_IOCTL as c_ulong
        && registers.si as u32 == sys::KVM_INSPECT_KVM_RUN
        && registers.dx == 0;
    // SAFETY: The current task is valid, and has an address space of its own or none.
    let owner = || unsafe { (*Task::current_raw()).mm };
    is_kvm_run
        && registers.ax == process::return_value(EINTR) as c_ulong
        && !process::current_has_signal()
        && hook::is_watched_vmm(owner().addr())
}
