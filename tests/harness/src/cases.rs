// SPDX-License-Identifier: GPL-2.0

//! The cases, the archives that their VMs boot from, and the explanation of a failure.

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

/// How many lines of the kernel log a failed case shows.
const LAST_LINES: usize = 40;

/// Returns the cases, as their program lists them.
///
/// # Errors
///
/// The program is not there, or has none.
pub(crate) fn cases() -> io::Result<Vec<CaseInfo>> {
    let output = Command::new(paths::cases()).arg("--list").output()?;
    let text = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    let cases: Vec<CaseInfo> = text.lines().filter_map(CaseInfo::parse).collect();
    if cases.is_empty() || !output.status.success() {
        return Err(io::Error::other("the program of the cases lists none"));
    }
    Ok(cases)
}

/// The archives that the VMs of a testbed boot from: one for `kvm-amd`, one for `kvm-intel`.
pub(crate) struct Initramfs {
    testbed: Testbed,
}

impl Initramfs {
    pub(crate) fn of(testbed: Testbed) -> Self {
        Self { testbed }
    }

    /// Returns the path of the one with this module of KVM.
    pub(crate) fn path(&self, kvm: &str) -> PathBuf {
        let name = format!("{}.{kvm}.cpio", self.testbed.name);
        paths::build().join("vm").join(name)
    }

    /// Packs it, if its inputs have changed.
    pub(crate) fn pack(&self, kernel: &Kernel, kvm: &str) -> io::Result<()> {
        let path = self.path(kvm);
        let module = &self.testbed.module;
        let mut tests: Vec<PathBuf> = fs::read_dir(&self.testbed.test_modules)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "ko"))
            .collect();
        tests.sort();
        // A disk in memory, for swap, and one in the network, which the debug kernel lacks.
        let mut disks = kernel.module("brd")?;
        disks.extend(kernel.module("nbd").unwrap_or_default());
        let inputs = [
            vec![paths::cases(), module.clone()],
            tests.clone(),
            kernel.module(kvm)?,
            disks.clone(),
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
        for path in disks {
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

/// Returns a module without debug information, by way of the file `to`. That is most of it, and
/// each load would read it.
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

/// Explains a failed case. `case` is its name with other variables of `make case`, `log` the folder
/// of the VM's logs.
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
