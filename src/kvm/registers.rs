// SPDX-License-Identifier: GPL-2.0

//! The registers of a vCPU.
//!
//! They are read where KVM itself keeps them, never in the `kvm_run` page, which the VMM may write.

use super::Vcpu;
use crate::{
    bindings,
    uapi, //
};

// What is lacking has the same numbers for the device.
const _: () = assert!(
    bindings::KVM_INSPECT_LACKS_VMCS == uapi::NO_VMCS
        && bindings::KVM_INSPECT_LACKS_RIP == uapi::NO_RIP
        && bindings::KVM_INSPECT_LACKS_RSP == uapi::NO_RSP
        && bindings::KVM_INSPECT_LACKS_CR0 == uapi::NO_CR0
        && bindings::KVM_INSPECT_LACKS_CR3 == uapi::NO_CR3
        && bindings::KVM_INSPECT_LACKS_CR4 == uapi::NO_CR4
);

/// A register's name and value; no value if it is not known.
pub(crate) type Register = (&'static str, Option<u64>);

/// A segment's name and value.
pub(crate) type Segment = (&'static str, bindings::kvm_segment);

/// The registers of one vCPU at one moment.
pub(crate) struct Registers(bindings::kvm_inspect_registers);

impl Registers {
    /// Reads the registers of a vCPU whose mutex the caller holds.
    ///
    /// On Intel some of them are in the VMCS, which cannot be read on Hyper-V.
    /// [`None`] if KVM does not know any.
    pub(crate) fn read(vcpu: &Vcpu) -> Option<Self> {
        let mut raw = bindings::kvm_inspect_registers::default();
        // SAFETY: A valid vCPU. Values that change meanwhile would be wrong, nothing more.
        unsafe { bindings::read_registers(vcpu.as_raw(), &raw mut raw) }.then_some(Self(raw))
    }

    /// Returns them as the device gives them; what is not known is 0.
    pub(crate) fn to_uapi(&self) -> uapi::Vcpu {
        let raw = &self.0;
        let known = |what, value| if self.lacks(what) { 0 } else { value };
        let vmcs = |value| known(bindings::KVM_INSPECT_LACKS_VMCS, value);
        let segment = |segment: bindings::kvm_segment| {
            if self.lacks(bindings::KVM_INSPECT_LACKS_VMCS) {
                return zerocopy::FromZeros::new_zeroed();
            }
            uapi::Segment {
                base: segment.base,
                limit: segment.limit,
                selector: segment.selector,
                type_: segment.type_,
                present: segment.present,
                dpl: segment.dpl,
                db: segment.db,
                s: segment.s,
                l: segment.l,
                g: segment.g,
                avl: segment.avl,
                unusable: segment.unusable,
                reserved: 0,
            }
        };
        let table = |table: bindings::kvm_dtable| uapi::Table {
            base: vmcs(table.base),
            limit: vmcs(table.limit.into()),
        };
        let flag = |has, flag| if has { flag } else { 0 };
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] =
            raw.general;
        let [dr0, dr1, dr2, dr3] = raw.dr;
        uapi::Vcpu {
            id: 0,
            state: 0,
            flags: flag(raw.nested, uapi::VCPU_NESTED)
                | flag(raw.smm, uapi::VCPU_SMM)
                | flag(raw.unfinished, uapi::VCPU_UNFINISHED),
            lacks: raw.lacks,
            rip: known(bindings::KVM_INSPECT_LACKS_RIP, raw.rip),
            rflags: vmcs(raw.rflags),
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp: known(bindings::KVM_INSPECT_LACKS_RSP, rsp),
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            cr0: known(bindings::KVM_INSPECT_LACKS_CR0, raw.cr0),
            cr2: raw.cr2,
            cr3: known(bindings::KVM_INSPECT_LACKS_CR3, raw.cr3),
            cr4: known(bindings::KVM_INSPECT_LACKS_CR4, raw.cr4),
            cr8: raw.cr8,
            efer: raw.efer,
            apic_base: raw.apic_base,
            kernel_gs_base: raw.kernel_gs_base,
            lstar: raw.lstar,
            star: raw.star,
            cstar: raw.cstar,
            sfmask: raw.sfmask,
            sysenter_cs: vmcs(raw.sysenter_cs),
            sysenter_esp: vmcs(raw.sysenter_esp),
            sysenter_eip: vmcs(raw.sysenter_eip),
            tsc_aux: raw.tsc_aux,
            pat: raw.pat,
            xcr0: raw.xcr0,
            dr0,
            dr1,
            dr2,
            dr3,
            dr6: raw.dr6,
            dr7: raw.dr7,
            cs: segment(raw.cs),
            ds: segment(raw.ds),
            es: segment(raw.es),
            fs: segment(raw.fs),
            gs: segment(raw.gs),
            ss: segment(raw.ss),
            tr: segment(raw.tr),
            ldt: segment(raw.ldt),
            gdt: table(raw.gdt),
            idt: table(raw.idt),
        }
    }

    fn lacks(&self, what: u32) -> bool {
        self.0.lacks & what != 0
    }

    fn unless_lacking(&self, what: u32, value: u64) -> Option<u64> {
        (!self.lacks(what)).then_some(value)
    }

    /// Returns whether all registers are known.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.lacks == 0
    }

    /// Returns whether they are those of a nested guest.
    pub(crate) fn is_nested(&self) -> bool {
        self.0.nested
    }

    /// Returns whether the vCPU is in system management mode.
    pub(crate) fn is_smm(&self) -> bool {
        self.0.smm
    }

    /// Returns whether the last exit to the VMM is still to be completed.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.0.unfinished
    }

    /// Returns `rip`, `rflags` and the general registers.
    pub(crate) fn general(&self) -> [Register; 18] {
        // KVM's order is the one of the instructions' encoding.
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] =
            self.0.general;
        [
            (
                "rip",
                self.unless_lacking(bindings::KVM_INSPECT_LACKS_RIP, self.0.rip),
            ),
            (
                "rflags",
                self.unless_lacking(bindings::KVM_INSPECT_LACKS_VMCS, self.0.rflags),
            ),
            ("rax", Some(rax)),
            ("rbx", Some(rbx)),
            ("rcx", Some(rcx)),
            ("rdx", Some(rdx)),
            ("rsi", Some(rsi)),
            ("rdi", Some(rdi)),
            (
                "rsp",
                self.unless_lacking(bindings::KVM_INSPECT_LACKS_RSP, rsp),
            ),
            ("rbp", Some(rbp)),
            ("r8", Some(r8)),
            ("r9", Some(r9)),
            ("r10", Some(r10)),
            ("r11", Some(r11)),
            ("r12", Some(r12)),
            ("r13", Some(r13)),
            ("r14", Some(r14)),
            ("r15", Some(r15)),
        ]
    }

    /// Returns the control registers, `efer` and `apic_base`.
    pub(crate) fn control(&self) -> [Register; 7] {
        let raw = &self.0;
        [
            (
                "cr0",
                self.unless_lacking(bindings::KVM_INSPECT_LACKS_CR0, raw.cr0),
            ),
            ("cr2", Some(raw.cr2)),
            (
                "cr3",
                self.unless_lacking(bindings::KVM_INSPECT_LACKS_CR3, raw.cr3),
            ),
            (
                "cr4",
                self.unless_lacking(bindings::KVM_INSPECT_LACKS_CR4, raw.cr4),
            ),
            ("cr8", Some(raw.cr8)),
            ("efer", Some(raw.efer)),
            ("apic_base", Some(raw.apic_base)),
        ]
    }

    /// Returns the model-specific registers, and `xcr0`.
    pub(crate) fn msrs(&self) -> [Register; 11] {
        let raw = &self.0;
        let vmcs = |value| self.unless_lacking(bindings::KVM_INSPECT_LACKS_VMCS, value);
        [
            ("kernel_gs_base", Some(raw.kernel_gs_base)),
            ("lstar", Some(raw.lstar)),
            ("star", Some(raw.star)),
            ("cstar", Some(raw.cstar)),
            ("sfmask", Some(raw.sfmask)),
            ("sysenter_cs", vmcs(raw.sysenter_cs)),
            ("sysenter_esp", vmcs(raw.sysenter_esp)),
            ("sysenter_eip", vmcs(raw.sysenter_eip)),
            ("tsc_aux", Some(raw.tsc_aux)),
            ("pat", Some(raw.pat)),
            ("xcr0", Some(raw.xcr0)),
        ]
    }

    /// Returns the debug registers.
    pub(crate) fn debug(&self) -> [Register; 6] {
        let [dr0, dr1, dr2, dr3] = self.0.dr;
        [
            ("dr0", Some(dr0)),
            ("dr1", Some(dr1)),
            ("dr2", Some(dr2)),
            ("dr3", Some(dr3)),
            ("dr6", Some(self.0.dr6)),
            ("dr7", Some(self.0.dr7)),
        ]
    }

    /// Returns the segment registers with their hidden parts, if they are known.
    pub(crate) fn segments(&self) -> Option<[Segment; 8]> {
        let raw = &self.0;
        (!self.lacks(bindings::KVM_INSPECT_LACKS_VMCS)).then_some([
            ("cs", raw.cs),
            ("ds", raw.ds),
            ("es", raw.es),
            ("fs", raw.fs),
            ("gs", raw.gs),
            ("ss", raw.ss),
            ("tr", raw.tr),
            ("ldt", raw.ldt),
        ])
    }

    /// Returns `gdt` and `idt`, if they are known.
    pub(crate) fn tables(&self) -> Option<[(&'static str, bindings::kvm_dtable); 2]> {
        (!self.lacks(bindings::KVM_INSPECT_LACKS_VMCS))
            .then_some([("gdt", self.0.gdt), ("idt", self.0.idt)])
    }

    /// Returns `cr0`, `cr4`, `efer` and `rflags`, if all are known.
    pub(crate) fn of_mode(&self) -> Option<[u64; 4]> {
        let unknown = bindings::KVM_INSPECT_LACKS_VMCS
            | bindings::KVM_INSPECT_LACKS_CR0
            | bindings::KVM_INSPECT_LACKS_CR4;
        let raw = &self.0;
        (!self.lacks(unknown)).then_some([raw.cr0, raw.cr4, raw.efer, raw.rflags])
    }
}
