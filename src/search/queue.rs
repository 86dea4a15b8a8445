// SPDX-License-Identifier: GPL-2.0

//! The queue of chunks: what memory is left, handed out piece by piece. It knows no pattern.

use kernel::prelude::*;

use super::{
    chunk::{
        Chunk,
        Extent,
        PassedBy, //
    },
    coverage::{
        Coverage,
        CHUNK_SHIFT, //
    },
    findings::Findings, //
};
use crate::{
    linux::{
        address_space::UserMemory,
        pages::{
            Absence,
            Sight, //
        },
        task, //
    },
    memory::{
        Map,
        Plan, //
    },
    range::Range, //
};

/// How many chunks' worth of memory is passed by between two looks at the time.
const CHUNKS_AT_ONCE: u64 = 1024;

/// What is handed out next.
#[derive(Clone, Copy)]
pub(super) enum Cursor {
    /// All memory from this page of this slot on.
    All {
        /// The index of the slot.
        slot: usize,
        /// The page in the slot.
        page: u64,
    },
    /// The chunks that have changed, from this one on.
    Changed {
        /// The number of the chunk.
        chunk: usize,
    },
}

/// What is left to be handed out.
pub(super) struct Queue {
    cursor: Cursor,
    /// Chunks handed back; handed out first, so there is at most one per thread.
    returned: KVec<Chunk>,
    /// The most pages in a chunk, a power of two.
    chunk_pages: u64,
    /// The number of this pause, from 1.
    pause: u32,
    /// Some memory was passed by since somebody asked.
    has_passed_by: bool,
}

/// What the queue looks at to find what is left.
pub(super) struct Ahead<'a> {
    /// The guest's memory.
    pub(super) map: &'a Map,
    /// What to read of it.
    pub(super) ranges: &'a [Range],
    /// The VMM's memory.
    pub(super) memory: &'a UserMemory<'a>,
    /// Asked before each step and each wait whether to give up.
    pub(super) give_up: &'a dyn Fn() -> bool,
}

impl Queue {
    /// Creates the queue of all memory, for at most `threads` threads.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(threads: usize) -> Result<Self> {
        Ok(Self {
            cursor: Cursor::All { slot: 0, page: 0 },
            returned: KVec::with_capacity(threads, GFP_KERNEL)?,
            chunk_pages: 1 << CHUNK_SHIFT,
            pause: 0,
            has_passed_by: false,
        })
    }

    /// Sets how many pages a chunk has, as a power of two. Nothing was handed out yet.
    pub(super) fn set_chunk_shift(&mut self, shift: u32) {
        self.chunk_pages = 1 << shift;
    }

    /// Begins a pause.
    pub(super) fn begin_pause(&mut self) {
        self.pause = self.pause.saturating_add(1);
    }

    /// Hands out the next chunk from now on only if it has changed.
    pub(super) fn begin_changed(&mut self) {
        self.cursor = Cursor::Changed { chunk: 0 };
    }

    /// Returns the number of this pause, from 1.
    pub(super) fn pause(&self) -> u32 {
        self.pause
    }

    /// Returns the most pages in a chunk, a power of two.
    pub(super) fn chunk_pages(&self) -> u64 {
        self.chunk_pages
    }

    /// Returns what is handed out next.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns whether chunks were handed back.
    pub(super) fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// Returns whether memory was passed by since the last call: that takes time, too.
    pub(super) fn take_has_passed_by(&mut self) -> bool {
        core::mem::take(&mut self.has_passed_by)
    }

    /// Takes the chunks that were handed back: nobody will search them to their end.
    pub(super) fn take_returned(&mut self) -> KVec<Chunk> {
        core::mem::take(&mut self.returned)
    }

    /// Takes back a chunk that was not searched to its end.
    pub(super) fn hand_back(&mut self, chunk: Chunk) {
        // There is room for one of each thread.
        let _ = self.returned.push_within_capacity(chunk);
    }

    /// Returns the first place that is not searched yet, as slot and page, if all memory is handed
    /// out for the first time.
    pub(super) fn first_left(&self, map: &Map) -> Option<(usize, u64)> {
        let Cursor::All { slot, page } = self.cursor else {
            return None;
        };
        let ahead = map.slots().get(slot).map(|_| (slot, page));
        let returned = self.returned.iter();
        let returned = returned.map(|chunk| (chunk.extent.slot, chunk.first));
        Iterator::chain(returned, ahead).min()
    }

    /// Returns whether nothing is left.
    pub(super) fn is_empty(&self, map: &Map, coverage: Option<&Coverage>) -> bool {
        match self.cursor {
            Cursor::All { .. } => self.first_left(map).is_none(),
            Cursor::Changed { chunk } => {
                let next = coverage.and_then(|coverage| coverage.next_changed(chunk));
                !self.has_returned() && next.is_none()
            }
        }
    }

    /// Hands out the next chunk. [`None`]: nothing is left, or it was told to give up. Notes in
    /// `findings` what absent pages come before it, when all memory is handed out.
    pub(super) fn next(&mut self, ahead: &Ahead<'_>, findings: &mut Findings) -> Option<Chunk> {
        match (self.returned.pop(), self.cursor) {
            (Some(chunk), _) => Some(chunk),
            (None, Cursor::All { slot, page }) => self.next_of_all(ahead, findings, slot, page),
            (None, Cursor::Changed { chunk }) => self.next_changed(ahead, findings, chunk),
        }
    }

    /// Returns the next chunk from page `page` of slot `slot` on with something to be read.
    fn next_of_all(
        &mut self,
        ahead: &Ahead<'_>,
        findings: &mut Findings,
        mut slot: usize,
        mut page: u64,
    ) -> Option<Chunk> {
        let mut chunk = None;
        while let Some(memslot) = ahead.map.slots().get(slot) {
            if page >= memslot.pages || findings.is_lost(slot) {
                slot += 1;
                page = 0;
                continue;
            }
            if (ahead.give_up)() {
                break;
            }
            // Very much memory may be absent.
            task::cond_resched();
            let gpa = memslot.gpa_at(page);
            let (plan, pages) = ahead.map.plan(ahead.ranges, memslot, gpa);
            let most = self.chunk_pages.saturating_mul(CHUNKS_AT_ONCE);
            let pages = pages.min(memslot.pages - page).min(most);
            if plan == (Plan::Private { is_asked: true }) {
                findings.add_passed_by(&PassedBy {
                    slot,
                    first: page,
                    pages,
                    absence: None,
                });
            }
            if plan != Plan::Read {
                page += pages;
                self.has_passed_by = true;
                continue;
            }
            let source = ahead.map.source(memslot, ahead.memory);
            if let Sight::Absent(absence, count) = source.look(page, pages, ahead.give_up) {
                if absence == Absence::Busy && (ahead.give_up)() {
                    break;
                }
                let count = u64::try_from(count).unwrap_or(pages).clamp(1, pages);
                findings.add_passed_by(&PassedBy {
                    slot,
                    first: page,
                    pages: count,
                    absence: Some(absence),
                });
                page += count;
                self.has_passed_by = true;
                continue;
            }
            let home = page & !(self.chunk_pages - 1);
            let end = home.saturating_add(self.chunk_pages).min(memslot.pages);
            let extent = Extent {
                slot,
                home,
                first: page,
                end,
                again: false,
            };
            chunk = Some(Chunk::new(extent, self.pause));
            page = end;
            break;
        }
        self.cursor = Cursor::All { slot, page };
        chunk
    }

    /// Returns the next chunk from number `from` on that has changed.
    fn next_changed(
        &mut self,
        ahead: &Ahead<'_>,
        findings: &Findings,
        mut from: usize,
    ) -> Option<Chunk> {
        let coverage = findings.coverage.as_ref()?;
        loop {
            let number = coverage.next_changed(from)?;
            from = number.saturating_add(1);
            self.cursor = Cursor::Changed { chunk: from };
            let (slot, first) = coverage.place(number);
            if findings.is_lost(slot) {
                continue;
            }
            let memslot = ahead.map.slots().get(slot)?;
            let extent = Extent {
                slot,
                home: first,
                first,
                end: first.saturating_add(self.chunk_pages).min(memslot.pages),
                again: true,
            };
            return Some(Chunk::new(extent, self.pause));
        }
    }
}
