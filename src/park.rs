// SPDX-License-Identifier: GPL-2.0

//! Where vCPU threads wait out a freeze, and the work they share meanwhile.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
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
    #[pin]
    news: SpinLock<News>,
    /// All vCPUs have stopped: who comes now parks without calling KVM.
    closed: Atomic<bool>,
}

/// What parked threads wait for.
struct News {
    /// How much work there was so far.
    count: u64,
    /// The latest work.
    work: Option<Arc<dyn ParkedWork>>,
    /// The freeze is over.
    is_over: bool,
    /// Complete when one of these has changed; then there is another one.
    changed: Arc<Completion>,
}

impl Parking {
    /// Creates the parking of a freeze that begins.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let news = News {
            count: 0,
            work: None,
            is_over: false,
            changed: Arc::pin_init(Completion::new(), GFP_KERNEL)?,
        };
        Arc::pin_init(
            pin_init!(Self {
                news <- new_spinlock!(news, "kvm_inspect::Parking::news"),
                closed: Atomic::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// Shares `work` with the threads that are parked, and with those that still come. If there is
    /// no memory, they do not hear of it: nobody relies on their help.
    pub(crate) fn share(&self, work: Arc<dyn ParkedWork>) {
        let Ok(fresh) = Arc::pin_init(Completion::new(), task::gfp_paused()) else {
            return;
        };
        let mut news = self.news.lock();
        news.count = news.count.wrapping_add(1);
        let before = news.work.replace(work);
        let changed = core::mem::replace(&mut news.changed, fresh);
        drop(news);
        changed.complete_all();
        // Not under a spin lock: it may own much.
        drop(before);
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
        let mut news = self.news.lock();
        news.is_over = true;
        let work = news.work.take();
        let changed = news.changed.clone();
        drop(news);
        changed.complete_all();
        drop(work);
    }

    /// Parks the current thread until the freeze ends, and helps with its work meanwhile.
    pub(crate) fn park(&self) -> ParkingEnd {
        let mut seen = 0;
        loop {
            let news = self.news.lock();
            if news.is_over {
                return ParkingEnd::Thawed;
            }
            let work = news.work.clone().filter(|_| news.count != seen);
            let changed = news.changed.clone();
            seen = news.count;
            drop(news);
            if let Some(work) = work {
                work.help();
            } else if let Some(end) = Self::wait(&changed) {
                return end;
            }
        }
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
