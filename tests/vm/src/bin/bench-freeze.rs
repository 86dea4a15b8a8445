// SPDX-License-Identifier: GPL-2.0

//! Compares how long the module has a guest stand, for its registers and memslots alone, with how long
//! QEMU does for `stop` and `cont`, without asking it for anything meanwhile.
//!
//! Times in an emulator mean nothing by themselves: what counts is how many times as long QEMU takes
//! with the same guest.

use std::{env, io, process::ExitCode, time::Duration};

use demo::{
    figures::{Figures, Times, COUNT, VCPUS},
    host::fail,
    work::{Work, WORK},
};
use vm::nested::Scenario;

/// How often the module inspects each guest, unless the first argument says otherwise.
const INSPECTIONS: u32 = 1000;

/// The guests.
const WORKS: [Work; 3] = [Work::Spin, Work::Halt, Work::Io];
const CPUS: [u32; 3] = [1, 2, 8];

/// How many times shorter than QEMU's standstill the module's pause shall be, each the median.
const WANTED: f64 = 10.0;

const EXPLANATION: &str = "\
For each guest, which does what is said on each of its vCPUs: p50/p99/max of some times, as multiples of
QEMU's p50 of standing with that guest, and in microseconds in brackets. All is emulated, on one
processor.
  freeze    the module: from the first kick until all vCPUs stand
  pause     the module: from the first kick until all may go on; registers and memslots were read
  stopping  QEMU: from sending `stop` until its STOP event, when all vCPUs stand
  standing  QEMU: from that until its RESUME event, before it lets them go on
  shorter   how many times shorter than standing a pause is, by their p50; in brackets: than
            stopping and standing together
";

fn main() -> ExitCode {
    match bench() {
        Ok((least, name)) => {
            let passed = least >= WANTED;
            let verdict = if passed { "PASS" } else { "FAIL" };
            println!(
                "bench-freeze: {verdict} the pause is at least {least:.2} times shorter ({name}), \
                 wanted: {WANTED:.0}"
            );
            ExitCode::from(u8::from(!passed))
        }
        Err(why) => {
            println!("bench-freeze: FAIL {why}");
            ExitCode::FAILURE
        }
    }
}

/// Measures all guests. Gives the worst of them: how many times shorter, and its name.
fn bench() -> io::Result<(f64, String)> {
    let count = match env::args().nth(1) {
        Some(count) => count.parse().map_err(io::Error::other)?,
        None => INSPECTIONS,
    };
    println!("{EXPLANATION}");
    let mut worst: Option<(f64, String)> = None;
    for work in WORKS {
        for cpus in CPUS {
            let figures = measure(work, cpus, count)?;
            let name = format!("{work}, vcpus={cpus}");
            let shorter = show(&name, &figures);
            if worst.as_ref().is_none_or(|(least, _)| shorter < *least) {
                worst = Some((shorter, name));
            }
        }
    }
    worst.map_or_else(|| fail("there are no guests"), Ok)
}

/// Boots a host for one guest.
fn measure(work: Work, cpus: u32, count: u32) -> io::Result<Figures> {
    let scenario = Scenario {
        name: "freezes",
        parameters: &format!("{WORK}{work} {VCPUS}{cpus} {COUNT}{count}"),
        log: &format!("bench-freeze/{work}-{cpus}"),
        // Time to boot, and for each inspection: the report is written while all vCPUs want the one CPU.
        limit: Duration::from_secs(300) + Duration::from_millis(50 + 50 * u64::from(cpus)) * count,
    };
    let figures = scenario.run(|_| ())?;
    Figures::parse(&figures).map_or_else(|| fail(format!("not understood: {figures}")), Ok)
}

/// Prints a guest's line; says how many times shorter the pause is.
fn show(name: &str, figures: &Figures) -> f64 {
    let unit = figures.standing.p50;
    let times = |name: &str, times: Times| {
        let Times { p50, p99, max } = times;
        println!(
            "  {name:<8}  {:.2}/{:.2}/{:.2}  [{p50}/{p99}/{max}]",
            ratio(p50, unit),
            ratio(p99, unit),
            ratio(max, unit)
        );
    };
    let shorter = ratio(unit, figures.pause.p50);
    let whole = ratio(unit + figures.stopping.p50, figures.pause.p50);
    println!(
        "{name}: shorter {shorter:.2} ({whole:.2}), {} inspections, {} stops",
        figures.inspections, figures.stops
    );
    times("freeze", figures.freeze);
    times("pause", figures.pause);
    times("stopping", figures.stopping);
    times("standing", figures.standing);
    shorter
}

/// What is shorter than a microsecond counts as one.
fn ratio(time: u64, unit: u64) -> f64 {
    // No time is so long that it matters.
    #[allow(clippy::cast_precision_loss)]
    let [time, unit] = [time, unit].map(|time| time.max(1) as f64);
    time / unit
}
