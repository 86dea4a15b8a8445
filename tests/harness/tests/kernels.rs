// SPDX-License-Identifier: GPL-2.0

//! The core cases on each kernel of `tests/kernels.toml`, with an AMD processor.
//!
//! A test is a case on one of the kernels, `rt::life_vmm_killed`. Only the kernels of selected
//! tests have to be there.

use std::{io, process::ExitCode};

use harness::{
    core_cases::{select, CORE},
    suite::{all_cases, is_selected, or_complain, Suite, Vm},
    testbed::Testbed,
};
use libtest_mimic::Arguments;

/// How many VMs run the cases of a kernel: as many as run at a time.
const VMS: usize = 2;

/// Cases by which a kernel may differ, besides [`CORE`]: the layout of memslots, page tables and
/// what is in them, and what sessions wait for.
const MORE: &[&str] = &[
    "memory_holes",
    "memory_memfd",
    "memory_untouched",
    "kinds_swapped",
    "kinds_private_file",
    "kinds_guest_memfd",
    "search_threads",
    "meanwhile_slots_change",
    "device_copies",
    "device_searches",
    "device_holds",
    "sessions_end_with_holder",
    "sessions_unloaded",
];

fn main() -> ExitCode {
    or_complain(run)
}

fn run() -> io::Result<ExitCode> {
    let arguments = Arguments::from_args();
    let cases = all_cases()?;
    let mut failed = false;
    for testbed in Testbed::listed()? {
        let prefix = format!("{}::", testbed.name);
        let mut chosen = select(&cases, CORE);
        chosen.extend(select(&cases, MORE));
        let is_wanted = |case: &str| is_selected(&format!("{prefix}{case}"), &arguments);
        if !chosen.iter().any(|case| is_wanted(&case.name)) {
            continue;
        }
        // Dealt out in turn, since neighbours take similarly long.
        let vms: Vec<Vm> = (0..VMS)
            .map(|index| {
                let cases = chosen.iter().skip(index).step_by(VMS).cloned().collect();
                let name = format!("{}{index}", testbed.name);
                let vm = if testbed.is_debug {
                    Vm::debug
                } else {
                    Vm::stock
                };
                Vm {
                    prefix: prefix.clone(),
                    ..vm(name, cases)
                }
            })
            .collect();
        let code = Suite::open("kernels", testbed, &vms)?.run(&arguments, vms);
        failed |= code != ExitCode::SUCCESS;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
