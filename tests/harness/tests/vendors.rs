// SPDX-License-Identifier: GPL-2.0

//! The core cases where the processor or KVM works in another way than in the target `cases`: on
//! Intel, and on both vendors without nested paging.
//!
//! A test is a case in one of the VMs, which run many each: a boot in Bochs takes longer than most
//! cases.

use std::process::ExitCode;

use harness::{
    core_cases::{select, CORE},
    suite::{run, Vm},
    testbed::Testbed,
};

/// Cases that depend on shadow page tables, where KVM also holds other registers itself.
const WITHOUT_NESTED_PAGING: &[&str] = &[
    "registers_real",
    "registers_protected",
    "registers_long",
    "registers_outside",
    "registers_after_exit",
    "registers_port_io",
    "vcpus_spin",
    "vcpus_halt",
    "vcpus_port_io",
];

fn main() -> ExitCode {
    run("vendors", Testbed::stock(), |cases| {
        let all = |names| select(&cases, names);
        // The longest ones come first.
        let vms = [
            Vm::intel("intel".to_owned(), all(CORE)),
            Vm {
                shadow_paging: true,
                ..Vm::intel("intel_ept_off".to_owned(), all(WITHOUT_NESTED_PAGING))
            },
            Vm {
                shadow_paging: true,
                repeat_divisor: 10,
                ..Vm::stock("amd_npt_off".to_owned(), all(WITHOUT_NESTED_PAGING))
            },
        ];
        let named = vms.map(|vm| Vm {
            prefix: format!("{}::", vm.name),
            ..vm
        });
        named.into()
    })
}
