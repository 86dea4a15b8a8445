// SPDX-License-Identifier: GPL-2.0

//! The cases of the crate `guest`, what they are packed into, and what is said of one that failed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use guest::protocol::CaseInfo;

use crate::{
    initramfs::Initramfs,
    kernel::{module_name, Kernel},
    paths,
    run::Run,
    stamp::Stamp,
};

/// How much of the kernel log is shown when a case has failed.
const LAST_LINES: usize = 40;

/// Asks the guest's program for its cases.
///
/// # Errors
///
/// It is not there, or has none.
pub fn cases() -> io::Result<Vec<CaseInfo>> {
    let output = Command::new(paths::guest()).arg("--list").output()?;
    let text = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    let cases: Vec<CaseInfo> = text.lines().filter_map(CaseInfo::parse).collect();
    if cases.is_empty() || !output.status.success() {
        return Err(io::Error::other("the guest's program lists no cases"));
    }
    Ok(cases)
}

/// Packs what the VMs boot with, if it has changed, with KVM as `kvm-amd` or `kvm-intel`.
///
/// # Errors
///
/// Something that belongs into it is not there, or it cannot be written.
pub fn pack(kernel: &Kernel, kvm: &str, path: &Path) -> io::Result<()> {
    let mut tests: Vec<PathBuf> = fs::read_dir(paths::test_modules())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "ko"))
        .collect();
    tests.sort();
    let inputs = [
        vec![paths::guest(), paths::module()],
        tests.clone(),
        kernel.module(kvm)?,
    ]
    .concat();
    let stamp = Stamp::new(path, &inputs)?;
    if stamp.is_current() {
        return Ok(());
    }
    stamp.clear()?;
    let mut initramfs = Initramfs::new();
    for folder in ["/dev", "/proc", "/sys", "/tmp"] {
        initramfs.folder(folder);
    }
    initramfs.program("/init", fs::read(paths::guest())?);
    initramfs.kvm(kernel, kvm)?;
    for path in tests.iter().chain([&paths::module()]) {
        let name = format!("/modules/{}.ko", module_name(&path.to_string_lossy()));
        initramfs.file(&name, fs::read(path)?);
    }
    initramfs.write(path)?;
    stamp.set()
}

/// What a developer wants to know about a test that failed, whose logs are in the folder `log`.
#[must_use]
pub fn explain(target: &str, test: &str, reason: &str, run: &Run, log: &Path) -> String {
    let lines: Vec<&str> = run.console.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    format!(
        "{reason}\n\n\
         the end of the kernel log ({}):\n{last}\n\n\
         to run it alone: scripts/in-root cargo test -p vm --test {target} -- --exact {test}",
        log.join("console.log").display()
    )
}
