// SPDX-License-Identifier: GPL-2.0

//! How long to wait for what has to come.

use std::{thread, time::Duration};

/// What is left of the time in which something has to come.
///
/// It counts naps and not by a clock: the less of the machine the VM gets the longer each nap
/// takes, and the limit stretches by itself. So it ends only what hangs, and that on any machine.
pub(crate) struct Patience {
    naps: u128,
    nap: Duration,
}

impl Patience {
    /// Makes so much of it as `nominal` is on a machine that has nothing else to do, to be spent in
    /// naps of this length.
    pub(crate) fn of(nominal: Duration, nap: Duration) -> Self {
        Self {
            naps: nominal.as_micros() / nap.as_micros().max(1),
            nap,
        }
    }

    /// Takes a nap. Returns whether there was patience for it.
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
