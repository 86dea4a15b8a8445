// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect dmesg`: the log of the guest's kernel.

use std::io::Write;

use super::{
    arguments::FreezeArgs,
    failure::{Failure, Status},
    guest,
    units::Count,
    vm::{Opened, VmArgs},
    Context,
};
use crate::{
    json,
    linux::{Caller, Log, Record},
};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect dmesg
  kvm-inspect dmesg --name web | grep -i error
  kvm-inspect dmesg 812 --json | jq -r '.record[] | select(.level <= 3) | .text'";

/// Shows the log of the guest's Linux, read from outside
///
/// It is found by the note VMCOREINFO that each Linux keeps in its memory. No symbols are needed,
/// and nothing in the guest. The guest runs meanwhile, but for a moment in which the registers of
/// its vCPUs are read. Control characters are shown as \x1b.
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
    let log = guest::with_kernel(&opened, &args.freeze, context, |proofs, _, _| {
        let taken = guest::taken(proofs)?;
        let kernel = taken.kernel.as_ref().map_err(|error| {
            Failure::Failed(format!(
                "the guest's kernel cannot be read: {error}; see kvm-inspect info"
            ))
        })?;
        Log::read(kernel).map_err(|error| {
            Failure::Failed(format!(
                "the log of the guest's kernel cannot be read: {error}; see kvm-inspect info"
            ))
        })
    })?;
    if context.json {
        let object = json::Dmesg {
            json_version: json::Version,
            vm: opened.json(),
            record: log.records.iter().map(record).collect(),
            skipped: log.skipped,
            omitted: log.omitted,
        };
        json::write(context.terminal.out(), &object)?;
    } else {
        for line in log.records.iter().flat_map(Record::lines) {
            writeln!(context.terminal.out(), "{line}")?;
        }
    }
    if log.skipped == 0 && log.omitted == 0 {
        return Ok(Status::Done);
    }
    context.terminal.note(format_args!(
        "{} left out: being written, damaged, or too old",
        Count(log.skipped.saturating_add(log.omitted), "record")
    ));
    Ok(Status::Incomplete)
}

fn record(record: &Record) -> json::LogRecord {
    json::LogRecord {
        sequence: record.sequence,
        timestamp_ns: record.timestamp,
        level: record.level,
        facility: record.facility,
        thread: match record.caller {
            Caller::Thread(number) => Some(number),
            Caller::Cpu(_) => None,
        },
        cpu: match record.caller {
            Caller::Cpu(number) => Some(number),
            Caller::Thread(_) => None,
        },
        text: String::from_utf8_lossy(&record.text).into_owned(),
    }
}
