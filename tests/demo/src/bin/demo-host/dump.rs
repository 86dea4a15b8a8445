// SPDX-License-Identifier: GPL-2.0

//! Core files of a Linux guest, for other programs to open (`tests/consumers`).
//!
//! QEMU stops the guest. Then `kvm-inspect dump` writes it to files, and QEMU dumps it, too: a
//! witness of the same instant. When the guest has gone on, it is dumped while it runs. The files
//! go to a folder of the machine that emulates this host.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use cases::{command_line, protocol::GUEST_LOST_ALONE};
use demo::{
    command::{self, show, MAX_PAUSE, PROGRAM},
    console::Console,
    dump::{LEVELS, OUT},
    host::{self, fail, say},
    qemu::Qemu,
};
use kvm_inspect_tool::module;
use serde_json::Value;

/// With three, one has nothing to do (`consumers-guest.rs`).
const CPUS: u32 = 3;

/// How much is copied at a time. What is all zeros becomes a hole.
const CHUNK: usize = 64 << 10;

/// How often to look whether the guest has gone on.
const TRIES: u32 = 1000;

/// Runs it. Returns the results.
pub(crate) fn run() -> io::Result<String> {
    host::mount_out()?;
    let levels = command_line::parameter(LEVELS).unwrap_or_default();
    // For four levels, with what makes them harder: page tables of their own for user space.
    let parameters = if levels == "4" { "no5lvl pti=on" } else { "" };
    let (mut qemu, _console, expected) =
        boot(parameters).or_else(|error| fail(format!("{GUEST_LOST_ALONE}: {error}")))?;
    let levels = expected["levels"].as_u64().unwrap_or_default();
    fs::write(format!("{OUT}/expected.json"), expected.to_string())?;
    say(&format!(
        "A Linux guest is up, with {CPUS} vCPUs and {levels} levels of page tables."
    ))?;
    module::load(&host::module()?, "")?;

    qemu.ask_to_stop()?;
    qemu.wait_until_stopped()?;
    let registers = qemu.registers()?;
    dump(&qemu, "our.core", &[])?;
    dump(&qemu, "gdb.core", &["--format", "gdb"])?;
    dump(&qemu, "our.lime", &["--format", "lime"])?;
    let begin = Instant::now();
    qemu.save_memory("dump-guest-memory", "/tmp/qemu.core")?;
    say(&format!("QEMU has dumped it, in {:.0?}", begin.elapsed()))?;
    take("qemu.core")?;

    qemu.resume()?;
    if !(0..TRIES).any(|_| has_gone_on(&mut qemu, &registers)) {
        return fail("the guest has not gone on");
    }
    dump(&qemu, "running.core", &[])?;
    dump_live(&qemu, "live.core")?;
    module::unload()?;
    if qemu.registers()?.len() != CPUS as usize {
        return fail("QEMU has lost vCPUs");
    }
    Ok(format!("levels={levels} vcpus={CPUS}"))
}

/// Starts the guest. Returns its console, and what it says of itself, too.
fn boot(parameters: &str) -> io::Result<(Qemu, Console, Value)> {
    let (qemu, console) = Qemu::start(CPUS, parameters)?;
    let mut console = Console::follow(console);
    let line = console.wait_for("expected ")?;
    let text = line.split_once("expected ").map_or("", |(_, text)| text);
    let expected: Value = serde_json::from_str(text)?;
    if expected["cpus"] != CPUS {
        return fail(format!("it runs on {} CPUs", expected["cpus"]));
    }
    Ok((qemu, console, expected))
}

/// Has `kvm-inspect` write a file, and shows what it says.
fn dump(qemu: &Qemu, name: &str, options: &[&str]) -> io::Result<()> {
    let begin = Instant::now();
    let (pid, path) = (qemu.pid().to_string(), format!("/tmp/{name}"));
    let arguments = ["dump", &pid, &path, "--max-pause", MAX_PAUSE];
    show(&command::run(&[&arguments, options].concat())?)?;
    say(&format!("  That took {:.0?}.", begin.elapsed()))?;
    take(name)?;
    take(&format!("{name}.json"))
}

/// As [`dump`], without a pause, and by a pipe.
fn dump_live(qemu: &Qemu, name: &str) -> io::Result<()> {
    let begin = Instant::now();
    let (path, beside) = (format!("/tmp/{name}"), format!("/tmp/{name}.json"));
    let pid = qemu.pid().to_string();
    let arguments = [
        "dump",
        &pid,
        "--consistency",
        "live",
        "--manifest",
        &beside,
        "-o",
        "-",
    ];
    say(&format!("# kvm-inspect {} >{path}", arguments.join(" ")))?;
    let mut command = Command::new(PROGRAM);
    let output = command
        .args(arguments)
        .stdout(File::create(&path)?)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    show(&said.lines().map(str::to_owned).collect::<Vec<_>>())?;
    if !output.status.success() {
        return fail(format!("kvm-inspect: {}", output.status));
    }
    say(&format!("  That took {:.0?}.", begin.elapsed()))?;
    take(name)?;
    take(&format!("{name}.json"))
}

/// Moves a file to the machine outside, without its holes.
fn take(name: &str) -> io::Result<()> {
    let path = format!("/tmp/{name}");
    let mut from = File::open(&path)?;
    let mut to = File::create(format!("{OUT}/{name}"))?;
    to.set_len(from.metadata()?.len())?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let size = from.read(&mut chunk)?;
        let part = &chunk[..size];
        if part.is_empty() {
            break;
        }
        if part.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(
                i64::try_from(size).map_err(io::Error::other)?,
            ))?;
        } else {
            to.write_all(part)?;
        }
    }
    to.sync_all()?;
    fs::remove_file(path)
}

/// Returns whether a register has another value by now.
fn has_gone_on(qemu: &mut Qemu, registers: &[demo::qemu::Registers]) -> bool {
    thread::sleep(Duration::from_millis(10));
    qemu.registers().is_ok_and(|now| now != registers)
}
