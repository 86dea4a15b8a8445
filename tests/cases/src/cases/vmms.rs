// SPDX-License-Identifier: GPL-2.0

//! VMMs and their VMs come and go while they are inspected again and again.

use std::{
    fs,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use kvm_inspect_tool::report::{Conclusion, Report};
use kvm_ioctls::VcpuFd;
use rustix::{
    io::Errno,
    process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags},
    system::delete_module,
};

use super::{
    life::{set_tracing, TRACING},
    meanwhile::inspect_while,
    search::{fill_with_matches, lengthen, long_us, MATCH},
    secret, times, Case, Random,
};
use crate::{
    inspect::{assert_nothing_left, hex, module_thread, unload_module, Inspection, Refusal},
    process::{own_pid, pin, wait_until},
    role::{hear, say, Other, Role},
    vmm::{Backing, Manner, Mapping, Mode, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    killed.within(600),
    unloaded,
    file_held,
    come_and_go,
    made_anew,
    closed.with_stock(),
    kvm_stays,
    address_reused.with_stock(),
];

pub(super) const ROLES: &[Role] = roles![three_vcpus, one_by_one];

/// Returns whether the module may log a line when the VMM is gone.
fn is_farewell(line: &str) -> bool {
    line.starts_with("error: there is no process")
        || line.starts_with("error: the VMM is exiting")
        || line.contains("has no VM")
        || line.starts_with("there will be no more inspections")
}

/// A VMM that prints its VM's file descriptor, and runs until it is told to end.
fn three_vcpus(_: &[&str]) {
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::Halt, Work::PortIo] {
        vm.add_vcpu(Mode::Long, work).set_manner(Manner::Handled);
    }
    vm.write(0x200, &secret(130, 16));
    vm.start();
    say(&vm.fd().to_string());
    hear();
    vm.finish();
}

fn start() -> (Other, i32) {
    let mut vmm = Other::start("three_vcpus", &[]);
    let fd = vmm.hear().parse().expect("a number");
    (vmm, fd)
}

fn inspection(pid: i32) -> Inspection {
    Inspection::of(pid).patterns(&[hex(&secret(130, 16))])
}

/// How often to try for the right moment, which may be missed.
const TRIES: u32 = 200;

/// Measures the time from one inspection to the next.
fn period() -> Duration {
    const COUNT: u32 = 5;
    let (mut vmm, _) = start();
    let mut loaded = inspection(vmm.pid()).set("interval_ms", 1).load();
    loaded.next_reports();
    let (begin, mut reports) = (Instant::now(), 0);
    while reports < COUNT {
        reports += u32::try_from(loaded.next_reports().len()).expect("not many");
    }
    let period = begin.elapsed() / reports;
    loaded.unload();
    vmm.tell("end");
    vmm.finish();
    println!("an inspection each {period:?}");
    period
}

fn check(report: &Report) {
    match report.done.result {
        Conclusion::Ok => assert_eq!(report.hits_of(0), [0x200]),
        Conclusion::VmmKilled | Conclusion::VmClosed => (),
        other => panic!("unexpected result {other:?}"),
    }
}

/// A VMM is killed at any moment. It is gone at once, and the module says so.
fn killed() {
    let mut random = Random::new();
    let period = period();
    let (mut kills, mut freezes, mut in_the_middle) = (0, 0, 0);
    let count = times(12);
    // The right moment may be missed, all the more in few rounds.
    while kills < count || (in_the_middle == 0 && kills < TRIES) {
        let (vmm, _) = start();
        let mut loaded = inspection(vmm.pid()).set("interval_ms", 1).load();
        random.pause(2 * period);
        vmm.kill();
        kills += 1;
        let mut seen = |reports: Vec<Report>| {
            for report in reports {
                check(&report);
                freezes += 1;
                in_the_middle += u32::from(report.done.result == Conclusion::VmmKilled);
            }
        };
        wait_until("the module says that it is done", || {
            let (reports, others) = loaded.reports_and_others();
            seen(reports);
            assert!(others.iter().all(|line| is_farewell(line)), "{others:#?}");
            others.iter().any(|line| line.starts_with("error: "))
        });
        let last = loaded.unload_for_lines();
        assert!(last.iter().all(|line| is_farewell(line)), "{last:#?}");
    }
    println!("counted: freezes={freezes} kills={kills}");
    println!("{in_the_middle} in the middle of an inspection");
    assert!(in_the_middle > 0, "never in the middle of an inspection");
}

/// The module is unloaded at any moment.
fn unloaded() {
    let mut random = Random::new();
    let period = period();
    let (mut vmm, _) = start();
    let (mut unloads, mut freezes) = (0, 0);
    let count = times(12);
    // Each round has the report from loading. One more shows that unloading came between
    // inspections.
    while unloads < count || (freezes == unloads && unloads < TRIES) {
        let loaded = inspection(vmm.pid()).set("interval_ms", 1).load();
        random.pause(3 * period);
        for report in loaded.unload() {
            assert_eq!(report.done.result, Conclusion::Ok);
            check(&report);
            freezes += 1;
        }
        unloads += 1;
    }
    println!("counted: freezes={freezes} unloads={unloads}");
    assert!(freezes > unloads, "always before the second inspection");
    vmm.tell("end");
    vmm.finish();
}

/// If another process holds the VM's file the VM is found there, too. It outlives its VMM, but its
/// memory does not.
fn file_held() {
    let (vmm, fd) = start();
    let pid = Pid::from_raw(vmm.pid()).expect("process numbers are positive");
    let vmm_fd = pidfd_open(pid, PidfdFlags::empty()).expect("the process is there");
    let held = pidfd_getfd(vmm_fd, fd, PidfdGetfdFlags::empty()).expect("root may have it");
    let report = inspection(own_pid()).report_by_insmod();
    assert_eq!(report.fd, Some(held.as_raw_fd()));
    check(&report);
    let mut loaded = inspection(own_pid()).set("interval_ms", 1).load();
    for _ in 0..3 {
        loaded.next_reports();
    }
    vmm.kill();
    wait_until("the module says that the VM has no memory", || {
        let (reports, others) = loaded.reports_and_others();
        reports.iter().for_each(check);
        assert!(others.iter().all(|line| is_farewell(line)), "{others:#?}");
        !others.is_empty()
    });
    loaded.unload_for_lines();
    inspection(own_pid()).refused(Errno::SRCH, &["the VMM is exiting", "no memory"]);
    drop(held);
    inspection(own_pid()).refused(Errno::NOENT, &["VM"]);
}

/// VMs of one process come and go, while one stays. All that are there are inspected.
fn come_and_go() {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Count);
    vm.write(0x200, &secret(130, 16));
    vm.start();
    let fd = vm.fd();
    let mut random = Random::new();
    let (mut made, mut of_others, mut of_ours) = (0, 0, 0);
    inspect_while(
        inspection(own_pid()),
        60,
        || {
            let mut other = Vm::bootable();
            for work in [Work::Count, Work::PortIo] {
                // The module may find them in KVM_RUN when it first sees their VM.
                other.add_vcpu(Mode::Long, work).set_manner(Manner::Handled);
            }
            other.write(0x200, &secret(130, 16));
            other.start();
            random.pause(Duration::from_millis(50));
            other.wait_until_it_goes_on();
            other.finish();
            made += 1;
        },
        |report| {
            if report.fd == Some(fd) {
                assert_eq!(report.done.result, Conclusion::Ok);
                assert_eq!(report.hits_of(0), [0x200]);
                of_ours += 1;
            } else {
                // It may not be complete yet: without its slots, or without its secret.
                assert!(matches!(
                    report.done.result,
                    Conclusion::Ok | Conclusion::MemslotsChanged | Conclusion::VmClosed
                ));
                assert!(report.hits_of(0).iter().all(|&gpa| gpa == 0x200));
                of_others += 1;
            }
        },
    );
    println!("counted: vms={made}");
    println!("{of_ours} reports on the one that stays, {of_others} on others");
    assert!(of_ours > 0 && of_others > 0);
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// A VMM closes its VM, and makes a new one some time later, as for a guest's reboot. Inspections
/// go on with that.
fn made_anew() {
    for interval in [5, 1000] {
        let mut vm = Vm::running(Work::Count);
        let mut loaded = Inspection::of_self().set("interval_ms", interval).load();
        vm.finish();
        drop(vm);
        let mut lines = Vec::new();
        wait_until("the module says that there is no VM", || {
            lines.extend(loaded.reports_and_others().1);
            lines.iter().any(|line| line.contains("has no VM now"))
        });
        let mut vm = Vm::running(Work::Count);
        wait_until("the new VM is inspected", || {
            let (reports, others) = loaded.reports_and_others();
            lines.extend(others);
            let mut reports = reports.iter();
            reports.any(|report| report.fd == Some(vm.fd()) && report.vcpus.len() == 1)
        });
        assert_eq!(lines.len(), 1, "{lines:#?}");
        loaded.unload_for_lines();
        vm.vcpu(0).wait_until_it_goes_on();
        vm.finish();
    }
}

/// KVM cannot be unloaded while the module is there, nor its vendor's part while there is a VM.
/// Without the module both can.
fn kvm_stays() {
    let vendor = if crate::process::has_feature("vmx") {
        c"kvm_intel"
    } else {
        c"kvm_amd"
    };
    let unload = |name| delete_module(name, libc::O_NONBLOCK);
    let (vmm, _) = start();
    let mut loaded = inspection(vmm.pid()).set("interval_ms", 1).load();
    for _ in 0..50 {
        assert_eq!(unload(vendor), Err(Errno::AGAIN));
        assert_eq!(unload(c"kvm"), Err(Errno::AGAIN));
    }
    assert!(!loaded.reports().is_empty());
    vmm.kill();
    wait_until("the module is done", || {
        let (_, others) = loaded.reports_and_others();
        !others.is_empty()
    });
    assert_eq!(unload(c"kvm"), Err(Errno::AGAIN));
    // No VM needs it any more.
    wait_until("the vendor's part can go", || unload(vendor).is_ok());
    assert_eq!(unload(c"kvm"), Err(Errno::AGAIN));
    unload_module("kvm_inspect");
    assert_nothing_left();
    assert_eq!(unload(c"kvm"), Ok(()));
    crate::init::load_kvm().expect("KVM can come back");
    match inspection(own_pid()).try_load() {
        Err(Refusal { errno, .. }) => assert_eq!(errno, Errno::NOENT),
        Ok(_) => panic!("there is no VM"),
    }
    let mut vm = Vm::running(Work::Count);
    vm.write(0x200, &secret(130, 16));
    check(&inspection(own_pid()).report_by_insmod());
    vm.finish();
}

/// A VM that its VMM closes while it is searched is let go soon, and the report says so.
fn closed() {
    const GIB: u64 = 1 << 30;
    let memory = Mapping::new(16 << 20, Backing::Anonymous);
    fill_with_matches(&memory, 1, 40);
    let inspection = Inspection::of_self().patterns(&[hex(&MATCH)]);
    let mut vm = Vm::bootable();
    let long = lengthen(&mut vm, GIB, &memory, &inspection, long_us);
    drop(vm);
    let scan_us = long.whole.done.scan_us;
    let inspection = inspection.set("max_pause_ms", scan_us / 8000);
    let mut random = Random::new();
    let mut tries = (0..100).map(|_| {
        let mut vm = Vm::bootable();
        vm.add_vcpu(Mode::Long, Work::Halt);
        for index in 0..long.times {
            vm.add_mapping(GIB + index * memory.len(), &memory);
        }
        thread::scope(|scope| {
            let report = scope.spawn(|| match inspection.try_load() {
                Ok(loaded) => loaded.unload().pop(),
                // It was closed before.
                Err(_) => None,
            });
            wait_until("the inspection begins", || {
                module_thread().is_some() || report.is_finished()
            });
            thread::sleep(random.some_of(Duration::from_micros(2 * scan_us)));
            drop(vm);
            report.join().expect("it ends")
        })
    });
    let closed = tries.find(|report| {
        let result = report.as_ref().map(|report| report.done.result);
        println!("{result:?}");
        result == Some(Conclusion::VmClosed)
    });
    assert!(closed.is_some(), "it was never closed in the middle");
}

/// Makes a VM. Its only vCPU calls `KVM_RUN` once, which returns before the guest is entered.
fn called_once() -> (Vm, VcpuFd) {
    let vm = Vm::empty();
    let mut vcpu = vm.idle_vcpu(0);
    vcpu.set_kvm_immediate_exit(1);
    let result = vcpu.run().map_err(kvm_ioctls::Error::errno);
    assert!(matches!(result, Err(libc::EINTR)), "{result:?}");
    (vm, vcpu)
}

/// A VMM that makes a VM, and closes it, as often as it is told to.
fn one_by_one(_: &[&str]) {
    while hear() == "make" {
        let vm = called_once();
        say("made");
        hear();
        drop(vm);
        say("closed");
    }
}

/// A VMM closes its VM between two inspections, and another process makes one, which gets the same
/// address in the kernel. The module does not touch that: no call of `KVM_RUN` starts over.
fn address_reused() {
    // Nearly always the first one will do.
    const ROUNDS: u32 = 100;
    set_tracing(&[
        ("buffer_size_kb", "16"),
        ("tracing_on", "1"),
        ("kprobe_events", "p:vm_made kvm_arch_init_vm kvm=%di:x64\n"),
        ("events/kprobes/enable", "1"),
        // KVM_RUN. The module cannot hide a call from this probe.
        ("events/syscalls/sys_enter_ioctl/filter", "cmd == 0xae80"),
        ("events/syscalls/sys_enter_ioctl/enable", "1"),
    ]);
    // What is freed on a processor is the first that is allocated there.
    pin(0, 0);
    let mut vmm = Other::start("one_by_one", &[]);
    let round = (1..=ROUNDS).find(|_| gets_watched_address(&mut vmm));
    let round = round.unwrap_or_else(|| panic!("in {ROUNDS} rounds no VM got the address"));
    println!("a VM got the address in round {round}");
    vmm.tell("end");
    vmm.finish();
    set_tracing(&[
        ("events/syscalls/sys_enter_ioctl/enable", "0"),
        ("events/syscalls/sys_enter_ioctl/filter", "0"),
        ("events/kprobes/enable", "0"),
        ("kprobe_events", "\n"),
    ]);
}

/// Makes a VM after that of `vmm`, which was inspected, has gone. Returns whether it got the same
/// address before the module noticed that. In any case its call of `KVM_RUN` must be the only one.
fn gets_watched_address(vmm: &mut Other) -> bool {
    set_tracing(&[("trace", "")]);
    assert_eq!(vmm.ask("make"), "made");
    // With a longer interval no call is redirected between inspections.
    let inspection = Inspection::of(vmm.pid()).set("interval_ms", 999);
    let mut loaded = inspection.load();
    assert_eq!(loaded.reports().len(), 1);
    assert_eq!(vmm.ask("close"), "closed");
    let _vm = called_once();
    let (_, others) = loaded.reports_and_others();
    loaded.unload_for_lines();

    let trace = fs::read_to_string(format!("{TRACING}/trace")).expect("the trace can be read");
    let lines_of = |pid| {
        let task = format!("-{pid} ");
        trace.lines().filter(move |line| line.contains(&task))
    };
    let calls = lines_of(own_pid()).filter(|line| line.contains("sys_ioctl("));
    assert_eq!(calls.count(), 1, "how often the one call of KVM_RUN began");
    let made_by = |pid| {
        let mut addresses = lines_of(pid).filter_map(|line| line.split_once(" kvm="));
        addresses.next().expect("it has made a VM").1
    };
    others.is_empty() && made_by(own_pid()) == made_by(vmm.pid())
}
