// SPDX-License-Identifier: GPL-2.0

//! What the guest's first process keeps its vCPUs busy with.

use std::{fmt, io, str::FromStr};

/// The kernel parameter that names the guest's work; without it, it keeps a secret.
pub const WORK: &str = "work=";

/// The kernel parameter of the guest that sets its watchdogs, after the boot, to `lockup,stall`: after how
/// many seconds each of them complains.
pub const WATCHDOGS: &str = "watchdogs=";

/// What the guest's kernel says, as loud as a stall, when its watchdogs are set.
pub const LOG_MARK: &str = "the kernel log is seen";

/// A port where neither KVM nor QEMU has a device.
pub const NOBODYS_PORT: u64 = 0xed;

/// What a guest does all the time, on each vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Computes, and never leaves the guest by itself.
    Spin,
    /// Nothing: the vCPU halts.
    Halt,
    /// Writes to a port that nobody has: each time the vCPU leaves to the VMM.
    Io,
    /// Makes files and removes them: the guest's kernel is never without an RCU grace period.
    Files,
}

const NAMES: [(Work, &str); 4] = [
    (Work::Spin, "spin"),
    (Work::Halt, "halt"),
    (Work::Io, "io"),
    (Work::Files, "files"),
];

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(work, _)| work == self);
        f.write_str(name.map_or("?", |(_, name)| name))
    }
}

impl FromStr for Work {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let work = NAMES.iter().find(|(_, name)| *name == text);
        work.map(|(work, _)| *work)
            .ok_or_else(|| io::Error::other(format!("there is no work named {text}")))
    }
}
