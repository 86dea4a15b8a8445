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

/// The file that names KVM's modules, one path a line, in the order of loading.
const KVM_MODULES: &str = "/modules/kvm";

/// The second serial port, for messages to the harness.
const RESULT_PORT: &str = "/dev/ttyS1";

/// The expected bits of `/proc/sys/kernel/tainted`: an out-of-tree module, without a signature, and
/// the old microcode of Bochs's processor. Any other bit is a fault: a warning, an Oops, a lockup.
const EXPECTED_TAINT: u64 = (1 << 12) | (1 << 13) | (1 << 2);

/// The time limit for a killed case to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// The time between two looks at whether a case has ended.
const NAP: Duration = Duration::from_millis(5);

/// Runs the cases, and powers off. The harness takes a VM without the message `End` for lost.
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

/// Mounts file systems and loads KVM.
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
    // A hang must be in the log before its case is ended. The kernel goes by its own clock: a task
    // in a VM with little CPU time may be blocked for long without a hang.
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

/// Loads KVM with the parameters on the kernel's command line (`kvm_intel.ept=N`). The kernel
/// leaves those of loadable modules to whoever loads them.
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
        // KVM ignores parameters that the processor does not support.
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

/// Opens the port, and turns off its line editing.
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

/// Runs the cases one after the other until one fails: it may disturb the next.
fn run_cases(cases: &[Case], mut port: File) -> io::Result<()> {
    let mut host_log = HostLog::from_now()?;
    for (index, case) in cases.iter().enumerate() {
        let is_last = index + 1 == cases.len();
        if !run_case(case, is_last, &mut host_log, &mut port)? {
            break;
        }
    }
    Ok(())
}

/// Runs a case in a child process, and reports. Returns whether it passed.
fn run_case(
    case: &Case,
    is_last: bool,
    host_log: &mut HostLog,
    port: &mut File,
) -> io::Result<bool> {
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
    let mut problem = wait(&mut child, case.limit * scale(), host_log)?.err();
    let others = mem::take(&mut host_log.others);

    // End what the case left behind, so that nothing disturbs the shutdown. When all of it is gone
    // the pipes are closed.
    let _ = kill_all();
    let collectors = stdout.iter().chain(&stderr);
    let mut patience = Patience::of(KILL_LIMIT, Duration::from_millis(1));
    while !collectors.clone().all(JoinHandle::is_finished) && patience.nap() {}
    if problem.is_none() {
        problem = unexpected_taint()?.or_else(lockdep_is_off);
    }
    // This takes long. The memory may also be an earlier case's.
    if problem.is_none() && is_last {
        problem = leaks()?;
    }

    tell(problem.as_ref().map_or(Message::Pass, |_| Message::Fail))?;
    let text = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for line in problem.iter().map(String::as_str).chain(text.lines()) {
        tell(Message::Text(line.to_owned()))?;
    }
    // Lines since then are shown, but not judged: they answer `leaks` and the time limit.
    host_log.read()?;
    host_log.others.clear();
    for line in others {
        tell(Message::Log(line))?;
    }
    for line in host_log.last.iter().filter(|_| problem.is_some()) {
        tell(Message::Text(format!("log: {line}")))?;
    }
    tell(Message::End)?;
    Ok(problem.is_none())
}

/// What the kernel logs from the first case on. The console shows warnings only: the module's
/// reports would take most of the time on that port.
struct HostLog {
    log: KernelLog,
    /// The lines that are not the module's.
    others: Vec<String>,
    /// The last lines, which a failed case shows.
    last: VecDeque<String>,
}

impl HostLog {
    /// How many lines a failed case shows.
    const LAST: usize = 60;

    fn from_now() -> io::Result<Self> {
        Ok(Self {
            log: KernelLog::from_now()?,
            others: Vec::new(),
            last: VecDeque::new(),
        })
    }

    /// Reads the lines since the last call. Of more than the buffer holds, the first are lost; then
    /// those of importance are on the console, too.
    fn read(&mut self) -> io::Result<()> {
        let lines = loop {
            match self.log.lines() {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => (),
                lines => break lines?,
            }
        };
        for line in lines {
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

/// Collects the lines from a pipe until it is closed.
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

/// Waits for the case to end. The inner error says what was wrong with its end.
fn wait(
    child: &mut Child,
    limit: Duration,
    host_log: &mut HostLog,
) -> io::Result<Result<(), String>> {
    let mut patience = Patience::of(limit, NAP);
    loop {
        let status = child.try_wait()?;
        // If it is over, this has all that it caused.
        host_log.read()?;
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
    // This logs which tasks are blocked, and where.
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
        // Kernel threads ignore it, others may be gone already.
        let _ = kill_process(pid, Signal::KILL);
    }
    Ok(())
}

/// Returns a problem if lockdep has turned itself off, as it does after its first finding.
fn lockdep_is_off() -> Option<String> {
    let text = fs::read_to_string("/proc/lockdep_stats").ok()?;
    let mut lines = text.lines();
    let on = lines.find_map(|line| line.trim().strip_prefix("debug_locks:"));
    let is_on = on.is_some_and(|on| on.trim() == "1");
    (!is_on).then(|| "lockdep has turned itself off".to_owned())
}

/// Returns a problem if kmemleak finds leaked memory.
fn leaks() -> io::Result<Option<String>> {
    const FILE: &str = "/sys/kernel/debug/kmemleak";
    if !fs::exists(FILE)? {
        return Ok(None);
    }
    // kmemleak reports no memory younger than five seconds (`mm/kmemleak.c`), and may miss a
    // pointer that is being moved once.
    thread::sleep(Duration::from_secs(5));
    for _ in 0..2 {
        match fs::write(FILE, "scan") {
            // A locked down kernel does not tell.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            result => result?,
        }
    }
    let text = fs::read_to_string(FILE)?;
    Ok((!text.trim().is_empty()).then(|| format!("memory was leaked:\n{text}")))
}

/// Returns a problem if the kernel has noticed a fault of its own.
fn unexpected_taint() -> io::Result<Option<String>> {
    let text = fs::read_to_string("/proc/sys/kernel/tainted")?;
    let taint: u64 = text.trim().parse().map_err(io::Error::other)?;
    let fault = taint & !EXPECTED_TAINT;
    Ok((fault != 0).then(|| format!("the kernel is tainted: {taint:#x}")))
}
