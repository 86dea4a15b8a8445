// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_vcpu`: one virtual CPU.

use kernel::{
    prelude::*,
    sync::aref::ARef,
    task::Task,
    types::Opaque, //
};

use super::ids::VmId;
use crate::{
    bindings,
    linux::task, //
};

/// A virtual CPU, which lives as long as its VM.
///
/// # Invariants
///
/// All instances are vCPUs that KVM made, and whose VM exists.
#[repr(transparent)]
pub(crate) struct Vcpu(Opaque<bindings::kvm_vcpu>);

impl Vcpu {
    /// Wraps a pointer to a vCPU.
    ///
    /// # Safety
    ///
    /// `vcpu` points to a vCPU whose VM exists throughout the lifetime `'a`.
    pub(super) unsafe fn from_raw<'a>(vcpu: *mut bindings::kvm_vcpu) -> &'a Self {
        // SAFETY: By this function's contract; `Vcpu` is a transparent wrapper.
        // INVARIANT: By this function's contract.
        unsafe { &*vcpu.cast::<Self>() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::kvm_vcpu {
        self.0.get()
    }

    /// Returns the identity of its VM.
    pub(crate) fn vm_id(&self) -> VmId {
        // SAFETY: By the type invariant `self` is valid; the field never changes.
        VmId::of(unsafe { (*self.as_raw()).kvm })
    }

    /// Returns its index: vCPUs are counted from 0, in the order of their creation.
    pub(crate) fn index(&self) -> usize {
        // SAFETY: By the type invariant `self` is valid; the field never changes.
        let index = unsafe { (*self.as_raw()).vcpu_idx };
        usize::try_from(index).unwrap_or(usize::MAX)
    }

    /// Returns the number that the VMM gave the vCPU, usually its APIC id.
    pub(crate) fn number(&self) -> c_int {
        // SAFETY: By the type invariant `self` is valid; the field never changes.
        unsafe { (*self.as_raw()).vcpu_id }
    }

    /// Returns the thread that called KVM_RUN last; [`None`] if there was none or it has ended.
    pub(crate) fn thread(&self) -> Option<ARef<Task>> {
        // SAFETY: By the type invariant `self` is valid.
        let task = unsafe { bindings::get_vcpu_task(self.as_raw()) };
        // SAFETY: The result is null or a reference that is ours.
        unsafe { task::owned(task) }
    }

    /// Returns whether a thread is in KVM_RUN, for the guest to run.
    pub(crate) fn is_in_kvm_run(&self) -> bool {
        // SAFETY: By the type invariant `self` is valid.
        unsafe { bindings::vcpu_wants_to_run(self.as_raw()) }
    }

    /// Returns the number of the thread that holds the vCPU's mutex, if any does, and in which
    /// ioctl.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let mut ioctl = 0;
        // SAFETY: By the type invariant `self` is valid; `ioctl` is valid for writing.
        let thread =
            unsafe { bindings::mutex_holder(&raw mut (*self.as_raw()).mutex, &raw mut ioctl) };
        (thread != 0).then_some(Holder { thread, ioctl })
    }

    /// Kicks the thread that is in KVM_RUN. One that is elsewhere, in user space or in another
    /// system call, is left alone: it would see an `EINTR` that it did not expect. Returns whether
    /// it was kicked, and was not already.
    pub(crate) fn kick(&self) -> bool {
        if !self.is_in_kvm_run() {
            return false;
        }
        let Some(thread) = self.thread() else {
            return false;
        };
        // SAFETY: By the type invariant `self` is valid, and so is the task.
        let is_kicked =
            unsafe { bindings::set_notify_flag_in_kvm_run(self.as_raw(), thread.as_ptr()) };
        if is_kicked {
            task::wake_kicked(&thread);
        }
        is_kicked
    }
}

/// The thread that works on a vCPU.
#[derive(Clone, Copy)]
pub(crate) struct Holder {
    /// Its number, in the first PID namespace.
    pub(crate) thread: c_int,
    /// Its ioctl, 0 if it makes none.
    pub(crate) ioctl: c_uint,
}
