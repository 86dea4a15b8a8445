// SPDX-License-Identifier: GPL-2.0

//! What a call of a session works with: the VM, its memory, and a pause.

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

use crate::{
    error::refuse,
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
        kthread::OnKthread,
        task::{
            self,
            NoIo, //
        }, //
    },
    outcome::Outcome,
    progress::Progress,
    request::{
        Late,
        Request, //
    },
    target::Target, //
};

/// Says that the VM has gone.
pub(super) fn gone() -> Error {
    refuse!(ESRCH, "the VM has gone; attach to another one")
}

/// Watches the VM, unless it is watched.
pub(super) fn watch<'a>(watched: &'a mut Option<Watched>, target: &Target) -> Result<&'a Watch> {
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
    /// The VMM.
    pub(super) process: &'a Task,
    /// The VM.
    pub(super) target: &'a Target,
    /// The thread that does the call.
    pub(super) thread: &'a mut OnKthread,
    /// Complete when the call is to end early.
    pub(super) cancel: &'a Completion,
    /// How far it has got.
    pub(super) progress: &'a Arc<Progress>,
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
}

impl Context<'_> {
    /// Returns the VMM's memory.
    fn mm(&self) -> Result<ARef<MmWithUser>> {
        self.target.check_unprotected()?;
        self.target.vm.mm().mmget_not_zero().ok_or_else(gone)
    }

    /// Inspects the VM.
    ///
    /// # Errors
    ///
    /// As [`Inspection::run`].
    pub(super) fn inspect(&mut self, request: &Request) -> Result<Outcome> {
        let guest = match &mut self.guest {
            Guest::Runs(watched) => inspect::Guest::Runs(watch(watched, self.target)?),
            Guest::Stands { freeze, lease } => inspect::Guest::Stands { freeze, lease },
        };
        let inspection = Inspection {
            request,
            process: self.process,
            target: self.target,
            guest,
            cancel: self.cancel,
            progress: self.progress,
        };
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
                || self.cancel.is_complete()
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
            cancel,
            ..
        } = *self;
        let memory = BorrowedAddressSpace::take_on(self.thread, mm);
        let stop =
            || memory.thread().should_stop() || task::is_dying(process) || cancel.is_complete();
        match &mut self.guest {
            Guest::Stands { freeze, .. } if !freeze.is_complete() && terms.late == Late::Refuse => {
                Err(refuse!(
                    ETIMEDOUT,
                    "not all vCPUs had stopped when the guest was held; release it, and hold it \
                     again"
                ))
            }
            Guest::Stands { freeze, lease } => {
                let since = Instant::<Monotonic>::now();
                let stop = || stop() || lease.has_ended();
                let result = work(freeze, &memory, &stop);
                Ok(Paused {
                    result,
                    freeze: Delta::ZERO,
                    pause: since.elapsed(),
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
                let freeze = frozen.took();
                let pause = frozen.thaw();
                drop(no_io);
                freeze::await_kicked(&target.vm, watch, &stop);
                Ok(Paused {
                    result,
                    freeze,
                    pause,
                })
            }
        }
    }
}
