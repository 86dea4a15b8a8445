// SPDX-License-Identifier: GPL-2.0

//! A process that runs a vCPU of this one's VM, and can be killed alone.

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
};

use kvm_ioctls::VcpuFd;
use rustix::{
    io::Errno,
    ioctl::{ioctl, opcode, NoArg, Opcode},
    process::{kill_process, waitpid, Pid, Signal, WaitOptions},
};

/// `_IO(KVMIO, 0x80)`.
const KVM_RUN: Opcode = opcode::none(0xae, 0x80);

/// Its exit code if it sees an `EINTR`, which nobody has sent it a signal for, and if the guest leaves.
const INTERRUPTED: c_int = 1;
const LEFT: c_int = 2;

/// The process: it has the memory and the files of this one, as its threads do, but is none of them. It
/// does nothing but call `KVM_RUN` of a vCPU that halts.
pub(super) struct Lone {
    pid: Pid,
    is_gone: bool,
    /// What it works on.
    _stack: Box<[u128]>,
}

impl Lone {
    /// Starts it. The vCPU stays open until it has ended.
    pub(super) fn start(vcpu: &VcpuFd) -> Self {
        let mut stack = vec![0_u128; 4096].into_boxed_slice();
        let file = ptr::without_provenance_mut(usize::try_from(vcpu.as_raw_fd()).expect("open"));
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD;
        // SAFETY: The stack, which is aligned, is kept until the process has ended. `run` does nothing
        // that would need a thread of its own.
        let pid = unsafe { libc::clone(run, stack.as_mut_ptr_range().end.cast(), flags, file) };
        let pid = Pid::from_raw(pid).filter(|_| pid > 0);
        Self {
            pid: pid.unwrap_or_else(|| panic!("clone: {}", io::Error::last_os_error())),
            is_gone: false,
            _stack: stack,
        }
    }

    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Kills it, and waits until it is gone. That must be the first thing to disturb it.
    pub(super) fn kill(mut self) {
        let status = self.end().expect("it is a child of this process");
        assert_eq!(
            (status.exit_status(), status.terminating_signal()),
            (None, Some(libc::SIGKILL)),
            "the process that runs a vCPU has ended by itself"
        );
    }

    fn end(&mut self) -> io::Result<rustix::process::WaitStatus> {
        self.is_gone = true;
        // It may have ended already, but its number is its own until now.
        let _ = kill_process(self.pid, Signal::KILL);
        let ended = waitpid(Some(self.pid), WaitOptions::empty())?;
        ended
            .map(|(_, status)| status)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        if !self.is_gone {
            let _ = self.end();
        }
    }
}

/// What the process does. It shares with the thread that has started it what belongs to a thread, such as
/// `errno`: so it makes system calls and nothing else, and those not by way of libc.
extern "C" fn run(file: *mut c_void) -> c_int {
    let file = RawFd::try_from(file.addr()).unwrap_or(RawFd::MAX);
    // SAFETY: The file stays open until the process has ended.
    let vcpu = unsafe { BorrowedFd::borrow_raw(file) };
    // SAFETY: `KVM_RUN` takes no argument.
    match unsafe { ioctl(vcpu, NoArg::<KVM_RUN>::new()) } {
        Err(Errno::INTR) => INTERRUPTED,
        _ => LEFT,
    }
}
