// SPDX-License-Identifier: GPL-2.0

//! The registers of a vCPU, and the two notes of a core file that are made of them.
//!
//! `NT_PRSTATUS` is what gdb and drgn read; the note of QEMU has what crash needs besides: the
//! control registers and the descriptor tables. Both are laid out here byte for byte.

use kvm_inspect_pure::uapi;
use serde::{Deserialize, Serialize};
use zerocopy::{
    little_endian::{U32, U64},
    Immutable, IntoBytes,
};

/// A segment register, as KVM has it (`struct kvm_segment`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "they are bits")]
pub struct Segment {
    /// Its address.
    pub base: u64,
    /// The offset of its last byte.
    pub limit: u32,
    /// Its selector.
    pub selector: u16,
    /// Its type, of 4 bits.
    pub kind: u8,
    /// It is present.
    pub present: bool,
    /// Its privilege level, from 0 to 3.
    pub dpl: u8,
    /// It has 32-bit operands.
    pub db: bool,
    /// It is a code or data segment, not one of the system.
    pub s: bool,
    /// It has 64-bit code.
    pub l: bool,
    /// Its limit was given in pages. `limit` is in bytes nevertheless.
    pub g: bool,
    /// The bit that is the guest's own.
    pub avl: bool,
    /// The CPU does not let it be used.
    pub unusable: bool,
}

impl Segment {
    /// Returns the second word of its descriptor without the bits of base and limit, as QEMU keeps
    /// it (`get_seg()` in `target/i386/kvm/kvm.c`).
    #[must_use]
    pub fn flags(&self) -> u32 {
        let bit = |is_set: bool, shift: u32| u32::from(is_set) << shift;
        (u32::from(self.kind & 0xf) << 8)
            | bit(self.s, 12)
            | (u32::from(self.dpl & 3) << 13)
            | bit(self.present && !self.unusable, 15)
            | bit(self.avl, 20)
            | bit(self.l, 21)
            | bit(self.db, 22)
            | bit(self.g, 23)
    }
}

/// A register of a descriptor table, `gdt` or `idt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its address.
    pub base: u64,
    /// The offset of its last byte.
    pub limit: u16,
}

/// The registers of a vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "they are the CPU's names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    /// With the whole `fs_base` as its address.
    pub fs: Segment,
    /// With the whole `gs_base` as its address.
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: Table,
    pub idt: Table,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub kernel_gs_base: u64,
}

impl From<&uapi::Segment> for Segment {
    fn from(from: &uapi::Segment) -> Self {
        Self {
            base: from.base,
            limit: from.limit,
            selector: from.selector,
            kind: from.type_,
            present: from.present != 0,
            dpl: from.dpl,
            db: from.db != 0,
            s: from.s != 0,
            l: from.l != 0,
            g: from.g != 0,
            avl: from.avl != 0,
            unusable: from.unusable != 0,
        }
    }
}

impl From<&uapi::Table> for Table {
    fn from(from: &uapi::Table) -> Self {
        Self {
            base: from.base,
            limit: u16::try_from(from.limit).unwrap_or(u16::MAX),
        }
    }
}

impl From<&uapi::Vcpu> for Registers {
    fn from(from: &uapi::Vcpu) -> Self {
        Self {
            rax: from.rax,
            rbx: from.rbx,
            rcx: from.rcx,
            rdx: from.rdx,
            rsi: from.rsi,
            rdi: from.rdi,
            rsp: from.rsp,
            rbp: from.rbp,
            r8: from.r8,
            r9: from.r9,
            r10: from.r10,
            r11: from.r11,
            r12: from.r12,
            r13: from.r13,
            r14: from.r14,
            r15: from.r15,
            rip: from.rip,
            rflags: from.rflags,
            cs: (&from.cs).into(),
            ds: (&from.ds).into(),
            es: (&from.es).into(),
            fs: (&from.fs).into(),
            gs: (&from.gs).into(),
            ss: (&from.ss).into(),
            tr: (&from.tr).into(),
            ldt: (&from.ldt).into(),
            gdt: (&from.gdt).into(),
            idt: (&from.idt).into(),
            cr0: from.cr0,
            cr2: from.cr2,
            cr3: from.cr3,
            cr4: from.cr4,
            cr8: from.cr8,
            efer: from.efer,
            kernel_gs_base: from.kernel_gs_base,
        }
    }
}

/// The size in bytes of [`Registers::prstatus`].
pub const PRSTATUS_SIZE: usize = 336;

/// The size in bytes of [`Registers::qemu_state`].
pub const QEMU_STATE_SIZE: usize = 440;

/// `struct elf_prstatus` of Linux on x86-64 (`include/linux/elfcore.h`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Prstatus {
    /// `pr_info`, `pr_cursig`, `pr_sigpend` and `pr_sighold`.
    signals: [u8; 32],
    pr_pid: U32,
    /// `pr_ppid`, `pr_pgrp`, `pr_sid` and four times.
    family_and_times: [u8; 76],
    /// `struct user_regs_struct` (`arch/x86/include/asm/user_64.h`).
    pr_reg: [U64; 27],
    pr_fpvalid: U32,
    end: U32,
}

/// `QEMUCPUSegment` (QEMU, `target/i386/arch_dump.c`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct QemuSegment {
    selector: U32,
    limit: U32,
    flags: U32,
    pad: U32,
    base: U64,
}

/// `QEMUCPUState` (QEMU, `target/i386/arch_dump.c`), as QEMU 11 has it.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct QemuState {
    version: U32,
    size: U32,
    /// `rax` to `r15`, `rip` and `rflags`.
    general: [U64; 18],
    /// `cs`, `ds`, `es`, `fs`, `gs`, `ss`, `ldt`, `tr`, `gdt` and `idt`.
    segments: [QemuSegment; 10],
    cr: [U64; 5],
    kernel_gs_base: U64,
}

const _: () = {
    assert!(size_of::<Prstatus>() == PRSTATUS_SIZE);
    assert!(size_of::<QemuState>() == QEMU_STATE_SIZE);
};

impl From<&Segment> for QemuSegment {
    fn from(segment: &Segment) -> Self {
        Self {
            selector: u32::from(segment.selector).into(),
            limit: segment.limit.into(),
            flags: segment.flags().into(),
            pad: 0.into(),
            base: segment.base.into(),
        }
    }
}

impl From<&Table> for QemuSegment {
    fn from(table: &Table) -> Self {
        Self {
            selector: 0.into(),
            limit: u32::from(table.limit).into(),
            flags: 0.into(),
            pad: 0.into(),
            base: table.base.into(),
        }
    }
}

impl Registers {
    /// Returns the note `NT_PRSTATUS` of these registers. `pid` stands for the thread; core files
    /// of guests have the number of the CPU and one there.
    #[must_use]
    pub fn prstatus(&self, pid: u32) -> [u8; PRSTATUS_SIZE] {
        let selector = |segment: &Segment| u64::from(segment.selector);
        // What the thread called the kernel with. QEMU has no other value for it, either.
        let orig_rax = 0;
        let registers = [
            self.r15,
            self.r14,
            self.r13,
            self.r12,
            self.rbp,
            self.rbx,
            self.r11,
            self.r10,
            self.r9,
            self.r8,
            self.rax,
            self.rcx,
            self.rdx,
            self.rsi,
            self.rdi,
            orig_rax,
            self.rip,
            selector(&self.cs),
            self.rflags,
            self.rsp,
            selector(&self.ss),
            self.fs.base,
            self.gs.base,
            selector(&self.ds),
            selector(&self.es),
            selector(&self.fs),
            selector(&self.gs),
        ];
        let status = Prstatus {
            signals: [0; 32],
            pr_pid: pid.into(),
            family_and_times: [0; 76],
            pr_reg: registers.map(Into::into),
            pr_fpvalid: 0.into(),
            end: 0.into(),
        };
        zerocopy::transmute!(status)
    }

    /// Returns the note `QEMU` of these registers.
    #[must_use]
    pub fn qemu_state(&self) -> [u8; QEMU_STATE_SIZE] {
        const VERSION: u32 = 1;
        #[allow(clippy::cast_possible_truncation, reason = "it is 440")]
        const SIZE: u32 = QEMU_STATE_SIZE as u32;
        let general = [
            self.rax,
            self.rbx,
            self.rcx,
            self.rdx,
            self.rsi,
            self.rdi,
            self.rsp,
            self.rbp,
            self.r8,
            self.r9,
            self.r10,
            self.r11,
            self.r12,
            self.r13,
            self.r14,
            self.r15,
            self.rip,
            self.rflags,
        ];
        let cr1 = 0;
        let state = QemuState {
            version: VERSION.into(),
            size: SIZE.into(),
            general: general.map(Into::into),
            segments: [
                (&self.cs).into(),
                (&self.ds).into(),
                (&self.es).into(),
                (&self.fs).into(),
                (&self.gs).into(),
                (&self.ss).into(),
                (&self.ldt).into(),
                (&self.tr).into(),
                (&self.gdt).into(),
                (&self.idt).into(),
            ],
            cr: [self.cr0, cr1, self.cr2, self.cr3, self.cr4].map(Into::into),
            kernel_gs_base: self.kernel_gs_base.into(),
        };
        zerocopy::transmute!(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("8 bytes"))
    }

    fn half(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("4 bytes"))
    }

    #[test]
    fn flags_are_the_high_word_of_the_descriptor() {
        // Descriptors of Linux: 0x00af9b000000ffff is __KERNEL_CS, 0x00cff3000000ffff __USER_DS.
        let code = Segment {
            kind: 0xb,
            present: true,
            s: true,
            l: true,
            g: true,
            ..Segment::default()
        };
        assert_eq!(code.flags(), 0x00af_9b00 & !0x000f_0000);
        let data = Segment {
            kind: 3,
            present: true,
            dpl: 3,
            db: true,
            s: true,
            g: true,
            avl: false,
            ..Segment::default()
        };
        assert_eq!(data.flags(), 0x00cf_f300 & !0x000f_0000);
        let unusable = Segment {
            unusable: true,
            ..data
        };
        assert_eq!(unusable.flags(), data.flags() & !(1 << 15));
    }

    #[test]
    fn prstatus_is_laid_out_as_linux_does() {
        let mut registers = Registers {
            r15: 15,
            rsp: 0x5e,
            rip: 0x19,
            rflags: 0x202,
            rdi: 0xd1,
            ..Registers::default()
        };
        registers.cs.selector = 0x10;
        registers.fs.base = 0xf5;
        registers.gs = Segment {
            base: 0x65,
            selector: 0x2b,
            ..Segment::default()
        };
        let bytes = registers.prstatus(3);
        assert_eq!(half(&bytes, 32), 3);
        // The offsets of user_regs_struct: 14 is rdi, 16 rip, 17 cs, 18 eflags, 19 rsp.
        let register = |index: usize| word(&bytes, 112 + 8 * index);
        assert_eq!(register(0), 15);
        assert_eq!(register(14), 0xd1);
        assert_eq!([16, 17, 18, 19].map(register), [0x19, 0x10, 0x202, 0x5e]);
        assert_eq!([21, 22, 26].map(register), [0xf5, 0x65, 0x2b]);
        assert_eq!(half(&bytes, 328), 0, "no floating point registers follow");
    }

    #[test]
    fn qemu_state_is_laid_out_as_qemu_does() {
        let mut registers = Registers {
            rax: 1,
            rbx: 2,
            r15: 3,
            rip: 4,
            rflags: 5,
            cr0: 0xc0,
            cr2: 0xc2,
            cr3: 0xc3,
            cr4: 0xc4,
            kernel_gs_base: 6,
            ..Registers::default()
        };
        registers.cs.selector = 0x10;
        registers.tr.base = 0x77;
        registers.idt = Table {
            base: 0x1d,
            limit: 0xfff,
        };
        let bytes = registers.qemu_state();
        assert_eq!((half(&bytes, 0), half(&bytes, 4)), (1, 440));
        assert_eq!(
            [8, 16, 128, 136, 144].map(|at| word(&bytes, at)),
            [1, 2, 3, 4, 5]
        );
        assert_eq!(half(&bytes, 152), 0x10);
        assert_eq!(word(&bytes, 152 + 7 * 24 + 16), 0x77);
        assert_eq!(half(&bytes, 152 + 9 * 24 + 4), 0xfff);
        assert_eq!(word(&bytes, 152 + 9 * 24 + 16), 0x1d);
        let control = [392, 400, 408, 416, 424].map(|at| word(&bytes, at));
        assert_eq!(control, [0xc0, 0, 0xc2, 0xc3, 0xc4]);
        assert_eq!(word(&bytes, 432), 6);
    }
}
