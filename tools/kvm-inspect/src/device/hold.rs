// SPDX-License-Identifier: GPL-2.0

//! A guest that stands while it is looked at.

use kvm_inspect_pure::uapi;

use super::{Error, Late, Session};

/// The guest stands until this is dropped or released, or its lease ends.
///
/// All that the session reads meanwhile is of one instant, if the lease has not ended before
/// ([`Released::is_expired`]).
#[derive(Debug)]
#[must_use = "the guest goes on when this is dropped"]
pub struct Hold<'a> {
    session: &'a Session,
    freeze_ns: u64,
    is_released: bool,
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// How long the guest stood, in nanoseconds.
    pub pause_ns: u64,
    /// Whether the lease had ended before, so that the guest has run meanwhile.
    pub is_expired: bool,
}

impl<'a> Hold<'a> {
    pub(super) fn new(
        session: &'a Session,
        lease_ms: u32,
        freeze_timeout_ms: u32,
        late: Late,
    ) -> Result<Self, Error> {
        let request = uapi::Hold {
            lease_ms,
            freeze_timeout_ms,
            flags: late.flag(),
            reserved: 0,
            freeze_ns: 0,
        };
        let hold = session.device.hold(request);
        let hold = hold.map_err(|errno| session.error(errno))?;
        Ok(Self {
            session,
            freeze_ns: hold.freeze_ns,
            is_released: false,
        })
    }

    /// Returns how long it took until all vCPUs had stopped, in nanoseconds.
    #[must_use]
    pub const fn freeze_ns(&self) -> u64 {
        self.freeze_ns
    }

    /// Lets the guest go on, and returns how long it stood.
    ///
    /// # Errors
    ///
    /// Those of the module. The guest goes on at the latest when the lease ends.
    pub fn release(mut self) -> Result<Released, Error> {
        self.is_released = true;
        let released = self.session.device.release();
        let released = released.map_err(|errno| self.session.error(errno))?;
        Ok(Released {
            pause_ns: released.pause_ns,
            is_expired: released.is_expired != 0,
        })
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if !self.is_released {
            // The lease ends it in any case.
            let _ = self.session.device.release();
        }
    }
}
