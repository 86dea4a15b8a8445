// SPDX-License-Identifier: GPL-2.0

//! Keeping vCPUs from running that do not stand in this module.
//!
//! Lock order: `kvm->lock`, then `vcpu->mutex` (`Documentation/virt/kvm/locking.rst`). All are
//! only tried, never waited for.

use kernel::{
    prelude::*,
    types::NotThreadSafe, //
};

use super::{
    Vcpu,
    Vm, //
};
use crate::sys;

/// vCPUs that nobody can run or change while this lives.
///
/// `kvm->lock` is held throughout, so that no vCPU can be added, and so that lockdep takes the
/// many locks of one class for what they are.
///
/// # Invariants
///
/// The current task owns `vm->lock` and the `mutex` of each of `vcpus`, which are vCPUs of `vm`.
pub(crate) struct HeldOut<'a> {
    vm: &'a Vm,
    vcpus: KVec<&'a Vcpu>,
    _not_send: NotThreadSafe,
}

impl<'a> HeldOut<'a> {
    /// Starts with no vCPU and room for `capacity` of them.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody is changing the VM just now. `ENOMEM`.
    pub(crate) fn try_new(vm: &'a Vm, capacity: usize) -> Result<Self> {
        let vcpus = KVec::with_capacity(capacity, GFP_KERNEL)?;
        // SAFETY: `vm` is a valid VM, here and below.
        if unsafe { sys::mutex_trylock(&raw mut (*vm.as_raw()).lock) } == 0 {
            return Err(EBUSY);
        }
        // INVARIANT: `vm->lock` has just been taken.
        Ok(Self {
            vm,
            vcpus,
            _not_send: NotThreadSafe,
        })
    }

    /// Holds out one more vCPU.
    ///
    /// # Errors
    ///
    /// `EBUSY`: it is running, or another ioctl works on it. `ENOMEM`: there is no room.
    pub(crate) fn try_add(&mut self, vcpu: &'a Vcpu) -> Result {
        if vcpu.vm_id() != self.vm.id() {
            return Err(EINVAL);
        }
        if self.vcpus.len() == self.vcpus.capacity() {
            return Err(ENOMEM);
        }
        // SAFETY: Both are valid, and by the type invariant `vm->lock` is held.
        let taken = unsafe {
            sys::kvm_inspect_mutex_trylock_nested(
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

    /// How many vCPUs are held out.
    pub(crate) fn len(&self) -> usize {
        self.vcpus.len()
    }

    /// Whether `vcpu` is held out.
    pub(crate) fn contains(&self, vcpu: &Vcpu) -> bool {
        self.vcpus.iter().any(|held| held.id() == vcpu.id())
    }
}

impl Drop for HeldOut<'_> {
    fn drop(&mut self) {
        for vcpu in &self.vcpus {
            // SAFETY: By the type invariant.
            unsafe { sys::mutex_unlock(&raw mut (*vcpu.as_raw()).mutex) };
        }
        // SAFETY: By the type invariant.
        unsafe { sys::mutex_unlock(&raw mut (*self.vm.as_raw()).lock) };
    }
}
