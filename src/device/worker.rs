// SPDX-License-Identifier: GPL-2.0

//! The thread of a session, which does its calls, one after the other.
//!
//! It watches the VM for a moment after each call: the next one then costs little. And it holds the
//! guest between calls, if it is told to, until the lease ends.

use kernel::{
    mm::MmWithUser,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    task::Task,
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use super::session::{
    Call,
    Hold,
    Next,
    Release,
    Request,
    Shared,
    Ticket, //
};
use crate::{
    error::{
        explain_memory,
        refuse, //
    },
    freeze::{
        self,
        Freeze,
        Lease,
        Terms, //
    },
    hook::{
        Watch,
        Watched, //
    },
    inspect::{
        self,
        Inspection, //
    },
    linux::{
        address_space::BorrowedAddressSpace,
        completion::Completion,
        kthread::{
            OnKthread,
            Work, //
        },
        lockdown,
        task::{
            self,
            NoIo,
            Process, //
        }, //
    },
    outcome::Outcome,
    progress::{
        Doing,
        Progress, //
    },
    target::{
        self,
        Target, //
    }, //
};

/// How long a VM stays watched after a call, about.
const LINGER: Delta = Delta::from_secs(1);

/// How often the thread looks whether there still is a VM, in milliseconds.
const POLL_MS: u32 = 1000;

/// The same while it holds the guest.
const HOLD_POLL_MS: u32 = 20;

/// The thread's work.
pub(super) struct Worker {
    shared: Arc<Shared>,
    /// The VMM.
    process: Process,
    /// The VM, until it has gone.
    targets: KVec<Target>,
    /// A lease has ended, and the caller does not know it yet.
    is_expired: bool,
    /// How long the guest stood then.
    expired_after: Delta,
}

impl Worker {
    /// Creates the work of a session on the only one of `targets`, a VM of `process`.
    pub(super) fn new(shared: Arc<Shared>, process: Process, targets: KVec<Target>) -> Self {
        Self {
            shared,
            process,
            targets,
            is_expired: false,
            expired_after: Delta::ZERO,
        }
    }

    /// Does all calls until the session ends.
    fn serve(&mut self, thread: &mut OnKthread) {
        let mut watched = None;
        let mut last = Instant::<Monotonic>::now();
        while !thread.should_stop() {
            match self.shared.wait(thread, POLL_MS) {
                Next::Nothing => {
                    if last.elapsed() >= LINGER {
                        watched = None;
                    }
                    self.look_after_vm(thread);
                }
                next => {
                    self.one(next, &mut watched, thread);
                    last = Instant::now();
                }
            }
        }
    }

    /// Gives up the VM if it has gone.
    fn look_after_vm(&mut self, thread: &mut OnKthread) {
        let has_gone = |target: &Target| {
            target.vm.is_abandoned()
                || self
                    .process
                    .task()
                    .is_ok_and(|process| task::is_dying(&process))
                || self.process.task().is_err()
        };
        if self.targets.first().is_some_and(has_gone) {
            target::release(&mut self.targets, thread);
        }
    }

    /// Does one call.
    fn one(&mut self, next: Next, watched: &mut Option<Watched>, thread: &mut OnKthread) {
        let shared = self.shared.clone();
        match next {
            Next::Nothing => (),
            Next::Call(call) => {
                let _listener = call.ticket().listen();
                let result = self.call(&*call, watched, thread);
                shared.progress.begin(Doing::Nothing, 0);
                shared.finish(call.ticket(), result.map_err(explain_memory));
            }
            Next::Hold(hold) => {
                let _listener = hold.ticket().listen();
                let mut is_held = false;
                let result = self.hold(&hold, &mut is_held, watched, thread);
                // Once it is held, its caller knows, and goes on.
                if !is_held {
                    shared.finish(hold.ticket(), result.map_err(explain_memory));
                }
            }
            Next::Release(release) => {
                let _listener = release.ticket().listen();
                let is_expired = core::mem::take(&mut self.is_expired);
                let result = if is_expired {
                    let pause_ns = nanoseconds(self.expired_after);
                    release.with(|release| {
                        *release = Release {
                            pause_ns,
                            is_expired,
                        };
                    });
                    Ok(())
                } else {
                    Err(refuse!(EINVAL, "the guest is not held; hold it first"))
                };
                shared.finish(release.ticket(), result);
            }
        }
    }

    /// Does a call while the guest runs.
    fn call(
        &mut self,
        call: &dyn Call,
        watched: &mut Option<Watched>,
        thread: &mut OnKthread,
    ) -> Result {
        let process = self.check()?;
        let target = self.targets.first().ok_or(ESRCH)?;
        let mut context = Context {
            shared: &self.shared,
            process: &process,
            target,
            thread,
            ticket: call.ticket(),
            guest: Guest::Runs(watched),
        };
        call.run(&mut context)
    }

    /// Checks what may have changed since the last call. Returns the VMM.
    fn check(&self) -> Result<ARef<Task>> {
        lockdown::may_read_memory().map_err(|error| {
            refuse!(
                error,
                "the kernel is locked down and keeps memory confidential; boot it without \
                 lockdown=confidentiality"
            )
        })?;
        if self.is_expired {
            return Err(refuse!(
                ETIME,
                "the lease has ended and the guest runs; release it, and hold it again"
            ));
        }
        let process = self.process.task().ok();
        let process = process.filter(|process| !task::is_dying(process));
        process
            .filter(|_| !self.targets.is_empty())
            .ok_or_else(gone)
    }

    /// Holds the guest, and does calls meanwhile, until it is released or the lease ends.
    /// `is_held` is set when it stands, and the caller knows.
    fn hold(
        &mut self,
        request: &Request<Hold>,
        is_held: &mut bool,
        watched: &mut Option<Watched>,
        thread: &mut OnKthread,
    ) -> Result {
        let process = self.check()?;
        let target = self.targets.first().ok_or(ESRCH)?;
        target.check_unprotected()?;
        let watch = watch(watched, target)?;
        let (lease_ms, terms) = request.with(|hold| (hold.lease_ms, hold.terms()));
        let cancel = &request.ticket().cancel;
        let stop = || thread.should_stop() || task::is_dying(&process) || cancel.is_complete();
        let turn = watch
            .take_turn(&stop)
            .map_err(|error| freeze::explain_failure(error, &process))?;
        let no_io = NoIo::begin();
        let freeze = Freeze::begin(&target.vm, watch, &terms, &stop)
            .map_err(|error| freeze::explain_failure(error, &process))?;
        let mut lease = Lease::new(lease_ms);
        request.with(|hold| hold.freeze_ns = nanoseconds(freeze.took()));
        *is_held = true;
        self.shared.progress.begin(Doing::Hold, 0);
        self.shared.finish(request.ticket(), Ok(()));

        let mut released = None;
        while !lease.has_ended()
            && !thread.should_stop()
            && !task::is_dying(&process)
            && !target.vm.is_abandoned()
        {
            let wait = lease.left_ms().min(HOLD_POLL_MS);
            match self.shared.wait(thread, wait) {
                Next::Nothing => (),
                Next::Call(call) => {
                    let _listener = call.ticket().listen();
                    let mut context = Context {
                        shared: &self.shared,
                        process: &process,
                        target,
                        thread,
                        ticket: call.ticket(),
                        guest: Guest::Stands {
                            freeze: &freeze,
                            lease: &lease,
                        },
                    };
                    let mut result = call.run(&mut context);
                    if result == Err(EINTR) && lease.has_ended() {
                        result = Err(refuse!(
                            ETIME,
                            "the lease has ended meanwhile; hold the guest for longer"
                        ));
                    }
                    self.shared.progress.begin(Doing::Hold, 0);
                    self.shared
                        .finish(call.ticket(), result.map_err(explain_memory));
                }
                Next::Hold(again) => {
                    lease = again.with(|hold| {
                        hold.freeze_ns = 0;
                        Lease::new(hold.lease_ms)
                    });
                    self.shared.finish(again.ticket(), Ok(()));
                }
                Next::Release(release) => {
                    released = Some(release);
                    break;
                }
            }
        }
        let is_dying = task::is_dying(&process) || target.vm.is_abandoned();
        let pause = freeze.thaw();
        drop(no_io);
        drop(turn);
        freeze::await_kicked(&target.vm, watch, &|| {
            thread.should_stop() || task::is_dying(&process)
        });
        self.shared.progress.begin(Doing::Nothing, 0);
        if let Some(release) = released {
            release.with(|release| release.pause_ns = nanoseconds(pause));
            self.shared.finish(release.ticket(), Ok(()));
        } else if !is_dying {
            self.is_expired = true;
            self.expired_after = pause;
        }
        Ok(())
    }
}

impl Work for Worker {
    fn run(mut self, mut thread: OnKthread) {
        self.serve(&mut thread);
        target::release(&mut self.targets, &mut thread);
    }
}

impl Hold {
    fn terms(&self) -> Terms {
        Terms {
            timeout: Delta::from_millis(self.freeze_timeout_ms.into()),
            late: self.late,
            is_first: true,
        }
    }
}

fn gone() -> Error {
    refuse!(ESRCH, "the VM has gone; attach to another one")
}

/// Watches the VM, unless it is watched.
fn watch<'a>(watched: &'a mut Option<Watched>, target: &Target) -> Result<&'a Watch> {
    if watched.is_none() {
        *watched = Some(Watched::begin(&target.vm)?);
    }
    let watched = watched.as_ref().ok_or(EINVAL)?;
    Ok(watched)
}

/// Returns a time as the device gives it.
pub(super) fn nanoseconds(time: Delta) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(0)
}

/// What a call works with.
pub(super) struct Context<'a> {
    /// What the session shares with its callers.
    pub(super) shared: &'a Shared,
    /// The VMM.
    pub(super) process: &'a Task,
    /// The VM.
    pub(super) target: &'a Target,
    /// The thread that does the call.
    pub(super) thread: &'a mut OnKthread,
    /// What the caller waits for.
    pub(super) ticket: &'a Ticket,
    /// What the guest does.
    pub(super) guest: Guest<'a>,
}

/// What the guest does.
pub(super) enum Guest<'a> {
    /// It runs. The VM may still be watched.
    Runs(&'a mut Option<Watched>),
    /// It is held.
    Stands {
        /// Its freeze.
        freeze: &'a Freeze<'a>,
        /// Until when.
        lease: &'a Lease,
    },
}

/// What was done in a pause.
pub(super) struct Paused<R> {
    /// What came of it.
    pub(super) result: R,
    /// How long it took until all vCPUs had stopped.
    pub(super) freeze: Delta,
    /// How long the guest stood.
    pub(super) pause: Delta,
    /// Whether all vCPUs had stopped.
    pub(super) is_complete: bool,
}

impl Context<'_> {
    /// Returns the VMM's memory.
    fn mm(&self) -> Result<ARef<MmWithUser>> {
        self.target.check_unprotected()?;
        self.target.vm.mm().mmget_not_zero().ok_or_else(gone)
    }

    /// Inspects the VM. `inspection` makes the inspection of the VMM, the VM, what the guest does,
    /// what ends it early, and how far it has got.
    ///
    /// # Errors
    ///
    /// As [`Inspection::run`].
    pub(super) fn inspect<'b>(
        &'b mut self,
        inspection: impl FnOnce(
            &'b Task,
            &'b Target,
            inspect::Guest<'b>,
            &'b Completion,
            &'b Arc<Progress>,
        ) -> Inspection<'b>,
    ) -> Result<Outcome> {
        let guest = match &mut self.guest {
            Guest::Runs(watched) => inspect::Guest::Runs(watch(watched, self.target)?),
            Guest::Stands { freeze, lease } => inspect::Guest::Stands { freeze, lease },
        };
        let cancel = &self.ticket.cancel;
        let progress = &self.shared.progress;
        let inspection = inspection(self.process, self.target, guest, cancel, progress);
        let result = inspection.run(self.thread);
        if let inspect::Guest::Runs(watch) = guest {
            freeze::await_kicked(&self.target.vm, watch, &|| {
                self.thread.should_stop() || task::is_dying(self.process)
            });
        }
        result
    }

    /// Calls `work` with the memory of the VMM, and what tells whether to stop.
    ///
    /// # Errors
    ///
    /// Those of `work`. `ESRCH`, `EOPNOTSUPP`, after a line that says why.
    pub(super) fn with_memory<R>(
        &mut self,
        work: impl FnOnce(&BorrowedAddressSpace<'_>, &dyn Fn() -> bool) -> Result<R>,
    ) -> Result<R> {
        let memory = BorrowedAddressSpace::take_on(self.thread, self.mm()?);
        let lease = match &self.guest {
            Guest::Runs(_) => None,
            Guest::Stands { lease, .. } => Some(*lease),
        };
        work(&memory, &|| {
            memory.thread().should_stop()
                || task::is_dying(self.process)
                || self.ticket.cancel.is_complete()
                || lease.is_some_and(Lease::has_ended)
        })
    }

    /// Calls `work` while the guest stands, with the memory of the VMM and what tells whether to
    /// stop.
    ///
    /// # Errors
    ///
    /// As [`Freeze::begin`] and [`Self::with_memory`].
    pub(super) fn pause<R>(
        &mut self,
        terms: &Terms,
        work: impl FnOnce(&Freeze<'_>, &BorrowedAddressSpace<'_>, &dyn Fn() -> bool) -> R,
    ) -> Result<Paused<R>> {
        let mm = self.mm()?;
        let Self {
            process,
            target,
            ticket,
            ..
        } = *self;
        let memory = BorrowedAddressSpace::take_on(self.thread, mm);
        let stop = || {
            memory.thread().should_stop() || task::is_dying(process) || ticket.cancel.is_complete()
        };
        match &mut self.guest {
            Guest::Stands { freeze, lease } => {
                let since = Instant::<Monotonic>::now();
                let stop = || stop() || lease.has_ended();
                let result = work(freeze, &memory, &stop);
                Ok(Paused {
                    result,
                    freeze: Delta::ZERO,
                    pause: since.elapsed(),
                    is_complete: freeze.is_complete(),
                })
            }
            Guest::Runs(watched) => {
                let watch = watch(watched, target)?;
                let _turn = watch
                    .take_turn(&stop)
                    .map_err(|error| freeze::explain_failure(error, process))?;
                let no_io = NoIo::begin();
                let frozen = Freeze::begin(&target.vm, watch, terms, &stop)
                    .map_err(|error| freeze::explain_failure(error, process))?;
                let result = work(&frozen, &memory, &stop);
                let (freeze, is_complete) = (frozen.took(), frozen.is_complete());
                let pause = frozen.thaw();
                drop(no_io);
                freeze::await_kicked(&target.vm, watch, &stop);
                Ok(Paused {
                    result,
                    freeze,
                    pause,
                    is_complete,
                })
            }
        }
    }
}
