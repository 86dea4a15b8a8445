// SPDX-License-Identifier: GPL-2.0

//! How much memory is searched between two looks at the clock, so that a pause ends in time.

use kernel::{
    page::PAGE_SIZE,
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::memory::WINDOW_PAGES;

/// The most bytes that are searched at once in a limited pause: a window. The search looks at the
/// clock by itself where it finds much; what it has found at once until then is given up.
const MOST: usize = WINDOW_PAGES * PAGE_SIZE;

/// The fewest bytes that are searched at once. Where each is a match of 256 patterns they take
/// about a millisecond.
const UNIT: usize = 16;

/// Which part of a pause they may take, once they are known to take long.
const PARTS_OF_PAUSE: i64 = 16;

/// A pause, and how long it may take.
#[derive(Clone, Copy)]
pub(super) struct Pause {
    pub(super) since: Instant<Monotonic>,
    pub(super) most: Delta,
}

impl Pause {
    /// Returns whether it should have ended.
    pub(super) fn is_past(&self) -> bool {
        self.since.elapsed() > self.most
    }
}

/// How fast the search gets on, and how much time it has.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// The pause, if it is limited.
    pause: Option<Pause>,
    /// The estimated time to search [`UNIT`] bytes.
    unit_time: Delta,
}

impl Pace {
    /// Creates one without an estimate.
    pub(super) fn new() -> Self {
        Self {
            pause: None,
            unit_time: Delta::ZERO,
        }
    }

    /// Begins a pause.
    pub(super) fn begin(&mut self, pause: Option<Pause>) {
        self.pause = pause;
        // What took long once must not stop the search for ever.
        self.unit_time = part(self.unit_time, 2);
    }

    /// Returns the pause, if it is limited.
    pub(super) fn pause(&self) -> Option<Pause> {
        self.pause
    }

    /// Returns how many bytes may be searched before the time is looked at.
    pub(super) fn bytes(&self) -> usize {
        let Some(pause) = self.pause else {
            return usize::MAX;
        };
        let time = pause.most.as_nanos() / PARTS_OF_PAUSE;
        let units = time.checked_div(self.unit_time.as_nanos());
        let units = units.and_then(|units| usize::try_from(units).ok());
        units.map_or(MOST, |units| units.saturating_mul(UNIT).clamp(UNIT, MOST))
    }

    /// Notes that so many bytes took so long.
    pub(super) fn searched(&mut self, bytes: usize, took: Delta) {
        // The next bytes are likely to be similar, but a thread may have had to wait.
        let time = part(took, units(bytes));
        self.unit_time = time.max(part(self.unit_time, 2));
    }

    /// Notes that so many bytes were not searched in this time.
    pub(super) fn gave_up(&mut self, bytes: usize, took: Delta) {
        // Nobody knows how much longer it would have taken: the next step is much smaller.
        const SMALLER: i64 = 8;
        let time = Delta::from_nanos(took.as_nanos().saturating_mul(SMALLER));
        self.unit_time = part(time, units(bytes)).max(self.unit_time);
    }

    /// Returns whether the pause is limited, and would not end in time if there were one more step.
    pub(super) fn is_over(&self) -> bool {
        self.pause.is_some_and(|pause| {
            let step = self
                .unit_time
                .as_nanos()
                .saturating_mul(units(self.bytes()));
            pause.since.elapsed() + Delta::from_nanos(step) > pause.most
        })
    }
}

/// Returns how many units so many bytes are, at least one.
fn units(bytes: usize) -> i64 {
    i64::try_from(bytes / UNIT).unwrap_or(i64::MAX).max(1)
}

/// Returns one of so many equal parts of a time.
fn part(time: Delta, parts: i64) -> Delta {
    Delta::from_nanos(time.as_nanos().checked_div(parts).unwrap_or(0))
}
