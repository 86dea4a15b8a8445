// SPDX-License-Identifier: GPL-2.0

//! The references to VMs that this module keeps for longer than a call of KVM_RUN, counted: so it
//! knows when nobody else has one any more.

use core::ops::Deref;

use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        global_lock, //
    }, //
};

use super::{
    Vm,
    VmId, //
};

global_lock! {
    // SAFETY: `init` initializes it before anything else uses it.
    /// How many there are for each VM. Nothing is taken under the lock.
    unsafe(uninit) static COUNTS: SpinLock<KVec<(VmId, u32)>> = KVec::new();
}

/// Prepares this file.
///
/// # Safety
///
/// This is called once, when the module is loaded, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: By this function's contract.
    unsafe { COUNTS.init() };
}

/// A counted reference to a VM.
pub(crate) struct VmRef(ARef<Vm>);

impl VmRef {
    /// Counts a reference. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(vm: ARef<Vm>) -> Result<Self> {
        let id = vm.id();
        let mut counts = COUNTS.lock();
        if let Some((_, count)) = counts.iter_mut().find(|(other, _)| *other == id) {
            *count = count.saturating_add(1);
        } else {
            counts.push((id, 1), GFP_NOWAIT)?;
        }
        drop(counts);
        Ok(Self(vm))
    }

    /// Returns one more. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Self::new(self.0.clone())
    }

    /// Returns whether nobody has a reference any more but this module.
    pub(crate) fn is_abandoned(&self) -> bool {
        let counts = COUNTS.lock();
        let own = counts.iter().find(|(id, _)| *id == self.id());
        self.users_count() <= own.map_or(0, |(_, count)| *count)
    }
}

impl Deref for VmRef {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.0
    }
}

impl Drop for VmRef {
    fn drop(&mut self) {
        let id = self.id();
        let mut counts = COUNTS.lock();
        let index = counts.iter().position(|(other, _)| *other == id);
        if let Some((index, (_, count))) = index.zip(index.and_then(|index| counts.get_mut(index)))
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                let _ = counts.remove(index);
            }
        }
        // The list is never dropped, so its memory must go with its last element.
        let memory = counts.is_empty().then(|| core::mem::take(&mut *counts));
        drop(counts);
        drop(memory);
    }
}
