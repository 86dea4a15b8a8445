// SPDX-License-Identifier: GPL-2.0

//! The demo itself: the module finds a secret in the guest, and QEMU is asked whether all is true.

use std::{fs, io, thread};

use cases::{hex, kernel_log::KernelLog};
use demo::{
    console::Console,
    host::{fail, insmod, refused, rmmod, say},
    qemu::{self, Qemu},
    report::{self, Line},
};

const CPUS: u32 = 2;

/// How often an inspection may be over before QEMU's stop has come, or a vCPU not stand in time,
/// because the machine is busy.
const TRIES: u32 = 100;

/// Runs it; gives the figures.
pub(crate) fn run() -> io::Result<String> {
    let version = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say(&format!(
        "A host is up: Debian's kernel {} with KVM, in an emulator.",
        version.trim()
    ))?;

    let (mut qemu, console) = Qemu::start(CPUS, "")?;
    let mut console = Console::follow(console);
    let greeting = console.wait_for("secret=")?;
    let greeting = Line::parse(&greeting);
    let secret = greeting.text("secret").unwrap_or_default().to_owned();
    if greeting.number("cpus") != Some(u64::from(CPUS)) {
        return fail(format!("the guest runs on fewer than {CPUS} CPUs"));
    }
    say(&format!(
        "On it, QEMU (process {}) runs a Linux guest with {CPUS} vCPUs and 256 MiB.",
        qemu.pid()
    ))?;
    say("A process in the guest has made 32 random bytes, its secret, and told us what to look for:")?;
    say(&format!("  {secret}"))?;

    let mut log = KernelLog::from_now();
    let lines = inspect_and_stop(&mut qemu, &secret, &mut log)?;
    let figures = compare(&mut qemu, &secret, &lines)?;

    qemu.resume()?;
    console.pass_by();
    console.wait_for("beat=")?;
    rmmod()?;
    console.wait_for("beat=")?;
    say("The guest has gone on, and does so without the module.")?;
    Ok(figures)
}

/// Has the module inspect the guest, and QEMU stop it before it goes on.
///
/// While the module has the guest stand, QEMU is asked to stop it. The signals that QEMU sends wait
/// until the vCPUs may go on, and then keep them from entering the guest: so QEMU sees the very
/// state that the module saw.
fn inspect_and_stop(qemu: &mut Qemu, secret: &str, log: &mut KernelLog) -> io::Result<Vec<String>> {
    let parameters = format!("pid={} pattern=hex:{secret}", qemu.pid());
    for attempt in 1..=TRIES {
        if attempt == 1 {
            say("")?;
            say(&format!("# insmod kvm_inspect.ko {parameters}"))?;
        }
        let threads = qemu.vcpu_threads()?;
        let arguments = parameters.clone();
        let loading = thread::spawn(move || insmod(&arguments));

        while !loading.is_finished() && !all_stand(qemu.pid(), &threads, false) {
            thread::yield_now();
        }
        qemu.ask_to_stop()?;
        let mut stopped_while_standing = false;
        while !loading.is_finished() && !stopped_while_standing {
            stopped_while_standing = all_stand(qemu.pid(), &threads, true);
            thread::yield_now();
        }
        let Ok(loaded) = loading.join() else {
            return fail("the thread that loads the module has panicked");
        };
        let lines = log.module_lines();
        qemu.wait_until_stopped()?;
        match loaded {
            Ok(()) if stopped_while_standing => return Ok(lines),
            // It was over too soon: once more.
            Ok(()) => rmmod()?,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => (),
            Err(error) => return refused(&error, &lines),
        }
        qemu.resume()?;
    }
    fail("the guest never stood long enough for QEMU to stop it")
}

/// Whether all these threads of QEMU stand in the module, with a signal waiting if so wanted.
fn all_stand(pid: u32, threads: &[u64], with_signal: bool) -> bool {
    threads.iter().all(|tid| {
        qemu::thread_state(pid, *tid).is_ok_and(|(waits_in, signal)| {
            waits_in.contains("kvm_inspect") && (signal || !with_signal)
        })
    })
}

/// Shows the report, and compares it with what QEMU sees. Gives the figures for the verdict.
fn compare(qemu: &mut Qemu, secret: &str, lines: &[String]) -> io::Result<String> {
    for line in lines {
        say(&format!("  {line}"))?;
    }
    say("")?;
    say("QEMU, asked about the same guest before it went on:")?;

    let theirs = qemu.registers()?;
    if theirs.len() != CPUS as usize {
        return fail(format!(
            "QEMU tells the registers of {} vCPUs",
            theirs.len()
        ));
    }
    for (vcpu, theirs) in (0_u64..).zip(&theirs) {
        let ours = report::registers(lines, vcpu);
        let known = theirs.len();
        if known < 40 {
            return fail(format!("QEMU tells only {known} registers of vCPU {vcpu}"));
        }
        for (name, value) in theirs {
            if ours.get(name) != Some(value) {
                let ours = ours.get(name);
                return fail(format!(
                    "vCPU {vcpu}: {name} is {value:#x} in QEMU, not {ours:x?}"
                ));
            }
        }
        let rip = theirs.get("rip").copied().unwrap_or_default();
        say(&format!(
            "  vCPU {vcpu}: all {known} registers are the same (rip={rip:#x})"
        ))?;
    }

    let parsed: Vec<Line<'_>> = lines.iter().map(|line| Line::parse(line)).collect();
    let hits: Vec<u64> = parsed
        .iter()
        .filter(|line| line.keyword == "hit")
        .filter_map(|line| line.number("gpa"))
        .collect();
    for gpa in &hits {
        let bytes = qemu.memory(*gpa, secret.len() / 2)?;
        let digits = hex::digits(&bytes);
        if digits != secret {
            return fail(format!("at gpa {gpa:#x} QEMU sees {digits}"));
        }
        say(&format!("  xp {gpa:#x}: {digits}, the secret"))?;
    }
    let Some(done) = parsed.iter().find(|line| line.keyword == "done") else {
        return fail("the report has no last line");
    };
    if done.text("result") != Some("ok") || hits.is_empty() {
        return fail("the secret was not found");
    }
    if done.number("hits") != u64::try_from(hits.len()).ok() {
        return fail("not all hits were printed");
    }
    let key = |name| done.text(name).unwrap_or("?");
    Ok(format!(
        "vcpus={} slots={} hits={} pause_us={}",
        key("vcpus"),
        key("slots"),
        key("hits"),
        key("pause_us")
    ))
}
