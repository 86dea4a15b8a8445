// SPDX-License-Identifier: GPL-2.0

//! How much memory is searched between two looks at the clock, so that a pause ends in time.

use kernel::time::{
    Delta,
    Instant,
    Monotonic, //
};

/// The most pages that are searched at once in a limited pause. Where every byte is a match they
/// take about a millisecond, and what is scanned twice at their borders costs little.
const MOST_PAGES: u64 = 8;

/// Which part of a pause they may take, once they are known to take long.
const PARTS_OF_PAUSE: i64 = 16;

/// A pause, and how long it may take.
#[derive(Clone, Copy)]
pub(super) struct Pause {
    pub(super) since: Instant<Monotonic>,
    pub(super) most: Delta,
}

/// How fast the search gets on, and how much time it has.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// The pause, if it is limited.
    pause: Option<Pause>,
    /// The estimated time to search a page.
    page_time: Delta,
}

impl Pace {
    /// Creates one without an estimate.
    pub(super) fn new() -> Self {
        Self {
            pause: None,
            page_time: Delta::ZERO,
        }
    }

    /// Begins a pause.
    pub(super) fn begin(&mut self, pause: Option<Pause>) {
        self.pause = pause;
        // A page that took long once must not stop the search for ever.
        self.page_time = half(self.page_time);
    }

    /// Returns how many pages may be searched before the time is looked at.
    pub(super) fn pages(&self) -> u64 {
        let Some(pause) = self.pause else {
            return u64::MAX;
        };
        let time = pause.most.as_nanos() / PARTS_OF_PAUSE;
        let pages = time.checked_div(self.page_time.as_nanos());
        let pages = pages.and_then(|pages| u64::try_from(pages).ok());
        pages.map_or(MOST_PAGES, |pages| pages.clamp(1, MOST_PAGES))
    }

    /// Notes that so many pages took so long.
    pub(super) fn searched(&mut self, pages: u64, took: Delta) {
        let pages = i64::try_from(pages).unwrap_or(i64::MAX).max(1);
        let time = Delta::from_nanos(took.as_nanos() / pages);
        // The next pages are likely to be similar, but a thread may have had to wait.
        self.page_time = time.max(half(self.page_time));
    }

    /// Returns whether the pause is limited, and would not end in time if so many pages were
    /// searched once more.
    pub(super) fn is_over(&self) -> bool {
        self.pause.is_some_and(|pause| {
            let pages = i64::try_from(self.pages()).unwrap_or(i64::MAX);
            let part = self.page_time.as_nanos().saturating_mul(pages);
            pause.since.elapsed() + Delta::from_nanos(part) > pause.most
        })
    }
}

/// Returns half of a time.
fn half(time: Delta) -> Delta {
    Delta::from_nanos(time.as_nanos() / 2)
}
