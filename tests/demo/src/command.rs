// SPDX-License-Identifier: GPL-2.0

//! The command `kvm-inspect`, on the host of the guest.

use std::{io, process::Command};

use crate::host::{fail, say};

/// Where the host has it.
pub const PROGRAM: &str = "/usr/bin/kvm-inspect";

/// The longest pause there may be: the emulator is slow.
pub const MAX_PAUSE: &str = "60s";

/// Runs it, and shows how. Returns what it prints, line by line: its notes come last.
///
/// # Errors
///
/// It fails.
pub fn run(arguments: &[&str]) -> io::Result<Vec<String>> {
    say(&format!("# kvm-inspect {}", arguments.join(" ")))?;
    let output = Command::new(PROGRAM).args(arguments).output()?;
    let text = [output.stdout, output.stderr].concat();
    let lines: Vec<String> = String::from_utf8_lossy(&text)
        .lines()
        .map(str::to_owned)
        .collect();
    if output.status.success() {
        return Ok(lines);
    }
    let last = lines.last().map_or("", String::as_str);
    fail(format!("kvm-inspect: {}: {last}", output.status))
}

/// Shows lines, a bit to the right.
///
/// # Errors
///
/// There is no second serial port.
pub fn show(lines: &[String]) -> io::Result<()> {
    lines.iter().try_for_each(|line| say(&format!("  {line}")))
}
