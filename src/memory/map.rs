// SPDX-License-Identifier: GPL-2.0

//! The map of a guest's memory, and what to do with each stretch of it.

use kernel::{
    page::PAGE_SHIFT,
    prelude::*, //
};

use super::PAGE;
use crate::{
    kvm::{
        Backing,
        Memslot,
        Memslots,
        Vm,
        VmRef, //
    },
    linux::{
        address_space::UserMemory,
        file_pages::FilePages,
        pages::{
            Absence,
            HeldPages,
            Sight, //
        }, //
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
    Private {
        /// It was to be read.
        is_asked: bool,
    },
}

impl Plan {
    /// Returns whether a match in a stretch that is read may reach into this one.
    pub(super) fn is_readable(self) -> bool {
        matches!(self, Self::Read | Self::SharedWithNormal)
    }
}

/// Where the pages of a slot are.
pub(crate) enum Source<'a> {
    /// In the VMM's memory.
    Mapped {
        /// The VMM's memory.
        memory: &'a UserMemory<'a>,
        /// The address of the slot's first page.
        hva: u64,
    },
    /// In a guest_memfd.
    InFile {
        /// The pages of the file.
        file: FilePages<'a>,
        /// The place in it of the slot's first page.
        first: u64,
    },
    /// The guest_memfd was closed: the guest has nothing there.
    Nowhere,
}

impl Source<'_> {
    /// Tells what is at a page of the slot, and for how many of `pages` pages that is so.
    pub(crate) fn look(&self, page: u64, pages: u64, give_up: &dyn Fn() -> bool) -> Sight {
        let count = usize::try_from(pages).unwrap_or(usize::MAX);
        match self {
            Self::Mapped { memory, hva } => match address(*hva, page) {
                Some(address) => memory.look(address, count, give_up),
                None => Sight::Absent(Absence::Unmapped, count),
            },
            Self::InFile { file, first } => file.look(first.saturating_add(page), count),
            Self::Nowhere => Sight::Absent(Absence::Unmapped, count),
        }
    }

    /// Holds up to `pages` pages of the slot from `page` on, and returns how many.
    ///
    /// # Errors
    ///
    /// Why the first page could not be held, and for how many pages that is so.
    pub(crate) fn hold(
        &self,
        page: u64,
        pages: usize,
        held: &mut HeldPages,
        give_up: &dyn Fn() -> bool,
    ) -> Result<usize, (Absence, usize)> {
        match self {
            Self::Mapped { memory, hva } => {
                let address = address(*hva, page).ok_or((Absence::Unmapped, 1))?;
                memory.hold_present(address, pages, held, give_up)
            }
            Self::InFile { file, first } => {
                let before = held.len();
                file.hold(first.saturating_add(page), pages, held)
                    .map_err(|absence| (absence, 1))?;
                let poisoned = held.release_from_poisoned(before);
                match held.len().saturating_sub(before) {
                    0 if poisoned => Err((Absence::Poisoned, 1)),
                    0 => Err((Absence::Busy, 1)),
                    count => Ok(count),
                }
            }
            Self::Nowhere => Err((Absence::Unmapped, 1)),
        }
    }

    /// Brings in, while the guest runs, those of `pages` pages from `page` on that are swapped out
    /// or in a file, until `stop` says so.
    pub(crate) fn bring_in(&self, page: u64, pages: u64, stop: &dyn Fn() -> bool) {
        if let Self::Mapped { memory, hva } = self {
            let count = usize::try_from(pages).unwrap_or(usize::MAX);
            if let Some(address) = address(*hva, page) {
                memory.bring_in(address, count, stop);
            }
        }
    }
}

/// Returns the address of a page in the VMM, as the kernel has it.
fn address(hva: u64, page: u64) -> Option<usize> {
    let offset = page.checked_mul(PAGE)?;
    usize::try_from(hva.checked_add(offset)?).ok()
}

/// The memory of a guest: its memslots.
///
/// Of these, `ranges` say what to read; an empty list means nothing.
pub(crate) struct Map {
    vm: VmRef,
    slots: Memslots,
}

impl Map {
    /// Creates the map of `vm`, which has `slots`.
    pub(crate) fn new(vm: VmRef, slots: Memslots) -> Self {
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

    /// Returns the slots that have changed since they were read, by their indices, and whether
    /// there are others now. Flags of a slot do not matter.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn changes(&self, now: &mut Memslots) -> Result<(KVVec<usize>, bool)> {
        now.read_again(&self.vm, GFP_KERNEL)?;
        let mut changed = KVVec::new();
        let mut same = 0_usize;
        for (index, slot) in self.slots().iter().enumerate() {
            let key = |slot: &Memslot| (slot.address_space, slot.gpa);
            let at = now
                .as_slice()
                .partition_point(|other| key(other) < key(slot));
            if now.as_slice().get(at).is_some_and(|now| now.is_still(slot)) {
                same = same.saturating_add(1);
            } else {
                changed.push(index, GFP_KERNEL)?;
            }
        }
        Ok((changed, now.as_slice().len() > same))
    }

    /// Returns where the pages of `slot` are. `memory` is that of the VMM.
    pub(crate) fn source<'a>(&'a self, slot: &Memslot, memory: &'a UserMemory<'a>) -> Source<'a> {
        match slot.backing(slot.gpa) {
            Backing::Mapped(hva) => Source::Mapped { memory, hva },
            Backing::InFile(id, first) => match self.slots.file(id) {
                Some(file) => Source::InFile {
                    file: file.pages(),
                    first,
                },
                None => Source::Nowhere,
            },
        }
    }

    /// Returns what to do with the page at `gpa` of `slot`, and for how many pages from there on
    /// this holds.
    pub(crate) fn plan(&self, ranges: &[Range], slot: &Memslot, gpa: u64) -> (Plan, u64) {
        let (private, last) = self.private(slot, gpa);
        let pages_to = |last: u64| (last.wrapping_sub(gpa) >> PAGE_SHIFT).saturating_add(1);
        let all = pages_to(last);
        let (in_range, pages) = match range::clip(ranges, gpa, last).next() {
            None => (false, all),
            Some(Range { first, .. }) if first & !(PAGE - 1) > gpa => {
                (false, pages_to(first).saturating_sub(1))
            }
            Some(Range { last, .. }) => (true, pages_to(last)),
        };
        if private {
            return (Plan::Private { is_asked: in_range }, pages);
        }
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

    /// Returns what to do with the page at `gpa` of an address space, and its slot, if there is
    /// one.
    pub(super) fn page_at(
        &self,
        ranges: &[Range],
        address_space: c_int,
        gpa: u64,
    ) -> Option<(Plan, &Memslot)> {
        let slot = self.slot_at(address_space, gpa)?;
        Some((self.plan(ranges, slot, gpa).0, slot))
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
            return (normal.backing(gpa) == slot.backing(gpa), last);
        }
        let next = self.slots().get(self.slots_up_to(0, gpa));
        let next = next.filter(|next| next.address_space == 0);
        let last = next.map_or(u64::MAX, |next| next.gpa.wrapping_sub(1));
        (false, slot.last_gpa().min(last))
    }
}
