// SPDX-License-Identifier: GPL-2.0

//! The core cases where the processor or KVM work in another way than in the target `cases`: on
//! Intel, and on both vendors without nested paging.
//!
//! A boot in Bochs takes longer than most cases, so that a VM runs many, one after the other. A test
//! is a case in one of the VMs. `cargo test -p vm --test vendors -- NAME` runs those with NAME in
//! their names, in as few VMs.

use std::process::ExitCode;

use vm::{
    bed::Bed,
    suite::{run, Vendor, Vm},
};

/// A VM: its name, its processor, KVM's parameters, and its cases.
type Setup = (&'static str, Vendor, &'static str, &'static [&'static str]);

/// Bochs takes a posted-interrupt descriptor for malformed where KVM puts it.
const APICV_OFF: &str = "kvm_intel.enable_apicv=N";

/// Those that take longest come first.
const VMS: &[Setup] = &[
    ("intel", Vendor::Intel, APICV_OFF, CORE),
    (
        "intel_ept_off",
        Vendor::Intel,
        "kvm_intel.enable_apicv=N kvm_intel.ept=N",
        WITHOUT_NESTED_PAGING,
    ),
    (
        "amd_npt_off",
        Vendor::Amd,
        "kvm_amd.npt=N",
        WITHOUT_NESTED_PAGING,
    ),
];

const CORE: &[&str] = &[
    "registers_real",
    "registers_protected",
    "registers_long",
    "registers_outside",
    "registers_after_exit",
    "registers_port_io",
    "vcpus_one_two_eight",
    "vcpus_spin",
    "vcpus_halt",
    "vcpus_port_io",
    "vcpus_user_space",
    "memory_borders",
    "memory_holes",
    "search_itext",
    "search_ways",
    "search_threads",
    "slots_borders",
    "slots_flags",
    "slots_smm",
    "find_silent",
    "refuse_late_vcpu",
    "life_unload_busy",
    "life_vmm_killed",
    "life_load_unload_100",
    "invisible_plain",
    "invisible_sync_regs",
    "threads_change",
    "meanwhile_slots_change",
    "vmms_killed",
    "vmms_kvm_stays",
];

/// KVM then holds other registers itself, and the guest's page tables in shadows.
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
    "memory_borders",
    "memory_holes",
];

fn main() -> ExitCode {
    run("vendors", Bed::stock(), |cases| {
        let find = |name: &&str| {
            let case = cases.iter().find(|case| case.name == **name);
            case.unwrap_or_else(|| panic!("the guest's program has no case {name}"))
                .clone()
        };
        let vm = |(name, vendor, parameters, names): &Setup| Vm {
            name: (*name).to_owned(),
            prefix: format!("{name}::"),
            vendor: *vendor,
            parameters,
            in_parallel: false,
            // Bochs gets no more than its share of a busy machine.
            slowness: 3,
            fewer: 10,
            cases: names.iter().map(find).collect(),
        };
        VMS.iter().map(vm).collect()
    })
}
