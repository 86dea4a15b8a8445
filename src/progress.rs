// SPDX-License-Identifier: GPL-2.0

//! How far something has got that takes long, for those who ask meanwhile.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing.
    Nothing,
    /// Memory is searched.
    Search,
    /// Memory is copied.
    Copy,
    /// The guest is held.
    Hold,
}

/// How far it has got. The figures need not be of one moment.
pub(crate) struct Progress {
    doing: Atomic<u32>,
    done: Atomic<u64>,
    all: Atomic<u64>,
    pauses: Atomic<u32>,
}

impl Progress {
    /// Creates the progress of nothing.
    pub(crate) const fn new() -> Self {
        Self {
            doing: Atomic::new(Doing::Nothing as u32),
            done: Atomic::new(0),
            all: Atomic::new(0),
            pauses: Atomic::new(0),
        }
    }

    /// Begins something of so many pages.
    pub(crate) fn begin(&self, doing: Doing, all: u64) {
        self.done.store(0, Relaxed);
        self.pauses.store(0, Relaxed);
        self.all.store(all, Relaxed);
        self.doing.store(doing as u32, Relaxed);
    }

    /// Adds pages that are done.
    pub(crate) fn add(&self, pages: u64) {
        self.done.fetch_add(pages, Relaxed);
    }

    /// Adds a pause.
    pub(crate) fn add_pause(&self) {
        self.pauses.fetch_add(1, Relaxed);
    }

    /// Returns the number of what is being done ([`Doing`]), how many pages are done, how many
    /// there are, and how many pauses there were.
    pub(crate) fn figures(&self) -> (u32, u64, u64, u32) {
        (
            self.doing.load(Relaxed),
            self.done.load(Relaxed),
            self.all.load(Relaxed),
            self.pauses.load(Relaxed),
        )
    }
}
