// SPDX-License-Identifier: GPL-2.0

//! What the first process of a test VM tells the harness, line by line, over the second serial
//! port, for each case: that it begins, how it ended, what it said, and that this was all.
//!
//! A VM that was lost says no [`Message::End`], whatever QEMU's exit status is.

use std::fmt;

/// The kernel parameter that names the case, or several with commas between them, which are run one
/// after the other until one fails.
pub const CASE_PARAMETER: &str = "case=";

/// The kernel parameter with the factor for repeat counts.
pub const SCALE_PARAMETER: &str = "scale=";

/// The kernel parameter with the divisor of repeat counts, for a slow emulator.
pub const REPEAT_DIVISOR_PARAMETER: &str = "repeat_divisor=";

/// The kernel parameter that says what the emulated processor can search with at best.
pub const ENGINE_PARAMETER: &str = "best_engine=";

/// What stands in the kernel log, before the case's name, when a case begins.
pub const CASE_MARK: &str = "cases: begin ";

/// What a case says when its guest ended by a triple fault, which none of their programs can bring
/// about.
///
/// With two processors the emulator's AMD-V now and then makes one out of nothing: of Linux guests with
/// two vCPUs it loses every fourth at boot, and sometimes their host, with no module there at all.
/// So a case that says this is run once more.
pub const GUEST_LOST: &str = "a guest ended by a triple fault";

/// What a scenario says when a Linux guest has ended when no module was there.
pub const GUEST_LOST_ALONE: &str = "a Linux guest was lost without the module";

/// What a case says when KVM could not go on with a guest that has its host's registers.
pub const HOST_IN_GUEST: &str = "a guest has the registers of its host";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The VM is ready, and the case with this name begins.
    Start(String),
    /// The case passed.
    Pass,
    /// The case failed; the text that follows says why.
    Fail,
    /// A line of what the case said.
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

/// In what VM a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmNeeded {
    /// In any, after others.
    Any,
    /// In one apart from most: with others that need that, one after the other.
    Own,
    /// In one whose memory is in two NUMA nodes.
    TwoNodes,
}

/// What a case may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// What only the kernel that catches mistakes has.
    pub debug_kernel: bool,
    /// What only the stock kernel has.
    pub stock_kernel: bool,
    /// Allocations that fail, of which the kernel may speak.
    pub failing_allocations: bool,
    /// In what VM it runs.
    pub vm: VmNeeded,
}

impl Needs {
    /// Nothing of all that.
    pub const NOTHING: Self = Self {
        debug_kernel: false,
        stock_kernel: false,
        failing_allocations: false,
        vm: VmNeeded::Any,
    };

    /// Whether the kernel that catches mistakes has what is needed, or the stock kernel.
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
    /// After how many seconds the first process ends it, on a machine that has nothing else to do:
    /// it counts naps, which take longer on another.
    pub seconds: u64,
    /// What it needs.
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
