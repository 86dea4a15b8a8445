// SPDX-License-Identifier: GPL-2.0

//! Compares the pauses of inspections of registers and memslots alone with those of QEMU's `stop`
//! and `cont`: the same guest, in turns.

use std::{fs, io, thread, time::Duration};

use cases::command_line::parameter;
use demo::{
    console::Console,
    host::{fail, less_on_the_console, module, say},
    pauses::{Comparison, PauseTimes, COUNT, VCPUS},
    qemu::Qemu,
    values,
    work::{Work, NOBODYS_PORT, WORK},
};
use kvm_inspect_tool::{
    report::{Conclusion, Output, State},
    Inspection,
};

/// How many turns there are.
const TURNS: usize = 10;

/// How often QEMU stops the guest in each turn.
const STOPS: usize = 5;

/// The time between two stops of QEMU, in which the guest runs.
const INTERVAL: Duration = Duration::from_millis(20);

/// How long to watch the guest's port I/O at a time, and how often to do that until there is some.
const WATCHED: Duration = Duration::from_millis(500);
const WATCHES: u32 = 100;

/// Runs it. Returns the results.
pub(crate) fn run() -> io::Result<String> {
    let work: Work = parameter(WORK).unwrap_or_default().parse()?;
    let cpus = number(VCPUS)?;
    let count = usize::try_from(number(COUNT)?).map_err(io::Error::other)?;
    less_on_the_console()?;

    let (mut qemu, console) = Qemu::start(cpus, &format!("{WORK}{work}"))?;
    let mut console = Console::follow(console);
    let ready = console.wait_for("ready ")?;
    if values::number(&ready, "cpus") != Some(u64::from(cpus)) {
        return fail(format!("the guest runs on fewer than {cpus} CPUs"));
    }
    check_work(work)?;

    let inspection = Inspection::of(qemu.pid())
        .set("interval_ms", 1)
        .set("max_pause_ms", 0);
    let mut inspections = Inspections::default();
    let mut stops = Vec::new();
    for turn in 1..=TURNS {
        let mut loaded = inspection.load(&module()?)?;
        while inspections.pauses.len() < (count * turn).div_ceil(TURNS) {
            inspections.take(&loaded.output()?)?;
            thread::sleep(INTERVAL);
        }
        let lines = loaded.unload()?;
        inspections.take(&Output::parse(&lines).map_err(io::Error::other)?)?;
        for _ in 0..STOPS {
            thread::sleep(INTERVAL);
            let pause = qemu.stop_and_resume()?;
            stops.push((micros(pause.freeze)?, micros(pause.stopped)?));
        }
        // The guest goes on.
        console.skip();
        console.wait_for("beat=")?;
    }
    say(&format!(
        "{} vCPUs were outside of KVM_RUN.",
        inspections.outside
    ))?;
    let comparison = || {
        Some(Comparison {
            inspections: u64::try_from(inspections.pauses.len()).ok()?,
            stops: u64::try_from(stops.len()).ok()?,
            module: PauseTimes::of(&inspections.pauses)?,
            qemu: PauseTimes::of(&stops)?,
        })
    };
    comparison().map_or_else(
        || fail("nothing was measured"),
        |comparison| Ok(comparison.to_string()),
    )
}

/// What the module's reports say.
#[derive(Default)]
struct Inspections {
    /// The freezes, and the times from then until the vCPUs went on, in microseconds.
    pauses: Vec<(u64, u64)>,
    outside: usize,
}

impl Inspections {
    fn take(&mut self, output: &Output) -> io::Result<()> {
        if let Some(line) = output.others.first() {
            return fail(line.as_str());
        }
        for report in &output.reports {
            let done = &report.done;
            if done.result != Conclusion::NoPattern {
                return fail(format!("an inspection went wrong: {done:?}"));
            }
            let outside = report.states().into_iter();
            self.outside += outside.filter(|state| *state == State::Outside).count();
            let stopped = done.pause_us.saturating_sub(done.freeze_us);
            self.pauses.push((done.freeze_us, stopped));
        }
        Ok(())
    }
}

fn micros(time: Duration) -> io::Result<u64> {
    u64::try_from(time.as_micros()).map_err(io::Error::other)
}

fn number(name: &str) -> io::Result<u32> {
    let value = parameter(name).and_then(|value| value.parse().ok());
    value.map_or_else(|| fail(format!("the host needs {name}")), Ok)
}

/// Checks that the guest exits to QEMU for its port I/O if that is its work, and only then.
fn check_work(work: Work) -> io::Result<()> {
    const TRACING: &str = "/sys/kernel/tracing";
    let switch = |value| {
        ["kvm_pio", "kvm_userspace_exit"]
            .iter()
            .try_for_each(|event| fs::write(format!("{TRACING}/events/kvm/{event}/enable"), value))
    };
    let (mut watched, mut written, mut exits) = (0, 0, 0);
    while watched == 0 || (work == Work::Io && written == 0 && watched < WATCHES) {
        watched += 1;
        switch("1")?;
        thread::sleep(WATCHED);
        switch("0")?;
        let trace = fs::read_to_string(format!("{TRACING}/trace"))?;
        let count = |words: &str| trace.lines().filter(|line| line.contains(words)).count();
        written = count(&format!("pio_write at {NOBODYS_PORT:#x} "));
        exits = count("KVM_EXIT_IO");
    }
    say(&format!(
        "In {:?} the guest wrote {written} times to port {NOBODYS_PORT:#x} and left {exits} \
         times to QEMU for port I/O.",
        WATCHED * watched
    ))?;
    if (work == Work::Io) != (written > 0) || exits < written {
        return fail("the guest does not do what it is to do");
    }
    Ok(())
}
