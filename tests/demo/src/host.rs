// SPDX-License-Identifier: GPL-2.0

//! What all scenarios need on the host: KVM, the module, and the way to the harness.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
};

use cases::{kernel_log::KernelLog, protocol::Message};
use rustix::{
    mount::{mount, MountFlags},
    system::{delete_module, finit_module},
};

/// The kernel parameter that names the scenario.
pub const SCENARIO: &str = "scenario=";

/// Makes the VM a host, and tells the harness that `scenario` begins.
///
/// # Errors
///
/// There is no KVM.
pub fn start(scenario: &str) -> io::Result<()> {
    for (kind, at) in [
        ("sysfs", "/sys"),
        ("tracefs", "/sys/kernel/tracing"),
        ("devtmpfs", "/dev"),
    ] {
        mount(kind, at, kind, MountFlags::empty(), None)?;
    }
    for path in fs::read_to_string("/modules/kvm")?.lines() {
        finit_module(File::open(path)?, c"", 0)?;
    }
    tell(&Message::Start(scenario.to_owned()))
}

/// Loads the module, which returns when its first report is complete.
///
/// # Errors
///
/// It refuses.
pub fn insmod(parameters: &str) -> io::Result<()> {
    let arguments = CString::new(parameters)?;
    let module = File::open("/modules/kvm_inspect.ko")?;
    Ok(finit_module(module, &arguments, 0)?)
}

/// Loads the module, and gives its first report.
///
/// # Errors
///
/// It refuses.
pub fn inspect(parameters: &str, log: &mut KernelLog) -> io::Result<Vec<String>> {
    let loaded = insmod(parameters);
    let lines = log.module_lines();
    match loaded {
        Ok(()) => Ok(lines),
        Err(error) => refused(&error, &lines),
    }
}

/// The error of a module that has refused, with what it said.
///
/// # Errors
///
/// Always.
pub fn refused<T>(error: &io::Error, lines: &[String]) -> io::Result<T> {
    fail(format!("insmod: {error}: {}", lines.join(" / ")))
}

/// Unloads the module.
///
/// # Errors
///
/// It is not loaded.
pub fn rmmod() -> io::Result<()> {
    Ok(delete_module(c"kvm_inspect", 0)?)
}

/// Keeps the reports of the module from the console, which is slow; warnings still go there.
///
/// # Errors
///
/// There is no sysfs.
pub fn less_on_the_console() -> io::Result<()> {
    fs::write("/sys/module/printk/parameters/ignore_loglevel", "N")?;
    fs::write("/proc/sys/kernel/printk", "6")
}

/// Says a line to whoever watches.
///
/// # Errors
///
/// There is no second serial port.
pub fn say(line: &str) -> io::Result<()> {
    tell(&Message::Text(line.to_owned()))
}

/// Tells the harness something.
///
/// # Errors
///
/// There is no second serial port.
pub fn tell(message: &Message) -> io::Result<()> {
    let mut port = OpenOptions::new().write(true).open("/dev/ttyS1")?;
    writeln!(port, "{message}")
}

/// An error of our own.
///
/// # Errors
///
/// Always.
pub fn fail<T>(why: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(why.into()))
}
