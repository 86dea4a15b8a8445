// SPDX-License-Identifier: GPL-2.0

//! The registers of a vCPU.

use super::Vcpu;
use crate::bindings;

/// A register's name and value; no value if it is not known.
pub(crate) type Register = (&'static str, Option<u64>);

/// The registers of one vCPU at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    /// `rip`, `rflags` and the general registers.
    pub(crate) general: [Register; 18],
    /// Control registers, `efer` and `apic_base`.
    pub(crate) control: [Register; 7],
    /// Segments and descriptor tables; not known of a vCPU that is not parked.
    pub(crate) segments: Option<Segments>,
}

/// Segment registers and descriptor tables.
#[derive(Clone, Copy)]
pub(crate) struct Segments {
    /// The segment registers with their hidden parts.
    pub(crate) segments: [(&'static str, bindings::kvm_segment); 8],
    /// `gdt` and `idt`.
    pub(crate) tables: [(&'static str, bindings::kvm_dtable); 2],
}

impl Registers {
    /// Creates them from what KVM itself has stored.
    pub(super) fn from_kvm(regs: &bindings::kvm_regs, sregs: &bindings::kvm_sregs) -> Self {
        Self {
            general: [
                ("rip", Some(regs.rip)),
                ("rflags", Some(regs.rflags)),
                ("rax", Some(regs.rax)),
                ("rbx", Some(regs.rbx)),
                ("rcx", Some(regs.rcx)),
                ("rdx", Some(regs.rdx)),
                ("rsi", Some(regs.rsi)),
                ("rdi", Some(regs.rdi)),
                ("rsp", Some(regs.rsp)),
                ("rbp", Some(regs.rbp)),
                ("r8", Some(regs.r8)),
                ("r9", Some(regs.r9)),
                ("r10", Some(regs.r10)),
                ("r11", Some(regs.r11)),
                ("r12", Some(regs.r12)),
                ("r13", Some(regs.r13)),
                ("r14", Some(regs.r14)),
                ("r15", Some(regs.r15)),
            ],
            control: [
                ("cr0", Some(sregs.cr0)),
                ("cr2", Some(sregs.cr2)),
                ("cr3", Some(sregs.cr3)),
                ("cr4", Some(sregs.cr4)),
                ("cr8", Some(sregs.cr8)),
                ("efer", Some(sregs.efer)),
                ("apic_base", Some(sregs.apic_base)),
            ],
            segments: Some(Segments {
                segments: [
                    ("cs", sregs.cs),
                    ("ds", sregs.ds),
                    ("es", sregs.es),
                    ("fs", sregs.fs),
                    ("gs", sregs.gs),
                    ("ss", sregs.ss),
                    ("tr", sregs.tr),
                    ("ldt", sregs.ldt),
                ],
                tables: [("gdt", sregs.gdt), ("idt", sregs.idt)],
            }),
        }
    }

    /// Creates them from what KVM holds in memory for a vCPU that is locked out, so that nobody
    /// changes it.
    ///
    /// On Intel some registers may still be in the VMCS only; KVM's mask of cached registers says
    /// which. Only the vendor modules know flags and segments.
    pub(crate) fn cached(vcpu: &Vcpu) -> Self {
        let vcpu = vcpu.as_raw();
        // SAFETY: A valid vCPU, whose `arch` consists of plain values.
        let arch = unsafe { &raw const (*vcpu).arch };
        let if_cached = |register: u32, value: usize| {
            // SAFETY: A valid vCPU, and a register of KVM's enumeration.
            let cached = unsafe { bindings::kvm_register_is_available(vcpu, register) };
            if cached {
                u64::try_from(value).ok()
            } else {
                None
            }
        };
        // SAFETY: A valid vCPU; these are plain values.
        let (regs, rip) = unsafe { ((*arch).regs, (*arch).rip) };
        let general = |register: u32| {
            let value = usize::try_from(register).ok().and_then(|at| regs.get(at));
            value.and_then(|value| if_cached(register, *value))
        };
        // SAFETY: A valid vCPU; these are plain values.
        let (cr0, cr2, cr3, cr4, cr8, efer, apic_base) = unsafe {
            (
                (*arch).cr0,
                (*arch).cr2,
                (*arch).cr3,
                (*arch).cr4,
                bindings::kvm_get_cr8(vcpu),
                (*arch).efer,
                (*arch).apic_base,
            )
        };
        Self {
            general: [
                ("rip", if_cached(bindings::kvm_reg_VCPU_REG_RIP, rip)),
                ("rflags", None),
                ("rax", general(bindings::kvm_reg_VCPU_REGS_RAX)),
                ("rbx", general(bindings::kvm_reg_VCPU_REGS_RBX)),
                ("rcx", general(bindings::kvm_reg_VCPU_REGS_RCX)),
                ("rdx", general(bindings::kvm_reg_VCPU_REGS_RDX)),
                ("rsi", general(bindings::kvm_reg_VCPU_REGS_RSI)),
                ("rdi", general(bindings::kvm_reg_VCPU_REGS_RDI)),
                ("rsp", general(bindings::kvm_reg_VCPU_REGS_RSP)),
                ("rbp", general(bindings::kvm_reg_VCPU_REGS_RBP)),
                ("r8", general(bindings::kvm_reg_VCPU_REGS_R8)),
                ("r9", general(bindings::kvm_reg_VCPU_REGS_R9)),
                ("r10", general(bindings::kvm_reg_VCPU_REGS_R10)),
                ("r11", general(bindings::kvm_reg_VCPU_REGS_R11)),
                ("r12", general(bindings::kvm_reg_VCPU_REGS_R12)),
                ("r13", general(bindings::kvm_reg_VCPU_REGS_R13)),
                ("r14", general(bindings::kvm_reg_VCPU_REGS_R14)),
                ("r15", general(bindings::kvm_reg_VCPU_REGS_R15)),
            ],
            control: [
                ("cr0", if_cached(bindings::kvm_reg_VCPU_REG_CR0, cr0)),
                ("cr2", u64::try_from(cr2).ok()),
                ("cr3", if_cached(bindings::kvm_reg_VCPU_REG_CR3, cr3)),
                ("cr4", if_cached(bindings::kvm_reg_VCPU_REG_CR4, cr4)),
                ("cr8", Some(cr8)),
                ("efer", Some(efer)),
                ("apic_base", Some(apic_base)),
            ],
            segments: None,
        }
    }

    /// Returns the value of a control register, 0 if it is not known.
    pub(crate) fn control(&self, name: &str) -> u64 {
        value(&self.control, name)
    }

    /// Returns the value of a general register, 0 if it is not known.
    pub(crate) fn general(&self, name: &str) -> u64 {
        value(&self.general, name)
    }
}

fn value(registers: &[Register], name: &str) -> u64 {
    let found = registers.iter().find(|register| register.0 == name);
    found.and_then(|register| register.1).unwrap_or(0)
}
