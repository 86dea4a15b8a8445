// SPDX-License-Identifier: GPL-2.0

//! A session: what one open file of the device is about.
//!
//! Its calls are done by a thread of its own ([`super::worker`]), which can use the address space
//! of the VMM, and can hold the guest between two calls. A call owns all that it needs. So its
//! caller can be killed meanwhile, and the thread ends it in peace.
//!
//! Lock order: `Session::vm`, then `Shared::state`; nothing is taken under the latter.

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        CondVar,
        Mutex,
        SetOnce, //
    },
    time::msecs_to_jiffies, //
};

use super::{
    context::Context,
    found::Found, //
};
use crate::{
    error::{
        explain_memory,
        refuse, //
    },
    linux::{
        completion::Completion,
        kernels::{
            ENODATA,
            ENOTCONN, //
        },
        kthread::OnKthread,
        log::{
            self,
            Lines,
            Listener, //
        }, //
    },
    progress::Progress,
    request::Late,
    scan::digest::Key, //
};

/// One open file of the device.
#[pin_data]
pub(super) struct Session {
    #[pin]
    vm: Mutex<OfVm>,
    shared: Arc<Shared>,
}

/// What a session has of a VM.
enum OfVm {
    /// Nothing.
    None,
    /// A call is about to give it one.
    Coming,
    /// The thread that works on it. The drop ends it.
    Thread { _thread: Arc<dyn Thread> },
}

/// The right to give a session its VM; the drop gives it up.
pub(super) struct Attaching<'a>(&'a Session);

impl Attaching<'_> {
    /// Gives the session its VM, by the thread that works on it.
    pub(super) fn finish(self, thread: Arc<dyn Thread>) {
        *self.0.vm.lock() = OfVm::Thread { _thread: thread };
    }
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        let mut vm = self.0.vm.lock();
        if matches!(*vm, OfVm::Coming) {
            *vm = OfVm::None;
        }
    }
}

/// The thread that does the calls of a session, until this is dropped.
pub(super) trait Thread: Send + Sync {}

/// What a session shares with its thread.
#[pin_data]
pub(super) struct Shared {
    /// Why the last call that failed did so.
    pub(super) lines: Arc<Lines>,
    /// How far the present call has got.
    pub(super) progress: Arc<Progress>,
    /// With what the digests of this session are made.
    pub(super) key: Arc<KBox<Key>>,
    #[pin]
    state: Mutex<State>,
    /// Notified when a field of `state` has changed.
    #[pin]
    changed: CondVar,
}

struct State {
    /// Somebody's call is being done.
    is_busy: bool,
    /// A call that the thread has not seen yet.
    next: Option<Next>,
    /// What the last search has found.
    found: Option<Arc<Found>>,
}

/// What the thread is to do.
pub(super) enum Next {
    /// A call that leaves the guest as it is, held or not.
    Call(Arc<dyn Call>),
    /// To hold the guest, or to hold it for longer.
    Hold(Arc<Request<Hold>>),
    /// To let it go on.
    Release(Arc<Request<Release>>),
    /// Nothing has come in time.
    Nothing,
}

/// To hold the guest.
pub(super) struct Hold {
    /// For how long.
    pub(super) lease_ms: u32,
    /// How long to wait for all vCPUs to stop.
    pub(super) freeze_timeout_ms: u32,
    /// What to do then.
    pub(super) late: Late,
    /// How long it took until they had stopped, in nanoseconds.
    pub(super) freeze_ns: u64,
}

/// To let it go on.
#[derive(Default)]
pub(super) struct Release {
    /// How long it stood, in nanoseconds.
    pub(super) pause_ns: u64,
    /// The lease had ended before.
    pub(super) is_expired: bool,
}

/// One call, as the thread sees it.
pub(super) trait Call: Send + Sync {
    /// Does it.
    ///
    /// # Errors
    ///
    /// Its own, after a line that says why.
    fn run(&self, context: &mut Context<'_>) -> Result;

    /// Returns what its caller waits for.
    fn ticket(&self) -> &Ticket;
}

/// What a call does, and what comes of it.
pub(super) trait Job: Send + Unpin + 'static {
    /// Does it.
    ///
    /// # Errors
    ///
    /// Its own, after a line that says why.
    fn run(&mut self, context: &mut Context<'_>) -> Result;
}

/// What a caller and the thread know of a call.
#[pin_data]
pub(super) struct Ticket {
    /// Complete when the call is done.
    #[pin]
    done: Completion,
    /// Complete when the call is to end early.
    #[pin]
    pub(super) cancel: Completion,
    result: SetOnce<Result>,
    /// What takes the lines of the thread that makes the call.
    lines: Option<Arc<Lines>>,
}

/// A call.
#[pin_data]
pub(super) struct Request<J> {
    #[pin]
    ticket: Ticket,
    #[pin]
    job: Mutex<J>,
}

impl<J: Send + Unpin> Request<J> {
    fn new(job: J) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                ticket <- pin_init!(Ticket {
                    done <- Completion::new(),
                    cancel <- Completion::new(),
                    result: SetOnce::new(),
                    lines: log::listening(),
                }),
                job <- new_mutex!(job, "kvm_inspect::Request::job"),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns what its caller waits for.
    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Calls `work` with what the call does.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut J) -> R) -> R {
        work(&mut self.job.lock())
    }
}

impl<J: Job> Call for Request<J> {
    fn run(&self, context: &mut Context<'_>) -> Result {
        self.with(|job| job.run(context))
    }

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

impl Session {
    /// Creates a session without a VM.
    pub(super) fn new(key: Arc<KBox<Key>>, lines: Arc<Lines>) -> Result<Pin<KBox<Self>>> {
        let progress = Arc::new(Progress::new(), GFP_KERNEL)?;
        let state = State {
            is_busy: false,
            next: None,
            found: None,
        };
        let shared = Arc::pin_init(
            pin_init!(Shared {
                lines,
                progress,
                key,
                state <- new_mutex!(state, "kvm_inspect::Shared::state"),
                changed <- new_condvar!("kvm_inspect::Shared::changed"),
            }),
            GFP_KERNEL,
        )?;
        KBox::pin_init(
            pin_init!(Self {
                vm <- new_mutex!(OfVm::None, "kvm_inspect::Session::vm"),
                shared,
            }),
            GFP_KERNEL,
        )
    }

    /// Makes a call. If it fails, its lines are those that say why the last call failed.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub(super) fn explaining<R>(&self, call: impl FnOnce() -> Result<R>) -> Result<R> {
        let lines = Arc::pin_init(Lines::new(), GFP_KERNEL)?;
        let listener = Listener::begin(lines.clone());
        let result = call().map_err(explain_memory);
        drop(listener);
        if result.is_err() {
            self.shared.lines.set(&lines);
        }
        result
    }

    /// Returns what it shares with its thread.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Begins to give the session its VM.
    ///
    /// # Errors
    ///
    /// `EBUSY`: it has one, or another call is about to give it one.
    pub(super) fn begin_attach(&self) -> Result<Attaching<'_>> {
        let mut vm = self.vm.lock();
        if !matches!(*vm, OfVm::None) {
            return Err(EBUSY);
        }
        *vm = OfVm::Coming;
        Ok(Attaching(self))
    }

    /// Returns what the last search has found.
    ///
    /// # Errors
    ///
    /// `ENODATA`, after a line that says so: there was none.
    pub(super) fn found(&self) -> Result<Arc<Found>> {
        let found = self.shared.state.lock().found.clone();
        found.ok_or_else(|| {
            refuse!(
                ENODATA,
                "nothing was searched yet; call KVM_INSPECT_SEARCH first"
            )
        })
    }

    /// Returns whether the session has a VM.
    pub(super) fn is_attached(&self) -> bool {
        matches!(*self.vm.lock(), OfVm::Thread { .. })
    }

    /// Has the thread do a job, and returns what has become of it.
    ///
    /// # Errors
    ///
    /// Those of the job. `ENOTCONN`: the session has no VM. `ERESTARTNOHAND`: the caller has a
    /// signal, and the job was ended early. `EINTR`: the caller is being killed. `ENOMEM`.
    pub(super) fn call<J: Job>(&self, job: J) -> Result<Arc<Request<J>>> {
        let request = Request::new(job)?;
        self.post(Next::Call(request.clone()), &request.ticket)?;
        Ok(request)
    }

    /// As [`Self::call`], to hold the guest.
    pub(super) fn hold(&self, hold: Hold) -> Result<u64> {
        let request = Request::new(hold)?;
        self.post(Next::Hold(request.clone()), &request.ticket)?;
        Ok(request.with(|hold| hold.freeze_ns))
    }

    /// As [`Self::call`], to let it go on.
    pub(super) fn release(&self) -> Result<Release> {
        let request = Request::new(Release::default())?;
        self.post(Next::Release(request.clone()), &request.ticket)?;
        Ok(request.with(core::mem::take))
    }

    fn post(&self, next: Next, ticket: &Ticket) -> Result {
        if !self.is_attached() {
            return Err(refuse!(
                ENOTCONN,
                "the session has no VM; call KVM_INSPECT_ATTACH first"
            ));
        }
        let shared = &self.shared;
        let mut state = shared.state.lock();
        while state.is_busy {
            if shared.changed.wait_interruptible(&mut state) {
                return Err(ERESTARTSYS);
            }
        }
        state.is_busy = true;
        state.next = Some(next);
        drop(state);
        shared.changed.notify_all();
        if ticket.done.wait_interruptible().is_ok() {
            return ticket.result();
        }
        ticket.cancel.complete_all();
        shared.changed.notify_all();
        // The thread ends it soon. If it does not, the caller can at least be killed.
        ticket.done.wait_killable().map_err(|_| EINTR)?;
        match ticket.result() {
            Err(error) if error == EINTR => Err(ERESTARTNOHAND),
            result => result,
        }
    }
}

impl Ticket {
    /// Has the lines of the current thread go to the caller, until the result is dropped.
    pub(super) fn listen(&self) -> Option<Listener> {
        self.lines.clone().map(Listener::begin)
    }

    fn result(&self) -> Result {
        self.result.copy().unwrap_or(Err(EINTR))
    }
}

impl Shared {
    /// Waits, in the thread of the session, for what to do, at most so many milliseconds.
    pub(super) fn wait(&self, thread: &OnKthread, milliseconds: u32) -> Next {
        let mut state = self.state.lock();
        if state.next.is_none() && !thread.should_stop() {
            let jiffies = msecs_to_jiffies(milliseconds);
            let _ = self.changed.wait_interruptible_timeout(&mut state, jiffies);
        }
        state.next.take().unwrap_or(Next::Nothing)
    }

    /// Notes that a call is done, and lets the next one begin.
    pub(super) fn finish(&self, ticket: &Ticket, result: Result) {
        ticket.result.populate(result);
        self.state.lock().is_busy = false;
        ticket.done.complete_all();
        self.changed.notify_all();
    }

    /// Keeps what a search has found, until the next one.
    pub(super) fn keep(&self, found: Arc<Found>) {
        let before = self.state.lock().found.replace(found);
        drop(before);
    }
}
