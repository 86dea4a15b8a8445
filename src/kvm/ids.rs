// SPDX-License-Identifier: GPL-2.0

//! What tells VMs apart. It says nothing about whether they still exist.

use crate::bindings;

/// The identity of a VM.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct VmId(usize);

impl VmId {
    /// Returns the identity of the VM at this address.
    pub(super) fn of(vm: *const bindings::kvm) -> Self {
        Self(vm.addr())
    }

    /// Returns the identity as a number, which is never 0.
    pub(crate) fn as_raw(self) -> usize {
        self.0
    }
}
