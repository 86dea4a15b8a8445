// SPDX-License-Identifier: GPL-2.0

//! One inspection: freeze, read, search, thaw, report.

use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        SetOnce, //
    },
    task::Task,
    time::Delta, //
};

use crate::{
    address_space::BorrowedAddressSpace,
    freeze::{
        Freeze,
        FrozenVcpu, //
    },
    gate::Gate,
    hook::{
        Hook,
        Watch,
        Watched,
        MAX_VMS, //
    },
    kthread::{
        Kthread,
        OnKthread,
        Work, //
    },
    kvm::{
        Memslots,
        Vm, //
    },
    lockdown,
    memory::{
        Interrupted,
        Map,
        Prepared,
        Progress,
        Search, //
    },
    parameters::Parameters,
    process::{
        self,
        NoIo,
        Process, //
    },
    report::{
        self,
        refuse,
        Pauses,
        Report, //
    },
    target::{
        self,
        Target, //
    }, //
};

/// Between inspections that are at least so far apart there is no probe, and a VM that is not being
/// inspected costs nothing. To take it away and set it anew takes a few milliseconds.
const LONG_INTERVAL: Delta = Delta::from_secs(1);

/// How often what has changed is searched again.
const MOST_ROUNDS: u32 = 4;

/// After how many pauses, one after the other, in which nothing could be searched none is tried any
/// more.
const MOST_IN_VAIN: u32 = 8;

/// The thread that does the inspections, until this is dropped.
pub(crate) struct Inspector {
    stop: Arc<Gate>,
    _thread: Kthread<Rounds>,
}

impl Inspector {
    /// Does the first inspection, with its report, and starts the next ones if they are wanted.
    ///
    /// # Errors
    ///
    /// Whatever kept the first inspection from being done, after a line that says so. `EINTR`: the
    /// caller is being killed.
    pub(crate) fn start(parameters: Parameters) -> Result<Self> {
        let pid = parameters.pid;
        // Looked up here, because the number is one of the caller's PID namespace.
        let process = Process::find(pid).map_err(|error| {
            refuse!(
                error,
                "there is no process {pid}; give the process number of the VMM as pid="
            )
        })?;
        let first = Arc::pin_init(First::new(), GFP_KERNEL)?;
        let stop = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
        let rounds = Rounds {
            parameters,
            process,
            first: first.clone(),
            stop: stop.clone(),
        };
        let this = Self {
            stop,
            _thread: Kthread::spawn(c"kvm_inspect", rounds)?,
        };
        first.wait()?;
        Ok(this)
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        // Out of its sleep; then `Kthread` stops it wherever it is, and waits for it.
        self.stop.open();
    }
}

/// The outcome of the first inspection, which `insmod` waits for.
#[pin_data]
struct First {
    #[pin]
    known: Gate,
    outcome: SetOnce<Result>,
}

impl First {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            known <- Gate::new(),
            outcome: SetOnce::new(),
        })
    }

    /// Makes the outcome known; says whether it was the first.
    fn settle(&self, outcome: Result) -> bool {
        let first = self.outcome.populate(outcome);
        self.known.open();
        first
    }

    fn wait(&self) -> Result {
        self.known.wait_killable().map_err(|_| EINTR)?;
        self.outcome.copy().unwrap_or(Err(EINTR))
    }
}

/// What the inspecting thread works on.
struct Rounds {
    parameters: Parameters,
    process: Process,
    first: Arc<First>,
    stop: Arc<Gate>,
}

impl Work for Rounds {
    fn run(self, mut thread: OnKthread) {
        let outcome = self.all(&mut thread);
        if !self.settle(outcome) && outcome.is_err() {
            pr_warn!("there will be no more inspections; unload the module\n");
        }
    }
}

impl Rounds {
    /// Does all inspections; gives the outcome of the last one, unless it is settled already.
    fn all(&self, thread: &mut OnKthread) -> Result {
        // Before the hook: most mistakes show here.
        let (mut process, mut targets) = self.find()?;
        loop {
            let hook = Hook::arm().map_err(explain_probe)?;
            let mut watched = KVec::with_capacity(MAX_VMS, GFP_KERNEL)?;
            let interval = loop {
                let outcome = self.one(&process, &targets, &hook, &mut watched, thread);
                let Some(interval) = self.parameters.interval else {
                    return outcome;
                };
                self.settle(outcome);
                // VMs that come and go while this sleeps are found, or not, the next time. None is
                // kept from going.
                targets.clear();
                if interval >= LONG_INTERVAL {
                    break interval;
                }
                if self.stop.wait_timeout(interval) {
                    return Ok(());
                }
                (process, targets) = self.find()?;
            };
            drop(watched);
            drop(hook);
            if self.stop.wait_timeout(interval) {
                return Ok(());
            }
            (process, targets) = self.find()?;
        }
    }

    /// Tells `insmod` how the first inspection ended, the kernel log how a later one did. Says
    /// whether it was the first.
    fn settle(&self, outcome: Result) -> bool {
        let first = self.first.settle(outcome);
        if !first {
            let _ = outcome.map_err(report::explain_memory);
        }
        first
    }

    /// Finds what is to be inspected now, with the VMM's process.
    fn find(&self) -> Result<(ARef<Task>, KVec<Target>)> {
        lockdown::may_read_memory().map_err(|error| {
            refuse!(
                error,
                "the kernel is locked down and keeps memory confidential; boot it without \
                 lockdown=confidentiality"
            )
        })?;
        let pid = self.parameters.pid;
        let process = self.process.task().ok();
        let process = process.filter(|process| !process::is_dying(process));
        let process = process.ok_or_else(|| {
            refuse!(
                ESRCH,
                "there is no process {pid} any more; give the number of one that runs"
            )
        })?;
        let targets = target::find(&self.parameters, &process)?;
        Ok((process, targets))
    }

    /// Inspects each target once.
    fn one<'a>(
        &self,
        process: &Task,
        targets: &[Target],
        hook: &'a Hook,
        watched: &mut KVec<Watched<'a>>,
        thread: &mut OnKthread,
    ) -> Result {
        // A VM stays watched from one round to the next: its threads then come through the hook.
        watched.retain(|watch| targets.iter().any(|target| watch.is_of(&target.vm)));
        let mut outcome = Ok(());
        for target in targets {
            let known = watched.iter().position(|watch| watch.is_of(&target.vm));
            let index = match known {
                Some(index) => index,
                None => {
                    watched.push(hook.watch(&target.vm)?, GFP_KERNEL)?;
                    watched.len().saturating_sub(1)
                }
            };
            let watch = watched.get(index).ok_or(EINVAL)?;
            let result = self.inspect(process, target, watch, thread);
            if result == Err(EINTR) {
                return result;
            }
            outcome = outcome.and(result);
        }
        outcome
    }

    /// Inspects one VM.
    fn inspect(
        &self,
        process: &Task,
        target: &Target,
        watch: &Watch,
        thread: &mut OnKthread,
    ) -> Result {
        let parameters = &self.parameters;
        let vm = &*target.vm;
        if let Some(kind) = vm.protection() {
            return Err(refuse!(
                EOPNOTSUPP,
                "the guest is protected by {kind:?}; its registers and memory cannot be read from \
                 the host"
            ));
        }
        let mm = vm.mm().mmget_not_zero().ok_or_else(|| {
            refuse!(
                ESRCH,
                "the VMM is exiting; its guest has no memory any more"
            )
        })?;

        // All that can be made ready is made ready before the guest stands still.
        let mut vcpus = KVVec::<FrozenVcpu>::with_capacity(vm.vcpus().count(), GFP_KERNEL)?;
        let mut slots = Memslots::read(vm)?;
        let prepared = Prepared::new(
            &parameters.wanted,
            slots.as_slice(),
            parameters.threads,
            parameters.max_pause.is_some(),
        )?;
        let memory = BorrowedAddressSpace::take_on(thread, mm);
        let no_io = NoIo::begin();

        let freeze = self.freeze(vm, watch, &memory, true);
        let freeze = freeze.map_err(explain_freeze)?;
        let frozen_after = freeze.took();
        for vcpu in vm.vcpus() {
            if let Some(frozen) = freeze.vcpu(vcpu) {
                vcpus.push(frozen, GFP_KERNEL)?;
            }
        }
        slots.read_again(vm)?;
        let map = Map::new(target.vm.clone(), slots);
        let search = Search::new(map, parameters.wanted.clone(), prepared)?;
        let killed = || process::is_dying(process);
        let stop = || memory.thread().should_stop() || killed();
        let mut pauses = Pauses::default();
        let searched = self.search(freeze, watch, &search, &memory, &stop, &mut pauses);
        drop(no_io);

        let counted = searched.and_then(|()| search.count(&memory.memory(), &stop));
        let result = match counted {
            Ok(()) if search.slots_have_changed() => "memslots_changed",
            Ok(()) if search.with_findings(|findings, _| findings.left.is_some()) => "time_up",
            Ok(()) if search.has_uncovered() => "changed",
            Ok(()) => "ok",
            Err(Interrupted::Stopped { .. }) if killed() => "vmm_killed",
            Err(Interrupted::Stopped { .. }) => return Err(EINTR),
            Err(Interrupted::Error(error)) => return Err(error),
        };
        // If the VMM is exiting its memory shall not have to wait for the log.
        drop(memory);

        Report {
            pid: parameters.pid,
            vm_fd: target.fd,
            vcpus: &vcpus,
            search: &search,
            wanted: &parameters.wanted,
            result,
            freeze: frozen_after,
            pauses,
        }
        .print(|| thread.should_stop());
        Ok(())
    }

    /// Brings `vm` to a stop, or tells why it cannot be.
    fn freeze<'a>(
        &self,
        vm: &'a Vm,
        watch: &'a Watch,
        memory: &BorrowedAddressSpace<'_>,
        tell: bool,
    ) -> Result<Freeze<'a>> {
        let timeout = match self.parameters.max_pause {
            Some(most) if most < self.parameters.freeze_timeout => most,
            _ => self.parameters.freeze_timeout,
        };
        Freeze::begin(vm, watch, memory.thread(), timeout, tell)
    }

    /// Searches memory, in this pause and, if that may not take so long, in some more, between which
    /// the guest runs for as long as it stood.
    ///
    /// What has changed by the time that all was searched is searched again, as often as
    /// [`MOST_ROUNDS`] says.
    fn search(
        &self,
        freeze: Freeze<'_>,
        watch: &Watch,
        search: &Arc<Search>,
        memory: &BorrowedAddressSpace<'_>,
        stop: &dyn Fn() -> bool,
        pauses: &mut Pauses,
    ) -> Result<(), Interrupted> {
        let reach = memory.memory();
        let mut progress = self.search_in(freeze, search, memory, stop, pauses)?;
        let (mut rounds, mut in_vain) = (0, 0);
        loop {
            if search.slots_have_changed() {
                return Ok(());
            }
            match progress {
                Progress::Complete if pauses.count == 1 => return Ok(()),
                Progress::Complete => {
                    search.compare(&reach, stop)?;
                    if rounds == MOST_ROUNDS || !search.has_uncovered() {
                        return Ok(());
                    }
                    rounds += 1;
                    in_vain = 0;
                }
                Progress::Some => in_vain = 0,
                Progress::None if in_vain == MOST_IN_VAIN => return Ok(()),
                Progress::None => in_vain += 1,
            }
            if progress != Progress::Complete && self.stop.wait_timeout(pauses.last) {
                return Err(Interrupted::Stopped { page: 0 });
            }
            // One that fails is not the last one.
            progress = match self.freeze(search.map().vm(), watch, memory, false) {
                Ok(freeze) => self.search_in(freeze, search, memory, stop, pauses)?,
                // It was kept from running for some time, and all go on.
                Err(error) if error == ETIMEDOUT => Progress::None,
                Err(error) => return Err(error.into()),
            };
        }
    }

    /// Searches memory in one pause, and ends that.
    fn search_in(
        &self,
        freeze: Freeze<'_>,
        search: &Arc<Search>,
        memory: &BorrowedAddressSpace<'_>,
        stop: &dyn Fn() -> bool,
        pauses: &mut Pauses,
    ) -> Result<Progress, Interrupted> {
        search.begin_pause(freeze.since(), self.parameters.max_pause);
        if !self.parameters.wanted.patterns.is_empty() {
            freeze.call(search);
        }
        let progress = search.run(&memory.memory(), stop);
        pauses.add(freeze.end());
        progress
    }
}

fn explain_probe(error: Error) -> Error {
    if error == EBUSY {
        refuse!(
            error,
            "somebody else redirects kvm_vcpu_ioctl, a live patch perhaps; remove that first"
        )
    } else if error == EOPNOTSUPP {
        refuse!(
            error,
            "kvm_vcpu_ioctl cannot be redirected; use a kernel with CONFIG_KPROBES_ON_FTRACE"
        )
    } else if error == ENODEV {
        refuse!(
            error,
            "kprobes are turned off; write 1 to /sys/kernel/debug/kprobes/enabled"
        )
    } else if error == ENOMEM {
        error
    } else {
        refuse!(
            error,
            "the probe on kvm_vcpu_ioctl cannot be set ({error:?}); see what the kernel log says \
             about kprobes or ftrace"
        )
    }
}

fn explain_freeze(error: Error) -> Error {
    if error == ETIMEDOUT {
        refuse!(
            error,
            "not all vCPUs stopped in time, all go on; try again, or raise freeze_timeout_ms= \
             (and max_pause_ms=)"
        )
    } else {
        error
    }
}
