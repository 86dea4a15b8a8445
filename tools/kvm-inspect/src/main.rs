// SPDX-License-Identifier: GPL-2.0

//! The program `kvm-inspect`. All of it is in the library ([`kvm_inspect_tool::cli`]).

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    kvm_inspect_tool::cli::run(env::args_os())
}
