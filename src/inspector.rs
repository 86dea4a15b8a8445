// SPDX-License-Identifier: GPL-2.0

//! The thread that inspects: the first time for `insmod`, and again after each interval.

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
    error::{
        self,
        refuse, //
    },
    freeze,
    hook::{
        Armed,
        Watched,
        MAX_VMS, //
    },
    inspect::{
        Guest,
        Inspection, //
    },
    kvm,
    linux::{
        completion::Completion,
        kthread::{
            Kthread,
            OnKthread,
            Work, //
        },
        task::{
            self,
            Process, //
        }, //
    },
    progress::Progress,
    report,
    request::Request,
    target::{
        self,
        Target, //
    }, //
};

/// With an interval of this or more there is no probe between inspections, and a VM that is not
/// being inspected costs nothing. To remove the probe and set it anew takes a few milliseconds.
const LONG_INTERVAL: Delta = Delta::from_secs(1);

/// The thread that does the inspections, until this is dropped.
pub(crate) struct Inspector {
    unload: Arc<Completion>,
    _thread: Kthread<Inspections>,
}

impl Inspector {
    /// Does the first inspection, with its report, and starts the next ones if the user asks for
    /// them.
    ///
    /// # Errors
    ///
    /// What kept the first inspection from being done, after a line that says so. `EINTR`: the
    /// caller is being killed.
    pub(crate) fn start(mut request: Request) -> Result<Self> {
        let pid = request.pid;
        // Looked up here, because the number is one of the caller's PID namespace.
        let process = Process::find(pid).map_err(|error| {
            refuse!(
                error,
                "there is no process {pid}; give the process number of the VMM as pid="
            )
        })?;
        // It may have been that of a thread.
        request.pid = process.number();
        kvm::bind()?;
        let first = Arc::pin_init(First::new(), GFP_KERNEL)?;
        let unload = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let inspections = Inspections {
            request,
            process,
            first: first.clone(),
            unload: unload.clone(),
            progress: Arc::new(Progress::new(), GFP_KERNEL)?,
        };
        let this = Self {
            unload,
            _thread: Kthread::spawn(c"kvm_inspect", inspections)?,
        };
        first.wait()?;
        Ok(this)
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        // This ends the thread's sleep. `Kthread` then stops it wherever it is, and waits for it.
        self.unload.complete_all();
    }
}

/// The result of the first inspection, which `insmod` waits for.
#[pin_data]
struct First {
    #[pin]
    done: Completion,
    result: SetOnce<Result>,
}

impl First {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            done <- Completion::new(),
            result: SetOnce::new(),
        })
    }

    /// Makes the result known. Returns whether it was the first one.
    fn settle(&self, result: Result) -> bool {
        let is_first = self.result.populate(result);
        self.done.complete_all();
        is_first
    }

    fn wait(&self) -> Result {
        self.done.wait_killable().map_err(|_| EINTR)?;
        self.result.copy().unwrap_or(Err(EINTR))
    }
}

/// The work of the thread.
struct Inspections {
    request: Request,
    process: Process,
    first: Arc<First>,
    unload: Arc<Completion>,
    progress: Arc<Progress>,
}

impl Work for Inspections {
    fn run(self, mut thread: OnKthread) {
        let result = self.all(&mut thread);
        if !self.settle(result) && result.is_err() {
            pr_warn!("there will be no more inspections; unload the module\n");
        }
    }
}

impl Inspections {
    /// Does all inspections. Returns the result of the last one, unless it is settled already.
    fn all(&self, thread: &mut OnKthread) -> Result {
        // Before the hook: most mistakes show here.
        let (mut process, mut targets) = self.find()?;
        if targets.is_empty() {
            return Err(target::explain_none(self.request.vm_fd, self.request.pid));
        }
        loop {
            let armed = Armed::get().inspect_err(|_| target::release(&mut targets, thread))?;
            let mut watched = KVec::with_capacity(MAX_VMS, GFP_KERNEL)?;
            let interval = loop {
                let result = self.one(&process, &targets, &mut watched, thread);
                // VMs that come and go while this sleeps are found, or not, the next time. None is
                // kept from going.
                target::release(&mut targets, thread);
                let Some(interval) = self.request.interval else {
                    return result;
                };
                self.settle(result);
                if interval >= LONG_INTERVAL {
                    break interval;
                }
                if self.unload.wait_timeout(interval) {
                    return Ok(());
                }
                (process, targets) = self.find()?;
                if targets.is_empty() {
                    break interval;
                }
            };
            drop(watched);
            drop(armed);
            if targets.is_empty() && interval < LONG_INTERVAL {
                // Already waited. The VMM may be about to make a new VM.
                self.say_none();
            }
            let mut none_said = interval < LONG_INTERVAL;
            loop {
                if self.unload.wait_timeout(interval) {
                    return Ok(());
                }
                (process, targets) = self.find()?;
                if !targets.is_empty() {
                    break;
                }
                if !none_said {
                    self.say_none();
                    none_said = true;
                }
            }
        }
    }

    fn say_none(&self) {
        pr_info!(
            "process {} has no VM now; the next inspection is when it has one\n",
            self.request.pid
        );
    }

    /// Tells `insmod` how the first inspection ended, and the kernel log how a later one did.
    /// Returns whether it was the first.
    fn settle(&self, result: Result) -> bool {
        let is_first = self.first.settle(result);
        if !is_first {
            let _ = result.map_err(error::explain_memory);
        }
        is_first
    }

    /// Finds what to inspect now, and the VMM's process.
    fn find(&self) -> Result<(ARef<Task>, KVec<Target>)> {
        target::check_lockdown()?;
        let pid = self.request.pid;
        let process = self.process.task().ok();
        let process = process.filter(|process| !task::is_dying(process));
        let process = process.ok_or_else(|| {
            refuse!(
                ESRCH,
                "there is no process {pid} any more; give the number of one that runs"
            )
        })?;
        let targets = target::find(self.request.vm_fd, &process)?;
        Ok((process, targets))
    }

    /// Inspects each target once, and prints the reports.
    fn one(
        &self,
        process: &Task,
        targets: &[Target],
        watched: &mut KVec<Watched>,
        thread: &mut OnKthread,
    ) -> Result {
        // A VM stays watched from one inspection to the next: its threads then come through the
        // hook.
        watched.retain(|watch| targets.iter().any(|target| watch.is_of(&target.vm)));
        let mut result = Ok(());
        for target in targets {
            let known = watched.iter().position(|watch| watch.is_of(&target.vm));
            let index = match known {
                Some(index) => index,
                None => {
                    watched.push(Watched::begin(&target.vm)?, GFP_KERNEL)?;
                    watched.len().saturating_sub(1)
                }
            };
            let watch = watched.get(index).ok_or(EINVAL)?;
            let inspection = Inspection {
                request: &self.request,
                process,
                target,
                guest: Guest::Runs(watch),
                cancel: &self.unload,
                progress: &self.progress,
            };
            let inspected = inspection.run(thread);
            let stop = || thread.should_stop() || task::is_dying(process);
            freeze::await_kicked(&target.vm, watch, &stop);
            match inspected {
                Ok(outcome) => report::print(&outcome, || thread.should_stop()),
                Err(error) if error == EINTR => return Err(error),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}
