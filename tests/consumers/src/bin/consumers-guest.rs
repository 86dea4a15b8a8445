// SPDX-License-Identifier: GPL-2.0

//! The guest of the tests with other programs: PID 1 of a small Linux.
//!
//! It starts processes that do what is known, and tells the console what a program must find in its
//! memory: a line with `expected` and JSON. Of the secret, only the process that keeps it has the
//! bytes: the console shows hex digits.

use std::{
    convert::Infallible,
    fs::{self, File, OpenOptions},
    hint::black_box,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    mount::{mount, MountFlags},
    pipe::pipe,
    thread::{sched_setaffinity, CpuSet},
};
use serde_json::{json, Value};

/// How much memory a call of `read` fills: so much that the process is nearly always in it.
const READ_SIZE: usize = 4 << 20;

/// What a process does, by the name that it gives itself.
const KEEPER: &str = "keeper";
const BLOCKED: &str = "blocked";
const SPINNER: &str = "spinner";
const READER: &str = "reader";

fn main() -> ExitCode {
    // The kernel gives the first process those of its own parameters that it does not know.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        _ if std::process::id() == 1 => start(),
        [name] => work(name, None),
        [name, cpu] => work(name, Some(cpu)),
        _ => Err(io::Error::other("no work is named")),
    };
    match result {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("consumers guest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts all processes as PID 1, and tells what they are.
fn start() -> io::Result<Infallible> {
    for (kind, at) in [("proc", "/proc"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(at)?;
        mount(kind, at, kind, MountFlags::empty(), None)?;
    }
    let mark = format!("consumers guest: mark {}", random_digits::<8>()?);
    fs::write("/dev/kmsg", format!("<5>{mark}\n"))?;
    // Volatility's linux.kmsg leaves out the last record.
    fs::write("/dev/kmsg", "<5>consumers guest: one more record\n")?;
    let cpus = thread::available_parallelism()?.get();
    let (keeper, secret) = spawn(KEEPER, None)?;
    let (blocked, _) = spawn(BLOCKED, None)?;
    let mut running = Vec::new();
    // With three CPUs and more, the first ones have nothing to do.
    let busy = [(READER, Some("read_zero")), (SPINNER, None)];
    for ((name, function), cpu) in busy.iter().zip((0..cpus).rev()) {
        let (pid, _) = spawn(name, Some(cpu))?;
        running.push(json!({ "pid": pid, "comm": name, "cpu": cpu, "function": function }));
    }
    // Until threads of the kernel that have little to do sleep again.
    thread::sleep(Duration::from_secs(1));
    let expected = json!({
        "release": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "cpus": cpus,
        "levels": if has_five_levels()? { 5 } else { 4 },
        "secret": { "pid": keeper, "bytes": secret },
        "log": mark,
        "tasks": tasks()?,
        "sleeping": [
            { "pid": keeper, "comm": KEEPER, "function": "nanosleep" },
            { "pid": blocked, "comm": BLOCKED, "function": "pipe_read" },
        ],
        "running": running,
    });
    let mut console = OpenOptions::new().write(true).open("/dev/console")?;
    writeln!(console, "expected {expected}")?;
    loop {
        thread::sleep(Duration::MAX);
    }
}

/// Starts a process. Returns its number, and the line that it says when it is about to begin.
fn spawn(name: &str, cpu: Option<usize>) -> io::Result<(u32, String)> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(name).args(cpu.map(|cpu| cpu.to_string()));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    Ok((child.id(), line.trim().to_owned()))
}

/// Does what this process is for.
fn work(name: &str, cpu: Option<&str>) -> io::Result<Infallible> {
    fs::write("/proc/self/comm", name)?;
    if let Some(cpu) = cpu {
        let mut cpus = CpuSet::new();
        cpus.set(cpu.parse().map_err(io::Error::other)?);
        sched_setaffinity(None, &cpus)?;
    }
    match name {
        KEEPER => keep(),
        BLOCKED => {
            // The other end stays open, and nobody writes.
            let (end, _other_end) = pipe()?;
            say("blocked")?;
            File::from(end).read_exact(&mut [0])?;
            Err(io::Error::other("somebody has written"))
        }
        SPINNER => {
            say("spins")?;
            let mut count = 0_u64;
            loop {
                count = black_box(count.wrapping_add(1));
            }
        }
        READER => {
            let mut zeros = vec![1; READ_SIZE];
            let mut file = File::open("/dev/zero")?;
            say("reads")?;
            loop {
                file.read_exact(&mut zeros)?;
            }
        }
        _ => Err(io::Error::other(format!("there is no work named {name}"))),
    }
}

/// Makes a secret, and keeps it.
fn keep() -> io::Result<Infallible> {
    let mut secret = Box::new([0; 32]);
    File::open("/dev/urandom")?.read_exact(secret.as_mut_slice())?;
    say(&kvm_inspect_tool::hex::digits(secret.as_slice()))?;
    loop {
        // This keeps it in memory, whatever the optimizer does.
        black_box(&secret);
        thread::sleep(Duration::from_secs(1000));
    }
}

fn random_digits<const SIZE: usize>() -> io::Result<String> {
    let mut bytes = [0; SIZE];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(kvm_inspect_tool::hex::digits(&bytes))
}

/// Tells the first process. Its output ends here, so that it goes on.
fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{line}")?;
    output.flush()
}

/// Returns the numbers and names of all processes, without the kernel's workers: those come and go,
/// and change their names.
fn tasks() -> io::Result<Vec<Value>> {
    let mut tasks = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // It may have ended by now.
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else {
            continue;
        };
        // What the kernel has in `task_struct`, which is 15 bytes.
        let name: String = name.trim_end().chars().take(15).collect();
        if !name.starts_with("kworker") {
            tasks.push(json!({ "pid": pid, "comm": name }));
        }
    }
    Ok(tasks)
}

fn has_five_levels() -> io::Result<bool> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    Ok(text.split_whitespace().any(|flag| flag == "la57"))
}
