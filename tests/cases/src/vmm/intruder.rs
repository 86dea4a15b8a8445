// SPDX-License-Identifier: GPL-2.0

//! A second thread for a vCPU, which runs it whenever the guest does not go on.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        Arc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use kvm_bindings::KVMIO;
use vmm_sys_util::{
    ioctl::ioctl,
    ioctl_io_nr,
    signal::{register_signal_handler, Killable, SIGRTMIN},
};

use super::{forger::RunPage, Vcpu};

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);

/// How long the guest must not have gone on: longer than on a busy machine outside a pause.
const STANDS: Duration = Duration::from_millis(50);

/// What is in the `flags` of the page when the thread calls `KVM_RUN`, which clears them at once.
const UNTOUCHED: u16 = 0x4141;

#[derive(Default)]
struct Shared {
    may_run: AtomicBool,
    is_in_call: AtomicBool,
    end: AtomicBool,
    calls: AtomicU64,
}

/// The thread, which ends when this is dropped.
pub(crate) struct Intruder {
    shared: Arc<Shared>,
    page: RunPage,
    thread: Option<JoinHandle<()>>,
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Intruder {
    /// Starts the thread. `count` tells how far the guest is.
    pub(super) fn start(vcpu: OwnedFd, count: impl Fn() -> u64 + Send + 'static) -> Self {
        register_signal_handler(Self::signal(), nothing).expect("the signal is valid");
        let shared = Arc::<Shared>::default();
        let page = RunPage::map(vcpu.as_fd());
        let of_thread = shared.clone();
        let thread = thread::spawn(move || {
            let shared = of_thread;
            while !shared.end.load(SeqCst) {
                let from = count();
                thread::sleep(STANDS);
                shared.is_in_call.store(true, SeqCst);
                if shared.may_run.load(SeqCst) && count() == from {
                    page.set_flags(UNTOUCHED);
                    shared.calls.fetch_add(1, SeqCst);
                    // What it returns is the business of the vCPU's own thread.
                    // SAFETY: It takes no argument.
                    unsafe { ioctl(&vcpu.as_raw_fd(), KVM_RUN()) };
                }
                shared.is_in_call.store(false, SeqCst);
            }
        });
        Self {
            shared,
            page,
            thread: Some(thread),
        }
    }

    /// Returns how often the thread has called.
    pub(crate) fn calls(&self) -> u64 {
        self.shared.calls.load(SeqCst)
    }

    /// Returns whether KVM has dealt with the last call, or with another one since.
    pub(crate) fn has_reached_kvm(&self) -> bool {
        self.page.flags() != UNTOUCHED
    }

    fn signal() -> i32 {
        SIGRTMIN() + 3
    }

    /// Does something while the thread may run the vCPU.
    pub(crate) fn intrude<R>(&self, vcpu: &Vcpu, doing: impl FnOnce() -> R) -> R {
        self.shared.may_run.store(true, SeqCst);
        let result = doing();
        self.shared.may_run.store(false, SeqCst);
        while self.shared.is_in_call.load(SeqCst) {
            let thread = self.thread.as_ref().expect("it is there until the drop");
            // It takes an error for success, but there is none.
            thread.kill(Self::signal()).expect("the thread is there");
            // KVM lets only one run it, and the other waits.
            assert!(vcpu.send_signal(Self::signal()), "the signal is sent");
            thread::sleep(STANDS);
        }
        result
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        self.shared.end.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}
