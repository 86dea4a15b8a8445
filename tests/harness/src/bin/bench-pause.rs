// SPDX-License-Identifier: GPL-2.0

//! Compares how long a guest stands, and how long all takes, when its memory is searched by the module
//! and by what else there is.
//!
//! Times in an emulator mean nothing by themselves: what counts is how they compare for the same guest.

use std::{io, process::ExitCode, time::Duration};

use demo::{host::fail, values::text};
use harness::nested::Scenario;

/// How many times shorter the guest's standstill shall be than when QEMU writes its memory to a file.
const SHORTER: f64 = 20.0;

/// How many times faster the whole job shall be than in every other way, at least.
const FASTER: f64 = 1.0;

const EXPLANATION: &str = "\
A Linux guest is searched by the module, and in the ways that there are without it, in turns. All is
emulated, on one processor; it takes about ten minutes.
  longest pause  for how long the guest stands at a time
  all pauses     for how long it stands in all
  whole job      until what was found is known: the module loaded and unloaded, the file searched
";

fn main() -> ExitCode {
    match bench() {
        Ok((shorter, faster)) => {
            let passed = shorter >= SHORTER && faster > FASTER;
            let verdict = if passed { "PASS" } else { "FAIL" };
            println!(
                "bench-pause: {verdict} the standstill is {shorter:.1} times shorter than with the better one \
                 of dump-guest-memory and pmemsave, wanted: {SHORTER:.0}; the whole job is {faster:.1} \
                 times faster than the fastest other way, wanted: more than {FASTER:.0}"
            );
            ExitCode::from(u8::from(!passed))
        }
        Err(why) => {
            println!("bench-pause: FAIL {why}");
            ExitCode::FAILURE
        }
    }
}

/// How many times shorter the standstill is, and how many times faster the whole job.
fn bench() -> io::Result<(f64, f64)> {
    println!("{EXPLANATION}");
    let scenario = Scenario {
        name: "peers",
        parameters: "",
        log: "bench-pause",
        // The guest's, and as much for the file.
        memory: 3072,
        limit: Duration::from_secs(3600),
    };
    let figures = scenario.run(|line| println!("{line}"))?;
    let number = |key| text(&figures, key).and_then(|text| text.parse().ok());
    let both = number("shorter").zip(number("faster"));
    both.map_or_else(|| fail(format!("not understood: {figures}")), Ok)
}
