// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect list`: the VMs of this host.

use std::{fmt::Write as _, io::Write as _};

use super::{
    failure::{Failure, Status},
    terminal::Terminal,
    units::Size,
    vm::Opened,
    Context,
};
use crate::{
    device::Session,
    escape::Escaped,
    host::{Vm, Vms},
    json,
};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect list
  kvm-inspect list --memory --json | jq '.vm[] | {name, memory_bytes}'
  for vm in $(kvm-inspect list -q); do kvm-inspect regs $vm; done";

/// Lists the VMs of this host
///
/// They are found in /proc, without the module: each process that has a VM of KVM open. As root you
/// see all of them, else your own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Ask the device how much memory each guest has
    #[arg(long)]
    memory: bool,
}

pub(super) fn run(args: &Args, context: &mut Context) -> Result<Status, Failure> {
    let Vms { vms, hidden } = context.host.vms().map_err(|error| {
        Failure::Failed(format!(
            "the processes cannot be read: {error}; mount /proc"
        ))
    })?;
    let mut list = json::List {
        json_version: json::Version,
        vm: vms.iter().map(json::Vm::new).collect(),
        hidden,
    };
    if args.memory {
        for (entry, vm) in list.vm.iter_mut().zip(&vms) {
            match memory_bytes(vm, context) {
                Ok(bytes) => entry.memory_bytes = Some(bytes),
                Err(Failure::Failed(line)) => {
                    context
                        .terminal
                        .note(format_args!("process {}: {line}", vm.pid));
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    if context.json {
        json::write(context.terminal.out(), &list)?;
        return Ok(Status::Done);
    }
    print(&list, &vms, &mut context.terminal)?;
    if hidden > 0 {
        let line = format!(
            "{hidden} processes are hidden without CAP_SYS_PTRACE; run kvm-inspect as root"
        );
        context.terminal.note(line);
    }
    Ok(Status::Done)
}

/// Returns how much memory a guest has outside of system management mode.
fn memory_bytes(vm: &Vm, context: &Context) -> Result<u64, Failure> {
    let opened = Opened::attach(Session::open()?, vm.clone(), context)?;
    let slots = opened.session.slots()?;
    // KVM's own have no memory of the guest.
    let slots = slots
        .iter()
        .filter(|slot| slot.address_space == 0 && slot.id < 32764);
    let pages = slots.map(|slot| slot.pages).fold(0, u64::saturating_add);
    Ok(pages.saturating_mul(4096))
}

fn print(list: &json::List, vms: &[Vm], terminal: &mut Terminal) -> Result<(), Failure> {
    if terminal.is_quiet() {
        for vm in vms {
            match vm.fd {
                Some(fd) => writeln!(terminal.out(), "{}-{fd}", vm.pid)?,
                None => writeln!(terminal.out(), "{}", vm.pid)?,
            }
        }
        return Ok(());
    }
    if vms.is_empty() {
        terminal.note("there is no VM");
        return Ok(());
    }
    let has_memory = list.vm.iter().any(|vm| vm.memory_bytes.is_some());
    let memory = |bytes: Option<u64>| {
        let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| Size(bytes).to_string());
        format!("  {bytes:>10}")
    };
    let width = vms
        .iter()
        .map(|vm| Escaped::of_os(&vm.program).to_string().chars().count());
    let width = width.max().unwrap_or(0).max(3);
    let column = if has_memory { "      MEMORY" } else { "" };
    terminal.heading(&format!(
        "{:>7} {:>4}  {:<width$} {:>5}  {:>10}{column}  NAME",
        "PID", "FD", "VMM", "VCPUS", "RSS"
    ))?;
    for (entry, vm) in list.vm.iter().zip(vms) {
        let or_dash = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
        let mut line = format!(
            "{:>7} {:>4}  {:<width$} {:>5}{}",
            vm.pid,
            or_dash(vm.fd.map(|fd| fd.to_string())),
            Escaped::of_os(&vm.program),
            or_dash(vm.vcpus.map(|vcpus| vcpus.to_string())),
            memory(vm.rss_bytes),
        );
        if has_memory {
            line.push_str(&memory(entry.memory_bytes));
        }
        let name = vm.name.as_deref().map(Escaped::of_os);
        // Writing to a string cannot fail.
        let _ = match name {
            Some(name) => write!(line, "  {name}"),
            None => write!(line, "  -"),
        };
        writeln!(terminal.out(), "{line}")?;
    }
    Ok(())
}
