// SPDX-License-Identifier: GPL-2.0

//! Windows: runs of neighbouring pages that are there, held while they are looked at.

use core::ops::Range;

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

use super::{
    plan::Plan,
    Interrupted,
    Map,
    PAGE, //
};
use crate::{
    address_space::UserMemory,
    kvm::Memslot,
    pages::HeldPages,
    parameters::Wanted, //
};

/// The most pages in a window, the neighbours of those that it is about included.
pub(super) const WINDOW_PAGES: usize = 66;

/// Which neighbours of a stretch of pages are looked at with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Neighbours {
    /// None.
    None,
    /// The page after it, in which a match may end; and the one before it, if context is wanted or
    /// if it is not searched in its place and a match may begin there.
    ForMatches,
}

/// What is held, as offsets in bytes from the beginning of the first page held.
#[derive(Clone)]
pub(super) struct Window {
    /// The guest-physical address of the first page held.
    pub(super) gpa: u64,
    /// The number of the first page in its slot that the window is about.
    pub(super) page: u64,
    /// What the window is about; the rest are its neighbours.
    pub(super) own: Range<usize>,
    /// The page before is not searched in its own place.
    pub(super) follows_seen: bool,
}

impl Window {
    /// The number of pages that the window is about.
    pub(super) fn pages(&self) -> u64 {
        u64::try_from(self.own.len() / PAGE_SIZE).unwrap_or(0)
    }

    /// The guest-physical address at an offset.
    pub(super) fn gpa_at(&self, offset: usize) -> u64 {
        self.gpa.wrapping_add(u64::try_from(offset).unwrap_or(0))
    }
}

/// Visits the pages of a stretch that are there, window by window. What is passed by, because it is
/// not there, is told to `visit` as a number.
pub(super) struct Windows<'a> {
    pub(super) map: &'a Map,
    pub(super) wanted: &'a Wanted,
    pub(super) memory: &'a UserMemory<'a>,
    pub(super) neighbours: Neighbours,
    /// Asked before each window.
    pub(super) stop: &'a dyn Fn() -> bool,
}

/// What is met in a stretch of pages.
pub(super) enum Met<'a> {
    /// So many pages that are not there.
    Absent(u64),
    /// A window, with the pages held.
    Window(&'a Window, &'a mut HeldPages),
}

impl Windows<'_> {
    /// Visits pages `first` up to `end` of `slot`, which are one stretch. `held` is empty before and
    /// after.
    pub(super) fn visit(
        &self,
        slot: &Memslot,
        first: u64,
        end: u64,
        held: &mut HeldPages,
        mut visit: impl FnMut(Met<'_>) -> Result<(), Interrupted>,
    ) -> Result<(), Interrupted> {
        let mut page = first;
        // Whether the page before is part of the stretch, and there.
        let mut goes_on = false;
        while page < end {
            if (self.stop)() {
                return Err(Interrupted::Stopped { page });
            }
            let absent = self
                .memory
                .absent(address(slot.hva_at(page))?, pages(end - page)?);
            if absent > 0 {
                let absent = u64::try_from(absent)?;
                visit(Met::Absent(absent))?;
                page = page.saturating_add(absent);
                goes_on = false;
                continue;
            }
            let window = self.hold(slot, page, end, goes_on, page == first, held)?;
            let own = window.pages();
            let result = match own {
                0 => visit(Met::Absent(1)),
                _ => visit(Met::Window(&window, held)),
            };
            held.release();
            result?;
            page = page.saturating_add(own.max(1));
            goes_on = own > 0;
        }
        Ok(())
    }

    /// Holds pages from `page` on that are there, with their neighbours.
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
        let before = if goes_on {
            (self.wanted.context > 0).then(|| (Plan::Search, slot.hva_at(page).wrapping_sub(PAGE)))
        } else if is_first {
            let before = gpa.checked_sub(PAGE);
            let before = before.and_then(|gpa| self.neighbour(slot, gpa));
            before.filter(|(plan, _)| *plan == Plan::Seen || self.wanted.context > 0)
        } else {
            None
        };
        let before = before.filter(|_| self.neighbours == Neighbours::ForMatches);
        let mut window = Window {
            gpa,
            page,
            own: 0..0,
            follows_seen: false,
        };
        if let Some((plan, hva)) = before {
            if self.memory.hold_present(address(hva)?, 1, held) == 1 {
                window.gpa = gpa.wrapping_sub(PAGE);
                window.own = PAGE_SIZE..PAGE_SIZE;
                window.follows_seen = plan == Plan::Seen;
            }
        }

        // The same with and without neighbours, for which room is left.
        let most = pages(end - page)?.min(WINDOW_PAGES - 2);
        let mut own = 0;
        while own < most {
            let hva = address(slot.hva_at(page))?.saturating_add(own * PAGE_SIZE);
            match self.memory.hold_present(hva, most - own, held) {
                0 => break,
                more => own += more,
            }
        }
        window.own.end = window.own.start.saturating_add(own * PAGE_SIZE);

        let after = page.saturating_add(u64::try_from(own)?);
        let hva_after = if own == 0 || self.neighbours == Neighbours::None {
            None
        } else if after < end {
            Some(slot.hva_at(after))
        } else {
            let gpa = gpa.checked_add(window.pages().saturating_mul(PAGE));
            let after = gpa.and_then(|gpa| self.neighbour(slot, gpa));
            after.map(|(_, hva)| hva)
        };
        if let Some(hva) = hva_after {
            // It is read if it is there.
            self.memory.hold_present(address(hva)?, 1, held);
        }
        Ok(window)
    }

    /// What is wanted of the page at `gpa`, which is next to one of `slot`, and where it lies, if a
    /// match may reach into it.
    fn neighbour(&self, slot: &Memslot, gpa: u64) -> Option<(Plan, u64)> {
        let found = self.map.page_at(self.wanted, slot.address_space, gpa);
        found.filter(|(plan, _)| plan.is_read())
    }
}

/// An address in the VMM as the kernel has it.
fn address(hva: u64) -> Result<usize> {
    Ok(usize::try_from(hva)?)
}

/// A number of pages as the kernel has it.
fn pages(count: u64) -> Result<usize> {
    Ok(usize::try_from(count)?)
}
