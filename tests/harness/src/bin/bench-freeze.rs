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
use harness::nested::Scenario;

/// How often the module inspects each guest, unless the first argument says otherwise.
const INSPECTIONS: u32 = 1000;

/// The guests.
const WORKS: [Work; 3] = [Work::Spin, Work::Halt, Work::Io];
const CPUS: [u32; 3] = [1, 2, 8];

/// How many times shorter than QEMU's standstill the module's shall be, each the median.
const WANTED: f64 = 10.0;

const EXPLANATION: &str = "\
For each guest, which does what is said on each of its vCPUs, the module and QEMU (`stop`, `cont`) in
turns. All is emulated, on one processor. p50/p99/max of each, as multiples of QEMU's p50 of the whole,
and in microseconds in brackets:
  stopping  from the request (the first kick; the command) until all vCPUs stand
  standing  from then until they may go on (registers and memslots are read; the RESUME event)
  whole     both
  shorter   how many times shorter the module's standing and whole are than QEMU's, by their p50
";

fn main() -> ExitCode {
    match bench() {
        Ok((least, name)) => {
            let passed = least >= WANTED;
            let verdict = if passed { "PASS" } else { "FAIL" };
            println!(
                "bench-freeze: {verdict} the standstill is at least {least:.1} times shorter ({name}), \
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
        memory: 1024,
        // Time to boot, and for each inspection: the report is written while all vCPUs want the one CPU.
        limit: Duration::from_secs(300) + Duration::from_millis(50 + 50 * u64::from(cpus)) * count,
    };
    let figures = scenario.run(|_| ())?;
    Figures::parse(&figures).map_or_else(|| fail(format!("not understood: {figures}")), Ok)
}

/// Prints a guest's lines; says how many times shorter the module's standstill is, by what is worse.
fn show(name: &str, figures: &Figures) -> f64 {
    let (module, qemu) = (&figures.module, &figures.qemu);
    let standing = ratio(qemu.standing.p50, module.standing.p50);
    let whole = ratio(qemu.whole.p50, module.whole.p50);
    println!(
        "{name}: shorter: standing {standing:.1}, whole {whole:.1} ({} inspections, {} stops)",
        figures.inspections, figures.stops
    );
    for (who, standstill) in [("module", module), ("QEMU", qemu)] {
        for (what, times) in [
            ("stopping", standstill.stopping),
            ("standing", standstill.standing),
            ("whole", standstill.whole),
        ] {
            let Times { p50, p99, max } = times;
            let [a, b, c] = [p50, p99, max].map(|time| ratio(time, qemu.whole.p50));
            println!("  {who:<6} {what:<8}  {a:.3}/{b:.3}/{c:.3}  [{p50}/{p99}/{max}]");
        }
    }
    standing.min(whole)
}

/// What is shorter than a microsecond counts as one.
fn ratio(time: u64, unit: u64) -> f64 {
    // No time is so long that it matters.
    #[allow(clippy::cast_precision_loss)]
    let [time, unit] = [time, unit].map(|time| time.max(1) as f64);
    time / unit
}
