// SPDX-License-Identifier: GPL-2.0

//! The second part of the demo: the command `kvm-inspect`, by the module's device. It writes the
//! guest to a file, and reads its kernel's log from outside. What it says is compared with what the
//! guest has said, and with what is in its memory.

use std::{fs, io};

use demo::{
    command::{self, show, MAX_PAUSE},
    host::{self, fail, say},
    work::KEEPS,
};
use kvm_inspect_tool::{hex, module};
use memchr::memmem;

/// The file.
const FILE: &str = "/tmp/guest.core";

/// How much of the guest's log is shown.
const SHOWN: usize = 3;

/// Looks at the guest with the process number `pid` on a host with the kernel `release`, which the
/// guest has, too. Returns the results.
pub(crate) fn look(pid: u32, release: &str, secret: &str) -> io::Result<String> {
    let pid = pid.to_string();
    say("")?;
    say("The module, loaded without parameters, offers a device, which the command uses:")?;
    say("# insmod kvm_inspect.ko")?;
    module::load(&host::module()?, "")?;

    let list = command::run(&["list"])?;
    show(&list)?;
    if !list
        .iter()
        .any(|line| line.split_whitespace().next() == Some(&pid))
    {
        return fail("the guest is not in the list");
    }

    let pattern = format!("hex:{secret}");
    let search = command::run(&[
        "search",
        &pid,
        &pattern,
        "--context",
        "8",
        "--max-pause",
        MAX_PAUSE,
    ])?;
    show(&search)?;
    if !shown(&search).contains(secret) {
        return fail("the secret was not found");
    }

    let dump = command::run(&["dump", &pid, FILE, "--max-pause", MAX_PAUSE])?;
    show(&dump)?;
    let file = fs::read(FILE)?;
    let bytes = hex::bytes(secret).unwrap_or_default();
    if bytes.is_empty() || memmem::find(&file, &bytes).is_none() {
        return fail("the secret is not in the file");
    }
    say(&format!(
        "The secret is in the file, too. It is an ELF core, of {} MiB with its holes.",
        file.len() >> 20
    ))?;

    let info = command::run(&["info", &pid])?;
    show(&info)?;
    if !info.iter().any(|line| line.contains(release)) {
        return fail(format!("the guest runs {release}"));
    }

    let log = command::run(&["dmesg", &pid])?;
    let expected = format!("{KEEPS} {secret:.8}");
    let Some(at) = log.iter().position(|line| line.contains(&expected)) else {
        return fail(format!("the guest has logged: {expected}"));
    };
    say(&format!("  ({} lines; some of them:)", log.len()))?;
    show(&log[at.saturating_sub(SHOWN)..=at])?;
    say("The last of these is what the guest itself has logged.")?;
    module::unload()?;
    Ok(format!(
        "core_mib={} log_lines={}",
        file.len() >> 20,
        log.len()
    ))
}

/// Returns the digits of a hex dump.
fn shown(lines: &[String]) -> String {
    let rows = lines.iter().filter_map(|line| line.split_once('|'));
    rows.flat_map(|(row, _)| row.split_whitespace().skip(1))
        .collect()
}
