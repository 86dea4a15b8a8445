// SPDX-License-Identifier: GPL-2.0

//! The report's lines about one vCPU.

use kernel::fmt;

use super::{
    line,
    Lines, //
};
use crate::{
    freeze::{
        FrozenVcpu,
        VcpuState, //
    },
    kvm::{
        Register,
        Registers, //
    },
    x86::mode::{
        Mode,
        Paging, //
    }, //
};

/// Prints what is known of `vcpu`.
pub(super) fn print(vcpu: &FrozenVcpu, lines: &mut Lines) {
    let (state, source) = match vcpu.state {
        VcpuState::Parked => ("parked", "kvm_run"),
        VcpuState::Outside => ("outside", "cached"),
        VcpuState::Running => ("running", "none"),
    };
    let number = vcpu.number;
    let Some(registers) = &vcpu.registers else {
        line!(lines, "vcpu", "id={number} state={state} source=none");
        return;
    };
    line!(
        lines,
        "vcpu",
        "id={number} state={state} source={source}{}",
        ModeKeys(registers)
    );
    line!(lines, "regs", "vcpu={number}{}", Keys(&registers.general));
    line!(
        lines,
        "control",
        "vcpu={number}{}",
        Keys(&registers.control)
    );
    let Some(segments) = &registers.segments else {
        return;
    };
    for (name, segment) in &segments.segments {
        line!(
            lines,
            "segment",
            "vcpu={number} name={name} selector={:#x} base={:#x} limit={:#x} type={:#x} \
             s={} dpl={} present={} avl={} l={} db={} g={} unusable={}",
            segment.selector,
            segment.base,
            segment.limit,
            segment.type_,
            segment.s,
            segment.dpl,
            segment.present,
            segment.avl,
            segment.l,
            segment.db,
            segment.g,
            segment.unusable
        );
    }
    for (name, table) in &segments.tables {
        line!(
            lines,
            "table",
            "vcpu={number} name={name} base={:#x} limit={:#x}",
            table.base,
            table.limit
        );
    }
}

/// Prints ` mode=… paging=… cpl=…`, if the registers are known.
struct ModeKeys<'a>(&'a Registers);

impl fmt::Display for ModeKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(segments) = &self.0.segments else {
            return Ok(());
        };
        let [(_, cs), .., (_, ss), _, _] = &segments.segments;
        let (cr0, cr4) = (self.0.control("cr0"), self.0.control("cr4"));
        let efer = self.0.control("efer");
        let mode = Mode::new(cr0, efer, self.0.general("rflags"), cs.l != 0);
        let paging = Paging::new(cr0, cr4, efer);
        // The stack segment has the privilege level; `cs` may be conforming.
        write!(f, " mode={mode} paging={paging} cpl={}", ss.dpl)
    }
}

/// Prints ` name=value` for each register that is known.
struct Keys<'a>(&'a [Register]);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.0 {
            if let Some(value) = value {
                write!(f, " {name}={value:#x}")?;
            }
        }
        Ok(())
    }
}
