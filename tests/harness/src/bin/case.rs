// SPDX-License-Identifier: GPL-2.0

//! `case NAME`: runs the cases with NAME in their names, on a kernel and a processor of choice.

use std::{io, process::ExitCode};

use clap::{Parser, ValueEnum};
use harness::{
    suite::{all_cases, groups, or_complain, Suite, Vm},
    testbed::Testbed,
};
use libtest_mimic::Arguments;

/// How many cases a VM runs at most.
const CASES: usize = 16;

/// Runs cases, each as a test.
#[derive(Parser)]
struct Options {
    /// A part of the cases' names
    name: String,
    /// The kernel of the VMs: stock, debug, or another one of tests/kernels.toml
    #[arg(long, default_value = "stock")]
    kernel: String,
    /// Whose processor is emulated
    #[arg(long, default_value = "amd")]
    vendor: Processor,
    /// How KVM maps the guests' memory
    #[arg(long, default_value = "nested")]
    paging: Paging,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Processor {
    Amd,
    Intel,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Paging {
    Nested,
    Shadow,
}

fn main() -> ExitCode {
    let options = Options::parse();
    or_complain(|| run(&options))
}

fn run(options: &Options) -> io::Result<ExitCode> {
    let testbed = Testbed::named(&options.kernel)?;
    if testbed.is_debug && options.vendor == Processor::Intel {
        let why = "the debug kernels know no Intel processors; take the stock one";
        return Err(io::Error::other(why));
    }
    let (mut cases, others): (Vec<_>, Vec<_>) = all_cases()?
        .into_iter()
        // Of another kernel that looks for mistakes, those of both kinds.
        .filter(|case| case.needs.fit(testbed.is_debug) || case.needs.fit(testbed.name == "debug"))
        .partition(|case| case.name.contains(&options.name));
    // A whole name selects that case alone, though others may contain it.
    if cases.iter().any(|case| case.name == options.name) {
        cases.retain(|case| case.name == options.name);
    }
    if cases.is_empty() {
        let names: Vec<&str> = others.iter().map(|case| case.name.as_str()).collect();
        return Err(io::Error::other(format!(
            "no case for this kernel has {:?} in its name; there are {}",
            options.name,
            names.join(", ")
        )));
    }
    let groups = groups(cases.into_iter(), CASES).into_iter().enumerate();
    let vms: Vec<Vm> = groups
        .map(|(index, cases)| {
            let name = format!("vm{index}");
            let vm = match (options.vendor, testbed.is_debug) {
                (Processor::Intel, _) => Vm::intel,
                (Processor::Amd, false) => Vm::stock,
                (Processor::Amd, true) => Vm::debug,
            };
            Vm {
                shadow_paging: options.paging == Paging::Shadow,
                ..vm(name, cases)
            }
        })
        .collect();
    let suite = Suite::open("case", testbed, &vms)?;
    Ok(suite.run(&Arguments::default(), vms))
}
