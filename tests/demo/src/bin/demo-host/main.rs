// SPDX-License-Identifier: GPL-2.0

//! The host of the demo: PID 1 of a VM that runs the stock kernel with KVM.
//!
//! It starts a Linux guest in QEMU, and the module inspects that. A kernel parameter names the
//! scenario. Its messages go to the second serial port, as those of a case. After the verdict come
//! the results, or what went wrong.

mod dump;
mod dumps;
mod find;
mod freezes;
mod installed;
mod long_pause;
mod outside;
mod peers;

use std::{io, thread, time::Duration};

use cases::{command_line, protocol::Message};
use demo::host::{fail, say, start, tell, SCENARIO};
use rustix::{
    mount::{mount, MountFlags},
    system::{reboot, RebootCommand},
};

fn main() {
    let verdict = match run() {
        Ok(results) => tell(&Message::Pass).and_then(|()| say(&results)),
        Err(error) => tell(&Message::Fail).and_then(|()| say(&error.to_string())),
    };
    let _ = verdict.and_then(|()| tell(&Message::End));
    loop {
        let _ = reboot(RebootCommand::PowerOff);
        thread::sleep(Duration::from_secs(1));
    }
}

fn run() -> io::Result<String> {
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    let scenario = command_line::parameter(SCENARIO).unwrap_or_default();
    start(&scenario)?;
    match scenario.as_str() {
        "dump" => dump::run(),
        "dumps" => dumps::run(),
        "find" => find::run(),
        "installed" => installed::run(),
        "freezes" => freezes::run(),
        "long_pause" => long_pause::run(),
        "peers" => peers::run(),
        _ => fail(format!("there is no scenario named {scenario}")),
    }
}
