// SPDX-License-Identifier: GPL-2.0

//! The report's lines about one vCPU.

use kernel::{
    fmt,
    prelude::*, //
};

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
    let state = match vcpu.state {
        VcpuState::Parked => "parked",
        VcpuState::Outside => "outside",
        VcpuState::Running => "running",
    };
    let number = vcpu.number;
    let Some(registers) = &vcpu.registers else {
        line!(lines, "vcpu", "id={number} state={state} source=none");
        return;
    };
    let source = if registers.is_complete() {
        "kvm"
    } else {
        "cached"
    };
    line!(
        lines,
        "vcpu",
        "id={number} state={state} source={source}{} nested={} smm={} exit={}",
        ModeKeys(registers),
        u8::from(registers.is_nested()),
        u8::from(registers.is_smm()),
        if registers.is_unfinished() {
            "unfinished"
        } else {
            "complete"
        }
    );
    for (keyword, keys) in [
        ("regs", Keys(&registers.general())),
        ("control", Keys(&registers.control())),
        ("msrs", Keys(&registers.msrs())),
        ("debug", Keys(&registers.debug())),
    ] {
        lines.line(keyword, fmt!("vcpu={number}{keys}"));
    }
    for (name, segment) in registers.segments().iter().flatten() {
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
    for (name, table) in registers.tables().iter().flatten() {
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
        let (Some([cr0, cr4, efer, rflags]), Some(segments)) =
            (self.0.of_mode(), self.0.segments())
        else {
            return Ok(());
        };
        let [(_, cs), .., (_, ss), _, _] = &segments;
        let mode = Mode::new(cr0, efer, rflags, cs.l != 0);
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
