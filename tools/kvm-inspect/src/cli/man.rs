// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect man`: the manual.

use super::{
    failure::{Failure, Status},
    Context,
};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect man > kvm-inspect.1
  kvm-inspect man search | man -l -";

/// Prints a page of the manual
#[derive(Debug, clap::Args)]
#[command(hide = true, after_help = EXAMPLES)]
pub(super) struct Args {
    /// The command that it is about; the program, if there is none
    command: Option<String>,
}

pub(super) fn run(
    args: &Args,
    mut command: clap::Command,
    context: &mut Context,
) -> Result<Status, Failure> {
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| {
                Failure::Usage(format!(
                    "there is no command {name}; see kvm-inspect --help"
                ))
            })?;
            // As the pages of git have it.
            found.display_name(format!("kvm-inspect-{name}"))
        }
    };
    let version = concat!("kvm-inspect ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(page)
        .source(version)
        .render(context.terminal.out())?;
    Ok(Status::Done)
}
