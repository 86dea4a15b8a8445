// SPDX-License-Identifier: GPL-2.0

//! The program in a test VM. As the first process it sets up the VM, runs the cases that the
//! kernel's command line names in child processes, reports, and powers off.
//!
//! `cases --list` prints the cases on any machine.

mod cases;
mod device;
mod init;
mod inspect;
mod ksm;
mod patience;
mod process;
mod ptrace;
mod role;
mod stuck_disk;
mod swap;
mod vmm;

use std::{env, panic, process as std_process};

fn main() {
    panic_ends_the_process();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--list"] => {
            for case in cases::all() {
                println!("{}", case.info());
            }
        }
        ["--case", name] => {
            (cases::find(name).run)();
            inspect::end();
        }
        ["--role", name, arguments @ ..] => role::play(name, arguments),
        // The kernel passes on parameters that it does not know.
        _ if std_process::id() == 1 => init::run(),
        _ => {
            eprintln!("usage: cases --list (all else runs in a test VM)");
            std_process::exit(2);
        }
    }
}

/// Lets a panic of any thread end the case. The first process reports the message and the place.
fn panic_ends_the_process() {
    let show = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        show(info);
        // If the first process ended the kernel would panic.
        if std_process::id() != 1 {
            std_process::exit(1);
        }
    }));
}
