// SPDX-License-Identifier: GPL-2.0

//! The guest's memory: which pages are present, and how they are held to be read.
//!
//! Present pages that are neighbours in guest-physical memory, even across the border of two
//! memslots, are read in place as one stretch ([`window`]). What the guest sees in system
//! management mode at the same place as outside it, usually most of its memory, is read once
//! ([`map`]).

mod counts;
mod map;
mod window;

use kernel::{
    page::PAGE_SHIFT,
    prelude::*, //
};

pub(crate) use self::{
    counts::{
        FewPages,
        PageCounts, //
    },
    map::{
        Map,
        Plan, //
    },
    window::{
        Beside,
        Neighbours,
        Step,
        Window,
        Windows,
        WINDOW_PAGES, //
    }, //
};

/// The size of a page.
pub(crate) const PAGE: u64 = 1 << PAGE_SHIFT;

/// Why reading memory ended early.
pub(crate) enum Interrupted {
    /// It could not go on.
    Error(Error),
    /// The caller asked for it.
    Stopped,
}

impl<E: Into<Error>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}
