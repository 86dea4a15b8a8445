// SPDX-License-Identifier: GPL-2.0

//! Compares ways to search a guest's memory, by the module and without it: the pauses, and the
//! whole time. The guest and the patterns are the same. They take turns.

use std::{
    fs,
    io::{self, IoSliceMut},
    ops::Range,
    process::Command,
    time::{Duration, Instant},
};

use demo::{
    console::Console,
    host::{fail, inspect, less_on_the_console, median, mount_tmp, ratio, say},
    qemu::Qemu,
    values,
};
use kvm_inspect_tool::{
    hex,
    report::{Conclusion, Done},
    Inspection,
};
use memchr::memmem::Finder;
use nix::{
    sys::uio::{process_vm_readv, RemoteIoVec},
    unistd::Pid,
};

/// The guest's memory in MiB. It does not touch all of it, as most guests.
const MIB: u32 = 1024;

/// How many turns there are.
const TURNS: usize = 3;

/// Patterns besides the guest's secret, which are nowhere.
const ABSENT: [&str; 7] = [
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "AKIA0123456789ABCDEF",
    "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
    "xoxb-0123456789-abcdefghijkl",
    "mongodb+srv://root:",
    "Authorization: Bearer eyJ",
    "password=correct-horse",
];

/// The file with the guest's memory, on a tmpfs.
const FILE: &str = "/tmp/memory";

const RIPGREP: &str = "/usr/bin/rg";

/// How much of the VMM's memory is read at once.
const PART: usize = 4 << 20;

/// How long it took to search the guest once.
#[derive(Clone, Copy)]
struct Times {
    /// The longest pause.
    longest: Duration,
    /// All pauses.
    paused: Duration,
    /// The whole time until the result is known.
    whole: Duration,
}

/// A way to search the guest.
type Way = (&'static str, fn(&mut Job) -> io::Result<Times>);

/// The module in one pause, which all others are compared with; the ways in which QEMU stops the
/// guest; the rest.
const WAYS: [Way; 5] = [
    ("the module", |job| job.module(0)),
    ("stop, dump-guest-memory, cont, rg", |job| {
        job.dump("dump-guest-memory")
    }),
    ("stop, pmemsave, cont, rg", |job| job.dump("pmemsave")),
    ("process_vm_readv, memmem", Job::read),
    ("the module, max_pause_ms=20", |job| job.module(20)),
];

/// The indices in [`WAYS`] of those that stop the guest, and of all that the module is compared
/// with.
const STOPPING: Range<usize> = 1..3;
const PEERS: Range<usize> = 1..4;

/// Runs it. Returns the results.
pub(crate) fn run() -> io::Result<String> {
    mount_tmp()?;
    // The module's reports must not wait for the console.
    less_on_the_console()?;
    let (qemu, console) = Qemu::start_with_memory(MIB, 1, "")?;
    let mut console = Console::follow(console);
    let ready = console.wait_for("ready ")?;
    let Some(secret) = values::text(&ready, "secret").and_then(hex::bytes) else {
        return fail(format!("not underpaused: {ready}"));
    };
    let mut patterns: Vec<Vec<u8>> = ABSENT.iter().map(|text| text.as_bytes().to_vec()).collect();
    patterns.push(secret);
    let mut job = Job {
        qemu,
        patterns,
        searched: 0,
        uncovered: 0,
    };

    let mut times = WAYS.map(|_| Vec::new());
    for turn in 1..=TURNS {
        for ((_, way), times) in WAYS.iter().zip(&mut times) {
            console.goes_on()?;
            times.push(way(&mut job)?);
        }
        say(&format!("Turn {turn} of {TURNS} is over."))?;
    }
    console.goes_on()?;

    let medians = times.map(|times| Times {
        longest: median(times.iter().map(|times| times.longest)),
        paused: median(times.iter().map(|times| times.paused)),
        whole: median(times.iter().map(|times| times.whole)),
    });
    show(&job, &medians)?;

    // Compare with the best of the others.
    let module = medians[0];
    let least = |peers: Range<usize>, of: fn(&Times) -> Duration| {
        let times = medians[peers].iter().map(of).min().unwrap_or_default();
        ratio(times, of(&module))
    };
    Ok(format!(
        "ratios shorter={:.2} faster={:.2}",
        least(STOPPING, |times| times.paused),
        least(PEERS, |times| times.whole)
    ))
}

/// Prints the times of each way.
fn show(job: &Job, medians: &[Times]) -> io::Result<()> {
    say(&format!(
        "A Linux guest with {MIB} MiB has touched {} MiB (the module searches these, the others \
         all). There are {} patterns. The median of {TURNS} turns, as multiples of the module's:",
        job.searched >> 20,
        job.patterns.len()
    ))?;
    say("  longest pause  all pauses  whole job")?;
    let unit = medians[0];
    for ((name, _), times) in WAYS.iter().zip(medians) {
        let Times {
            longest,
            paused,
            whole,
        } = *times;
        say(&format!(
            "  {:>13.3}  {:>10.3}  {:>9.3}  {name}  [{}, {}, {} ms]",
            ratio(longest, unit.longest),
            ratio(paused, unit.paused),
            ratio(whole, unit.whole),
            longest.as_millis(),
            paused.as_millis(),
            whole.as_millis()
        ))?;
    }
    say(&format!(
        "The last row is not judged. Of the memory it searches up to {} KiB were uncovered.",
        job.uncovered >> 10
    ))
}

/// A search, which is done in each way.
struct Job {
    qemu: Qemu,
    patterns: Vec<Vec<u8>>,
    /// How many bytes the module searches, at most.
    searched: u64,
    /// How many of them were uncovered, at most.
    uncovered: u64,
}

impl Job {
    /// Searches with the module, which is loaded for this and unloaded again.
    fn module(&mut self, max_pause_ms: u64) -> io::Result<Times> {
        let patterns: Vec<String> = self
            .patterns
            .iter()
            .map(|bytes| hex::pattern(bytes))
            .collect();
        let inspection = Inspection::of(self.qemu.pid())
            .patterns(&patterns)
            .set("max_pause_ms", max_pause_ms);
        let begin = Instant::now();
        let Done {
            result,
            hits,
            pause_us,
            paused_us,
            scanned_bytes,
            uncovered_bytes,
            ..
        } = inspect(&inspection)?.done;
        let whole = begin.elapsed();
        // Only a guest that runs in between may change.
        if result != Conclusion::Ok && (result != Conclusion::Changed || max_pause_ms == 0) {
            return fail(format!("an inspection went wrong: {result:?}"));
        }
        found(Some(hits), &format!("the module: {hits}"))?;
        self.searched = self.searched.max(scanned_bytes);
        self.uncovered = self.uncovered.max(uncovered_bytes);
        Ok(Times {
            longest: Duration::from_micros(pause_us),
            paused: Duration::from_micros(paused_us),
            whole,
        })
    }

    /// Searches, with ripgrep, a file that QEMU writes while the guest is stopped.
    fn dump(&mut self, command: &str) -> io::Result<Times> {
        let begin = Instant::now();
        self.qemu.ask_to_stop()?;
        self.qemu.wait_until_stopped()?;
        self.qemu.save_memory(command, FILE)?;
        self.qemu.resume()?;
        let paused = begin.elapsed();
        let mut search = Command::new(RIPGREP);
        // Everything as bytes, also where a pattern has an end of line.
        search.args(["--text", "--multiline", "--no-config"]);
        search.args(["--count-matches", "--no-filename"]);
        for pattern in &self.patterns {
            let bytes = pattern.iter().map(|byte| format!(r"\x{byte:02x}"));
            let bytes: String = bytes.collect();
            search.args(["-e", &format!("(?-u){bytes}")]);
        }
        let output = search.arg(FILE).output()?;
        let whole = begin.elapsed();
        fs::remove_file(FILE)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        found(said.trim().parse().ok(), &format!("{said}{errors}"))?;
        Ok(Times {
            longest: paused,
            paused,
            whole,
        })
    }

    /// Searches the VMM's memory from outside, while the guest runs.
    fn read(&mut self) -> io::Result<Times> {
        let begin = Instant::now();
        let (first, len) = self.largest_mapping()?;
        let longest = self.patterns.iter().map(Vec::len).max().unwrap_or(1);
        let pid = i32::try_from(self.qemu.pid()).map_err(io::Error::other)?;
        let finders: Vec<Finder<'_>> = self.patterns.iter().map(Finder::new).collect();
        let mut count = 0;
        // The end of each part is kept, for matches across its border.
        let mut part = vec![0; PART + longest - 1];
        let mut kept = 0;
        for base in (first..first + len).step_by(PART) {
            let len = PART.min(first + len - base);
            let remote = [RemoteIoVec { base, len }];
            let mut local = [IoSliceMut::new(&mut part[kept..kept + len])];
            let got = process_vm_readv(Pid::from_raw(pid), &mut local, &remote)?;
            if got != len {
                return fail(format!("{got} bytes of {len} can be read at {base:#x}"));
            }
            let end = kept + len;
            for (finder, pattern) in finders.iter().zip(&self.patterns) {
                // Not twice: a match must end after what was kept.
                let from = kept.saturating_sub(pattern.len() - 1);
                count += finder.find_iter(&part[from..end]).count();
            }
            kept = end.min(longest - 1);
            part.copy_within(end - kept..end, 0);
        }
        let whole = begin.elapsed();
        found(u64::try_from(count).ok(), &format!("memmem: {count}"))?;
        Ok(Times {
            longest: Duration::ZERO,
            paused: Duration::ZERO,
            whole,
        })
    }

    /// Returns the address and the size of the VMM's largest mapping, which is the guest's memory.
    fn largest_mapping(&self) -> io::Result<(usize, usize)> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.qemu.pid()))?;
        let mapping = |line: &str| {
            let (range, rest) = line.split_once(' ')?;
            let (first, end) = range.split_once('-')?;
            let first = usize::from_str_radix(first, 16).ok()?;
            let end = usize::from_str_radix(end, 16).ok()?;
            rest.starts_with("rw").then_some((first, end - first))
        };
        let largest = maps.lines().filter_map(mapping).max_by_key(|(_, len)| *len);
        match largest {
            Some((first, len)) if len >= (MIB as usize) << 20 => Ok((first, len)),
            _ => fail("the VMM's memory is not found"),
        }
    }
}

/// Checks that the secret was found once, and nothing else.
fn found(count: Option<u64>, said: &str) -> io::Result<()> {
    if count == Some(1) {
        Ok(())
    } else {
        fail(format!("the secret is there once, but: {said}"))
    }
}
