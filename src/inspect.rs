// SPDX-License-Identifier: GPL-2.0

//! One inspection of one VM: prepare, freeze, read, search, thaw.

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
        FrozenVcpu,
        Lease,
        Pauses,
        Terms, //
    },
    hook::Watch,
    kvm::{
        Memslots,
        Vm, //
    },
    linux::{
        address_space::{
            BorrowedAddressSpace,
            Patience, //
        },
        completion::Completion,
        kthread::OnKthread,
        task::{
            self,
            NoIo, //
        }, //
    },
    memory::{
        Interrupted,
        Map,
        Plan, //
    },
    outcome::{
        Conclusion,
        Outcome, //
    },
    progress::Progress,
    request::{
        Late,
        Request, //
    },
    search::{
        PauseOutcome,
        Prepared,
        Search, //
    },
    target::Target, //
};

/// How often what has changed is searched again.
const MAX_SEARCHES_AGAIN: u32 = 4;

/// How many pauses in a row may end before any memory was searched.
const MAX_PAUSES_IN_VAIN: u32 = 8;

/// One inspection of one VM.
pub(crate) struct Inspection<'a> {
    /// What the user asks for.
    pub(crate) request: &'a Request,
    /// The VMM.
    pub(crate) process: &'a Task,
    /// The VM.
    pub(crate) target: &'a Target,
    /// What its guest does.
    pub(crate) guest: Guest<'a>,
    /// Complete when the inspection is to end early.
    pub(crate) cancel: &'a Completion,
    /// How far it has got.
    pub(crate) progress: &'a Arc<Progress>,
}

/// What a guest does when its inspection begins.
#[derive(Clone, Copy)]
pub(crate) enum Guest<'a> {
    /// It runs. This is the hook's view of it.
    Runs(&'a Watch),
    /// Somebody holds it.
    Stands {
        /// Its freeze.
        freeze: &'a Freeze<'a>,
        /// Until when.
        lease: &'a Lease,
    },
}

impl Guest<'_> {
    /// Returns whether it goes on, since it was held for long enough.
    fn has_expired(self) -> bool {
        match self {
            Self::Runs(_) => false,
            Self::Stands { lease, .. } => lease.has_ended(),
        }
    }
}

/// The freeze in which memory is searched.
enum Stopped<'a> {
    /// It is that of the inspection.
    Own(Freeze<'a>),
    /// Somebody else ends it.
    Held {
        freeze: &'a Freeze<'a>,
        since: Instant<Monotonic>,
    },
}

impl<'a> Stopped<'a> {
    fn freeze(&self) -> &Freeze<'a> {
        match self {
            Self::Own(freeze) => freeze,
            Self::Held { freeze, .. } => freeze,
        }
    }

    /// Returns when this began.
    fn since(&self) -> Instant<Monotonic> {
        match self {
            Self::Own(freeze) => freeze.since(),
            Self::Held { since, .. } => *since,
        }
    }

    /// Ends it, unless it is somebody else's. Returns how long it was.
    fn end(self) -> Delta {
        match self {
            Self::Own(freeze) => freeze.thaw(),
            Self::Held { since, .. } => since.elapsed(),
        }
    }
}

/// What is made before the freeze, so that nothing large is allocated in it.
struct Preparation {
    vcpus: KVVec<FrozenVcpu>,
    slots: Memslots,
    /// Room to read them again.
    slots_now: Memslots,
    search: Prepared,
}

impl Inspection<'_> {
    /// Inspects the VM. The guest runs again when this returns.
    ///
    /// # Errors
    ///
    /// After a line that says what is wrong: `EOPNOTSUPP`, `ESRCH`, `ETIMEDOUT`. `EINTR`: the
    /// module is being unloaded. `ENOMEM`.
    pub(crate) fn run(&self, thread: &mut OnKthread) -> Result<Outcome> {
        let mm = self.readable_memory()?;
        let memory = BorrowedAddressSpace::take_on(thread, mm);
        let stop = || {
            memory.thread().should_stop()
                || task::is_dying(self.process)
                || self.cancel.is_complete()
                || self.guest.has_expired()
        };
        let explain = |error| freeze::explain_failure(error, self.process);
        if self.request.bring_in {
            if let Guest::Stands { .. } = self.guest {
                // The guest may serve the disk that would be waited for.
                return Err(refuse!(
                    EINVAL,
                    "nothing can be brought in while the guest is held; do that before"
                ));
            }
            self.bring_in(&memory, &stop)?;
        }
        let _turn = match self.guest {
            Guest::Runs(watch) => Some(watch.take_turn(&stop).map_err(explain)?),
            Guest::Stands { .. } => None,
        };
        let Preparation {
            mut vcpus,
            mut slots,
            mut slots_now,
            search,
        } = self.prepare()?;
        let no_io = NoIo::begin();

        let stopped = match self.guest {
            Guest::Runs(watch) => Stopped::Own(self.freeze(watch, &stop, true).map_err(explain)?),
            Guest::Stands { freeze, .. } => Stopped::Held {
                freeze,
                since: Instant::now(),
            },
        };
        let mut is_one_instant = stopped.freeze().is_complete();
        let frozen_after = stopped.freeze().took();
        self.read_registers(stopped.freeze(), &mut vcpus)?;
        slots.read_again(self.vm(), task::gfp_paused())?;
        let map = Map::new(self.target.vm.try_clone()?, slots);
        let map = Arc::new(map, task::gfp_paused())?;
        let search = Search::new(
            map.clone(),
            self.request.query.clone(),
            self.progress.clone(),
            search,
        )?;
        // What a VM without users holds keeps a new one from getting its names in debugfs.
        let stop = || stop() || self.target.vm.is_abandoned();
        let mut pauses = Pauses::default();
        let mut run = Run {
            search: &search,
            memory: &memory,
            stop: &stop,
            slots_now: &mut slots_now,
            pauses: &mut pauses,
            is_one_instant: &mut is_one_instant,
        };
        let searched = self.search(stopped, &mut run);
        drop(no_io);

        // A VM may become a protected one until its first vCPU is made, and by migration later.
        self.target.check_unprotected()?;
        let patience = Patience::new();
        let counted = searched.and_then(|()| search.count(&memory.memory(&patience), &stop));
        let findings = search.take_findings();
        let conclusion = match counted {
            Ok(()) if findings.has_lost(&map, self.request.query.searched_ranges()) => {
                Conclusion::MemslotsChanged
            }
            Ok(()) if findings.stopped_at.is_some() => Conclusion::TimeUp,
            Ok(()) if !is_one_instant => Conclusion::NotOneInstant,
            Ok(()) if findings.has_uncovered() => Conclusion::Changed,
            Ok(()) if findings.missing_pages > 0 => Conclusion::Incomplete,
            Ok(()) if self.request.query.patterns.is_empty() => Conclusion::NoPattern,
            Ok(()) => Conclusion::Ok,
            Err(Interrupted::Stopped) if task::is_dying(self.process) => Conclusion::VmmKilled,
            Err(Interrupted::Stopped) if self.target.vm.is_abandoned() => Conclusion::VmClosed,
            Err(Interrupted::Stopped) => return Err(EINTR),
            Err(Interrupted::Error(error)) => return Err(error),
        };
        Ok(Outcome {
            pid: self.request.pid,
            vm_fd: self.target.fd,
            vcpus,
            map,
            query: self.request.query.clone(),
            findings,
            conclusion,
            freeze: frozen_after,
            pauses,
        })
    }

    fn vm(&self) -> &Vm {
        &self.target.vm
    }

    /// Returns the VMM's memory, unless the guest's cannot be read.
    fn readable_memory(&self) -> Result<ARef<MmWithUser>> {
        self.target.check_unprotected()?;
        self.vm().mm().mmget_not_zero().ok_or_else(|| {
            refuse!(
                ESRCH,
                "the VMM is exiting; its guest has no memory any more"
            )
        })
    }

    /// Makes what can be made before the freeze.
    fn prepare(&self) -> Result<Preparation> {
        let slots = Memslots::read(self.vm())?;
        Ok(Preparation {
            vcpus: KVVec::with_capacity(self.vm().vcpus().count(), GFP_KERNEL)?,
            search: Prepared::new(
                &self.request.query,
                slots.as_slice(),
                self.request.threads,
                self.request.max_pause.is_some() || matches!(self.guest, Guest::Stands { .. }),
            )?,
            slots_now: Memslots::read(self.vm())?,
            slots,
        })
    }

    /// Brings in, while the guest runs, what is to be searched and is swapped out or in a file.
    fn bring_in(&self, memory: &BorrowedAddressSpace<'_>, stop: &dyn Fn() -> bool) -> Result {
        let map = Map::new(self.target.vm.try_clone()?, Memslots::read(self.vm())?);
        let ranges = self.request.query.searched_ranges();
        let patience = Patience::new();
        let vmm_memory = memory.memory(&patience);
        for slot in map.slots() {
            let source = map.source(slot, &vmm_memory);
            map.for_each_stretch(ranges, slot, 0, slot.pages, |plan, first, end| {
                if plan == Plan::Read {
                    source.bring_in(first, end.saturating_sub(first), stop);
                }
                Ok::<_, Error>(())
            })?;
        }
        if stop() {
            return Err(freeze::explain_failure(EINTR, self.process));
        }
        Ok(())
    }

    /// Freezes the VM, for the first time or again.
    fn freeze<'b>(
        &'b self,
        watch: &'b Watch,
        stop: &dyn Fn() -> bool,
        is_first: bool,
    ) -> Result<Freeze<'b>> {
        let late = self.request.late;
        let most = self.request.max_pause.map(|max_pause| match late {
            Late::Refuse => max_pause,
            // The rest is for the search.
            Late::Report => Delta::from_nanos(max_pause.as_nanos() / 2),
        });
        let timeout = self.request.freeze_timeout;
        let terms = Terms {
            timeout: most.map_or(timeout, |most| timeout.min(most)),
            late,
            is_first,
        };
        Freeze::begin(self.vm(), watch, &terms, stop)
    }

    /// Reads the state and registers of all vCPUs.
    fn read_registers(&self, freeze: &Freeze<'_>, vcpus: &mut KVVec<FrozenVcpu>) -> Result {
        for vcpu in self.vm().vcpus() {
            if let Some(frozen) = freeze.vcpu(vcpu) {
                vcpus.push(frozen, task::gfp_paused())?;
            }
        }
        Ok(())
    }

    /// Searches memory in this pause and, if pauses are limited, in some more. In between the guest
    /// runs for as long as the last pause was, or the freeze that failed.
    ///
    /// When all is searched, what has changed meanwhile is searched again, up to
    /// [`MAX_SEARCHES_AGAIN`] times.
    fn search(&self, stopped: Stopped<'_>, run: &mut Run<'_>) -> Result<(), Interrupted> {
        let patience = Patience::new();
        let vmm_memory = run.memory.memory(&patience);
        let mut outcome = self.search_in_pause(stopped, run)?;
        let Guest::Runs(watch) = self.guest else {
            // What was not searched until the lease has ended is left.
            return Ok(());
        };
        let (mut again, mut in_vain) = (0, 0);
        let mut was_late = false;
        loop {
            match outcome {
                PauseOutcome::Complete if run.pauses.count == 1 && !run.search.has_uncovered() => {
                    return Ok(());
                }
                PauseOutcome::Complete => {
                    run.search.compare(&vmm_memory, run.stop)?;
                    if again == MAX_SEARCHES_AGAIN || !run.search.has_uncovered() {
                        return Ok(());
                    }
                    again += 1;
                    in_vain = 0;
                    was_late = false;
                }
                PauseOutcome::CompleteLate => {
                    in_vain = 0;
                    was_late = true;
                }
                PauseOutcome::TimeUp => in_vain = 0,
                PauseOutcome::InVain if in_vain == MAX_PAUSES_IN_VAIN => {
                    *run.is_one_instant &= !was_late;
                    return Ok(());
                }
                PauseOutcome::InVain => in_vain += 1,
            }
            if outcome != PauseOutcome::Complete && self.cancel.wait_timeout(run.pauses.last) {
                return Err(Interrupted::Stopped);
            }
            // A freeze that fails here may succeed the next time.
            let begun = Instant::<Monotonic>::now();
            outcome = match self.freeze(watch, run.stop, false) {
                Ok(freeze) => {
                    *run.is_one_instant &= freeze.is_complete();
                    self.search_in_pause(Stopped::Own(freeze), run)?
                }
                // The guest was kept from running for some time, and all go on.
                Err(error) if error == ETIMEDOUT => {
                    run.pauses.last = run.pauses.last.max(begun.elapsed());
                    PauseOutcome::InVain
                }
                Err(error) if error == EINTR => return Err(Interrupted::Stopped),
                Err(error) => return Err(error.into()),
            };
        }
    }

    /// Searches memory in one pause, and ends it.
    fn search_in_pause(
        &self,
        stopped: Stopped<'_>,
        run: &mut Run<'_>,
    ) -> Result<PauseOutcome, Interrupted> {
        let search = run.search;
        let max_pause = match self.guest {
            Guest::Runs(_) => self.request.max_pause,
            Guest::Stands { lease, .. } => Some(lease.left()),
        };
        let result = search
            .begin_pause(stopped.since(), max_pause, run.stop)
            .and_then(|()| {
                if !self.request.query.patterns.is_empty() {
                    stopped.freeze().share(search.clone());
                }
                search.run(&run.memory.memory(search.patience()), run.stop)
            });
        run.pauses.add(stopped.end());
        self.progress.add_pause();
        // What keeps the search from going on comes first: it stops the search, too.
        let outcome = search.end_pause()?;
        result?;
        search.note_changed_slots(run.slots_now)?;
        Ok(outcome)
    }
}

/// The search of one inspection, and what it needs.
struct Run<'a> {
    search: &'a Arc<Search>,
    memory: &'a BorrowedAddressSpace<'a>,
    stop: &'a dyn Fn() -> bool,
    /// Room to read the memslots again.
    slots_now: &'a mut Memslots,
    pauses: &'a mut Pauses,
    /// All vCPUs had stopped, in each pause.
    is_one_instant: &'a mut bool,
}
