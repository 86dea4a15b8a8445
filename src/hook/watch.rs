// SPDX-License-Identifier: GPL-2.0

//! What the hook knows about one watched VM: its runners, the threads in KVM_RUN.
//!
//! Lock order: [`Watch::runners`], under which threads are kicked, with `vcpu->pid_lock` where that
//! of a vCPU is; see [`crate::hook`].

use kernel::{
    alloc::Flags,
    new_condvar,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        CondVar,
        SpinLock, //
    },
    task::Task,
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Jiffies,
        Monotonic, //
    }, //
};

use crate::{
    kvm::{
        RunCall,
        Vcpu,
        Vm,
        VmId, //
    },
    linux::task::{
        self,
        NoIo, //
    },
    park::{
        Parking,
        ParkingEnd, //
    }, //
};

/// Longer pauses are reported to the guest. A busy host causes shorter ones, too, and each report
/// resets the guest's watchdogs.
const REPORT_PAUSE_AFTER: Delta = Delta::from_millis(100);

/// How often who waits for its turn asks whether to give up, in milliseconds.
const TURN_POLL_MS: u32 = 50;

/// The most threads that are kicked in one go, with the lock held.
const KICKS_AT_ONCE: usize = 64;

/// What the hook knows about one VM.
#[pin_data]
pub(crate) struct Watch {
    vm: VmId,
    /// The address space of its VMM, only compared: another VM may get the address of one that has
    /// gone.
    vmm: usize,
    /// Threads were kicked that do not come through the hook.
    strangers_kicked: Atomic<bool>,
    #[pin]
    runners: SpinLock<Runners>,
    /// Notified when all runners have parked.
    #[pin]
    parked: CondVar,
    /// Notified when somebody has frozen the VM for long enough.
    #[pin]
    turn_ended: CondVar,
}

/// The turn to freeze a VM: nobody else freezes it until this is dropped.
pub(crate) struct Turn<'a>(&'a Watch);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.runners.lock().has_turn = false;
        self.0.turn_ended.notify_all();
    }
}

/// The threads that are in KVM_RUN by way of the hook.
pub(super) struct Runners {
    /// How many watch the VM. If nobody does any more, threads may still be inside.
    watchers: usize,
    /// Somebody has the turn to freeze the VM.
    has_turn: bool,
    /// Where they park while a freeze is on.
    parking: Option<Arc<Parking>>,
    room: Room,
    /// How many runners are not parked.
    moving: usize,
    /// How often a thread has parked.
    parks: u64,
}

/// The memory for runners. It grows outside the lock.
struct Room {
    places: KVVec<Option<Runner>>,
    /// The indices of empty places; as much room as `places` has.
    free: KVVec<usize>,
    /// The vCPUs, by their index.
    vcpus: KVVec<Seen>,
}

/// What is known of one vCPU.
#[derive(Default)]
struct Seen {
    /// Its runners that are not parked, and those that are. There is one, unless the VMM lets
    /// several threads run the vCPU at once.
    moving: usize,
    parked: usize,
    /// A parked one has left to be frozen (suspend, cgroups), and cannot come back without parking.
    left: bool,
    /// It was locked out in the last freeze, and no thread has come to run it since.
    locked_out: bool,
}

impl Seen {
    fn is_parked(&self) -> bool {
        self.moving == 0 && (self.parked > 0 || self.left)
    }
}

impl Room {
    fn with_capacity(places: usize, vcpus: usize, flags: Flags) -> Result<Self> {
        let mut this = Self {
            places: KVVec::with_capacity(places, flags)?,
            free: KVVec::with_capacity(places, flags)?,
            vcpus: KVVec::with_capacity(vcpus, flags)?,
        };
        for _ in 0..vcpus {
            this.vcpus.push_within_capacity(Seen::default())?;
        }
        Ok(this)
    }

    /// Returns whether there is room for one more runner of a vCPU.
    fn has_place(&self, vcpu: usize) -> bool {
        let is_full = self.free.is_empty() && self.places.len() == self.places.capacity();
        !is_full && vcpu < self.vcpus.len()
    }

    /// Returns more room, with all that is in this one's. The old room remains.
    fn move_to(&mut self, mut to: Self) -> Result<Self> {
        for place in self.places.drain_all() {
            to.places.push_within_capacity(place)?;
        }
        for index in self.free.drain_all() {
            to.free.push_within_capacity(index)?;
        }
        for (seen, new) in self.vcpus.iter_mut().zip(&mut to.vcpus) {
            *new = core::mem::take(seen);
        }
        Ok(core::mem::replace(self, to))
    }
}

impl Runners {
    /// Creates an empty list with room for one thread for each of `vcpus`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn with_capacity(vcpus: usize) -> Result<Self> {
        Ok(Self {
            watchers: 0,
            has_turn: false,
            parking: None,
            room: Room::with_capacity(vcpus, vcpus, GFP_KERNEL)?,
            moving: 0,
            parks: 0,
        })
    }

    fn is_empty(&self) -> bool {
        self.room.free.len() == self.room.places.len()
    }

    /// Changes what is known of a vCPU, and counts anew the runners that are not parked.
    fn change(&mut self, vcpu: usize, change: impl FnOnce(&mut Seen)) {
        let Some(seen) = self.room.vcpus.get_mut(vcpu) else {
            return;
        };
        let before = seen.moving;
        change(seen);
        let after = seen.moving;
        self.moving = self.moving.saturating_add(after).saturating_sub(before);
    }

    /// Takes a place for the current thread. There is room.
    fn add(&mut self, call: &RunCall<'_>) -> Result<usize> {
        let vcpu = call.vcpu().index();
        let index = match self.room.free.pop() {
            Some(index) => index,
            None => {
                self.room.places.push_within_capacity(None)?;
                self.room.places.len().saturating_sub(1)
            }
        };
        let place = self.room.places.get_mut(index).ok_or(EINVAL)?;
        let state = RunnerState::on_entry(self.parking.as_ref());
        *place = Some(Runner {
            vm: ARef::from(Vm::of(call.vcpu())),
            vcpu,
            thread: ARef::from(&**kernel::current!()),
            state,
            kicked: false,
        });
        self.change(vcpu, |seen| {
            let count = match state {
                RunnerState::Parked => &mut seen.parked,
                RunnerState::Running | RunnerState::Parking => &mut seen.moving,
            };
            *count = count.saturating_add(1);
            seen.left = false;
            seen.locked_out = false;
        });
        Ok(index)
    }

    /// Gives a place back.
    fn remove(&mut self, index: usize) -> Option<Runner> {
        let runner = self.room.places.get_mut(index).and_then(Option::take)?;
        // There is room: as much as `places` has.
        let _ = self.room.free.push_within_capacity(index);
        self.change(runner.vcpu, |seen| {
            let count = match runner.state {
                RunnerState::Parked => &mut seen.parked,
                RunnerState::Running | RunnerState::Parking => &mut seen.moving,
            };
            *count = count.saturating_sub(1);
        });
        Some(runner)
    }

    /// Returns the vCPU of the runner at `index`.
    fn vcpu_of(&self, index: usize) -> Option<usize> {
        let place = self.room.places.get(index)?;
        place.as_ref().map(|runner| runner.vcpu)
    }

    /// Changes the state of the runner at `index`.
    fn set_state(&mut self, index: usize, state: RunnerState) {
        let Some(Some(runner)) = self.room.places.get_mut(index) else {
            return;
        };
        let before = core::mem::replace(&mut runner.state, state) == RunnerState::Parked;
        let vcpu = runner.vcpu;
        let after = state == RunnerState::Parked;
        if before == after {
            return;
        }
        self.change(vcpu, |seen| {
            let (from, to) = if after {
                (&mut seen.moving, &mut seen.parked)
            } else {
                (&mut seen.parked, &mut seen.moving)
            };
            *from = from.saturating_sub(1);
            *to = to.saturating_add(1);
        });
    }
}

/// One thread in KVM_RUN.
struct Runner {
    vm: ARef<Vm>,
    /// The index of its vCPU.
    vcpu: usize,
    thread: ARef<Task>,
    state: RunnerState,
    /// This module kicked it, or may have: an `-EINTR` is ours to deal with.
    kicked: bool,
}

/// What a runner does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RunnerState {
    /// It is in KVM, possibly in the guest.
    Running,
    /// It completes its last exit and will park.
    Parking,
    /// It waits at the entry of KVM_RUN.
    Parked,
}

impl RunnerState {
    /// Returns the state of a thread that enters KVM_RUN.
    fn on_entry(parking: Option<&Arc<Parking>>) -> Self {
        match parking {
            // Nobody may run its vCPU, and it does not try.
            Some(parking) if parking.is_closed() => Self::Parked,
            Some(_) => Self::Parking,
            None => Self::Running,
        }
    }
}

/// Which threads are kicked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Those in KVM_RUN by way of the hook.
    Runners,
    /// Also those that run the same vCPUs without the hook, and keep a runner waiting.
    OthersToo,
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
    pub(super) fn new(vm: &Vm, runners: Runners) -> impl PinInit<Self> + use<> {
        let (vm, vmm) = (vm.id(), vm.mm().as_raw().addr());
        pin_init!(Self {
            vm,
            vmm,
            strangers_kicked: Atomic::new(false),
            runners <- new_spinlock!(runners, "kvm_inspect::Watch::runners"),
            parked <- new_condvar!("kvm_inspect::Watch::parked"),
            turn_ended <- new_condvar!("kvm_inspect::Watch::turn_ended"),
        })
    }

    /// Returns whether this watches `vm`.
    pub(crate) fn is_of(&self, vm: &Vm) -> bool {
        self.is_of_vmm(vm.id(), vm.mm().as_raw().addr())
    }

    /// Returns whether this watches the VM with this identity, of the VMM with this address space.
    pub(super) fn is_of_vmm(&self, vm: VmId, vmm: usize) -> bool {
        self.vm == vm && self.vmm == vmm
    }

    /// Notes that a thread was kicked that does not come through the hook.
    pub(crate) fn note_stranger_kicked(&self) {
        self.strangers_kicked.store(true, Relaxed);
    }

    /// Returns whether there were such threads since the last call.
    pub(crate) fn take_strangers_kicked(&self) -> bool {
        self.strangers_kicked.xchg(false, Relaxed)
    }

    /// Notes that one more watches the VM.
    pub(super) fn add_watcher(&self) {
        let mut runners = self.runners.lock();
        runners.watchers = runners.watchers.saturating_add(1);
    }

    /// Notes that one less watches the VM.
    pub(super) fn remove_watcher(&self) {
        let mut runners = self.runners.lock();
        runners.watchers = runners.watchers.saturating_sub(1);
    }

    /// Waits until nobody else freezes the VM, and keeps others from it until the result is
    /// dropped. `stop` tells whether to give up.
    ///
    /// # Errors
    ///
    /// `EINTR`: `stop` said so.
    pub(crate) fn take_turn(&self, stop: &dyn Fn() -> bool) -> Result<Turn<'_>> {
        let mut runners = self.runners.lock();
        while runners.has_turn {
            drop(runners);
            if stop() {
                return Err(EINTR);
            }
            runners = self.runners.lock();
            if runners.has_turn {
                let _ = self
                    .turn_ended
                    .wait_interruptible_timeout(&mut runners, msecs_to_jiffies(TURN_POLL_MS));
            }
        }
        runners.has_turn = true;
        Ok(Turn(self))
    }

    /// Returns whether the VM is watched no more, and no thread is inside.
    ///
    /// None comes any more: who has found this watch, and is not yet a runner, restarts its call.
    pub(super) fn is_deserted(&self) -> bool {
        let runners = self.runners.lock();
        runners.watchers == 0 && runners.is_empty()
    }

    /// Does one KVM_RUN for its thread. Returns what the thread is to return.
    pub(super) fn run(&self, call: &RunCall<'_>) -> c_long {
        let Ok((runner, parking)) = self.add_runner(call) else {
            // No longer watched: the next try goes straight to KVM. Or no memory: the thread
            // returns to user space, where it can be killed, and tries again, but only after others
            // had the CPU to free some.
            task::cond_resched();
            return call.start_over();
        };
        if let Next::Return(result) = runner.park_while_frozen(parking, call) {
            return result;
        }
        let result = call.original();
        let is_kicked = runner.leave() && result == task::return_value(EINTR);
        if is_kicked {
            // The VMM must not see this, unless there is a signal or the like, too.
            return task::restart_current_call();
        }
        result
    }

    /// Adds the current thread. Also returns where it must park if a freeze is on.
    ///
    /// # Errors
    ///
    /// `ESRCH`: the VM is not watched any more. `ENOMEM`.
    fn add_runner(&self, call: &RunCall<'_>) -> Result<(RunnerGuard<'_>, Option<Arc<Parking>>)> {
        let vcpu = call.vcpu().index();
        loop {
            let mut runners = self.runners.lock();
            if runners.watchers == 0 {
                return Err(ESRCH);
            }
            if runners.room.has_place(vcpu) {
                let index = runners.add(call)?;
                let parking = runners.parking.clone();
                drop(runners);
                return Ok((RunnerGuard { watch: self, index }, parking));
            }
            let is_frozen = runners.parking.is_some();
            let places = runners
                .room
                .places
                .len()
                .saturating_mul(2)
                .max(KICKS_AT_ONCE);
            let vcpus = runners.room.vcpus.len().max(vcpu.saturating_add(1));
            drop(runners);
            let flags = if is_frozen {
                task::gfp_paused()
            } else {
                GFP_KERNEL | __GFP_NOWARN
            };
            let room = Room::with_capacity(places, vcpus, flags)?;
            let mut runners = self.runners.lock();
            // Another thread may have been quicker, for more vCPUs or more places.
            let is_larger = !runners.room.has_place(vcpu)
                && places >= runners.room.places.len()
                && vcpus >= runners.room.vcpus.len();
            // Freed outside the lock.
            let old = if is_larger {
                runners.room.move_to(room)
            } else {
                Ok(room)
            };
            drop(runners);
            drop(old);
        }
    }

    /// Begins a freeze: threads that enter KVM_RUN from now on park, and those inside are kicked.
    pub(crate) fn freeze(&self, parking: &Arc<Parking>) {
        let mut runners = self.runners.lock();
        runners.parking = Some(parking.clone());
        for index in 0..runners.room.places.len() {
            let place = runners.room.places.get(index);
            let state = place.and_then(|place| place.as_ref().map(|runner| runner.state));
            if state == Some(RunnerState::Parked) {
                // It is still about to leave the freeze before: it has to park once more.
                runners.set_state(index, RunnerState::Parking);
            }
        }
        for vcpu in 0..runners.room.vcpus.len() {
            runners.change(vcpu, |seen| seen.left = false);
        }
        drop(runners);
        self.kick_all(Whom::Runners);
    }

    /// Ends the freeze. [`Parking::thaw`] comes after this.
    pub(crate) fn thaw(&self) {
        self.runners.lock().parking = None;
    }

    /// Kicks all runners that are not parked, and on request also other threads.
    pub(crate) fn kick_all(&self, whom: Whom) {
        let mut first = 0;
        loop {
            let mut runners = self.runners.lock();
            if first >= runners.room.places.len() {
                return;
            }
            let places = runners.room.places.iter_mut().skip(first);
            for runner in places.take(KICKS_AT_ONCE).flatten() {
                if runner.state != RunnerState::Parked {
                    runner.kicked = true;
                    task::kick(&runner.thread);
                    if whom == Whom::OthersToo {
                        let index = c_int::try_from(runner.vcpu).ok();
                        let vcpu = index.and_then(|index| runner.vm.vcpu(index));
                        if let Some(vcpu) = vcpu {
                            vcpu.kick();
                        }
                    }
                }
            }
            first = first.saturating_add(KICKS_AT_ONCE);
        }
    }

    /// Returns how often a thread has parked, for [`Self::wait_for_parked`].
    pub(crate) fn parks(&self) -> u64 {
        self.runners.lock().parks
    }

    /// Returns where `vcpu` is.
    pub(crate) fn location(&self, vcpu: &Vcpu) -> VcpuLocation {
        self.with_seen(vcpu, |seen| {
            if seen.moving > 0 {
                VcpuLocation::InKvmRun
            } else if seen.is_parked() {
                VcpuLocation::Parked
            } else {
                VcpuLocation::Unknown
            }
        })
        .unwrap_or(VcpuLocation::Unknown)
    }

    /// Remembers that `vcpu` was locked out, if it was, until a thread comes to run it.
    pub(crate) fn note_locked_out(&self, vcpu: &Vcpu) {
        self.with_seen(vcpu, |seen| {
            seen.locked_out = seen.moving == 0 && !seen.is_parked();
        });
    }

    /// Returns whether `vcpu` was locked out, and no thread has come to run it since.
    pub(crate) fn was_locked_out(&self, vcpu: &Vcpu) -> bool {
        self.with_seen(vcpu, |seen| seen.locked_out)
            .unwrap_or(false)
    }

    fn with_seen<R>(&self, vcpu: &Vcpu, look: impl FnOnce(&mut Seen) -> R) -> Option<R> {
        let mut runners = self.runners.lock();
        runners.room.vcpus.get_mut(vcpu.index()).map(look)
    }

    /// Waits until all runners have parked, or `jiffies` have passed. May return early.
    ///
    /// `seen` is what [`Self::parks`] was when the caller looked: if all have parked since, this
    /// does not wait.
    pub(crate) fn wait_for_parked(&self, seen: u64, jiffies: Jiffies) {
        let mut runners = self.runners.lock();
        if runners.moving > 0 || runners.parks == seen {
            let _ = self
                .parked
                .wait_interruptible_timeout(&mut runners, jiffies);
        }
    }
}

/// The current thread's place among the runners, given up by the drop.
struct RunnerGuard<'a> {
    watch: &'a Watch,
    index: usize,
}

impl RunnerGuard<'_> {
    /// Parks until no freeze is on.
    // Not inlined: KVM_RUN needs the stack, so this frame must be gone by then.
    #[inline(never)]
    fn park_while_frozen(&self, mut parking: Option<Arc<Parking>>, call: &RunCall<'_>) -> Next {
        if parking.is_none() {
            return Next::EnterKvm;
        }
        // For all that is allocated here, also by KVM and by the work: the guest stands.
        let _no_io = NoIo::begin();
        let since = Instant::<Monotonic>::now();
        while let Some(current) = parking {
            let result_for_vmm = if current.is_closed() {
                None
            } else {
                call.complete_last_exit()
            };
            let mut end = ParkingEnd::Thawed;
            if self.set_parked(&current) {
                end = current.park();
            }
            if let Some(result) = result_for_vmm {
                return Next::Return(result);
            }
            match end {
                ParkingEnd::Thawed => (),
                ParkingEnd::Killed => return Next::Return(task::return_value(EINTR)),
                ParkingEnd::Freezing => {
                    self.leave_parked();
                    return Next::Return(call.start_over());
                }
            }
            parking = self.unpark();
        }
        if since.elapsed() > REPORT_PAUSE_AFTER {
            call.report_pause_to_guest();
        }
        Next::EnterKvm
    }

    /// Marks the thread as parked, unless the freeze of `parking` is over. Returns whether it has.
    fn set_parked(&self, parking: &Arc<Parking>) -> bool {
        let mut guard = self.watch.runners.lock();
        let runners = &mut *guard;
        let current = runners.parking.as_ref();
        if !current.is_some_and(|current| Arc::ptr_eq(current, parking)) {
            return false;
        }
        runners.set_state(self.index, RunnerState::Parked);
        runners.parks = runners.parks.wrapping_add(1);
        let all_have = runners.moving == 0;
        drop(guard);
        if all_have {
            self.watch.parked.notify_all();
        }
        true
    }

    /// Marks the thread as parked no more. Returns where to park if another freeze is on already.
    fn unpark(&self) -> Option<Arc<Parking>> {
        let mut guard = self.watch.runners.lock();
        let runners = &mut *guard;
        let state = RunnerState::on_entry(runners.parking.as_ref());
        runners.set_state(self.index, state);
        if let Some(Some(runner)) = runners.room.places.get_mut(self.index) {
            // A kick that was meant for its last call, before it was a runner, may have come only
            // now, and would end the next call.
            runner.kicked = true;
        }
        runners.parking.clone()
    }

    /// Notes that the thread leaves though the freeze is on. Its vCPU stays as it is: no thread
    /// can run it without parking first.
    fn leave_parked(&self) {
        let mut runners = self.watch.runners.lock();
        if runners.parking.is_some() {
            if let Some(vcpu) = runners.vcpu_of(self.index) {
                runners.change(vcpu, |seen| seen.left = true);
            }
        }
    }

    /// Gives up the place, and returns whether the thread was kicked.
    fn leave(self) -> bool {
        let runner = self.give_up();
        core::mem::forget(self);
        runner.is_some_and(|runner| runner.kicked)
    }

    /// Gives up the place. Call this once: then it may be another thread's.
    fn give_up(&self) -> Option<Runner> {
        self.watch.runners.lock().remove(self.index)
    }
}

impl Drop for RunnerGuard<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
