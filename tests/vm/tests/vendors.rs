// SPDX-License-Identifier: GPL-2.0

//! The core cases where the processor or KVM work in another way than in the target `cases`: on
//! Intel, and on both vendors without nested paging.
//!
//! A boot in Bochs takes longer than most cases, so that a VM runs many, one after the other. A test
//! is a case in one of the VMs. `cargo test -p vm --test vendors -- NAME` runs those with NAME in
//! their names, in as few VMs.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{mpsc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use guest::protocol::{CaseInfo, CASE_PARAMETER, FEWER_PARAMETER};
use libtest_mimic::{Arguments, Failed, Trial};
use vm::{
    bochs,
    cases::{cases, explain, pack},
    judge::{judge, Verdict},
    kernel::Kernel,
    paths, qemu,
    run::Run,
};

/// The name of this target.
const TARGET: &str = "vendors";

/// How many VMs run at once at most.
const VMS_AT_ONCE: usize = 2;

/// How often a VM is started for a case that did not begin or was lost.
const ATTEMPTS: u32 = 3;

/// How long a VM may take to report after the case's own time is up.
const GRACE: Duration = Duration::from_secs(60);

/// How many times longer than in the VM a case may take here: Bochs gets no more than its share of a
/// busy machine.
const SLOWNESS: u32 = 3;

/// How many times less often than in QEMU cases do again and again what they do.
const FEWER: u32 = 10;

/// What emulates the processor.
#[derive(Clone, Copy)]
enum Vendor {
    /// QEMU.
    Amd,
    /// Bochs.
    Intel,
}

/// A VM, and the cases that it runs.
struct Vm {
    name: &'static str,
    vendor: Vendor,
    parameters: &'static str,
    cases: &'static [&'static str],
}

/// Bochs takes a posted-interrupt descriptor for malformed where KVM puts it.
const APICV_OFF: &str = "kvm_intel.enable_apicv=N";

/// Those that take longest come first.
const VMS: &[Vm] = &[
    Vm {
        name: "intel",
        vendor: Vendor::Intel,
        parameters: APICV_OFF,
        cases: &[
            "registers_real",
            "registers_protected",
            "registers_long",
            "registers_outside",
            "registers_after_exit",
            "registers_port_io",
            "vcpus_one_two_eight",
            "vcpus_spin",
            "vcpus_halt",
            "vcpus_port_io",
            "vcpus_user_space",
            "memory_borders",
            "memory_holes",
            "slots_borders",
            "slots_flags",
            "slots_smm",
            "find_silent",
            "refuse_late_vcpu",
            "life_unload_busy",
            "life_vmm_killed",
            "life_load_unload_100",
        ],
    },
    Vm {
        name: "intel_ept_off",
        vendor: Vendor::Intel,
        parameters: "kvm_intel.enable_apicv=N kvm_intel.ept=N",
        cases: WITHOUT_NESTED_PAGING,
    },
    Vm {
        name: "amd_npt_off",
        vendor: Vendor::Amd,
        parameters: "kvm_amd.npt=N",
        cases: WITHOUT_NESTED_PAGING,
    },
];

/// KVM then holds other registers itself, and the guest's page tables in shadows.
const WITHOUT_NESTED_PAGING: &[&str] = &[
    "registers_real",
    "registers_protected",
    "registers_long",
    "registers_outside",
    "registers_after_exit",
    "registers_port_io",
    "vcpus_spin",
    "vcpus_halt",
    "vcpus_port_io",
    "memory_borders",
    "memory_holes",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match Setup::new() {
        Ok(setup) => setup.run(&arguments),
        Err(error) => {
            eprintln!("vm: error: {error}");
            ExitCode::from(2)
        }
    }
}

/// What all VMs have in common.
struct Setup {
    cases: Vec<CaseInfo>,
    kernel: PathBuf,
    amd: PathBuf,
    intel: PathBuf,
}

/// A case in a VM.
struct Test {
    name: String,
    case: CaseInfo,
    /// How often it was begun, or was the one to begin.
    attempts: u32,
    result: mpsc::Sender<Result<(), Failed>>,
}

impl Setup {
    fn new() -> io::Result<Self> {
        let kernel = Kernel::open(&paths::kernel())?;
        let amd = paths::build().join("vm/initramfs.cpio");
        pack(&kernel, "kvm-amd", &amd)?;
        let intel = paths::build().join("vm/initramfs.intel.cpio");
        pack(&kernel, "kvm-intel", &intel)?;
        Ok(Self {
            cases: cases()?,
            kernel: kernel.image(),
            amd,
            intel,
        })
    }

    /// Runs the VMs beside the tests, each of which waits for its result.
    fn run(&self, arguments: &Arguments) -> ExitCode {
        let mut trials = Vec::new();
        let mut work = VecDeque::new();
        for vm in VMS {
            let mut tests = VecDeque::new();
            for case in vm.cases {
                let name = format!("{}::{case}", vm.name);
                let (result, results) = mpsc::channel();
                let wait = move || results.recv().map_err(Failed::from)?;
                trials.push(Trial::test(name.clone(), wait));
                if is_wanted(&name, arguments) {
                    tests.push_back(Test {
                        name,
                        case: self.case(case),
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
        let at_once = arguments.test_threads.unwrap_or(processors);
        let work = Mutex::new(work);
        thread::scope(|scope| {
            if !arguments.list {
                for _ in 0..at_once.min(VMS_AT_ONCE) {
                    scope.spawn(|| loop {
                        let next = work
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .pop_front();
                        let Some((vm, tests)) = next else { break };
                        self.run_vm(vm, tests);
                    });
                }
            }
            libtest_mimic::run(arguments, trials).exit_code()
        })
    }

    fn case(&self, name: &str) -> CaseInfo {
        let case = self.cases.iter().find(|case| case.name == name);
        case.unwrap_or_else(|| panic!("the guest's program has no case {name}"))
            .clone()
    }

    /// Runs the cases of a VM, in another one what one has left over: after a case that failed, or a
    /// VM that was lost.
    fn run_vm(&self, vm: &Vm, mut tests: VecDeque<Test>) {
        for boot in 1.. {
            if tests.is_empty() {
                break;
            }
            let log = match boot {
                1 => paths::log().join(vm.name),
                _ => paths::log().join(format!("{}.{boot}", vm.name)),
            };
            let runs = match self.boot(vm, &tests, &log) {
                Ok(runs) => runs,
                Err(error) => {
                    // None of them can be run.
                    for test in tests.drain(..) {
                        test.end(Err(error.to_string().into()));
                    }
                    break;
                }
            };
            for run in runs {
                let Some(mut test) = tests.pop_front() else {
                    break;
                };
                test.attempts += 1;
                match judge(&run) {
                    Verdict::Passed(_) => test.end(Ok(())),
                    Verdict::Failed(reason) => test.fail(&reason, &run, &log),
                    Verdict::Infrastructure(why) => {
                        let attempts = test.attempts;
                        eprintln!("vm: {}: attempt {attempts} of {ATTEMPTS}: {why}", test.name);
                        if attempts == ATTEMPTS {
                            let why = format!("infrastructure: {why}, {attempts} times");
                            test.fail(&why, &run, &log);
                        } else {
                            tests.push_front(test);
                        }
                        // Of those that follow nothing is known, either.
                        break;
                    }
                }
            }
        }
    }

    /// Runs a VM for all of the tests.
    fn boot(&self, vm: &Vm, tests: &VecDeque<Test>, log: &Path) -> io::Result<Vec<Run>> {
        let names: Vec<&str> = tests.iter().map(|test| test.case.name.as_str()).collect();
        let names = names.join(",");
        let limits: Vec<Duration> = tests
            .iter()
            .map(|test| Duration::from_secs(test.case.seconds) * SLOWNESS + GRACE)
            .collect();
        let parameters = format!(
            "mitigations=off cryptomgr.notests=1 {} {FEWER_PARAMETER}={FEWER} {CASE_PARAMETER}{names}",
            vm.parameters
        );
        match vm.vendor {
            Vendor::Intel => {
                let machine = bochs::Machine {
                    kernel: self.kernel.clone(),
                    initramfs: self.intel.clone(),
                    parameters,
                    memory: 512,
                };
                machine.run_all(log, &limits)
            }
            Vendor::Amd => {
                let machine = qemu::Machine {
                    kernel: self.kernel.clone(),
                    initramfs: self.amd.clone(),
                    parameters,
                    memory: 1024,
                    processors: 2,
                };
                machine.run_all(log, &limits)
            }
        }
    }
}

impl Test {
    fn end(self, result: Result<(), Failed>) {
        // Nobody waits for it if the tests were ended.
        let _ = self.result.send(result);
    }

    fn fail(self, reason: &str, run: &Run, log: &Path) {
        let text = explain(TARGET, &self.name, reason, run, log);
        self.end(Err(text.into()));
    }
}

/// Whether the command line selects a test, as libtest does.
fn is_wanted(name: &str, arguments: &Arguments) -> bool {
    let fits = |filter: &String| {
        if arguments.exact {
            name == filter
        } else {
            name.contains(filter)
        }
    };
    arguments.filter.iter().all(fits) && !arguments.skip.iter().any(fits)
}
