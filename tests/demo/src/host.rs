// SPDX-License-Identifier: GPL-2.0

//! What all scenarios need on the host: KVM, the module, messages to the harness.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    time::Duration,
};

use crate::dump::{MODULES, OUT, TAG};
use cases::protocol::Message;
use kvm_inspect_tool::{report::Report, Inspection};
use rustix::{
    mount::{mount, MountFlags},
    system::finit_module,
};

/// The kernel parameter that names the scenario.
pub const SCENARIO: &str = "scenario=";

/// Mounts file systems, loads KVM, and tells the harness that `scenario` begins.
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
    load_modules("/modules/kvm")?;
    tell(&Message::Start(scenario.to_owned()))
}

/// Opens the module's file.
///
/// # Errors
///
/// It is not there.
pub fn module() -> io::Result<File> {
    File::open("/modules/kvm_inspect.ko")
}

/// Loads the kernel modules in a list of the archive, in its order.
///
/// # Errors
///
/// There is no list, or the kernel refuses one.
pub fn load_modules(list: &str) -> io::Result<()> {
    for path in fs::read_to_string(list)?.lines() {
        finit_module(File::open(path)?, c"", 0)?;
    }
    Ok(())
}

/// Mounts the folder that the machine outside shares, at [`OUT`].
///
/// # Errors
///
/// It shares none.
pub fn mount_out() -> io::Result<()> {
    load_modules(MODULES)?;
    let options = c"trans=virtio,version=9p2000.L,msize=512000,cache=loose";
    Ok(mount(TAG, OUT, "9p", MountFlags::empty(), Some(options))?)
}

/// Inspects one VM, and unloads the module. Returns the report.
///
/// # Errors
///
/// The module refuses, or logs anything else than one report and a warning that the search is slow,
/// as some are on purpose.
pub fn inspect(inspection: &Inspection) -> io::Result<Report> {
    let mut loaded = inspection.load(&module()?)?;
    let mut output = loaded.output()?;
    loaded.unload()?;
    let slow = "warning: the search will take about ";
    output.others.retain(|line| !line.starts_with(slow));
    match output.reports.pop() {
        Some(report) if output.reports.is_empty() && output.others.is_empty() => Ok(report),
        _ => fail(format!("an inspection went wrong: {:?}", output.others)),
    }
}

/// Keeps the module's reports from the console, which is slow. Warnings still go there.
///
/// # Errors
///
/// There is no sysfs.
pub fn less_on_the_console() -> io::Result<()> {
    fs::write("/sys/module/printk/parameters/ignore_loglevel", "N")?;
    fs::write("/proc/sys/kernel/printk", "6")
}

/// Mounts a file system in memory at `/tmp`, for as large files as there is memory.
///
/// # Errors
///
/// It cannot be mounted.
pub fn mount_tmp() -> io::Result<()> {
    let options = Some(c"size=90%");
    Ok(mount(
        "tmpfs",
        "/tmp",
        "tmpfs",
        MountFlags::empty(),
        options,
    )?)
}

/// Returns the middle one of some times.
#[must_use]
pub fn median(times: impl IntoIterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Returns how many times longer one time is than another.
#[must_use]
pub fn ratio(time: Duration, unit: Duration) -> f64 {
    time.as_secs_f64() / unit.as_secs_f64()
}

/// Shows a line to whoever watches.
///
/// # Errors
///
/// There is no second serial port.
pub fn say(line: &str) -> io::Result<()> {
    tell(&Message::Text(line.to_owned()))
}

/// Sends the harness a message.
///
/// # Errors
///
/// There is no second serial port.
pub fn tell(message: &Message) -> io::Result<()> {
    let mut port = OpenOptions::new().write(true).open("/dev/ttyS1")?;
    writeln!(port, "{message}")
}

/// Returns an error of our own.
///
/// # Errors
///
/// Always.
pub fn fail<T>(why: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(why.into()))
}
