// SPDX-License-Identifier: GPL-2.0

//! The report that the module prints tells the same as its device. So other cases ask the device
//! alone.

use kvm_bindings::KVM_MEM_READONLY;
use kvm_inspect_tool::report::{Report, State};

use super::{secret, Case};
use crate::{
    inspect::{hex, Inspection},
    process::{has_feature, PAGE},
    vmm::{Backing, Mapping, Mode, Slot, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![vcpus, search];

const MIB: u64 = 1 << 20;

/// All lines of a vCPU, in each mode.
fn vcpus() {
    let mut modes = vec![
        Mode::Real,
        Mode::Protected,
        Mode::ProtectedPaging,
        Mode::ProtectedPae,
        Mode::Compatibility,
        Mode::Long,
        Mode::LongUser,
    ];
    if has_feature("la57") {
        modes.push(Mode::LongLa57);
    }
    let mut vm = Vm::bootable();
    for &mode in &modes {
        vm.add_vcpu(mode, Work::RegistersSpin);
    }
    vm.start();
    vm.stop();
    // This one is parked, and its registers stay as they are.
    vm.add_vcpu(Mode::Long, Work::RegistersHalt).start();
    vm.vcpu(modes.len()).wait_until_at_work();
    let printed = Inspection::of_self().report_by_insmod();
    let told = Inspection::of_self().report();
    assert_eq!(printed.vcpus, told.vcpus);
    for (vcpu, mode) in printed.vcpus.iter().zip(&modes) {
        assert_eq!(vcpu.state, State::Outside);
        let is = vcpu.mode.as_ref().expect("it is known");
        assert_eq!((&*is.name, &*is.paging), mode.names());
        assert_eq!(is.cpl, u64::from(mode.privilege_level()));
    }
    assert_eq!(printed.vcpus[modes.len()].state, State::Parked);
    vm.finish();
}

/// All that a search tells, with each parameter of it. The report also says what was asked.
fn search() {
    let mut vm = Vm::running(Work::Halt);
    let secret = secret(330, 16);
    // With pages of three kinds.
    let memory = vm.add_memory(MIB, 64 * PAGE, Backing::Anonymous);
    for page in 0..32 {
        vm.write(MIB + page * PAGE + 100 * page, &secret);
    }
    memory.forbid(5 * PAGE, 2 * PAGE);
    let readonly = Mapping::new(4 * PAGE, Backing::Anonymous);
    readonly.touch_all();
    vm.add(Slot {
        flags: KVM_MEM_READONLY,
        ..Slot::of(7, 2 * MIB, &readonly)
    });
    vm.write(2 * MIB + PAGE - 8, &secret);
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret), "itext:nowhere".to_owned()])
        .ranges(&["1M+2M", "0-0xfff"])
        .set("max_hits", 28)
        .set("context", 9)
        .set("max_pause_ms", 3_600_000)
        .set("threads", 1)
        .set("engine", "portable")
        .set("access", "copy")
        .set("bring_in", 1);
    let mut printed = inspection.partial_report_by_insmod();
    let told = inspection.partial_report();
    assert_eq!(told.done.hits, 31);
    assert_eq!(told.done.missing_pages, 2);
    let limits = [
        ("max_hits", 28),
        ("context", 9),
        ("max_pause_ms", 3_600_000),
        ("freeze_timeout_ms", 60_000),
        ("interval_ms", 0),
        ("threads", 1),
        ("max_slots", 128),
        ("max_vcpus", 64),
        ("bring_in", 1),
    ];
    let limits = limits.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(printed.limits, limits.into());
    assert_eq!(printed.ranges, [0..=0xfff, MIB..=0x2f_ffff]);
    let patterns = printed.patterns.iter();
    let patterns: Vec<_> = patterns.map(|is| (&*is.kind, is.length)).collect();
    assert_eq!(patterns, [("hex", 16), ("itext", 7)]);
    forget_request(&mut printed);
    assert_eq!(without_times(printed), without_times(told));
    vm.finish();
}

/// Takes out what only the printed report has.
fn forget_request(report: &mut Report) {
    report.patterns.clear();
    report.ranges.clear();
    report.limits.clear();
    report.late.clear();
}

fn without_times(mut report: Report) -> Report {
    let done = &mut report.done;
    for time in [
        &mut done.freeze_us,
        &mut done.pause_us,
        &mut done.paused_us,
        &mut done.scan_us,
    ] {
        *time = 0;
    }
    report
}
