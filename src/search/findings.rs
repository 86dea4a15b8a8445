// SPDX-License-Identifier: GPL-2.0

//! What a search has found.

use kernel::{
    prelude::*,
    time::Delta, //
};

use super::{
    chunk::{
        Chunk,
        Counted,
        Extent,
        PassedBy, //
    },
    coverage::{
        Coverage,
        Searched, //
    },
    hits::Hits, //
};
use crate::{
    kvm::{
        Memslot,
        SPARE_SLOTS, //
    },
    memory::{
        Map,
        PageCounts,
        Plan,
        PAGE, //
    },
    range::{
        self,
        Range, //
    },
    scan::MAX_LEN, //
};

/// What was found in the memory of one VM.
pub(crate) struct Findings {
    /// For each memslot its pages, by what they are.
    pub(crate) pages: KVVec<PageCounts>,
    /// For each memslot whether the VMM has changed it meanwhile: it was searched in part, or as
    /// something else.
    pub(crate) lost: KVVec<bool>,
    /// There are memslots that were not there when the inspection began.
    pub(crate) has_new_slots: bool,
    /// The lowest hits.
    pub(crate) hits: Hits,
    /// How many hits there are in all.
    pub(crate) hit_count: u64,
    /// How much memory was searched, in bytes, each counted once.
    pub(crate) scanned_bytes: u64,
    /// How much was searched again, in bytes.
    pub(crate) rescanned_bytes: u64,
    /// How many pages that were to be searched have content, and were not readable.
    pub(crate) missing_pages: u64,
    /// Where the search stopped, if before its end.
    pub(crate) stopped_at: Option<StoppedAt>,
    /// What is covered in one instant, if there may have been several pauses.
    pub(super) coverage: Option<Coverage>,
    /// How memory was searched.
    pub(crate) stats: SearchStats,
}

/// Where a search stopped early: neither this place nor what comes after it was searched, in the
/// order of the memslots.
#[derive(Clone, Copy)]
pub(crate) struct StoppedAt {
    /// The index of the memslot.
    pub(crate) slot: usize,
    /// The guest-physical address.
    pub(crate) gpa: u64,
}

/// How memory was searched.
#[derive(Clone, Copy)]
pub(crate) struct SearchStats {
    /// The most threads that searched in one pause.
    pub(crate) threads: u32,
    /// How many helping threads got too little of a CPU, so that nobody waited for them.
    pub(crate) late: u32,
    /// How long they searched, in the pauses.
    pub(crate) time: Delta,
}

/// Memory that is not covered in one instant.
#[derive(Clone, Copy)]
pub(crate) struct Uncovered {
    /// The index of the memslot.
    pub(crate) slot: usize,
    /// The number of the first page in it.
    pub(crate) first: u64,
    /// The number of the last page, plus one.
    pub(crate) end: u64,
}

/// How a pause ended for the search.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PauseOutcome {
    /// Nothing is left to be searched.
    Complete,
    /// Nothing is left, but somebody who was late may have looked at memory when the guest ran
    /// again. There must be another pause.
    CompleteLate,
    /// Time was up, after some memory was searched.
    TimeUp,
    /// Time was up before any memory was searched.
    InVain,
}

impl Findings {
    /// Creates the findings of a search of about `slots` memslots.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(hits: Hits, slots: usize, coverage: Option<Coverage>) -> Result<Self> {
        let room = slots.saturating_add(SPARE_SLOTS);
        Ok(Self {
            pages: KVVec::with_capacity(room, GFP_KERNEL)?,
            lost: KVVec::with_capacity(room, GFP_KERNEL)?,
            coverage,
            ..Self::with_hits(hits)
        })
    }

    /// Fits them to `slots`, before anything is found. Allocates nothing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there are many more slots than before.
    pub(super) fn fit(&mut self, slots: &[Memslot]) -> Result {
        for _ in slots {
            let pages = self.pages.push_within_capacity(PageCounts::default());
            pages.map_err(|_| ENOMEM)?;
            self.lost.push_within_capacity(false).map_err(|_| ENOMEM)?;
        }
        self.coverage
            .as_mut()
            .map_or(Ok(()), |coverage| coverage.fit(slots))
    }

    /// Returns findings for no memory at all, which need none.
    pub(super) fn empty() -> Self {
        Self::with_hits(Hits::empty())
    }

    fn with_hits(hits: Hits) -> Self {
        Self {
            pages: KVVec::new(),
            lost: KVVec::new(),
            has_new_slots: false,
            hits,
            hit_count: 0,
            scanned_bytes: 0,
            rescanned_bytes: 0,
            missing_pages: 0,
            stopped_at: None,
            coverage: None,
            stats: SearchStats {
                threads: 0,
                late: 0,
                time: Delta::ZERO,
            },
        }
    }

    /// Returns whether the VMM has changed this slot.
    pub(super) fn is_lost(&self, slot: usize) -> bool {
        self.lost.get(slot) == Some(&true)
    }

    fn add_pages(&mut self, slot: usize, pages: &PageCounts) {
        if let Some(counts) = self.pages.get_mut(slot) {
            counts.add(pages);
        }
    }

    /// Adds what was counted in a slot.
    pub(super) fn add_counted(&mut self, slot: usize, counted: &Counted) {
        self.missing_pages = self.missing_pages.saturating_add(counted.missing);
        self.add_pages(slot, &counted.pages);
    }

    /// Adds pages that belong to no chunk that is searched.
    pub(super) fn add_passed_by(&mut self, passed: &PassedBy) {
        let counts = |pages| {
            let mut counts = PageCounts::default();
            match passed.absence {
                Some(absence) => counts.add_absent(absence, pages),
                None => counts.private = pages,
            }
            counts
        };
        let pages = counts(passed.pages);
        self.add_pages(passed.slot, &pages);
        self.missing_pages = self.missing_pages.saturating_add(pages.missing());
        if let Some(coverage) = &mut self.coverage {
            let end = passed.first.saturating_add(passed.pages);
            coverage.add_pages(passed.slot, passed.first, end, counts);
        }
    }

    /// Adds what was found in a chunk, searched to its end or not.
    pub(super) fn add(&mut self, chunk: &Chunk) {
        let bytes = chunk.counts.present.saturating_mul(PAGE);
        if chunk.extent.again {
            self.rescanned_bytes = self.rescanned_bytes.saturating_add(bytes);
        }
        self.scanned_bytes = self.scanned_bytes.saturating_add(bytes);
        self.add_pages(chunk.extent.slot, &chunk.counts);
        let missing = chunk.counts.missing().saturating_add(chunk.lacks_beside);
        self.missing_pages = self.missing_pages.saturating_add(missing);
        self.hit_count = self.hit_count.saturating_add(u64::from(chunk.hits));
    }

    /// Notes that a chunk was searched to its end; `at_once`: in this pause.
    pub(super) fn set_searched(&mut self, chunk: &Chunk, at_once: bool) {
        if let Some(coverage) = &mut self.coverage {
            let number = coverage.number(chunk.extent.slot, chunk.extent.home);
            coverage.set_searched(
                number,
                &Searched {
                    digest: chunk.digest.value(),
                    hits: chunk.hits,
                    at_once,
                    torn: chunk.torn,
                    begins: chunk.begins,
                    is_cut_off: chunk.is_cut_off,
                },
            );
            coverage.add_pages_of(number, &chunk.counts);
        }
    }

    /// Forgets what was found before in a chunk that is searched again.
    pub(super) fn forget(&mut self, extent: &Extent, map: &Map, ranges: &[Range]) {
        if let Some(coverage) = &mut self.coverage {
            let number = coverage.number(extent.slot, extent.home);
            let hits = u64::from(coverage.hits(number));
            self.hit_count = self.hit_count.saturating_sub(hits);
            let pages = coverage.take_pages(number);
            self.missing_pages = self.missing_pages.saturating_sub(pages.missing());
            let bytes = pages.present.saturating_mul(PAGE);
            self.scanned_bytes = self.scanned_bytes.saturating_sub(bytes);
            if let Some(counts) = self.pages.get_mut(extent.slot) {
                counts.remove(&pages);
            }
        }
        self.forget_hits(extent, map, ranges);
    }

    /// Forgets the hits that were kept of what is left of a chunk.
    pub(super) fn forget_hits_after(&mut self, chunk: &Chunk, map: &Map, ranges: &[Range]) {
        let Some(slot) = map.slots().get(chunk.extent.slot) else {
            return;
        };
        if chunk.first == chunk.extent.first && chunk.offset == 0 {
            self.forget_hits(&chunk.extent, map, ranges);
            return;
        }
        let offset = u64::try_from(chunk.offset).unwrap_or(0);
        let first = slot.gpa_at(chunk.first).saturating_add(offset);
        let last = slot.gpa_at(chunk.extent.end).wrapping_sub(1);
        self.hits.forget(chunk.extent.slot, first, last);
    }

    /// Forgets the hits that were kept of a chunk.
    pub(super) fn forget_hits(&mut self, extent: &Extent, map: &Map, ranges: &[Range]) {
        let Some(slot) = map.slots().get(extent.slot) else {
            return;
        };
        let first = slot.gpa_at(extent.home);
        let last = slot.gpa_at(extent.end).wrapping_sub(1);
        self.hits.forget(extent.slot, first, last);
        // Those that begin in the page before, if that is read elsewhere: in address space 0.
        let Some(before) = first.checked_sub(PAGE) else {
            return;
        };
        if let Some(index) = map.slot_index(slot.address_space, before) {
            let is_shared = map
                .slots()
                .get(index)
                .is_some_and(|other| map.plan(ranges, other, before).0 == Plan::SharedWithNormal);
            if is_shared {
                let most = u64::try_from(MAX_LEN).unwrap_or(0);
                self.hits
                    .forget(index, first.saturating_sub(most), first.wrapping_sub(1));
            }
        }
    }

    /// Returns whether some memory in `ranges` was not searched, since the VMM has changed
    /// memslots.
    pub(crate) fn has_lost(&self, map: &Map, ranges: &[Range]) -> bool {
        let is_asked = |slot: &Memslot| {
            range::clip(ranges, slot.gpa, slot.last_gpa())
                .next()
                .is_some()
        };
        let mut slots = map.slots().iter().zip(&self.lost);
        let is_lost = slots.any(|(slot, lost)| *lost && is_asked(slot));
        is_lost || (self.has_new_slots && !ranges.is_empty())
    }

    /// Returns how many pages there are of each kind.
    pub(crate) fn all_pages(&self) -> PageCounts {
        let mut all = PageCounts::default();
        self.pages.iter().for_each(|pages| all.add(pages));
        all
    }

    /// Returns the size of a chunk in bytes, if there may have been several pauses.
    pub(crate) fn chunk_bytes(&self) -> Option<u64> {
        let coverage = self.coverage.as_ref()?;
        PAGE.checked_shl(coverage.chunk_shift())
    }

    /// Returns whether some memory is not covered in one instant.
    pub(crate) fn has_uncovered(&self) -> bool {
        let coverage = self.coverage.as_ref();
        coverage.is_some_and(|coverage| coverage.next_uncovered(0).is_some())
    }

    /// Calls `visit` with the memory of `slots` that is not covered in one instant, in order.
    pub(crate) fn for_each_uncovered(&self, slots: &[Memslot], mut visit: impl FnMut(Uncovered)) {
        let Some(coverage) = &self.coverage else {
            return;
        };
        let mut run: Option<Uncovered> = None;
        let mut at = 0;
        while let Some(chunk) = coverage.next_uncovered(at) {
            let (slot, first) = coverage.place(chunk);
            let pages = slots.get(slot).map_or(0, |slot| slot.pages);
            let end = first.saturating_add(1 << coverage.chunk_shift()).min(pages);
            run = match run {
                Some(run) if (run.slot, run.end) == (slot, first) => Some(Uncovered { end, ..run }),
                before => {
                    if let Some(before) = before {
                        visit(before);
                    }
                    Some(Uncovered { slot, first, end })
                }
            };
            at = chunk + 1;
        }
        if let Some(run) = run {
            visit(run);
        }
    }
}
