// SPDX-License-Identifier: GPL-2.0

//! The table of watched VMs, for the probes' handlers, which must not wait: words without a lock.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    task::Task, //
};

use crate::{
    kvm::{
        Vm,
        VmId, //
    },
    linux::task, //
};

/// The most VMs that are watched at once, those of one process.
pub(crate) const MAX_VMS: usize = 64;

/// The watched VMs: [`VmId::as_raw`] or 0.
static VMS: [Atomic<usize>; MAX_VMS] = [const { Atomic::new(0) }; MAX_VMS];

/// For each of [`VMS`] the address space of its VMM; only compared.
static VMMS: [Atomic<usize>; MAX_VMS] = [const { Atomic::new(0) }; MAX_VMS];

/// How many places [`STARTING_OVER`] has, as a power of two.
const PLACES_SHIFT: u32 = 8;

/// The threads whose call of KVM_RUN is about to start over: the addresses of their tasks, only
/// compared. Two threads may share a place; then the later one has it.
static STARTING_OVER: [Atomic<usize>; 1 << PLACES_SHIFT] =
    [const { Atomic::new(0) }; 1 << PLACES_SHIFT];

/// How many of [`VMS`] have ever been in use, so that the handlers look at no more.
static LEN: Atomic<usize> = Atomic::new(0);

/// One VM's entry in the table, which the drop removes.
pub(super) struct Entry {
    vm: &'static Atomic<usize>,
    vmm: &'static Atomic<usize>,
}

impl Entry {
    /// Enters `vm`. The caller holds the lock that makes this the only call at a time.
    ///
    /// # Errors
    ///
    /// `E2BIG`: [`MAX_VMS`] are watched already.
    pub(super) fn claim(vm: &Vm) -> Result<Self> {
        let mut entries = VMS.iter().zip(&VMMS).zip(1..);
        let ((entry, vmm), len) = entries
            .find(|((entry, _), _)| entry.load(Relaxed) == 0)
            .ok_or(E2BIG)?;
        vmm.store(vm.mm().as_raw().addr(), Relaxed);
        entry.store(vm.id().as_raw(), Relaxed);
        LEN.store(LEN.load(Relaxed).max(len), Relaxed);
        Ok(Self { vm: entry, vmm })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.vmm.store(0, Relaxed);
        self.vm.store(0, Relaxed);
    }
}

/// Returns whether `vm` is watched, as a VM of the VMM with the address space `mm`: when a watched
/// VM has gone, another VMM may get one at the same address. Does not sleep.
pub(super) fn has_vm(vm: VmId, mm: usize) -> bool {
    let mut entries = VMS.iter().zip(&VMMS).take(LEN.load(Relaxed));
    entries.any(|(entry, vmm)| entry.load(Relaxed) == vm.as_raw() && vmm.load(Relaxed) == mm)
}

/// Returns whether a VM is watched whose VMM has the address space `mm`. Does not sleep.
pub(super) fn has_vmm(mm: usize) -> bool {
    VMMS.iter()
        .take(LEN.load(Relaxed))
        .any(|vmm| vmm.load(Relaxed) == mm && mm != 0)
}

/// Notes whether a call of the current thread is about to start over. Does not sleep.
pub(super) fn set_starting_over(is_starting_over: bool) {
    let (place, task) = place_of_current();
    if is_starting_over {
        place.store(task, Relaxed);
    } else if place.load(Relaxed) == task {
        place.store(0, Relaxed);
    }
}

/// Returns whether a call of the current thread is about to start over. Does not sleep.
pub(super) fn is_starting_over() -> bool {
    let (place, task) = place_of_current();
    place.load(Relaxed) == task
}

/// Forgets which threads were about to start over: they have, unseen by a probe.
pub(super) fn clear_starting_over() {
    for place in &STARTING_OVER {
        place.store(0, Relaxed);
    }
}

/// Returns the place of the current thread in [`STARTING_OVER`], and what is there if it has it.
fn place_of_current() -> (&'static Atomic<usize>, usize) {
    let index = task::hash_of_current(PLACES_SHIFT);
    (&STARTING_OVER[index], Task::current_raw().addr())
}

/// Returns whether no VM was ever watched, so that no thread was ever redirected.
pub(super) fn is_unused() -> bool {
    LEN.load(Relaxed) == 0
}
