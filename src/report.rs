// SPDX-License-Identifier: GPL-2.0

//! The report, in the kernel log: one fact a line, `key=value` (`docs/report.md`).
//!
//! It is printed when the guest runs again: a slow console must not prolong a pause.

mod vcpu;

use kernel::{
    fmt,
    page::PAGE_SHIFT,
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    bindings,
    kvm::{
        Memslot,
        FLAG_NAMES, //
    },
    linux::task,
    memory::PageCounts,
    outcome::Outcome,
    request::Query,
    search::Hit, //
};

/// The most lines about memory that is not covered in one instant.
const MAX_UNCOVERED_LINES: u32 = 64;

/// The most lines about memslots that have changed.
const MAX_LOST_LINES: usize = 64;

/// Prints one line of a report: its keyword, its number, and the rest.
macro_rules! line {
    ($lines:expr, $keyword:literal, $($text:tt)*) => {
        $lines.line($keyword, ::kernel::prelude::fmt!($($text)*))
    };
}
use line;

/// The size of the kernel log, if `log_buf_len=` does not make it larger. How large it is nobody
/// tells a module.
const LOG_BYTES: usize = bindings::KVM_INSPECT_LOG_BYTES as usize;

/// What a record takes in the kernel log beside its text, at most: the number of its descriptor and
/// what aligns it (`struct prb_data_block` in `kernel/printk/printk_ringbuffer.c`), and the prefix.
const RECORD_BYTES: usize = 15 + "kvm_inspect: ".len();

/// How much of a report is printed at once.
const AT_ONCE: usize = LOG_BYTES / 8;

/// How long readers of the log get then.
const BREAK: Delta = Delta::from_millis(20);

/// Numbers the lines of one report from 1, so that a reader sees whether one was lost.
struct Lines {
    /// How many there were.
    count: u64,
    /// How much of the kernel log they take.
    bytes: usize,
    /// What becomes of them.
    way: Way,
}

/// What becomes of the lines of a report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// They are counted.
    Count,
    /// They are printed, with breaks in which those who read the log can keep up.
    Print,
}

impl Lines {
    fn new(way: Way) -> Self {
        Self {
            count: 0,
            bytes: 0,
            way,
        }
    }

    fn line(&mut self, keyword: &str, rest: fmt::Arguments<'_>) {
        self.count = self.count.saturating_add(1);
        let number = self.count;
        let before = self.bytes / AT_ONCE;
        self.bytes = self.bytes.saturating_add(RECORD_BYTES);
        // Counting does not fail.
        let _ = fmt::Write::write_fmt(self, fmt!("{keyword} n={number} {rest}"));
        if self.way == Way::Print {
            if self.bytes / AT_ONCE > before {
                fsleep(BREAK);
            }
            pr_info!("{keyword} n={number} {rest}\n");
        }
    }
}

impl fmt::Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes = self.bytes.saturating_add(text.len());
        Ok(())
    }
}

/// Prints `outcome`; ends early, without the last line, if `stop` says so.
pub(crate) fn print(outcome: &Outcome, stop: impl Fn() -> bool) {
    let stop = || {
        // There may be very many lines, and consoles are slow.
        task::cond_resched();
        stop()
    };
    let mut lines = Lines::new(Way::Count);
    if !print_lines(outcome, &mut lines, stop) {
        return;
    }
    // Others log, too.
    if lines.bytes > LOG_BYTES / 4 * 3 {
        pr_warn!(
            "warning: the next report takes {} KiB, and the kernel log may have {} KiB only; read \
             it meanwhile (dmesg --follow), make it larger (log_buf_len=), or ask for less \
             (max_hits=, context=, max_slots=, max_vcpus=)\n",
            lines.bytes.div_ceil(1024),
            LOG_BYTES / 1024
        );
    }
    print_lines(outcome, &mut Lines::new(Way::Print), stop);
}

/// Returns whether all was printed.
fn print_lines(outcome: &Outcome, lines: &mut Lines, stop: impl Fn() -> bool + Copy) -> bool {
    line!(
        lines,
        "vm",
        "pid={} fd={} vcpus={} slots={}",
        outcome.pid,
        OrNone(outcome.vm_fd),
        outcome.vcpus.len(),
        outcome.map.slots().len()
    );
    print_query(&outcome.query, lines);
    if !print_vcpus(outcome, lines, stop)
        || !print_slots(outcome, lines, stop)
        || !print_hits(outcome, lines, stop)
    {
        return false;
    }
    print_stopped_at(outcome, lines);
    print_lost(outcome, lines);
    let uncovered = print_uncovered(outcome, lines);
    print_done(outcome, lines, uncovered);
    true
}

/// Prints what was asked for, as the module has understood it.
fn print_query(query: &Query, lines: &mut Lines) {
    for (number, (pattern, asked)) in query.patterns.iter().zip(&query.asked).enumerate() {
        line!(
            lines,
            "pattern",
            "number={number} kind={} length={} bits={} digest={:016x}",
            asked.kind,
            pattern.len(),
            pattern.bits(),
            asked.digest
        );
    }
    for range in query.searched_ranges() {
        line!(lines, "range", "gpa={:#x}-{:#x}", range.first, range.last);
    }
    let limits = query.limits;
    line!(
        lines,
        "limits",
        "max_hits={} context={} max_pause_ms={} freeze_timeout_ms={} interval_ms={} threads={} \
         max_slots={} max_vcpus={} parameters={} bring_in={} late={}",
        query.max_hits,
        query.context,
        limits.max_pause_ms,
        limits.freeze_timeout_ms,
        limits.interval_ms,
        limits.threads,
        limits.max_slots,
        limits.max_vcpus,
        if limits.are_checked {
            "checked"
        } else {
            "unchecked"
        },
        u8::from(limits.bring_in),
        limits.late.name()
    );
}

/// Returns whether all was printed.
fn print_vcpus(outcome: &Outcome, lines: &mut Lines, stop: impl Fn() -> bool) -> bool {
    let most = outcome.query.limits.max_vcpus;
    for vcpu in outcome.vcpus.iter().take(most) {
        if stop() {
            return false;
        }
        vcpu::print(vcpu, lines);
    }
    print_omitted("vcpus", outcome.vcpus.len().saturating_sub(most), lines);
    true
}

fn print_omitted(what: &str, count: usize, lines: &mut Lines) {
    if count > 0 {
        line!(lines, "omitted", "what={what} count={count}");
    }
}

/// Returns whether all was printed.
fn print_slots(outcome: &Outcome, lines: &mut Lines, stop: impl Fn() -> bool) -> bool {
    let (slots, most) = (outcome.map.slots(), outcome.query.limits.max_slots);
    for (slot, pages) in slots.iter().zip(&outcome.findings.pages).take(most) {
        if stop() {
            return false;
        }
        line!(
            lines,
            "slot",
            "as={} id={} gpa={:#x}-{:#x} hva={:#x}-{:#x} flags={} pages={}{}",
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
    print_omitted("slots", slots.len().saturating_sub(most), lines);
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

/// Prints the slots that have changed meanwhile.
fn print_lost(outcome: &Outcome, lines: &mut Lines) {
    let slots = outcome.map.slots().iter().zip(&outcome.findings.lost);
    let lost = slots.filter(|(_, lost)| **lost).take(MAX_LOST_LINES);
    for (slot, _) in lost {
        line!(
            lines,
            "lost",
            "as={} slot={} gpa={:#x}-{:#x}",
            slot.address_space,
            slot.id,
            slot.gpa,
            slot.last_gpa()
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
    let pauses = outcome.pauses;
    let pages = findings.all_pages();
    line!(lines, "memory", "pages={}{}", pages.all(), Kinds(&pages));
    let count = lines.count.saturating_add(1);
    line!(
        lines,
        "done",
        "result={} vcpus={} slots={} hits={} printed={} scanned_bytes={} absent_pages={} \
         freeze_us={} pause_us={} private_pages={} scan_us={} threads={} engine={} access={} \
         pauses={} paused_us={} rescanned_bytes={} uncovered_bytes={} missing_pages={} \
         chunk_bytes={} late_threads={} lines={}",
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
        findings.stats.late,
        count
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
