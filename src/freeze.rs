// SPDX-License-Identifier: GPL-2.0

//! Bringing all vCPUs of a VM to a stop at KVM_RUN's entry.
//!
//! Between the entry of the ioctl and that of the guest no register is half updated. A vCPU in the
//! guest or halted in the kernel is kicked, and its thread comes back to the entry by itself (see
//! [`crate::hook`]). A vCPU whose thread stays in user space, or that never ran, is held out: its
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
        Watch,
        Whereabouts, //
    },
    kthread::OnKthread,
    kvm::{
        HeldOut,
        Registers,
        Vcpu,
        Vm, //
    },
    memory::Search,
    process,
    stand::Stand, //
};

/// How long a thread that sleeps in user space's service may take to come to KVM_RUN before its vCPU
/// is held out. One that runs, or waits for a CPU to do so, has half of the whole time.
const GRACE: Delta = Delta::from_millis(10);

/// Where one vCPU was while the VM stood still.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum VcpuState {
    /// It stood at KVM_RUN's entry: all registers are true.
    Parked,
    /// Its thread was in user space, or it never ran; it was held out.
    Outside,
}

/// How long a thread that was kicked for a freeze that did not come about may take to notice.
const PATIENCE_MS: u32 = 100;

/// One vCPU of a VM that stands still.
pub(crate) struct FrozenVcpu {
    /// The number that the VMM gave it.
    pub(crate) number: c_int,
    /// Where it was.
    pub(crate) state: VcpuState,
    /// Its registers, unless KVM refused to tell them, or there was no memory for them.
    pub(crate) registers: Option<Arc<Registers>>,
}

/// A VM that stands still until this is dropped.
///
/// Fields are dropped after `drop` has let the threads go, which may then wait for the mutexes of
/// `held_out` no more than they would wait for each other.
pub(crate) struct Freeze<'a> {
    watch: &'a Watch,
    vm: &'a Vm,
    stand: Arc<Stand>,
    held_out: Option<HeldOut<'a>>,
    since: Instant<Monotonic>,
    took: Delta,
    /// All vCPUs stood.
    is_complete: bool,
}

impl<'a> Freeze<'a> {
    /// Stops all vCPUs of `vm`, which is the one that `watch` watches.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: a vCPU did not come to a stop within `timeout`; a line says which one, if `tell`
    /// says so. `EINTR`: `thread` was asked to stop. `ENOMEM`. In each case all vCPUs go on.
    pub(crate) fn begin(
        vm: &'a Vm,
        watch: &'a Watch,
        thread: &OnKthread,
        timeout: Delta,
        tell: bool,
    ) -> Result<Self> {
        let stand = Arc::pin_init(Stand::new(), GFP_KERNEL)?;
        let mut this = Self {
            watch,
            vm,
            stand,
            held_out: None,
            since: Instant::now(),
            took: Delta::ZERO,
            is_complete: false,
        };
        watch.freeze(&this.stand);
        while !this.all_stand() {
            let elapsed = this.since.elapsed();
            if elapsed > timeout {
                let late = if tell { this.late() } else { KVec::new() };
                // A slow console must not prolong the pause.
                drop(this);
                for (number, whereabouts) in late {
                    pr_warn!("vcpu {number} did not stop: it is {whereabouts}\n");
                }
                return Err(ETIMEDOUT);
            }
            if thread.should_stop() {
                return Err(EINTR);
            }
            if this.hold_out_others(|vcpu| match vcpu.thread() {
                Some(thread) if process::is_running(&thread) => elapsed * 2 > timeout,
                Some(_) => elapsed > GRACE || elapsed * 2 > timeout,
                None => true,
            })? {
                break;
            }
            this.kick();
            watch.wait_for_change(msecs_to_jiffies(1));
        }
        this.took = this.since.elapsed();
        this.is_complete = true;
        Ok(this)
    }

    /// Since when vCPUs are kept, from the first kick on.
    pub(crate) fn since(&self) -> Instant<Monotonic> {
        self.since
    }

    /// How long it took until all stood.
    pub(crate) fn took(&self) -> Delta {
        self.took
    }

    /// Has the threads that stand help with a search.
    pub(crate) fn call(&self, search: &Arc<Search>) {
        self.stand.call(search);
    }

    /// Lets all vCPUs go on; says how long they were kept.
    pub(crate) fn end(self) -> Delta {
        let since = self.since;
        drop(self);
        since.elapsed()
    }

    /// The state and registers of `vcpu`; [`None`] if it does not stand (any more).
    pub(crate) fn vcpu(&self, vcpu: &Vcpu) -> Option<FrozenVcpu> {
        let (state, registers) = if self.holds_out(vcpu) {
            let registers = Arc::new(Registers::cached(vcpu), GFP_KERNEL);
            (VcpuState::Outside, registers.ok())
        } else if self.watch.whereabouts(vcpu) == Whereabouts::Standing {
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

    fn all_stand(&self) -> bool {
        // The first comparison is much the quicker one if there are many.
        let held_out = self.held_out.as_ref().map_or(0, HeldOut::len);
        let most = self.watch.standing().saturating_add(held_out);
        most >= self.vm.vcpus().count() && self.vm.vcpus().all(|vcpu| self.stands(vcpu))
    }

    fn stands(&self, vcpu: &Vcpu) -> bool {
        self.holds_out(vcpu) || self.watch.whereabouts(vcpu) == Whereabouts::Standing
    }

    fn holds_out(&self, vcpu: &Vcpu) -> bool {
        self.held_out
            .as_ref()
            .is_some_and(|held| held.contains(vcpu))
    }

    /// Kicks all that are in KVM_RUN.
    fn kick(&self) {
        self.watch.kick_all();
        for vcpu in self.vm.vcpus().filter(|vcpu| vcpu.is_busy()) {
            // Its thread may have been in KVM_RUN since before the VM was watched. In user space
            // it must not be disturbed.
            if let Some(thread) = vcpu.thread() {
                if !self.watch.has_seated(&thread) {
                    process::kick(&thread);
                }
            }
        }
    }

    /// Gives threads that were kicked, and are not in the hook, some time to take note of that: as
    /// long as the VM is watched their VMM sees nothing of it.
    fn await_kicked(&self) {
        let is_kicked = |vcpu: &Vcpu| {
            let thread = vcpu.thread().filter(|_| vcpu.is_busy());
            thread.is_some_and(|thread| process::is_kicked(&thread))
        };
        for _ in 0..PATIENCE_MS {
            if !self.vm.vcpus().any(is_kicked) {
                return;
            }
            fsleep(Delta::from_millis(1));
        }
    }

    /// Holds out the vCPUs that do not stand, if all of them have had their time and can be had.
    fn hold_out_others(&mut self, had_its_time: impl Fn(&Vcpu) -> bool) -> Result<bool> {
        let unseen = |vcpu: &&Vcpu| self.watch.whereabouts(vcpu) == Whereabouts::Unseen;
        let may_hold_out = |vcpu: &Vcpu| self.stands(vcpu) || (unseen(&vcpu) && had_its_time(vcpu));
        if !self.vm.vcpus().all(may_hold_out) {
            return Ok(false);
        }
        let count = self.vm.vcpus().filter(unseen).count();
        let mut held_out = match HeldOut::try_new(self.vm, count) {
            Err(error) if error == EBUSY => return Ok(false),
            held_out => held_out?,
        };
        for vcpu in self.vm.vcpus() {
            // Those that have come meanwhile, and one that has just been made, are seen next time.
            if unseen(&vcpu) && held_out.try_add(vcpu).is_err() {
                return Ok(false);
            }
        }
        self.held_out = Some(held_out);
        if self.all_stand() {
            return Ok(true);
        }
        self.held_out = None;
        Ok(false)
    }

    /// The vCPUs that have not come to a stop, and where they are, as far as memory allows.
    fn late(&self) -> KVec<(c_int, &'static str)> {
        let mut late = KVec::new();
        for vcpu in self.vm.vcpus().filter(|vcpu| !self.stands(vcpu)) {
            let whereabouts = match self.watch.whereabouts(vcpu) {
                Whereabouts::Unseen => {
                    "in another ioctl of its VMM, or in KVM_RUN since before and does not react"
                }
                _ => "in KVM_RUN, and does not react",
            };
            let _ = late.push((vcpu.number(), whereabouts), GFP_KERNEL);
        }
        late
    }
}

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        // First no new thread may come to stand, then those that do may go.
        self.watch.thaw();
        self.stand.end();
        if !self.is_complete {
            self.await_kicked();
        }
    }
}
