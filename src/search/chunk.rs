// SPDX-License-Identifier: GPL-2.0

//! Chunks: what one thread searches, and what it has found out about it so far.

use super::digest::{
    ChunkDigest,
    Mark, //
};
use crate::{
    linux::pages::Absence,
    memory::PageCounts, //
};

/// Some pages of a slot, which one thread searches.
pub(super) struct Chunk {
    /// What is searched.
    pub(super) extent: Extent,
    /// The first page that is left to be searched.
    pub(super) first: u64,
    /// How many bytes of that page are searched already.
    pub(super) offset: usize,
    /// The number of the pause in which this search of it began.
    pub(super) begun_in: u32,
    /// The digest of what was searched so far.
    pub(super) digest: ChunkDigest,
    /// The page up to which the digest goes.
    pub(super) digested: u64,
    /// What must still be there when the search goes on.
    pub(super) mark: Option<Mark>,
    /// It was not, or a page beside a window could not be held: the chunk is to be searched
    /// once more.
    pub(super) torn: bool,
    /// How many pages beside a window could not be held.
    pub(super) lacks_beside: u64,
    /// Its first page was held.
    pub(super) begins: bool,
    /// Its last page was held, but not the page after it.
    pub(super) is_cut_off: bool,
    /// How often the chunk was searched before with such pages, and that did not count.
    pub(super) tries: u32,
    /// Some of it was searched, or passed by, since it was handed out.
    pub(super) has_got_on: bool,
    /// How many matches were found so far.
    pub(super) hits: u32,
    /// The pages that were looked at so far.
    pub(super) counts: PageCounts,
}

/// The place of a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The index of the slot.
    pub(super) slot: usize,
    /// The first page of the chunk; what lies before `first` is absent.
    pub(super) home: u64,
    /// The first page that is searched.
    pub(super) first: u64,
    /// The last page, plus one.
    pub(super) end: u64,
    /// It was searched before, in another state.
    pub(super) again: bool,
}

impl Chunk {
    /// Returns the chunk of this extent, of which nothing is searched.
    pub(super) fn new(extent: Extent, begun_in: u32) -> Self {
        Self {
            extent,
            first: extent.first,
            offset: 0,
            begun_in,
            digest: ChunkDigest::default(),
            digested: extent.first,
            mark: None,
            torn: false,
            lacks_beside: 0,
            begins: false,
            is_cut_off: false,
            tries: 0,
            has_got_on: false,
            hits: 0,
            counts: PageCounts::default(),
        }
    }
}

/// Pages that the queue passed by, since they cannot be read.
pub(super) struct PassedBy {
    /// The index of the slot.
    pub(super) slot: usize,
    /// The first of them.
    pub(super) first: u64,
    /// How many there are.
    pub(super) pages: u64,
    /// Why not; [`None`]: they are private to the guest.
    pub(super) absence: Option<Absence>,
}

/// The pages of one slot that were not searched.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    /// The pages, by what they are.
    pub(super) pages: PageCounts,
    /// How many of them were to be searched, have content, and cannot be read.
    pub(super) missing: u64,
}
