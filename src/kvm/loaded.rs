// SPDX-License-Identifier: GPL-2.0

//! KVM as a module, which must stay as long as there are VMs.

use kernel::{
    prelude::*,
    sync::global_lock, //
};

use super::reference;
use crate::{
    bindings,
    error::refuse, //
};

global_lock! {
    // SAFETY: `Kvm::new` initializes it before anything else uses it.
    /// Whether KVM is bound. The kernel's list of modules is looked at under the lock.
    unsafe(uninit) static IS_BOUND: Mutex<bool> = false;
}

/// KVM itself, which stays loaded from [`bind`] on until this is dropped. No
/// [`Vm`](super::Vm) outlives it.
pub(crate) struct Kvm(());

impl Kvm {
    /// Prepares all that is about KVM.
    ///
    /// # Safety
    ///
    /// This is called once, when the module is loaded, and the result outlives each
    /// [`Vm`](super::Vm).
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: By this function's contract.
        unsafe { IS_BOUND.init() };
        // SAFETY: By this function's contract.
        unsafe { reference::init() };
        Self(())
    }
}

/// Keeps KVM loaded from now on. No [`Vm`](super::Vm) is found before this.
///
/// # Errors
///
/// `ENOENT`: it is not loaded, after a line that says so.
pub(crate) fn bind() -> Result {
    let mut is_bound = IS_BOUND.lock();
    if !*is_bound {
        // SAFETY: With the lock nobody else sets these symbols, and nobody uses them yet.
        if !unsafe { bindings::bind_kvm() } {
            return Err(refuse!(
                ENOENT,
                "KVM is not loaded; load kvm_amd or kvm_intel, and start a VM"
            ));
        }
        *is_bound = true;
    }
    Ok(())
}

impl Drop for Kvm {
    fn drop(&mut self) {
        let mut is_bound = IS_BOUND.lock();
        if core::mem::take(&mut *is_bound) {
            // SAFETY: They are bound; by the contract of `new` no `Vm` is left.
            unsafe { bindings::unbind_kvm() };
        }
    }
}
