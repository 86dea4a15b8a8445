// SPDX-License-Identifier: GPL-2.0

//! The guest's memory: which pages are there, and what is in them.
//!
//! Pages that are there and are neighbours in guest-physical memory, be it across the border of
//! two memslots, are mapped into one window and searched in place. A run of pages longer than a
//! window is searched in windows that share a page, so that each match lies in one of them whole.
//!
//! What the guest sees in system management mode at the same place as outside it, most of its
//! memory as a rule, is searched once.
//!
//! Only what is searched is looked at while the guest stands. What remains to be counted is counted
//! when it goes on.

use kernel::{
    io::{
        Io,
        Region,
        SysMem, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

use crate::{
    address_space::{
        BorrowedAddressSpace,
        HeldPages, //
    },
    kvm::{
        Memslot,
        Vm, //
    },
    parameters::{
        Wanted,
        MAX_CONTEXT, //
    },
    process,
    range::{
        self,
        Range, //
    },
    scan::{
        Memory,
        Pattern,
        Searcher,
        MAX_LEN, //
    },
};

/// The size of a window. The page tables of 2 MiB are one page, and few windows suffice.
pub(crate) const WINDOW_PAGES: usize = 512;

/// How many absent pages are passed by before others may have the CPU.
const ABSENT_PAGES_AT_ONCE: u64 = 4096;

/// How many pages of guest_memfd are asked about at once.
const PRIVATE_PAGES_AT_ONCE: u64 = 4096;

const PAGE: u64 = 1 << PAGE_SHIFT;

// A match, with its context, that begins in the page that two windows share ends in the second.
const _: () = assert!(MAX_LEN + 2 * MAX_CONTEXT <= PAGE_SIZE);

/// A place where a pattern was found.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    /// The index of the pattern.
    pub(crate) pattern: usize,
    /// The index of the memslot in which it begins.
    pub(crate) slot: usize,
    /// The guest-physical address of its first byte.
    pub(crate) gpa: u64,
    /// Where its bytes and those around it stand in [`Findings::bytes`].
    bytes: (usize, usize),
}

/// What was found in the memory of one VM.
pub(crate) struct Findings {
    /// For each memslot how many of its pages are there.
    pub(crate) present: KVVec<u64>,
    /// The first hits.
    pub(crate) hits: KVVec<Hit>,
    /// All hits, counted.
    pub(crate) hit_count: u64,
    /// How much memory was searched, in bytes.
    pub(crate) scanned_bytes: u64,
    /// The pages of memslots that are not there.
    pub(crate) absent_pages: u64,
    /// The pages of guest_memfd that are private to the guest, and not looked at.
    pub(crate) private_pages: u64,
    /// Where the search ended, if before its end.
    pub(crate) left: Option<Left>,
    bytes: KVVec<u8>,
}

impl Findings {
    /// Makes room for what may be found, so that nothing is allocated while the guest stands.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn with_room_for(wanted: &Wanted) -> Result<Self> {
        let per_hit = match wanted.context {
            0 => 0,
            context => MAX_LEN + 2 * context.min(MAX_CONTEXT),
        };
        let bytes = wanted.max_hits.checked_mul(per_hit).ok_or(ENOMEM)?;
        Ok(Self {
            present: KVVec::new(),
            hits: KVVec::with_capacity(wanted.max_hits, GFP_KERNEL)?,
            hit_count: 0,
            scanned_bytes: 0,
            absent_pages: 0,
            private_pages: 0,
            left: None,
            bytes: KVVec::with_capacity(bytes, GFP_KERNEL)?,
        })
    }

    /// Counts a match, and keeps it if it is one of the first.
    fn add(
        &mut self,
        wanted: &Wanted,
        slots: &[Memslot],
        piece: &Piece<'_>,
        pattern: usize,
        offset: usize,
    ) {
        let length = wanted.patterns.get(pattern).map_or(0, Pattern::len);
        let end = offset.saturating_add(length);
        let gpa = piece.gpa_at(offset);
        let wanted_here = range::covers(&wanted.ranges, gpa, piece.gpa_at(end).wrapping_sub(1));
        if offset >= piece.begin_before || end > piece.end_by || !wanted_here {
            return;
        }
        self.hit_count = self.hit_count.saturating_add(1);
        if self.hits.len() >= wanted.max_hits {
            return;
        }
        let slot = slot_index(slots, piece.address_space, gpa).unwrap_or(0);
        let kept = self.bytes.len();
        if wanted.context > 0 {
            let first = offset.saturating_sub(wanted.context);
            let last = end.saturating_add(wanted.context).min(piece.view.len);
            for at in first..last {
                // There is room, see `with_room_for`.
                let _ = self.bytes.push_within_capacity(piece.view.byte(at));
            }
        }
        // There is room for `max_hits`.
        let _ = self.hits.push_within_capacity(Hit {
            pattern,
            slot,
            gpa,
            bytes: (kept, self.bytes.len()),
        });
    }

    /// The bytes of `hit` and those around it, if they were wanted.
    pub(crate) fn bytes(&self, hit: &Hit) -> &[u8] {
        self.bytes.get(hit.bytes.0..hit.bytes.1).unwrap_or_default()
    }
}

/// A piece of guest memory that is being searched.
struct Piece<'a> {
    view: &'a View<'a>,
    /// The guest-physical address of its first byte, and the address space.
    gpa: u64,
    address_space: c_int,
    /// Only matches that begin before this offset are reported.
    begin_before: usize,
    /// Only matches that end by this offset are reported.
    end_by: usize,
}

impl Piece<'_> {
    fn gpa_at(&self, offset: usize) -> u64 {
        self.gpa.wrapping_add(u64::try_from(offset).unwrap_or(0))
    }
}

/// Guest memory for the search: read piece by piece, since it may change at any time.
struct View<'a> {
    memory: SysMem<'a, Region>,
    len: usize,
}

impl View<'_> {
    fn byte(&self, at: usize) -> u8 {
        self.memory.try_read8(at).unwrap_or(0)
    }
}

impl Memory for View<'_> {
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        // x86 is little-endian.
        self.memory.try_read64(at).unwrap_or(0)
    }

    fn copy(&self, at: usize, into: &mut [u8]) {
        for (at, byte) in (at..).zip(into) {
            *byte = self.byte(at);
        }
    }
}

/// Where a search ended early: neither this place nor what comes after it has been searched, in the
/// order of the memslots.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    /// The index of the memslot.
    pub(crate) slot: usize,
    /// The guest-physical address.
    pub(crate) gpa: u64,
}

/// Why a search ended early.
pub(crate) enum Interrupted {
    /// It could not go on.
    Error(Error),
    /// The caller said so.
    Stopped,
}

impl<E: Into<Error>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// What is wanted of a stretch of pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// To search it.
    Search,
    /// Nothing but how much of it is there.
    Count,
    /// The same, for it is searched as memory outside SMM.
    Seen,
    /// Nothing, it is private to the guest.
    Private,
}

/// How a piece of memory that is searched ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// The run may go on: its last page is kept for the next window.
    Continues,
    /// The run ends.
    Ends,
    /// The run ends; its last page was seen outside SMM, and only matches that begin before it
    /// count.
    EndsBeforeLast,
}

/// The slot that contains `gpa`. `slots` are in ascending order of address space and address.
fn slot_at(slots: &[Memslot], address_space: c_int, gpa: u64) -> Option<&Memslot> {
    let index = slot_index(slots, address_space, gpa)?;
    let slot = slots.get(index)?;
    (slot.address_space == address_space && slot.last_gpa() >= gpa).then_some(slot)
}

/// The index of the last slot that begins at `gpa` or before it.
fn slot_index(slots: &[Memslot], address_space: c_int, gpa: u64) -> Option<usize> {
    slots_up_to(slots, address_space, gpa).checked_sub(1)
}

/// How many slots begin at `gpa` or before it.
fn slots_up_to(slots: &[Memslot], address_space: c_int, gpa: u64) -> usize {
    slots.partition_point(|slot| (slot.address_space, slot.gpa) <= (address_space, gpa))
}

/// A VM that stands still, and its memory.
pub(crate) struct Guest<'a> {
    /// The VM.
    pub(crate) vm: &'a Vm,
    /// The address space in which its memory lies.
    pub(crate) address_space: &'a BorrowedAddressSpace<'a>,
    /// Its memslots, in ascending order of address space and address.
    pub(crate) slots: &'a [Memslot],
}

/// Walks over the memory of one VM.
pub(crate) struct Walk<'a> {
    guest: Guest<'a>,
    wanted: &'a Wanted,
    searcher: Searcher<'a>,
    /// Whether to stop.
    stop: &'a dyn Fn() -> bool,
    findings: &'a mut Findings,
    /// The pages of the current run that are not searched yet, and the last one before them.
    run: HeldPages,
    /// The guest-physical address of the first page in `run`, and its address space.
    run_gpa: u64,
    run_address_space: c_int,
    /// Whether the first page in `run` is also part of what was searched before.
    shared: bool,
    /// Matches that end within so many bytes of `run` were reported with the window before.
    seen: usize,
    /// How many absent pages were passed by since others had the CPU.
    absent: u64,
    /// Up to where the pages of what is to be searched are counted: a slot's index, and the number
    /// of a page in it.
    counted: (usize, u64),
}

impl<'a> Walk<'a> {
    /// Prepares a walk over all of the guest's slots. `run` is empty; its capacity is the size of a
    /// window.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        guest: Guest<'a>,
        wanted: &'a Wanted,
        searcher: Searcher<'a>,
        stop: &'a dyn Fn() -> bool,
        run: HeldPages,
        findings: &'a mut Findings,
    ) -> Result<Self> {
        findings.present.resize(guest.slots.len(), 0, GFP_KERNEL)?;
        Ok(Self {
            guest,
            wanted,
            searcher,
            stop,
            findings,
            run,
            run_gpa: 0,
            run_address_space: 0,
            shared: false,
            seen: 0,
            absent: 0,
            counted: (0, 0),
        })
    }

    /// Searches what is to be searched.
    ///
    /// If this ends early, what was found by then is in the findings, and where it ended.
    pub(crate) fn search(&mut self) -> Result<(), Interrupted> {
        let mut result = self.search_slots();
        if let Err(Interrupted::Stopped) = result {
            // Unless this ended in the middle of a window, it ended before the next page.
            if self.findings.left.is_none() {
                let (index, page) = self.counted;
                let gpa = self
                    .guest
                    .slots
                    .get(index)
                    .map_or(0, |slot| slot.gpa_at(page));
                self.findings.left = Some(Left { slot: index, gpa });
                // What may lie at the end of the last page was kept for the next window.
                if let Err(Interrupted::Error(error)) = self.end_run() {
                    result = Err(error.into());
                }
            }
        }
        self.run.release_all_but_last(0);
        result
    }

    fn search_slots(&mut self) -> Result<(), Interrupted> {
        let mut before: Option<&Memslot> = None;
        for (index, slot) in self.guest.slots.iter().enumerate() {
            let continues = before.is_some_and(|before| {
                before.address_space == slot.address_space
                    && before.last_gpa().checked_add(1) == Some(slot.gpa)
            });
            if !continues {
                self.end_run()?;
            }
            self.for_each_stretch(slot, |this, plan, first, pages| match plan {
                Plan::Search => this.search_stretch(index, slot, first, pages),
                Plan::Seen => this.end_run_at_seen(slot.hva_at(first)),
                Plan::Count | Plan::Private => this.end_run(),
            })?;
            before = Some(slot);
        }
        self.end_run()?;
        self.counted = (self.guest.slots.len(), 0);
        Ok(())
    }

    /// Counts the pages of what was not searched, unless `stop` says so. The guest may run
    /// meanwhile.
    pub(crate) fn count(&mut self, stop: &'a dyn Fn() -> bool) -> Result<(), Interrupted> {
        self.stop = stop;
        let (slot_reached, page_reached) = self.counted;
        for (index, slot) in self.guest.slots.iter().enumerate() {
            self.for_each_stretch(slot, |this, plan, first, pages| {
                let end = first.saturating_add(pages);
                let first = match plan {
                    Plan::Search if index < slot_reached => end,
                    Plan::Search if index == slot_reached => end.min(first.max(page_reached)),
                    Plan::Private => {
                        let private = &mut this.findings.private_pages;
                        *private = private.saturating_add(pages);
                        end
                    }
                    _ => first,
                };
                this.count_pages(index, slot, first, end)
            })?;
        }
        Ok(())
    }

    /// Visits the stretches of a slot in order: what is wanted, the first page's number in the slot,
    /// the number of pages.
    fn for_each_stretch(
        &mut self,
        slot: &Memslot,
        mut visit: impl FnMut(&mut Self, Plan, u64, u64) -> Result<(), Interrupted>,
    ) -> Result<(), Interrupted> {
        let mut page = 0;
        while page < slot.pages {
            let (plan, pages) = self.plan(slot, slot.gpa_at(page));
            visit(self, plan, page, pages)?;
            page = page.saturating_add(pages);
        }
        Ok(())
    }

    fn search_stretch(
        &mut self,
        index: usize,
        slot: &Memslot,
        first: u64,
        pages: u64,
    ) -> Result<(), Interrupted> {
        let end = first.saturating_add(pages);
        let mut page = first;
        self.counted = (index, page);
        while page < end {
            if self.run.len() == 0 {
                self.begin_run(slot, slot.gpa_at(page))?;
            }
            let held = self.hold(slot.hva_at(page), end.wrapping_sub(page))?;
            if held == 0 {
                self.end_run()?;
            }
            page = page.saturating_add(held.max(1));
            self.counted = (index, page);
            self.note(index, held)?;
            if self.run.room() == 0 {
                self.search_run(Edge::Continues)?;
            }
        }
        Ok(())
    }

    fn count_pages(
        &mut self,
        index: usize,
        slot: &Memslot,
        first: u64,
        end: u64,
    ) -> Result<(), Interrupted> {
        let mut page = first;
        while page < end {
            let held = self.hold(slot.hva_at(page), end.wrapping_sub(page))?;
            self.run.release_all_but_last(0);
            page = page.saturating_add(held.max(1));
            self.note(index, held)?;
            if held > 0 {
                self.pause()?;
            }
        }
        Ok(())
    }

    /// Counts so many pages of a slot as there, or one as absent if it is none.
    fn note(&mut self, slot: usize, held: u64) -> Result<(), Interrupted> {
        if held > 0 {
            if let Some(present) = self.findings.present.get_mut(slot) {
                *present = present.saturating_add(held);
            }
            return Ok(());
        }
        self.findings.absent_pages = self.findings.absent_pages.saturating_add(1);
        self.absent += 1;
        if self.absent == ABSENT_PAGES_AT_ONCE {
            self.absent = 0;
            self.pause()?;
        }
        Ok(())
    }

    /// What is wanted of the page at `gpa`, and for how many from there on this holds.
    fn plan(&self, slot: &Memslot, gpa: u64) -> (Plan, u64) {
        let (private, last) = self.private(slot, gpa);
        let pages_to = |last: u64| (last.wrapping_sub(gpa) >> PAGE_SHIFT).saturating_add(1);
        let all = pages_to(last);
        if private {
            return (Plan::Private, all);
        }
        if self.wanted.patterns.is_empty() {
            return (Plan::Count, all);
        }
        let (in_range, pages) = match range::clip(&self.wanted.ranges, gpa, last).next() {
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

    /// Whether the page at `gpa` of `slot` is private to the guest, and up to which address this
    /// holds, or so far has been looked at.
    fn private(&self, slot: &Memslot, gpa: u64) -> (bool, u64) {
        let last = slot.last_gpa();
        if !slot.may_be_private() {
            return (false, last);
        }
        let private = self.guest.vm.is_private(gpa);
        let end = last.min(gpa.saturating_add(PRIVATE_PAGES_AT_ONCE << PAGE_SHIFT));
        let mut next = gpa;
        while let Some(after) = next.checked_add(PAGE).filter(|after| *after <= end) {
            if self.guest.vm.is_private(after) != private {
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
        if let Some(outside) = slot_at(self.guest.slots, 0, gpa) {
            let last = slot.last_gpa().min(outside.last_gpa());
            return (outside.hva_of(gpa) == slot.hva_of(gpa), last);
        }
        let next = self.guest.slots.get(slots_up_to(self.guest.slots, 0, gpa));
        let next = next.filter(|next| next.address_space == 0);
        let last = next.map_or(u64::MAX, |next| next.gpa.wrapping_sub(1));
        (false, slot.last_gpa().min(last))
    }

    /// Takes hold of up to `most` pages from `hva` on that are there; says how many.
    fn hold(&mut self, hva: u64, most: u64) -> Result<u64> {
        let hva = usize::try_from(hva)?;
        let most = usize::try_from(most)?;
        Ok(u64::try_from(self.guest.address_space.hold_present(
            hva,
            most,
            &mut self.run,
        ))?)
    }

    /// Begins a run at `gpa`, or one page before it if that was seen outside SMM: a match may
    /// begin there.
    fn begin_run(&mut self, slot: &Memslot, gpa: u64) -> Result {
        self.run_gpa = gpa;
        self.run_address_space = slot.address_space;
        let Some(before) = gpa.checked_sub(PAGE) else {
            return Ok(());
        };
        let Some(slot) = slot_at(self.guest.slots, slot.address_space, before) else {
            return Ok(());
        };
        if self.seen_outside_smm(slot, before).0 && self.hold(slot.hva_of(before), 1)? == 1 {
            self.run_gpa = before;
            self.shared = true;
            self.seen = PAGE_SIZE;
        }
        Ok(())
    }

    /// Searches what is left of the current run, and ends it.
    fn end_run(&mut self) -> Result<(), Interrupted> {
        let len = self.run.len().saturating_mul(PAGE_SIZE);
        if len > self.seen {
            self.search_run(Edge::Ends)?;
        }
        self.run.release_all_but_last(0);
        self.shared = false;
        self.seen = 0;
        Ok(())
    }

    /// Ends the current run at the page at `hva`, which was seen outside SMM: a match may end
    /// there.
    fn end_run_at_seen(&mut self, hva: u64) -> Result<(), Interrupted> {
        // There is room: a full run has been searched but for its last page.
        if self.run.len() > 0 && self.hold(hva, 1)? == 1 {
            self.search_run(Edge::EndsBeforeLast)?;
        }
        self.end_run()
    }

    /// Searches the pages in `run`.
    fn search_run(&mut self, edge: Edge) -> Result<(), Interrupted> {
        let len = self.run.len().saturating_mul(PAGE_SIZE);
        let window = self.run.map()?;
        let view = View {
            memory: window.view(),
            len,
        };
        // Matches whose context is not all here are left to the next window.
        let (begin_before, end_by) = match edge {
            Edge::Continues => (len, len.saturating_sub(self.wanted.context)),
            Edge::Ends => (len, len),
            Edge::EndsBeforeLast => (len.saturating_sub(PAGE_SIZE), len),
        };
        let piece = Piece {
            view: &view,
            gpa: self.run_gpa,
            address_space: self.run_address_space,
            begin_before,
            end_by,
        };
        let stop = self.stop;
        let complete = self.searcher.search(
            &view,
            self.seen,
            |found| {
                self.findings.add(
                    self.wanted,
                    self.guest.slots,
                    &piece,
                    found.pattern,
                    found.offset,
                );
            },
            || {
                process::yield_cpu();
                !stop()
            },
        );
        drop(window);
        if !complete {
            let slot = slot_index(self.guest.slots, self.run_address_space, self.run_gpa);
            self.findings.left = Some(Left {
                slot: slot.unwrap_or(0),
                gpa: self.run_gpa,
            });
            return Err(Interrupted::Stopped);
        }

        let kept = usize::from(edge == Edge::Continues);
        let again = usize::from(self.shared) + usize::from(edge == Edge::EndsBeforeLast);
        let scanned = len.saturating_sub(again.saturating_mul(PAGE_SIZE));
        let gone = len.saturating_sub(kept.saturating_mul(PAGE_SIZE));
        let findings = &mut *self.findings;
        findings.scanned_bytes = findings
            .scanned_bytes
            .saturating_add(u64::try_from(scanned)?);
        self.run_gpa = self.run_gpa.wrapping_add(u64::try_from(gone)?);
        self.run.release_all_but_last(kept);
        self.shared = edge == Edge::Continues;
        self.seen = PAGE_SIZE.saturating_sub(len.saturating_sub(end_by));
        self.pause()
    }

    /// Lets others have the CPU, and stops if that was asked for.
    fn pause(&self) -> Result<(), Interrupted> {
        process::yield_cpu();
        if (self.stop)() {
            return Err(Interrupted::Stopped);
        }
        Ok(())
    }
}
