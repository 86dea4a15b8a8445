// SPDX-License-Identifier: GPL-2.0

//! Each allocation fails once: the module logs one clear line, the guest goes on, and nothing is
//! left.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
};

use rustix::{io::Errno, system::finit_module, thread::gettid};

use super::Case;
use crate::{
    inspect::{assert_nothing_left, module_file, module_thread, unload_module, Inspection},
    process::wait_until,
    vmm::{Mode, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    load.failing_allocations().within(600),
    rounds.failing_allocations().within(600),
];

/// Lets every kind of allocation fail, for threads that ask for it.
fn allow_faults() {
    let set = |kind: &str, name: &str, value: &str| {
        let path = format!("/sys/kernel/debug/{kind}/{name}");
        fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
    };
    for kind in ["failslab", "fail_page_alloc"] {
        set(kind, "ignore-gfp-wait", "N");
        // The stack trace would look like a fault of the kernel.
        set(kind, "verbose", "0");
    }
    set("fail_page_alloc", "ignore-gfp-highmem", "N");
    set("fail_page_alloc", "min-order", "0");
}

/// Makes an allocation of one thread fail (`Documentation/fault-injection`, `fail-nth`).
struct FailNth(File);

impl FailNth {
    fn of(process: i32, thread: i32) -> Self {
        let path = format!("/proc/{process}/task/{thread}/fail-nth");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Self(file.unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// Makes the `nth` allocation from now on fail, counted from 1. With 0 none fails.
    fn set(&self, nth: u32) {
        let text = nth.to_string();
        self.0
            .write_all_at(text.as_bytes(), 0)
            .expect("the number is taken");
    }

    /// Returns how many allocations are left until one fails.
    fn left(&self) -> u32 {
        let mut text = [0; 16];
        let len = match self.0.read_at(&mut text, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return 0,
            result => result.expect("the number is told"),
        };
        let text = String::from_utf8_lossy(&text[..len]);
        text.trim().parse().expect("a number")
    }

    /// Returns whether one has failed since. The thread may have ended because of it.
    fn has_failed(&self) -> bool {
        self.left() == 0
    }

    /// Counts the allocations while something happens.
    fn count(&self, happens: impl FnOnce()) -> u32 {
        const MANY: u32 = 1 << 30;
        self.set(MANY);
        happens();
        let left = self.left();
        self.set(0);
        MANY - left
    }
}

/// The module and its parameters, read beforehand: loading it is one system call then.
struct Prepared {
    module: File,
    parameters: CString,
}

impl Prepared {
    fn new(inspection: &Inspection) -> Self {
        Self {
            module: module_file(),
            parameters: CString::new(inspection.to_string()).expect("there is no NUL in it"),
        }
    }

    fn load(&self) -> Result<(), Errno> {
        finit_module(&self.module, &self.parameters, 0)
    }
}

fn guest(works: &[Work]) -> Vm {
    let mut vm = Vm::bootable();
    for &work in works {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    vm
}

fn inspection() -> Inspection {
    Inspection::of_self()
        .patterns(&["text:not there", "hex:00010203"])
        .ranges(&["0-0xfff", "0x2000-0x3fff"])
}

/// Allocations fail in the thread that loads the module, while that starts. Those of the kernel's
/// loader before are left out, but for the last few: their number varies.
fn load() {
    const BORDER: u32 = 15;
    allow_faults();
    let mut vm = guest(&[Work::Count, Work::Halt]);
    let own = std::process::id().try_into().expect("a process number");
    let thread = FailNth::of(own, gettid().as_raw_nonzero().get());
    let allocations = |inspection: &Inspection| {
        let prepared = Prepared::new(inspection);
        thread.count(|| {
            if prepared.load().is_ok() {
                unload_module("kvm_inspect");
            }
        })
    };
    // Once beforehand, so that the kernel has what it keeps.
    allocations(&inspection());
    // Some more of it may come later.
    let until_start = (0..3).map(|_| allocations(&inspection().set("pid", -1)));
    let until_start = until_start.min().expect("there are some");
    let all = allocations(&inspection());
    println!("{until_start} allocations of the loader's, {all} in all");
    assert!(until_start < all);

    let prepared = Prepared::new(&inspection());
    let (mut refused, mut tolerated) = (0, 0);
    let mut fails = |nth| {
        thread.set(nth);
        let result = prepared.load();
        let failed = thread.has_failed();
        thread.set(0);
        if result.is_ok() {
            tolerated += u32::from(failed);
            unload_module("kvm_inspect");
        } else {
            let error = result.expect_err("it was not loaded");
            assert!(failed, "not loaded, though no allocation failed: {error}");
            refused += 1;
        }
        assert_nothing_left();
        failed
    };
    let from = until_start.saturating_sub(BORDER).max(1);
    let mut nth = from;
    while fails(nth) {
        nth += 1;
    }
    println!("counted: faults={}", refused + tolerated);
    println!("{refused} failed allocations kept the module out, {tolerated} did not");
    assert!(refused > 3, "{refused}");
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// Allocations fail in the module's own thread, from the second inspection on.
fn rounds() {
    allow_faults();
    let mut vm = guest(&[Work::Count, Work::Halt]);
    let load = || {
        let mut loaded = inspection().set("interval_ms", 150).load();
        assert!(!loaded.reports().is_empty());
        loaded
    };
    let mut loaded = load();
    let (mut too_little, mut enough, mut faults) = (0, 0, 0);
    for nth in 1.. {
        let thread = module_thread().expect("the module has a thread");
        let fail = FailNth::of(thread, thread);
        fail.set(nth);
        let (mut failed, mut is_over) = (false, false);
        // Wait until one has failed and another inspection is over, or until none failed in a whole
        // inspection. Some inspections may be over when this begins, and one may be under way.
        let (mut has_begun, mut reports, mut reports_since) = (false, 0, 0);
        wait_until("the next inspections", || {
            let (now, others) = loaded.reports_and_others();
            if has_begun {
                reports += now.len();
            }
            if failed {
                reports_since += now.len();
            }
            has_begun = true;
            failed = fail.has_failed();
            for line in others {
                if line.starts_with("there will be no more inspections") {
                    is_over = true;
                } else {
                    assert_eq!(
                        line,
                        "error: the kernel has no memory left; free some, and try again"
                    );
                    too_little += 1;
                }
            }
            is_over || reports_since > 0 || (reports > 2 && !failed)
        });
        enough += reports;
        if !is_over {
            // Allocations for removing probes are left out: the kernel warns when they fail.
            fail.set(0);
        }
        vm.wait_until_it_goes_on();
        if is_over {
            // The list of VMs could not be made, which ends the inspections.
            loaded.unload_for_lines();
            loaded = load();
        } else if !failed {
            break;
        }
        faults += 1;
    }
    println!("counted: faults={faults}");
    println!("{too_little} inspections had too little memory, {enough} had enough");
    assert!(too_little > 3, "{too_little}");
    loaded.unload_for_lines();
    vm.wait_until_it_goes_on();
    vm.finish();
}
