// SPDX-License-Identifier: GPL-2.0

//! Inspections that must go as a case expects: through the device, or by `insmod` and `rmmod` where
//! it is these that a case is about.

mod by_device;

use std::{
    collections::BTreeMap,
    ffi::CString,
    fmt::{self, Display},
    fs::{self, File},
    path::Path,
};

pub(crate) use kvm_inspect_tool::{hex::pattern as hex, Refusal};
use kvm_inspect_tool::{
    report::{Conclusion, Done, Output, Pages, Report, Source, State},
    LoadError,
};
use rustix::{
    io::Errno,
    system::{delete_module, finit_module},
};

pub(crate) use self::by_device::end;
use crate::process::{has_feature, own_pid, wait_until, PAGE};

/// Where the harness puts the module.
const MODULE: &str = "/modules/kvm_inspect.ko";

/// The usual `freeze_timeout_ms=` of a case. A vCPU may be late because the machine is busy.
const FREEZE_TIMEOUT_MS: u64 = 60_000;

/// How often to try an inspection whose pauses are so short that vCPUs may not stop in time.
const TRIES: u32 = 30;

/// An inspection, whose outcome must be as a case expects.
#[derive(Clone)]
pub(crate) struct Inspection(kvm_inspect_tool::Inspection);

impl Inspection {
    /// Creates an inspection of the VMs of this process.
    pub(crate) fn of_self() -> Self {
        Self::of(own_pid())
    }

    /// Creates an inspection of the VMs of another process.
    pub(crate) fn of(pid: i32) -> Self {
        Self::without_pid().set("pid", pid)
    }

    /// Creates what loads the module without any parameter.
    pub(crate) fn none() -> Self {
        Self(kvm_inspect_tool::Inspection::new())
    }

    /// Creates an inspection without `pid=`, which must be given.
    pub(crate) fn without_pid() -> Self {
        // One pause by default: an emulated machine is slow.
        Self(kvm_inspect_tool::Inspection::new())
            .set("freeze_timeout_ms", FREEZE_TIMEOUT_MS)
            .set("max_pause_ms", 0)
    }

    /// Sets a parameter, in place of an earlier value.
    pub(crate) fn set(self, name: &str, value: impl Display) -> Self {
        Self(self.0.set(name, value))
    }

    /// Leaves a parameter to the module's default.
    pub(crate) fn unset(self, name: &str) -> Self {
        Self(self.0.unset(name))
    }

    /// Searches for these patterns, in the module's notation.
    pub(crate) fn patterns<S: AsRef<str>>(self, patterns: &[S]) -> Self {
        Self(self.0.patterns(patterns))
    }

    /// Searches in these ranges only.
    pub(crate) fn ranges<S: AsRef<str>>(self, ranges: &[S]) -> Self {
        Self(self.0.ranges(ranges))
    }

    /// Loads the module, and keeps it loaded. What was loaded for the device ends before.
    pub(crate) fn try_load(&self) -> Result<Loaded, Refusal> {
        end();
        match self.0.load(&module_file()) {
            Ok(loaded) => Ok(Loaded {
                loaded,
                may_be_late: self.may_be_late(),
            }),
            Err(LoadError::Refused(refusal)) => Err(refusal),
            Err(error @ LoadError::Log(_)) => panic!("{error}"),
        }
    }

    /// Loads the module, which must succeed, and keeps it loaded.
    ///
    /// On a busy machine vCPUs may not stop within a short pause. That does not happen each time.
    pub(crate) fn load(&self) -> Loaded {
        let tries = if self.may_be_late() { TRIES } else { 1 };
        for attempt in 1.. {
            match self.try_load() {
                Ok(loaded) => return loaded,
                Err(refusal) if attempt < tries && refusal.errno == Errno::TIMEDOUT => {
                    println!("{refusal:?}");
                }
                Err(refusal) => panic!("the module was refused with {self}: {refusal:?}"),
            }
        }
        unreachable!("it ends with the last try")
    }

    /// Returns whether vCPUs may be late though nothing is wrong.
    fn may_be_late(&self) -> bool {
        self.0.value("max_pause_ms") != Some("0")
    }

    /// Inspects one VM `count` times. Returns the report with the shortest pause, which other work
    /// on the machine has prolonged least.
    pub(crate) fn shortest(&self, count: usize) -> Report {
        let report = self.shortest_partial(count);
        self.assert_complete(&report);
        report
    }

    /// As [`Self::shortest`]. Any outcome will do.
    pub(crate) fn shortest_partial(&self, count: usize) -> Report {
        let reports = (0..count).map(|_| self.partial_report());
        let shortest = reports.min_by_key(|report| report.done.pause_us);
        shortest.expect("there is at least one")
    }

    /// Inspects one VM through the device.
    pub(crate) fn report(&self) -> Report {
        let report = self.partial_report();
        self.assert_complete(&report);
        report
    }

    /// Inspects one VM through the device. Any outcome will do.
    ///
    /// On a busy machine vCPUs may not stop within a short pause. That does not happen each time.
    pub(crate) fn partial_report(&self) -> Report {
        let tries = if self.may_be_late() { TRIES } else { 1 };
        for attempt in 1.. {
            match by_device::inspect(&self.0) {
                Ok(report) => {
                    assert_consistent(&report);
                    return report;
                }
                Err(error) if attempt < tries && error.errno() == Errno::TIMEDOUT => {
                    println!("{error:?}");
                }
                Err(error) => panic!("the device has refused {self}: {error:?}"),
            }
        }
        unreachable!("it ends with the last try")
    }

    /// Loads the module, which inspects, and unloads it.
    pub(crate) fn reports_by_insmod(&self) -> Vec<Report> {
        let reports = self.load().unload();
        assert!(!reports.is_empty(), "the module said nothing with {self}");
        reports
    }

    /// Loads the module, which inspects one VM, and unloads it.
    pub(crate) fn report_by_insmod(&self) -> Report {
        let report = self.partial_report_by_insmod();
        self.assert_complete(&report);
        report
    }

    /// As [`Self::report_by_insmod`]. Any outcome will do.
    pub(crate) fn partial_report_by_insmod(&self) -> Report {
        let mut reports = self.reports_by_insmod();
        assert_eq!(reports.len(), 1, "one VM, one report: {reports:#?}");
        reports.remove(0)
    }

    /// Checks that everything was searched, if anything was to be.
    fn assert_complete(&self, report: &Report) {
        let expected = if self.0.sets("pattern") {
            Conclusion::Ok
        } else {
            Conclusion::NoPattern
        };
        assert_eq!(report.done.result, expected, "{:?}", report.done);
    }

    /// Tries an inspection that must be refused, with one line that says why. Nothing may be left.
    pub(crate) fn refused(&self, errno: Errno, why: &[&str]) {
        let refusal = match self.try_load() {
            Ok(loaded) => panic!("not refused: {self}: {:#?}", loaded.unload()),
            Err(refusal) => refusal,
        };
        assert_eq!(refusal.errno, errno, "with {self}: {refusal:?}");
        let [line] = refusal.lines.as_slice() else {
            panic!("one line was expected with {self}: {refusal:?}");
        };
        let text = line.strip_prefix("error: ");
        let text = text.unwrap_or_else(|| panic!("not an error line: {line}"));
        for part in why {
            assert!(text.contains(part), "no {part:?} with {self} in: {line}");
        }
        // The line says what is wrong; and what to do.
        assert!(text.contains("; "), "nothing to do with {self} in: {line}");
        assert_nothing_left();
    }
}

impl Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The loaded module, to be unloaded with [`Loaded::unload`].
#[must_use]
pub(crate) struct Loaded {
    loaded: kvm_inspect_tool::Loaded,
    may_be_late: bool,
}

impl Loaded {
    /// Returns the complete reports since the last call. There must be nothing else.
    pub(crate) fn reports(&mut self) -> Vec<Report> {
        let (reports, others) = self.reports_and_others();
        assert_nothing_else(others, self.may_be_late);
        reports
    }

    /// Waits until there are complete reports, and returns those since the last call.
    pub(crate) fn next_reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        wait_until("a report", || {
            reports = self.reports();
            !reports.is_empty()
        });
        reports
    }

    /// Returns the complete reports since the last call, and the lines that are part of none.
    pub(crate) fn reports_and_others(&mut self) -> (Vec<Report>, Vec<String>) {
        let output = self.loaded.output();
        let output = output.unwrap_or_else(|error| panic!("{error}"));
        output.reports.iter().for_each(assert_consistent);
        (output.reports, output.others)
    }

    /// Unloads the module; nothing may be left of it. Returns the reports since the last call, but
    /// not one that was cut off by this.
    pub(crate) fn unload(self) -> Vec<Report> {
        let may_be_late = self.may_be_late;
        let lines = self.unload_for_lines();
        let output = Output::parse(&lines).unwrap_or_else(|error| panic!("{error}"));
        output.reports.iter().for_each(assert_consistent);
        assert_nothing_else(output.others, may_be_late);
        output.reports
    }

    /// Unloads the module, and returns all its lines since the last call. Nothing may be left.
    pub(crate) fn unload_for_lines(self) -> Vec<String> {
        let lines = self.loaded.unload();
        let lines = lines.unwrap_or_else(|error| panic!("unloading: {error}"));
        assert_nothing_left();
        lines
    }

    /// Unloads the module while others have probes on the same function. Returns its lines since
    /// the last call.
    pub(crate) fn unload_beside_others(self) -> Vec<String> {
        let lines = self.loaded.unload();
        let lines = lines.unwrap_or_else(|error| panic!("unloading: {error}"));
        assert!(!is_loaded(), "the module is still loaded");
        lines
    }
}

/// How the line begins that tells that a search will be slow.
pub(crate) const SLOW: &str = "warning: the search will take about ";

/// Checks that the module logged nothing besides reports, but for vCPUs that may be late.
fn assert_nothing_else(mut others: Vec<String>, may_be_late: bool) {
    let is_late = |line: &String| {
        line.contains(" did not stop: ") || line.starts_with("error: not all vCPUs stopped")
    };
    // The log is read while a long report is printed.
    others.retain(|line| !line.starts_with("warning: the next report takes "));
    // By its patterns; `patterns_slow` tests when that is told.
    others.retain(|line| !line.starts_with(SLOW));
    others.retain(|line| !(may_be_late && is_late(line)));
    assert!(others.is_empty(), "unexpected: {others:#?}");
}

/// Checks that a report has nothing undocumented, and does not contradict itself.
fn assert_consistent(report: &Report) {
    let Report {
        done,
        hits,
        left,
        uncovered,
        ..
    } = report;
    assert!(report.is_checked, "{:?}", report.limits);
    assert!(report.unknown.is_empty(), "unknown: {:#?}", report.unknown);
    for vcpu in &report.vcpus {
        // On Intel some registers of a vCPU that is not parked may be out of reach.
        let may_lack = vcpu.state == State::Outside && has_feature("vmx");
        let expected = match vcpu.state {
            State::Running => Source::None,
            State::Parked | State::Outside => Source::Kvm,
        };
        assert!(vcpu.source == expected || may_lack, "{vcpu:?}");
        assert_eq!(vcpu.mode.is_some(), vcpu.source == Source::Kvm, "{vcpu:?}");
    }
    assert!(hits.is_sorted(), "not in order: {hits:#?}");
    assert!(done.hits >= hits.len() as u64, "{done:?}");
    assert!(done.pause_us >= done.freeze_us, "{done:?}");
    assert!(done.paused_us >= done.pause_us, "{done:?}");
    assert!(done.paused_us >= done.scan_us, "{done:?}");
    assert_eq!(uncovered.is_empty(), done.uncovered_bytes == 0, "{done:?}");
    match done.result {
        Conclusion::Ok => assert!(uncovered.is_empty() && left.is_none(), "{report:#?}"),
        Conclusion::NoPattern => assert!(report.patterns.is_empty(), "{report:#?}"),
        Conclusion::Changed => assert!(!uncovered.is_empty() && left.is_none(), "{report:#?}"),
        Conclusion::TimeUp => assert!(left.is_some(), "{report:#?}"),
        Conclusion::Incomplete => assert!(done.missing_pages > 0, "{report:#?}"),
        Conclusion::MemslotsChanged
        | Conclusion::NotOneInstant
        | Conclusion::VmmKilled
        | Conclusion::VmClosed => (),
    }
    if done.result == Conclusion::Ok {
        assert_eq!(done.missing_pages, 0, "{report:#?}");
    }
    assert_pages_add_up(report);
}

/// Checks that the figures of each slot add up to its pages, and those of all slots to the totals.
fn assert_pages_add_up(report: &Report) {
    let mut kinds = BTreeMap::new();
    for slot in &report.slots {
        let Pages { all, present, .. } = slot.pages;
        let others: u64 = slot.pages.kinds.values().sum();
        assert_eq!(present + others, all, "{slot:#?}");
        let size = slot.gpa.end() - slot.gpa.start() + 1;
        assert_eq!(all * PAGE, size, "{slot:#?}");
        for (kind, count) in &slot.pages.kinds {
            *kinds.entry(kind.clone()).or_insert(0) += count;
        }
    }
    let memory = &report.memory;
    if report.omitted_slots == 0 {
        assert_eq!(memory.all, report.pages());
        assert_eq!(memory.present, report.present());
        for (kind, count) in &memory.kinds {
            assert_eq!(kinds.get(kind).copied().unwrap_or(0), *count, "{kind}");
        }
    }
    let Done {
        absent_pages,
        private_pages,
        ..
    } = report.done;
    assert_eq!(private_pages, memory.of("private"));
    assert_eq!(memory.present + absent_pages + private_pages, memory.all);
}

/// Loads the module with parameters as they are written here, which must succeed.
pub(crate) fn load_as_written(parameters: &str) -> Loaded {
    end();
    match kvm_inspect_tool::load_as_written(&module_file(), parameters) {
        Ok(loaded) => Loaded {
            loaded,
            may_be_late: false,
        },
        Err(error) => panic!("the module was refused with {parameters}: {error}"),
    }
}

/// Loads the module with parameters as they are written here, which must be refused with one line
/// that has all of `why`. Nothing may be left.
pub(crate) fn refused_as_written(parameters: &str, why: &[&str]) {
    end();
    let refusal = match kvm_inspect_tool::load_as_written(&module_file(), parameters) {
        Ok(loaded) => panic!("not refused: {parameters}: {:#?}", loaded.unload()),
        Err(LoadError::Refused(refusal)) => refusal,
        Err(error @ LoadError::Log(_)) => panic!("{error}"),
    };
    assert_eq!(refusal.errno, Errno::INVAL, "{parameters}: {refusal:?}");
    // The kernel may have its own words before.
    let line = refusal.lines.last();
    let line = line.unwrap_or_else(|| panic!("no line with {parameters}"));
    assert!(line.starts_with("error: ") && line.contains("; "), "{line}");
    for part in why {
        assert!(
            line.contains(part),
            "no {part:?} with {parameters} in: {line}"
        );
    }
    assert_nothing_left();
}

/// Opens the module's file.
pub(crate) fn module_file() -> File {
    File::open(MODULE).unwrap_or_else(|error| panic!("{MODULE}: {error}"))
}

/// Loads any module with parameters.
pub(crate) fn load_module(path: &str, parameters: &str) -> Result<(), Errno> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let parameters = CString::new(parameters).expect("there is no NUL in it");
    finit_module(file, &parameters, 0)
}

/// Unloads any module.
pub(crate) fn unload_module(name: &str) {
    let name = CString::new(name).expect("there is no NUL in it");
    let result = delete_module(&name, libc::O_NONBLOCK);
    result.unwrap_or_else(|error| panic!("unloading {name:?}: {error}"));
}

/// Checks that the module is gone, with its probe and its thread.
pub(crate) fn assert_nothing_left() {
    assert!(!is_loaded(), "the module is still loaded");
    let probes = fs::read_to_string("/sys/kernel/debug/kprobes/list");
    let probes = probes.expect("the list of probes can be read");
    assert!(
        !probes.contains("kvm_vcpu_ioctl"),
        "a probe was left: {probes}"
    );
    // It may still be exiting when it has left the module's code.
    wait_until("the module's thread is gone", || module_thread().is_none());
}

/// Returns whether the module is loaded, or about to be.
pub(crate) fn is_loaded() -> bool {
    let modules = fs::read_to_string("/proc/modules").expect("the list of modules can be read");
    modules.lines().any(|line| line.starts_with("kvm_inspect "))
}

/// Returns whether the module has finished loading.
pub(crate) fn is_live() -> bool {
    let state = fs::read_to_string("/sys/module/kvm_inspect/initstate");
    state.is_ok_and(|state| state.trim() == "live")
}

/// Returns the number of the module's kernel thread, if it runs.
pub(crate) fn module_thread() -> Option<i32> {
    let processes = fs::read_dir("/proc").expect("/proc can be read");
    let is_its = |path: &Path| {
        let name = fs::read_to_string(path.join("comm"));
        name.is_ok_and(|name| name.starts_with("kvm_inspect"))
    };
    let mut paths = processes.flatten().map(|process| process.path());
    let path = paths.find(|path| is_its(path))?;
    path.file_name()?.to_str()?.parse().ok()
}
