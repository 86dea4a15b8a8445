// SPDX-License-Identifier: GPL-2.0

//! The map of a guest's memory, and what to do with each stretch of it.

use kernel::{
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef, //
};

use super::PAGE;
use crate::{
    kvm::{
        Memslot,
        Memslots,
        Vm, //
    },
    range::{
        self,
        Range, //
    }, //
};

/// How many pages of guest_memfd KVM is asked about at once.
const PRIVATE_PAGES_AT_ONCE: u64 = 4096;

/// What to do with a stretch of pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Read it.
    Read,
    /// Only count how much of it is present.
    Count,
    /// Only count it: address space 0 has the same pages at the same place, and they are read
    /// there.
    SharedWithNormal,
    /// Nothing: it is private to the guest.
    Private,
}

impl Plan {
    /// Returns whether a match in a stretch that is read may reach into this one.
    pub(super) fn is_readable(self) -> bool {
        matches!(self, Self::Read | Self::SharedWithNormal)
    }
}

/// The memory of a guest: its memslots.
///
/// Of these, `ranges` say what to read; an empty list means nothing.
pub(crate) struct Map {
    vm: ARef<Vm>,
    slots: Memslots,
}

impl Map {
    /// Creates the map of `vm`, which has `slots`.
    pub(crate) fn new(vm: ARef<Vm>, slots: Memslots) -> Self {
        Self { vm, slots }
    }

    /// Returns the VM.
    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Returns the memslots, in ascending order of address space and address.
    pub(crate) fn slots(&self) -> &[Memslot] {
        self.slots.as_slice()
    }

    /// Returns whether the VMM has changed the memslots since they were read.
    pub(crate) fn has_changed(&self) -> bool {
        self.slots.have_changed(&self.vm)
    }

    /// Returns what to do with the page at `gpa` of `slot`, and for how many pages from there on
    /// this holds.
    pub(crate) fn plan(&self, ranges: &[Range], slot: &Memslot, gpa: u64) -> (Plan, u64) {
        let (private, last) = self.private(slot, gpa);
        let pages_to = |last: u64| (last.wrapping_sub(gpa) >> PAGE_SHIFT).saturating_add(1);
        let all = pages_to(last);
        if private {
            return (Plan::Private, all);
        }
        let (in_range, pages) = match range::clip(ranges, gpa, last).next() {
            None => (false, all),
            Some(Range { first, .. }) if first & !(PAGE - 1) > gpa => {
                (false, pages_to(first).saturating_sub(1))
            }
            Some(Range { last, .. }) => (true, pages_to(last)),
        };
        if !in_range {
            return (Plan::Count, pages);
        }
        let (shared, last) = self.is_shared_with_normal(slot, gpa);
        let plan = if shared {
            Plan::SharedWithNormal
        } else {
            Plan::Read
        };
        (plan, pages.min(pages_to(last)))
    }

    /// Visits the stretches of a slot from page `first` up to page `end`, in order: what to do, the
    /// number of the first page in the slot, and that of the last one plus one.
    pub(crate) fn for_each_stretch<E>(
        &self,
        ranges: &[Range],
        slot: &Memslot,
        first: u64,
        end: u64,
        mut visit: impl FnMut(Plan, u64, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut page = first;
        while page < end {
            let (plan, pages) = self.plan(ranges, slot, slot.gpa_at(page));
            let next = page.saturating_add(pages).min(end);
            visit(plan, page, next)?;
            page = next;
        }
        Ok(())
    }

    /// Returns what to do with the page at `gpa` of an address space, and its host-virtual address,
    /// if there is one.
    pub(super) fn page_at(
        &self,
        ranges: &[Range],
        address_space: c_int,
        gpa: u64,
    ) -> Option<(Plan, u64)> {
        let slot = self.slot_at(address_space, gpa)?;
        Some((self.plan(ranges, slot, gpa).0, slot.hva_of(gpa)))
    }

    /// Returns the index of the slot that contains `gpa`.
    pub(crate) fn slot_index(&self, address_space: c_int, gpa: u64) -> Option<usize> {
        let index = self.slots_up_to(address_space, gpa).checked_sub(1)?;
        let slot = self.slots().get(index)?;
        (slot.address_space == address_space && slot.last_gpa() >= gpa).then_some(index)
    }

    fn slot_at(&self, address_space: c_int, gpa: u64) -> Option<&Memslot> {
        self.slots().get(self.slot_index(address_space, gpa)?)
    }

    /// Returns how many slots begin at `gpa` or before it.
    fn slots_up_to(&self, address_space: c_int, gpa: u64) -> usize {
        self.slots()
            .partition_point(|slot| (slot.address_space, slot.gpa) <= (address_space, gpa))
    }

    /// Returns whether the page at `gpa` of `slot` is private to the guest, and up to which address
    /// this is known to hold.
    fn private(&self, slot: &Memslot, gpa: u64) -> (bool, u64) {
        let last = slot.last_gpa();
        if !slot.may_be_private() {
            return (false, last);
        }
        let private = self.vm.is_private(gpa);
        let end = last.min(gpa.saturating_add(PRIVATE_PAGES_AT_ONCE << PAGE_SHIFT));
        let mut next = gpa;
        while let Some(after) = next.checked_add(PAGE).filter(|after| *after <= end) {
            if self.vm.is_private(after) != private {
                break;
            }
            next = after;
        }
        (private, next | (PAGE - 1))
    }

    /// Returns whether address space 0 has the same page as `slot` at `gpa`, and up to which
    /// address this holds.
    fn is_shared_with_normal(&self, slot: &Memslot, gpa: u64) -> (bool, u64) {
        if slot.address_space == 0 {
            return (false, slot.last_gpa());
        }
        if let Some(normal) = self.slot_at(0, gpa) {
            let last = slot.last_gpa().min(normal.last_gpa());
            return (normal.hva_of(gpa) == slot.hva_of(gpa), last);
        }
        let next = self.slots().get(self.slots_up_to(0, gpa));
        let next = next.filter(|next| next.address_space == 0);
        let last = next.map_or(u64::MAX, |next| next.gpa.wrapping_sub(1));
        (false, slot.last_gpa().min(last))
    }
}
