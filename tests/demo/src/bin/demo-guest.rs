// SPDX-License-Identifier: GPL-2.0

//! The guest of the demo: PID 1 of a small Linux.
//!
//! A child process makes a secret of 32 bytes, and keeps it. The console shows it as hex digits, so
//! that only that process has the bytes. If a kernel parameter names other work, the first process
//! does that instead, on each CPU.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::FileExt,
    process::{Command, ExitCode},
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use cases::command_line::parameter;
use demo::work::{Work, FILL, KEEPS, LOG_MARK, NOBODYS_PORT, WATCHDOGS, WORK};
use rustix::thread::{sched_setaffinity, CpuSet};

const HOLDER: &str = "holder";

/// The time between two signs of life.
const BEAT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let result = if std::env::args().nth(1).as_deref() == Some(HOLDER) {
        hold_secret()
    } else {
        start()
    };
    match result {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("demo guest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The result of what never returns.
enum Never {}

/// Starts the work as PID 1, and shows that the guest goes on.
fn start() -> std::io::Result<Never> {
    mount("proc", "/proc")?;
    mount("sysfs", "/sys")?;
    mount("devtmpfs", "/dev")?;
    let watchdogs = parameter(WATCHDOGS);
    if let Some(seconds) = &watchdogs {
        set_watchdogs(seconds)?;
    }
    match parameter(WORK) {
        Some(work) => begin(work.parse()?)?,
        None => drop(Command::new("/proc/self/exe").arg(HOLDER).spawn()?),
    }
    let mut console = console()?;
    let mut longest_gap = Duration::ZERO;
    for beat in 0_u64.. {
        let since = Instant::now();
        // The kernel's counts of its complaints.
        let complaints = match &watchdogs {
            Some(_) => format!(
                " longest_gap_ms={} soft={} rcu={}",
                longest_gap.as_millis(),
                number("/sys/kernel/softlockup_count")?,
                number("/sys/kernel/rcu_stall_count")?
            ),
            None => String::new(),
        };
        say(&mut console, &format!("beat={beat}{complaints}"))?;
        thread::sleep(BEAT);
        longest_gap = longest_gap.max(since.elapsed());
    }
    unreachable!("a u64 does not run out")
}

/// Sets the seconds after which the kernel complains of lockups and stalls. Not earlier: while it
/// boots an emulated machine has some of its own.
fn set_watchdogs(seconds: &str) -> std::io::Result<()> {
    const SOFT_WATCHDOG: &str = "/proc/sys/kernel/soft_watchdog";
    let (lockup, stall) = seconds.split_once(',').unwrap_or((seconds, seconds));
    // The kernel sees a lockup after twice the threshold.
    let lockup: u32 = lockup.parse().map_err(std::io::Error::other)?;
    fs::write("/proc/sys/kernel/watchdog_thresh", (lockup / 2).to_string())?;
    fs::write(
        "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout",
        stall,
    )?;
    if number(SOFT_WATCHDOG)? != 1 {
        return Err(std::io::Error::other(format!("{SOFT_WATCHDOG} is not 1")));
    }
    // With the priority of a stall's message: where this is seen, that is, too.
    fs::write("/dev/kmsg", format!("<3>demo guest: {LOG_MARK}\n"))
}

fn number(path: &str) -> std::io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(std::io::Error::other)
}

/// Starts the work on each CPU, and prints that when all have begun.
fn begin(work: Work) -> std::io::Result<()> {
    let cpus = thread::available_parallelism()?.get();
    let (begun, all_begun) = mpsc::channel();
    for cpu in 0..cpus {
        if work != Work::Halt {
            let begun = begun.clone();
            thread::spawn(move || {
                let Err(error) = do_all_the_time(work, cpu, begun);
                eprintln!("demo guest: {work} on CPU {cpu}: {error}");
                // If the first process ends so does the guest.
                std::process::exit(1);
            });
        }
    }
    drop(begun);
    all_begun.iter().for_each(drop);
    say(&mut console()?, &format!("ready cpus={cpus} work={work}"))
}

/// Does the work on a CPU. Drops `begun` when it has begun.
fn do_all_the_time(work: Work, cpu: usize, begun: Sender<()>) -> std::io::Result<Never> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus)?;
    let port = OpenOptions::new().write(true).open("/dev/port")?;
    let file = format!("/work.{cpu}");
    let mut count = 0_u64;
    let mut begun = Some(begun);
    loop {
        match work {
            Work::Spin => count = std::hint::black_box(count.wrapping_add(1)),
            Work::Io => port.write_all_at(&[0], NOBODYS_PORT)?,
            Work::Files => {
                fs::write(&file, [])?;
                fs::remove_file(&file)?;
            }
            Work::Halt => thread::sleep(Duration::MAX),
        }
        drop(begun.take());
    }
}

/// Makes a secret and holds it.
fn hold_secret() -> std::io::Result<Never> {
    let filled = fill()?;
    let mut secret = Box::new([0_u8; 32]);
    File::open("/dev/urandom")?.read_exact(secret.as_mut_slice())?;
    let cpus = thread::available_parallelism()?;
    let digits = kvm_inspect_tool::hex::digits(secret.as_slice());
    let ready = format!("ready cpus={cpus} secret={digits}");
    // For who reads the kernel's log from outside.
    fs::write(
        "/dev/kmsg",
        format!("<6>demo guest: {KEEPS} {:.8}\n", digits),
    )?;
    say(&mut console()?, &ready)?;
    loop {
        // This keeps it in memory, whatever the optimizer does.
        std::hint::black_box((&secret, &filled));
        thread::sleep(Duration::from_secs(1));
    }
}

/// Fills as much memory as a kernel parameter names, each page with content of its own.
fn fill() -> std::io::Result<Vec<u64>> {
    let mib: usize = match parameter(FILL) {
        Some(mib) => mib.parse().map_err(std::io::Error::other)?,
        None => 0,
    };
    let mut last = 1_u64;
    let words = (0..mib << 17).map(|_| {
        // A generator of Lehmer's kind: fast, and nothing that compresses.
        last = last.wrapping_mul(0xda94_2042_e4dd_58b5);
        last
    });
    Ok(words.collect())
}

/// Writes a line in one piece: other processes may write at the same time.
fn say(console: &mut File, line: &str) -> std::io::Result<()> {
    console.write_all(format!("{line}\n").as_bytes())
}

fn console() -> std::io::Result<File> {
    OpenOptions::new().write(true).open("/dev/console")
}

fn mount(kind: &str, at: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(at)?;
    let flags = rustix::mount::MountFlags::empty();
    Ok(rustix::mount::mount(kind, at, kind, flags, None)?)
}
