// SPDX-License-Identifier: GPL-2.0

//! Compares ways to write a guest to a file: how long it stands, and the whole time. They take
//! turns, with the same guest and the same file system.

use std::{
    array, fs, io,
    process::Command,
    time::{Duration, Instant},
};

use demo::{
    command::{MAX_PAUSE, PROGRAM},
    console::Console,
    host::{self, fail, less_on_the_console, median, mount_tmp, ratio, say},
    qemu::Qemu,
    work::FILL,
};
use kvm_inspect_tool::module;
use serde_json::Value;

/// The guest's memory in MiB. It does not touch all of it, as most guests.
const MIB: u32 = 1024;

/// How many turns there are.
const TURNS: usize = 3;

const FILE: &str = "/tmp/memory";

const SHA256SUM: &str = "/usr/bin/sha256sum";

/// How much memory the second guest fills, in MiB.
const FILLED: u32 = 640;

/// How long it took to write the guest once.
#[derive(Clone, Copy)]
struct Times {
    /// How long it stood.
    stood: Duration,
    /// The whole time until the file is there.
    whole: Duration,
}

/// A way to write the guest.
type Way = (&'static str, fn(&mut Qemu) -> io::Result<Times>);

/// Ours and QEMU's by turns, the first two with a digest, and one more.
const WAYS: [Way; 5] = [
    ("kvm-inspect dump", |qemu| dump(qemu, &[])),
    ("stop, dump-guest-memory, cont, sha256sum", |qemu| {
        let Times { stood, mut whole } = stop_and_dump(qemu)?;
        whole += digest()?;
        Ok(Times { stood, whole })
    }),
    ("kvm-inspect dump --no-digest", |qemu| {
        dump(qemu, &["--no-digest"])
    }),
    ("stop, dump-guest-memory, cont", stop_and_dump),
    ("kvm-inspect dump --consistency live", |qemu| {
        dump(qemu, &["--consistency", "live"])
    }),
];

/// Runs it. Returns the results: how many times shorter QEMU's times are at least.
pub(crate) fn run() -> io::Result<String> {
    mount_tmp()?;
    less_on_the_console()?;
    module::load(&host::module()?, "")?;
    let [with_digest, _, without, _, _] = compare(0)?;
    compare(FILLED)?;
    module::unload()?;
    let least = |of: fn(&Ratios) -> f64| of(&with_digest).min(of(&without));
    Ok(format!(
        "ratios shorter={:.2} faster={:.2}",
        least(|ratios| ratios.stood),
        least(|ratios| ratios.whole)
    ))
}

/// How many times longer than one way the next one takes.
struct Ratios {
    stood: f64,
    whole: f64,
}

/// Starts a guest that fills so many MiB, has it written in each way, and shows the times.
fn compare(filled: u32) -> io::Result<[Ratios; WAYS.len()]> {
    let (mut qemu, console) = Qemu::start_with_memory(MIB, 1, &format!("{FILL}{filled}"))?;
    let mut console = Console::follow(console);
    console.wait_for("ready ")?;
    let mut times = WAYS.map(|_| Vec::new());
    for turn in 1..=TURNS {
        for ((_, way), times) in WAYS.iter().zip(&mut times) {
            console.goes_on()?;
            // Each begins with an empty file system.
            let _ = fs::remove_file(FILE);
            times.push(way(&mut qemu)?);
        }
        say(&format!("Turn {turn} of {TURNS} is over."))?;
    }
    console.goes_on()?;
    let medians = times.map(|times| Times {
        stood: median(times.iter().map(|times| times.stood)),
        whole: median(times.iter().map(|times| times.whole)),
    });
    show(filled, &medians)?;
    Ok(array::from_fn(|index| {
        let (one, next) = (medians[index], medians[(index + 1) % WAYS.len()]);
        Ratios {
            stood: ratio(next.stood, one.stood),
            whole: ratio(next.whole, one.whole),
        }
    }))
}

/// Prints the times of each way.
fn show(filled: u32, medians: &[Times]) -> io::Result<()> {
    say(&format!(
        "A Linux guest with {MIB} MiB, which has filled {filled} of them. The median of {TURNS} \
         turns, as multiples of the first:"
    ))?;
    say("  standstill  whole time")?;
    let unit = medians[0];
    for ((name, _), Times { stood, whole }) in WAYS.iter().zip(medians) {
        say(&format!(
            "  {:>10.3}  {:>10.3}  {name}  [{}, {} ms]",
            ratio(*stood, unit.stood),
            ratio(*whole, unit.whole),
            stood.as_millis(),
            whole.as_millis()
        ))?;
    }
    Ok(())
}

/// Has `kvm-inspect` write the guest to a file.
fn dump(qemu: &mut Qemu, options: &[&str]) -> io::Result<Times> {
    let mut command = Command::new(PROGRAM);
    command.args(["dump", "--json", "--force", &qemu.pid().to_string(), FILE]);
    command.args(["--max-pause", MAX_PAUSE]).args(options);
    let begin = Instant::now();
    let output = command.output()?;
    let whole = begin.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return fail(format!("kvm-inspect: {}: {said}", output.status));
    }
    let manifest: Value = serde_json::from_slice(&output.stdout)?;
    let Some(stood) = manifest["consistency"]["paused_us"].as_u64() else {
        return fail(format!("not understood: {manifest}"));
    };
    Ok(Times {
        stood: Duration::from_micros(stood),
        whole,
    })
}

/// Has QEMU write it, which must stop it for that. The file stays.
fn stop_and_dump(qemu: &mut Qemu) -> io::Result<Times> {
    let begin = Instant::now();
    qemu.ask_to_stop()?;
    qemu.wait_until_stopped()?;
    qemu.save_memory("dump-guest-memory", FILE)?;
    qemu.resume()?;
    let whole = begin.elapsed();
    Ok(Times {
        stood: whole,
        whole,
    })
}

/// Digests QEMU's file. Returns how long that takes.
fn digest() -> io::Result<Duration> {
    let begin = Instant::now();
    let output = Command::new(SHA256SUM).arg(FILE).output()?;
    let took = begin.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return fail(format!("sha256sum: {}: {said}", output.status));
    }
    Ok(took)
}
