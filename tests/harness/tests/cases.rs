// SPDX-License-Identifier: GPL-2.0

//! The cases on the stock kernel. A VM runs many, since a boot takes longer than most of them.

use std::process::ExitCode;

use harness::{
    suite::{groups, run, Vm},
    testbed::Testbed,
};

/// How many cases a VM runs at most.
const CASES: usize = 10;

fn main() -> ExitCode {
    run("cases", Testbed::stock(), |cases| {
        let cases = cases.into_iter().filter(|case| case.needs.fit(false));
        let groups = groups(cases, CASES).into_iter().enumerate();
        let vms = groups.map(|(index, cases)| Vm::stock(format!("vm{index}"), cases));
        vms.collect()
    })
}
