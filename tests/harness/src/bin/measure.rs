// SPDX-License-Identifier: GPL-2.0

//! `measure NAME`: runs a measurement of the crate `cases` in a VM, and prints its results.

use std::{env, io, process::ExitCode};

use cases::protocol::{CaseInfo, Needs};
use harness::{
    judge::Verdict,
    suite::{Suite, Vm},
    testbed::Testbed,
};

/// How often to start a VM that did not boot or was lost.
const ATTEMPTS: u32 = 3;

/// Makes the kernel copy from user space by words, as `memcpy` copies a page. Its `rep movsb` costs
/// the emulator, but not a processor, a step for each byte.
const COPY_BY_WORDS: &str = "clearcpuid=erms,fsrm";

fn main() -> ExitCode {
    let name = env::args().nth(1).unwrap_or_default();
    let text = measure(&name).unwrap_or_else(|error| format!("{name}: FAIL {error}"));
    println!("{text}");
    if text.ends_with("PASS") {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Returns what the measurement prints.
fn measure(name: &str) -> io::Result<String> {
    let cases = vec![CaseInfo {
        name: name.replace('-', "_"),
        seconds: 2100,
        needs: Needs::NOTHING,
    }];
    let vm = Vm {
        in_parallel: true,
        ..Vm::stock("vm".to_owned(), cases)
    };
    let vms = [vm];
    let mut testbed = Testbed::stock();
    if name == "bench-module" || name == "bench-device" {
        testbed.parameters = format!("{} {COPY_BY_WORDS}", testbed.parameters);
    }
    let suite = Suite::open("measure", testbed, &vms)?;
    let mut why = String::new();
    for _ in 0..ATTEMPTS {
        match suite.run_once(&vms[0], 1)?.pop() {
            Some(Verdict::Passed(text)) => return Ok(text),
            Some(Verdict::Failed(reason)) => return Err(io::Error::other(reason)),
            Some(Verdict::Infrastructure(reason)) => why = reason,
            None => (),
        }
    }
    Err(io::Error::other(why))
}
