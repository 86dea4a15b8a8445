// SPDX-License-Identifier: GPL-2.0

//! A thread of a VMM that writes lies into a `kvm_run` page all the time.

use std::{
    os::fd::BorrowedFd,
    ptr,
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        Arc,
    },
    thread::{self, JoinHandle},
};

use kvm_bindings::{kvm_regs, kvm_run, kvm_sregs};
use rustix::mm::{mmap, MapFlags, ProtFlags};

/// What every register is said to be.
const LIE: u64 = 0x4141_4141_4141_4141;

/// A mapping of a vCPU's `kvm_run` page, which stays for good.
#[derive(Clone, Copy)]
pub(super) struct RunPage(usize);

impl RunPage {
    /// Maps the page once more.
    pub(super) fn map(vcpu: BorrowedFd<'_>) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let len = size_of::<kvm_run>();
        // SAFETY: A new mapping.
        let page = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, vcpu, 0) };
        Self(page.expect("the page can be mapped twice") as usize)
    }

    fn as_ptr(self) -> *mut kvm_run {
        self.0 as *mut kvm_run
    }

    pub(super) fn flags(self) -> u16 {
        // SAFETY: The page stays mapped, and any bytes are valid in it.
        unsafe { (&raw const (*self.as_ptr()).flags).read_volatile() }
    }

    pub(super) fn set_flags(self, flags: u16) {
        // SAFETY: As above.
        unsafe { (&raw mut (*self.as_ptr()).flags).write_volatile(flags) };
    }
}

/// The thread, which ends when this is dropped.
pub(crate) struct Forger {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forger {
    /// Starts the thread, with a mapping of its own of the page of this vCPU.
    pub(super) fn start(vcpu: BorrowedFd<'_>) -> Self {
        let page = RunPage::map(vcpu);
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let page = page.as_ptr();
            let regs = kvm_regs {
                rip: LIE,
                rflags: LIE,
                rax: LIE,
                rsp: LIE,
                ..kvm_regs::default()
            };
            let sregs = kvm_sregs {
                cr3: LIE,
                efer: LIE,
                ..kvm_sregs::default()
            };
            while !stopped.load(SeqCst) {
                // SAFETY: The page stays mapped, and any bytes are valid in it.
                unsafe {
                    (&raw mut (*page).kvm_valid_regs).write_volatile(0);
                    (&raw mut (*page).immediate_exit).write_volatile(0);
                    (&raw mut (*page).s.regs.regs).write_volatile(regs);
                    (&raw mut (*page).s.regs.sregs).write_volatile(sregs);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}
