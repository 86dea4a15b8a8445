// SPDX-License-Identifier: GPL-2.0

//! Tracing a thread of another process, as a debugger does.

use std::{io, mem::MaybeUninit, ptr};

/// A traced thread, until this is dropped.
pub(crate) struct Tracer(libc::pid_t);

impl Tracer {
    /// Begins to trace a thread, which runs on.
    pub(crate) fn seize(thread: libc::pid_t) -> Self {
        let this = Self(thread);
        this.request(libc::PTRACE_SEIZE, ptr::null_mut());
        this
    }

    /// Stops it, and waits until it has stopped.
    pub(crate) fn interrupt(&self) {
        self.request(libc::PTRACE_INTERRUPT, ptr::null_mut());
        assert!(self.waits(0), "it stops");
    }

    /// Returns whether it has stopped by itself.
    pub(crate) fn has_stopped(&self) -> bool {
        self.waits(libc::WNOHANG)
    }

    fn waits(&self, options: libc::c_int) -> bool {
        let mut status = 0;
        // SAFETY: `status` is valid for writing.
        let result = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL | options) };
        if result == 0 {
            return false;
        }
        assert_eq!(result, self.0, "waitpid: {}", io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "status {status:#x}");
        true
    }

    /// Returns its registers. It must be stopped.
    pub(crate) fn registers(&self) -> libc::user_regs_struct {
        let mut registers = MaybeUninit::uninit();
        self.request(libc::PTRACE_GETREGS, registers.as_mut_ptr());
        // SAFETY: The request was successful, and has filled them in.
        unsafe { registers.assume_init() }
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.request(libc::PTRACE_CONT, ptr::null_mut());
    }

    /// Lets it go on, until it begins or ends a system call.
    pub(crate) fn go_on_to_system_call(&self) {
        self.request(libc::PTRACE_SYSCALL, ptr::null_mut());
    }

    /// Lets it do one instruction, or one system call. It must be stopped, and is again.
    pub(crate) fn step(&self) {
        self.request(libc::PTRACE_SINGLESTEP, ptr::null_mut());
        assert!(self.waits(0), "it stops");
    }

    /// Returns eight bytes of its memory. It must be stopped.
    pub(crate) fn peek(&self, address: u64) -> [u8; 8] {
        // SAFETY: This reads memory of the traced process alone, at any address.
        let word = unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, self.0, address, 0) };
        word.to_ne_bytes()
    }

    fn request(&self, request: libc::c_uint, data: *mut libc::user_regs_struct) {
        // SAFETY: `data` is valid for the only request that writes to it.
        let result = unsafe { libc::ptrace(request, self.0, 0, data) };
        let error = io::Error::last_os_error();
        assert_eq!(
            result, 0,
            "ptrace {request:#x} of thread {}: {error}",
            self.0
        );
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.interrupt();
        self.request(libc::PTRACE_DETACH, ptr::null_mut());
    }
}
