// SPDX-License-Identifier: GPL-2.0

//! Bringing all vCPUs of a VM to a stop at KVM_RUN's entry.
//!
//! Between the entry of the ioctl and that of the guest no register is half updated. A vCPU in the
//! guest, or halted in the kernel, is kicked, and its thread comes back to the entry by itself (see
//! [`crate::hook`]). A vCPU whose thread stays in user space, or that never ran, is locked out.
//!
//! In the end the mutexes of all vCPUs are taken, so that nobody can run or change them.

use kernel::{
    prelude::*,
    sync::Arc,
    task::Task,
    time::{
        delay::fsleep,
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    error::{
        explain,
        refuse, //
    },
    hook::{
        VcpuLocation,
        Watch,
        Whom, //
    },
    kvm::{
        Holder,
        LockedVcpus,
        Registers,
        Vcpu,
        Vm, //
    },
    linux::{
        kernels::as_millis_ceil,
        task, //
    },
    park::{
        ParkedWork,
        Parking, //
    },
    request::Late, //
};

/// How long a thread that sleeps in user space may take to come to KVM_RUN before its vCPU is
/// locked out. One that runs, or waits for a CPU, has half of the whole time.
const SLEEPER_GRACE: Delta = Delta::from_millis(10);

/// How long threads may take to notice a kick, when all freezes are over.
const KICKED_GRACE_MS: u32 = 1000;

/// The same if the module is being unloaded, or the VMM dies.
const SHORT_KICKED_GRACE_MS: u32 = 100;

/// The most lines about vCPUs that did not stop.
const MAX_LATE_LINES: usize = 16;

/// Room for vCPUs that are made while all others are locked out.
const SPARE_VCPUS: usize = 16;

/// Where a vCPU is during a freeze.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum VcpuState {
    /// It is parked at KVM_RUN's entry: all registers are true.
    Parked,
    /// Its thread is in user space, or it never ran; it is locked out.
    Outside,
    /// It did not stop in time, and may have run meanwhile ([`Late::Report`]).
    Running,
}

/// One vCPU of a frozen VM.
pub(crate) struct FrozenVcpu {
    /// The number that the VMM gave it.
    pub(crate) number: c_int,
    /// Where it is.
    pub(crate) state: VcpuState,
    /// Its registers; [`None`] if it was running, or if KVM does not know them.
    pub(crate) registers: Option<Registers>,
}

/// The pauses of one inspection.
#[derive(Clone, Copy)]
pub(crate) struct Pauses {
    /// How many there were.
    pub(crate) count: u32,
    /// The last one.
    pub(crate) last: Delta,
    /// The longest one.
    pub(crate) longest: Delta,
    /// The sum of all.
    pub(crate) all: Delta,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            count: 0,
            last: Delta::ZERO,
            longest: Delta::ZERO,
            all: Delta::ZERO,
        }
    }
}

impl Pauses {
    /// Adds a pause that has ended.
    pub(crate) fn add(&mut self, pause: Delta) {
        self.count = self.count.saturating_add(1);
        self.last = pause;
        self.longest = self.longest.max(pause);
        self.all += pause;
    }
}

/// A VM that is frozen until this is dropped.
pub(crate) struct Freeze<'a> {
    watch: &'a Watch,
    vm: &'a Vm,
    parking: Arc<Parking>,
    locked: LockedVcpus<'a>,
    since: Instant<Monotonic>,
    took: Delta,
    state: State,
}

/// How far a freeze is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not all vCPUs have stopped.
    Begun,
    /// Time is up, and this is all that can be had: some vCPUs are late.
    Partial,
    /// All have stopped.
    Complete,
}

/// Until when a guest is held.
pub(crate) struct Lease {
    since: Instant<Monotonic>,
    most: Delta,
}

impl Lease {
    /// Begins a lease of so many milliseconds.
    pub(crate) fn new(milliseconds: u32) -> Self {
        Self {
            since: Instant::now(),
            most: Delta::from_millis(milliseconds.into()),
        }
    }

    /// Returns what is left of it; negative after its end.
    pub(crate) fn left(&self) -> Delta {
        self.most - self.since.elapsed()
    }

    /// Returns how many milliseconds are left, rounded up.
    pub(crate) fn left_ms(&self) -> u32 {
        u32::try_from(as_millis_ceil(self.left())).unwrap_or(0)
    }

    /// Returns whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.since.elapsed() >= self.most
    }
}

/// What is asked of one freeze.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// How long to wait for all vCPUs to stop.
    pub(crate) timeout: Delta,
    /// What to do then.
    pub(crate) late: Late,
    /// It is the first one of its inspection. Lines say which vCPUs are late, and all vCPUs have
    /// the same time. Later, those that were locked out before have none.
    pub(crate) is_first: bool,
}

impl<'a> Freeze<'a> {
    /// Stops all vCPUs of `vm`, which is the one that `watch` watches. `stop` tells whether to give
    /// up.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: a vCPU did not stop in time, and [`Late::Refuse`] was asked for. `EINTR`:
    /// `stop` said so. `ENOMEM`. In each case all vCPUs go on.
    pub(crate) fn begin(
        vm: &'a Vm,
        watch: &'a Watch,
        terms: &Terms,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self> {
        // All memory is taken before the first kick.
        let parking = Parking::new()?;
        let room = vm.vcpus().count().saturating_add(SPARE_VCPUS);
        let locked = LockedVcpus::with_capacity(vm, room)?;
        let mut this = Self {
            watch,
            vm,
            parking,
            locked,
            since: Instant::now(),
            took: Delta::ZERO,
            state: State::Begun,
        };
        watch.freeze(&this.parking);
        this.wait_for_all(terms, stop)?;
        this.took = this.since.elapsed();
        Ok(this)
    }

    fn wait_for_all(&mut self, terms: &Terms, stop: &dyn Fn() -> bool) -> Result {
        let timeout = terms.timeout;
        loop {
            let seen = self.watch.parks();
            let elapsed = self.since.elapsed();
            let may_lock_out = |vcpu: &Vcpu| {
                if !terms.is_first && self.watch.was_locked_out(vcpu) {
                    return true;
                }
                match vcpu.thread() {
                    Some(thread) if task::is_running(&thread) => elapsed * 2 > timeout,
                    Some(_) => elapsed > SLEEPER_GRACE || elapsed * 2 > timeout,
                    None => true,
                }
            };
            if self.have_all_stopped(may_lock_out) && self.lock_all() {
                return Ok(());
            }
            if elapsed > timeout {
                return self.time_is_up(terms);
            }
            if stop() {
                return Err(EINTR);
            }
            self.kick();
            self.watch.wait_for_parked(seen, msecs_to_jiffies(1));
        }
    }

    /// Stops what can be stopped now. The rest is late.
    fn time_is_up(&mut self, terms: &Terms) -> Result {
        if self.lock_all() {
            return Ok(());
        }
        for vcpu in self.vm.vcpus() {
            // It is busy, or new: then it is late.
            let _ = self.locked.try_add(vcpu);
        }
        if terms.late == Late::Report {
            self.state = State::Partial;
            return Ok(());
        }
        if terms.is_first {
            let late = self.late_vcpus();
            // A slow console must not prolong the pause.
            self.thaw_all();
            late.print();
        }
        Err(ETIMEDOUT)
    }

    /// Returns when the pause began: at the first kick.
    pub(crate) fn since(&self) -> Instant<Monotonic> {
        self.since
    }

    /// Returns how long it took until all vCPUs had stopped.
    pub(crate) fn took(&self) -> Delta {
        self.took
    }

    /// Returns whether all vCPUs have stopped.
    pub(crate) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Shares `work` with the parked threads.
    pub(crate) fn share(&self, work: Arc<dyn ParkedWork>) {
        self.parking.share(work);
    }

    /// Lets all vCPUs go on. Returns how long the pause was.
    pub(crate) fn thaw(mut self) -> Delta {
        // The rest of the drop need not be fast.
        self.thaw_all();
        self.since.elapsed()
    }

    /// Returns the state and registers of `vcpu`; [`None`] if it is not stopped (any more).
    pub(crate) fn vcpu(&self, vcpu: &Vcpu) -> Option<FrozenVcpu> {
        let (state, registers) = if self.locked.contains(vcpu) {
            let state = match self.watch.location(vcpu) {
                VcpuLocation::Parked => VcpuState::Parked,
                VcpuLocation::InKvmRun | VcpuLocation::Unknown => VcpuState::Outside,
            };
            (state, Registers::read(vcpu))
        } else if self.state == State::Partial {
            // What KVM has in memory is that of some earlier moment.
            (VcpuState::Running, None)
        } else {
            return None;
        };
        Some(FrozenVcpu {
            number: vcpu.number(),
            state,
            registers,
        })
    }

    /// Returns whether all vCPUs have stopped, or `may_lock_out` says that they had their time to.
    fn have_all_stopped(&self, may_lock_out: impl Fn(&Vcpu) -> bool) -> bool {
        self.vm.vcpus().all(|vcpu| match self.watch.location(vcpu) {
            VcpuLocation::Parked => true,
            VcpuLocation::InKvmRun => false,
            VcpuLocation::Unknown => may_lock_out(vcpu),
        })
    }

    /// Locks all vCPUs, the parked ones, too. Then the freeze is complete: a VMM may have further
    /// threads that wait for a vCPU in KVM_RUN since before its VM was watched, or that come only
    /// now. Returns whether that was possible; else no vCPU is locked.
    fn lock_all(&mut self) -> bool {
        let mut all = self.vm.vcpus();
        // One that has just been made is seen next time.
        let are_locked = all.all(|vcpu| self.locked.try_add(vcpu).is_ok())
            && self.locked.vcpus().len() == self.vm.vcpus().count();
        if are_locked {
            self.parking.close();
            self.state = State::Complete;
        } else {
            self.locked.release();
        }
        are_locked
    }

    /// Kicks all threads that are in KVM_RUN.
    fn kick(&self) {
        self.watch.kick_all(Whom::Runners);
        // Those that have been in KVM_RUN since before the VM was watched. The others are kicked
        // already, and do not notice.
        for vcpu in self.vm.vcpus() {
            if vcpu.kick() {
                self.watch.note_stranger_kicked();
            }
        }
    }

    /// Lets the parked threads go, and those that were locked out.
    fn thaw_all(&mut self) {
        for vcpu in self.locked.vcpus() {
            self.watch.note_locked_out(vcpu);
        }
        // First no new thread may park, then those that have may go, and find their mutex free.
        self.watch.thaw();
        self.locked.release();
        self.parking.thaw();
    }

    /// Returns the vCPUs that have not stopped, and what their threads do.
    fn late_vcpus(&self) -> LateVcpus {
        let mut late = LateVcpus::default();
        for vcpu in self.vm.vcpus().filter(|vcpu| !self.locked.contains(vcpu)) {
            if let Some(place) = late.first.get_mut(late.count) {
                *place = Some(LateVcpu {
                    number: vcpu.number(),
                    is_in_kvm_run: vcpu.is_in_kvm_run()
                        || self.watch.location(vcpu) == VcpuLocation::InKvmRun,
                    doing: vcpu
                        .thread()
                        .map_or("has ended", |thread| task::doing(&thread)),
                    holder: vcpu.holder(),
                });
            }
            late.count = late.count.saturating_add(1);
        }
        late
    }
}

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        self.thaw_all();
    }
}

/// Says why [`Freeze::begin`] has failed, if that is not said yet. `process` is the VMM.
pub(crate) fn explain_failure(error: Error, process: &Task) -> Error {
    if error == ETIMEDOUT {
        refuse!(
            error,
            "not all vCPUs stopped in time, all go on; try again, raise freeze_timeout_ms= (and \
             max_pause_ms=), or give late=report"
        )
    } else if error == EINTR && task::is_dying(process) {
        refuse!(
            ESRCH,
            "the VMM is exiting; its guest has no memory any more"
        )
    } else {
        error
    }
}

/// Waits until the threads of `vm` that were kicked, and do not come through the hook, have
/// noticed. As long as `watch` watches it, the VMM sees nothing of that. The guest runs.
///
/// A debugger may hold a thread on its way to user space. If `stop` says so, that is not waited for
/// so long.
pub(crate) fn await_kicked(vm: &Vm, watch: &Watch, stop: &dyn Fn() -> bool) {
    if !watch.take_strangers_kicked() {
        return;
    }
    // The flag stays until they have passed `Restart`, whether still in KVM_RUN or not.
    let is_kicked = |vcpu: &Vcpu| vcpu.thread().is_some_and(|thread| task::is_kicked(&thread));
    for waited in 0..KICKED_GRACE_MS {
        if !vm.vcpus().any(is_kicked) || (waited >= SHORT_KICKED_GRACE_MS && stop()) {
            return;
        }
        fsleep(Delta::from_millis(1));
    }
}

/// The vCPUs that did not stop in time.
#[derive(Default)]
struct LateVcpus {
    first: [Option<LateVcpu>; MAX_LATE_LINES],
    count: usize,
}

/// A vCPU that did not stop in time.
#[derive(Clone, Copy)]
struct LateVcpu {
    number: c_int,
    is_in_kvm_run: bool,
    /// What the thread does that ran it last.
    doing: &'static str,
    /// Who works on it.
    holder: Option<Holder>,
}

impl LateVcpus {
    fn print(&self) {
        for late in self.first.iter().flatten() {
            late.print();
        }
        let more = self.count.saturating_sub(self.first.len());
        if more > 0 {
            explain!("and {more} more vCPUs did not stop");
        }
    }
}

impl LateVcpu {
    fn print(self) {
        let (number, doing) = (self.number, self.doing);
        match self.holder {
            _ if self.is_in_kvm_run => {
                explain!("vcpu {number} did not stop: its thread is in KVM_RUN, and {doing}");
            }
            Some(Holder { thread, ioctl }) => explain!(
                "vcpu {number} did not stop: thread {thread} works on it, in ioctl {ioctl:#x}"
            ),
            None => explain!("vcpu {number} did not stop: its thread {doing} in user space"),
        }
    }
}
