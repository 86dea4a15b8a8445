// SPDX-License-Identifier: GPL-2.0

//! A pause longer than the guest's watchdogs allow. The guest must not complain of it.
//!
//! A second pause as long, which the guest is not told of, shows that its watchdogs work: it must
//! complain then.

use std::{io, thread, time::Duration};

use cases::protocol::GUEST_LOST_ALONE;
use demo::{
    console::Console,
    host::{fail, inspect, say},
    qemu::{Qemu, MIB},
    values::number,
    work::{Work, LOG_MARK, WATCHDOGS, WORK},
};
use kvm_inspect_tool::Inspection;

const CPUS: u32 = 2;

/// The seconds after which the guest's watchdogs complain: of a lockup, of a stall.
const LOCKUP: u64 = 4;
const STALL: u64 = 5;

/// The length of each pause. It is well above both: a CPU of the guest may have been late before.
const PAUSE: Duration = Duration::from_secs(8);

/// How many beats to wait for complaints. Those of a stall come some ticks later.
const BEATS: u32 = 15;

/// How often to hold the guest without telling it, until it has complained of a lockup and of a
/// stall. The report of the one restarts the other.
const CONTROLS: u32 = 10;

/// How many patterns are searched for at first, and at most.
const PATTERNS: usize = 32;
const MOST_PATTERNS: usize = 256;

/// What the guest's kernel logs when it thinks that it hangs, in lower case.
const COMPLAINTS: &[&str] = &[
    "lockup",
    "stall",
    "hung",
    "blocked for more than",
    "starved",
    "call trace",
];

/// Runs it. Returns the results.
pub(crate) fn run() -> io::Result<String> {
    // Warnings go to the console, too.
    let parameters = format!(
        "loglevel=5 {WORK}{} {WATCHDOGS}{LOCKUP},{STALL}",
        Work::Files
    );
    let (qemu, console) = Qemu::start(CPUS, &parameters)?;
    let mut console = Console::follow(console);
    let ready = console.wait_for("ready ")?;
    if number(&ready, "cpus") != Some(u64::from(CPUS)) {
        return fail(format!("the guest runs on fewer than {CPUS} CPUs"));
    }
    let before = Beat::some_later(&mut console)?;
    if !console.seen().iter().any(|line| line.contains(LOG_MARK)) {
        console.seen().iter().try_for_each(|line| say(line))?;
        return fail("the guest's kernel log does not come to its console");
    }
    let said_before = console.seen().len();

    // How long a search takes is not known beforehand. So search more memory, and then for more
    // patterns, until it takes long enough. vCPUs may be late on a busy machine.
    let (mut mib, mut count) = (1, PATTERNS);
    let paused_us = loop {
        let inspection = Inspection::of(qemu.pid())
            .patterns(&vec!["hex:00"; count])
            .ranges(&[format!("0+{mib}M")])
            .set("max_hits", 1)
            .set("max_pause_ms", 0)
            .set("threads", 1)
            .set("engine", "portable")
            .set("freeze_timeout_ms", 60_000);
        let paused_us = inspect(&inspection)?.done.pause_us;
        if u128::from(paused_us) >= PAUSE.as_micros() {
            break paused_us;
        }
        if mib < MIB {
            mib *= 2;
        } else if count < MOST_PATTERNS {
            count *= 2;
        } else {
            return fail(format!("no pause was long enough: {paused_us} us"));
        }
    };
    say(&format!(
        "The guest was paused for {paused_us} us. Its watchdogs complain after {LOCKUP} and \
         {STALL} s."
    ))?;

    let after = Beat::some_later(&mut console)?;
    let complaints = show_complaints(&console.seen()[said_before..])?;
    say(&format!("Before it: {before:?}; after it: {after:?}."))?;
    if complaints != 0 || after.lockups != before.lockups || after.stalls != before.stalls {
        return fail("the guest complains of a pause that it was to be told of");
    }
    if u128::from(after.longest_gap_ms) < PAUSE.as_millis() {
        return fail("by its own clock the guest was not paused so long");
    }

    for _ in 0..CONTROLS {
        say(&format!(
            "Without the module: now a pause that nobody tells it of, of {PAUSE:?}:"
        ))?;
        let said_before = console.seen().len();
        qemu.hold()?;
        thread::sleep(PAUSE);
        qemu.let_go()?;
        let control = Beat::some_later(&mut console).or_else(|error| {
            // The module is gone, and has left nothing.
            let said = console.seen().get(said_before..).unwrap_or_default();
            said.iter().try_for_each(|line| say(&format!("  {line}")))?;
            fail(format!("{GUEST_LOST_ALONE}: {error}"))
        })?;
        show_complaints(&console.seen()[said_before..])?;
        say(&format!("After it: {control:?}."))?;
        if control.lockups > after.lockups && control.stalls > after.stalls {
            return Ok(format!(
                "pause_us={paused_us} complaints=0 untold_lockups={} untold_stalls={}",
                control.lockups - after.lockups,
                control.stalls - after.stalls
            ));
        }
    }
    fail("the guest's watchdogs are not awake: it does not complain of both even then")
}

/// Shows and counts the complaints of the guest's kernel.
fn show_complaints(lines: &[String]) -> io::Result<usize> {
    let is_complaint = |line: &&String| {
        let line = line.to_lowercase();
        COMPLAINTS.iter().any(|words| line.contains(words))
    };
    let complaints: Vec<&String> = lines.iter().filter(is_complaint).collect();
    for line in &complaints {
        say(&format!("  {line}"))?;
    }
    Ok(complaints.len())
}

/// A sign of life from the guest.
#[derive(Debug)]
struct Beat {
    /// The longest time between two of them, by the guest's clock.
    longest_gap_ms: u64,
    /// How many lockups and stalls its kernel has counted.
    lockups: u64,
    stalls: u64,
}

impl Beat {
    /// Waits for the next one. The kernel's messages may tear one apart.
    fn next(console: &mut Console) -> io::Result<Self> {
        loop {
            let line = console.wait_for("beat=")?;
            let numbers = ["longest_gap_ms", "soft", "rcu"].map(|key| number(&line, key));
            if let [Some(longest_gap_ms), Some(lockups), Some(stalls)] = numbers {
                return Ok(Self {
                    longest_gap_ms,
                    lockups,
                    stalls,
                });
            }
        }
    }

    /// Waits for one after the time for complaints.
    fn some_later(console: &mut Console) -> io::Result<Self> {
        console.skip();
        for _ in 1..BEATS {
            Self::next(console)?;
        }
        Self::next(console)
    }
}
