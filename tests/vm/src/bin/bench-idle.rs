// SPDX-License-Identifier: GPL-2.0

//! Measures what the module costs while it waits. The measurement is in the crate `guest`.

use std::{io, process::ExitCode};

use guest::protocol::{CaseInfo, Needs};
use vm::{
    bed::Bed,
    judge::Verdict,
    suite::{Suite, Vendor, Vm},
};

/// How often a VM is started that did not boot or was lost.
const ATTEMPTS: u32 = 3;

fn main() -> ExitCode {
    let text = bench().unwrap_or_else(|error| format!("bench-idle: FAIL {error}"));
    println!("{text}");
    if text.ends_with("PASS") {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What the measurement says.
fn bench() -> io::Result<String> {
    let vm = Vm {
        name: "vm".to_owned(),
        prefix: String::new(),
        vendor: Vendor::Amd,
        parameters: "",
        slowness: 1,
        fewer: 1,
        cases: vec![CaseInfo {
            name: "bench_idle".to_owned(),
            seconds: 600,
            needs: Needs::NOTHING,
        }],
    };
    let vms = [vm];
    let suite = Suite::open("bench-idle", Bed::stock(), &vms)?;
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
