// SPDX-License-Identifier: GPL-2.0

//! A process that runs a vCPU of this process's VM, and can be killed alone.

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

/// Its exit codes after an `EINTR` without a signal, and after an exit from the guest.
const INTERRUPTED: c_int = 1;
const LEFT: c_int = 2;

/// The process. It shares memory and files with this one, as a thread does, but is none of its
/// threads. It only calls `KVM_RUN` of a vCPU that halts.
pub(super) struct Lone {
    pid: Pid,
    is_gone: bool,
    /// Its stack.
    _stack: Box<[u128]>,
}

impl Lone {
    /// Starts it. The vCPU must stay open until it has ended.
    pub(super) fn start(vcpu: &VcpuFd) -> Self {
        let mut stack = vec![0_u128; 4096].into_boxed_slice();
        let file = ptr::without_provenance_mut(usize::try_from(vcpu.as_raw_fd()).expect("open"));
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD;
        // SAFETY: The stack is aligned, and kept until the process has ended. `run` does nothing
        // that needs a thread of its own.
        let pid = unsafe { libc::clone(run, stack.as_mut_ptr_range().end.cast(), flags, file) };
        let pid = Pid::from_raw(pid).filter(|_| pid > 0);
        Self {
            pid: pid.unwrap_or_else(|| panic!("clone: {}", io::Error::last_os_error())),
            is_gone: false,
            _stack: stack,
        }
    }

    /// Returns its number.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Kills it, and waits until it is gone. Nothing else may have disturbed it before.
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
        // It may have ended already, but nobody else has its number yet.
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

/// The process's function. It shares what belongs to a thread, such as `errno`, with the thread
/// that started it. So it makes system calls only, and does not use libc for them.
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
