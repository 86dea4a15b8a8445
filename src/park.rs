// SPDX-License-Identifier: GPL-2.0

//! Where vCPU threads wait out a freeze, and the work they share meanwhile.

use kernel::{
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    }, //
};

use crate::linux::completion::Completion;

/// Work that parked vCPU threads share with the inspecting thread.
pub(crate) trait ParkedWork: Send + Sync {
    /// Takes part until nothing is left to hand out, or the current thread is being killed.
    fn help(&self);
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
}

impl Parking {
    /// Creates the parking of a freeze that begins.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            work_ready <- Completion::new(),
            thawed <- Completion::new(),
            work: SetOnce::new(),
        })
    }

    /// Shares `work` with the threads that are parked, and with those that still come.
    ///
    /// A freeze has one work: what is shared after the first is not done.
    pub(crate) fn share(&self, work: Arc<dyn ParkedWork>) {
        self.work.populate(work);
        self.work_ready.complete_all();
    }

    /// Ends the freeze: all threads go on.
    pub(crate) fn thaw(&self) {
        self.work_ready.complete_all();
        self.thawed.complete_all();
    }

    /// Parks the current thread until the freeze ends, and helps with its work meanwhile.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the thread is being killed.
    pub(crate) fn park(&self) -> Result {
        self.work_ready.wait_killable()?;
        if let Some(work) = self.work.as_ref() {
            work.help();
        }
        self.thawed.wait_killable()
    }
}
