// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect regs`: the registers of all vCPUs.

use std::io::{self, Write};

use super::{
    arguments::FreezeArgs,
    failure::{Failure, Status},
    terminal::Look,
    units::Time,
    vm::{Opened, VmArgs},
    Context,
};
use crate::{device, json};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect regs
  kvm-inspect regs 812
  kvm-inspect regs --name web --json | jq -r '.vcpu[] | [.id, .mode, .regs.rip] | @tsv'";

/// How many registers are in a line.
const COLUMNS: usize = 4;

/// Shows the registers of all vCPUs, at one instant
///
/// The guest stands for less than a millisecond, usually. Registers are those that KVM holds
/// itself; its VMM cannot forge them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    vm: VmArgs,
    #[command(flatten)]
    freeze: FreezeArgs,
}

pub(super) fn run(args: &Args, context: &mut Context) -> Result<Status, Failure> {
    let opened = Opened::new(&args.vm.selection(), context)?;
    let vcpus = opened
        .session
        .vcpus(args.freeze.late(), args.freeze.timeout_ms())?;
    let object = json::Regs {
        json_version: json::Version,
        vm: opened.json(),
        freeze_us: vcpus.freeze_ns / 1000,
        pause_us: vcpus.pause_ns / 1000,
        vcpu: vcpus.vcpus.iter().map(json::Vcpu::new).collect(),
    };
    let terminal = &mut context.terminal;
    if context.json {
        json::write(terminal.out(), &object)?;
    } else {
        for vcpu in &object.vcpu {
            let heading = heading(vcpu);
            let heading = terminal.paint(Look::Bold, heading);
            writeln!(terminal.out(), "{heading}")?;
            print(terminal.out(), vcpu)?;
        }
        print_pause(&vcpus, context)?;
    }
    let is_whole = object
        .vcpu
        .iter()
        .all(|vcpu| vcpu.state != "running" && vcpu.regs.is_some());
    Ok(if is_whole {
        Status::Done
    } else {
        Status::Incomplete
    })
}

fn print_pause(vcpus: &device::Vcpus, context: &mut Context) -> Result<(), Failure> {
    if context.terminal.is_quiet() {
        return Ok(());
    }
    let (pause, freeze) = (Time(vcpus.pause_ns), Time(vcpus.freeze_ns));
    let out = context.terminal.out();
    Ok(writeln!(
        out,
        "The guest stood for {pause}; it stopped within {freeze}."
    )?)
}

/// Returns the first line about a vCPU.
fn heading(vcpu: &json::Vcpu) -> String {
    let mut heading = format!("vcpu {}: {}", vcpu.id, vcpu.state);
    if let Some(mode) = &vcpu.mode {
        heading.push_str(", mode ");
        heading.push_str(mode);
    }
    if let Some(paging) = &vcpu.paging {
        heading.push_str(", paging ");
        heading.push_str(paging);
    }
    if let Some(cpl) = vcpu.cpl {
        heading.push_str(", cpl ");
        heading.push_str(&cpl.to_string());
    }
    let facts = [
        (vcpu.nested, ", registers of a nested guest"),
        (vcpu.smm, ", in system management mode"),
        (vcpu.exit == "unfinished", ", its last exit is unfinished"),
        (vcpu.source == "cached", ", some registers are not known"),
        (vcpu.source == "none", ", no register is known"),
    ];
    for (_, text) in facts.iter().filter(|(is_so, _)| *is_so) {
        heading.push_str(text);
    }
    heading
}

/// Writes the registers of a vCPU.
fn print(out: &mut impl Write, vcpu: &json::Vcpu) -> io::Result<()> {
    let general = vcpu.regs.iter().flat_map(json::General::known);
    print_registers(out, general)?;
    print_registers(out, vcpu.control.iter().flat_map(json::Control::known))?;
    print_registers(out, vcpu.msrs.iter().flat_map(json::Msrs::known))?;
    print_registers(out, vcpu.debug.iter().flat_map(json::Debug::known))?;
    for (name, segment) in vcpu.segment.iter().flat_map(json::Segments::named) {
        write!(
            out,
            "  {name:<4} {:04x} base {:016x} limit {:08x} type {:x} s {} dpl {} p {} avl {} l {} \
             db {} g {}",
            segment.selector.0,
            segment.base.0,
            segment.limit.0,
            segment.kind.0,
            segment.s,
            segment.dpl,
            segment.present,
            segment.avl,
            segment.l,
            segment.db,
            segment.g,
        )?;
        let unusable = if segment.unusable == 0 {
            ""
        } else {
            " unusable"
        };
        writeln!(out, "{unusable}")?;
    }
    let tables = vcpu.table.iter();
    let tables = tables.flat_map(|tables| [("gdt", &tables.gdt), ("idt", &tables.idt)]);
    for (name, table) in tables {
        let (base, limit) = (table.base.0, table.limit.0);
        writeln!(out, "  {name:<4}      base {base:016x} limit {limit:08x}")?;
    }
    Ok(())
}

/// Writes registers in columns.
fn print_registers(
    out: &mut impl Write,
    registers: impl Iterator<Item = (&'static str, json::Hex)>,
) -> io::Result<()> {
    let registers: Vec<_> = registers.collect();
    let width = registers
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    for row in registers.chunks(COLUMNS) {
        for (name, register) in row {
            write!(out, "  {name:<width$} {:016x}", register.0)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kvm_inspect_pure::uapi;
    use zerocopy::FromZeros;

    use super::*;

    fn printed(vcpu: &uapi::Vcpu) -> (String, String) {
        let vcpu = json::Vcpu::new(vcpu);
        let mut text = Vec::new();
        print(&mut text, &vcpu).expect("written");
        (heading(&vcpu), String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn registers_are_in_columns() {
        let mut vcpu = uapi::Vcpu::new_zeroed();
        vcpu.rip = 0xffff_ffff_8100_0000;
        vcpu.cr0 = 0x8000_0001;
        vcpu.efer = 0x400;
        vcpu.cr4 = 0x20;
        vcpu.cs.l = 1;
        vcpu.cs.selector = 0x10;
        let (heading, text) = printed(&vcpu);
        assert_eq!(heading, "vcpu 0: parked, mode long, paging 4, cpl 0");
        let first = text.lines().next().expect("a line");
        assert!(
            first.starts_with("  rip    ffffffff81000000  rflags 0000000000000000"),
            "{first}"
        );
        assert!(text.contains("\n  cs   0010 base 0000000000000000 limit 00000000 type 0 "));
        assert!(text.ends_with("  idt       base 0000000000000000 limit 00000000\n"));
        assert!(text.lines().all(|line| line.len() <= 140), "{text}");
    }

    #[test]
    fn a_vcpu_without_registers_has_a_heading() {
        let mut vcpu = uapi::Vcpu::new_zeroed();
        vcpu.id = 3;
        vcpu.state = uapi::VCPU_RUNNING;
        vcpu.lacks = uapi::NO_REGISTERS;
        let (heading, text) = printed(&vcpu);
        assert_eq!(heading, "vcpu 3: running, no register is known");
        assert_eq!(text, "");
    }
}
