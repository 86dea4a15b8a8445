// SPDX-License-Identifier: GPL-2.0

//! The cases on the stock kernel. A boot takes longer than most cases, so that a VM runs many.
//!
//! `cargo test -p vm --test cases -- NAME` runs those with NAME in their names.

use std::process::ExitCode;

use vm::{
    bed::Bed,
    suite::{groups, run, Vendor, Vm},
};

/// How many cases a VM runs at most.
const CASES: usize = 8;

fn main() -> ExitCode {
    run("cases", Bed::stock(), |cases| {
        let cases = cases.into_iter().filter(|case| case.needs.fit(false));
        let groups = groups(cases, CASES).into_iter().enumerate();
        let vms = groups.map(|(index, cases)| Vm {
            name: format!("vm{index}"),
            prefix: String::new(),
            vendor: Vendor::Amd,
            parameters: "",
            in_parallel: false,
            slowness: 1,
            fewer: 1,
            cases,
        });
        vms.collect()
    })
}
