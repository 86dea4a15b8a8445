// SPDX-License-Identifier: GPL-2.0

//! A vCPU with its registers.

use kvm_inspect_pure::{
    uapi,
    x86::mode::{Mode, Paging},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Hex;

/// A vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vcpu {
    /// The number that the VMM gave it.
    pub id: i32,
    /// Where its thread was: it waited at the entry of `KVM_RUN` (`parked`), was `outside` of it,
    /// or did not stop in time (`running`). `unknown`: the module is newer.
    #[schemars(extend("enum" = ["parked", "outside", "running", "unknown"]))]
    pub state: String,
    /// What is known: all (`kvm`), what KVM had in memory (`cached`), or `none`.
    #[schemars(extend("enum" = ["kvm", "cached", "none"]))]
    pub source: String,
    /// The mode of the CPU.
    #[schemars(extend("enum" = ["real", "protected", "vm86", "compat", "long", null]))]
    pub mode: Option<String>,
    /// How many levels its page tables have; `none`: it translates no addresses.
    #[schemars(extend("enum" = ["none", "2", "3", "4", "5", null]))]
    pub paging: Option<String>,
    /// The privilege level, 0 to 3.
    pub cpl: Option<u8>,
    /// Whether the registers are those of a nested guest.
    pub nested: bool,
    /// Whether it is in system management mode.
    pub smm: bool,
    /// Whether KVM was done with what the guest last did.
    #[schemars(extend("enum" = ["complete", "unfinished"]))]
    pub exit: String,
    /// The general registers; `null` if no register is known.
    pub regs: Option<General>,
    /// The control registers.
    pub control: Option<Control>,
    /// Model-specific registers.
    pub msrs: Option<Msrs>,
    /// The debug registers.
    pub debug: Option<Debug>,
    /// The segment registers.
    pub segment: Option<Segments>,
    /// The descriptor table registers.
    pub table: Option<Tables>,
}

/// Makes a structure of registers by their names. What is not known is left out.
macro_rules! registers {
    ($(#[$doc:meta])* $name:ident: $($register:ident)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub struct $name {
            $(
                #[doc = concat!("The register `", stringify!($register), "`, if it is known.")]
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $register: Option<Hex>,
            )*
        }

        impl $name {
            fn new(vcpu: &uapi::Vcpu) -> Self {
                Self {
                    $($register: Some(Hex(vcpu.$register)),)*
                }
            }

            /// Returns those that are known, with their names.
            pub fn known(&self) -> impl Iterator<Item = (&'static str, Hex)> {
                let all = [$((stringify!($register), self.$register),)*];
                all.into_iter().filter_map(|(name, register)| Some((name, register?)))
            }
        }
    };
}

registers! {
    /// General registers.
    General: rip rflags rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15
}

registers! {
    /// Control registers.
    Control: cr0 cr2 cr3 cr4 cr8 efer apic_base
}

registers! {
    /// Model-specific registers.
    Msrs: kernel_gs_base lstar star cstar sfmask sysenter_cs sysenter_esp sysenter_eip tsc_aux pat
        xcr0
}

registers! {
    /// Debug registers.
    Debug: dr0 dr1 dr2 dr3 dr6 dr7
}

/// A segment register, as `struct kvm_segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Segment {
    /// The selector.
    pub selector: Hex,
    /// The base address.
    pub base: Hex,
    /// The limit: the offset of the last byte.
    pub limit: Hex,
    /// The type, of four bits.
    #[serde(rename = "type")]
    pub kind: Hex,
    /// 1: code or data, 0: of the system.
    pub s: u8,
    /// The privilege level.
    pub dpl: u8,
    /// 1: present.
    pub present: u8,
    /// The bit for the system.
    pub avl: u8,
    /// 1: 64-bit code.
    pub l: u8,
    /// 1: operands of 32 bits.
    pub db: u8,
    /// 1: the limit was given in pages.
    pub g: u8,
    /// 1: it cannot be used.
    pub unusable: u8,
}

/// The segment registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Segments {
    /// Code.
    pub cs: Segment,
    /// Data.
    pub ds: Segment,
    /// More data.
    pub es: Segment,
    /// More data.
    pub fs: Segment,
    /// More data.
    pub gs: Segment,
    /// The stack.
    pub ss: Segment,
    /// The task.
    pub tr: Segment,
    /// The local descriptor table.
    pub ldt: Segment,
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Table {
    /// The base address.
    pub base: Hex,
    /// The limit: the offset of the last byte.
    pub limit: Hex,
}

/// The descriptor table registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tables {
    /// The global descriptor table.
    pub gdt: Table,
    /// The interrupt descriptor table.
    pub idt: Table,
}

impl Segment {
    fn new(segment: &uapi::Segment) -> Self {
        Self {
            selector: Hex(segment.selector.into()),
            base: Hex(segment.base),
            limit: Hex(segment.limit.into()),
            kind: Hex(segment.type_.into()),
            s: segment.s,
            dpl: segment.dpl,
            present: segment.present,
            avl: segment.avl,
            l: segment.l,
            db: segment.db,
            g: segment.g,
            unusable: segment.unusable,
        }
    }
}

impl Segments {
    /// Returns them with their names.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, &Segment); 8] {
        [
            ("cs", &self.cs),
            ("ds", &self.ds),
            ("es", &self.es),
            ("fs", &self.fs),
            ("gs", &self.gs),
            ("ss", &self.ss),
            ("tr", &self.tr),
            ("ldt", &self.ldt),
        ]
    }
}

impl Vcpu {
    /// Creates it from what the device tells.
    #[must_use]
    pub fn new(vcpu: &uapi::Vcpu) -> Self {
        let lacks = |bit| vcpu.lacks & bit != 0;
        let is_known = !lacks(uapi::NO_REGISTERS);
        let mut this = Self {
            id: vcpu.id,
            state: match vcpu.state {
                uapi::VCPU_PARKED => "parked",
                uapi::VCPU_AWAY => "outside",
                uapi::VCPU_RUNNING => "running",
                _ => "unknown",
            }
            .to_owned(),
            source: match vcpu.lacks {
                0 => "kvm",
                _ if is_known => "cached",
                _ => "none",
            }
            .to_owned(),
            mode: None,
            paging: None,
            cpl: None,
            nested: vcpu.flags & uapi::VCPU_NESTED != 0,
            smm: vcpu.flags & uapi::VCPU_SMM != 0,
            exit: if vcpu.flags & uapi::VCPU_UNFINISHED == 0 {
                "complete"
            } else {
                "unfinished"
            }
            .to_owned(),
            regs: is_known.then(|| General::new(vcpu)),
            control: is_known.then(|| Control::new(vcpu)),
            msrs: is_known.then(|| Msrs::new(vcpu)),
            debug: is_known.then(|| Debug::new(vcpu)),
            segment: None,
            table: None,
        };
        this.take_out(lacks);
        if is_known && !lacks(uapi::NO_VMCS) {
            this.add_segments(vcpu);
            if !lacks(uapi::NO_CR0) && !lacks(uapi::NO_CR4) {
                let mode = Mode::new(vcpu.cr0, vcpu.efer, vcpu.rflags, vcpu.cs.l != 0);
                this.mode = Some(mode.to_string());
                this.paging = Some(Paging::new(vcpu.cr0, vcpu.cr4, vcpu.efer).to_string());
                // The stack segment has the privilege level; `cs` may be conforming.
                this.cpl = Some(vcpu.ss.dpl);
            }
        }
        this
    }

    /// Takes out registers that are not known.
    fn take_out(&mut self, lacks: impl Fn(u32) -> bool) {
        if let Some(regs) = &mut self.regs {
            if lacks(uapi::NO_VMCS) {
                regs.rflags = None;
            }
            if lacks(uapi::NO_RIP) {
                regs.rip = None;
            }
            if lacks(uapi::NO_RSP) {
                regs.rsp = None;
            }
        }
        if let Some(control) = &mut self.control {
            if lacks(uapi::NO_CR0) {
                control.cr0 = None;
            }
            if lacks(uapi::NO_CR3) {
                control.cr3 = None;
            }
            if lacks(uapi::NO_CR4) {
                control.cr4 = None;
            }
        }
        if let Some(msrs) = self.msrs.as_mut().filter(|_| lacks(uapi::NO_VMCS)) {
            msrs.sysenter_cs = None;
            msrs.sysenter_esp = None;
            msrs.sysenter_eip = None;
        }
    }

    fn add_segments(&mut self, vcpu: &uapi::Vcpu) {
        self.segment = Some(Segments {
            cs: Segment::new(&vcpu.cs),
            ds: Segment::new(&vcpu.ds),
            es: Segment::new(&vcpu.es),
            fs: Segment::new(&vcpu.fs),
            gs: Segment::new(&vcpu.gs),
            ss: Segment::new(&vcpu.ss),
            tr: Segment::new(&vcpu.tr),
            ldt: Segment::new(&vcpu.ldt),
        });
        let table = |table: &uapi::Table| Table {
            base: Hex(table.base),
            limit: Hex(table.limit),
        };
        self.table = Some(Tables {
            gdt: table(&vcpu.gdt),
            idt: table(&vcpu.idt),
        });
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn long() -> uapi::Vcpu {
        let mut vcpu = uapi::Vcpu::new_zeroed();
        vcpu.id = 1;
        vcpu.rip = 0xffff_ffff_8100_0000;
        vcpu.cr0 = 0x8005_0033;
        vcpu.cr4 = 0x20;
        vcpu.efer = 0xd01;
        vcpu.cs.l = 1;
        vcpu.ss.dpl = 3;
        vcpu
    }

    #[test]
    fn all_registers_tell_the_mode() {
        let vcpu = Vcpu::new(&long());
        assert_eq!(
            (&*vcpu.state, &*vcpu.source, &*vcpu.exit),
            ("parked", "kvm", "complete")
        );
        assert_eq!(vcpu.mode.as_deref(), Some("long"));
        assert_eq!(vcpu.paging.as_deref(), Some("4"));
        assert_eq!(vcpu.cpl, Some(3));
        assert_eq!(vcpu.regs.expect("known").known().count(), 18);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut vcpu = long();
        vcpu.lacks = uapi::NO_VMCS | uapi::NO_CR3;
        let json = serde_json::to_value(Vcpu::new(&vcpu)).expect("JSON");
        assert_eq!(json["source"], "cached");
        assert!(json["mode"].is_null() && json["segment"].is_null());
        assert_eq!(json["regs"]["rip"], "0xffffffff81000000");
        assert!(json["regs"].get("rflags").is_none());
        assert!(json["control"].get("cr3").is_none());
        vcpu.lacks = uapi::NO_REGISTERS;
        vcpu.state = uapi::VCPU_RUNNING;
        let vcpu = Vcpu::new(&vcpu);
        assert_eq!((&*vcpu.state, &*vcpu.source), ("running", "none"));
        assert!(vcpu.regs.is_none());
    }
}
