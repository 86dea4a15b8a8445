// SPDX-License-Identifier: GPL-2.0

//! Locking out vCPUs that are not parked, so that nobody runs them.
//!
//! Lock order: `kvm->lock`, then `vcpu->mutex` (`Documentation/virt/kvm/locking.rst`). All are only
//! tried, never waited for, as KVM's own `kvm_trylock_all_vcpus` does.

use kernel::{
    prelude::*,
    types::NotThreadSafe, //
};

use super::{
    Vcpu,
    Vm, //
};
use crate::bindings;

/// vCPUs that nobody can run or change while this lives.
///
/// `kvm->lock` is held throughout, so that no vCPU can be added, and so that lockdep accepts many
/// locks of one class.
///
/// # Invariants
///
/// The current task owns `vm->lock` and the `mutex` of each of `vcpus`, which are vCPUs of `vm`.
pub(crate) struct LockedVcpus<'a> {
    vm: &'a Vm,
    vcpus: KVec<&'a Vcpu>,
    _not_send: NotThreadSafe,
}

impl<'a> LockedVcpus<'a> {
    /// Locks `vm`, with room for `capacity` vCPUs.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody is changing the VM. `ENOMEM`.
    pub(crate) fn try_new(vm: &'a Vm, capacity: usize) -> Result<Self> {
        let vcpus = KVec::with_capacity(capacity, GFP_KERNEL)?;
        // SAFETY: `vm` is a valid VM.
        if unsafe { bindings::mutex_trylock(&raw mut (*vm.as_raw()).lock) } == 0 {
            return Err(EBUSY);
        }
        // INVARIANT: `vm->lock` has just been taken.
        Ok(Self {
            vm,
            vcpus,
            _not_send: NotThreadSafe,
        })
    }

    /// Locks out one more vCPU.
    ///
    /// # Errors
    ///
    /// `EBUSY`: it is running, or another ioctl works on it. `EINVAL`: it is another VM's.
    /// `ENOMEM`: there is no room.
    pub(crate) fn try_add(&mut self, vcpu: &'a Vcpu) -> Result {
        if vcpu.vm_id() != self.vm.id() {
            return Err(EINVAL);
        }
        if self.vcpus.len() == self.vcpus.capacity() {
            return Err(ENOMEM);
        }
        // SAFETY: Both are valid, and by the type invariant `vm->lock` is held.
        let taken = unsafe {
            bindings::mutex_trylock_nest_lock(
                &raw mut (*vcpu.as_raw()).mutex,
                &raw mut (*self.vm.as_raw()).lock,
            )
        };
        if !taken {
            return Err(EBUSY);
        }
        // INVARIANT: The mutex has just been taken. There is room.
        self.vcpus.push_within_capacity(vcpu).map_err(|_| ENOMEM)
    }

    /// Returns how many vCPUs are locked out.
    pub(crate) fn len(&self) -> usize {
        self.vcpus.len()
    }

    /// Returns whether `vcpu` is locked out.
    pub(crate) fn contains(&self, vcpu: &Vcpu) -> bool {
        self.vcpus.iter().any(|locked| locked.id() == vcpu.id())
    }
}

impl Drop for LockedVcpus<'_> {
    fn drop(&mut self) {
        for vcpu in &self.vcpus {
            // SAFETY: By the type invariant.
            unsafe { bindings::mutex_unlock(&raw mut (*vcpu.as_raw()).mutex) };
        }
        // SAFETY: By the type invariant.
        unsafe { bindings::mutex_unlock(&raw mut (*self.vm.as_raw()).lock) };
    }
}
