// SPDX-License-Identifier: GPL-2.0

//! The demo: the module finds a secret in the guest, and QEMU is asked whether the report is true.

use std::{fs, io, thread};

use demo::{
    console::Console,
    host::{self, fail, say},
    qemu::{self, Qemu, Registers},
    values,
};
use kvm_inspect_tool::{
    hex, module,
    report::{Conclusion, Report, State, Vcpu},
    Inspection, LoadError,
};
use rustix::io::Errno;

use crate::outside;

const CPUS: u32 = 2;

/// How often to try. On a busy machine an inspection may be over before QEMU stops the guest, or a
/// vCPU may be late.
const TRIES: u32 = 100;

/// Runs the demo. Returns its results.
pub(crate) fn run() -> io::Result<String> {
    let version = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say(&format!(
        "A host is up: Debian's kernel {} with KVM, in an emulator.",
        version.trim()
    ))?;

    let (mut qemu, console) = Qemu::start(CPUS, "")?;
    let mut console = Console::follow(console);
    let greeting = console.wait_for("secret=")?;
    let secret = values::text(&greeting, "secret").unwrap_or_default();
    if values::number(&greeting, "cpus") != Some(u64::from(CPUS)) {
        return fail(format!("the guest runs on fewer than {CPUS} CPUs"));
    }
    say(&format!(
        "On it, QEMU (process {}) runs a Linux guest with {CPUS} vCPUs and 256 MiB.",
        qemu.pid()
    ))?;
    say("A process in the guest has made 32 random bytes, its secret, and shows them to us:")?;
    say(&format!("  {secret}"))?;

    let lines = inspect_and_stop(&mut qemu, secret)?;
    let results = compare(&mut qemu, secret, &lines)?;

    qemu.resume()?;
    console.goes_on()?;
    module::unload()?;
    console.goes_on()?;
    say("The guest has gone on, and does so without the module.")?;

    let seen = outside::look(qemu.pid(), version.trim(), secret)?;
    console.goes_on()?;
    say("The guest has gone on again.")?;
    Ok(format!("{results} {seen}"))
}

/// Makes an inspection, and lets QEMU stop the guest before that goes on.
///
/// QEMU is asked to stop the guest while its vCPUs are parked. QEMU's signals wait until the vCPUs
/// may go on, and then keep them from entering the guest. So QEMU sees the state that the module
/// saw.
fn inspect_and_stop(qemu: &mut Qemu, secret: &str) -> io::Result<Vec<String>> {
    let inspection = Inspection::of(qemu.pid())
        .patterns(&[format!("hex:{secret}")])
        // One instant, however long the emulator takes.
        .set("max_pause_ms", 0);
    for attempt in 1..=TRIES {
        if attempt == 1 {
            say("")?;
            say(&format!("# insmod kvm_inspect.ko {inspection}"))?;
        }
        let threads = qemu.vcpu_threads()?;
        let (inspection, file) = (inspection.clone(), host::module()?);
        let loading = thread::spawn(move || inspection.load(&file));

        while !loading.is_finished() && !are_parked(qemu.pid(), &threads, false) {
            thread::yield_now();
        }
        qemu.ask_to_stop()?;
        let mut stopped_while_parked = false;
        while !loading.is_finished() && !stopped_while_parked {
            stopped_while_parked = are_parked(qemu.pid(), &threads, true);
            thread::yield_now();
        }
        let Ok(loaded) = loading.join() else {
            return fail("the thread that loads the module has panicked");
        };
        qemu.wait_until_stopped()?;
        match loaded {
            Ok(mut loaded) => {
                let lines = loaded.lines()?;
                if stopped_while_parked && all_were_parked(&lines) {
                    return Ok(lines);
                }
                // It was over too soon, or a vCPU was not in KVM and has gone on since.
                loaded.unload()?;
            }
            Err(LoadError::Refused(refusal)) if refusal.errno == Errno::TIMEDOUT => (),
            Err(error) => return Err(error.into()),
        }
        qemu.resume()?;
    }
    fail("no pause was long enough for QEMU to stop the guest")
}

/// Returns whether the vCPUs' registers were read where their threads wait.
fn all_were_parked(lines: &[String]) -> bool {
    let report = Report::parse(lines);
    report.is_ok_and(|report| report.states().iter().all(|state| *state == State::Parked))
}

/// Returns whether all these threads of QEMU are parked in the module, with a pending signal if
/// asked for.
fn are_parked(pid: u32, threads: &[u64], with_signal: bool) -> bool {
    threads.iter().all(|tid| {
        qemu::thread_state(pid, *tid).is_ok_and(|(waits_in, signal)| {
            waits_in.contains("kvm_inspect") && (signal || !with_signal)
        })
    })
}

/// Shows the report, and compares it with what QEMU sees. Returns the results.
fn compare(qemu: &mut Qemu, secret: &str, lines: &[String]) -> io::Result<String> {
    for line in lines {
        say(&format!("  {line}"))?;
    }
    let report = Report::parse(lines).map_err(io::Error::other)?;
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
        let Some(ours) = report.vcpu(vcpu).map(registers) else {
            return fail(format!("the report has no vCPU {vcpu}"));
        };
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

    let hits = report.hits_of(0);
    for gpa in &hits {
        let bytes = qemu.memory(*gpa, secret.len() / 2)?;
        let digits = hex::digits(&bytes);
        if digits != secret {
            return fail(format!("at gpa {gpa:#x} QEMU sees {digits}"));
        }
        say(&format!("  xp {gpa:#x}: {digits}, the secret"))?;
    }
    let done = &report.done;
    if done.result != Conclusion::Ok || hits.is_empty() {
        return fail("the secret was not found");
    }
    if Ok(done.hits) != u64::try_from(hits.len()) {
        return fail("not all hits were printed");
    }
    Ok(format!(
        "vcpus={} slots={} hits={} pause_us={}",
        report.vcpus.len(),
        report.slots.len(),
        done.hits,
        done.pause_us
    ))
}

/// Returns the registers of a vCPU by the names that [`Qemu::registers`] gives them.
fn registers(vcpu: &Vcpu) -> Registers {
    let mut registers: Registers = vcpu.general.clone();
    registers.extend(vcpu.control.clone());
    registers.extend(vcpu.mode.iter().map(|mode| ("cpl".to_owned(), mode.cpl)));
    for (name, segment) in &vcpu.segments {
        let named = segment.iter();
        registers.extend(named.map(|(key, value)| (format!("{name}.{key}"), *value)));
    }
    for (name, table) in &vcpu.tables {
        registers.insert(format!("{name}.base"), table.base);
        registers.insert(format!("{name}.limit"), table.limit);
    }
    registers
}
