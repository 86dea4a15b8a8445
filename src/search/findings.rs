// SPDX-License-Identifier: GPL-2.0

//! What a search has found.

use kernel::{
    prelude::*,
    time::Delta, //
};

use super::{
    count::Counted,
    coverage::Coverage,
    hits::Hits,
    queue::Chunk, //
};
use crate::{
    kvm::Memslot,
    memory::PAGE, //
};

/// What was found in the memory of one VM.
pub(crate) struct Findings {
    /// For each memslot how many of its pages are present.
    pub(crate) present: KVVec<u64>,
    /// The lowest hits.
    pub(crate) hits: Hits,
    /// How many hits there are in all.
    pub(crate) hit_count: u64,
    /// How much memory was searched, in bytes, each counted once.
    pub(crate) scanned_bytes: u64,
    /// How much was searched again, in bytes.
    pub(crate) rescanned_bytes: u64,
    /// How many pages of memslots are absent.
    pub(crate) absent_pages: u64,
    /// How many pages of guest_memfd are private to the guest, and were not looked at.
    pub(crate) private_pages: u64,
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
    /// Time was up, after some memory was searched.
    TimeUp,
    /// Time was up before any memory was searched.
    InVain,
}

impl Findings {
    /// Creates the findings of a search of `slots` memslots that is about to begin.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(hits: Hits, slots: usize, coverage: Option<Coverage>) -> Result<Self> {
        Ok(Self {
            present: KVVec::from_elem(0, slots, GFP_KERNEL)?,
            coverage,
            ..Self::with_hits(hits)
        })
    }

    /// Returns findings for no memory at all, which need none.
    pub(super) fn empty() -> Self {
        Self::with_hits(Hits::empty())
    }

    fn with_hits(hits: Hits) -> Self {
        Self {
            present: KVVec::new(),
            hits,
            hit_count: 0,
            scanned_bytes: 0,
            rescanned_bytes: 0,
            absent_pages: 0,
            private_pages: 0,
            stopped_at: None,
            coverage: None,
            stats: SearchStats {
                threads: 0,
                time: Delta::ZERO,
            },
        }
    }

    /// Adds present pages of a slot.
    fn add_present(&mut self, slot: usize, pages: u64) {
        if let Some(present) = self.present.get_mut(slot) {
            *present = present.saturating_add(pages);
        }
    }

    /// Adds what was counted in a slot.
    pub(super) fn add_counted(&mut self, slot: usize, counted: Counted) {
        self.absent_pages = self.absent_pages.saturating_add(counted.absent);
        self.private_pages = self.private_pages.saturating_add(counted.private);
        self.add_present(slot, counted.present);
    }

    /// Adds what was found in a chunk, searched to its end or not.
    pub(super) fn add(&mut self, chunk: &Chunk) {
        let bytes = chunk.present.saturating_mul(PAGE);
        if chunk.again {
            self.rescanned_bytes = self.rescanned_bytes.saturating_add(bytes);
        } else {
            self.scanned_bytes = self.scanned_bytes.saturating_add(bytes);
            self.absent_pages = self.absent_pages.saturating_add(chunk.absent);
            self.add_present(chunk.slot, chunk.present);
        }
        self.hit_count = self.hit_count.saturating_add(u64::from(chunk.hits));
    }

    /// Forgets what was found before in a chunk that is searched again.
    pub(super) fn forget(&mut self, chunk: &Chunk, slot: &Memslot) {
        let Some(coverage) = &self.coverage else {
            return;
        };
        let hits = u64::from(coverage.hits(coverage.number(chunk.slot, chunk.first)));
        self.hit_count = self.hit_count.saturating_sub(hits);
        let last = slot.gpa_at(chunk.end).wrapping_sub(1);
        self.hits.forget(chunk.slot, slot.gpa_at(chunk.first), last);
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
