// SPDX-License-Identifier: GPL-2.0

//! The ways in which a VMM may use `KVM_RUN`. An inspection must not disturb any of them.

use std::{
    ffi::{c_char, c_int},
    mem, ptr,
    sync::Arc,
    thread,
    time::Duration,
};

use kvm_bindings::{kvm_regs, kvm_signal_mask, KVMIO, KVM_EXIT_INTR};
use kvm_ioctls::{SyncReg, VcpuFd};
use rustix::{event::epoll, io::Errno};
use vmm_sys_util::{ioctl::ioctl_with_ptr, ioctl_iow_nr, signal::SIGRTMIN};

use super::ring::{Event, Ring};

ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, kvm_signal_mask);

/// [`Manner::ImmediateExit`] makes one call in this many without entering the guest.
const IMMEDIATE_EXIT_EACH: u64 = 7;

/// The contents of the sync area if the VMM does not use it.
const FILLER: c_char = 0x43;

/// A way to use `KVM_RUN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As most VMMs do: it uses the exits only. The sync area is its own, and must stay as it is.
    Plain,
    /// KVM stores the registers on each return (`kvm_valid_regs`), and takes them on each entry
    /// (`kvm_dirty_regs`).
    SyncRegs,
    /// It sets `immediate_exit` now and then.
    ImmediateExit,
    /// Signals reach it at any time. It calls again after each.
    Handled,
    /// As [`Self::Handled`], and another thread uses its `kvm_run` page, too.
    Shared,
    /// A signal reaches it in `KVM_RUN` only, because of `KVM_SET_SIGNAL_MASK`. It takes each one.
    SignalMask,
    /// It waits for events in `KVM_RUN`: a completion of its `io_uring` ends the call. It takes
    /// each one.
    Ring,
    /// In user space its thread waits in `epoll_wait`, which nothing may interrupt.
    Polls,
}

/// Returns the signal of [`Manner::SignalMask`]. Signals of this kind are queued: none is lost.
pub(crate) fn masked_signal() -> c_int {
    SIGRTMIN() + 1
}

/// The state of a thread that uses `KVM_RUN` in one of these ways.
pub(super) struct Conduct {
    manner: Manner,
    calls: u64,
    /// The value of R15 before [`Manner::SyncRegs`] changed it.
    first_r15: u64,
    event: Arc<Event>,
    ring: Option<Ring>,
}

impl Conduct {
    pub(super) fn new(manner: Manner) -> Self {
        Self {
            manner,
            calls: 0,
            first_r15: 0,
            event: Arc::new(Event::new()),
            ring: None,
        }
    }

    /// Returns what the thread waits for ([`Manner::Ring`]).
    pub(super) fn event(&self) -> Arc<Event> {
        self.event.clone()
    }

    /// Prepares the thread.
    pub(super) fn begin(&mut self, fd: &mut VcpuFd) {
        match self.manner {
            Manner::Plain => fill(fd),
            Manner::SignalMask => {
                block(masked_signal());
                let_all_in(fd);
            }
            Manner::SyncRegs => self.first_r15 = registers(fd).r15,
            Manner::Ring => self.ring = Some(Ring::new(self.event())),
            Manner::ImmediateExit | Manner::Handled | Manner::Shared | Manner::Polls => (),
        }
    }

    /// Waits in user space, for a short time or until a signal comes. Returns whether nothing has
    /// interrupted that.
    pub(super) fn wait_outside(&self) -> bool {
        if self.manner != Manner::Polls {
            thread::sleep(Duration::from_millis(1));
            return true;
        }
        let poll = epoll::create(epoll::CreateFlags::empty()).expect("there can be one");
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }];
        epoll::wait(poll, &mut events, None) != Err(Errno::INTR)
    }

    /// Gives the registers back to the guest.
    pub(super) fn end(&self, fd: &mut VcpuFd) {
        if self.manner == Manner::SyncRegs {
            let regs = kvm_regs {
                r15: self.first_r15,
                ..registers(fd)
            };
            fd.set_regs(&regs).expect("the registers can be set");
        }
    }

    /// Prepares a call.
    pub(super) fn before(&mut self, fd: &mut VcpuFd) {
        self.calls += 1;
        match self.manner {
            Manner::SyncRegs => {
                let regs = kvm_regs {
                    r15: self.calls,
                    ..registers(fd)
                };
                for kind in [
                    SyncReg::Register,
                    SyncReg::SystemRegister,
                    SyncReg::VcpuEvents,
                ] {
                    fd.set_sync_valid_reg(kind);
                }
                fd.sync_regs_mut().regs = regs;
                fd.set_sync_dirty_reg(SyncReg::Register);
            }
            Manner::Ring => {
                if let Some(ring) = &mut self.ring {
                    ring.wait_for_event();
                }
            }
            Manner::ImmediateExit if self.wants_out() => fd.set_kvm_immediate_exit(1),
            _ => (),
        }
    }

    /// Checks what a call has left, which was interrupted by `EINTR` or not. Returns whether a
    /// signal of this manner has interrupted it.
    pub(super) fn after(&mut self, fd: &mut VcpuFd, interrupted: bool) -> bool {
        let wants_out = self.manner == Manner::ImmediateExit && self.wants_out();
        let run = fd.get_kvm_run();
        assert_eq!(run.immediate_exit, u8::from(wants_out), "immediate_exit");
        assert_eq!(run.kvm_dirty_regs, 0, "kvm_dirty_regs");
        let valid = if self.manner == Manner::SyncRegs {
            7
        } else {
            0
        };
        assert_eq!(run.kvm_valid_regs, valid, "kvm_valid_regs");
        if interrupted && !wants_out && self.manner != Manner::Shared {
            // Some VMMs do what it says also then, for example kvmtool.
            assert_eq!(run.exit_reason, KVM_EXIT_INTR, "exit_reason");
        }
        match self.manner {
            Manner::Plain => {
                // SAFETY: Any bytes are valid.
                let area = unsafe { &run.s.padding };
                let intact = area.iter().all(|&byte| byte == FILLER);
                assert!(intact, "the sync area was changed");
                false
            }
            Manner::SyncRegs => {
                let stored = fd.sync_regs();
                assert_eq!(stored.regs.r15, self.calls, "what was to be set");
                assert_eq!(Ok(stored.regs), fd.get_regs());
                assert_eq!(Ok(stored.sregs), fd.get_sregs());
                false
            }
            Manner::ImmediateExit => {
                if wants_out {
                    assert!(
                        interrupted,
                        "the guest was entered, though immediate_exit was set"
                    );
                    fd.set_kvm_immediate_exit(0);
                }
                wants_out
            }
            Manner::Handled | Manner::Shared => interrupted,
            Manner::Polls => false,
            Manner::Ring => interrupted && self.ring.as_mut().is_some_and(Ring::take),
            Manner::SignalMask => interrupted && take(masked_signal()),
        }
    }

    fn wants_out(&self) -> bool {
        self.calls % IMMEDIATE_EXIT_EACH == 0
    }
}

fn registers(fd: &VcpuFd) -> kvm_regs {
    fd.get_regs().expect("the registers can be read")
}

fn fill(fd: &mut VcpuFd) {
    let run = fd.get_kvm_run();
    // SAFETY: Any bytes are valid.
    let area = unsafe { &mut run.s.padding };
    area.fill(FILLER);
}

/// Blocks a signal in this thread.
fn block(signal: c_int) {
    let set = set_of(signal);
    // SAFETY: The set is valid.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
    assert_eq!(result, 0, "the signal can be blocked");
}

/// Takes a blocked signal, if there is one.
fn take(signal: c_int) -> bool {
    let set = set_of(signal);
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: The set and the time are valid.
    unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &now) == signal }
}

fn set_of(signal: c_int) -> libc::sigset_t {
    // SAFETY: All zeros is a valid set. The calls make it one with this signal alone.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        set
    }
}

/// Lets KVM block no signal in `KVM_RUN`.
fn let_all_in(fd: &VcpuFd) {
    /// `struct kvm_signal_mask`, with a set of signals in the kernel's format.
    #[repr(C)]
    struct Mask {
        len: u32,
        set: [u8; 8],
    }
    let mask = Mask {
        len: 8,
        set: [0; 8],
    };
    let mask = (&raw const mask).cast::<kvm_signal_mask>();
    // SAFETY: The mask has as many bytes as it says.
    let result = unsafe { ioctl_with_ptr(fd, KVM_SET_SIGNAL_MASK(), mask) };
    assert_eq!(result, 0, "KVM takes the mask");
}
