// SPDX-License-Identifier: GPL-2.0

//! The cases of the crate `cases`, what they are packed into, and what is said of one that failed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use cases::protocol::CaseInfo;

use crate::{
    initramfs::Initramfs as Archive,
    kernel::{module_name, read_module, Kernel},
    paths,
    run::Run,
    stamp::Stamp,
    testbed::Testbed,
};

/// How much of the kernel log is shown when a case has failed.
const LAST_LINES: usize = 40;

/// Returns the cases, as their program lists them.
///
/// # Errors
///
/// It is not there, or has none.
pub(crate) fn cases() -> io::Result<Vec<CaseInfo>> {
    let output = Command::new(paths::cases()).arg("--list").output()?;
    let text = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    let cases: Vec<CaseInfo> = text.lines().filter_map(CaseInfo::parse).collect();
    if cases.is_empty() || !output.status.success() {
        return Err(io::Error::other("the program of the cases lists none"));
    }
    Ok(cases)
}

/// What the VMs of a testbed boot with: one for `kvm-amd`, one for `kvm-intel`.
pub(crate) struct Initramfs {
    testbed: Testbed,
}

impl Initramfs {
    pub(crate) fn of(testbed: Testbed) -> Self {
        Self { testbed }
    }

    /// The one with this module.
    pub(crate) fn path(&self, kvm: &str) -> PathBuf {
        let name = format!("{}.{kvm}.cpio", self.testbed.name);
        paths::build().join("vm").join(name)
    }

    /// Packs it, if what it consists of has changed.
    pub(crate) fn pack(&self, kernel: &Kernel, kvm: &str) -> io::Result<()> {
        let path = self.path(kvm);
        let module = &self.testbed.module;
        let mut tests: Vec<PathBuf> = fs::read_dir(&self.testbed.test_modules)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "ko"))
            .collect();
        tests.sort();
        // A disk in memory to swap to.
        let disk = kernel.module("brd")?;
        let inputs = [
            vec![paths::cases(), module.clone()],
            tests.clone(),
            kernel.module(kvm)?,
            disk.clone(),
        ]
        .concat();
        let stamp = Stamp::new(&path, &inputs)?;
        if stamp.is_current() {
            return Ok(());
        }
        stamp.clear()?;
        let mut archive = Archive::new();
        for folder in ["/dev", "/proc", "/sys", "/tmp"] {
            archive.folder(folder);
        }
        archive.program("/init", fs::read(paths::cases())?);
        archive.kvm(kernel, kvm)?;
        for path in disk {
            let name = format!("/modules/{}.ko", module_name(&path.to_string_lossy()));
            archive.file(&name, read_module(&path)?);
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let to = path.with_extension("ko");
        for path in tests.iter().chain([module]) {
            let name = format!("/modules/{}.ko", module_name(&path.to_string_lossy()));
            archive.file(&name, stripped(path, &to)?);
        }
        archive.write(&path)?;
        stamp.set()
    }
}

/// A module without what it has for debuggers, by way of the file `to`: that is most of it, and would be read
/// at each load.
fn stripped(module: &Path, to: &Path) -> io::Result<Vec<u8>> {
    let output = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([to, module])
        .output()
        .map_err(|error| io::Error::other(format!("strip: {error}")))?;
    if output.status.success() {
        fs::read(to)
    } else {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(message))
    }
}

/// Returns what a developer wants to know about a case that failed: `case` is its name and what else `make case`
/// takes, `log` the folder of the VM's logs.
pub(crate) fn explain(case: &str, reason: &str, run: &Run, log: &Path) -> String {
    let lines: Vec<&str> = run.console.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    format!(
        "{reason}\n\n\
         the end of the kernel log ({}):\n{last}\n\n\
         to run it alone: make case NAME={case}",
        log.join("console.log").display()
    )
}
