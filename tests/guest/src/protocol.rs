// SPDX-License-Identifier: GPL-2.0

//! What the first process of a test VM tells the harness, line by line, over the second serial
//! port, for each case: that it begins, how it ended, what it said, and that this was all.
//!
//! A VM that was lost says no [`Message::End`], whatever QEMU's exit status is.

use std::fmt;

/// The kernel parameter that names the case, or several with commas between them, which are run one
/// after the other until one fails.
pub const CASE_PARAMETER: &str = "case=";

/// The kernel parameter that says how many times as much as usual is to be done.
pub const SCALE_PARAMETER: &str = "scale=";

/// The kernel parameter that says how many times as long as usual everything may take.
pub const SLOWNESS_PARAMETER: &str = "slowness=";

/// The kernel parameter that says how many times less often than usual something is to be done again
/// and again, for a slow emulator.
pub const FEWER_PARAMETER: &str = "fewer=";

/// What stands in the kernel log, before the case's name, when a case begins.
pub const CASE_MARK: &str = "guest: case ";

/// What a case says when its guest ended by a triple fault, which none of their programs can bring
/// about.
///
/// With two processors the emulator's AMD-V now and then makes one out of nothing: of Linux guests with
/// two vCPUs it loses every fourth at boot, and sometimes their host, with no module there at all.
/// So a case that says this is run once more.
pub const GUEST_LOST: &str = "a guest ended by a triple fault";

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
            Self::End => f.write_str("@end"),
        }
    }
}

/// A case as `--list` of the guest's binary prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseInfo {
    /// Its name.
    pub name: String,
    /// After how many seconds the first process ends it.
    pub seconds: u64,
    /// Whether it begins without KVM.
    pub without_kvm: bool,
    /// Whether it needs what only the kernel that catches mistakes has.
    pub needs_debug: bool,
    /// Whether no other case can follow in the same VM.
    pub is_last: bool,
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
            without_kvm: flags.contains(&"without_kvm"),
            needs_debug: flags.contains(&"debug"),
            is_last: flags.contains(&"last"),
        })
    }
}

impl fmt::Display for CaseInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.seconds)?;
        for (is_set, flag) in [
            (self.without_kvm, "without_kvm"),
            (self.needs_debug, "debug"),
            (self.is_last, "last"),
        ] {
            if is_set {
                write!(f, " {flag}")?;
            }
        }
        Ok(())
    }
}
