// SPDX-License-Identifier: GPL-2.0

//! Locking vCPUs, so that nobody runs or changes them.
//!
//! Each `vcpu->mutex` is only tried, never waited for, as KVM's own `kvm_trylock_all_vcpus` does.
//! So no order of locks matters. KVM does that under `kvm->lock`, which keeps others from locking
//! all vCPUs at once. These would fail or wait in any case; and calls of the VMM that change the VM
//! need not wait.

use kernel::{
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use super::{
    Vcpu,
    Vm, //
};
use crate::bindings;

/// A mutex that its maker holds, and nobody else knows. By it lockdep sees that the mutexes of many
/// vCPUs, all of one class, are taken together.
///
/// # Invariants
///
/// `mutex` is initialized.
#[pin_data]
struct NestLock {
    #[pin]
    mutex: Opaque<bindings::mutex>,
}

impl NestLock {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: Initialized here.
            mutex <- Opaque::ffi_init(|slot: *mut bindings::mutex| {
                // SAFETY: `slot` is valid for writes, and pinned from here on.
                unsafe { bindings::init_nest_lock(slot) };
            }),
        })
    }
}

/// vCPUs that nobody can run or change while this lives.
///
/// # Invariants
///
/// The current task owns `nest`, and the `mutex` of each of `vcpus`, which are vCPUs of `vm` in the
/// order of their indices.
pub(crate) struct LockedVcpus<'a> {
    vm: &'a Vm,
    vcpus: KVVec<&'a Vcpu>,
    nest: Pin<KBox<NestLock>>,
    _not_send: NotThreadSafe,
}

impl<'a> LockedVcpus<'a> {
    /// Makes room for `capacity` vCPUs of `vm`. None is locked out yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn with_capacity(vm: &'a Vm, capacity: usize) -> Result<Self> {
        let vcpus = KVVec::with_capacity(capacity, GFP_KERNEL)?;
        let nest = KBox::pin_init(NestLock::new(), GFP_KERNEL)?;
        // SAFETY: By its type invariant. Nobody else knows it, so that this succeeds; the drop
        // releases it, in the same task.
        if !unsafe { bindings::trylock_nest(nest.mutex.get()) } {
            return Err(EBUSY);
        }
        // INVARIANT: The lock has just been taken.
        Ok(Self {
            vm,
            vcpus,
            nest,
            _not_send: NotThreadSafe,
        })
    }

    /// Locks out one more vCPU, one of a higher index than those before.
    ///
    /// # Errors
    ///
    /// `EBUSY`: it is running, or another ioctl works on it. `EINVAL`: it is another VM's, or comes
    /// too late. `ENOMEM`: there is no room.
    pub(crate) fn try_add(&mut self, vcpu: &'a Vcpu) -> Result {
        let is_next = |last: &&Vcpu| last.index() < vcpu.index();
        if vcpu.vm_id() != self.vm.id() || !self.vcpus.last().is_none_or(is_next) {
            return Err(EINVAL);
        }
        if self.vcpus.len() == self.vcpus.capacity() {
            return Err(ENOMEM);
        }
        // SAFETY: The vCPU is valid, and by the type invariant `nest` is held.
        if !unsafe { bindings::trylock_vcpu(vcpu.as_raw(), self.nest.mutex.get()) } {
            return Err(EBUSY);
        }
        // INVARIANT: The mutex has just been taken. There is room.
        self.vcpus.push_within_capacity(vcpu).map_err(|_| ENOMEM)
    }

    /// Lets all of them go.
    pub(crate) fn release(&mut self) {
        // INVARIANT: Each one that is unlocked has been taken off the list.
        while let Some(vcpu) = self.vcpus.pop() {
            // SAFETY: By the type invariant.
            unsafe { bindings::mutex_unlock(&raw mut (*vcpu.as_raw()).mutex) };
        }
    }

    /// Returns the vCPUs that are locked out.
    pub(crate) fn vcpus(&self) -> &[&'a Vcpu] {
        &self.vcpus
    }

    /// Returns whether `vcpu` is locked out.
    pub(crate) fn contains(&self, vcpu: &Vcpu) -> bool {
        let found = self
            .vcpus
            .binary_search_by_key(&vcpu.index(), |locked| locked.index());
        found.is_ok()
    }
}

impl Drop for LockedVcpus<'_> {
    fn drop(&mut self) {
        self.release();
        // SAFETY: By the type invariant. No vCPU is locked below it any more.
        unsafe { bindings::mutex_unlock(self.nest.mutex.get()) };
    }
}
