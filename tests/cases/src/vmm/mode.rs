// SPDX-License-Identifier: GPL-2.0

//! A vCPU's first state in each mode, and the tables that it needs in guest memory.
//!
//! APM is AMD's Architecture Programmer's Manual.

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};

use super::mapping::Mapping;

/// A mode of a guest, with a number of levels of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Real mode.
    Real,
    /// 32 bits, without paging.
    Protected,
    /// 32 bits, two levels.
    ProtectedPaging,
    /// 32 bits, three levels (PAE).
    ProtectedPae,
    /// A 32-bit code segment of long mode, four levels.
    Compatibility,
    /// Long mode, four levels.
    Long,
    /// Long mode, four levels, privilege level 3 with the right to use ports.
    LongUser,
    /// Long mode, five levels (LA57).
    LongLa57,
}

/// The addresses of the page tables, which map the first 2 MiB to themselves.
const PML5: u64 = 0x1000;
const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
/// PAE's four entries. Those of long mode are at the beginning of the page.
const PDPT_PAE: u64 = PDPT + 0x800;
const PAGE_DIRECTORY: u64 = 0x4000;
const PAGE_DIRECTORY_2_LEVELS: u64 = 0x5000;
/// The offsets of each vCPU's descriptor tables and segments in its own memory. LTR marks a
/// descriptor as busy, so vCPUs cannot share them.
const GDT: u64 = 0x400;
const LDT: u64 = 0x600;
const TSS: u64 = 0x700;
const TSS_32: u64 = 0x800;
const IDT: u64 = 0xa00;
/// The operands of LGDT and LIDT, 16 bytes apart. Their limits differ from those that the VMM has
/// set. The base has 8 bytes; 32-bit code reads 4.
pub(crate) const TABLE_OPERANDS: u64 = 0xf00;

/// The limits of the descriptor tables that the guest loads.
pub(crate) const GDT_LIMIT: u16 = 0x7f;
pub(crate) const IDT_LIMIT: u16 = 0x37f;

/// The access bytes of descriptors, and the flags above the limit (APM volume 2, 4.7 and 4.8).
const CODE: u8 = 0x9b;
const DATA: u8 = 0x93;
const DATA_LEVEL_3: u8 = 0xf3;
const AVAILABLE_TSS: u8 = 0x89;
const LDT_SEGMENT: u8 = 0x82;
const IN_BYTES: u8 = 0x0;
const LONG_IN_PAGES: u8 = 0xa;
const WIDE_IN_PAGES: u8 = 0xc;

/// An entry of a page table: present, writable, and open to user mode.
const TABLE: u64 = 0b111;
const LARGE: u64 = 1 << 7;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

impl Mode {
    /// Returns the module's names for the mode and for the paging.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Real => ("real", "none"),
            Self::Protected => ("protected", "none"),
            Self::ProtectedPaging => ("protected", "2"),
            Self::ProtectedPae => ("protected", "3"),
            Self::Compatibility => ("compat", "4"),
            Self::Long | Self::LongUser => ("long", "4"),
            Self::LongLa57 => ("long", "5"),
        }
    }

    /// Returns the privilege level at which the guest runs.
    pub(crate) fn privilege_level(self) -> u8 {
        if self == Self::LongUser {
            3
        } else {
            0
        }
    }

    /// Returns the first RFLAGS: interrupts enabled, since none will come, and ports allowed at the
    /// mode's privilege level.
    pub(crate) fn flags(self) -> u64 {
        0x202 | (u64::from(self.privilege_level()) << 12)
    }

    /// Sets the registers that make up the mode. The descriptor tables are at `data`.
    pub(crate) fn set(self, sregs: &mut kvm_sregs, data: u64) {
        // After reset a processor is in real mode, with a code segment near the end of memory.
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        if self == Self::Real {
            return;
        }
        sregs.cr0 = CR0_PE | CR0_ET | CR0_NE;
        let (cr3, cr4) = match self {
            Self::Real | Self::Protected => (0, 0),
            Self::ProtectedPaging => (PAGE_DIRECTORY_2_LEVELS, CR4_PSE),
            Self::ProtectedPae => (PDPT_PAE, CR4_PAE),
            Self::Compatibility | Self::Long | Self::LongUser => (PML4, CR4_PAE),
            Self::LongLa57 => (PML5, CR4_PAE | CR4_LA57),
        };
        if cr3 != 0 {
            sregs.cr0 |= CR0_PG;
            sregs.cr3 = cr3;
            sregs.cr4 = cr4;
        }
        let is_long = matches!(self, Self::Long | Self::LongUser | Self::LongLa57);
        if is_long || self == Self::Compatibility {
            sregs.efer = EFER_LME | EFER_LMA;
        }
        let level = self.privilege_level();
        sregs.cs = segment(if is_long { 0x10 } else { 0x08 }, 0xb, level, is_long);
        let flat = segment(0x18, 0x3, level, false);
        for register in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *register = flat;
        }
        sregs.gdt = table(data + GDT);
        sregs.idt = table(data + IDT);
    }
}

/// Returns a flat segment.
fn segment(selector: u16, type_: u8, level: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: selector | u16::from(level),
        type_,
        present: 1,
        dpl: level,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

fn table(base: u64) -> kvm_dtable {
    kvm_dtable {
        base,
        limit: 0xff,
        ..Default::default()
    }
}

/// Writes the page tables of all modes into guest memory that begins at address 0.
pub(crate) fn write_page_tables(memory: &Mapping) {
    for (address, entry) in [
        (PML5, PML4 | TABLE),
        (PML4, PDPT | TABLE),
        (PDPT, PAGE_DIRECTORY | TABLE),
        // In PAE's third level the other bits are reserved.
        (PDPT_PAE, PAGE_DIRECTORY | 1),
        (PAGE_DIRECTORY, TABLE | LARGE),
        (PAGE_DIRECTORY_2_LEVELS, TABLE | LARGE),
    ] {
        memory.write(address, &entry.to_le_bytes());
    }
}

/// Writes a vCPU's descriptors into its memory at `data`. All bases and limits differ.
pub(crate) fn write_descriptors(memory: &Mapping, data: u64) {
    // System segments have two entries each in long mode. The second is 0.
    let descriptors = [
        (0x08, descriptor(0, 0xf_ffff, CODE, WIDE_IN_PAGES)),
        (0x10, descriptor(0, 0xf_ffff, CODE, LONG_IN_PAGES)),
        (0x18, descriptor(0, 0xf_ffff, DATA, WIDE_IN_PAGES)),
        (0x20, descriptor(0, 0xf_ffff, DATA, WIDE_IN_PAGES)),
        (
            0x30,
            descriptor(0x1000, 0xf_eff0, DATA_LEVEL_3, WIDE_IN_PAGES),
        ),
        (0x38, descriptor(data + TSS, 0x67, AVAILABLE_TSS, IN_BYTES)),
        (0x48, descriptor(data + LDT, 0xff, LDT_SEGMENT, IN_BYTES)),
        (
            0x60,
            descriptor(data + TSS_32, 0x68, AVAILABLE_TSS, IN_BYTES),
        ),
    ];
    for (selector, descriptor) in descriptors {
        memory.write(data + GDT + selector, &descriptor.to_le_bytes());
    }
    for (at, limit, base) in [(0, GDT_LIMIT, data + GDT), (16, IDT_LIMIT, data + IDT)] {
        memory.write(data + TABLE_OPERANDS + at, &limit.to_le_bytes());
        memory.write(data + TABLE_OPERANDS + at + 2, &base.to_le_bytes());
    }
}

/// Returns a segment descriptor.
fn descriptor(base: u64, limit: u64, access: u8, flags: u8) -> u64 {
    (limit & 0xffff)
        | ((base & 0xff_ffff) << 16)
        | (u64::from(access) << 40)
        | (((limit >> 16) & 0xf) << 48)
        | (u64::from(flags) << 52)
        | (((base >> 24) & 0xff) << 56)
}
