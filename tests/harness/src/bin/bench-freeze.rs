// SPDX-License-Identifier: GPL-2.0

//! Compares the pauses of the module, for registers and memslots alone, with those of QEMU's `stop`
//! and `cont` without a request in between.
//!
//! Times in an emulator mean nothing by themselves. What counts is how many times longer QEMU takes
//! with the same guest.

use std::{env, io, process::ExitCode, time::Duration};

use demo::{
    host::fail,
    pauses::{Comparison, Times, COUNT, VCPUS},
    work::{Work, WORK},
};
use harness::nested::{Guest, Scenario};

/// How often the module inspects each guest, unless the first argument has another number.
const INSPECTIONS: u32 = 1000;

/// The guests.
const WORKS: [Work; 3] = [Work::Spin, Work::Halt, Work::Io];
const CPUS: [u32; 3] = [1, 2, 8];

/// How many times shorter the median of the module's pauses must be.
const GOAL: f64 = 10.0;

const EXPLANATION: &str = "\
The module and QEMU (`stop`, `cont`) pause each guest in turns. All its vCPUs do the named work. All
is emulated, on one processor. p50/p99/max of each, as multiples of QEMU's p50 of the whole pause,
and in microseconds in brackets:
  freeze   from the request (the first kick; the command) until all vCPUs have stopped
  stopped  from then until they may go on (registers and memslots are read; the RESUME event)
  whole    both
  shorter  how many times shorter the module's times are than QEMU's, by their p50
";

fn main() -> ExitCode {
    match bench() {
        Ok((least, name)) => {
            let passed = least >= GOAL;
            let verdict = if passed { "PASS" } else { "FAIL" };
            println!(
                "bench-freeze: {verdict} the standstill is at least {least:.1} times shorter \
                 ({name}), wanted: {GOAL:.0}"
            );
            ExitCode::from(u8::from(!passed))
        }
        Err(why) => {
            println!("bench-freeze: FAIL {why}");
            ExitCode::FAILURE
        }
    }
}

/// Measures all guests. Returns for the worst how many times shorter its pauses are, and its name.
fn bench() -> io::Result<(f64, String)> {
    let count = match env::args().nth(1) {
        Some(count) => count.parse().map_err(io::Error::other)?,
        None => INSPECTIONS,
    };
    println!("{EXPLANATION}");
    let mut worst: Option<(f64, String)> = None;
    for work in WORKS {
        for cpus in CPUS {
            let comparison = measure(work, cpus, count)?;
            let name = format!("{work}, vcpus={cpus}");
            let shorter = show(&name, &comparison);
            if worst.as_ref().is_none_or(|(least, _)| shorter < *least) {
                worst = Some((shorter, name));
            }
        }
    }
    worst.map_or_else(|| fail("there are no guests"), Ok)
}

/// Boots a host for one guest, and measures that.
fn measure(work: Work, cpus: u32, count: u32) -> io::Result<Comparison> {
    let scenario = Scenario {
        name: "freezes",
        parameters: &format!("{WORK}{work} {VCPUS}{cpus} {COUNT}{count}"),
        guest: Guest::Demo,
        log: &format!("bench-freeze/{work}-{cpus}"),
        memory: 1024,
        // Time to boot, and for each inspection: the report is written while all vCPUs compete for
        // the one CPU.
        limit: Duration::from_secs(300) + Duration::from_millis(50 + 50 * u64::from(cpus)) * count,
    };
    let results = scenario.run(|_| ())?;
    Comparison::parse(&results).map_or_else(|| fail(format!("not understood: {results}")), Ok)
}

/// Prints a guest's results. Returns how many times shorter the module's pauses are, by the worse
/// measure.
fn show(name: &str, comparison: &Comparison) -> f64 {
    let (module, qemu) = (&comparison.module, &comparison.qemu);
    let stopped = ratio(qemu.stopped.p50, module.stopped.p50);
    let whole = ratio(qemu.whole.p50, module.whole.p50);
    println!(
        "{name}: shorter: stopped {stopped:.1}, whole {whole:.1} ({} inspections, {} stops)",
        comparison.inspections, comparison.stops
    );
    for (who, pauses) in [("module", module), ("QEMU", qemu)] {
        for (what, times) in [
            ("freeze", pauses.freeze),
            ("stopped", pauses.stopped),
            ("whole", pauses.whole),
        ] {
            let Times { p50, p99, max } = times;
            let [a, b, c] = [p50, p99, max].map(|time| ratio(time, qemu.whole.p50));
            println!("  {who:<6} {what:<8}  {a:.3}/{b:.3}/{c:.3}  [{p50}/{p99}/{max}]");
        }
    }
    stopped.min(whole)
}

/// Divides two times. Less than a microsecond counts as one.
fn ratio(time: u64, unit: u64) -> f64 {
    // The times are short enough.
    #[allow(clippy::cast_precision_loss)]
    let [time, unit] = [time, unit].map(|time| time.max(1) as f64);
    time / unit
}
