// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect completions`: what a shell completes.

use std::io::Write;

use clap::ValueEnum;
use clap_complete::Shell;

use super::{
    failure::{Failure, Status},
    Context,
};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect completions bash > /usr/share/bash-completion/completions/kvm-inspect
  kvm-inspect completions zsh > /usr/share/zsh/site-functions/_kvm-inspect
  kvm-inspect completions fish > /usr/share/fish/vendor_completions.d/kvm-inspect.fish";

/// Prints a script with which a shell completes arguments
#[derive(Debug, clap::Args)]
#[command(hide = true, after_help = EXAMPLES)]
pub(super) struct Args {
    /// Which shell
    shell: Kind,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(
    args: &Args,
    mut command: clap::Command,
    context: &mut Context,
) -> Result<Status, Failure> {
    let shell = match args.shell {
        Kind::Bash => Shell::Bash,
        Kind::Zsh => Shell::Zsh,
        Kind::Fish => Shell::Fish,
    };
    // It panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "kvm-inspect", &mut script);
    let script = String::from_utf8_lossy(&script);
    // For bash it gives a command two names if the program's has a hyphen, so that no option of a
    // command is completed (https://github.com/clap-rs/clap/issues/6421).
    let script = script.replace("kvm__subcmd__inspect", "kvm__inspect");
    context.terminal.out().write_all(script.as_bytes())?;
    Ok(Status::Done)
}
