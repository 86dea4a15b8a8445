// SPDX-License-Identifier: GPL-2.0

//! What is wanted of each stretch of the guest's memory.

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
    parameters::Wanted,
    range::{
        self,
        Range, //
    },
};

/// How many pages of guest_memfd are asked about at once.
const PRIVATE_PAGES_AT_ONCE: u64 = 4096;

/// What is wanted of a stretch of pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// To search it.
    Search,
    /// Nothing but how much of it is there.
    Count,
    /// The same, for it is searched as memory outside SMM.
    Seen,
    /// Nothing, it is private to the guest.
    Private,
}

impl Plan {
    /// Whether a match may reach into such a stretch from one that is searched.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::Search | Self::Seen)
    }
}

/// The memory of a guest: its memslots, and what is wanted of them.
pub(crate) struct Map {
    vm: ARef<Vm>,
    slots: Memslots,
}

impl Map {
    /// The memory of `vm`, which has `slots`.
    pub(crate) fn new(vm: ARef<Vm>, slots: Memslots) -> Self {
        Self { vm, slots }
    }

    /// The VM.
    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The memslots, in ascending order of address space and address.
    pub(crate) fn slots(&self) -> &[Memslot] {
        self.slots.as_slice()
    }

    /// Whether the VMM has changed the memslots since they were read.
    pub(crate) fn has_changed(&self) -> bool {
        self.slots.have_changed(&self.vm)
    }

    /// What is wanted of the page at `gpa` of `slot`, and for how many from there on this holds.
    pub(super) fn plan(&self, wanted: &Wanted, slot: &Memslot, gpa: u64) -> (Plan, u64) {
        let (private, last) = self.private(slot, gpa);
        let pages_to = |last: u64| (last.wrapping_sub(gpa) >> PAGE_SHIFT).saturating_add(1);
        let all = pages_to(last);
        if private {
            return (Plan::Private, all);
        }
        if wanted.patterns.is_empty() {
            return (Plan::Count, all);
        }
        let (in_range, pages) = match range::clip(&wanted.ranges, gpa, last).next() {
            None => (false, all),
            Some(Range { first, .. }) if first & !(PAGE - 1) > gpa => {
                (false, pages_to(first).saturating_sub(1))
            }
            Some(Range { last, .. }) => (true, pages_to(last)),
        };
        if !in_range {
            return (Plan::Count, pages);
        }
        let (seen, last) = self.seen_outside_smm(slot, gpa);
        let plan = if seen { Plan::Seen } else { Plan::Search };
        (plan, pages.min(pages_to(last)))
    }

    /// Visits the stretches of a slot from page `first` up to page `end`, in order: what is wanted,
    /// the first page's number in the slot, the last one's and one more.
    pub(super) fn for_each_stretch<E>(
        &self,
        wanted: &Wanted,
        slot: &Memslot,
        first: u64,
        end: u64,
        mut visit: impl FnMut(Plan, u64, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut page = first;
        while page < end {
            let (plan, pages) = self.plan(wanted, slot, slot.gpa_at(page));
            let next = page.saturating_add(pages).min(end);
            visit(plan, page, next)?;
            page = next;
        }
        Ok(())
    }

    /// The host-virtual address of the page at `gpa`, and what is wanted of it, if there is one in
    /// the address space.
    pub(super) fn page_at(
        &self,
        wanted: &Wanted,
        address_space: c_int,
        gpa: u64,
    ) -> Option<(Plan, u64)> {
        let slot = self.slot_at(address_space, gpa)?;
        Some((self.plan(wanted, slot, gpa).0, slot.hva_of(gpa)))
    }

    /// The index of the slot that contains `gpa`.
    pub(super) fn slot_index(&self, address_space: c_int, gpa: u64) -> Option<usize> {
        let index = self.slots_up_to(address_space, gpa).checked_sub(1)?;
        let slot = self.slots().get(index)?;
        (slot.address_space == address_space && slot.last_gpa() >= gpa).then_some(index)
    }

    fn slot_at(&self, address_space: c_int, gpa: u64) -> Option<&Memslot> {
        self.slots().get(self.slot_index(address_space, gpa)?)
    }

    /// How many slots begin at `gpa` or before it.
    fn slots_up_to(&self, address_space: c_int, gpa: u64) -> usize {
        self.slots()
            .partition_point(|slot| (slot.address_space, slot.gpa) <= (address_space, gpa))
    }

    /// Whether the page at `gpa` of `slot` is private to the guest, and up to which address this
    /// holds, or so far has been looked at.
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

    /// Whether the guest sees the page at `gpa` of `slot` at the same place outside SMM, and up to
    /// which address this holds.
    fn seen_outside_smm(&self, slot: &Memslot, gpa: u64) -> (bool, u64) {
        if slot.address_space == 0 {
            return (false, slot.last_gpa());
        }
        if let Some(outside) = self.slot_at(0, gpa) {
            let last = slot.last_gpa().min(outside.last_gpa());
            return (outside.hva_of(gpa) == slot.hva_of(gpa), last);
        }
        let next = self.slots().get(self.slots_up_to(0, gpa));
        let next = next.filter(|next| next.address_space == 0);
        let last = next.map_or(u64::MAX, |next| next.gpa.wrapping_sub(1));
        (false, slot.last_gpa().min(last))
    }
}
