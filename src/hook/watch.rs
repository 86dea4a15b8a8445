// SPDX-License-Identifier: GPL-2.0

//! What the hook knows about one watched VM: its runners, the threads in KVM_RUN.
//!
//! Lock order: [`Watch::runners`], under which threads are kicked; see [`crate::hook`].

use kernel::{
    new_condvar,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc,
        CondVar,
        SpinLock, //
    },
    task::Task,
    time::{
        Delta,
        Instant,
        Jiffies,
        Monotonic, //
    }, //
};

use crate::{
    kvm::{
        Registers,
        RunCall,
        Vcpu,
        VcpuId,
        Vm,
        VmId, //
    },
    linux::task,
    park::Parking, //
};

/// Longer pauses are reported to the guest. A busy host causes shorter ones, too, and each report
/// resets the guest's watchdogs.
const REPORT_PAUSE_AFTER: Delta = Delta::from_millis(100);

/// What the hook knows about one VM.
#[pin_data]
pub(crate) struct Watch {
    vm: VmId,
    /// The VM is not watched any more, but threads may still be inside.
    retired: Atomic<bool>,
    #[pin]
    runners: SpinLock<Runners>,
    /// Notified when a thread has parked.
    #[pin]
    parked: CondVar,
}

/// The threads that are in KVM_RUN by way of the hook.
pub(super) struct Runners {
    /// Where they park while a freeze is on.
    parking: Option<Arc<Parking>>,
    places: KVec<Option<Runner>>,
    /// The indices of empty places.
    free: KVec<usize>,
}

impl Runners {
    /// Creates an empty list with room for `capacity` threads. More need memory under the lock.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn with_capacity(capacity: usize) -> Result<Self> {
        Ok(Self {
            parking: None,
            places: KVec::with_capacity(capacity, GFP_KERNEL)?,
            free: KVec::with_capacity(capacity, GFP_KERNEL)?,
        })
    }

    fn iter(&self) -> impl Iterator<Item = &Runner> {
        self.places.iter().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Runner> {
        self.places.iter_mut().flatten()
    }

    /// Returns the threads that run, or wait to run, `vcpu`: one, unless the VMM lets several
    /// threads do so at once.
    fn of<'a>(&'a self, vcpu: &'a Vcpu) -> impl Iterator<Item = &'a Runner> {
        self.iter().filter(|runner| runner.vcpu == vcpu.id())
    }
}

/// One thread in KVM_RUN.
struct Runner {
    vcpu: VcpuId,
    thread: ARef<Task>,
    state: RunnerState,
    /// The registers that it read on its way to park.
    registers: Option<Arc<Registers>>,
    /// This module kicked it, or may have: an `-EINTR` is ours to deal with.
    kicked: bool,
}

/// What a runner does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RunnerState {
    /// It is in KVM, possibly in the guest.
    Running,
    /// It reads its registers and will park.
    Parking,
    /// It waits at the entry of KVM_RUN.
    Parked,
}

impl RunnerState {
    /// Returns the state of a thread that enters KVM_RUN.
    fn on_entry(parking: Option<&Arc<Parking>>) -> Self {
        match parking {
            Some(_) => Self::Parking,
            None => Self::Running,
        }
    }
}

/// Where a vCPU is, as far as the hook knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum VcpuLocation {
    /// No thread is in KVM_RUN for it, or entered before the VM was watched.
    Unknown,
    /// A thread is in KVM_RUN, and is not parked.
    InKvmRun,
    /// Its thread is parked; if there are several, all are.
    Parked,
}

/// What a thread does after the hook has dealt with a freeze.
enum Next {
    /// It lets KVM do the call.
    EnterKvm,
    /// It returns this value at once.
    Return(c_long),
}

impl Watch {
    /// Creates the watch of `vm`.
    pub(super) fn new(vm: VmId, runners: Runners) -> impl PinInit<Self> {
        pin_init!(Self {
            vm,
            retired: Atomic::new(false),
            runners <- new_spinlock!(runners, "kvm_inspect::Watch::runners"),
            parked <- new_condvar!("kvm_inspect::Watch::parked"),
        })
    }

    /// Returns whether this watches `vm`.
    pub(crate) fn is_of(&self, vm: &Vm) -> bool {
        self.has_id(vm.id())
    }

    /// Returns whether this watches the VM with this identity.
    pub(super) fn has_id(&self, vm: VmId) -> bool {
        self.vm == vm
    }

    /// Sets whether the VM is watched no more.
    pub(super) fn set_retired(&self, retired: bool) {
        self.retired.store(retired, Release);
    }

    /// Returns whether the VM is watched no more.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Acquire)
    }

    /// Returns whether the VM is watched no more, and no thread is inside.
    pub(super) fn is_deserted(&self) -> bool {
        let runners = self.runners.lock();
        let is_empty = runners.iter().next().is_none();
        self.is_retired() && is_empty
    }

    /// Does one KVM_RUN for its thread. Returns what the thread is to return.
    pub(super) fn run(&self, call: &RunCall<'_>) -> c_long {
        let exit_reason = call.exit_reason();
        let Ok((runner, parking)) = self.add_runner(call.vcpu()) else {
            // No memory. The thread returns to user space, where it can be killed, and tries again,
            // but only after others had the CPU to free some.
            task::cond_resched();
            return task::restart_current_call();
        };
        if let Next::Return(result) = runner.park_while_frozen(parking, call) {
            return result;
        }
        let result = call.original();
        let is_kicked = runner.leave() && result == task::return_value(EINTR);
        if is_kicked && !task::has_foreign_task_work() {
            // The VMM must not see this. If there was a signal, too, the VMM gets its EINTR, and
            // then the exit reason is right.
            if !task::task_sigpending() {
                call.restore_exit_reason(exit_reason);
            }
            return task::restart_current_call();
        }
        result
    }

    /// Adds the current thread. Also returns where it must park if a freeze is on.
    fn add_runner(&self, vcpu: &Vcpu) -> Result<(RunnerGuard<'_>, Option<Arc<Parking>>)> {
        let mut guard = self.runners.lock();
        let runners = &mut *guard;
        let index = match runners.free.pop() {
            Some(index) => index,
            None => {
                let len = runners.places.len();
                // `free` is empty, and always has room for all indices.
                let all = len.checked_add(1).ok_or(ENOMEM)?;
                runners.free.reserve(all, GFP_ATOMIC)?;
                runners.places.push(None, GFP_ATOMIC)?;
                len
            }
        };
        let parking = runners.parking.clone();
        if let Some(place) = runners.places.get_mut(index) {
            *place = Some(Runner {
                vcpu: vcpu.id(),
                thread: ARef::from(&**kernel::current!()),
                state: RunnerState::on_entry(parking.as_ref()),
                registers: None,
                kicked: false,
            });
        }
        drop(guard);
        Ok((RunnerGuard { watch: self, index }, parking))
    }

    /// Begins a freeze: threads that enter KVM_RUN from now on park, and those inside are kicked.
    pub(crate) fn freeze(&self, parking: &Arc<Parking>) {
        let mut runners = self.runners.lock();
        runners.parking = Some(parking.clone());
        for runner in runners.iter_mut() {
            if runner.state == RunnerState::Parked {
                // It is still about to leave the freeze before: it has to park once more.
                runner.state = RunnerState::Parking;
                runner.registers = None;
            }
        }
        drop(runners);
        self.kick_all();
    }

    /// Ends the freeze. [`Parking::thaw`] comes after this.
    pub(crate) fn thaw(&self) {
        self.runners.lock().parking = None;
    }

    /// Kicks all runners that are not parked.
    pub(crate) fn kick_all(&self) {
        let mut runners = self.runners.lock();
        for runner in runners.iter_mut() {
            if runner.state != RunnerState::Parked {
                runner.kicked = true;
                task::kick(&runner.thread);
            }
        }
    }

    /// Returns whether `thread` is in KVM_RUN by way of the hook.
    pub(crate) fn contains(&self, thread: &Task) -> bool {
        let runners = self.runners.lock();
        let found = runners
            .iter()
            .any(|runner| core::ptr::eq(&raw const *runner.thread, thread));
        found
    }

    /// Returns how many threads are parked.
    pub(crate) fn count_parked(&self) -> usize {
        let runners = self.runners.lock();
        let parked = runners
            .iter()
            .filter(|runner| runner.state == RunnerState::Parked);
        parked.count()
    }

    /// Returns where `vcpu` is.
    pub(crate) fn location(&self, vcpu: &Vcpu) -> VcpuLocation {
        let runners = self.runners.lock();
        let mut states = runners.of(vcpu).map(|runner| runner.state).peekable();
        if states.peek().is_none() {
            VcpuLocation::Unknown
        } else if states.all(|state| state == RunnerState::Parked) {
            VcpuLocation::Parked
        } else {
            VcpuLocation::InKvmRun
        }
    }

    /// Returns the registers of `vcpu`, if it is parked and KVM has stored them.
    pub(crate) fn registers(&self, vcpu: &Vcpu) -> Option<Arc<Registers>> {
        let runners = self.runners.lock();
        let mut runners = runners.of(vcpu);
        let runner = runners.find(|runner| runner.state == RunnerState::Parked)?;
        runner.registers.clone()
    }

    /// Waits until a thread has parked, or `jiffies` have passed. May return early.
    pub(crate) fn wait_for_parked(&self, jiffies: Jiffies) {
        let mut runners = self.runners.lock();
        let _ = self
            .parked
            .wait_interruptible_timeout(&mut runners, jiffies);
    }
}

/// The current thread's place among the runners, given up by the drop.
struct RunnerGuard<'a> {
    watch: &'a Watch,
    index: usize,
}

impl RunnerGuard<'_> {
    fn with<R>(&self, change: impl FnOnce(&mut Runner, Option<&Arc<Parking>>) -> R) -> Option<R> {
        let mut guard = self.watch.runners.lock();
        let runners = &mut *guard;
        let runner = runners.places.get_mut(self.index)?.as_mut()?;
        Some(change(runner, runners.parking.as_ref()))
    }

    /// Parks until no freeze is on.
    // Not inlined: KVM_RUN needs the stack, so this frame must be gone by then.
    #[inline(never)]
    fn park_while_frozen(&self, mut parking: Option<Arc<Parking>>, call: &RunCall<'_>) -> Next {
        if parking.is_none() {
            return Next::EnterKvm;
        }
        let since = Instant::<Monotonic>::now();
        while let Some(current) = parking {
            let snapshot = call.read_registers();
            let mut waited = Ok(());
            if self.set_parked(&current, snapshot.registers) {
                self.watch.parked.notify_all();
                waited = current.park();
            }
            if let Some(result) = snapshot.result_for_vmm {
                return Next::Return(result);
            }
            if waited.is_err() {
                return Next::Return(task::return_value(EINTR));
            }
            parking = self.unpark();
        }
        if since.elapsed() > REPORT_PAUSE_AFTER {
            call.report_pause_to_guest();
        }
        Next::EnterKvm
    }

    /// Marks the thread as parked, unless the freeze of `parking` is over. Returns whether it has.
    fn set_parked(&self, parking: &Arc<Parking>, registers: Option<Arc<Registers>>) -> bool {
        let parked = self.with(|runner, current| {
            let is_on = current.is_some_and(|current| Arc::ptr_eq(current, parking));
            if is_on {
                runner.state = RunnerState::Parked;
                runner.registers = registers;
            }
            is_on
        });
        parked.unwrap_or(false)
    }

    /// Marks the thread as parked no more. Returns where to park if another freeze is on already.
    fn unpark(&self) -> Option<Arc<Parking>> {
        self.with(|runner, parking| {
            runner.state = RunnerState::on_entry(parking);
            runner.registers = None;
            // A kick that was meant for its last call, before it was a runner, may have come only
            // now, and would end the next call.
            runner.kicked = true;
            parking.cloned()
        })
        .flatten()
    }

    /// Gives up the place, and returns whether the thread was kicked.
    fn leave(self) -> bool {
        let runner = self.give_up();
        core::mem::forget(self);
        runner.is_some_and(|runner| runner.kicked)
    }

    /// Gives up the place. Call this once: then it may be another thread's.
    fn give_up(&self) -> Option<Runner> {
        let mut guard = self.watch.runners.lock();
        let runners = &mut *guard;
        let runner = runners.places.get_mut(self.index).and_then(Option::take);
        // There is room: as much as `places` has.
        let _ = runners.free.push_within_capacity(self.index);
        runner
    }
}

impl Drop for RunnerGuard<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
