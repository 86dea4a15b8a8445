// SPDX-License-Identifier: GPL-2.0

//! Windows: neighbouring pages that are present, held while they are read.

use core::ops::Range;

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

use super::{
    map::{
        Map,
        Plan, //
    },
    Interrupted,
    PAGE, //
};
use crate::{
    kvm::Memslot,
    linux::{
        address_space::UserMemory,
        pages::HeldPages, //
    },
    range, //
};

/// The most pages in a window, the neighbours of its body included.
pub(crate) const WINDOW_PAGES: usize = 66;

/// Which neighbours of a stretch of pages are held with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbours {
    /// None.
    None,
    /// The page after it, in which a match may end. The page before it, if it is not read in its
    /// own place and a match may begin there.
    ForMatches {
        /// The page before it also where only context is in it.
        with_context: bool,
    },
}

/// Pages that are held. Offsets are in bytes from the beginning of the first page held.
#[derive(Clone)]
pub(crate) struct Window {
    /// The guest-physical address of the first page held.
    pub(crate) gpa: u64,
    /// The number in its slot of the first page of the body.
    pub(crate) page: u64,
    /// The offsets of the body; the rest are its neighbours.
    pub(crate) body: Range<usize>,
    /// The page before the body is not read in its own place.
    pub(crate) follows_shared: bool,
}

impl Window {
    /// Returns the number of pages of the body.
    pub(crate) fn pages(&self) -> u64 {
        u64::try_from(self.body.len() / PAGE_SIZE).unwrap_or(0)
    }

    /// Returns the guest-physical address at an offset.
    pub(crate) fn gpa_at(&self, offset: usize) -> u64 {
        self.gpa.wrapping_add(u64::try_from(offset).unwrap_or(0))
    }
}

/// Visits the pages of a stretch, window by window.
pub(crate) struct Windows<'a> {
    /// The guest's memory.
    pub(crate) map: &'a Map,
    /// What to read of it.
    pub(crate) ranges: &'a [range::Range],
    /// The VMM's memory.
    pub(crate) memory: &'a UserMemory<'a>,
    /// Which neighbours are held.
    pub(crate) neighbours: Neighbours,
    /// Asked before each window whether to stop.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

/// A step through a stretch of pages.
pub(crate) enum Step<'a> {
    /// So many pages are absent.
    Absent(u64),
    /// A window, with the pages held.
    Window(&'a Window, &'a mut HeldPages),
}

impl Windows<'_> {
    /// Visits pages `first` up to `end` of `slot`, which are one stretch. `held` is empty before
    /// and after.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Stopped`] if `stop` said so. The errors of `visit`. `ENOMEM`.
    pub(crate) fn visit(
        &self,
        slot: &Memslot,
        first: u64,
        end: u64,
        held: &mut HeldPages,
        mut visit: impl FnMut(Step<'_>) -> Result<(), Interrupted>,
    ) -> Result<(), Interrupted> {
        let mut page = first;
        // Whether the page before is part of the stretch, and present.
        let mut goes_on = false;
        while page < end {
            if (self.stop)() {
                return Err(Interrupted::Stopped { page });
            }
            let absent = self
                .memory
                .absent(address(slot.hva_at(page))?, page_count(end - page)?);
            if absent > 0 {
                let absent = u64::try_from(absent)?;
                visit(Step::Absent(absent))?;
                page = page.saturating_add(absent);
                goes_on = false;
                continue;
            }
            let window = self.hold(slot, page, end, goes_on, page == first, held)?;
            let pages = window.pages();
            let result = match pages {
                0 => visit(Step::Absent(1)),
                _ => visit(Step::Window(&window, held)),
            };
            held.release();
            result?;
            page = page.saturating_add(pages.max(1));
            goes_on = pages > 0;
        }
        Ok(())
    }

    /// Holds present pages from `page` on, with their neighbours.
    fn hold(
        &self,
        slot: &Memslot,
        page: u64,
        end: u64,
        goes_on: bool,
        is_first: bool,
        held: &mut HeldPages,
    ) -> Result<Window> {
        let gpa = slot.gpa_at(page);
        let mut window = Window {
            gpa,
            page,
            body: 0..0,
            follows_shared: false,
        };
        if let Some((plan, hva)) = self.page_before(slot, page, goes_on, is_first) {
            if self.memory.hold_present(address(hva)?, 1, held) == 1 {
                window.gpa = gpa.wrapping_sub(PAGE);
                window.body = PAGE_SIZE..PAGE_SIZE;
                window.follows_shared = plan == Plan::SharedWithNormal;
            }
        }

        // The same with and without neighbours, for which room is left.
        let most = page_count(end - page)?.min(WINDOW_PAGES - 2);
        let mut count = 0;
        while count < most {
            let hva = address(slot.hva_at(page))?.saturating_add(count * PAGE_SIZE);
            match self.memory.hold_present(hva, most - count, held) {
                0 => break,
                more => count += more,
            }
        }
        window.body.end = window.body.start.saturating_add(count * PAGE_SIZE);

        let next = page.saturating_add(window.pages());
        if let Some(hva) = self.page_after(slot, next, end).filter(|_| count > 0) {
            // It is read if it is present.
            self.memory.hold_present(address(hva)?, 1, held);
        }
        Ok(window)
    }

    /// Returns the page before `page` if it is held with it: its plan, and its host-virtual
    /// address. `goes_on`: it is part of the stretch, and present; `is_first`: it is not part of
    /// the stretch.
    fn page_before(
        &self,
        slot: &Memslot,
        page: u64,
        goes_on: bool,
        is_first: bool,
    ) -> Option<(Plan, u64)> {
        let Neighbours::ForMatches { with_context } = self.neighbours else {
            return None;
        };
        if goes_on {
            return with_context.then(|| (Plan::Read, slot.hva_at(page).wrapping_sub(PAGE)));
        }
        let gpa = slot.gpa_at(page).checked_sub(PAGE).filter(|_| is_first)?;
        let before = self.neighbour(slot, gpa);
        before.filter(|(plan, _)| *plan == Plan::SharedWithNormal || with_context)
    }

    /// Returns the host-virtual address of page `next`, which is after the body, if it is held with
    /// it. The stretch ends at `end`.
    fn page_after(&self, slot: &Memslot, next: u64, end: u64) -> Option<u64> {
        if self.neighbours == Neighbours::None {
            return None;
        }
        if next < end {
            return Some(slot.hva_at(next));
        }
        let last = slot.gpa_at(next).wrapping_sub(PAGE);
        let after = self.neighbour(slot, last.checked_add(PAGE)?);
        after.map(|(_, hva)| hva)
    }

    /// Returns what to do with the page at `gpa`, which is next to one of `slot`, and its
    /// host-virtual address, if a match may reach into it.
    fn neighbour(&self, slot: &Memslot, gpa: u64) -> Option<(Plan, u64)> {
        let found = self.map.page_at(self.ranges, slot.address_space, gpa);
        found.filter(|(plan, _)| plan.is_readable())
    }
}

/// Returns an address in the VMM as the kernel has it.
fn address(hva: u64) -> Result<usize> {
    Ok(usize::try_from(hva)?)
}

/// Returns a number of pages as the kernel has it.
fn page_count(count: u64) -> Result<usize> {
    Ok(usize::try_from(count)?)
}
