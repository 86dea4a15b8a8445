// SPDX-License-Identifier: GPL-2.0

//! The guest of the demo: PID 1 of a small Linux.
//!
//! A process of its own makes a secret of 32 bytes and keeps it. On the console the secret goes as
//! hex digits, so that the bytes themselves are nowhere but in that process. With a work to do
//! (a kernel parameter names it) the first process does that instead, on each CPU.

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
use demo::work::{Work, LOG_MARK, NOBODYS_PORT, WATCHDOGS, WORK};
use rustix::thread::{sched_setaffinity, CpuSet};

const HOLDER: &str = "holder";

/// How often the guest shows that it goes on.
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

/// What does not return has no value.
enum Never {}

/// PID 1: starts what is to be done, and shows that the guest goes on.
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
        // How often the kernel has complained, in other words than its own.
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

/// Has the kernel complain of lockups and stalls after so many seconds; not earlier than now, because
/// the boot of an emulated machine has some of its own.
fn set_watchdogs(seconds: &str) -> std::io::Result<()> {
    const SOFT_WATCHDOG: &str = "/proc/sys/kernel/soft_watchdog";
    let (lockup, stall) = seconds.split_once(',').unwrap_or((seconds, seconds));
    // A CPU is locked up after twice the threshold.
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

/// Starts the work, on each CPU, and says so when it is being done.
fn begin(work: Work) -> std::io::Result<()> {
    let cpus = thread::available_parallelism()?.get();
    let (begun, all_begun) = mpsc::channel();
    for cpu in 0..cpus {
        if work != Work::Halt {
            let begun = begun.clone();
            thread::spawn(move || {
                let Err(error) = do_all_the_time(work, cpu, begun);
                eprintln!("demo guest: {work} on CPU {cpu}: {error}");
                // The end of the first process is that of the guest.
                std::process::exit(1);
            });
        }
    }
    drop(begun);
    all_begun.iter().for_each(drop);
    say(&mut console()?, &format!("ready cpus={cpus} work={work}"))
}

/// Does the work on a CPU. Once it has begun there is no `begun` any more.
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

/// The process that holds the secret.
fn hold_secret() -> std::io::Result<Never> {
    let mut secret = Box::new([0_u8; 32]);
    File::open("/dev/urandom")?.read_exact(secret.as_mut_slice())?;
    let cpus = thread::available_parallelism()?;
    let digits = kvm_inspect_tool::hex::digits(secret.as_slice());
    let ready = format!("ready cpus={cpus} secret={digits}");
    say(&mut console()?, &ready)?;
    loop {
        // Keeps it in memory, whatever the optimizer thinks.
        std::hint::black_box(&secret);
        thread::sleep(Duration::from_secs(1));
    }
}

/// Says a line at once: another process may say one at the same time.
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
