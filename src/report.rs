// SPDX-License-Identifier: GPL-2.0

//! The report, in the kernel log: one fact a line, `key=value` (`docs/report.md`).
//!
//! It is printed when the guest runs again: a slow console must not prolong a pause.

mod vcpu;

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
    memory::PageCounts,
    outcome::Outcome,
    search::Hit, //
};

/// The most lines about memory that is not covered in one instant.
const MAX_UNCOVERED_LINES: u32 = 64;

/// The most lines about memslots that have changed.
const MAX_LOST_LINES: usize = 64;

/// Prints `outcome`; ends early, without the last line, if `stop` says so.
pub(crate) fn print(outcome: &Outcome, stop: impl Fn() -> bool) {
    let stop = || {
        // There may be very many lines, and consoles are slow.
        task::cond_resched();
        stop()
    };
    pr_info!(
        "vm pid={} fd={} vcpus={} slots={}\n",
        outcome.pid,
        OrNone(outcome.vm_fd),
        outcome.vcpus.len(),
        outcome.map.slots().len()
    );
    for vcpu in &outcome.vcpus {
        vcpu::print(vcpu);
    }
    if print_slots(outcome, stop) && print_hits(outcome, stop) {
        print_stopped_at(outcome);
        print_lost(outcome);
        let uncovered = print_uncovered(outcome);
        print_done(outcome, uncovered);
    }
}

/// Returns whether all was printed.
fn print_slots(outcome: &Outcome, stop: impl Fn() -> bool) -> bool {
    for (slot, pages) in outcome.map.slots().iter().zip(&outcome.findings.pages) {
        if stop() {
            return false;
        }
        pr_info!(
            "slot as={} id={} gpa={:#x}-{:#x} hva={:#x}-{:#x} flags={} pages={}{}\n",
            slot.address_space,
            slot.id,
            slot.gpa,
            slot.last_gpa(),
            slot.hva,
            slot.last_hva(),
            Flags(slot.flags),
            slot.pages,
            Kinds(pages)
        );
    }
    true
}

/// Returns whether all was printed.
fn print_hits(outcome: &Outcome, stop: impl Fn() -> bool) -> bool {
    for (hit, bytes) in outcome.findings.hits.iter() {
        if stop() {
            return false;
        }
        if let Some(slot) = outcome.map.slots().get(hit.slot) {
            print_hit(hit, slot, bytes);
        }
    }
    true
}

fn print_hit(hit: &Hit, slot: &Memslot, bytes: &[u8]) {
    pr_info!(
        "hit pattern={} as={} slot={} gpa={:#x} hva={:#x}{}\n",
        hit.pattern,
        slot.address_space,
        slot.id,
        hit.gpa,
        slot.hva_of(hit.gpa),
        Bytes(bytes)
    );
}

fn print_stopped_at(outcome: &Outcome) {
    let stopped_at = outcome.findings.stopped_at;
    let slot = stopped_at.and_then(|place| outcome.map.slots().get(place.slot));
    if let (Some(place), Some(slot)) = (stopped_at, slot) {
        pr_info!(
            "left as={} slot={} gpa={:#x}\n",
            slot.address_space,
            slot.id,
            place.gpa
        );
    }
}

/// Prints the slots that have changed meanwhile.
fn print_lost(outcome: &Outcome) {
    let slots = outcome.map.slots().iter().zip(&outcome.findings.lost);
    let lost = slots.filter(|(_, lost)| **lost).take(MAX_LOST_LINES);
    for (slot, _) in lost {
        pr_info!(
            "lost as={} slot={} gpa={:#x}-{:#x}\n",
            slot.address_space,
            slot.id,
            slot.gpa,
            slot.last_gpa()
        );
    }
}

/// Returns how many bytes are not covered in one instant.
fn print_uncovered(outcome: &Outcome) -> u64 {
    let (mut lines, mut bytes) = (0, 0_u64);
    let slots = outcome.map.slots();
    outcome.findings.for_each_uncovered(slots, |run| {
        bytes = bytes.saturating_add(run.end.saturating_sub(run.first) << PAGE_SHIFT);
        let slot = slots.get(run.slot);
        let Some(slot) = slot.filter(|_| lines < MAX_UNCOVERED_LINES) else {
            return;
        };
        lines += 1;
        pr_info!(
            "uncovered as={} slot={} gpa={:#x}-{:#x}\n",
            slot.address_space,
            slot.id,
            slot.gpa_at(run.first),
            slot.gpa_at(run.end).wrapping_sub(1)
        );
    });
    bytes
}

fn print_done(outcome: &Outcome, uncovered: u64) {
    let findings = &outcome.findings;
    let pauses = outcome.pauses;
    let pages = findings.all_pages();
    pr_info!("memory pages={}{}\n", pages.all(), Kinds(&pages));
    pr_info!(
        "done result={} vcpus={} slots={} hits={} printed={} scanned_bytes={} absent_pages={} \
         freeze_us={} pause_us={} private_pages={} scan_us={} threads={} engine={} access={} \
         pauses={} paused_us={} rescanned_bytes={} uncovered_bytes={} missing_pages={} \
         chunk_bytes={} late_threads={}\n",
        outcome.conclusion.name(),
        outcome.vcpus.len(),
        outcome.map.slots().len(),
        findings.hit_count,
        findings.hits.len(),
        findings.scanned_bytes,
        pages.absent(),
        outcome.freeze.as_micros_ceil(),
        pauses.longest.as_micros_ceil(),
        pages.private,
        findings.stats.time.as_micros_ceil(),
        findings.stats.threads,
        outcome.query.engine.kind().name(),
        outcome.query.access.name(),
        pauses.count,
        pauses.all.as_micros_ceil(),
        findings.rescanned_bytes,
        uncovered,
        findings.missing_pages,
        findings.chunk_bytes().unwrap_or(0),
        findings.stats.late
    );
}

/// Prints ` name=count` for each kind of pages.
struct Kinds<'a>(&'a PageCounts);

impl fmt::Display for Kinds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " present={}", self.0.present)?;
        self.0
            .kinds()
            .try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
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
