// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect info`: which Linux runs in the guest.

use std::io::Write;

use kvm_inspect_pure::uapi;

use super::{
    arguments::FreezeArgs,
    failure::{Failure, Status},
    guest,
    vm::{Opened, VmArgs},
    Context,
};
use crate::{
    json,
    linux::{Candidate, CpuNumbers, DirectMap, MapSource, Proofs},
    paging::{ControlRegisters, Mode},
};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect info
  kvm-inspect info --name web
  kvm-inspect info 812 --json | jq -r .linux.os_release";

/// Shows which Linux runs in the guest, and what proves it
///
/// It is found by the note VMCOREINFO that each Linux keeps in its memory. The note is proved by
/// the guest's own page tables and symbols; copies and forgeries are told. The guest runs
/// meanwhile, but for a moment in which the registers of its vCPUs are read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::doc_markdown, reason = "it is help, and no Markdown")]
pub(super) struct Args {
    #[command(flatten)]
    vm: VmArgs,
    #[command(flatten)]
    freeze: FreezeArgs,
}

pub(super) fn run(args: &Args, context: &mut Context) -> Result<Status, Failure> {
    let opened = Opened::new(&args.vm.selection(), context)?;
    let vm = opened.json();
    guest::with_kernel(&opened, &args.freeze, context, |proofs, vcpus, context| {
        let object = json::Info {
            json_version: json::Version,
            vm,
            linux: proofs.taken().map(|taken| linux(taken, vcpus)),
            candidate: proofs.candidates.iter().map(candidate).collect(),
            is_ambiguous: proofs.is_ambiguous,
            vcpu: vcpus.iter().map(cpu).collect(),
        };
        if context.json {
            json::write(context.terminal.out(), &object)?;
        } else {
            print(&object, context)?;
        }
        if object.linux.is_none() {
            return Err(no_kernel(proofs));
        }
        let is_proved = object.linux.is_some_and(|linux| linux.proof != "none");
        Ok(if is_proved && !object.is_ambiguous {
            Status::Done
        } else {
            Status::Incomplete
        })
    })
}

fn no_kernel(proofs: &Proofs<'_>) -> Failure {
    match guest::taken(proofs) {
        Err(failure) => failure,
        Ok(_) => Failure::Failed("no Linux was found; look again".to_owned()),
    }
}

/// Returns what is known of the kernel that runs.
fn linux(taken: &Candidate<'_>, vcpus: &[uapi::Vcpu]) -> json::Linux {
    let info = &taken.note.info;
    let text = |value: Option<&str>| value.map(ToOwned::to_owned);
    let kernel = taken.kernel.as_ref().ok();
    let symbols = taken.pointer.as_ref().ok();
    let direct_map = kernel.and_then(|kernel| DirectMap::find(kernel, symbols));
    let numbers = kernel.zip(symbols);
    let numbers = numbers.and_then(|(kernel, symbols)| CpuNumbers::read(kernel, symbols));
    let ids: Vec<u32> = vcpus.iter().map(|vcpu| vcpu.id.unsigned_abs()).collect();
    json::Linux {
        os_release: text(info.os_release()),
        build_id: text(info.build_id()),
        vmcoreinfo_gpa: taken.note.gpa,
        proof: guest::word(taken.proof()).to_owned(),
        kaslr_offset: info.kaslr_offset().map(json::Hex),
        phys_base: info
            .phys_base()
            .map(|base| json::Hex(u64::from_ne_bytes(base.to_ne_bytes()))),
        paging: paging(info.mode()).to_owned(),
        direct_map: direct_map.as_ref().map(|map| json::Hex(map.base)),
        direct_map_source: direct_map.map(|map| {
            match map.source {
                MapSource::Variable => "variable",
                MapSource::Tables => "tables",
            }
            .to_owned()
        }),
        symbols: symbols.map(crate::linux::Kallsyms::len),
        vcpus: taken.vcpus.len(),
        cpus: numbers.and_then(|numbers| numbers.numbers(&ids)),
    }
}

fn candidate(candidate: &Candidate<'_>) -> json::Candidate {
    let why = match (&candidate.kernel, &candidate.pointer) {
        (Err(error), _) => Some(error.to_string()),
        (_, Err(error)) => Some(error.to_string()),
        _ => None,
    };
    json::Candidate {
        gpa: candidate.note.gpa,
        os_release: candidate.note.info.os_release().map(ToOwned::to_owned),
        proof: guest::word(candidate.proof()).to_owned(),
        vcpus: candidate.vcpus.len(),
        why,
    }
}

fn cpu(vcpu: &uapi::Vcpu) -> json::InfoVcpu {
    const UNKNOWN: u32 = uapi::NO_REGISTERS | uapi::NO_CR0 | uapi::NO_CR3 | uapi::NO_CR4;

    let mode = Mode::of(&ControlRegisters {
        cr0: vcpu.cr0,
        cr3: vcpu.cr3,
        cr4: vcpu.cr4,
        efer: vcpu.efer,
    });
    let is_known = vcpu.lacks & UNKNOWN == 0;
    json::InfoVcpu {
        id: vcpu.id,
        paging: is_known.then(|| paging(mode).to_owned()),
        cr3: is_known.then_some(json::Hex(vcpu.cr3)),
    }
}

const fn paging(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Legacy { .. } => "legacy",
        Mode::Pae => "pae",
        Mode::FourLevel => "4",
        Mode::FiveLevel => "5",
    }
}

fn print(info: &json::Info, context: &mut Context) -> Result<(), Failure> {
    let out = context.terminal.out();
    if let Some(linux) = &info.linux {
        let mut line = |name: &str, value: Option<String>| match value {
            Some(value) => writeln!(out, "{name:<14} {value}"),
            None => Ok(()),
        };
        let hex = |value: Option<json::Hex>| value.map(|value| format!("{:#x}", value.0));
        line("Linux", linux.os_release.clone())?;
        line("build ID", linux.build_id.clone())?;
        let proof = match linux.proof.as_str() {
            "pointer" => "proved by the kernel's page tables and symbols",
            "root" => "proved by the kernel's page tables",
            _ => "not proved",
        };
        line(
            "VMCOREINFO",
            Some(format!("{:#x}, {proof}", linux.vmcoreinfo_gpa)),
        )?;
        line("KASLR offset", hex(linux.kaslr_offset))?;
        line("phys_base", hex(linux.phys_base))?;
        line("paging", Some(format!("{} levels", linux.paging)))?;
        line("direct map", hex(linux.direct_map))?;
        line("symbols", linux.symbols.map(|count| count.to_string()))?;
        let vcpus = info.vcpu.len();
        line("vCPUs", Some(format!("{} of {vcpus} in it", linux.vcpus)))?;
        let cpus = linux.cpus.as_ref().map(|cpus| {
            let pairs = info.vcpu.iter().zip(cpus);
            let pairs: Vec<_> = pairs
                .map(|(vcpu, cpu)| format!("{}: {cpu}", vcpu.id))
                .collect();
            pairs.join(", ")
        });
        line("CPU of vCPU", cpus)?;
    }
    let others = info.candidate.iter();
    let taken = info.linux.as_ref().map(|linux| linux.vmcoreinfo_gpa);
    for other in others.filter(|other| Some(other.gpa) != taken) {
        writeln!(
            out,
            "another note at {:#x}: {}{}",
            other.gpa,
            other.proof,
            other
                .why
                .as_ref()
                .map_or(String::new(), |why| format!(" ({why})"))
        )?;
    }
    Ok(())
}
