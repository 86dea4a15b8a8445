// SPDX-License-Identifier: GPL-2.0

//! Why the device refused.

use std::{error, fmt, io};

use rustix::io::Errno;

/// Why a call of the device failed.
///
/// Formatted, it is one line for people: "what is wrong; what to do". It may have bytes of a
/// guest's or a VMM's making, so escape it ([`crate::escape`]) before it reaches a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    errno: Errno,
    line: String,
}

impl Error {
    /// Creates an error with a line of its own.
    #[must_use]
    pub fn new(errno: Errno, line: impl Into<String>) -> Self {
        let line = line.into();
        Self { errno, line }
    }

    /// Returns the error's number: that of the device, or `EPROTO` if its answer makes no sense.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        self.errno
    }

    /// Returns the line for people.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Creates the error of an answer that makes no sense.
    pub(super) fn of_answer(what: &str) -> Self {
        let line = format!("{what}; use the kvm-inspect of the same version as the module");
        Self::new(Errno::PROTO, line)
    }

    /// Creates the error of a call that failed without a line of the module's.
    pub(super) fn of_call(errno: Errno) -> Self {
        let line = match errno {
            Errno::INTR => "a signal ended the call, and the guest goes on; try again",
            Errno::NOTTY => {
                "the module does not know this call; use the kvm-inspect of the same version"
            }
            Errno::SRCH => "the VMM has ended; look for another VM with kvm-inspect list",
            Errno::TIMEDOUT => {
                "not all vCPUs stopped in time; wait longer (--freeze-timeout), or take what can \
                 be had (--late report)"
            }
            Errno::NOMEM => "the kernel has no memory left; ask for less at once",
            Errno::BUSY => "the VM or the session is busy; try again",
            errno => {
                return Self::new(errno, format!("the module refuses: {errno}; see dmesg"));
            }
        };
        Self::new(errno, line)
    }

    /// Creates the error of a device that could not be opened.
    pub(super) fn of_open(errno: Errno, facts: OpenFacts) -> Self {
        let line = match errno {
            Errno::NOENT | Errno::NXIO | Errno::NODEV if facts.is_loaded => {
                "the module is loaded for an inspection by its parameters, without its device; \
                 wait for that to end, rmmod kvm_inspect, then modprobe kvm_inspect"
            }
            Errno::NOENT | Errno::NXIO | Errno::NODEV => {
                "the module is not loaded; load it: modprobe kvm_inspect, or in a checkout insmod \
                 build/native/module/kvm_inspect.ko"
            }
            Errno::PERM if facts.is_locked_down => {
                "kernel lockdown forbids to read memory, in its mode confidentiality; boot \
                 without it"
            }
            Errno::ACCESS => {
                "only root may read and write /dev/kvm_inspect (its mode is 0600); run kvm-inspect \
                 as root"
            }
            Errno::PERM => {
                "this process lacks CAP_SYS_RAWIO; run kvm-inspect as root, outside of a container"
            }
            errno => {
                let line = format!("/dev/kvm_inspect cannot be opened: {errno}; see dmesg");
                return Self::new(errno, line);
            }
        };
        Self::new(errno, line)
    }
}

/// What tells reasons apart for which the device cannot be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OpenFacts {
    /// Whether the module is loaded.
    pub(super) is_loaded: bool,
    /// Whether the kernel's lockdown is in its mode `confidentiality`.
    pub(super) is_locked_down: bool,
}

impl OpenFacts {
    /// Asks the kernel.
    pub(super) fn of_kernel() -> Self {
        let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown");
        Self {
            is_loaded: std::fs::exists("/sys/module/kvm_inspect").unwrap_or(false),
            is_locked_down: lockdown.is_ok_and(|text| text.contains("[confidentiality]")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(Self::from(error.errno).kind(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(errno: Errno, is_loaded: bool, is_locked_down: bool) -> String {
        let facts = OpenFacts {
            is_loaded,
            is_locked_down,
        };
        Error::of_open(errno, facts).to_string()
    }

    #[test]
    fn the_reason_why_the_device_cannot_be_opened_is_named() {
        let not_loaded = line(Errno::NOENT, false, false);
        assert!(not_loaded.starts_with("the module is not loaded; load it: modprobe kvm_inspect"));
        assert!(line(Errno::NOENT, true, false).contains("without its device; "));
        assert!(line(Errno::ACCESS, true, false).contains("0600); run kvm-inspect as root"));
        assert!(line(Errno::PERM, true, false).contains("CAP_SYS_RAWIO; "));
        assert!(line(Errno::PERM, true, true).contains("lockdown"));
    }

    #[test]
    fn each_line_says_what_to_do() {
        for number in 1..134 {
            let errno = Errno::from_raw_os_error(number);
            for line in [line(errno, false, false), Error::of_call(errno).to_string()] {
                assert!(line.contains("; "), "{line}");
                assert!(!line.contains('\n'), "{line}");
            }
        }
    }
}
