// SPDX-License-Identifier: GPL-2.0

//! The output of a VM's serial ports, from any emulator.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::Child,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use cases::protocol::{Message, CASE_MARK};

use crate::patience::VmClock;

/// How often to look at the clock of a silent VM.
const INTERVAL: Duration = Duration::from_secs(1);

/// What came of a case in a VM.
// They are independent of each other.
#[allow(clippy::struct_excessive_bools)]
pub struct Run {
    /// The kernel log.
    pub console: String,
    /// Whether an earlier case in the VM had loaded modules.
    pub had_modules: bool,
    /// Whether the case makes allocations fail, which the kernel may report.
    pub fails_allocations: bool,
    /// Whether the VM's processors ran at the same time: see [`crate::qemu::Machine`].
    pub in_parallel: bool,
    /// Whether the case began.
    pub started: bool,
    /// Whether the case passed, or [`None`] if it did not end.
    pub passed: Option<bool>,
    /// What the case printed.
    pub text: Vec<String>,
    /// The lines of the kernel log that the first process has sent.
    pub(crate) log: Vec<String>,
    /// How it ended.
    pub end: End,
    /// How long the case took.
    pub took: Duration,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The VM has sent all, and is off or has begun the next case.
    Complete,
    /// The emulator ended before that.
    Lost,
    /// It was stopped when time was up.
    TimedOut,
}

impl Run {
    /// Creates one that has not begun.
    pub(crate) fn new() -> Self {
        Self {
            console: String::new(),
            had_modules: false,
            fails_allocations: false,
            in_parallel: false,
            started: false,
            passed: None,
            text: Vec::new(),
            log: Vec::new(),
            end: End::Lost,
            took: Duration::ZERO,
        }
    }
}

/// Time limits of a VM, by its clock ([`VmClock`]).
pub(crate) struct Limits<'a> {
    /// From the start to the first case.
    pub(crate) boot: Duration,
    /// For each case, from its beginning or its last line to its end.
    pub(crate) cases: &'a [Duration],
    /// From the end of a case until the VM is off or begins the next one.
    pub(crate) end: Duration,
}

/// Reads a VM's messages from the emulator's standard output until the VM is off or time is up.
/// Keeps them in `log`, and passes each to `tell`. Calls `examine` before it ends a VM that hangs.
///
/// Returns the cases that began, or one that did not, without the kernel log.
pub(crate) fn listen(
    mut child: Child,
    limits: &Limits<'_>,
    log: &mut File,
    tell: &mut dyn FnMut(&Message),
    examine: &dyn Fn(),
) -> io::Result<Vec<Run>> {
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| io::Error::other("the emulator has no output"))?;
    let mut clock = VmClock::start(child.id());
    let mut child = KilledOnDrop(child);
    let lines = lines(stdout);
    let mut runs: Vec<Run> = Vec::new();
    let mut run = Run::new();
    let mut deadline = limits.boot;
    let (mut begin, mut limit) = (Instant::now(), Duration::ZERO);
    loop {
        match lines.recv_timeout(INTERVAL) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                let message = Message::parse(&line);
                message.iter().for_each(&mut *tell);
                match message {
                    Some(Message::Start(_)) => {
                        if run.started {
                            runs.push(std::mem::replace(&mut run, Run::new()));
                        }
                        run.started = true;
                        begin = Instant::now();
                        limit = limits.cases.get(runs.len()).copied().unwrap_or_default();
                        deadline = clock.now() + limit;
                    }
                    Some(Message::Pass) => run.passed = Some(true),
                    Some(Message::Fail) => run.passed = Some(false),
                    Some(Message::Text(text)) => {
                        run.text.push(text);
                        deadline = clock.now() + limit;
                    }
                    Some(Message::Log(line)) => run.log.push(line),
                    Some(Message::End) => {
                        run.end = End::Complete;
                        run.took = begin.elapsed();
                        deadline = clock.now() + limits.end;
                    }
                    // The firmware may write to the port, too.
                    None => (),
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                child.0.wait()?;
                break;
            }
            Err(RecvTimeoutError::Timeout) => (),
        }
        if clock.now() >= deadline {
            examine();
            run.end = End::TimedOut;
            break;
        }
    }
    runs.push(run);
    Ok(runs)
}

/// Gives each run its part of the console: from its beginning on, or from the boot on for the first
/// one. The lines that the console lacks come after that.
pub(crate) fn split_console(console: &str, runs: &mut [Run]) {
    let mut begins: Vec<usize> = console.match_indices(CASE_MARK).map(|at| at.0).collect();
    // Move to the beginnings of the lines.
    for begin in &mut begins {
        *begin = console[..*begin].rfind('\n').map_or(0, |end| end + 1);
    }
    for (index, run) in runs.iter_mut().enumerate() {
        let begin = match index {
            0 => 0,
            _ => begins.get(index).copied().unwrap_or(console.len()),
        };
        let end = begins.get(index + 1).copied().unwrap_or(console.len());
        console[begin..end].clone_into(&mut run.console);
        // Add the lines that the console, which has warnings only, lacks.
        for line in &run.log {
            if !console[begin..end].contains(line.as_str()) {
                run.console.push_str(line);
                run.console.push('\n');
            }
        }
        run.had_modules = index > 0;
    }
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Both succeed with a process that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the lines from a pipe, until that is closed.
fn lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Returns the kernel log in a file, or nothing if there is none.
pub(crate) fn read_console(path: &Path) -> io::Result<String> {
    match fs::read(path) {
        // The port sends a carriage return before each line feed.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).replace('\r', "")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_its_part_of_the_log() {
        let console = format!(
            "[ 1.0] boot\n[ 2.0] {CASE_MARK}a\n[ 3.0] of a\n[ 4.0] {CASE_MARK}b\n[ 5.0] of b\n"
        );
        let mut runs = [Run::new(), Run::new(), Run::new()];
        runs[0].log = vec!["of a".to_owned(), "not on the console".to_owned()];
        split_console(&console, &mut runs);
        assert_eq!(
            runs[0].console,
            format!("[ 1.0] boot\n[ 2.0] {CASE_MARK}a\n[ 3.0] of a\nnot on the console\n")
        );
        assert_eq!(
            runs[1].console,
            format!("[ 4.0] {CASE_MARK}b\n[ 5.0] of b\n")
        );
        assert_eq!(runs[2].console, "");
        assert_eq!(runs.map(|run| run.had_modules), [false, true, true]);
    }
}
