// SPDX-License-Identifier: GPL-2.0

//! The control block for a guest's own guest (APM volume 2, chapter 15 and appendix B).

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};

use super::mapping::Mapping;

/// The guest-physical address of the inner guest's control block.
pub(super) const VMCB: u64 = 0x1_e000;

/// The guest-physical address where the processor saves the outer guest's state.
pub(super) const HOST_SAVE_AREA: u64 = 0x1_f000;

/// `VM_HSAVE_PA`, which holds that address.
pub(super) const MSR_HOST_SAVE_AREA: u32 = 0xc001_0117;

/// The bit that allows VMRUN.
pub(super) const EFER_SVME: u64 = 1 << 12;

/// The offset of RIP in the control block. The program has it, too.
const RIP: u64 = 0x578;

/// Writes a control block. The inner guest begins at `rip` with the outer one's system registers,
/// and exits at each VMMCALL.
pub(super) fn write_control_block(memory: &Mapping, sregs: &kvm_sregs, rip: u64) {
    const INTERCEPT_SHUTDOWN: u32 = 1 << 31;
    const INTERCEPT_VMRUN_AND_VMMCALL: u32 = 0b11;
    const ASID: u32 = 1;
    for (offset, value) in [
        (0x00c, INTERCEPT_SHUTDOWN),
        (0x010, INTERCEPT_VMRUN_AND_VMMCALL),
        (0x058, ASID),
    ] {
        memory.write(VMCB + offset, &value.to_le_bytes());
    }
    for (offset, segment) in [
        (0x400, &sregs.es),
        (0x410, &sregs.cs),
        (0x420, &sregs.ss),
        (0x430, &sregs.ds),
        (0x440, &sregs.fs),
        (0x450, &sregs.gs),
        (0x470, &sregs.ldt),
        (0x490, &sregs.tr),
    ] {
        write_segment(memory, VMCB + offset, segment);
    }
    for (offset, table) in [(0x460, &sregs.gdt), (0x480, &sregs.idt)] {
        write_table(memory, VMCB + offset, table);
    }
    // The default page attributes, and the debug registers' values after reset.
    for (offset, value) in [
        (0x4d0, sregs.efer),
        (0x548, sregs.cr4),
        (0x550, sregs.cr3),
        (0x558, sregs.cr0),
        (0x560, 0x400),
        (0x568, 0xffff_0ff0),
        (0x570, 0x2),
        (RIP, rip),
        (0x668, 0x0007_0406_0007_0406),
    ] {
        memory.write(VMCB + offset, &value.to_le_bytes());
    }
}

fn write_segment(memory: &Mapping, at: u64, segment: &kvm_segment) {
    let flags = [
        (segment.type_, 0),
        (segment.s, 4),
        (segment.dpl, 5),
        (segment.present, 7),
        (segment.avl, 8),
        (segment.l, 9),
        (segment.db, 10),
        (segment.g, 11),
    ];
    let attributes = flags
        .iter()
        .fold(0, |all, (flag, bit)| all | (u16::from(*flag) << bit));
    memory.write(at, &segment.selector.to_le_bytes());
    memory.write(at + 2, &attributes.to_le_bytes());
    memory.write(at + 4, &segment.limit.to_le_bytes());
    memory.write(at + 8, &segment.base.to_le_bytes());
}

fn write_table(memory: &Mapping, at: u64, table: &kvm_dtable) {
    memory.write(at + 4, &u32::from(table.limit).to_le_bytes());
    memory.write(at + 8, &table.base.to_le_bytes());
}
