// SPDX-License-Identifier: GPL-2.0

//! Compares `kvm-inspect dump` with QEMU's `dump-guest-memory`: how long the guest stands, and the
//! whole time.
//!
//! Times in an emulator mean nothing by themselves. What counts is how they compare for the same
//! guest.

use std::process::ExitCode;

use harness::nested::compare_times;

/// How many times shorter the guest must stand.
const SHORTER: f64 = 5.0;

/// How many times faster the whole must be.
const FASTER: f64 = 1.0;

const EXPLANATION: &str = "\
The command and QEMU write a Linux guest to a file, in turns. All is emulated, on one processor; it
takes some minutes.
  standstill  how long the guest stood, in all
  whole time  until the file is there
";

fn main() -> ExitCode {
    println!("{EXPLANATION}");
    match compare_times("dumps", "bench-dump") {
        Ok((shorter, faster)) => {
            let passed = shorter >= SHORTER && faster > FASTER;
            let verdict = if passed { "PASS" } else { "FAIL" };
            println!(
                "bench-dump: {verdict} the standstill is {shorter:.1} times shorter than with \
                 stop, dump-guest-memory, cont, wanted: {SHORTER:.0}; the whole time is \
                 {faster:.2} times shorter, wanted: more than {FASTER:.0}"
            );
            ExitCode::from(u8::from(!passed))
        }
        Err(why) => {
            println!("bench-dump: FAIL {why}");
            ExitCode::FAILURE
        }
    }
}
