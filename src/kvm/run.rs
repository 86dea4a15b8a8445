// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN, called by the vCPU's own thread and redirected by the hook.

use core::{
    marker::PhantomData,
    mem::transmute, //
};

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::NotThreadSafe, //
};

use super::{
    Vcpu,
    VmId, //
};
use crate::{
    bindings,
    linux::{
        kprobe::Arguments,
        task, //
    }, //
};

/// What [`RunCall::original`] adds to the `ioctl` argument, so that the probe lets it pass.
///
/// The argument is an `unsigned int`: by the calling convention nobody looks at the upper half of
/// its register, but the probe can. A mark in the call itself holds whatever other tracers do to
/// the stack (a return probe on the same function replaces the return address), and needs no
/// table. It is drawn at random when the module is loaded, never 0, so that it is no accident.
static OWN_CALL: Atomic<u64> = Atomic::new(0);

/// Draws the mark of this module's own calls. This comes before the first probe.
pub(crate) fn draw_mark() {
    // SAFETY: May be called from anywhere.
    let mark = unsafe { bindings::get_random_u32() } | 1;
    OWN_CALL.store(u64::from(mark) << 32, Relaxed);
}

/// Returns the VM whose vCPU a probed call of `kvm_vcpu_ioctl` is about to run.
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
    if ioctl & u64::from(u32::MAX) != u64::from(bindings::KVM_INSPECT_KVM_RUN)
        || arguments.third() != 0
    {
        return None;
    }
    let file = arguments.first() as *const bindings::file;
    // SAFETY: By this function's contract the first argument is the open file of a vCPU, which
    // keeps its VM.
    let vm = unsafe { (*(*file).private_data.cast::<bindings::kvm_vcpu>()).kvm };
    // SAFETY: The vCPU keeps its VM. The pointer is only compared.
    let owner = unsafe { (*vm).mm };
    (owner.cast_const() == task::current_mm()).then(|| VmId::of(vm))
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
    /// Returns the call with this first argument.
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

    /// Returns the vCPU.
    pub(crate) fn vcpu(&self) -> &Vcpu {
        // SAFETY: By the type invariant; the private data of a vCPU's file is the vCPU, and the
        // file keeps it.
        unsafe { Vcpu::from_raw((*self.file).private_data.cast()) }
    }

    fn run_page(&self) -> RunPage<'_> {
        // SAFETY: A valid vCPU; the field never changes.
        let page = unsafe { (*self.vcpu().as_raw()).run };
        // INVARIANT: The page lives as long as the vCPU.
        RunPage(page, PhantomData)
    }

    /// Lets KVM do the call.
    pub(crate) fn original(&self) -> c_long {
        self.ioctl(bindings::KVM_INSPECT_KVM_RUN)
    }

    /// Reports the pause to the guest, if that uses KVM's clock: its watchdogs then do not count
    /// the time that has passed (`Documentation/virt/kvm/api.rst`, `KVM_KVMCLOCK_CTRL`).
    pub(crate) fn report_pause_to_guest(&self) {
        // KVM refuses it for a guest that does not use the clock.
        self.ioctl(bindings::KVM_INSPECT_KVMCLOCK_CTRL);
    }

    fn ioctl(&self, command: c_uint) -> c_long {
        type Ioctl = unsafe extern "C" fn(*mut bindings::file, c_uint, c_ulong) -> c_long;
        type MarkedIoctl = unsafe extern "C" fn(*mut bindings::file, c_ulong, c_ulong) -> c_long;

        // SAFETY: By the type invariant.
        let ioctl: Option<Ioctl> = unsafe { (*(*self.file).f_op).unlocked_ioctl };
        let Some(ioctl) = ioctl else {
            return task::return_value(ENOTTY);
        };
        // SAFETY: For the x86-64 calling convention the two types are one; the callee ignores the
        // upper half of the second argument. (With kCFI they differ: see the assertion below.)
        let ioctl = unsafe { transmute::<Ioctl, MarkedIoctl>(ioctl) };
        let command = OWN_CALL.load(Relaxed) | u64::from(command);
        // SAFETY: The very call that the thread was about to make, or one before it that takes no
        // argument, as this does.
        unsafe { ioctl(self.file, command as c_ulong, 0) }
    }

    /// Has KVM complete what the last exit to the VMM left unfinished, an IN for example, without
    /// entering the guest. Returns a result that KVM meant for the VMM, which must get it:
    /// completing the exit has brought about another one, or KVM refused the call.
    ///
    /// With `immediate_exit` set KVM_RUN does that and returns `-EINTR`. If the VMM takes that
    /// back, the guest is entered, and the next kick ends that.
    ///
    /// The page is left as the VMM's own call, which follows, would leave it.
    // Not inlined: KVM_RUN needs the stack, so this frame must be gone by then.
    #[inline(never)]
    pub(crate) fn complete_last_exit(&self) -> Option<c_long> {
        // Not 1, to tell it from what the VMM may write there meanwhile.
        const OUR_IMMEDIATE_EXIT: u8 = 2;

        let page = self.run_page();
        page.exchange_immediate_exit(0, OUR_IMMEDIATE_EXIT);
        let result = self.original();
        page.exchange_immediate_exit(OUR_IMMEDIATE_EXIT, 0);
        (result != task::return_value(EINTR)).then_some(result)
    }

    /// Returns the value by which the call starts over, without KVM's having been called, or only
    /// by [`Self::complete_last_exit`].
    ///
    /// If it ends with `EINTR` instead (see [`task::restart_current_call`]), the VMM finds the
    /// reason that KVM would have given, not that of the exit before, which it has dealt with.
    pub(crate) fn start_over(&self) -> c_long {
        self.run_page().set_exit_reason(bindings::KVM_EXIT_INTR);
        task::restart_current_call()
    }
}

/// The `kvm_run` page of a vCPU, which the VMM may write at any time.
///
/// # Invariants
///
/// The pointer is to a page that stays mapped for the lifetime. It is accessed by volatile and
/// atomic operations only.
struct RunPage<'a>(*mut bindings::kvm_run, PhantomData<&'a ()>);

impl RunPage<'_> {
    fn set_exit_reason(&self, reason: u32) {
        // SAFETY: By the type invariant.
        unsafe { (&raw mut (*self.0).exit_reason).write_volatile(reason) };
    }

    /// Sets `immediate_exit` to `new` if it is `old`.
    fn exchange_immediate_exit(&self, old: u8, new: u8) {
        // SAFETY: By the type invariant.
        unsafe { bindings::cmpxchg_u8(&raw mut (*self.0).immediate_exit__unsafe, old, new) };
    }
}

// A call through a pointer of another type is what kCFI is there to stop.
static_assert!(!cfg!(CONFIG_CFI));
