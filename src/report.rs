// SPDX-License-Identifier: GPL-2.0

//! The report, in the kernel log: one fact a line, `key=value` (`docs/report.md`).
//!
//! It is printed when the guest runs again: a slow console must not prolong a pause.

mod vcpu;

/// Prints one line of a report: its keyword, its number, and the rest.
macro_rules! line {
    ($lines:expr, $keyword:literal, $($text:tt)*) => {
        ::kernel::prelude::pr_info!(
            "{} n={} {}\n",
            $keyword,
            $lines.next(),
            ::kernel::prelude::fmt!($($text)*)
        )
    };
}
use line;

use kernel::{
    fmt,
    page::PAGE_SHIFT,
    prelude::*, //
};

use crate::{
    kvm::{
        Memslot,
        FLAG_NAMES, //
    },
    linux::task,
    outcome::Outcome,
    search::Hit, //
};

/// The most lines about memory that is not covered in one instant.
const MAX_UNCOVERED_LINES: u32 = 64;

/// Numbers the lines of one report from 1, so that a reader sees whether one was lost.
struct Lines(u64);

impl Lines {
    /// Returns the number of the next line.
    fn next(&mut self) -> u64 {
        self.0 = self.0.saturating_add(1);
        self.0
    }
}

/// Prints `outcome`; ends early, without the last line, if `stop` says so.
pub(crate) fn print(outcome: &Outcome, stop: impl Fn() -> bool) {
    let stop = || {
        // There may be very many lines, and consoles are slow.
        task::cond_resched();
        stop()
    };
    let lines = &mut Lines(0);
    line!(
        lines,
        "vm",
        "pid={} fd={} vcpus={} slots={}",
        outcome.pid,
        OrNone(outcome.vm_fd),
        outcome.vcpus.len(),
        outcome.map.slots().len()
    );
    for vcpu in &outcome.vcpus {
        vcpu::print(vcpu, lines);
    }
    if print_slots(outcome, lines, stop) && print_hits(outcome, lines, stop) {
        print_stopped_at(outcome, lines);
        let uncovered = print_uncovered(outcome, lines);
        print_done(outcome, lines, uncovered);
    }
}

/// Returns whether all was printed.
fn print_slots(outcome: &Outcome, lines: &mut Lines, stop: impl Fn() -> bool) -> bool {
    for (slot, present) in outcome.map.slots().iter().zip(&outcome.findings.present) {
        if stop() {
            return false;
        }
        line!(
            lines,
            "slot",
            "as={} id={} gpa={:#x}-{:#x} hva={:#x}-{:#x} pages={} present={} flags={}",
            slot.address_space,
            slot.id,
            slot.gpa,
            slot.last_gpa(),
            slot.hva,
            slot.last_hva(),
            slot.pages,
            present,
            Flags(slot.flags)
        );
    }
    true
}

/// Returns whether all was printed.
fn print_hits(outcome: &Outcome, lines: &mut Lines, stop: impl Fn() -> bool) -> bool {
    for (hit, bytes) in outcome.findings.hits.iter() {
        if stop() {
            return false;
        }
        if let Some(slot) = outcome.map.slots().get(hit.slot) {
            print_hit(hit, slot, bytes, lines);
        }
    }
    true
}

fn print_hit(hit: &Hit, slot: &Memslot, bytes: &[u8], lines: &mut Lines) {
    line!(
        lines,
        "hit",
        "pattern={} as={} slot={} gpa={:#x} hva={:#x}{}",
        hit.pattern,
        slot.address_space,
        slot.id,
        hit.gpa,
        slot.hva_of(hit.gpa),
        Bytes(bytes)
    );
}

fn print_stopped_at(outcome: &Outcome, lines: &mut Lines) {
    let stopped_at = outcome.findings.stopped_at;
    let slot = stopped_at.and_then(|place| outcome.map.slots().get(place.slot));
    if let (Some(place), Some(slot)) = (stopped_at, slot) {
        line!(
            lines,
            "left",
            "as={} slot={} gpa={:#x}",
            slot.address_space,
            slot.id,
            place.gpa
        );
    }
}

/// Returns how many bytes are not covered in one instant.
fn print_uncovered(outcome: &Outcome, lines: &mut Lines) -> u64 {
    let (mut printed, mut bytes) = (0, 0_u64);
    let slots = outcome.map.slots();
    outcome.findings.for_each_uncovered(slots, |run| {
        bytes = bytes.saturating_add(run.end.saturating_sub(run.first) << PAGE_SHIFT);
        let slot = slots.get(run.slot);
        let Some(slot) = slot.filter(|_| printed < MAX_UNCOVERED_LINES) else {
            return;
        };
        printed += 1;
        line!(
            lines,
            "uncovered",
            "as={} slot={} gpa={:#x}-{:#x}",
            slot.address_space,
            slot.id,
            slot.gpa_at(run.first),
            slot.gpa_at(run.end).wrapping_sub(1)
        );
    });
    bytes
}

fn print_done(outcome: &Outcome, lines: &mut Lines, uncovered: u64) {
    let findings = &outcome.findings;
    let count = lines.0.saturating_add(1);
    let pauses = outcome.pauses;
    line!(
        lines,
        "done",
        "result={} vcpus={} slots={} hits={} printed={} scanned_bytes={} absent_pages={} \
         freeze_us={} pause_us={} private_pages={} scan_us={} threads={} engine={} access={} \
         pauses={} paused_us={} rescanned_bytes={} uncovered_bytes={} lines={}",
        outcome.conclusion.name(),
        outcome.vcpus.len(),
        outcome.map.slots().len(),
        findings.hit_count,
        findings.hits.len(),
        findings.scanned_bytes,
        findings.absent_pages,
        outcome.freeze.as_micros_ceil(),
        pauses.longest.as_micros_ceil(),
        findings.private_pages,
        findings.stats.time.as_micros_ceil(),
        findings.stats.threads,
        outcome.query.engine.kind().name(),
        outcome.query.access.name(),
        pauses.count,
        pauses.all.as_micros_ceil(),
        findings.rescanned_bytes,
        uncovered,
        count
    );
}

/// Prints the names of a slot's flags.
struct Flags(u32);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (bit, name) in FLAG_NAMES {
            if self.0 & bit != 0 {
                f.write_str(if first { "" } else { "," })?;
                f.write_str(name)?;
                first = false;
            }
        }
        if first {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// Prints ` bytes=…` in hex, or nothing.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str(" bytes=")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Prints a number, or `none`.
struct OrNone(Option<u32>);

impl fmt::Display for OrNone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}"),
            None => f.write_str("none"),
        }
    }
}
