// SPDX-License-Identifier: GPL-2.0

//! The cases on the stock kernel, each in a VM of its own.
//!
//! `cargo test -p vm --test cases -- NAME` runs those with NAME in their names.

use std::process::ExitCode;

use guest::protocol::CaseInfo;
use vm::{
    bed::Bed,
    suite::{run, Vendor, Vm},
};

fn main() -> ExitCode {
    let vm = |case: CaseInfo| Vm {
        name: case.name.clone(),
        prefix: String::new(),
        vendor: Vendor::Amd,
        parameters: "",
        slowness: 1,
        fewer: 1,
        cases: vec![case],
    };
    run("cases", Bed::stock(), |cases| {
        let cases = cases.into_iter().filter(|case| case.needs.fit(false));
        cases.map(vm).collect()
    })
}
