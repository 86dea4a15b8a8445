// SPDX-License-Identifier: GPL-2.0

//! The cases that every processor and every kernel runs.

use cases::protocol::CaseInfo;

/// Cases that depend on the vendor: registers, how vCPUs stop and go on, who holds KVM, and the
/// search with AVX-512, which only one emulated processor has.
pub const CORE: &[&str] = &[
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

/// Returns the cases with these names, in this order.
///
/// # Panics
///
/// One of them is not there.
#[must_use]
pub fn select(cases: &[CaseInfo], names: &[&str]) -> Vec<CaseInfo> {
    let find = |name: &&str| {
        let case = cases.iter().find(|case| case.name == **name);
        case.unwrap_or_else(|| panic!("there is no case {name}"))
            .clone()
    };
    names.iter().map(find).collect()
}
