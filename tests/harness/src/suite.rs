// SPDX-License-Identifier: GPL-2.0

//! Runs cases of the crate `cases` in VMs, each as a test.
//!
//! A VM runs its cases one after the other, since a boot may take longer than they do.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{mpsc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use cases::protocol::{
    CaseInfo, VmNeeded, CASE_PARAMETER, ENGINE_PARAMETER, REPEAT_DIVISOR_PARAMETER, SCALE_PARAMETER,
};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    bochs,
    cases::{cases, explain, Initramfs},
    fresh,
    judge::{judge, Verdict},
    kernel::Kernel,
    paths, qemu,
    run::Run,
    testbed::Testbed,
};

/// How many VMs run at once at most, unless `--test-threads` says otherwise. Each has two
/// processors.
const VMS_AT_ONCE: usize = 2;

/// How often to start a VM for a case that did not begin or was lost.
const ATTEMPTS: u32 = 3;

/// The time for a VM to report after the case's own limit.
const GRACE: Duration = Duration::from_secs(60);

/// The vendor of the emulated processor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// QEMU.
    Amd,
    /// Bochs.
    Intel,
}

/// A VM, and the cases that it runs.
pub struct Vm {
    /// The folder of its logs.
    pub name: String,
    /// The prefix of its tests' names.
    pub prefix: String,
    /// The vendor of its processor.
    pub vendor: Vendor,
    /// Whether KVM uses shadow page tables, as without nested paging.
    pub shadow_paging: bool,
    /// Whether its processors run at the same time, and not in turns: see [`qemu::Machine`].
    pub in_parallel: bool,
    /// Divides the cases' repeat counts.
    pub repeat_divisor: u32,
    /// The cases.
    pub cases: Vec<CaseInfo>,
}

impl Vm {
    /// Returns a VM with the stock kernel, and an AMD processor.
    #[must_use]
    pub fn stock(name: String, cases: Vec<CaseInfo>) -> Self {
        Self {
            name,
            prefix: String::new(),
            vendor: Vendor::Amd,
            shadow_paging: false,
            in_parallel: false,
            repeat_divisor: 1,
            cases,
        }
    }

    /// Returns a VM with a kernel that looks for mistakes, which is slow.
    #[must_use]
    pub fn debug(name: String, cases: Vec<CaseInfo>) -> Self {
        Self {
            repeat_divisor: 8,
            ..Self::stock(name, cases)
        }
    }

    /// Returns a VM with an Intel processor, whose emulator is slow.
    #[must_use]
    pub fn intel(name: String, cases: Vec<CaseInfo>) -> Self {
        Self {
            vendor: Vendor::Intel,
            repeat_divisor: 10,
            ..Self::stock(name, cases)
        }
    }

    /// Returns the variables for `make case` that select such a VM.
    fn variables(&self, testbed: &str) -> String {
        let kernel = format!("KERNEL={testbed}");
        let words = [
            (testbed != "stock", kernel.as_str()),
            (self.vendor == Vendor::Intel, "VENDOR=intel"),
            (self.shadow_paging, "PAGING=shadow"),
        ];
        let words = words.iter().filter(|(applies, _)| *applies);
        let words: Vec<&str> = words.map(|(_, word)| *word).collect();
        words.join(" ")
    }
}

/// What the VMs of a test target, or of another program, share.
pub struct Suite {
    /// Its name.
    target: &'static str,
    kernel: Kernel,
    /// The name of the testbed.
    testbed: String,
    /// The parameters of the kernel in all VMs.
    parameters: String,
    initramfs: Initramfs,
}

/// Returns all cases.
///
/// # Errors
///
/// The program with the cases is not there, or has none.
pub fn all_cases() -> io::Result<Vec<CaseInfo>> {
    cases()
}

/// Divides cases among VMs: up to `most` each, and those that need a special VM in one of these.
/// VMs with the longest time limits come first, so that all processors are busy until the end.
#[must_use]
pub fn groups(cases: impl Iterator<Item = CaseInfo>, most: usize) -> Vec<Vec<CaseInfo>> {
    let (cases, special): (Vec<_>, Vec<_>) = cases.partition(|case| case.needs.vm == VmNeeded::Any);
    let (own, two_nodes): (Vec<_>, Vec<_>) = special
        .into_iter()
        .partition(|case| case.needs.vm == VmNeeded::Own);
    // As evenly as possible.
    let vms = cases.len().div_ceil(most).max(1);
    let mut groups: Vec<_> = cases
        .chunks(cases.len().div_ceil(vms).max(1))
        .map(<[_]>::to_vec)
        .chain([own, two_nodes])
        .filter(|cases| !cases.is_empty())
        .collect();
    groups.sort_by_key(|cases| Reverse(cases.iter().map(|case| case.seconds).sum::<u64>()));
    groups
}

/// Runs a target's tests, as its `main`. `vms` makes the VMs from all cases.
#[must_use]
pub fn run(
    target: &'static str,
    testbed: Testbed,
    vms: impl FnOnce(Vec<CaseInfo>) -> Vec<Vm>,
) -> ExitCode {
    or_complain(|| {
        let vms = vms(cases()?);
        Ok(Suite::open(target, testbed, &vms)?.run(&Arguments::from_args(), vms))
    })
}

/// Runs `run`. If tests could not be run, prints why, and returns another exit code.
pub fn or_complain(run: impl FnOnce() -> io::Result<ExitCode>) -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("harness: error: {error}");
        ExitCode::from(2)
    })
}

impl Vendor {
    /// Returns KVM's module for it.
    fn module(self) -> &'static str {
        match self {
            Self::Amd => "kvm-amd",
            Self::Intel => "kvm-intel",
        }
    }

    /// Returns the parameters of KVM's modules.
    fn parameters(self, shadow_paging: bool) -> &'static str {
        // Bochs rejects a posted-interrupt descriptor where KVM puts it.
        match (self, shadow_paging) {
            (Self::Amd, false) => "",
            (Self::Amd, true) => "kvm_amd.npt=N",
            (Self::Intel, false) => "kvm_intel.enable_apicv=N",
            (Self::Intel, true) => "kvm_intel.enable_apicv=N kvm_intel.ept=N",
        }
    }

    /// Returns the best engine of the emulated processor.
    fn engine(self) -> &'static str {
        match self {
            Self::Amd => "avx2",
            Self::Intel => "avx512",
        }
    }
}

/// A case in a VM.
struct Test {
    name: String,
    case: CaseInfo,
    /// How often it was begun, or was the first to begin.
    attempts: u32,
    result: mpsc::Sender<Result<(), Failed>>,
}

impl Suite {
    /// Prepares everything for these VMs.
    ///
    /// # Errors
    ///
    /// Something is missing, older than its sources, or cannot be packed.
    pub fn open(target: &'static str, testbed: Testbed, vms: &[Vm]) -> io::Result<Self> {
        fresh::check_testbed(&testbed)?;
        let this = Self {
            target,
            kernel: Kernel::open(&testbed.kernel)?,
            testbed: testbed.name.clone(),
            parameters: testbed.parameters.clone(),
            initramfs: Initramfs::of(testbed),
        };
        for vendor in [Vendor::Amd, Vendor::Intel] {
            if vms.iter().any(|vm| vm.vendor == vendor) {
                this.initramfs.pack(&this.kernel, vendor.module())?;
            }
        }
        Ok(this)
    }

    /// Runs a VM once. Returns the verdicts on the cases that began, or on one that did not.
    ///
    /// # Errors
    ///
    /// The emulator cannot be started, or a log cannot be written.
    pub fn run_once(&self, vm: &Vm, scale: u32) -> io::Result<Vec<Verdict>> {
        let cases: Vec<&CaseInfo> = vm.cases.iter().collect();
        let runs = self.boot(vm, &cases, scale, &self.log(&vm.name))?;
        let judged = runs.into_iter().zip(cases).map(|(mut run, case)| {
            run.fails_allocations = case.needs.failing_allocations;
            run.in_parallel = vm.in_parallel;
            judge(&run)
        });
        Ok(judged.collect())
    }

    /// Returns the folder of a VM's logs.
    #[must_use]
    pub fn log(&self, vm: &str) -> PathBuf {
        paths::log().join(self.target).join(vm)
    }

    /// Runs the VMs beside the tests, which wait for their results.
    pub fn run(&self, arguments: &Arguments, vms: Vec<Vm>) -> ExitCode {
        let mut trials = Vec::new();
        let mut work = VecDeque::new();
        for vm in vms {
            let mut tests = VecDeque::new();
            for case in &vm.cases {
                let name = format!("{}{}", vm.prefix, case.name);
                let (result, results) = mpsc::channel();
                let wait = move || results.recv().map_err(Failed::from)?;
                trials.push(Trial::test(name.clone(), wait));
                if is_selected(&name, arguments) {
                    tests.push_back(Test {
                        name,
                        case: case.clone(),
                        attempts: 0,
                        result,
                    });
                }
            }
            if !tests.is_empty() {
                work.push_back((vm, tests));
            }
        }
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let at_once = arguments
            .test_threads
            .unwrap_or(processors.min(VMS_AT_ONCE));
        let work = Mutex::new(work);
        thread::scope(|scope| {
            if !arguments.list {
                for _ in 0..at_once {
                    scope.spawn(|| loop {
                        let next = work
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .pop_front();
                        let Some((vm, tests)) = next else { break };
                        self.run_vm(&vm, tests);
                    });
                }
            }
            libtest_mimic::run(arguments, trials).exit_code()
        })
    }

    /// Runs the cases of a VM. After a failed case or a lost VM, another VM runs the rest.
    fn run_vm(&self, vm: &Vm, mut tests: VecDeque<Test>) {
        for boot in 1.. {
            if tests.is_empty() {
                break;
            }
            let log = self.log(&match boot {
                1 => vm.name.clone(),
                _ => format!("{}.{boot}", vm.name),
            });
            let cases: Vec<&CaseInfo> = tests.iter().map(|test| &test.case).collect();
            let runs = match self.boot(vm, &cases, paths::scale(), &log) {
                Ok(runs) => runs,
                Err(error) => {
                    // No case can be run.
                    for test in tests.drain(..) {
                        test.end(Err(error.to_string().into()));
                    }
                    break;
                }
            };
            for mut run in runs {
                let Some(mut test) = tests.pop_front() else {
                    break;
                };
                test.attempts += 1;
                run.fails_allocations = test.case.needs.failing_allocations;
                run.in_parallel = vm.in_parallel;
                match judge(&run) {
                    Verdict::Passed(_) => {
                        self.note_time(&test.name, run.took);
                        test.end(Ok(()));
                    }
                    Verdict::Failed(reason) => {
                        self.fail(vm, test, &reason, &run, &log);
                        // Later faults in the log may come from this one.
                        break;
                    }
                    Verdict::Infrastructure(why) => {
                        let attempts = test.attempts;
                        eprintln!(
                            "harness: {}: attempt {attempts} of {ATTEMPTS}: {why}",
                            test.name
                        );
                        if attempts == ATTEMPTS {
                            let why = format!("infrastructure: {why}, {attempts} times");
                            self.fail(vm, test, &why, &run, &log);
                        } else {
                            tests.push_front(test);
                        }
                        // Nothing is known about the next ones.
                        break;
                    }
                }
            }
        }
    }

    /// Notes how long a test took, for the table at the end.
    fn note_time(&self, test: &str, took: Duration) {
        let path = paths::log().join("times");
        let file = OpenOptions::new().append(true).create(true).open(path);
        let line = format!("{:.1}\t{} {test}\n", took.as_secs_f64(), self.target);
        // Only the table needs it.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }

    /// Runs a VM for these of its cases, which do `scale` times as much as usual.
    fn boot(&self, vm: &Vm, cases: &[&CaseInfo], scale: u32, log: &Path) -> io::Result<Vec<Run>> {
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        let names = names.join(",");
        let limits: Vec<Duration> = cases
            .iter()
            .map(|case| Duration::from_secs(case.seconds) * scale + GRACE)
            .collect();
        let two_nodes = cases.iter().any(|case| case.needs.vm == VmNeeded::TwoNodes);
        let nodes = if two_nodes { "numa=fake=2" } else { "" };
        // The first process sends the lines that the console lacks, but for the module's.
        let parameters = format!(
            "loglevel=5 mitigations=off cryptomgr.notests=1 {nodes} {} {} {SCALE_PARAMETER}{scale} \
             {REPEAT_DIVISOR_PARAMETER}{} {ENGINE_PARAMETER}{} \
             {CASE_PARAMETER}{names}",
            self.parameters,
            vm.vendor.parameters(vm.shadow_paging),
            vm.repeat_divisor,
            vm.vendor.engine()
        );
        let kernel = self.kernel.image();
        let initramfs = self.initramfs.path(vm.vendor.module());
        match vm.vendor {
            Vendor::Intel => {
                let machine = bochs::Machine {
                    kernel,
                    initramfs,
                    parameters,
                    memory: 512,
                };
                machine.run_all(log, &limits)
            }
            Vendor::Amd => {
                let machine = qemu::Machine {
                    kernel,
                    initramfs,
                    parameters,
                    memory: 1024,
                    processors: 2,
                    in_parallel: vm.in_parallel,
                    share: None,
                    ssh_port: None,
                };
                machine.run_all(log, &limits)
            }
        }
    }

    fn fail(&self, vm: &Vm, test: Test, reason: &str, run: &Run, log: &Path) {
        let explained = explain(
            format!("{} {}", test.case.name, vm.variables(&self.testbed)).trim_end(),
            reason,
            run,
            log,
        );
        test.end(Err(explained.into()));
    }
}

impl Test {
    fn end(self, result: Result<(), Failed>) {
        // Nobody waits for it if the tests were ended.
        let _ = self.result.send(result);
    }
}

/// Returns whether the command line selects a test, as libtest does.
#[must_use]
pub fn is_selected(name: &str, arguments: &Arguments) -> bool {
    let fits = |filter: &String| {
        if arguments.exact {
            name == filter
        } else {
            name.contains(filter)
        }
    };
    arguments.filter.iter().all(fits) && !arguments.skip.iter().any(fits)
}
