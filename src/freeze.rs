// SPDX-License-Identifier: GPL-2.0

//! Bringing all vCPUs of a VM to a stop at KVM_RUN's entry.
//!
//! Between the entry of the ioctl and that of the guest no register is half updated. A vCPU in the
//! guest, or halted in the kernel, is kicked, and its thread comes back to the entry by itself (see
//! [`crate::hook`]). A vCPU whose thread stays in user space, or that never ran, is locked out: its
//! mutex is taken, so that nobody can run it.

use kernel::{
    prelude::*,
    sync::Arc,
    time::{
        delay::fsleep,
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    hook::{
        VcpuLocation,
        Watch, //
    },
    kvm::{
        LockedVcpus,
        Registers,
        Vcpu,
        Vm, //
    },
    linux::{
        kthread::OnKthread,
        task, //
    },
    park::{
        ParkedWork,
        Parking, //
    }, //
};

/// How long a thread that sleeps in user space may take to come to KVM_RUN before its vCPU is
/// locked out. One that runs, or waits for a CPU, has half of the whole time.
const SLEEPER_GRACE: Delta = Delta::from_millis(10);

/// How long threads may take to notice a kick for a freeze that did not come about.
const KICKED_GRACE_MS: u32 = 100;

/// Where a vCPU is during a freeze.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum VcpuState {
    /// It is parked at KVM_RUN's entry: all registers are true.
    Parked,
    /// Its thread is in user space, or it never ran; it is locked out.
    Outside,
}

/// One vCPU of a frozen VM.
pub(crate) struct FrozenVcpu {
    /// The number that the VMM gave it.
    pub(crate) number: c_int,
    /// Where it is.
    pub(crate) state: VcpuState,
    /// Its registers; [`None`] if KVM did not store them, or if there was no memory for them.
    pub(crate) registers: Option<Arc<Registers>>,
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
///
/// The drop lets the parked threads go before the fields release the mutexes of `locked`: those
/// threads may then wait for the mutexes no longer than they would wait for each other.
pub(crate) struct Freeze<'a> {
    watch: &'a Watch,
    vm: &'a Vm,
    parking: Arc<Parking>,
    locked: Option<LockedVcpus<'a>>,
    since: Instant<Monotonic>,
    took: Delta,
    /// All vCPUs have stopped.
    is_complete: bool,
}

impl<'a> Freeze<'a> {
    /// Stops all vCPUs of `vm`, which is the one that `watch` watches.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: a vCPU did not stop within `timeout`; with `explain`, a line says which one.
    /// `EINTR`: `thread` was asked to stop. `ENOMEM`. In each case all vCPUs go on.
    pub(crate) fn begin(
        vm: &'a Vm,
        watch: &'a Watch,
        thread: &OnKthread,
        timeout: Delta,
        explain: bool,
    ) -> Result<Self> {
        let parking = Arc::pin_init(Parking::new(), GFP_KERNEL)?;
        let mut this = Self {
            watch,
            vm,
            parking,
            locked: None,
            since: Instant::now(),
            took: Delta::ZERO,
            is_complete: false,
        };
        watch.freeze(&this.parking);
        while !this.all_stopped() {
            let elapsed = this.since.elapsed();
            if elapsed > timeout {
                let late = if explain { this.late() } else { KVec::new() };
                // A slow console must not prolong the pause.
                drop(this);
                for (number, location) in late {
                    pr_warn!("vcpu {number} did not stop: it is {location}\n");
                }
                return Err(ETIMEDOUT);
            }
            if thread.should_stop() {
                return Err(EINTR);
            }
            if this.lock_out_others(|vcpu| match vcpu.thread() {
                Some(thread) if task::is_running(&thread) => elapsed * 2 > timeout,
                Some(_) => elapsed > SLEEPER_GRACE || elapsed * 2 > timeout,
                None => true,
            })? {
                break;
            }
            this.kick();
            watch.wait_for_parked(msecs_to_jiffies(1));
        }
        this.took = this.since.elapsed();
        this.is_complete = true;
        Ok(this)
    }

    /// Returns when the pause began: at the first kick.
    pub(crate) fn since(&self) -> Instant<Monotonic> {
        self.since
    }

    /// Returns how long it took until all vCPUs had stopped.
    pub(crate) fn took(&self) -> Delta {
        self.took
    }

    /// Shares `work` with the parked threads.
    pub(crate) fn share(&self, work: Arc<dyn ParkedWork>) {
        self.parking.share(work);
    }

    /// Lets all vCPUs go on. Returns how long the pause was.
    pub(crate) fn thaw(self) -> Delta {
        let since = self.since;
        drop(self);
        since.elapsed()
    }

    /// Returns the state and registers of `vcpu`; [`None`] if it is not stopped (any more).
    pub(crate) fn vcpu(&self, vcpu: &Vcpu) -> Option<FrozenVcpu> {
        let (state, registers) = if self.has_locked(vcpu) {
            let registers = Registers::read_locked(vcpu);
            let registers = registers.and_then(|registers| Arc::new(registers, GFP_KERNEL).ok());
            (VcpuState::Outside, registers)
        } else if self.watch.location(vcpu) == VcpuLocation::Parked {
            (VcpuState::Parked, self.watch.registers(vcpu))
        } else {
            return None;
        };
        Some(FrozenVcpu {
            number: vcpu.number(),
            state,
            registers,
        })
    }

    fn all_stopped(&self) -> bool {
        // The first comparison is much the quicker one if there are many.
        let locked = self.locked.as_ref().map_or(0, LockedVcpus::len);
        let most = self.watch.count_parked().saturating_add(locked);
        most >= self.vm.vcpus().count() && self.vm.vcpus().all(|vcpu| self.is_stopped(vcpu))
    }

    fn is_stopped(&self, vcpu: &Vcpu) -> bool {
        self.has_locked(vcpu) || self.watch.location(vcpu) == VcpuLocation::Parked
    }

    fn has_locked(&self, vcpu: &Vcpu) -> bool {
        let locked = self.locked.as_ref();
        locked.is_some_and(|locked| locked.contains(vcpu))
    }

    /// Kicks all threads that are in KVM_RUN.
    fn kick(&self) {
        self.watch.kick_all();
        for vcpu in self.vm.vcpus().filter(|vcpu| vcpu.is_busy()) {
            // Its thread may have been in KVM_RUN since before the VM was watched. In user space it
            // must not be disturbed.
            if let Some(thread) = vcpu.thread() {
                if !self.watch.contains(&thread) {
                    task::kick(&thread);
                }
            }
        }
    }

    /// Waits until the threads that were kicked, and do not come through the hook, have noticed. As
    /// long as the VM is watched their VMM sees nothing of it.
    fn await_kicked(&self) {
        let is_kicked = |vcpu: &Vcpu| {
            let thread = vcpu.thread().filter(|_| vcpu.is_busy());
            thread.is_some_and(|thread| task::is_kicked(&thread))
        };
        for _ in 0..KICKED_GRACE_MS {
            if !self.vm.vcpus().any(is_kicked) {
                return;
            }
            fsleep(Delta::from_millis(1));
        }
    }

    /// Locks out the vCPUs that are not parked, if all of them have had their time and all mutexes
    /// are free. Returns whether all vCPUs are stopped then.
    fn lock_out_others(&mut self, had_its_time: impl Fn(&Vcpu) -> bool) -> Result<bool> {
        let is_unknown = |vcpu: &&Vcpu| self.watch.location(vcpu) == VcpuLocation::Unknown;
        let may_lock_out =
            |vcpu: &Vcpu| self.is_stopped(vcpu) || (is_unknown(&vcpu) && had_its_time(vcpu));
        if !self.vm.vcpus().all(may_lock_out) {
            return Ok(false);
        }
        let count = self.vm.vcpus().filter(is_unknown).count();
        let mut locked = match LockedVcpus::try_new(self.vm, count) {
            Err(error) if error == EBUSY => return Ok(false),
            locked => locked?,
        };
        for vcpu in self.vm.vcpus() {
            // Those that have come meanwhile, and one that has just been made, are seen next time.
            if is_unknown(&vcpu) && locked.try_add(vcpu).is_err() {
                return Ok(false);
            }
        }
        self.locked = Some(locked);
        if self.all_stopped() {
            return Ok(true);
        }
        self.locked = None;
        Ok(false)
    }

    /// Returns the vCPUs that have not stopped, and where they are, as far as memory allows.
    fn late(&self) -> KVec<(c_int, &'static str)> {
        let mut late = KVec::new();
        for vcpu in self.vm.vcpus().filter(|vcpu| !self.is_stopped(vcpu)) {
            let location = match self.watch.location(vcpu) {
                VcpuLocation::Unknown => {
                    "in another ioctl of its VMM, or in KVM_RUN since before and does not react"
                }
                _ => "in KVM_RUN, and does not react",
            };
            let _ = late.push((vcpu.number(), location), GFP_KERNEL);
        }
        late
    }
}

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        // First no new thread may park, then those that have may go.
        self.watch.thaw();
        self.parking.thaw();
        if !self.is_complete {
            self.await_kicked();
        }
    }
}
