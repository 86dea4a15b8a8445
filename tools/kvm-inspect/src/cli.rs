// SPDX-License-Identifier: GPL-2.0

//! The command line of `kvm-inspect`.
//!
//! Each command has a file of its own, with its arguments and its `run`. What it prints goes to
//! standard output: text for people, or with `--json` an object of [`crate::json`]. Errors, notes
//! and progress go to standard error.
//!
//! The program leaves SIGINT and SIGTERM alone: they end it, and that ends its session, so that the
//! guest goes on.

mod arguments;
mod bar;
mod completions;
mod dmesg;
mod dump;
mod failure;
mod guest;
mod info;
mod list;
mod man;
mod read;
mod regs;
mod schema;
mod search;
mod slots;
mod terminal;
mod units;
mod vm;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use self::{
    failure::{Failure, Status},
    terminal::Terminal,
};
use crate::host::Host;

const EXAMPLES: &str = "\
Examples:
  kvm-inspect list
  kvm-inspect regs 812
  kvm-inspect search --name web 'itext:password=' --context 32
  kvm-inspect search 812 'hex:7f 45 4c 46' --json | jq .done.result

VM is the process number of a VMM (QEMU and the like), such as 812, or 812-9 with the VM's file \
descriptor there. It may be left out if there is only one.

Exit status: 0 done, 1 failed, 2 usage, 3 done, but incomplete: the output says what is missing.";

/// Stops KVM guests for a moment, and reads their registers and memory
///
/// The module must be loaded (modprobe kvm_inspect, of the package kvm-inspect-dkms); only list
/// without --memory needs neither it nor root.
#[derive(Debug, Parser)]
#[command(name = "kvm-inspect", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
#[allow(clippy::doc_markdown, reason = "it is help, and no Markdown")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What each command takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// Print one JSON object instead of text; kvm-inspect schema describes it
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// Print data only: no headings, notes or progress
    #[arg(short, long, global = true, help_heading = "Output")]
    quiet: bool,
    /// Another folder than /proc, for tests
    #[arg(long, global = true, hide = true, default_value = "/proc")]
    proc: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Regs(regs::Args),
    Slots(slots::Args),
    Search(Box<search::Args>),
    Read(read::Args),
    Info(info::Args),
    Dmesg(dmesg::Args),
    Dump(Box<dump::Args>),
    Completions(completions::Args),
    Man(man::Args),
    Schema(schema::Args),
}

/// What a command works with.
struct Context {
    host: Host,
    terminal: Terminal,
    json: bool,
}

/// Runs the program with its arguments, its name first, and returns its exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.run(),
        Err(error) => Failure::of_arguments(&error),
    };
    match result {
        Ok(status) => status.into(),
        Err(failure) => failure.report(),
    }
}

impl Cli {
    fn run(self) -> Result<Status, Failure> {
        let mut context = Context {
            host: Host::new(self.global.proc),
            terminal: Terminal::new(self.global.quiet),
            json: self.global.json,
        };
        let result = match self.command {
            Command::List(args) => list::run(&args, &mut context),
            Command::Regs(args) => regs::run(&args, &mut context),
            Command::Slots(args) => slots::run(&args, &mut context),
            Command::Search(args) => search::run(*args, &mut context),
            Command::Read(args) => read::run(&args, &mut context),
            Command::Info(args) => info::run(&args, &mut context),
            Command::Dmesg(args) => dmesg::run(&args, &mut context),
            Command::Dump(args) => dump::run(&args, &mut context),
            Command::Completions(args) => completions::run(&args, Self::command(), &mut context),
            Command::Man(args) => man::run(&args, Self::command(), &mut context),
            Command::Schema(args) => schema::run(&args, &mut context),
        };
        // Also before an error: what was printed may say more.
        let flushed = context.terminal.flush();
        let status = result?;
        match flushed {
            // Who has ended has read enough.
            Ok(()) | Err(Failure::BrokenPipe) => Ok(status),
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let name = command.get_name();
            assert!(help.contains(&format!("kvm-inspect {name}")), "{name}");
        }
    }
}
