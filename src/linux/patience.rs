// SPDX-License-Identifier: GPL-2.0

//! How long an inspection waits for the lock of an address space.

use kernel::{
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// How many milliseconds to wait for `mmap_lock`: the guest may be paused.
const PATIENCE_MS: u32 = 20;

/// In how many milliseconds yet the threads that share it may wait for `mmap_lock`.
pub(crate) struct Patience {
    begun: Instant<Monotonic>,
    left: Atomic<u32>,
    /// The millisecond after `begun` in which one waited last.
    last: Atomic<i64>,
}

impl Patience {
    /// Creates one that is not used up.
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            left: Atomic::new(PATIENCE_MS),
            last: Atomic::new(-1),
        }
    }

    /// Makes it last as long again as a new one.
    pub(crate) fn renew(&self) {
        self.left.store(PATIENCE_MS, Relaxed);
    }

    /// Returns whether one more wait is left, and takes it. Those who wait in the same millisecond
    /// take one together, or a few more.
    pub(super) fn take(&self) -> bool {
        let now = self.begun.elapsed().as_millis();
        let left = self.left.load(Relaxed);
        if left > 0 && self.last.xchg(now, Relaxed) != now {
            self.left.store(left.saturating_sub(1), Relaxed);
        }
        left > 0
    }
}
