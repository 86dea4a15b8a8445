// SPDX-License-Identifier: GPL-2.0

//! The cases on the debug kernel, but for some that would find nothing more there. A VM runs many,
//! since a boot is slow.

use std::process::ExitCode;

use harness::{
    suite::{groups, run, Vm},
    testbed::Testbed,
};

/// How many cases a VM runs at most: few enough that both processors are busy until the end. Leaked
/// memory is found at a VM's end.
const CASES: usize = 12;

fn main() -> ExitCode {
    run("debug", Testbed::debug(), |cases| {
        let cases = cases.into_iter().filter(|case| case.needs.fit(true));
        let groups = groups(cases, CASES).into_iter().enumerate();
        let vms = groups.map(|(index, cases)| Vm::debug(format!("vm{index}"), cases));
        vms.collect()
    })
}
