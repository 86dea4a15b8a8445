// SPDX-License-Identifier: GPL-2.0

//! The hook: every KVM_RUN of a watched VM goes through [`taken_over`].
//!
//! A kprobe on `kvm_vcpu_ioctl` only redirects. [`taken_over`] then runs in the vCPU's own thread
//! in the place of `kvm_vcpu_ioctl`, may sleep, and lets KVM do the call itself; while a freeze is
//! on the thread stands there instead.
//!
//! Lock order: [`WATCHES`], then [`Watch::seats`]. Both are spin locks; nothing else is taken
//! under them but the run-queue locks of a wake-up. Nothing is taken under [`SETTLING`].

use kernel::{
    bindings,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        global_lock,
        new_condvar,
        new_spinlock,
        Arc,
        CondVar,
        SpinLock, //
    },
    task::Task,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    ftrace::Redirection,
    kprobe::{
        Arguments,
        Handler,
        Kprobe, //
    },
    kvm::{
        run,
        Registers,
        RunCall,
        Vcpu,
        VcpuId,
        Vm,
        VmId, //
    },
    process,
    rcu::{
        synchronize_rcu_tasks,
        TasksGracePeriod, //
    },
    restart::Restart,
    stand::Stand, //
};

/// The most VMs that are watched at once, those of one process.
pub(crate) const MAX_VMS: usize = 64;

/// After what time of standing a guest is told of it. Less is no more than a busy host takes from it,
/// and the watchdogs of a guest that is told are reset.
const LONG: Delta = Delta::from_millis(100);

/// The watched VMs, for the probe's handler, which must not wait: [`VmId::as_raw`] or 0.
static WATCHED: [Atomic<usize>; MAX_VMS] = [const { Atomic::new(0) }; MAX_VMS];

/// For each of [`WATCHED`] the address space of its VMM; only compared.
static VMMS: [Atomic<usize>; MAX_VMS] = [const { Atomic::new(0) }; MAX_VMS];

/// How many of [`WATCHED`] have ever been in use, so that the handler looks at no more.
static WATCHED_LEN: Atomic<usize> = Atomic::new(0);

/// How often a thread has come into [`taken_over`], and how often one has left it.
static ENTERED: Atomic<i64> = Atomic::new(0);
static LEFT: Atomic<i64> = Atomic::new(0);

global_lock! {
    // SAFETY: Initialized in `Threads::new`, before anything else uses it.
    unsafe(uninit) static WATCHES: SpinLock<KVec<Arc<Watch>>> = KVec::new();
}

global_lock! {
    // SAFETY: Initialized in `Threads::new`, before anything else uses it.
    unsafe(uninit) static SETTLING: SpinLock<Option<Settling>> = None;
}

/// The threads that run this module's code: they must be gone before the code is.
///
/// The first of the module's things to be made and the last to be dropped.
pub(crate) struct Threads(());

impl Threads {
    /// Prepares the hook.
    ///
    /// # Safety
    ///
    /// To be called once, when the module is loaded.
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: By this function's contract.
        unsafe { WATCHES.init() };
        // SAFETY: As above.
        unsafe { SETTLING.init() };
        run::init();
        Self(())
    }
}

impl Drop for Threads {
    /// Waits until no thread is in this module's code. No [`Hook`] may exist any more.
    fn drop(&mut self) {
        if WATCHED_LEN.load(Relaxed) == 0 {
            // Nobody was ever redirected.
            return;
        }
        let settling = SETTLING.lock().take();
        if !settling.is_some_and(Settling::wait) {
            // Whoever was redirected before the probe went is counted after this, or gone.
            synchronize_rcu_tasks();
            if !send_away(5000) {
                pr_warn!("waiting for vCPU threads that do not leave the kernel; kill their VMM\n");
                while !send_away(u32::MAX) {}
            }
            // Whoever has just been counted out may still have its last instructions to do.
            synchronize_rcu_tasks();
        }
        let watches = core::mem::take(&mut *WATCHES.lock());
        drop(watches);
    }
}

/// The proof that no thread is in this module's code, which is complete when a grace period is over.
///
/// It begins after the probe has gone, at a moment at which nobody was inside. If nobody has come since,
/// then whoever was redirected had come, and left, before that moment: the grace period gives who was
/// on the way in the time to be counted, and who was on the way out that for its last instructions.
struct Settling {
    grace_period: Pin<KBox<TasksGracePeriod>>,
    /// [`ENTERED`] at that moment.
    entered: i64,
}

impl Settling {
    /// Begins, unless there is no memory, or somebody is inside, or nobody ever was. The probe must have gone.
    fn begin() -> Option<Self> {
        if WATCHED_LEN.load(Relaxed) == 0 {
            return None;
        }
        let entered = nobody_inside()?;
        Some(Self {
            grace_period: TasksGracePeriod::begin().ok()?,
            entered,
        })
    }

    /// Waits for the end, and returns whether the proof holds.
    fn wait(self) -> bool {
        drop(self.grace_period);
        ENTERED.load(Relaxed) == self.entered
    }
}

/// Returns [`ENTERED`] if all who had come when it was read have left.
fn nobody_inside() -> Option<i64> {
    // Who leaves has come before: in this order, equal numbers are of one moment.
    let left = LEFT.load(Acquire);
    (ENTERED.load(Relaxed) == left).then_some(left)
}

/// Sends the threads that are inside back to KVM_RUN, which they then enter without this module.
/// The probe must have gone. Waits for them, about `patience_ms` milliseconds at most; says
/// whether all are gone.
fn send_away(patience_ms: u32) -> bool {
    for _ in 0..patience_ms {
        if nobody_inside().is_some() {
            return true;
        }
        for watch in WATCHES.lock().iter() {
            watch.kick_all();
        }
        fsleep(Delta::from_millis(1));
    }
    nobody_inside().is_some()
}

/// Whether a VM is watched whose VMM has this address space. Does not sleep.
pub(crate) fn is_watched_vmm(mm: usize) -> bool {
    VMMS.iter()
        .take(WATCHED_LEN.load(Relaxed))
        .any(|vmm| vmm.load(Relaxed) == mm && mm != 0)
}

/// The armed hook.
///
/// Dropping it disarms it, and sends the threads that are inside away: an idle module is in nobody's way.
/// One that does not react within a tenth of a second leaves when it does, and [`Threads`] waits for it.
pub(crate) struct Hook {
    // All are there until `drop` takes them, one by one.
    probe: Option<Pin<KBox<Kprobe<Redirect>>>>,
    right: Option<Pin<KBox<Redirection>>>,
    restart: Option<Restart>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.probe = None;
        send_away(100);
        // The right goes when nobody uses it any more.
        self.right = None;
        self.restart = None;
        // Nobody waits for this unless the module is unloaded at once, as with short intervals.
        let settling = Settling::begin();
        let before = core::mem::replace(&mut *SETTLING.lock(), settling);
        drop(before);
    }
}

impl Hook {
    /// Arms the hook. It takes over nothing until a VM is watched.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody else redirects the function. `EOPNOTSUPP`: ftrace cannot. Others as
    /// [`Kprobe::register`] and [`Kprobe::enable`].
    pub(crate) fn arm() -> Result<Self> {
        let probe = KBox::pin_init(Kprobe::<Redirect>::register(c"kvm_vcpu_ioctl"), GFP_KERNEL)?;
        let address = probe.ftrace_address().ok_or(EOPNOTSUPP)?;
        let right = KBox::pin_init(Redirection::claim(address), GFP_KERNEL)?;
        let restart = Restart::arm()?;
        probe.enable()?;
        Ok(Self {
            probe: Some(probe),
            right: Some(right),
            restart: Some(restart),
        })
    }

    /// Takes over each KVM_RUN of `vm` from now on, until the result is dropped.
    ///
    /// Calls that are already under way start over when they are kicked ([`Restart`]).
    ///
    /// # Errors
    ///
    /// `ENOMEM`. `E2BIG`: [`MAX_VMS`] are watched already.
    pub(crate) fn watch(&self, vm: &Vm) -> Result<Watched<'_>> {
        let id = vm.id();
        let seats = Seats::with_capacity(vm.vcpus().count())?;
        let fresh = Arc::pin_init(Watch::new(id, seats), GFP_KERNEL)?;
        let mut watches = WATCHES.lock();
        watches.retain(|watch| !watch.is_deserted());
        let known = watches.iter().find(|watch| watch.vm == id).cloned();
        let watch = match known {
            Some(watch) => watch,
            None => {
                watches.push(fresh.clone(), GFP_ATOMIC)?;
                fresh
            }
        };
        let mut slots = WATCHED.iter().zip(&VMMS).zip(1..);
        let ((slot, vmm), len) = slots
            .find(|((slot, _), _)| slot.load(Relaxed) == 0)
            .ok_or(E2BIG)?;
        watch.retired.store(false, Relaxed);
        vmm.store(vm.mm().as_raw().addr(), Relaxed);
        slot.store(id.as_raw(), Relaxed);
        WATCHED_LEN.store(WATCHED_LEN.load(Relaxed).max(len), Relaxed);
        drop(watches);
        Ok(Watched {
            watch,
            slot,
            vmm,
            _hook: self,
        })
    }
}

/// A VM that is watched until this is dropped.
pub(crate) struct Watched<'a> {
    watch: Arc<Watch>,
    slot: &'static Atomic<usize>,
    vmm: &'static Atomic<usize>,
    _hook: &'a Hook,
}

impl core::ops::Deref for Watched<'_> {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.watch
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        // First the handler's view: who finds no watch starts its call over, and must then not
        // be redirected again.
        self.vmm.store(0, Relaxed);
        self.slot.store(0, Relaxed);
        self.watch.retired.store(true, Release);
    }
}

/// The decision about one call of `kvm_vcpu_ioctl`.
struct Redirect;

impl Handler for Redirect {
    fn redirect(arguments: Arguments<'_>) -> Option<usize> {
        // SAFETY: The only probe with this handler is on `kvm_vcpu_ioctl`.
        let vm = unsafe { run::vm_about_to_run(&arguments) }?;
        WATCHED
            .iter()
            .take(WATCHED_LEN.load(Relaxed))
            .any(|slot| slot.load(Relaxed) == vm.as_raw())
            .then_some(taken_over as usize)
    }
}

/// Runs in the place of `kvm_vcpu_ioctl`, with its arguments and its return value.
///
/// # Safety
///
/// Only to be reached by the probe, by way of [`Redirect`].
unsafe extern "C" fn taken_over(
    file: *mut bindings::file,
    _ioctl: c_uint,
    _argument: c_ulong,
) -> c_long {
    // Dropped last. Its drop also keeps the compiler from turning a call of KVM below into a jump,
    // after which the thread would not come back here to be counted out.
    let _visit = Visit::begin();
    // SAFETY: `Redirect` has recognized the call as KVM_RUN by this task.
    let call = unsafe { RunCall::from_raw(file) };
    match Watch::find(call.vcpu().vm_id()) {
        Some(watch) => watch.run(&call),
        // No longer watched: the next try goes straight to KVM.
        None => process::restart_current_call(),
    }
}

/// Counts a thread in and out of [`taken_over`].
struct Visit(());

impl Visit {
    fn begin() -> Self {
        ENTERED.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        LEFT.fetch_add(1, Release);
    }
}

/// What the hook knows about one VM.
#[pin_data]
pub(crate) struct Watch {
    vm: VmId,
    /// Not watched any more, but threads may still be seated.
    retired: Atomic<bool>,
    #[pin]
    seats: SpinLock<Seats>,
    /// Notified when a thread comes to stand.
    #[pin]
    changed: CondVar,
}

/// The threads that are in KVM_RUN by way of [`taken_over`].
struct Seats {
    /// While a freeze is on: what the threads wait for.
    freeze: Option<Arc<Stand>>,
    seats: KVec<Option<Seat>>,
    free: KVec<usize>,
}

impl Seats {
    /// No seats, but room for some, so that as a rule none has to be made under the lock.
    fn with_capacity(capacity: usize) -> Result<Self> {
        Ok(Self {
            freeze: None,
            seats: KVec::with_capacity(capacity, GFP_KERNEL)?,
            free: KVec::with_capacity(capacity, GFP_KERNEL)?,
        })
    }

    /// The seats of the threads that run, or wait to run, `vcpu`: one, unless the VMM has several
    /// threads do so at once.
    fn of<'a>(&'a self, vcpu: &'a Vcpu) -> impl Iterator<Item = &'a Seat> {
        let seats = self.seats.iter().flatten();
        seats.filter(|seat| seat.vcpu == vcpu.id())
    }
}

/// One thread in KVM_RUN.
struct Seat {
    vcpu: VcpuId,
    thread: ARef<Task>,
    state: SeatState,
    /// What it has read on its way to stand.
    registers: Option<Arc<Registers>>,
    /// It was kicked by this module, or may have been: an `-EINTR` is ours to deal with.
    kicked: bool,
}

/// Where a seated thread is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SeatState {
    /// In KVM, possibly in the guest.
    Running,
    /// On its way to stand, reading its registers.
    Coming,
    /// It stands at the entry of KVM_RUN.
    Standing,
}

/// Where a vCPU is, as far as the hook knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// No thread is in KVM_RUN for it, or came before the VM was watched.
    Unseen,
    /// A thread is in KVM_RUN, and does not stand.
    Inside,
    /// Its thread stands at the entry of KVM_RUN; if there are several, all do.
    Standing,
}

impl Watch {
    fn new(vm: VmId, seats: Seats) -> impl PinInit<Self> {
        pin_init!(Self {
            vm,
            retired: Atomic::new(false),
            seats <- new_spinlock!(seats, "kvm_inspect::Watch::seats"),
            changed <- new_condvar!("kvm_inspect::Watch::changed"),
        })
    }

    fn find(vm: VmId) -> Option<Arc<Self>> {
        let watches = WATCHES.lock();
        let found = watches.iter().find(|watch| watch.vm == vm)?;
        (!found.retired.load(Acquire)).then(|| found.clone())
    }

    /// Whether it is of no use any more.
    fn is_deserted(&self) -> bool {
        let seats = self.seats.lock();
        self.retired.load(Acquire) && seats.seats.iter().all(Option::is_none)
    }

    /// Does one KVM_RUN for its thread, and says what the thread is to return.
    fn run(&self, call: &RunCall<'_>) -> c_long {
        let exit_reason = call.exit_reason();
        let Ok((seat, freeze)) = self.take_seat(call.vcpu()) else {
            // No memory. The thread passes the way to user space, where it can be killed, and
            // tries again, but not before others had the CPU to free some.
            process::yield_cpu();
            return process::restart_current_call();
        };
        if let Err(result) = seat.stand_while_frozen(freeze, call) {
            return result;
        }
        let result = call.original();
        if seat.leave() && result == process::return_value(EINTR) {
            // The VMM must not see this. If there was a signal, too, it will get its EINTR.
            // Then the reason of the exit is right.
            if !process::current_has_signal() {
                call.restore_exit_reason(exit_reason);
            }
            return process::restart_current_call();
        }
        result
    }

    /// Takes a seat for the current thread; also says what to wait for if a freeze is on.
    fn take_seat(&self, vcpu: &Vcpu) -> Result<(SeatGuard<'_>, Option<Arc<Stand>>)> {
        let mut guard = self.seats.lock();
        let seats = &mut *guard;
        let index = match seats.free.pop() {
            Some(index) => index,
            None => {
                let len = seats.seats.len();
                // `free` is empty, and always has room for all indices.
                let all = len.checked_add(1).ok_or(ENOMEM)?;
                seats.free.reserve(all, GFP_ATOMIC)?;
                seats.seats.push(None, GFP_ATOMIC)?;
                len
            }
        };
        let freeze = seats.freeze.clone();
        if let Some(seat) = seats.seats.get_mut(index) {
            *seat = Some(Seat {
                vcpu: vcpu.id(),
                thread: ARef::from(&**kernel::current!()),
                state: match freeze {
                    Some(_) => SeatState::Coming,
                    None => SeatState::Running,
                },
                registers: None,
                kicked: false,
            });
        }
        drop(guard);
        Ok((SeatGuard { watch: self, index }, freeze))
    }

    /// Whether it is `vm` that is watched.
    pub(crate) fn is_of(&self, vm: &Vm) -> bool {
        self.vm == vm.id()
    }

    /// Makes all threads that enter KVM_RUN from now on stand until `stand` is over, and kicks those
    /// that are inside.
    pub(crate) fn freeze(&self, stand: &Arc<Stand>) {
        let mut seats = self.seats.lock();
        seats.freeze = Some(stand.clone());
        for seat in seats.seats.iter_mut().flatten() {
            if seat.state == SeatState::Standing {
                // From the freeze before, and about to go: it has to come once more.
                seat.state = SeatState::Coming;
                seat.registers = None;
            }
        }
        drop(seats);
        self.kick_all();
    }

    /// Ends a freeze. Its [`Stand`] is to be ended after this.
    pub(crate) fn thaw(&self) {
        self.seats.lock().freeze = None;
    }

    /// Kicks all seated threads that do not stand.
    pub(crate) fn kick_all(&self) {
        let mut seats = self.seats.lock();
        for seat in seats.seats.iter_mut().flatten() {
            if seat.state != SeatState::Standing {
                seat.kicked = true;
                process::kick(&seat.thread);
            }
        }
    }

    /// Whether `thread` is in KVM_RUN by way of the hook.
    pub(crate) fn has_seated(&self, thread: &Task) -> bool {
        let seats = self.seats.lock();
        let mut seats = seats.seats.iter().flatten();
        seats.any(|seat| core::ptr::eq(&raw const *seat.thread, thread))
    }

    /// How many threads stand.
    pub(crate) fn standing(&self) -> usize {
        let seats = self.seats.lock();
        let seats = seats.seats.iter().flatten();
        seats
            .filter(|seat| seat.state == SeatState::Standing)
            .count()
    }

    /// Where `vcpu` is.
    pub(crate) fn whereabouts(&self, vcpu: &Vcpu) -> Whereabouts {
        let seats = self.seats.lock();
        let mut states = seats
            .of(vcpu)
            .map(|seat| seat.state == SeatState::Standing)
            .peekable();
        if states.peek().is_none() {
            Whereabouts::Unseen
        } else if states.all(|stands| stands) {
            Whereabouts::Standing
        } else {
            Whereabouts::Inside
        }
    }

    /// The registers of `vcpu`, if it stands and KVM has told them.
    pub(crate) fn registers(&self, vcpu: &Vcpu) -> Option<Arc<Registers>> {
        let seats = self.seats.lock();
        let mut seats = seats.of(vcpu);
        let seat = seats.find(|seat| seat.state == SeatState::Standing)?;
        seat.registers.clone()
    }

    /// Waits until a thread comes to stand, or `jiffies` have passed. May return early.
    pub(crate) fn wait_for_change(&self, jiffies: kernel::time::Jiffies) {
        let mut seats = self.seats.lock();
        let _ = self.changed.wait_interruptible_timeout(&mut seats, jiffies);
    }
}

/// The current thread's seat, given up when this is dropped.
struct SeatGuard<'a> {
    watch: &'a Watch,
    index: usize,
}

impl SeatGuard<'_> {
    fn with<R>(&self, change: impl FnOnce(&mut Seat, Option<&Arc<Stand>>) -> R) -> Option<R> {
        let mut guard = self.watch.seats.lock();
        let seats = &mut *guard;
        let seat = seats.seats.get_mut(self.index)?.as_mut()?;
        Some(change(seat, seats.freeze.as_ref()))
    }

    /// Stands until no freeze is on.
    ///
    /// # Errors
    ///
    /// What the thread must return at once instead of going into KVM_RUN.
    // Its frame shall not lie under that of KVM_RUN, which is deep.
    #[inline(never)]
    fn stand_while_frozen(
        &self,
        mut freeze: Option<Arc<Stand>>,
        call: &RunCall<'_>,
    ) -> Result<(), c_long> {
        let Some(_) = &freeze else {
            return Ok(());
        };
        let since = Instant::<Monotonic>::now();
        while let Some(stand) = freeze {
            let (registers, outcome) = call.read_registers();
            let mut waited = Ok(());
            if self.stand(&stand, registers) {
                self.watch.changed.notify_all();
                waited = stand.wait();
            }
            outcome?;
            if waited.is_err() {
                return Err(process::return_value(EINTR));
            }
            freeze = self.go_on();
        }
        if since.elapsed() > LONG {
            call.tell_guest_that_it_stood();
        }
        Ok(())
    }

    /// Begins to stand, unless the freeze of `stand` is over.
    fn stand(&self, stand: &Arc<Stand>, registers: Option<Arc<Registers>>) -> bool {
        let stands = self.with(|seat, freeze| {
            let stands = freeze.is_some_and(|freeze| Arc::ptr_eq(freeze, stand));
            if stands {
                seat.state = SeatState::Standing;
                seat.registers = registers;
            }
            stands
        });
        stands.unwrap_or(false)
    }

    /// Stands no more. Gives what to wait for if another freeze is on already.
    fn go_on(&self) -> Option<Arc<Stand>> {
        self.with(|seat, freeze| {
            seat.state = match freeze {
                Some(_) => SeatState::Coming,
                None => SeatState::Running,
            };
            seat.registers = None;
            // A kick that was meant for its last call, before it had a seat, may have come only
            // now, and would end the next.
            seat.kicked = true;
            freeze.cloned()
        })
        .flatten()
    }

    /// Gives up the seat, and says whether its thread was kicked.
    fn leave(self) -> bool {
        let seat = self.give_up();
        core::mem::forget(self);
        seat.is_some_and(|seat| seat.kicked)
    }

    /// To be called once: then the seat may be another's.
    fn give_up(&self) -> Option<Seat> {
        let mut guard = self.watch.seats.lock();
        let seats = &mut *guard;
        let seat = seats.seats.get_mut(self.index).and_then(Option::take);
        // There is room: as much as `seats` has.
        let _ = seats.free.push_within_capacity(self.index);
        seat
    }
}

impl Drop for SeatGuard<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
