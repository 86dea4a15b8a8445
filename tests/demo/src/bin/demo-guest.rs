// SPDX-License-Identifier: GPL-2.0

//! The guest of the demo: PID 1 of a small Linux with two CPUs.
//!
//! A process of its own makes a secret of 32 bytes and keeps it. On the console the secret goes as
//! hex digits, so that the bytes themselves are nowhere but in that process.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

const HOLDER: &str = "holder";

fn main() -> ExitCode {
    let result = if std::env::args().nth(1).as_deref() == Some(HOLDER) {
        hold_secret()
    } else {
        start()
    };
    match result {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("demo guest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What does not return has no value.
enum Never {}

/// PID 1: starts the process, and shows that the guest goes on.
fn start() -> std::io::Result<Never> {
    mount("proc", "/proc")?;
    mount("devtmpfs", "/dev")?;
    Command::new("/proc/self/exe").arg(HOLDER).spawn()?;
    let mut console = console()?;
    for beat in 0_u64.. {
        writeln!(console, "beat={beat}")?;
        thread::sleep(Duration::from_millis(200));
    }
    unreachable!("a u64 does not run out")
}

/// The process that holds the secret.
fn hold_secret() -> std::io::Result<Never> {
    let mut secret = Box::new([0_u8; 32]);
    File::open("/dev/urandom")?.read_exact(secret.as_mut_slice())?;
    let cpus = thread::available_parallelism()?;
    let digits = guest::hex::digits(secret.as_slice());
    writeln!(console()?, "ready cpus={cpus} secret={digits}")?;
    loop {
        // Keeps it in memory, whatever the optimizer thinks.
        std::hint::black_box(&secret);
        thread::sleep(Duration::from_secs(1));
    }
}

fn console() -> std::io::Result<File> {
    OpenOptions::new().write(true).open("/dev/console")
}

fn mount(kind: &str, at: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(at)?;
    let flags = rustix::mount::MountFlags::empty();
    Ok(rustix::mount::mount(kind, at, kind, flags, None)?)
}
