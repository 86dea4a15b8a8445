// SPDX-License-Identifier: GPL-2.0

//! Digests of chunks, which tell whether memory still is what was searched.
//!
//! A chunk's digest goes over all that was read to search it: its own pages, and of the pages next
//! to it the bytes in which a match of the chunk may begin or end, or that are shown as its
//! context.

use core::ops::Range;

use kernel::{
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

use super::host::CurrentThread;
use crate::{
    kvm::Memslot,
    linux::{
        pages::View,
        random, //
    },
    memory::{
        Beside,
        Plan,
        Window,
        PAGE, //
    },
    request::Query,
    scan::{
        digest::{
            self,
            Key, //
        },
        Memory,
        Piece, //
    }, //
};

/// The pages of a slot that one digest is about.
#[derive(Clone, Copy)]
pub(super) struct Home {
    first_gpa: u64,
    last_gpa: u64,
}

impl Home {
    /// Returns pages `first` up to `end` of `slot`, at least one.
    pub(super) fn new(slot: &Memslot, first: u64, end: u64) -> Self {
        Self {
            first_gpa: slot.gpa_at(first),
            last_gpa: slot.gpa_at(end).wrapping_sub(1),
        }
    }

    /// Returns whether a page next to a window is digested as one of these pages.
    fn has(&self, beside: Beside) -> bool {
        beside.plan == Plan::Read && (self.first_gpa..=self.last_gpa).contains(&beside.gpa)
    }
}

/// A window that is digested.
pub(super) struct Digested<'a> {
    /// What was searched for: it says how much of the neighbours was read.
    pub(super) query: &'a Query,
    pub(super) key: &'a Key,
    pub(super) view: &'a View<'a>,
    pub(super) window: &'a Window,
}

/// The digest of a chunk, made of those of its pages and their places. In whatever order and
/// portions they are added, it is the same.
#[derive(Clone, Copy, Default)]
pub(super) struct ChunkDigest(u64);

impl ChunkDigest {
    /// Adds pages of the body of a window: those with these numbers, counted in the slot.
    pub(super) fn add_pages(&mut self, digested: &Digested<'_>, pages: Range<u64>) {
        let Digested {
            query, key, window, ..
        } = *digested;
        let start = pages.start.wrapping_sub(window.page).wrapping_mul(PAGE);
        let size = pages.end.saturating_sub(pages.start).saturating_mul(PAGE);
        let (Ok(start), Ok(size)) = (usize::try_from(start), usize::try_from(size)) else {
            return;
        };
        let part = Part {
            view: digested.view,
            start: window.body.start.saturating_add(start),
            len: size,
        };
        let digest = digest::digest(query.engine, key, &part, pages.start, &CurrentThread);
        self.0 = self.0.wrapping_add(digest);
    }

    /// Adds what may have been read of the page before a window, unless that is one of `home`.
    pub(super) fn add_before(&mut self, digested: &Digested<'_>, home: Home) {
        let window = digested.window;
        if let Some(before) = window.before.filter(|before| !home.has(*before)) {
            let at = window
                .body
                .start
                .saturating_sub(edge_words(digested.query).saturating_mul(8));
            self.add_edge(digested, at, before.gpa >> PAGE_SHIFT);
        }
    }

    /// Adds what may have been read of the page after a window, unless that is one of `home`.
    pub(super) fn add_after(&mut self, digested: &Digested<'_>, home: Home) {
        let window = digested.window;
        if let Some(after) = window.after.filter(|after| !home.has(*after)) {
            self.add_edge(digested, window.body.end, !(after.gpa >> PAGE_SHIFT));
        }
    }

    fn add_edge(&mut self, digested: &Digested<'_>, at: usize, place: u64) {
        // A place that no page of a slot has.
        const EDGE: u64 = 1 << 62;
        let Digested {
            query, key, view, ..
        } = *digested;
        let edge = digest::digest_part(key, view, at, edge_words(query), place ^ EDGE);
        self.0 = self.0.wrapping_add(edge);
    }

    /// Returns the digest as a number; 0 if there was no window.
    pub(super) fn value(self) -> u64 {
        self.0
    }
}

/// Returns how much of a page next to a window may be read, in words of eight bytes: what a match
/// has beyond it, and context.
fn edge_words(query: &Query) -> usize {
    let beyond = query.scanner().longest().saturating_sub(1);
    beyond.saturating_add(query.context).div_ceil(8)
}

/// What must still be there when the search of a chunk goes on in another pause.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    /// The number in its slot of the page where it goes on.
    pub(super) page: u64,
    /// A part of it was searched, too: all of it must be as it was. Otherwise that is so for the
    /// bytes that may end a match in the page before.
    pub(super) whole: bool,
    /// The digest of that; [`None`] if the page was not there.
    digest: Option<u64>,
}

impl Mark {
    /// Returns the mark of page number `page`, which is at the offset `at` of what is held; that is
    /// [`None`] if it is not.
    pub(super) fn new(digested: &Digested<'_>, page: u64, whole: bool, at: Option<usize>) -> Self {
        let words = if whole {
            PAGE_SIZE / 8
        } else {
            edge_words(digested.query)
        };
        let Digested { key, view, .. } = *digested;
        Self {
            page,
            whole,
            digest: at.map(|at| digest::digest_part(key, view, at, words, page)),
        }
    }

    /// Returns the mark of a page that is not there.
    pub(super) fn absent(page: u64, whole: bool) -> Self {
        Self {
            page,
            whole,
            digest: None,
        }
    }

    /// Returns whether `now`, of the same page, is the same.
    pub(super) fn is(&self, now: &Self) -> bool {
        self.digest == now.digest
    }
}

/// Returns a key that no guest can know. A guest that did could change its memory and keep the
/// digest.
pub(crate) fn random_key() -> Result<KBox<Key>> {
    let mut key = KBox::init(pin_init::init_zeroed::<Key>(), GFP_KERNEL)?;
    key.fill(random::fill);
    Ok(key)
}

/// A part of what is held.
struct Part<'a> {
    view: &'a View<'a>,
    start: usize,
    len: usize,
}

impl Memory for Part<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        let piece = self.view.piece(self.start.saturating_add(at));
        piece.up_to(self.len.saturating_sub(at))
    }
}
