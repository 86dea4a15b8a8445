// SPDX-License-Identifier: GPL-2.0

//! The messages from a test VM's first process to the harness, over the second serial port, one a
//! line. For each case they say that it begins, how it ended, what it printed, and that this was
//! all.
//!
//! A lost VM sends no [`Message::End`], whatever QEMU's exit status is.

use std::fmt;

/// The kernel parameter that names the case, or several with commas between them. They run one
/// after the other until one fails.
pub const CASE_PARAMETER: &str = "case=";

/// The kernel parameter with the factor for repeat counts.
pub const SCALE_PARAMETER: &str = "scale=";

/// The kernel parameter with the divisor of repeat counts, for a slow emulator.
pub const REPEAT_DIVISOR_PARAMETER: &str = "repeat_divisor=";

/// The kernel parameter with the best engine that the emulated processor has.
pub const ENGINE_PARAMETER: &str = "best_engine=";

/// The kernel log has this, and the case's name, where a case begins.
pub const CASE_MARK: &str = "cases: begin ";

/// A case says this when its guest ended by a triple fault. None of the cases' programs can cause
/// one.
///
/// With two processors the emulator's AMD-V sometimes causes one by itself. It loses every fourth
/// Linux guest with two vCPUs at boot, and sometimes the host, without the module. So such a case
/// runs once more.
pub const GUEST_LOST: &str = "a guest ended by a triple fault";

/// A scenario says this when a Linux guest has ended without the module.
pub const GUEST_LOST_ALONE: &str = "a Linux guest was lost without the module";

/// A case says this when KVM stopped because a guest has the registers of its host.
pub const HOST_IN_GUEST: &str = "a guest has the registers of its host";

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The VM is ready, and the case with this name begins.
    Start(String),
    /// The case passed.
    Pass,
    /// The case failed. The text that follows says why.
    Fail,
    /// A line that the case printed.
    Text(String),
    /// A line of the kernel log, which the console may not have.
    Log(String),
    /// Nothing else will come of the case.
    End,
}

impl Message {
    /// Reads a line, without its line ending.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        if let Some(text) = line.strip_prefix("| ") {
            return Some(Self::Text(text.to_owned()));
        }
        if let Some(text) = line.strip_prefix("# ") {
            return Some(Self::Log(text.to_owned()));
        }
        match line {
            // Its space may have been trimmed.
            "|" => Some(Self::Text(String::new())),
            "@pass" => Some(Self::Pass),
            "@fail" => Some(Self::Fail),
            "@end" => Some(Self::End),
            _ => line
                .strip_prefix("@start ")
                .map(|name| Self::Start(name.to_owned())),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(name) => write!(f, "@start {name}"),
            Self::Pass => f.write_str("@pass"),
            Self::Fail => f.write_str("@fail"),
            Self::Text(text) => write!(f, "| {text}"),
            Self::Log(text) => write!(f, "# {text}"),
            Self::End => f.write_str("@end"),
        }
    }
}

/// The kind of VM that a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmNeeded {
    /// Any VM, with other cases before it.
    Any,
    /// One with only those cases that need this.
    Own,
    /// One whose memory is in two NUMA nodes.
    TwoNodes,
}

/// What a case may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The debug kernel.
    pub debug_kernel: bool,
    /// The stock kernel.
    pub stock_kernel: bool,
    /// Failing allocations, which the kernel may report.
    pub failing_allocations: bool,
    /// The kind of VM.
    pub vm: VmNeeded,
}

impl Needs {
    /// Nothing special.
    pub const NOTHING: Self = Self {
        debug_kernel: false,
        stock_kernel: false,
        failing_allocations: false,
        vm: VmNeeded::Any,
    };

    /// Returns whether the debug kernel, or else the stock kernel, has what is needed.
    #[must_use]
    pub fn fit(self, debug_kernel: bool) -> bool {
        if debug_kernel {
            !self.stock_kernel
        } else {
            !self.debug_kernel
        }
    }
}

/// A case as the program's `--list` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseInfo {
    /// Its name.
    pub name: String,
    /// Its time limit in seconds on an idle machine. The first process counts naps, which take
    /// longer on a busy one.
    pub seconds: u64,
    /// Its needs.
    pub needs: Needs,
}

impl CaseInfo {
    /// Reads a line of `--list`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (name, seconds) = (words.next()?, words.next()?);
        let flags: Vec<&str> = words.collect();
        Some(Self {
            name: name.to_owned(),
            seconds: seconds.parse().ok()?,
            needs: Needs {
                debug_kernel: flags.contains(&"debug_kernel"),
                stock_kernel: flags.contains(&"stock_kernel"),
                failing_allocations: flags.contains(&"failing_allocations"),
                vm: if flags.contains(&"two_nodes") {
                    VmNeeded::TwoNodes
                } else if flags.contains(&"own_vm") {
                    VmNeeded::Own
                } else {
                    VmNeeded::Any
                },
            },
        })
    }
}

impl fmt::Display for CaseInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.seconds)?;
        for (is_set, flag) in [
            (self.needs.debug_kernel, "debug_kernel"),
            (self.needs.stock_kernel, "stock_kernel"),
            (self.needs.vm == VmNeeded::Own, "own_vm"),
            (self.needs.failing_allocations, "failing_allocations"),
            (self.needs.vm == VmNeeded::TwoNodes, "two_nodes"),
        ] {
            if is_set {
                write!(f, " {flag}")?;
            }
        }
        Ok(())
    }
}
