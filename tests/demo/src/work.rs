// SPDX-License-Identifier: GPL-2.0

//! The work that keeps the guest's vCPUs busy.

use std::{fmt, io, str::FromStr};

/// The kernel parameter that names the guest's work. Without it the guest keeps a secret.
pub const WORK: &str = "work=";

/// The guest's kernel parameter with how much memory it fills, in MiB, before it keeps its secret.
pub const FILL: &str = "fill=";

/// The guest's kernel parameter that sets its watchdogs after the boot: `lockup,stall`, the seconds
/// after which each complains.
pub const WATCHDOGS: &str = "watchdogs=";

/// What the guest's kernel logs, with the level of a stall, when its watchdogs are set.
pub const LOG_MARK: &str = "the kernel log is seen";

/// What the guest logs when it keeps a secret, before the first eight digits of that.
pub const KEEPS: &str = "the secret begins with";

/// A port without a device in KVM or QEMU.
pub const NOBODYS_PORT: u64 = 0xed;

/// What each vCPU does all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Computes, and never exits by itself.
    Spin,
    /// Nothing: the vCPU halts.
    Halt,
    /// Writes to a port without a device. Each time the vCPU exits to the VMM.
    Io,
    /// Makes and removes files. The guest's kernel always has an RCU grace period then.
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
