// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN, called by the vCPU's own thread and taken over by the hook.

use core::{
    marker::PhantomData,
    mem::transmute, //
};

use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    types::NotThreadSafe, //
};

use super::{
    Registers,
    Vcpu,
    VmId, //
};
use crate::{
    kprobe::Arguments,
    process::{
        self,
        NoIo, //
    },
    sys, //
};

/// What [`RunCall::original`] adds to the `ioctl` argument, so that the probe lets it pass.
///
/// The argument is an `unsigned int`: by the calling convention nobody looks at the upper half of
/// its register, but the probe can. A mark in the call itself holds whatever other tracers do to
/// the stack (a return probe on the same function replaces the return address), and needs no
/// table. It is drawn at random when the module is loaded, never 0, so that it is no accident.
static OWN_CALL: Atomic<u64> = Atomic::new(0);

/// Draws the mark of this module's own calls. To be called once, before the first probe.
pub(crate) fn init() {
    // SAFETY: May be called from anywhere.
    let mark = unsafe { bindings::get_random_u32() } | 1;
    OWN_CALL.store(u64::from(mark) << 32, Relaxed);
}

/// The VM whose vCPU a probed call of `kvm_vcpu_ioctl` is about to run.
///
/// [`None`] for all else: other ioctls, calls of this module, calls that KVM will refuse. Does not
/// sleep.
///
/// # Safety
///
/// `arguments` are those of a call of `kvm_vcpu_ioctl`.
pub(crate) unsafe fn vm_about_to_run(arguments: &Arguments<'_>) -> Option<VmId> {
    // Above all, the calls of our own: to catch these would be an endless loop.
    let mark = OWN_CALL.load(Relaxed);
    let ioctl = u64::try_from(arguments.second()).ok()?;
    if ioctl & !u64::from(u32::MAX) == mark {
        return None;
    }
    // The third argument must be 0.
    if ioctl & u64::from(u32::MAX) != u64::from(sys::KVM_INSPECT_KVM_RUN) || arguments.third() != 0
    {
        return None;
    }
    let file = arguments.first() as *const bindings::file;
    // SAFETY: By this function's contract the first argument is the open file of a vCPU, which
    // keeps its VM.
    let vm = unsafe { (*(*file).private_data.cast::<sys::kvm_vcpu>()).kvm };
    // SAFETY: As above. Only compared.
    let owner = unsafe { (*vm).mm };
    // SAFETY: The current task is valid, and has an address space of its own or none.
    let ours = unsafe { (*kernel::task::Task::current_raw()).mm };
    (owner == ours).then(|| VmId::of(vm))
}

/// One call of KVM_RUN by the current thread.
///
/// # Invariants
///
/// `file` is the open file of a vCPU, which stays open during the call, and the current task is
/// the one that makes the call, in the VM's address space.
pub(crate) struct RunCall<'a> {
    file: *mut bindings::file,
    _call: PhantomData<&'a ()>,
    _not_send: NotThreadSafe,
}

impl RunCall<'_> {
    /// The call with this first argument.
    ///
    /// # Safety
    ///
    /// The current task has called `kvm_vcpu_ioctl` with `file` and KVM_RUN, as
    /// [`vm_about_to_run`] tells, and has not returned before the result is gone.
    pub(crate) unsafe fn from_raw(file: *mut bindings::file) -> Self {
        // INVARIANT: By this function's contract; `ioctl(2)` holds the file.
        Self {
            file,
            _call: PhantomData,
            _not_send: NotThreadSafe,
        }
    }

    /// The vCPU.
    pub(crate) fn vcpu(&self) -> &Vcpu {
        // SAFETY: By the type invariant; the private data of a vCPU's file is the vCPU, and the
        // file keeps it.
        unsafe { Vcpu::from_raw((*self.file).private_data.cast()) }
    }

    fn run(&self) -> *mut sys::kvm_run {
        // SAFETY: A valid vCPU; the field never changes, and the page lives as long as the vCPU.
        unsafe { (*self.vcpu().as_raw()).run }
    }

    /// Lets KVM do the call.
    pub(crate) fn original(&self) -> c_long {
        self.ioctl(sys::KVM_INSPECT_KVM_RUN)
    }

    /// Has KVM tell the guest that it stood, if that uses KVM's clock: its watchdogs then do not take
    /// the time that has passed for its own (`Documentation/virt/kvm/api.rst`, `KVM_KVMCLOCK_CTRL`).
    pub(crate) fn tell_guest_that_it_stood(&self) {
        // It is refused for a guest that does not use the clock.
        self.ioctl(sys::KVM_INSPECT_KVMCLOCK_CTRL);
    }

    fn ioctl(&self, command: c_uint) -> c_long {
        type Ioctl = unsafe extern "C" fn(*mut bindings::file, c_uint, c_ulong) -> c_long;
        type MarkedIoctl = unsafe extern "C" fn(*mut bindings::file, c_ulong, c_ulong) -> c_long;

        // SAFETY: By the type invariant.
        let ioctl: Option<Ioctl> = unsafe { (*(*self.file).f_op).unlocked_ioctl };
        let Some(ioctl) = ioctl else {
            return process::return_value(ENOTTY);
        };
        // SAFETY: For the x86-64 calling convention the two types are one; the callee ignores the
        // upper half of the second argument. (With kCFI they differ: see the assertion below.)
        let ioctl = unsafe { transmute::<Ioctl, MarkedIoctl>(ioctl) };
        let command = OWN_CALL.load(Relaxed) | u64::from(command);
        // SAFETY: The very call that the thread was about to make, or one before it that takes no
        // argument, as this does.
        unsafe { ioctl(self.file, command as c_ulong, 0) }
    }

    /// Lets KVM write down the registers, without entering the guest.
    ///
    /// With `immediate_exit` set KVM_RUN completes what the last exit to the VMM left unfinished,
    /// an IN for one, and returns `-EINTR`; on its way out it stores what `kvm_valid_regs` asks
    /// for (`arch/x86/kvm/x86.c`, `kvm_arch_vcpu_ioctl_run`). That is the truth on AMD and on
    /// Intel, and calls nothing that KVM does not export. A nested guest's are told while that runs.
    ///
    /// The fields used here are put back. Those that every KVM_RUN reads (`kvm_dirty_regs`) or
    /// writes (`flags`, `if_flag`, `cr8`, `apic_base`) it reads and writes here, as the VMM's own
    /// call would, which is to follow.
    ///
    /// No registers are told if KVM did not store them, as it does not for a protected guest, or
    /// if there is no memory.
    ///
    /// # Errors
    ///
    /// A result that KVM meant for the VMM, which must get it: completing the last exit has
    /// brought about another one, or the call was refused.
    // Its frame shall not lie under that of KVM_RUN, which is deep.
    #[inline(never)]
    pub(crate) fn read_registers(&self) -> (Option<Arc<Registers>>, Result<(), c_long>) {
        // Not 1, to tell it from what the VMM may write there meanwhile.
        const OUR_IMMEDIATE_EXIT: u8 = 2;
        const OURS: u64 = (sys::KVM_SYNC_X86_REGS | sys::KVM_SYNC_X86_SREGS) as u64;
        // `X86_EFLAGS_FIXED`, set in each value that rflags can have.
        const RFLAGS_FIXED: u64 = 1 << 1;

        let run = self.run();
        // SAFETY: By the type invariant these fields are there. User space may change them at any
        // time: they are accessed by volatile and atomic operations only.
        let (valid_regs, dirty_regs, immediate_exit, regs, sregs) = unsafe {
            let stored = (&raw mut (*run).s.regs).cast::<sys::kvm_sync_regs>();
            (
                &raw mut (*run).kvm_valid_regs,
                &raw const (*run).kvm_dirty_regs,
                &raw mut (*run).immediate_exit__unsafe,
                &raw mut (*stored).regs,
                &raw mut (*stored).sregs,
            )
        };
        // SAFETY: As above, here and in the following.
        let (saved_valid_regs, saved_regs, saved_sregs) = unsafe {
            (
                valid_regs.read_volatile(),
                regs.read_volatile(),
                sregs.read_volatile(),
            )
        };
        // SAFETY: As above.
        unsafe {
            if dirty_regs.read_volatile() & u64::from(sys::KVM_SYNC_X86_REGS) == 0 {
                // To be seen to change. (Otherwise KVM is about to read it.)
                (&raw mut (*regs).rflags).write_volatile(0);
            }
            valid_regs.write_volatile(saved_valid_regs | OURS);
            sys::kvm_inspect_cmpxchg_u8(immediate_exit, 0, OUR_IMMEDIATE_EXIT);
        }

        let result = self.original();

        // SAFETY: As above.
        let (stored_regs, stored_sregs) = unsafe {
            sys::kvm_inspect_cmpxchg_u8(immediate_exit, OUR_IMMEDIATE_EXIT, 0);
            valid_regs.write_volatile(saved_valid_regs);
            (regs.read_volatile(), sregs.read_volatile())
        };
        let stored = stored_regs.rflags & RFLAGS_FIXED != 0;
        // What the VMM has itself asked for stays as KVM wrote it.
        if !stored || saved_valid_regs & u64::from(sys::KVM_SYNC_X86_REGS) == 0 {
            // SAFETY: As above.
            unsafe { regs.write_volatile(saved_regs) };
        }
        if !stored || saved_valid_regs & u64::from(sys::KVM_SYNC_X86_SREGS) == 0 {
            // SAFETY: As above.
            unsafe { sregs.write_volatile(saved_sregs) };
        }

        let _no_io = NoIo::begin();
        let registers = stored.then(|| Registers::from_kvm(&stored_regs, &stored_sregs));
        let registers = registers.and_then(|registers| Arc::new(registers, GFP_KERNEL).ok());
        if result == process::return_value(EINTR) {
            (registers, Ok(()))
        } else {
            (registers, Err(result))
        }
    }

    /// The reason of the vCPU's last exit, in the page that the VMM sees.
    pub(crate) fn exit_reason(&self) -> u32 {
        // SAFETY: As in `read_registers`.
        unsafe { (&raw const (*self.run()).exit_reason).read_volatile() }
    }

    /// Puts back the reason of the last exit after a return that the VMM will not see.
    pub(crate) fn restore_exit_reason(&self, reason: u32) {
        // SAFETY: As in `read_registers`.
        unsafe { (&raw mut (*self.run()).exit_reason).write_volatile(reason) };
    }
}

// A call through a pointer of another type is what kCFI is there to stop.
static_assert!(!cfg!(CONFIG_CFI));
