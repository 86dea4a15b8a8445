// SPDX-License-Identifier: GPL-2.0

//! What comes out of the serial ports of a VM, whatever emulates it.

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

/// How often the clock of a VM that says nothing is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What came of a case in a VM.
// Each of them is a fact of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct Run {
    /// The kernel log.
    pub console: String,
    /// Whether modules had come before: to an earlier case in the same VM.
    pub had_modules: bool,
    /// Whether the case lets allocations fail, which the kernel may say.
    pub fails_allocations: bool,
    /// Whether the VM's processors ran at the same time: see [`crate::qemu::Machine`].
    pub in_parallel: bool,
    /// Whether the case began.
    pub started: bool,
    /// Whether the case passed; [`None`] if it did not say.
    pub passed: Option<bool>,
    /// What the case said.
    pub text: Vec<String>,
    /// What the kernel said besides, as the first process has read it.
    pub(crate) log: Vec<String>,
    /// How it ended.
    pub end: End,
    /// How long the case took, up to its end.
    pub took: Duration,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The VM has said all, and is off or has gone on to the next case.
    Complete,
    /// The emulator ended before that.
    Lost,
    /// It was stopped when time was up.
    TimedOut,
}

impl Run {
    /// One that has not begun.
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

/// For how long a VM is listened to, by its clock ([`VmClock`]).
pub(crate) struct Limits<'a> {
    /// Until the first process begins the first case.
    pub(crate) boot: Duration,
    /// From the beginning of each case, or from the last line that it has said, to its end; one for each.
    pub(crate) cases: &'a [Duration],
    /// From the end of a case until the VM is off or begins the next one.
    pub(crate) end: Duration,
}

/// Listens to a VM, whose messages are the emulator's standard output, until it is off or time is
/// up. Keeps what it says in `log`, and tells it. Calls `examine` before it ends one that hangs.
///
/// Gives the cases that began, without the kernel log; the only one has not begun if none did.
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
        match lines.recv_timeout(LOOK) {
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
                    // The firmware may use the port, too.
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

/// Gives each run its part of the kernel log: from its beginning, the first one from the boot on. At the end
/// stands what was not on the console.
pub(crate) fn split_console(console: &str, runs: &mut [Run]) {
    let mut begins: Vec<usize> = console.match_indices(CASE_MARK).map(|at| at.0).collect();
    // To the beginnings of the lines.
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
        // What the console has, which has the warnings only, is not said twice.
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
        // Neither fails on a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines that come out of a pipe, until it is closed.
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

/// The kernel log in a file; nothing if there is none.
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
