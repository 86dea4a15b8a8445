// SPDX-License-Identifier: GPL-2.0

//! Calling the module: loading it with parameters, reading what it says, unloading it.

use std::{
    ffi::CString,
    fmt::{Display, Write},
    fs::{self, File},
    mem,
    path::Path,
};

use cases::{hex::digits, kernel_log::KernelLog};
use rustix::{
    io::Errno,
    system::{delete_module, finit_module},
};

use crate::{
    process::{own_pid, wait_until},
    report::Report,
};

/// Where the harness puts the module.
const MODULE: &str = "/modules/kvm_inspect.ko";

/// How long vCPUs may take to stand, unless a case says so itself. Nothing is wrong with one that
/// is late because the machine is busy.
const FREEZE_TIMEOUT_MS: u64 = 60_000;

/// How often an inspection is tried whose pauses are so short that vCPUs may not stand in time.
const TRIES: u32 = 30;

/// An inspection to be made.
#[derive(Clone)]
pub(crate) struct Inspection {
    parameters: Vec<(String, String)>,
}

impl Inspection {
    /// Of the VMs of this process.
    pub(crate) fn of_self() -> Self {
        Self::of(own_pid())
    }

    /// Of the VMs of another process.
    pub(crate) fn of(pid: i32) -> Self {
        Self::without_pid().set("pid", pid)
    }

    /// Of nothing yet.
    pub(crate) fn without_pid() -> Self {
        let this = Self {
            parameters: Vec::new(),
        };
        this.set("freeze_timeout_ms", FREEZE_TIMEOUT_MS)
    }

    /// Gives a parameter, or another value to one; the value is put in quotes.
    pub(crate) fn set(mut self, name: &str, value: impl Display) -> Self {
        self.parameters.retain(|(other, _)| other != name);
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }

    /// Searches for these patterns, in the module's notation.
    pub(crate) fn patterns<S: AsRef<str>>(self, patterns: &[S]) -> Self {
        self.list("pattern", patterns)
    }

    /// Searches in these ranges only.
    pub(crate) fn ranges<S: AsRef<str>>(self, ranges: &[S]) -> Self {
        self.list("range", ranges)
    }

    fn list<S: AsRef<str>>(self, name: &str, values: &[S]) -> Self {
        let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
        self.set(name, values.join(","))
    }

    /// Loads the module, and keeps it loaded.
    pub(crate) fn try_load(&self) -> Result<Loaded, Refusal> {
        let mut log = KernelLog::from_now();
        let result = load(&self.to_string());
        let lines = log.module_lines();
        match result {
            Ok(()) => Ok(Loaded {
                log,
                lines,
                may_be_late: self.may_be_late(),
            }),
            Err(errno) => Err(Refusal { errno, lines }),
        }
    }

    /// Loads the module, which must succeed, and keeps it loaded.
    ///
    /// On a busy machine vCPUs may not come to a stop within a pause that is to be short, but not
    /// each time.
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

    /// Returns whether vCPUs may not come to a stop in time, though nothing is wrong.
    fn may_be_late(&self) -> bool {
        self.parameters
            .iter()
            .any(|(name, _)| name == "max_pause_ms")
    }

    /// Makes the inspection again and again, at least `count` times, and unloads the module. What
    /// must be one VM is inspected. Returns the report with the shortest pause, which least else
    /// has prolonged.
    pub(crate) fn shortest(&self, count: usize) -> Report {
        let mut loaded = self.clone().set("interval_ms", 1).load();
        let mut reports = loaded.reports();
        while reports.len() < count {
            reports.extend(loaded.next_reports());
        }
        reports.extend(loaded.unload());
        let report = reports
            .into_iter()
            .min_by_key(|report| report.done.pause_us);
        report.expect("there is at least one")
    }

    /// Makes the inspection, and unloads the module.
    pub(crate) fn reports(&self) -> Vec<Report> {
        let reports = self.load().unload();
        assert!(!reports.is_empty(), "the module said nothing with {self}");
        reports
    }

    /// Makes the inspection of what must be one VM, and unloads the module.
    pub(crate) fn report(&self) -> Report {
        let report = self.partial_report();
        assert_eq!(report.done.result, "ok");
        report
    }

    /// Makes the inspection of what must be one VM, whatever comes of it, and unloads the module.
    pub(crate) fn partial_report(&self) -> Report {
        let mut reports = self.reports();
        assert_eq!(reports.len(), 1, "one VM, one report: {reports:#?}");
        reports.remove(0)
    }

    /// Makes an inspection that must be refused, with one line that says why; nothing may be left.
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
        // What is wrong, and what to do.
        assert!(text.contains("; "), "nothing to do with {self} in: {line}");
        assert_nothing_left();
    }
}

impl Display for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            if index > 0 {
                f.write_char(' ')?;
            }
            // Quotes let a value have spaces; they have to stand around the whole of it.
            write!(f, "{name}=\"{value}\"")?;
        }
        Ok(())
    }
}

/// The module's answer when it is not to stay.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) lines: Vec<String>,
}

/// The loaded module, to be unloaded with [`Loaded::unload`].
#[must_use]
pub(crate) struct Loaded {
    log: KernelLog,
    lines: Vec<String>,
    may_be_late: bool,
}

impl Loaded {
    /// The complete reports since the last call.
    pub(crate) fn reports(&mut self) -> Vec<Report> {
        self.lines.extend(self.log.module_lines());
        let end = self
            .lines
            .iter()
            .rposition(|line| line.starts_with("done "));
        let complete = end.map_or(0, |end| end + 1);
        let lines: Vec<String> = self.lines.drain(..complete).collect();
        self.parse(&lines)
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

    /// Waits for an inspection that has begun after this was called, and returns its report. What
    /// must be one VM is inspected.
    pub(crate) fn fresh_report(&mut self) -> Report {
        self.reports();
        // The first one may have begun before.
        let mut reports = self.next_reports();
        while reports.len() < 2 {
            reports.extend(self.next_reports());
        }
        reports.remove(1)
    }

    /// Reads the reports in these lines. There may be nothing else but what may have kept vCPUs
    /// from standing in time.
    fn parse(&self, lines: &[String]) -> Vec<Report> {
        let (reports, mut others) = Report::parse_all(lines);
        let is_late = |line: &String| {
            line.contains(" did not stop: ") || line.starts_with("error: not all vCPUs stopped")
        };
        others.retain(|line| !(self.may_be_late && is_late(line)));
        assert!(others.is_empty(), "unexpected: {others:#?}");
        reports
    }

    /// The same as [`Self::reports`], and the lines that are no part of a report.
    pub(crate) fn reports_and_others(&mut self) -> (Vec<Report>, Vec<String>) {
        self.lines.extend(self.log.module_lines());
        let ends = ["done ", "error: ", "there will be no more"];
        let is_end = |line: &String| ends.iter().any(|end| line.starts_with(end));
        let complete = self.lines.iter().rposition(is_end).map_or(0, |end| end + 1);
        let lines: Vec<String> = self.lines.drain(..complete).collect();
        Report::parse_all(&lines)
    }

    /// All lines since the last call.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        self.lines.extend(self.log.module_lines());
        mem::take(&mut self.lines)
    }

    /// Unloads the module; nothing may be left of it. Returns the reports since the last call, but
    /// not one that was cut off by this.
    pub(crate) fn unload(mut self) -> Vec<Report> {
        self.lines.extend(unload(&mut self.log));
        let last = self.lines.iter().rposition(|line| line.starts_with("vm "));
        if let Some(last) = last {
            if !self.lines[last..]
                .iter()
                .any(|line| line.starts_with("done "))
            {
                self.lines.truncate(last);
            }
        }
        self.parse(&self.lines)
    }

    /// Unloads the module, and returns all its lines since the last call.
    pub(crate) fn unload_for_lines(mut self) -> Vec<String> {
        self.lines.extend(unload(&mut self.log));
        self.lines
    }

    /// Unloads the module while others have probes on the same function.
    pub(crate) fn unload_beside_others(mut self) {
        unload_module("kvm_inspect");
        assert!(!is_loaded(), "the module is still loaded");
        self.reports();
    }
}

/// Loads the module with parameters.
pub(crate) fn load(parameters: &str) -> Result<(), Errno> {
    load_module(MODULE, parameters)
}

/// The module and its parameters, read beforehand: to load it then is one system call.
pub(crate) struct Prepared {
    module: File,
    parameters: CString,
}

impl Prepared {
    pub(crate) fn new(inspection: &Inspection) -> Self {
        Self {
            module: File::open(MODULE).unwrap_or_else(|error| panic!("{MODULE}: {error}")),
            parameters: CString::new(inspection.to_string()).expect("there is no NUL in it"),
        }
    }

    pub(crate) fn load(&self) -> Result<(), Errno> {
        finit_module(&self.module, &self.parameters, 0)
    }
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

/// Unloads the module, and returns what it said meanwhile.
fn unload(log: &mut KernelLog) -> Vec<String> {
    unload_module("kvm_inspect");
    assert_nothing_left();
    log.module_lines()
}

/// Wants the module to be gone, with its probe and its thread.
pub(crate) fn assert_nothing_left() {
    assert!(!is_loaded(), "the module is still loaded");
    let probes = fs::read_to_string("/sys/kernel/debug/kprobes/list");
    let probes = probes.expect("the list of probes can be read");
    assert!(
        !probes.contains("kvm_vcpu_ioctl"),
        "a probe was left: {probes}"
    );
    // When it has left the module's code it may take some time to be gone.
    wait_until("the module's thread is gone", || module_thread().is_none());
}

/// Whether the module is loaded, or about to be.
pub(crate) fn is_loaded() -> bool {
    let modules = fs::read_to_string("/proc/modules").expect("the list of modules can be read");
    modules.lines().any(|line| line.starts_with("kvm_inspect "))
}

/// Returns whether the module is loaded for good.
pub(crate) fn is_live() -> bool {
    let state = fs::read_to_string("/sys/module/kvm_inspect/initstate");
    state.is_ok_and(|state| state.trim() == "live")
}

/// The number of the module's kernel thread, if it runs.
pub(crate) fn module_thread() -> Option<i32> {
    let processes = fs::read_dir("/proc").expect("/proc can be read");
    let is_its = |path: &Path| {
        let name = fs::read_to_string(path.join("comm"));
        name.is_ok_and(|name| name.trim() == "kvm_inspect")
    };
    let mut paths = processes.flatten().map(|process| process.path());
    let path = paths.find(|path| is_its(path))?;
    path.file_name()?.to_str()?.parse().ok()
}

/// A pattern for exactly these bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    format!("hex:{}", digits(bytes))
}
