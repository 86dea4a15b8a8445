// SPDX-License-Identifier: GPL-2.0

//! The core cases where the processor or KVM works in another way than in the target `cases`: on
//! Intel, and on both vendors without nested paging.
//!
//! A test is a case in one of the VMs, which run many each: a boot in Bochs takes longer than most
//! cases.

use std::process::ExitCode;

use harness::{
    suite::{run, Vm},
    testbed::Testbed,
};

/// Cases that depend on the vendor: registers, how vCPUs stop and go on, who holds KVM, and the
/// search with AVX-512, which only this processor has.
const CORE: &[&str] = &[
    "registers_real",
    "registers_protected",
    "registers_long",
    "registers_outside",
    "registers_after_exit",
    "registers_port_io",
    "registers_msrs",
    "registers_paused",
    "registers_stepped",
    "registers_half_emulated",
    "registers_smm",
    "vcpus_one_two_eight",
    "vcpus_spin",
    "vcpus_halt",
    "vcpus_port_io",
    "vcpus_user_space",
    "search_access_and_engine",
    "slots_flags",
    "slots_smm",
    "find_silent",
    "refuse_late_vcpu",
    "life_unload_busy",
    "life_vmm_killed",
    "life_load_unload",
    "invisible_plain",
    "invisible_sync_regs",
    "threads_change",
    "vmms_kvm_stays",
];

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
        let find = |name: &&str| {
            let case = cases.iter().find(|case| case.name == **name);
            case.unwrap_or_else(|| panic!("there is no case {name}"))
                .clone()
        };
        let all = |names: &[&str]| names.iter().map(find).collect();
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
