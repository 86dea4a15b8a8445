// SPDX-License-Identifier: GPL-2.0

//! Dumps a Linux guest by `kvm-inspect dump`, and has other programs open the files.
//!
//! A host in an emulator runs the guest in QEMU with KVM. `tests/consumers/judge` judges what the
//! programs find, and compares pages and registers with QEMU's own dump of the same instant. For
//! each file it says "N passed, N failed".

use std::{
    env, fs, io,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use clap::Parser;
use demo::values::number;
use harness::{
    nested::{Guest, Scenario},
    paths,
};

/// The programs that open the dump of a guest that runs. gdb needs a file of its own, and nothing
/// else has dumped the same instant.
const FOR_RUNNING: [&str; 6] = [
    "drgn",
    "crash",
    "makedumpfile",
    "manifest",
    "leechcore",
    "yara",
];

/// Those for one of no single instant: what others look for may have moved meanwhile.
const FOR_LIVE: [&str; 4] = ["makedumpfile", "manifest", "leechcore", "yara"];

/// Dumps Linux guests, and has other programs open the files.
#[derive(Parser)]
struct Arguments {
    /// The levels of page tables that the guests have
    #[arg(default_values_t = [4, 5])]
    levels: Vec<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failures = Vec::new();
    for levels in arguments.levels {
        println!("A guest with KVM, and {levels} levels of page tables:");
        if let Err(why) = try_levels(levels) {
            failures.push(format!("with {levels} levels: {why}"));
        }
    }
    if failures.is_empty() {
        println!("consumers: PASS");
        ExitCode::SUCCESS
    } else {
        println!("consumers: FAIL {}", failures.join("; "));
        ExitCode::FAILURE
    }
}

/// Dumps a guest with so many levels of page tables, and judges the files.
fn try_levels(levels: u64) -> io::Result<()> {
    let begin = Instant::now();
    let folder = paths::build().join(format!("consumers/kvm{levels}"));
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&folder)?,
    }
    let scenario = Scenario {
        name: "dump",
        parameters: &format!("levels={levels}"),
        guest: Guest::Known(&folder),
        log: &format!("consumers/{levels}"),
        memory: 2048,
        limit: Duration::from_secs(900),
    };
    let results = scenario
        .run(|line| println!("  {line}"))
        .inspect_err(|why| {
            println!("consumer of a guest with {levels} levels ... FAILED: {why}");
            println!("0 passed, 1 failed");
        })?;
    println!("  {results}, after {:.0?}", begin.elapsed());
    if number(&results, "levels") != Some(levels) {
        println!("consumer of a guest with {levels} levels ... FAILED: it has others: {results}");
        println!("0 passed, 1 failed");
        return Err(io::Error::other(results));
    }
    println!("Of the guest that stood:");
    let stood = judge(&folder, "our.core", |command| {
        let file = |name| folder.join(name);
        command.arg("--gdb-core").arg(file("gdb.core"));
        command.arg("--lime").arg(file("our.lime"));
        command.arg("--witness").arg(file("qemu.core"));
    });
    println!("Of the guest that ran:");
    let ran = judge(&folder, "running.core", |command| {
        command.args(FOR_RUNNING.iter().flat_map(|name| ["--only", name]));
    });
    println!("Of the guest that ran, without a pause:");
    let live = judge(&folder, "live.core", |command| {
        command.args(FOR_LIVE.iter().flat_map(|name| ["--only", name]));
    });
    stood.and(ran).and(live)?;
    // They are large. After a failure they help.
    if env::var_os("KVM_INSPECT_KEEP").is_some() {
        return Ok(());
    }
    fs::remove_dir_all(&folder)
}

/// Has the programs open a file.
fn judge(folder: &Path, core: &str, add: impl FnOnce(&mut Command)) -> io::Result<()> {
    let mut command = Command::new(paths::project().join("tests/consumers/judge"));
    command.arg(folder.join(core));
    command.arg("--expected").arg(folder.join("expected.json"));
    add(&mut command);
    if command.status()?.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("other programs, with {core}")))
    }
}
