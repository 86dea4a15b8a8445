// SPDX-License-Identifier: GPL-2.0

//! Runs each case of the crate `guest` in a VM of its own, as a test.
//!
//! `cargo test -p vm --test cases -- NAME` runs the cases with NAME in their names.

use std::{io, path::PathBuf, process::ExitCode, sync::Arc, thread, time::Duration};

use guest::protocol::{CaseInfo, CASE_PARAMETER};
use libtest_mimic::{Arguments, Failed, Trial};
use vm::{
    cases::{cases, explain, pack},
    judge::{judge, Verdict},
    kernel::Kernel,
    paths,
    qemu::Machine,
};

/// The name of this target.
const TARGET: &str = "cases";

/// How many VMs run at once at most, unless `--test-threads` says so: each has two processors.
const VMS_AT_ONCE: usize = 2;

/// How often a VM is started that did not boot or was lost.
const ATTEMPTS: u32 = 3;

/// How long a VM may take to report after the case's own time is up.
const GRACE: Duration = Duration::from_secs(60);

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
        pack(&kernel, "kvm-amd", &initramfs)?;
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
                    return Err(explain(TARGET, &case.name, &reason, &run, &log).into());
                }
                Verdict::Infrastructure(why) => {
                    eprintln!("vm: {}: attempt {attempt} of {ATTEMPTS}: {why}", case.name);
                    let why = format!("infrastructure: {why}, {attempt} times");
                    reason = explain(TARGET, &case.name, &why, &run, &log);
                }
            }
        }
        Err(reason.into())
    }
}
