// SPDX-License-Identifier: GPL-2.0

//! Where vCPU threads wait out a freeze, and the work they share meanwhile.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SetOnce, //
    },
    time::Delta, //
};

use crate::linux::{
    completion::Completion,
    task, //
};

/// How often a parked thread looks whether it has to freeze.
const FREEZER_POLL: Delta = Delta::from_millis(50);

/// Work that parked vCPU threads share with the inspecting thread.
pub(crate) trait ParkedWork: Send + Sync {
    /// Takes part until nothing is left to hand out, or [`task::must_leave`].
    fn help(&self);
}

/// Why a thread parks no longer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkingEnd {
    /// The freeze has ended.
    Thawed,
    /// The thread is being killed.
    Killed,
    /// The system, or the thread's cgroup, is being frozen: the thread has to go where it can be.
    Freezing,
}

/// Where the vCPU threads of one VM wait out one freeze.
#[pin_data]
pub(crate) struct Parking {
    /// Complete when there is work, or nothing more to wait for.
    #[pin]
    work_ready: Completion,
    /// Complete when the freeze is over.
    #[pin]
    thawed: Completion,
    work: SetOnce<Arc<dyn ParkedWork>>,
    /// All vCPUs have stopped: who comes now parks without calling KVM.
    closed: Atomic<bool>,
}

impl Parking {
    /// Creates the parking of a freeze that begins.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            work_ready <- Completion::new(),
            thawed <- Completion::new(),
            work: SetOnce::new(),
            closed: Atomic::new(false),
        })
    }

    /// Shares `work` with the threads that are parked, and with those that still come.
    ///
    /// A freeze has one work: what is shared after the first is not done.
    pub(crate) fn share(&self, work: Arc<dyn ParkedWork>) {
        self.work.populate(work);
        self.work_ready.complete_all();
    }

    /// From now on no thread may call KVM before the thaw.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Returns whether [`Self::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Ends the freeze: all threads go on.
    pub(crate) fn thaw(&self) {
        self.work_ready.complete_all();
        self.thawed.complete_all();
    }

    /// Parks the current thread until the freeze ends, and helps with its work meanwhile.
    pub(crate) fn park(&self) -> ParkingEnd {
        if let Some(end) = Self::wait(&self.work_ready) {
            return end;
        }
        if let Some(work) = self.work.as_ref() {
            work.help();
        }
        Self::wait(&self.thawed).unwrap_or(ParkingEnd::Thawed)
    }

    /// Waits. [`None`]: it is complete.
    ///
    /// The cgroup freezer interrupts, but the wait must be killable only: other signals have time
    /// until the thaw. So this looks now and then.
    fn wait(completion: &Completion) -> Option<ParkingEnd> {
        loop {
            match completion.wait_killable_timeout(FREEZER_POLL) {
                Ok(true) => return None,
                Ok(false) if task::is_freezing() => return Some(ParkingEnd::Freezing),
                Ok(false) => (),
                Err(_) => return Some(ParkingEnd::Killed),
            }
        }
    }
}
