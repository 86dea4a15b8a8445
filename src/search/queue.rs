// SPDX-License-Identifier: GPL-2.0

//! The queue of chunks: what memory is left, handed out piece by piece. It knows no pattern.

use kernel::prelude::*;

use super::{
    coverage::Coverage,
    digest::ChunkDigest, //
};
use crate::{
    kvm::Memslot,
    linux::{
        address_space::UserMemory,
        task, //
    },
    memory::{
        Map,
        Plan, //
    },
    range::Range, //
};

/// Some pages of a slot, which one thread searches.
pub(super) struct Chunk {
    /// The index of the slot.
    pub(super) slot: usize,
    /// The first page that is left to be searched.
    pub(super) first: u64,
    /// The last page, plus one.
    pub(super) end: u64,
    /// It was searched before, in another state.
    pub(super) again: bool,
    /// The number of the pause in which this search of it began.
    pub(super) begun_in: u32,
    /// The digest of what was searched so far.
    pub(super) digest: ChunkDigest,
    /// The page up to which the digest goes.
    pub(super) digested: u64,
    /// How many matches were found so far.
    pub(super) hits: u32,
    /// How many pages were searched so far.
    pub(super) present: u64,
    /// How many pages were absent so far.
    pub(super) absent: u64,
}

impl Chunk {
    fn new(slot: usize, first: u64, end: u64, again: bool, begun_in: u32) -> Self {
        Self {
            slot,
            first,
            end,
            again,
            begun_in,
            digest: ChunkDigest::default(),
            digested: first,
            hits: 0,
            present: 0,
            absent: 0,
        }
    }
}

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
    /// How many chunks were handed out in this pause.
    handed_out: u64,
    /// How many absent pages lay between the chunks.
    absent: u64,
}

impl Queue {
    /// Creates the queue of all memory, for at most `threads` threads.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(threads: usize, chunk_pages: u64) -> Result<Self> {
        Ok(Self {
            cursor: Cursor::All { slot: 0, page: 0 },
            returned: KVec::with_capacity(threads, GFP_KERNEL)?,
            chunk_pages,
            pause: 0,
            handed_out: 0,
            absent: 0,
        })
    }

    /// Begins a pause.
    pub(super) fn begin_pause(&mut self) {
        self.pause = self.pause.saturating_add(1);
        self.handed_out = 0;
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

    /// Returns how many absent pages lay between the chunks that were handed out.
    pub(super) fn absent(&self) -> u64 {
        self.absent
    }

    /// Returns what is handed out next.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns whether a chunk was handed out in this pause.
    pub(super) fn has_handed_out(&self) -> bool {
        self.handed_out > 0
    }

    /// Returns whether chunks were handed back.
    pub(super) fn has_returned(&self) -> bool {
        !self.returned.is_empty()
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
        let returned = self.returned.iter().map(|chunk| (chunk.slot, chunk.first));
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

    /// Hands out the next chunk. [`None`]: nothing is left, or `give_up` said so.
    ///
    /// `ranges` say what to read of `map`, whose pages are in `memory`.
    pub(super) fn next(
        &mut self,
        map: &Map,
        ranges: &[Range],
        memory: &UserMemory<'_>,
        coverage: Option<&Coverage>,
        give_up: &dyn Fn() -> bool,
    ) -> Option<Chunk> {
        let chunk = match (self.returned.pop(), self.cursor) {
            (Some(chunk), _) => Some(chunk),
            (None, Cursor::All { slot, page }) => {
                self.next_of_all(map, ranges, memory, slot, page, give_up)
            }
            (None, Cursor::Changed { chunk }) => self.next_changed(map, coverage?, chunk),
        };
        self.handed_out += u64::from(chunk.is_some());
        chunk
    }

    /// Returns the next chunk from page `page` of slot `slot` on with something to be read. Counts
    /// absent pages, and passes them by.
    fn next_of_all(
        &mut self,
        map: &Map,
        ranges: &[Range],
        memory: &UserMemory<'_>,
        mut slot: usize,
        mut page: u64,
        give_up: &dyn Fn() -> bool,
    ) -> Option<Chunk> {
        let mut chunk = None;
        while let Some(memslot) = map.slots().get(slot) {
            if page >= memslot.pages {
                slot += 1;
                page = 0;
                continue;
            }
            let (plan, pages) = map.plan(ranges, memslot, memslot.gpa_at(page));
            let pages = pages.min(memslot.pages - page);
            if plan != Plan::Read {
                page += pages;
                continue;
            }
            let absent = absent(memory, memslot, page, pages);
            if absent > 0 {
                self.absent = self.absent.saturating_add(absent);
                page += absent;
                if give_up() {
                    break;
                }
                // Very much memory may be absent.
                task::cond_resched();
                continue;
            }
            let end = (page | (self.chunk_pages - 1)).saturating_add(1);
            let end = end.min(memslot.pages);
            chunk = Some(Chunk::new(slot, page, end, false, self.pause));
            page = end;
            break;
        }
        self.cursor = Cursor::All { slot, page };
        chunk
    }

    /// Returns the next chunk from number `from` on that has changed.
    fn next_changed(&mut self, map: &Map, coverage: &Coverage, from: usize) -> Option<Chunk> {
        let number = coverage.next_changed(from)?;
        let (slot, first) = coverage.place(number);
        let memslot = map.slots().get(slot)?;
        let end = first.saturating_add(self.chunk_pages).min(memslot.pages);
        self.cursor = Cursor::Changed { chunk: number + 1 };
        Some(Chunk::new(slot, first, end, true, self.pause))
    }
}

/// Returns how many of `pages` pages from page `page` of a slot on are known to be absent.
fn absent(memory: &UserMemory<'_>, slot: &Memslot, page: u64, pages: u64) -> u64 {
    let (Ok(hva), Ok(pages)) = (usize::try_from(slot.hva_at(page)), usize::try_from(pages)) else {
        return 0;
    };
    u64::try_from(memory.absent(hva, pages)).unwrap_or(0)
}
