// SPDX-License-Identifier: GPL-2.0

//! A VMM sees nothing of an inspection, however it uses `KVM_RUN`.

use std::{
    fs,
    time::{Duration, Instant},
};

use kvm_inspect_tool::report::State;

use super::{times, Case};
use crate::{
    inspect::Inspection,
    process::wait_until,
    vmm::{Manner, Mode, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    plain,
    sync_regs,
    immediate_exit.with_stock(),
    signal_mask.with_stock(),
    rearmed,
];

/// The module finds threads in calls that did not come through its hook: each time when it was
/// loaded, and after each long pause between inspections, for which it removes the probe.
fn rearmed() {
    let mut vm = Vm::bootable();
    for work in [Work::Spin, Work::Halt, Work::Count, Work::Spin] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    let parked = [State::Parked; 4];
    let loads = times(5);
    for _ in 0..loads {
        assert_eq!(Inspection::of_self().report_by_insmod().states(), parked);
    }
    let mut loaded = Inspection::of_self().set("interval_ms", 1000).load();
    let mut freezes = loads;
    while freezes < loads + 4 {
        for report in loaded.next_reports() {
            assert_eq!(report.states(), parked);
            freezes += 1;
        }
    }
    // No probe is left in between.
    let probes = || fs::read_to_string("/sys/kernel/debug/kprobes/list");
    wait_until("the probes are gone", || {
        probes().is_ok_and(|list| list.is_empty())
    });
    loaded.unload();
    println!("counted: freezes={freezes}");
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// With a VMM that uses the exits only.
fn plain() {
    frozen_often(Manner::Plain);
}

/// With a VMM that exchanges registers in the `kvm_run` page.
fn sync_regs() {
    frozen_often(Manner::SyncRegs);
}

/// With a VMM that sets `immediate_exit`.
fn immediate_exit() {
    frozen_often(Manner::ImmediateExit);
}

/// With a VMM that lets signals in during `KVM_RUN` only.
fn signal_mask() {
    frozen_often(Manner::SignalMask);
}

/// Freezes a guest again and again. Its VMM checks each return of `KVM_RUN`: an `EINTR` without a
/// signal, or a changed field, ends the case.
fn frozen_often(manner: Manner) {
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::PortIo, Work::Halt, Work::Spin] {
        vm.add_vcpu(Mode::Long, work).set_manner(manner);
    }
    let begin = Instant::now();
    let mut loaded = Inspection::of_self().set("interval_ms", 1).load();
    let loading = begin.elapsed();
    // All their KVM_RUN calls come after the module.
    vm.start();
    loaded.reports();
    let enough = times(250);
    let (mut freezes, mut all_parked, mut sent) = (0, 0, 0);
    let mut took = Vec::new();
    // Count only freezes in which no vCPU was locked out because its thread was late.
    while all_parked < enough {
        let before = all_parked;
        wait_until("another freeze with all vCPUs parked", || {
            for report in loaded.reports() {
                freezes += 1;
                took.push(report.done.freeze_us);
                all_parked += u32::from(report.states() == [State::Parked; 4]);
            }
            if manner == Manner::SignalMask {
                for vcpu in &*vm.vcpus() {
                    vcpu.send_masked_signal();
                }
                sent += 1;
            }
            all_parked > before
        });
    }
    loaded.unload();
    vm.wait_until_it_goes_on();
    println!("counted: freezes={freezes} signals={}", sent * 4);
    assert!(all_parked > freezes / 5, "{all_parked} of {freezes}");
    // A late or lost kick shows in the time until all vCPUs have stopped. Compare it with the time
    // to load the module, which is similar work for this machine.
    took.sort_unstable();
    let median = Duration::from_micros(took[took.len() / 2]);
    assert!(
        median < loading,
        "it takes {median:?} to stop all vCPUs, and {loading:?} to load the module"
    );
    println!(
        "{freezes} freezes, in {all_parked} of them all vCPUs parked, {sent} signals to each vCPU"
    );
    if manner == Manner::SignalMask {
        for vcpu in vm.vcpus() {
            wait_until("the VMM has seen each signal", || {
                vcpu.signals_taken() == sent
            });
        }
    }
    vm.finish();
}
