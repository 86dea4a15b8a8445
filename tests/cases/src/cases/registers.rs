// SPDX-License-Identifier: GPL-2.0

//! The report has the registers that KVM tells the VMM, and that the guest has loaded.

use std::{collections::BTreeMap, thread, time::Duration};

use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_segment, kvm_sregs};
use kvm_inspect_tool::report::{self, Source, State};

use super::{times, Case};
use crate::{
    inspect::Inspection,
    process::{has_feature, pin, wait_until},
    vmm::{
        port_number, Backing, Manner, Mapping, Mode, Slot, Vcpu, Vm, Work, GDT_LIMIT, IDT_LIMIT,
        MMIO_BYTE,
    },
};

pub(super) const CASES: &[Case] = cases![
    real.with_stock(),
    protected.with_stock(),
    long.with_stock(),
    la57.with_stock(),
    outside.with_stock(),
    after_exit.with_stock(),
    port_io.with_stock(),
    msrs.with_stock(),
    paused.with_stock(),
    stepped.with_stock(),
    half_emulated.with_stock(),
    triple_fault.with_stock(),
    smm.with_stock(),
    forged.with_stock(),
];

/// In real mode.
fn real() {
    parked(&[Mode::Real]);
}

/// In protected mode: without paging, with it, with PAE.
fn protected() {
    parked(&[Mode::Protected, Mode::ProtectedPaging, Mode::ProtectedPae]);
}

/// In long mode: the kernel's, 32-bit code, user space.
fn long() {
    parked(&[Mode::Long, Mode::Compatibility, Mode::LongUser]);
}

/// In long mode with five levels of page tables.
fn la57() {
    parked(&[Mode::LongLa57]);
}

/// In each mode two vCPUs load all registers. One halts then, one spins. The report has the same as
/// the VMM's own ioctls once they are stopped.
fn parked(modes: &[Mode]) {
    let mut vm = Vm::bootable();
    for &mode in modes {
        for work in [Work::RegistersHalt, Work::RegistersSpin] {
            // Only privilege level 0 may halt.
            if (mode, work) != (Mode::LongUser, Work::RegistersHalt) {
                vm.add_vcpu(mode, work);
            }
        }
    }
    vm.start();
    // The second time each starts from where the first inspection has put it.
    for _ in 0..2 {
        let report = Inspection::of_self().report();
        assert!(report.states().iter().all(|&state| state == State::Parked));
        for (reported, vcpu) in report.vcpus.iter().zip(vm.vcpus()) {
            vcpu.stop();
            let names = vcpu.mode().names();
            let level = u64::from(vcpu.mode().privilege_level());
            let expected = report::Mode {
                name: names.0.to_owned(),
                paging: names.1.to_owned(),
                cpl: level,
            };
            assert_eq!(
                reported.mode.as_ref(),
                Some(&expected),
                "mode of vCPU {}",
                reported.id
            );
            let mut regs = vcpu.regs();
            let reported_rip = reported.general["rip"];
            if [reported_rip, regs.rip].map(|rip| vcpu.is_in_final_loop(rip)) == [true; 2] {
                // It has gone on since, in its loop.
                regs.rip = reported_rip;
            }
            assert_same(reported, &regs, vcpu);
            assert_loaded(reported, vcpu);
        }
        vm.start();
    }
    vm.finish();
}

/// Of vCPUs that are locked out the report has what KVM holds, as its ioctls do.
fn outside() {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::UserSpace);
    vm.add_vcpu(Mode::Real, Work::UserSpace);
    let long = if has_feature("la57") {
        Mode::LongLa57
    } else {
        Mode::Long
    };
    vm.add_vcpu(long, Work::Count);
    vm.add_vcpu(Mode::Protected, Work::Spin);
    vm.vcpu(2).set_cr8(9);
    for id in [0, 1] {
        vm.vcpu(id).start();
        vm.vcpu(id).wait_until_at_work();
    }
    let report = Inspection::of_self().report();
    assert_eq!(report.states(), [State::Outside; 4]);
    for (reported, vcpu) in report.vcpus.iter().zip(vm.vcpus()) {
        vcpu.stop();
        assert_same(reported, &vcpu.regs(), vcpu);
    }
    vm.finish();
}

/// Registers are right after an exit, before anybody has asked for one: on Intel RIP and RSP are in
/// the VMCS alone then. The exits are an interrupt with a signal for the VMM, an OUT, and a read
/// where there is no memory.
fn after_exit() {
    const NAP: Duration = Duration::from_millis(20);

    for work in [Work::Spin, Work::RegistersSpin, Work::UserSpace, Work::Mmio] {
        let at_exit = || {
            let mut vm = Vm::running(work);
            thread::sleep(NAP);
            vm.stop();
            vm
        };
        // Locked out: the report has what KVM holds, and says whether the VMM has still to answer.
        let mut vm = at_exit();
        let report = Inspection::of_self().report();
        let (reported, vcpu) = (&report.vcpus[0], vm.vcpu(0));
        assert_eq!(reported.state, State::Outside);
        if work == Work::Mmio {
            assert!(reported.unfinished);
        }
        assert_same(reported, &vcpu.regs(), vcpu);
        vm.finish();
        drop(vm);

        // Parked: KVM is asked, and completes the exit.
        let mut vm = at_exit();
        let vcpu = vm.vcpu(0);
        vcpu.start_without_guest();
        let report = Inspection::of_self().report();
        let reported = &report.vcpus[0];
        assert_eq!(reported.state, State::Parked);
        assert!(!reported.unfinished);
        vcpu.stop();
        assert_same(reported, &vcpu.regs(), vcpu);
        assert!(
            vcpu.is_in_final_loop(reported.general["rip"]),
            "{reported:?}"
        );
        if work == Work::Mmio {
            assert_eq!(reported.general["rax"], u64::from_le_bytes([MMIO_BYTE; 8]));
        }
    }
}

/// All the other registers, of a vCPU that runs and of one that has never run.
fn msrs() {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Spin);
    vm.add_vcpu(Mode::Long, Work::Spin);
    for id in [0, 1] {
        let vcpu = vm.vcpu(id);
        for (at, (name, index)) in (1..).zip(MSRS) {
            let value = match name {
                "pat" => 0x0007_0406_0007_0406,
                "sfmask" | "sysenter_cs" | "tsc_aux" => 0x1000 * at,
                "star" => 0x0023_0010_0000_0000 + at,
                _ => 0xffff_8000_1234_0000 + at,
            };
            // AMD's processors keep only half of it.
            let value = if name.starts_with("sysenter_e") && !is_intel() {
                0x1234_0000 + at
            } else {
                value
            };
            vcpu.set_msr(index, value);
        }
        vcpu.set_debug_regs(&kvm_debugregs {
            db: [0x1111_0000, 0x2222_0000, 0x3333_0000, 0x4444_0000],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            ..kvm_debugregs::default()
        });
    }
    vm.vcpu(0).start();
    vm.vcpu(0).wait_until_at_work();
    let report = Inspection::of_self().report();
    assert_eq!(report.states(), [State::Parked, State::Outside]);
    assert_eq!(report.vcpus[0].source, Source::Kvm);
    vm.stop();
    for (reported, vcpu) in report.vcpus.iter().zip(vm.vcpus()) {
        assert_others(reported, vcpu);
    }
    vm.finish();
}

/// Of a VM that its VMM has paused, all registers are known, also if its vCPUs have shared a CPU.
/// On Intel that has then loaded the VMCS of only one of them.
fn paused() {
    let mut vm = Vm::bootable();
    for mode in [Mode::Long, Mode::Protected, Mode::Real, Mode::Long] {
        vm.add_vcpu(mode, Work::RegistersSpin);
    }
    // The vCPUs' threads inherit that.
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(0, 0);
            vm.start();
            vm.stop();
        });
    });
    for _ in 0..2 {
        let report = Inspection::of_self().report();
        assert_eq!(report.states(), [State::Outside; 4]);
        for (reported, vcpu) in report.vcpus.iter().zip(vm.vcpus()) {
            assert_same(reported, &vcpu.regs(), vcpu);
            assert!(reported.mode.is_some());
        }
    }
    vm.start();
    vm.finish();
}

/// The trap flag that a debugger in the VMM sets is not the guest's, as for `KVM_GET_REGS`.
fn stepped() {
    const TRAP_FLAG: u64 = 1 << 8;

    let mut vm = Vm::running(Work::Spin);
    vm.stop();
    vm.vcpu(0).single_step();
    let report = Inspection::of_self().report();
    let (reported, vcpu) = (&report.vcpus[0], vm.vcpu(0));
    assert_eq!(vcpu.regs().rflags & TRAP_FLAG, 0);
    assert_same(reported, &vcpu.regs(), vcpu);
}

/// While KVM emulates an instruction and waits for the VMM, the registers are those that it has
/// computed so far, as for `KVM_GET_REGS`. A far return reads twice from its stack, where there is
/// no memory: at the second read RSP has changed.
fn half_emulated() {
    const AT: u64 = 0x300;
    const FAR_RETURN: [u8; 2] = [0x48, 0xcb];

    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Mmio);
    vm.write(AT, &FAR_RETURN);
    let stack = vm.vcpu(0).set_stack_in_hole(AT);
    // Each start ends at a read.
    for popped in [0, 8] {
        vm.vcpu(0).start();
        vm.vcpu(0).wait_until_outside();
        let report = Inspection::of_self().report();
        let (reported, vcpu) = (&report.vcpus[0], vm.vcpu(0));
        assert_eq!(reported.state, State::Outside);
        assert!(reported.unfinished);
        assert_eq!(reported.general["rsp"], stack + popped);
        vcpu.stop();
        if popped > 0 {
            // This ends the emulation, so it comes last.
            assert_same(reported, &vcpu.regs(), vcpu);
        }
    }
}

/// After a triple fault the registers are those that KVM has reset, or left, as its ioctls tell.
fn triple_fault() {
    const AT: u64 = 0x300;
    const UD2: [u8; 2] = [0x0f, 0x0b];

    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Spin);
    vm.write(AT, &UD2);
    let vcpu = vm.vcpu(0);
    vcpu.set_start(AT, 0);
    vcpu.take_interrupt_table();
    vcpu.let_guest_be_lost();
    vcpu.start();
    vcpu.wait_until_outside();
    assert!(vcpu.has_lost_guest());
    let report = Inspection::of_self().report();
    let (reported, vcpu) = (&report.vcpus[0], vm.vcpu(0));
    assert_eq!(reported.state, State::Outside);
    vcpu.stop();
    assert_same(reported, &vcpu.regs(), vcpu);
}

/// In system management mode, while it runs and when it has stopped.
fn smm() {
    const BASE: u64 = 0x3_0000;
    const ENTRY: u64 = 0x8000;
    /// `sti`, without which Bochs would never leave the guest, and a jump to itself.
    const SPIN: [u8; 3] = [0xfb, 0xeb, 0xfe];
    const AT: u64 = ENTRY + 1;

    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Spin);
    let memory = Mapping::new(0x1_0000, Backing::Anonymous);
    memory.write(ENTRY, &SPIN);
    vm.add(Slot {
        space: 1,
        ..Slot::of(1, BASE, &memory)
    });
    vm.vcpu(0).interrupt_to_smm();
    // Longer each time: a slow machine may not get into KVM_RUN in so short a time.
    let mut time = Duration::from_millis(1);
    wait_until("the guest is in SMM", || {
        let vcpu = vm.vcpu(0);
        vcpu.start();
        thread::sleep(time);
        time *= 2;
        vcpu.stop();
        vcpu.is_in_smm() && vcpu.regs().rip == AT
    });
    for state in [State::Outside, State::Parked] {
        let entries = vm.vcpu(0).entries();
        if state == State::Parked {
            vm.vcpu(0).start();
            wait_until("the guest is entered", || vm.vcpu(0).entries() > entries);
        }
        let report = Inspection::of_self().report();
        let (reported, vcpu) = (&report.vcpus[0], vm.vcpu(0));
        assert_eq!(reported.state, state);
        vcpu.stop();
        assert!(reported.smm);
        assert_eq!(reported.general["rip"], AT);
        assert_same(reported, &vcpu.regs(), vcpu);
        assert_eq!(vcpu.interruptions(), 0);
    }
}

/// A VMM that writes its `kvm_run` page all the time can neither forge nor suppress them.
fn forged() {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::RegistersSpin)
        .set_manner(Manner::Handled);
    vm.start();
    vm.stop();
    let forger = vm.vcpu(0).forge();
    vm.start();
    let reports: Vec<_> = (0..times(20))
        .map(|_| Inspection::of_self().report())
        .collect();
    vm.stop();
    drop(forger);
    let vcpu = vm.vcpu(0);
    for report in &reports {
        let reported = &report.vcpus[0];
        assert_eq!(reported.source, Source::Kvm);
        let mut regs = vcpu.regs();
        let rip = reported.general["rip"];
        assert!(vcpu.is_in_final_loop(rip), "{reported:?}");
        regs.rip = rip;
        assert_same(reported, &regs, vcpu);
    }
    vm.finish();
}

/// During port I/O the registers are those of one moment: with the number that was read or the one
/// to write, never in between.
fn port_io() {
    let mut vm = Vm::running(Work::PortIo);
    let inspection = Inspection::of_self();
    for _ in 0..times(20) {
        let before = vm.vcpu(0).rounds();
        let report = inspection.report();
        let after = vm.vcpu(0).rounds();
        assert_eq!(report.states(), [State::Parked]);
        let vcpu = &report.vcpus[0];
        let rounds = vcpu.general["rbx"];
        assert!(
            (before.saturating_sub(1)..=after).contains(&rounds),
            "{before} {rounds} {after}"
        );
        // The number to write in the last round or in this one, or this round's number to read.
        let (last, this) = (port_number(rounds - 1), port_number(rounds));
        let possible = [last.wrapping_add(1), this, this.wrapping_add(1)].map(u64::from);
        let rax = vcpu.general["rax"];
        assert!(possible.contains(&rax), "rax={rax:#x} in round {rounds}");
        vm.vcpu(0).wait_until_it_goes_on();
    }
    vm.finish();
}

/// The keys of `msrs`, but for `xcr0`.
const MSRS: [(&str, u32); 10] = [
    ("kernel_gs_base", 0xc000_0102),
    ("lstar", 0xc000_0082),
    ("star", 0xc000_0081),
    ("cstar", 0xc000_0083),
    ("sfmask", 0xc000_0084),
    ("sysenter_cs", 0x174),
    ("sysenter_esp", 0x175),
    ("sysenter_eip", 0x176),
    ("tsc_aux", 0xc000_0103),
    ("pat", 0x277),
];

/// Checks the lines `msrs` and `debug` against the VMM's own ioctls.
fn assert_others(reported: &report::Vcpu, vcpu: &Vcpu) {
    let id = reported.id;
    for (name, index) in MSRS {
        let told = reported.msrs.get(name);
        assert_eq!(told, Some(&vcpu.msr(index)), "{name} of vCPU {id}");
    }
    if let Some(xcr0) = vcpu.xcr0() {
        assert_eq!(reported.msrs["xcr0"], xcr0, "xcr0 of vCPU {id}");
    }
    let debug = vcpu.debug_regs();
    let [dr0, dr1, dr2, dr3] = debug.db;
    let expected = named([
        ("dr0", dr0),
        ("dr1", dr1),
        ("dr2", dr2),
        ("dr3", dr3),
        ("dr6", debug.dr6),
        ("dr7", debug.dr7),
    ]);
    assert_eq!(reported.debug, expected, "debug registers of vCPU {id}");
}

/// Checks that the report has exactly the registers of the VMM's own ioctls.
fn assert_same(reported: &report::Vcpu, regs: &kvm_regs, vcpu: &Vcpu) {
    let id = reported.id;
    let sregs = &vcpu.sregs();
    assert_eq!(reported.source, Source::Kvm, "vCPU {id}");
    assert!(!reported.nested);
    assert_eq!(reported.smm, vcpu.is_in_smm(), "smm of vCPU {id}");
    assert_others(reported, vcpu);
    assert_eq!(reported.general, general(regs), "registers of vCPU {id}");
    assert_eq!(
        reported.control,
        control(sregs),
        "control registers of vCPU {id}"
    );
    let segments = [
        ("cs", sregs.cs),
        ("ds", sregs.ds),
        ("es", sregs.es),
        ("fs", sregs.fs),
        ("gs", sregs.gs),
        ("ss", sregs.ss),
        ("tr", sregs.tr),
        ("ldt", sregs.ldt),
    ];
    let segments: BTreeMap<_, _> = segments
        .iter()
        .map(|(name, value)| ((*name).to_owned(), segment(value)))
        .collect();
    assert_eq!(reported.segments, segments, "segments of vCPU {id}");
    let tables = [("gdt", sregs.gdt), ("idt", sregs.idt)];
    let tables: BTreeMap<_, _> = tables
        .iter()
        .map(|(name, table)| {
            (
                (*name).to_owned(),
                report::Table {
                    base: table.base,
                    limit: u64::from(table.limit),
                },
            )
        })
        .collect();
    assert_eq!(reported.tables, tables, "tables of vCPU {id}");
}

/// Returns whether the processor is one of Intel's.
fn is_intel() -> bool {
    has_feature("vmx")
}

/// Checks that the report has what the guest's program has loaded.
fn assert_loaded(reported: &report::Vcpu, vcpu: &Vcpu) {
    let (general, control) = (&reported.general, &reported.control);
    if vcpu.work() == Work::RegistersHalt {
        assert_eq!(general["rip"], vcpu.final_loop_address() + 1);
    } else {
        assert!(vcpu.is_in_final_loop(general["rip"]), "{reported:?}");
    }
    if vcpu.mode() == Mode::LongUser {
        return;
    }
    // The flags carry and direction.
    assert_eq!(general["rflags"] & 0x401, 0x401);
    let long = matches!(vcpu.mode(), Mode::Long | Mode::LongLa57);
    if long {
        assert_eq!(general["rax"], 0xa0a1_a2a3_a4a5_a6a7);
        assert_eq!(general["rdi"], 0xd1d1_d1d1_d1d1_d1d1);
        assert_eq!(general["r8"], 0x0808_0808_0808_0808);
        assert_eq!(general["r15"], 0x1515_1515_1515_1515);
        assert_eq!(control["cr2"], 0x0000_1234_5678_9abc);
        assert_eq!(control["cr8"], 9);
        assert_eq!(reported.segments["gs"]["base"], 0x0000_7abc_0123_4567);
    } else {
        assert_eq!(general["rax"], 0xa0a1_a2a3);
        assert_eq!(general["rdi"], 0xd1d1_d1d1);
        assert_eq!(general["rbp"], 0xbabb_bcbd);
    }
    assert_eq!(reported.tables["gdt"].limit, u64::from(GDT_LIMIT));
    assert_eq!(reported.tables["idt"].limit, u64::from(IDT_LIMIT));
    let segments = &reported.segments;
    if vcpu.mode() == Mode::Real {
        let selectors = [
            ("ss", 0x1234),
            ("ds", 0x2345),
            ("es", 0x3456),
            ("fs", 0x4567),
            ("gs", 0x5678),
        ];
        for (name, selector) in selectors {
            assert_eq!(segments[name]["selector"], selector, "{name}");
            assert_eq!(segments[name]["base"], selector << 4, "{name}");
        }
    } else {
        assert_eq!(
            (segments["ss"]["selector"], segments["ds"]["selector"]),
            (0x20, 0x33)
        );
        assert_eq!(
            (segments["ds"]["base"], segments["ds"]["limit"]),
            (0x1000, 0xfeff_0fff)
        );
        let (tr, limit) = if long { (0x38, 0x67) } else { (0x60, 0x68) };
        assert_eq!(
            (segments["tr"]["selector"], segments["tr"]["limit"]),
            (tr, limit)
        );
        assert_eq!(
            (segments["ldt"]["selector"], segments["ldt"]["limit"]),
            (0x48, 0xff)
        );
    }
}

fn named<const N: usize>(values: [(&str, u64); N]) -> BTreeMap<String, u64> {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn general(regs: &kvm_regs) -> BTreeMap<String, u64> {
    named([
        ("rip", regs.rip),
        ("rflags", regs.rflags),
        ("rax", regs.rax),
        ("rbx", regs.rbx),
        ("rcx", regs.rcx),
        ("rdx", regs.rdx),
        ("rsi", regs.rsi),
        ("rdi", regs.rdi),
        ("rsp", regs.rsp),
        ("rbp", regs.rbp),
        ("r8", regs.r8),
        ("r9", regs.r9),
        ("r10", regs.r10),
        ("r11", regs.r11),
        ("r12", regs.r12),
        ("r13", regs.r13),
        ("r14", regs.r14),
        ("r15", regs.r15),
    ])
}

fn control(sregs: &kvm_sregs) -> BTreeMap<String, u64> {
    named([
        ("cr0", sregs.cr0),
        ("cr2", sregs.cr2),
        ("cr3", sregs.cr3),
        ("cr4", sregs.cr4),
        ("cr8", sregs.cr8),
        ("efer", sregs.efer),
        ("apic_base", sregs.apic_base),
    ])
}

fn segment(segment: &kvm_segment) -> BTreeMap<String, u64> {
    named([
        ("selector", u64::from(segment.selector)),
        ("base", segment.base),
        ("limit", u64::from(segment.limit)),
        ("type", u64::from(segment.type_)),
        ("s", u64::from(segment.s)),
        ("dpl", u64::from(segment.dpl)),
        ("present", u64::from(segment.present)),
        ("avl", u64::from(segment.avl)),
        ("l", u64::from(segment.l)),
        ("db", u64::from(segment.db)),
        ("g", u64::from(segment.g)),
        ("unusable", u64::from(segment.unusable)),
    ])
}
