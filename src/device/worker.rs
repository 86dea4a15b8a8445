// SPDX-License-Identifier: GPL-2.0

//! The thread of a session, which does its calls, one after the other.
//!
//! It watches the VM for a moment after each call: the next one then costs little. And it holds the
//! guest between calls, if it is told to, until the lease ends.

use kernel::{
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

use super::{
    context::{
        gone,
        nanoseconds,
        watch,
        Context,
        Guest, //
    },
    session::{
        Call,
        Hold,
        Next,
        Release,
        Request,
        Shared,
        Thread, //
    }, //
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
    hook::Watched,
    linux::{
        kernels::ETIME,
        kthread::{
            Kthread,
            OnKthread,
            Work, //
        },
        task::{
            self,
            NoIo,
            Process, //
        }, //
    },
    progress::Doing,
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
                self.look_after_vm(thread);
                let result = self.call(&*call, watched, thread);
                shared.progress.begin(Doing::Nothing, 0);
                shared.finish(call.ticket(), result.map_err(explain_memory));
            }
            Next::Hold(hold) => {
                let _listener = hold.ticket().listen();
                self.look_after_vm(thread);
                let mut is_held = false;
                let result = self.hold(&hold, &mut is_held, watched, thread);
                // Once it is held, its caller knows, and goes on.
                if !is_held {
                    shared.finish(hold.ticket(), result.map_err(explain_memory));
                }
            }
            Next::Release(release) => {
                let _listener = release.ticket().listen();
                self.look_after_vm(thread);
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
                } else if self.targets.is_empty() {
                    Err(gone())
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
            process: &process,
            target,
            thread,
            cancel: &call.ticket().cancel,
            progress: &self.shared.progress,
            guest: Guest::Runs(watched),
        };
        call.run(&mut context)
    }

    /// Checks what may have changed since the last call. Returns the VMM.
    fn check(&self) -> Result<ARef<Task>> {
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
        if cancel.is_complete() {
            // Nobody would know that it stands.
            return Err(EINTR);
        }
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
                        process: &process,
                        target,
                        thread,
                        cancel: &call.ticket().cancel,
                        progress: &self.shared.progress,
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
        // Else it only gives them back, which takes a kernel thread.
        if self.targets.len() == 1 {
            self.serve(&mut thread);
        }
        target::release(&mut self.targets, &mut thread);
    }
}

impl Thread for Kthread<Worker> {}

impl Hold {
    fn terms(&self) -> Terms {
        Terms {
            timeout: Delta::from_millis(self.freeze_timeout_ms.into()),
            late: self.late,
            is_first: true,
        }
    }
}
