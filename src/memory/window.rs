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
        pages::{
            Absence,
            HeldPages,
            Sight, //
        }, //
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

/// A page next to the body of a window, held with it.
#[derive(Clone, Copy)]
pub(crate) struct Beside {
    /// Its guest-physical address.
    pub(crate) gpa: u64,
    /// What is to be done with it in its own place.
    pub(crate) plan: Plan,
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
    /// The page before the body, if it is held.
    pub(crate) before: Option<Beside>,
    /// The page after the body, if it is held.
    pub(crate) after: Option<Beside>,
    /// A page beside the body could not be held just now, or the page before could not be held with
    /// what is before it, but can be now: a match that reaches from one into the other may be
    /// missed, also if both are searched.
    pub(crate) lacks_beside: bool,
}

impl Window {
    /// Returns the number of pages of the body.
    pub(crate) fn pages(&self) -> u64 {
        u64::try_from(self.body.len() / PAGE_SIZE).unwrap_or(0)
    }

    /// Returns the number in its slot of the page at an offset of the body.
    pub(crate) fn page_at(&self, offset: usize) -> u64 {
        let pages = offset.saturating_sub(self.body.start) / PAGE_SIZE;
        self.page.saturating_add(u64::try_from(pages).unwrap_or(0))
    }

    /// Returns whether matches may begin in the page before the body that are found only here.
    pub(crate) fn follows_shared(&self) -> bool {
        self.before
            .is_some_and(|before| before.plan == Plan::SharedWithNormal)
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
    /// Asked before each window, and before each wait, whether to stop.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

/// A step through a stretch of pages.
pub(crate) enum Step<'a> {
    /// So many pages are absent, for this reason.
    Absent(Absence, u64),
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
        let source = self.map.source(slot, self.memory);
        let mut page = first;
        let mut before = Before::None;
        while page < end {
            if (self.stop)() {
                return Err(Interrupted::Stopped);
            }
            let absent = match source.look(page, end - page, self.stop) {
                Sight::Absent(absence, count) => Some((absence, count)),
                Sight::Present => {
                    let place = Place {
                        slot,
                        page,
                        end,
                        before,
                        is_first: page == first,
                    };
                    let held_window = self.hold(&place, held)?;
                    let result = match &held_window {
                        Ok(window) => visit(Step::Window(window, held)),
                        Err(_) => Ok(()),
                    };
                    held.release();
                    result?;
                    match held_window {
                        Ok(window) => {
                            page = page.saturating_add(window.pages());
                            // One that lacks a page says so itself.
                            let is_cut_off = window.after.is_none() && !window.lacks_beside;
                            before = if is_cut_off {
                                Before::CutOff
                            } else {
                                Before::Whole
                            };
                            None
                        }
                        Err(absent) => Some(absent),
                    }
                }
            };
            if let Some((absence, count)) = absent {
                if absence == Absence::Busy && (self.stop)() {
                    // There was no time to wait for it.
                    return Err(Interrupted::Stopped);
                }
                let count = u64::try_from(count)?.clamp(1, end - page);
                visit(Step::Absent(absence, count))?;
                page = page.saturating_add(count);
                before = Before::None;
            }
        }
        Ok(())
    }

    /// Holds present pages from a place on, with their neighbours. The inner error says why the
    /// first of them cannot be held, and for how many pages that is so.
    fn hold(
        &self,
        place: &Place<'_>,
        held: &mut HeldPages,
    ) -> Result<Result<Window, (Absence, usize)>> {
        let Place { slot, page, .. } = *place;
        let gpa = slot.gpa_at(page);
        let mut window = Window {
            gpa,
            page,
            body: 0..0,
            before: None,
            after: None,
            lacks_beside: self.neighbours != Neighbours::None && place.before == Before::CutOff,
        };
        if let Some(before) = self.page_before(place) {
            match self.hold_beside(slot, before, held) {
                Ok(()) => {
                    window.gpa = before.gpa;
                    window.body = PAGE_SIZE..PAGE_SIZE;
                    window.before = Some(before);
                }
                Err(absence) => window.lacks_beside |= absence == Absence::Busy,
            }
        }

        // The same with and without neighbours, for which room is left.
        let most = usize::try_from(place.end - page)?.min(WINDOW_PAGES - 2);
        let source = self.map.source(slot, self.memory);
        let mut count = 0;
        while count < most {
            let next = page.saturating_add(u64::try_from(count)?);
            match source.hold(next, most - count, held, self.stop) {
                Ok(more) => count += more,
                Err(absent) if count == 0 => return Ok(Err(absent)),
                Err(_) => break,
            }
        }
        window.body.end = window.body.start.saturating_add(count * PAGE_SIZE);

        let next = page.saturating_add(window.pages());
        if let Some(after) = self.page_after(slot, next, place.end) {
            match self.hold_beside(slot, after, held) {
                Ok(()) => window.after = Some(after),
                Err(absence) => window.lacks_beside |= absence == Absence::Busy,
            }
        }
        Ok(Ok(window))
    }

    /// Holds a page that is next to one of `slot`. One that nobody has touched is held as zeros,
    /// which the guest would read there.
    ///
    /// # Errors
    ///
    /// Why it is not held.
    fn hold_beside(
        &self,
        slot: &Memslot,
        beside: Beside,
        held: &mut HeldPages,
    ) -> Result<(), Absence> {
        let found = self
            .map
            .page_at(self.ranges, slot.address_space, beside.gpa);
        let (_, slot) = found.ok_or(Absence::Unmapped)?;
        let source = self.map.source(slot, self.memory);
        let page = beside.gpa.wrapping_sub(slot.gpa) / PAGE;
        let absence = match source.look(page, 1, self.stop) {
            Sight::Absent(absence, _) => absence,
            Sight::Present => match source.hold(page, 1, held, self.stop) {
                Ok(_) => return Ok(()),
                Err((absence, _)) => absence,
            },
        };
        if absence == Absence::Untouched && held.append_zeros() {
            return Ok(());
        }
        Err(absence)
    }

    /// Returns the page before a place, if it is held with it.
    fn page_before(&self, place: &Place<'_>) -> Option<Beside> {
        let Neighbours::ForMatches { with_context } = self.neighbours else {
            return None;
        };
        let gpa = place.slot.gpa_at(place.page).checked_sub(PAGE)?;
        if place.before != Before::None {
            let plan = Plan::Read;
            return with_context.then_some(Beside { gpa, plan });
        }
        let before = self.neighbour(place.slot, gpa).filter(|_| place.is_first);
        before.filter(|before| before.plan == Plan::SharedWithNormal || with_context)
    }

    /// Returns the page `next`, which is after the body, if it is held with it. The stretch ends at
    /// `end`.
    fn page_after(&self, slot: &Memslot, next: u64, end: u64) -> Option<Beside> {
        if self.neighbours == Neighbours::None {
            return None;
        }
        let gpa = slot.gpa_at(next.checked_sub(1)?).checked_add(PAGE)?;
        if next < end {
            let plan = Plan::Read;
            return Some(Beside { gpa, plan });
        }
        self.neighbour(slot, gpa)
    }

    /// Returns the page at `gpa`, which is next to one of `slot`, if a match may reach into it.
    fn neighbour(&self, slot: &Memslot, gpa: u64) -> Option<Beside> {
        let (plan, _) = self.map.page_at(self.ranges, slot.address_space, gpa)?;
        plan.is_readable().then_some(Beside { gpa, plan })
    }
}

/// Where a window begins.
struct Place<'a> {
    slot: &'a Memslot,
    page: u64,
    /// Where the stretch ends.
    end: u64,
    before: Before,
    /// The page before is not part of the stretch.
    is_first: bool,
}

/// The page before a window, if it is part of the stretch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// It is absent, or there is none.
    None,
    /// It was held, with the page after it, or that page is known to lack.
    Whole,
    /// It was held, but the page after it could not be held then.
    CutOff,
}
