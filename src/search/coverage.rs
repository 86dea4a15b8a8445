// SPDX-License-Identifier: GPL-2.0

//! Which chunks still are what was searched, if there are several pauses.
//!
//! A chunk's digest is taken just before it is searched, and again when all is searched. If both
//! are equal, the chunk was the same all that time, except for bytes that were changed and changed
//! back. Such chunks, and those that were searched in the last pause, are covered in one instant:
//! that of the last pause. `docs/performance.md` compares this with other ways.
//!
//! A digest is about all that was read to search the chunk ([`super::digest`]). A chunk that was
//! searched in several pauses counts as changed if what lies at the seam was not the same in both.

use kernel::{
    bitmap::BitmapVec,
    page::PAGE_SHIFT,
    prelude::*, //
};

use crate::{
    kvm::{
        Memslot,
        SPARE_SLOTS, //
    },
    memory::{
        FewPages,
        PageCounts, //
    }, //
};

/// The least size of a chunk, as a power of two of pages: 256 KiB. Handing one out costs little
/// beside searching it.
pub(super) const CHUNK_SHIFT: u32 = 6;

/// How many bytes one chunk costs: digest, hits, pages by what they are, and four bits.
const CHUNK_COST: usize = 8 + 4 + size_of::<FewPages>() + 1;

/// Room for chunks of slots that are made between two looks at the memslots.
const SPARE_CHUNKS: usize = SPARE_SLOTS;

/// How a chunk was searched.
pub(super) struct Searched {
    /// The digest of what was read.
    pub(super) digest: u64,
    /// How many matches were found.
    pub(super) hits: u32,
    /// All of it in this pause.
    pub(super) at_once: bool,
    /// In several pauses, between which it has changed where they meet.
    pub(super) torn: bool,
    /// Its first page was held.
    pub(super) begins: bool,
    /// Its last page was held, but not the page after it.
    pub(super) is_cut_off: bool,
}

/// What is known of all chunks.
pub(super) struct Coverage {
    /// A chunk has 2 to the power of this pages.
    chunk_shift: u32,
    /// For each slot the number of its first chunk.
    first: KVVec<usize>,
    /// The digest of each chunk when it was last searched; 0 if it had no memory.
    digests: KVVec<u64>,
    /// How many matches were found in it then.
    hits: KVVec<u32>,
    /// Its pages, by what they were then.
    pages: KVVec<FewPages>,
    /// Whether it has changed since.
    changed: BitmapVec,
    /// Whether all of it was searched in the last pause.
    fresh: BitmapVec,
    /// Whether its first page was searched.
    begins: BitmapVec,
    /// Whether its last page was searched, without what a match has in the page after it.
    cut_off: BitmapVec,
}

impl Coverage {
    /// Creates it for the memory in `slots`. It needs at most about `memory` bytes, whatever their
    /// size.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn of(slots: &[Memslot], memory: usize) -> Result<Self> {
        let most = (memory / CHUNK_COST).max(slots.len());
        let (_, count) = cut(slots, most);
        // Some more slots may have been made by the freeze.
        let count = count.saturating_add(SPARE_CHUNKS);
        let mut this = Self {
            chunk_shift: CHUNK_SHIFT,
            first: KVVec::with_capacity(slots.len().saturating_add(SPARE_CHUNKS), GFP_KERNEL)?,
            digests: KVVec::from_elem(0, count, GFP_KERNEL)?,
            hits: KVVec::from_elem(0, count, GFP_KERNEL)?,
            pages: KVVec::from_elem(FewPages::default(), count, GFP_KERNEL)?,
            changed: BitmapVec::new(count, GFP_KERNEL)?,
            fresh: BitmapVec::new(count, GFP_KERNEL)?,
            begins: BitmapVec::new(count, GFP_KERNEL)?,
            cut_off: BitmapVec::new(count, GFP_KERNEL)?,
        };
        this.fit(slots)?;
        Ok(this)
    }

    /// Fits it to `slots`, and forgets all. Allocates nothing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there are many more slots than before.
    pub(super) fn fit(&mut self, slots: &[Memslot]) -> Result {
        let most = self.digests.len();
        if slots.len() > most {
            return Err(ENOMEM);
        }
        let (chunk_shift, _) = cut(slots, most);
        self.chunk_shift = chunk_shift;
        self.first.clear();
        let mut count = 0;
        for slot in slots {
            self.first.push_within_capacity(count).map_err(|_| ENOMEM)?;
            count = count.saturating_add(chunks(slot, chunk_shift));
        }
        Ok(())
    }

    /// Returns the size of a chunk, as a power of two of pages.
    pub(super) fn chunk_shift(&self) -> u32 {
        self.chunk_shift
    }

    /// Returns the number of the chunk that has page `page` of a slot.
    pub(super) fn number(&self, slot: usize, page: u64) -> usize {
        let within = usize::try_from(page >> self.chunk_shift).unwrap_or(usize::MAX);
        let first = self.first.get(slot).copied();
        first.map_or(usize::MAX, |first| first.saturating_add(within))
    }

    /// Returns the slot and the first page in it of a chunk.
    pub(super) fn place(&self, number: usize) -> (usize, u64) {
        let after = self.first.partition_point(|first| *first <= number);
        let slot = after.saturating_sub(1);
        let first = self.first.get(slot).copied().unwrap_or(0);
        let within = u64::try_from(number.saturating_sub(first)).unwrap_or(0);
        (slot, within << self.chunk_shift)
    }

    /// Notes that a chunk has been searched.
    pub(super) fn set_searched(&mut self, number: usize, searched: &Searched) {
        if let (Some(known), Some(count)) =
            (self.digests.get_mut(number), self.hits.get_mut(number))
        {
            *known = searched.digest;
            *count = searched.hits;
            if searched.at_once && !searched.torn {
                self.fresh.set_bit(number);
            }
            set_to(&mut self.changed, number, searched.torn);
            set_to(&mut self.begins, number, searched.begins);
            set_to(&mut self.cut_off, number, searched.is_cut_off);
        }
    }

    /// Notes what pages `first` up to `end` of a slot are: `counts` returns that of so many.
    pub(super) fn add_pages(
        &mut self,
        slot: usize,
        mut first: u64,
        end: u64,
        counts: impl Fn(u64) -> PageCounts,
    ) {
        while first < end {
            let next = (first >> self.chunk_shift).saturating_add(1) << self.chunk_shift;
            let next = next.min(end);
            self.add_pages_of(self.number(slot, first), &counts(next - first));
            first = next;
        }
    }

    /// Notes what some pages of a chunk are.
    pub(super) fn add_pages_of(&mut self, number: usize, counts: &PageCounts) {
        if let Some(pages) = self.pages.get_mut(number) {
            pages.add(counts);
        }
    }

    /// Forgets what the pages of a chunk were, and returns that.
    pub(super) fn take_pages(&mut self, number: usize) -> PageCounts {
        let pages = self.pages.get_mut(number).map(core::mem::take);
        pages.unwrap_or_default().counts()
    }

    /// Returns how many matches were found in a chunk.
    pub(super) fn hits(&self, number: usize) -> u32 {
        self.hits.get(number).copied().unwrap_or(0)
    }

    /// Compares the digest of a chunk's memory with that of what was searched.
    pub(super) fn compare(&mut self, number: usize, digest: u64) {
        if self
            .digests
            .get(number)
            .is_some_and(|known| *known != digest)
        {
            self.changed.set_bit(number);
        }
    }

    /// Finds the chunks that were searched without the page after them, though that page was
    /// searched in its own place: it has become readable, or was so. No digest tells of it in one
    /// pause. They count as changed.
    pub(super) fn tear_cut_off(&mut self) {
        let mut at = 0;
        while let Some(number) = next_bit(&self.cut_off, at) {
            at = number.saturating_add(1);
            let is_same_slot = self.place(number).0 == self.place(at).0;
            if is_same_slot && next_bit(&self.begins, at) == Some(at) {
                self.cut_off.clear_bit(number);
                self.fresh.clear_bit(number);
                self.changed.set_bit(number);
            }
        }
    }

    /// Begins a pause: what was searched before it is not fresh any more.
    pub(super) fn begin_pause(&mut self) {
        let mut at = 0;
        while let Some(number) = next_bit(&self.fresh, at) {
            self.fresh.clear_bit(number);
            at = number.saturating_add(1);
        }
    }

    /// Returns the first chunk from `at` on that has changed.
    pub(super) fn next_changed(&self, at: usize) -> Option<usize> {
        next_bit(&self.changed, at)
    }

    /// Returns the first chunk from `at` on that is not what was searched, neither now nor in the
    /// last pause.
    pub(super) fn next_uncovered(&self, mut at: usize) -> Option<usize> {
        loop {
            let number = next_bit(&self.changed, at)?;
            if next_bit(&self.fresh, number) != Some(number) {
                return Some(number);
            }
            at = number.saturating_add(1);
        }
    }
}

/// Sets or clears a bit.
fn set_to(bits: &mut BitmapVec, index: usize, value: bool) {
    if value {
        bits.set_bit(index);
    } else {
        bits.clear_bit(index);
    }
}

/// `next_bit`, also of an index beyond the end.
fn next_bit(bits: &BitmapVec, at: usize) -> Option<usize> {
    if at < bits.len() {
        bits.next_bit(at)
    } else {
        None
    }
}

/// Returns the least size of chunks, as a power of two of pages, with which there are at most
/// `most`, which is at least the number of slots; and how many there are.
fn cut(slots: &[Memslot], most: usize) -> (u32, usize) {
    let mut shift = CHUNK_SHIFT;
    loop {
        let all = slots.iter().map(|slot| chunks(slot, shift));
        let count = all.fold(0, usize::saturating_add);
        // With the greatest number of pages that 64-bit addresses allow each slot is one chunk.
        if count <= most || shift >= u64::BITS - PAGE_SHIFT as u32 {
            return (shift, count);
        }
        shift += 1;
    }
}

/// Returns how many chunks of 2 to the power of `shift` pages a slot, which has at least one page,
/// has.
fn chunks(slot: &Memslot, shift: u32) -> usize {
    let more = slot.pages.saturating_sub(1) >> shift;
    usize::try_from(more)
        .unwrap_or(usize::MAX)
        .saturating_add(1)
}
