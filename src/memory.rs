// SPDX-License-Identifier: GPL-2.0

//! The guest's memory: which pages are there, and what is in them.
//!
//! Pages that are there and are neighbours in guest-physical memory, be it across the border of
//! two memslots, are searched in place, as one stretch ([`window`]). Each match is found by whoever
//! searches the page in which it begins.
//!
//! What the guest sees in system management mode at the same place as outside it, most of its
//! memory as a rule, is searched once ([`plan`]).
//!
//! Only what is searched is looked at while the guest stands. What remains to be counted is counted
//! when it goes on. If it may only stand for short times, it stands several times, and what has
//! changed since it was searched is searched again ([`coverage`]).

mod coverage;
mod hits;
mod pace;
mod plan;
mod search;
mod window;

use kernel::{
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

use crate::{
    parameters::MAX_CONTEXT,
    scan::MAX_LEN, //
};

pub(crate) use self::{
    hits::{
        Hit,
        Hits, //
    },
    plan::Map,
    search::{
        Figures,
        Prepared,
        Progress,
        Search, //
    },
};

const PAGE: u64 = 1 << PAGE_SHIFT;

// A match that begins in a window, and its context, end in the page after it.
const _: () = assert!(MAX_LEN + MAX_CONTEXT <= PAGE_SIZE);

/// What was found in the memory of one VM.
pub(crate) struct Findings {
    /// For each memslot how many of its pages are there.
    pub(crate) present: KVVec<u64>,
    /// The lowest hits.
    pub(crate) hits: Hits,
    /// All hits, counted.
    pub(crate) hit_count: u64,
    /// How much memory was searched, in bytes, each counted once.
    pub(crate) scanned_bytes: u64,
    /// How much was searched again, in bytes.
    pub(crate) rescanned_bytes: u64,
    /// The pages of memslots that are not there.
    pub(crate) absent_pages: u64,
    /// The pages of guest_memfd that are private to the guest, and not looked at.
    pub(crate) private_pages: u64,
    /// Where the search ended, if before its end.
    pub(crate) left: Option<Left>,
}

impl Findings {
    fn new(hits: Hits, slots: usize) -> Result<Self> {
        Ok(Self {
            present: KVVec::from_elem(0, slots, GFP_KERNEL)?,
            hits,
            hit_count: 0,
            scanned_bytes: 0,
            rescanned_bytes: 0,
            absent_pages: 0,
            private_pages: 0,
            left: None,
        })
    }

    fn add_present(&mut self, slot: usize, pages: u64) {
        if let Some(present) = self.present.get_mut(slot) {
            *present = present.saturating_add(pages);
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
    Stopped {
        /// The page of the slot that was looked at that was next.
        page: u64,
    },
}

impl<E: Into<Error>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}
