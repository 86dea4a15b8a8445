// SPDX-License-Identifier: GPL-2.0

//! The first process of a test VM.

use std::{
    collections::VecDeque,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    mem, panic,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use cases::{
    command_line::parameter,
    protocol::{Message, CASE_MARK, CASE_PARAMETER, REPEAT_DIVISOR_PARAMETER, SCALE_PARAMETER},
};
use kvm_inspect_tool::KernelLog;
use rustix::{
    io::Errno,
    mount::{mount, MountFlags},
    process::{kill_process, Pid, Signal},
    system::{finit_module, reboot, RebootCommand},
    termios::{tcgetattr, tcsetattr, OptionalActions},
};

use crate::{
    cases::{find, Case},
    patience::Patience,
};

/// The modules that KVM consists of, in the order of loading, one path a line.
const KVM_MODULES: &str = "/modules/kvm";

/// The second serial port: the report to the harness.
const RESULT_PORT: &str = "/dev/ttyS1";

/// What an out-of-tree module without a signature leaves in `/proc/sys/kernel/tainted`, and Bochs's
/// processor, whose microcode is old. Any other bit is a fault: a warning, an Oops, a lock-up.
const EXPECTED_TAINT: u64 = (1 << 12) | (1 << 13) | (1 << 2);

/// How long a killed case may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether a case has ended.
const NAP: Duration = Duration::from_millis(5);

/// Does all, and powers off. Without the report's end marker the harness takes the VM for lost.
pub(crate) fn run() -> ! {
    let outcome =
        panic::catch_unwind(|| set_up().and_then(|(cases, port)| run_cases(&cases, port)));
    match outcome {
        Ok(Ok(())) => (),
        Ok(Err(error)) => eprintln!("init: {error}"),
        Err(_) => eprintln!("init: panicked"),
    }
    // Without ACPI the kernel cannot turn the VM off; the emulator ends at a restart, too.
    let command = if Path::new("/sys/firmware/acpi").exists() {
        RebootCommand::PowerOff
    } else {
        RebootCommand::Restart
    };
    loop {
        let _ = reboot(command);
        thread::sleep(Duration::from_secs(1));
    }
}

/// Makes the VM a place for cases to run in.
fn set_up() -> io::Result<(Vec<Case>, File)> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("hugetlbfs", "/dev/hugepages"),
    ] {
        if place == "/dev/hugepages" {
            fs::create_dir(place)?;
        }
        mount(kind, place, kind, MountFlags::empty(), None)
            .map_err(|error| io::Error::other(format!("mount {place}: {error}")))?;
    }
    // What hangs shall be in the log before its case is ended. Not sooner than this, since the
    // kernel goes by its clock: in a VM that gets little of its machine a task may be blocked for
    // long, and not hang.
    fs::write("/proc/sys/kernel/hung_task_timeout_secs", "120")?;

    let names = parameter(CASE_PARAMETER)
        .ok_or_else(|| io::Error::other("the kernel's command line names no case"))?;
    let cases: Vec<Case> = names.split(',').map(find).collect();
    if cases.iter().all(|case| case.needs_kvm) {
        load_kvm()?;
    }
    Ok((cases, result_port()?))
}

/// Returns the factor for repeat counts, and for the patience with each case.
pub(crate) fn scale() -> u32 {
    number(SCALE_PARAMETER)
}

/// Returns the divisor of repeat counts, which is more than 1 in a slow VM.
pub(crate) fn repeat_divisor() -> u32 {
    number(REPEAT_DIVISOR_PARAMETER)
}

fn number(name: &str) -> u32 {
    let value = parameter(name).and_then(|value| value.parse().ok());
    value.unwrap_or(1)
}

/// Loads KVM, with the parameters that the kernel's command line has for its modules
/// (`kvm_intel.ept=N`): as for any module, the kernel leaves that to whoever loads it.
pub(crate) fn load_kvm() -> io::Result<()> {
    let command_line = fs::read_to_string("/proc/cmdline")?;
    for path in fs::read_to_string(KVM_MODULES)?.lines() {
        let name = Path::new(path).file_stem().unwrap_or_default();
        let name = name.to_string_lossy().replace('-', "_");
        let prefix = format!("{name}.");
        let words = command_line.split_whitespace();
        let parameters: Vec<&str> = words
            .filter_map(|word| word.strip_prefix(&prefix))
            .collect();
        match finit_module(File::open(path)?, &CString::new(parameters.join(" "))?, 0) {
            Ok(()) | Err(Errno::EXIST) => (),
            Err(error) => return Err(io::Error::other(format!("load {path}: {error}"))),
        }
        // One that the processor does not let it have would be ignored.
        for (parameter, value) in parameters.iter().filter_map(|word| word.split_once('=')) {
            let set = fs::read_to_string(format!("/sys/module/{name}/parameters/{parameter}"))?;
            if set.trim() != value {
                let message = format!("{prefix}{parameter} is {set}, not {value}");
                return Err(io::Error::other(message));
            }
        }
    }
    Ok(())
}

/// Opens the port for plain bytes.
fn result_port() -> io::Result<File> {
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(RESULT_PORT)?;
    let mut settings = tcgetattr(&port)?;
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Now, &settings)?;
    Ok(port)
}

/// Runs the cases one after the other, until one fails: what it leaves behind is of no use to the next.
fn run_cases(cases: &[Case], mut port: File) -> io::Result<()> {
    let mut said = Said::from_now()?;
    for (index, case) in cases.iter().enumerate() {
        let is_last = index + 1 == cases.len();
        if !run_case(case, is_last, &mut said, &mut port)? {
            break;
        }
    }
    Ok(())
}

/// Runs a case as a child, watches over it, and reports. Whether it passed.
fn run_case(case: &Case, is_last: bool, said: &mut Said, port: &mut File) -> io::Result<bool> {
    let mut tell = |message: Message| writeln!(port, "{message}");
    let name = case.name();
    fs::write("/dev/kmsg", format!("{CASE_MARK}{name}"))?;
    tell(Message::Start(name.clone()))?;

    let mut child = Command::new("/proc/self/exe")
        .args(["--case", &name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let text = Arc::new(Mutex::new(String::new()));
    let stdout = child.stdout.take().map(|pipe| collect(pipe, &text));
    let stderr = child.stderr.take().map(|pipe| collect(pipe, &text));
    let mut problem = wait(&mut child, case.limit * scale(), said)?.err();
    let others = mem::take(&mut said.others);

    // What the case left behind, so that nothing disturbs the shutdown. When all of it is gone the
    // pipes are closed.
    let _ = kill_all();
    let collectors = stdout.iter().chain(&stderr);
    let mut patience = Patience::of(KILL_LIMIT, Duration::from_millis(1));
    while !collectors.clone().all(JoinHandle::is_finished) && patience.nap() {}
    if problem.is_none() {
        problem = unexpected_taint()?.or_else(lockdep_is_off);
    }
    // It takes long; the memory may also be that of an earlier case.
    if problem.is_none() && is_last {
        problem = leaks()?;
    }

    tell(problem.as_ref().map_or(Message::Pass, |_| Message::Fail))?;
    let text = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for line in problem.iter().map(String::as_str).chain(text.lines()) {
        tell(Message::Text(line.to_owned()))?;
    }
    // What was asked for since is told, but not judged: leaks that are none in the end, who waits for what.
    said.read()?;
    said.others.clear();
    for line in others {
        tell(Message::Log(line))?;
    }
    for line in said.last.iter().filter(|_| problem.is_some()) {
        tell(Message::Text(format!("log: {line}")))?;
    }
    tell(Message::End)?;
    Ok(problem.is_none())
}

/// What the kernel says from the first case on, of which the console has the warnings only: with all that
/// the module says the port would take most of the time.
struct Said {
    log: KernelLog,
    /// All but what the module says.
    others: Vec<String>,
    /// The last lines.
    last: VecDeque<String>,
}

impl Said {
    /// For who wants to know why a case has failed.
    const LAST: usize = 60;

    fn from_now() -> io::Result<Self> {
        Ok(Self {
            log: KernelLog::from_now()?,
            others: Vec::new(),
            last: VecDeque::new(),
        })
    }

    /// Reads on. To be called before much can be overwritten.
    fn read(&mut self) -> io::Result<()> {
        for line in self.log.lines()? {
            if !line.starts_with("kvm_inspect: ") {
                self.others.push(line.clone());
            }
            if self.last.len() == Self::LAST {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
        Ok(())
    }
}

/// Collects what comes from a pipe, line by line, until that is closed.
fn collect(pipe: impl Read + Send + 'static, text: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let text = text.clone();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&line);
            text.push('\n');
        }
    })
}

/// Waits for the case to end; the inner error says what was wrong with that end.
fn wait(child: &mut Child, limit: Duration, said: &mut Said) -> io::Result<Result<(), String>> {
    let mut patience = Patience::of(limit, NAP);
    loop {
        let status = child.try_wait()?;
        // All that it has caused, if it is over.
        said.read()?;
        if let Some(status) = status {
            return Ok(if status.success() {
                Ok(())
            } else {
                Err(format!("the case ended with {status}"))
            });
        }
        if !patience.nap() {
            break;
        }
    }
    // Into the kernel log: what is blocked, and where.
    fs::write("/proc/sysrq-trigger", "w")?;
    kill_all()?;
    let mut patience = Patience::of(KILL_LIMIT, NAP);
    while child.try_wait()?.is_none() {
        if !patience.nap() {
            return Ok(Err(format!(
                "the case did not end within {limit:?}, and cannot be killed"
            )));
        }
    }
    Ok(Err(format!("the case did not end within {limit:?}")))
}

/// Kills all processes but this one.
fn kill_all() -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.filter(|&pid| pid != 1).and_then(Pid::from_raw) else {
            continue;
        };
        // Kernel threads do not take it, others may be gone already.
        let _ = kill_process(pid, Signal::KILL);
    }
    Ok(())
}

/// Says so if lockdep, where it is built in, has turned itself off: it would see nothing more.
fn lockdep_is_off() -> Option<String> {
    let text = fs::read_to_string("/proc/lockdep_stats").ok()?;
    let mut lines = text.lines();
    let on = lines.find_map(|line| line.trim().strip_prefix("debug_locks:"));
    let is_on = on.is_some_and(|on| on.trim() == "1");
    (!is_on).then(|| "lockdep has turned itself off".to_owned())
}

/// Says what memory nobody refers to any more, where kmemleak is built in.
fn leaks() -> io::Result<Option<String>> {
    const FILE: &str = "/sys/kernel/debug/kmemleak";
    if !fs::exists(FILE)? {
        return Ok(None);
    }
    // What is younger than five seconds is not told (`mm/kmemleak.c`), and what is on its way from
    // one place to another may be missed once.
    thread::sleep(Duration::from_secs(5));
    for _ in 0..2 {
        match fs::write(FILE, "scan") {
            // A kernel that was locked down tells nobody.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            result => result?,
        }
    }
    let text = fs::read_to_string(FILE)?;
    Ok((!text.trim().is_empty()).then(|| format!("memory was leaked:\n{text}")))
}

/// Says so if the kernel has noticed a fault of its own.
fn unexpected_taint() -> io::Result<Option<String>> {
    let text = fs::read_to_string("/proc/sys/kernel/tainted")?;
    let taint: u64 = text.trim().parse().map_err(io::Error::other)?;
    let fault = taint & !EXPECTED_TAINT;
    Ok((fault != 0).then(|| format!("the kernel is tainted: {taint:#x}")))
}
