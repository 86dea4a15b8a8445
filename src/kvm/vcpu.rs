// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_vcpu`: one virtual CPU.

use kernel::{
    prelude::*,
    sync::aref::ARef,
    task::Task,
    types::Opaque, //
};

use super::ids::{
    VcpuId,
    VmId, //
};
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

    /// Returns the identity of this vCPU.
    pub(crate) fn id(&self) -> VcpuId {
        VcpuId::of(self.as_raw())
    }

    /// Returns the identity of its VM.
    pub(crate) fn vm_id(&self) -> VmId {
        // SAFETY: By the type invariant `self` is valid; the field never changes.
        VmId::of(unsafe { (*self.as_raw()).kvm })
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

    pub(super) fn mutex(&self) -> *mut bindings::mutex {
        // SAFETY: By the type invariant `self` is valid.
        unsafe { &raw mut (*self.as_raw()).mutex }
    }

    /// Returns whether an ioctl, KVM_RUN or another, is working on the vCPU.
    pub(crate) fn is_busy(&self) -> bool {
        // SAFETY: By the type invariant `self` is valid.
        unsafe { bindings::mutex_is_locked(&raw mut (*self.as_raw()).mutex) }
    }
}
