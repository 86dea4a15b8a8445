// SPDX-License-Identifier: GPL-2.0

//! The module finds the right VMs.

use std::{thread, time::Duration};

use kvm_inspect_tool::report::{Report, State};

use super::{secret, Case};
use crate::{
    inspect::{hex, Inspection},
    process::{own_pid, process_state, wait_until},
    role::{hear, say, Other, Role},
    vmm::{Mode, Vcpu, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    silent,
    two_vms.with_stock(),
    two_vmms.with_stock(),
    by_vcpu,
    without_main_thread,
];

pub(super) const ROLES: &[Role] = roles![has_secret, ends_main_thread];

/// It finds a VM whose vCPUs make no ioctl: one halts, one spins, one never ran.
fn silent() {
    let mut vm = Vm::bootable();
    for work in [Work::Halt, Work::Spin, Work::Halt] {
        vm.add_vcpu(Mode::Long, work);
    }
    for id in [0, 1] {
        vm.vcpu(id).start();
        vm.vcpu(id).wait_until_at_work();
    }
    let secret = secret(80, 16);
    vm.write(0x123, &secret);
    let entries = |vm: &mut Vm| vm.vcpus().iter().map(Vcpu::entries).collect::<Vec<_>>();
    let before = entries(&mut vm);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(entries(&mut vm), before, "nobody has called KVM_RUN");
    let report = Inspection::of_self().patterns(&[hex(&secret)]).report();
    assert_eq!(
        report.states(),
        [State::Parked, State::Parked, State::Outside]
    );
    assert_eq!(report.hits, vm.hits(0, &[0x123]));
    vm.finish();
}

/// Of two VMs in one process it inspects both, or the one that is named.
fn two_vms() {
    let secret = secret(81, 16);
    let mut vms = [Vm::running(Work::Count), Vm::running(Work::Halt)];
    vms[1].add_vcpu(Mode::Long, Work::Spin);
    vms[0].write(0x100, &secret);
    vms[1].write(0x200, &secret);
    let inspection = || Inspection::of_self().patterns(&[hex(&secret)]);

    let reports = inspection().reports_by_insmod();
    let fds: Vec<Option<i32>> = reports.iter().map(|report| report.fd).collect();
    assert_eq!(fds, [Some(vms[0].fd()), Some(vms[1].fd())]);
    let check = |vm: &Vm, report: &Report, place, vcpus| {
        assert_eq!(report.pid, own_pid());
        assert_eq!(report.fd, Some(vm.fd()));
        assert_eq!(report.hits, vm.hits(0, &[place]));
        assert_eq!(report.vcpus.len(), vcpus);
        vm.assert_slots(report);
    };
    check(&vms[0], &reports[0], 0x100, 1);
    check(&vms[1], &reports[1], 0x200, 2);
    for (vm, place, vcpus) in [(&vms[0], 0x100, 1), (&vms[1], 0x200, 2)] {
        let inspection = inspection().set("vm_fd", vm.fd());
        check(vm, &inspection.report_by_insmod(), place, vcpus);
        check(vm, &inspection.report(), place, vcpus);
    }
    vms.iter_mut().for_each(Vm::finish);
}

/// Of two VMMs it inspects the named one only.
fn two_vmms() {
    let secret = secret(82, 16);
    let mut vmms = [0x300, 0x400].map(|place: u64| {
        let mut vmm = Other::start("has_secret", &[&place.to_string()]);
        assert_eq!(vmm.hear(), "runs");
        (vmm, place)
    });
    for round in 0..4 {
        let (vmm, place) = &mut vmms[round % 2];
        let report = Inspection::of(vmm.pid()).patterns(&[hex(&secret)]).report();
        assert_eq!(report.pid, vmm.pid());
        assert_eq!(report.states(), [State::Parked]);
        assert_eq!(report.hits_of(0), [*place]);
    }
    for (mut vmm, _) in vmms {
        // Both go on, and the other one was not disturbed.
        vmm.tell("end");
        vmm.finish();
    }
}

/// A VMM with one VM.
fn has_secret(arguments: &[&str]) {
    let place: u64 = arguments[0].parse().expect("a number");
    let mut vm = Vm::running(Work::Count);
    vm.write(place, &secret(82, 16));
    say("runs");
    hear();
    vm.vcpu(0).wait_until_it_goes_on();
    vm.finish();
}

/// It finds a VM whose VMM has closed the VM's file, and keeps those of the vCPUs.
fn by_vcpu() {
    let secret = secret(83, 16);
    let mut vm = Vm::bootable();
    for _ in 0..2 {
        vm.add_vcpu(Mode::Long, Work::Count);
    }
    vm.start();
    vm.write(0x500, &secret);
    vm.close_fd();
    let report = Inspection::of_self().patterns(&[hex(&secret)]).report();
    assert_eq!(report.fd, None);
    assert_eq!(report.states(), [State::Parked; 2]);
    assert_eq!(report.hits, vm.hits(0, &[0x500]));
    vm.finish();
}

/// It finds the VM of a VMM whose first thread has ended, by its number and by that of a thread.
fn without_main_thread() {
    let mut vmm = Other::start("ends_main_thread", &[]);
    let thread: i32 = vmm.hear().parse().expect("a number");
    wait_until("its first thread has ended", || {
        process_state(vmm.pid()) == 'Z'
    });
    for number in [vmm.pid(), thread] {
        let report = Inspection::of(number).report_by_insmod();
        assert_eq!(report.pid, vmm.pid());
        assert_eq!(report.states(), [State::Parked]);
    }
    vmm.kill();
}

/// A VMM whose first thread ends. It prints the number of its vCPU's thread.
fn ends_main_thread(_: &[&str]) {
    let mut vm = Vm::running(Work::Count);
    say(&vm.vcpu(0).tid().to_string());
    // SAFETY: This ends the thread, and leaves its stack as it is.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}
