// SPDX-License-Identifier: GPL-2.0

//! The threads that run this module's code. They must have left before the code is unloaded.
//!
//! Lock order: nothing is taken under [`PROOF`]. For [`WATCHES`] see [`crate::hook`].

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        global_lock,
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use super::{
    table,
    watch::{
        Watch,
        Whom, //
    }, //
};
use crate::{
    kvm::run,
    linux::rcu::{
        synchronize_rcu_tasks,
        TasksGracePeriod, //
    }, //
};

/// How long unloading waits for threads that are inside before it complains.
const UNLOAD_KICK_MS: u32 = 5000;

/// How often a thread has entered [`hooked_vcpu_ioctl`](super::hooked_vcpu_ioctl).
static ENTERED: Atomic<i64> = Atomic::new(0);

/// How often a thread has left it.
static LEFT: Atomic<i64> = Atomic::new(0);

global_lock! {
    // SAFETY: `Drain::new` initializes it before anything else uses it.
    /// The VMs that are watched, and those that were, while threads may still be inside.
    pub(super) unsafe(uninit) static WATCHES: SpinLock<KVec<Arc<Watch>>> = KVec::new();
}

global_lock! {
    // SAFETY: `Drain::new` initializes it before anything else uses it.
    /// The proof that no thread is inside, begun when the last hook went.
    unsafe(uninit) static PROOF: SpinLock<Option<Proof>> = None;
}

/// Waits, when it is dropped, until no thread is in this module's code.
///
/// Of the module's parts it is made before the first hook, and dropped after the last one.
pub(crate) struct Drain(());

impl Drain {
    /// Prepares the locks, and the mark of the module's own calls.
    ///
    /// # Safety
    ///
    /// This is called once, when the module is loaded.
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: By this function's contract.
        unsafe { WATCHES.init() };
        // SAFETY: By this function's contract.
        unsafe { PROOF.init() };
        // SAFETY: By this function's contract.
        unsafe { super::SHARED.init() };
        run::draw_mark();
        Self(())
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if table::is_unused() {
            return;
        }
        let proof = PROOF.lock().take();
        if !proof.is_some_and(Proof::wait) {
            // Who was redirected before the probe went is counted after this, or has left.
            synchronize_rcu_tasks();
            // A VMM may let several threads run a vCPU. One without the hook is only kicked here,
            // where its VMM may see an `EINTR`: else one of ours might wait for it for ever.
            if !kick_out(UNLOAD_KICK_MS, Whom::OthersToo) {
                pr_warn!("waiting for vCPU threads that do not leave the kernel; kill their VMM\n");
                while !kick_out(u32::MAX, Whom::OthersToo) {}
            }
            // Who has just been counted out may still have its last instructions to run.
            synchronize_rcu_tasks();
        }
        let watches = core::mem::take(&mut *WATCHES.lock());
        drop(watches);
    }
}

/// Begins the proof that no thread is inside. The probe has gone.
///
/// Nobody waits for it unless the module is unloaded at once.
pub(super) fn begin_proof() {
    let proof = Proof::begin();
    let before = core::mem::replace(&mut *PROOF.lock(), proof);
    drop(before);
}

/// The proof that no thread is in this module's code, complete when a grace period ends.
///
/// It begins after the probe has gone, at a moment when nobody was inside. If nobody has entered
/// since, all who were ever redirected had entered and left before that moment: the grace period
/// gives those on the way in the time to be counted, and those on the way out the time for their
/// last instructions.
struct Proof {
    grace_period: Pin<KBox<TasksGracePeriod>>,
    /// [`ENTERED`] at that moment.
    entered: i64,
}

impl Proof {
    /// Begins the proof. [`None`]: there is no memory, or somebody is inside, or nobody ever was.
    fn begin() -> Option<Self> {
        if table::is_unused() {
            return None;
        }
        let entered = entered_if_all_left()?;
        Some(Self {
            grace_period: TasksGracePeriod::begin().ok()?,
            entered,
        })
    }

    /// Waits for the grace period to end, and returns whether the proof holds.
    fn wait(self) -> bool {
        drop(self.grace_period);
        ENTERED.load(Relaxed) == self.entered
    }
}

/// Returns [`ENTERED`] if all who had entered when it was read have left.
fn entered_if_all_left() -> Option<i64> {
    // Who leaves has entered before: in this order, equal numbers are of one moment.
    let left = LEFT.load(Acquire);
    (ENTERED.load(Relaxed) == left).then_some(left)
}

/// Kicks the threads that are inside back to KVM_RUN, which they then enter without this module.
/// Waits at most about `patience_ms` for them. Returns whether all have left.
///
/// The probe has gone. A thread that does not react in time leaves when it does; [`Drain`] waits
/// for it.
pub(super) fn kick_out(patience_ms: u32, whom: Whom) -> bool {
    for _ in 0..patience_ms {
        if entered_if_all_left().is_some() {
            return true;
        }
        // More than are watched: those that threads are inside of stay.
        for index in 0.. {
            // Not under the lock: there may be very many threads.
            let watch = WATCHES.lock().get(index).cloned();
            match watch {
                Some(watch) => watch.kick_all(whom),
                None => break,
            }
        }
        fsleep(Delta::from_millis(1));
    }
    entered_if_all_left().is_some()
}

/// Removes the watches of VMs that are watched no more, and have no thread inside.
pub(super) fn remove_deserted() {
    loop {
        let mut watches = WATCHES.lock();
        let index = watches.iter().position(|watch| watch.is_deserted());
        let deserted = index.map(|index| watches.remove(index));
        // Its memory may not be freed under a spin lock.
        drop(watches);
        if deserted.is_none() {
            return;
        }
    }
}

/// Counts the current thread as inside until it is dropped.
pub(super) struct InsideGuard(());

impl InsideGuard {
    /// Counts the current thread in.
    pub(super) fn new() -> Self {
        ENTERED.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for InsideGuard {
    fn drop(&mut self) {
        LEFT.fetch_add(1, Release);
    }
}
