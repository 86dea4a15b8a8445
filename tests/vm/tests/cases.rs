// SPDX-License-Identifier: GPL-2.0

//! Runs each case of the crate `guest` in a VM of its own, as a test.
//!
//! `cargo test -p vm --test cases -- NAME` runs the cases with NAME in their names.

use std::{
    fs, io,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use guest::protocol::{CaseInfo, CASE_PARAMETER};
use libtest_mimic::{Arguments, Failed, Trial};
use vm::{
    initramfs::Initramfs,
    judge::{judge, Verdict},
    kernel::{module_name, Kernel},
    paths,
    qemu::Machine,
    stamp::Stamp,
};

/// How many VMs run at once at most, unless `--test-threads` says so: each has two processors.
const VMS_AT_ONCE: usize = 2;

/// How often a VM is started that did not boot or was lost.
const ATTEMPTS: u32 = 3;

/// How long a VM may take to report after the case's own time is up.
const GRACE: Duration = Duration::from_secs(60);

/// How much of the kernel log is shown when a case has failed.
const LAST_LINES: usize = 40;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads = arguments.test_threads.or(Some(processors.min(VMS_AT_ONCE)));
    let trials = match Setup::new() {
        Ok(setup) => setup.trials(),
        Err(error) => {
            eprintln!("vm: error: {error}");
            return ExitCode::from(2);
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What all cases have in common.
struct Setup {
    cases: Vec<CaseInfo>,
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Setup {
    fn new() -> io::Result<Self> {
        let kernel = Kernel::open(&paths::kernel())?;
        let initramfs = paths::build().join("vm/initramfs.cpio");
        pack(&kernel, &initramfs)?;
        Ok(Self {
            cases: cases()?,
            kernel: kernel.image(),
            initramfs,
        })
    }

    /// A test for each case.
    fn trials(self) -> Vec<Trial> {
        let this = Arc::new(self);
        let trial = |case: &CaseInfo| {
            let (this, case) = (this.clone(), case.clone());
            Trial::test(case.name.clone(), move || this.run(&case))
        };
        this.cases.iter().map(trial).collect()
    }

    /// Runs a case, once more if that says nothing about it.
    fn run(&self, case: &CaseInfo) -> Result<(), Failed> {
        let machine = Machine {
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.clone(),
            parameters: format!(
                "mitigations=off cryptomgr.notests=1 {CASE_PARAMETER}{}",
                case.name
            ),
            memory: 1024,
            processors: 2,
        };
        let mut reason = String::new();
        for attempt in 1..=ATTEMPTS {
            let log = match attempt {
                1 => paths::log().join(&case.name),
                _ => paths::log().join(format!("{}.{attempt}", case.name)),
            };
            let limit = Duration::from_secs(case.seconds) + GRACE;
            let run = machine.run(&log, limit)?;
            match judge(&run) {
                Verdict::Passed(_) => return Ok(()),
                Verdict::Failed(reason) => {
                    return Err(
                        explain(case, &reason, &run.console, &log.join("console.log")).into(),
                    );
                }
                Verdict::Infrastructure(why) => {
                    eprintln!("vm: {}: attempt {attempt} of {ATTEMPTS}: {why}", case.name);
                    let why = format!("infrastructure: {why}, {attempt} times");
                    reason = explain(case, &why, &run.console, &log.join("console.log"));
                }
            }
        }
        Err(reason.into())
    }
}

/// What a developer wants to know about a case that failed.
fn explain(case: &CaseInfo, reason: &str, console: &str, log: &std::path::Path) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    let name = &case.name;
    format!(
        "{reason}\n\n\
         the end of the kernel log ({}):\n{last}\n\n\
         to run it alone: scripts/in-root cargo test -p vm --test cases -- --exact {name}",
        log.display()
    )
}

/// Asks the guest's program for its cases.
fn cases() -> io::Result<Vec<CaseInfo>> {
    let output = Command::new(paths::guest()).arg("--list").output()?;
    let text = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    let cases: Vec<CaseInfo> = text.lines().filter_map(CaseInfo::parse).collect();
    if cases.is_empty() || !output.status.success() {
        return Err(io::Error::other("the guest's program lists no cases"));
    }
    Ok(cases)
}

/// Packs what the VMs boot with, if it has changed.
fn pack(kernel: &Kernel, path: &std::path::Path) -> io::Result<()> {
    let kvm = kernel.module("kvm-amd")?;
    let mut tests: Vec<PathBuf> = fs::read_dir(paths::test_modules())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "ko"))
        .collect();
    tests.sort();
    let inputs = [
        vec![paths::guest(), paths::module()],
        tests.clone(),
        kvm.clone(),
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
    initramfs.kvm(kernel)?;
    for path in tests.iter().chain([&paths::module()]) {
        let name = format!("/modules/{}.ko", module_name(&path.to_string_lossy()));
        initramfs.file(&name, fs::read(path)?);
    }
    initramfs.write(path)?;
    stamp.set()
}
