// SPDX-License-Identifier: GPL-2.0

//! Time limits that hold on slow and busy machines.

use std::{thread, time::Duration};

/// The rest of a time limit.
///
/// It counts naps, and no clock: the less CPU time the VM gets the longer each nap takes. So the
/// limit stretches, and ends only what hangs.
pub(crate) struct Patience {
    naps: u128,
    nap: Duration,
}

impl Patience {
    /// Creates a limit that is `nominal` on an idle machine, in naps of this length.
    pub(crate) fn of(nominal: Duration, nap: Duration) -> Self {
        Self {
            naps: nominal.as_micros() / nap.as_micros().max(1),
            nap,
        }
    }

    /// Takes a nap. Returns false instead if none is left.
    #[must_use]
    pub(crate) fn nap(&mut self) -> bool {
        let Some(left) = self.naps.checked_sub(1) else {
            return false;
        };
        self.naps = left;
        thread::sleep(self.nap);
        true
    }
}
