// SPDX-License-Identifier: GPL-2.0

//! Compares ways to search a guest's memory, with the module and without it: the pauses, and the
//! whole time.
//!
//! Times in an emulator mean nothing by themselves. What counts is how they compare for the same
//! guest.

use std::process::ExitCode;

use harness::nested::compare_times;

/// How many times shorter the pause must be than when QEMU writes the memory to a file.
const SHORTER: f64 = 20.0;

/// How many times faster the whole job must be than in every other way.
const FASTER: f64 = 1.0;

const EXPLANATION: &str = "\
The module and other tools search a Linux guest in turns. All is emulated, on one processor; it
takes about ten minutes.
  longest pause  the longest time without the guest
  all pauses     the sum of all such times
  whole job      until the result is known: the module loaded and unloaded, the file searched
";

fn main() -> ExitCode {
    println!("{EXPLANATION}");
    match compare_times("peers", "bench-pause") {
        Ok((shorter, faster)) => {
            let passed = shorter >= SHORTER && faster > FASTER;
            let verdict = if passed { "PASS" } else { "FAIL" };
            println!(
                "bench-pause: {verdict} the standstill is {shorter:.1} times shorter than with the \
                 better one of dump-guest-memory and pmemsave, wanted: {SHORTER:.0}; the whole \
                 job is {faster:.1} times faster than the fastest other way, wanted: more than \
                 {FASTER:.0}"
            );
            ExitCode::from(u8::from(!passed))
        }
        Err(why) => {
            println!("bench-pause: FAIL {why}");
            ExitCode::FAILURE
        }
    }
}
