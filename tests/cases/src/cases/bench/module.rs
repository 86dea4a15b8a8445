// SPDX-License-Identifier: GPL-2.0

//! The time of a search, by the kind of memory, the way, who searches, and for what.

use std::{
    fs,
    hint::black_box,
    sync::{
        atomic::{AtomicU32, Ordering::Relaxed},
        Arc,
    },
    thread,
    time::Instant,
};

use kvm_inspect_tool::report::Report;
use pattern_sets::Kind;

use super::reach::reach;
use crate::{
    cases::{secret, times},
    inspect::{hex, Inspection},
    ksm,
    process::page_frames,
    vmm::{Backing, Mapping, Mode, Vm, Work},
};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// The length of a page.
pub(super) const PAGE_LEN: usize = 4096;

/// The guest-physical address of the searched memory.
pub(super) const GPA: u64 = 4 * GIB;

/// Its usual size. A busy machine still has idle moments as long as a search of that takes.
const SIZE: u64 = 64 * MIB;

/// How often each row is measured in a short run.
pub(super) const ROUNDS: u32 = 21;

/// The least ratio for ways that must not be faster: machines are noisy.
pub(super) const LEAST: f64 = 0.98;

/// A row of a table: its name, and the inspection.
type Row = (String, Inspection);

/// Measures, prints the tables, and the verdict.
pub(super) fn module() {
    let results = [access(), reach(), threads(), kinds(), patterns(), sparse()];
    let passed = results.iter().all(|passed| *passed);
    println!("bench-module: {}", if passed { "PASS" } else { "FAIL" });
}

/// Compares a search by each `access=`, on pages that are neighbours in RAM and on others. Returns
/// whether the default is the fastest on neighbours.
fn access() -> bool {
    let mut vm = running();
    // The VM is new, so the kernel has neighbours to give.
    let near = vm.add_memory(GPA, SIZE, Backing::Anonymous);
    fill(&near);
    let apart = vm.add_memory(GPA + GIB, SIZE, Backing::Anonymous);
    fill_apart(&apart);
    let results = [
        access_to(&near, GPA, true),
        access_to(&apart, GPA + GIB, false),
    ];
    vm.finish();
    results.iter().all(|passed| *passed)
}

/// Compares a search of `memory`, which the guest has at `gpa`, by each `access=`.
fn access_to(memory: &Mapping, gpa: u64, are_near: bool) -> bool {
    let range = format!("{gpa:#x}+{SIZE}");
    let rows = ["linear", "vmap", "copy"].map(|access| {
        let inspection = inspection().set("access", access).set("threads", 1);
        (access.to_owned(), inspection.ranges(&[&range]))
    });
    let default = inspection().report_by_insmod().done.access;
    let ratios = compare(&rows, ROUNDS, |report| {
        assert_eq!(report.done.scanned_bytes, SIZE);
        report.done.scan_us
    });
    let frames = page_frames(memory.address(), SIZE / PAGE_LEN as u64);
    let near = frames.windows(2).filter(|two| two[0] + 1 == two[1]).count();
    let near = near * 100 / frames.len();
    println!(
        "A search by access=, the default is {default}; {near} % of pages are neighbours in RAM:"
    );
    show(&rows[0].0, ratios[0], true, "");
    let mut passed = default == rows[0].0;
    for ((name, _), ratio) in rows.iter().zip(&ratios).skip(1) {
        // Many small pieces take the scanner longer than one mapping of them (docs/performance.md).
        let goal = if are_near {
            format!("at least {LEAST}")
        } else {
            String::new()
        };
        let reached = goal.is_empty() || ratio.middle >= LEAST;
        passed &= show(name, *ratio, reached, &goal);
    }
    passed
}

/// Compares two threads with one, and with two that share nothing, which is what the machine
/// allows. Returns whether two are fast enough.
fn threads() -> bool {
    const GOAL: f64 = 1.7;
    /// So large that the time to wake a thread does not matter.
    const LONG: u64 = 8 * SIZE;

    let mut vm = running();
    fill(&vm.add_memory(GPA, LONG, Backing::Anonymous));
    let search_with = |threads| {
        let done = inspection().set("threads", threads).report_by_insmod().done;
        assert!(done.scanned_bytes >= LONG);
        done.scan_us
    };
    let times = in_turns(4, ROUNDS, |number| match number {
        0 => search_with(1),
        1 => search_with(2),
        2 => count_with(1),
        _ => count_with(2),
    });
    vm.finish();
    println!("The threads that search, on two processors; time against one:");
    let goal = format!("at most {:.3}, {GOAL} times faster", 1.0 / GOAL);
    let ratio = Ratio::new(&times[1], &times[0]);
    let passed = show("threads=2", ratio, ratio.middle <= 1.0 / GOAL, &goal);
    let ratio = Ratio::new(&times[3], &times[2]);
    show("two that only count", ratio, true, "");
    passed
}

/// Returns how many microseconds threads take to count some numbers, which are handed out as memory
/// is.
fn count_with(threads: u32) -> u64 {
    const PARTS: u32 = 1024;
    const NUMBERS: u32 = 100_000;

    let handed_out = AtomicU32::new(0);
    let count = || {
        while handed_out.fetch_add(1, Relaxed) < PARTS {
            for number in 0..NUMBERS {
                black_box(number);
            }
        }
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(count);
        }
    });
    u64::try_from(begun.elapsed().as_micros()).expect("it does not take so long")
}

/// Compares kinds of pages. Huge, zero and shared ones must cost no more than others. Returns
/// whether they do.
fn kinds() -> bool {
    const EACH: u64 = 24 * MIB;
    /// Machines are noisy.
    const MOST: f64 = 1.1;

    let mut vm = running();
    let mut rows = Vec::new();
    let mut add = |vm: &mut Vm, name: &str, backing| -> Arc<Mapping> {
        let gpa = GPA + rows.len() as u64 * GIB;
        let range = format!("{gpa:#x}+{EACH}");
        rows.push((name.to_owned(), inspection().ranges(&[range])));
        vm.add_memory(gpa, EACH, backing)
    };
    fill(&add(&mut vm, "pages of 4 KiB", Backing::Anonymous));
    fill(&add(&mut vm, "pages of a memfd", Backing::Memfd));
    fill(&add(
        &mut vm,
        "transparent huge pages",
        Backing::TransparentHuge,
    ));
    fill(&add(&mut vm, "pages of hugetlbfs", Backing::HugeTlb));
    let zeros = add(&mut vm, "pages full of zeros", Backing::Anonymous);
    zeros.fill_all(&[0]);
    // A page that was only read is the zero page, or the huge one, and counts as absent.
    for (name, backing) in [
        ("the zero page", Backing::Anonymous),
        ("the huge zero page", Backing::TransparentHuge),
    ] {
        let memory = add(&mut vm, name, backing);
        for offset in (0..EACH).step_by(PAGE_LEN) {
            memory.read(offset, 1);
        }
    }
    let merged = add(&mut vm, "pages merged by KSM", Backing::Anonymous);
    fill(&merged);
    merged.let_merge();
    ksm::merge_pages(EACH / PAGE_LEN as u64 * 9 / 10);
    let ratios = compare(&rows, ROUNDS, |report| {
        assert!([0, EACH].contains(&report.done.scanned_bytes));
        report.done.scan_us
    });
    vm.finish();
    println!("Kinds of pages, all as many; time against the first:");
    let mut passed = true;
    show(&rows[0].0, ratios[0], true, "");
    for ((name, _), ratio) in rows.iter().zip(&ratios).skip(1) {
        let goal = format!("at most {MOST}");
        passed &= show(name, *ratio, ratio.middle <= MOST, &goal);
    }
    passed
}

/// Compares kinds of patterns, all as many, in memory as programs have it. Returns whether none is
/// much slower than long ones. That is without vectors: an emulator takes so much longer for their
/// instructions that kinds which need them cannot be compared with others. `make bench` does that.
fn patterns() -> bool {
    const COUNT: usize = 64;
    const MOST: f64 = 6.0;
    /// Fewer than elsewhere, since each kind has to be loaded anew.
    const FEW_ROUNDS: u32 = 5;

    let program = fs::read("/proc/self/exe").expect("this program can be read");
    let mut vm = running();
    let memory = vm.add_memory(GPA, SIZE, Backing::Anonymous);
    let pages = program.chunks_exact(PAGE_LEN).cycle();
    for (offset, page) in (0..SIZE).step_by(PAGE_LEN).zip(pages) {
        memory.write(offset, page);
    }
    let range = format!("{GPA:#x}+{SIZE}");
    let rows = Kind::DRAWN.map(|kind| {
        let inspection = Inspection::of_self().patterns(&kind.first(COUNT));
        let inspection = inspection.set("engine", "portable").set("threads", 1);
        let inspection = inspection.ranges(&[&range]);
        (kind.name().to_owned(), inspection)
    });
    let ratios = compare(&rows, FEW_ROUNDS, |report| {
        assert_eq!(report.done.scanned_bytes, SIZE);
        report.done.scan_us
    });
    vm.finish();
    println!("Kinds of patterns, {COUNT} of each, without vectors; time against the first:");
    let mut passed = true;
    show(&rows[0].0, ratios[0], true, "");
    for ((name, _), ratio) in rows.iter().zip(&ratios).skip(1) {
        let goal = format!("at most {MOST}");
        passed &= show(name, *ratio, ratio.middle <= MOST, &goal);
    }
    passed
}

/// Compares a large guest with a small one that has touched as much. Returns whether its pause is
/// about as long.
fn sparse() -> bool {
    const TOUCHED: u64 = 256 * MIB;
    const SIZES: [u64; 2] = [512 * MIB, 64 * GIB];
    const MOST: f64 = 2.0;

    let mut shortest = Vec::new();
    for size in SIZES {
        let mut vm = running();
        let memory = vm.add_memory(GPA, size, Backing::Anonymous);
        // All over the guest, 512 KiB at each place.
        let run = 512 << 10;
        let places = TOUCHED / run;
        for place in 0..places {
            let first = place * (size / places);
            for offset in (first..first + run).step_by(PAGE_LEN) {
                memory.write(offset, &page());
            }
        }
        let pauses = (0..times(ROUNDS) / 2).map(|_| {
            let done = inspection().report_by_insmod().done;
            assert!(done.scanned_bytes >= TOUCHED);
            done.pause_us
        });
        shortest.push(pauses.min().expect("there is more than one round"));
        vm.finish();
    }
    // No pause is so long that it matters.
    #[allow(clippy::cast_precision_loss)]
    let ratio = shortest[1] as f64 / shortest[0] as f64;
    let passed = ratio <= MOST;
    println!(
        "The pause of a guest with 64 GiB against one with 512 MiB, 256 MiB of it touched:\n  \
         {ratio:.3}, goal: at most {MOST}{}",
        verdict(passed)
    );
    passed
}

/// Returns a VM with two vCPUs, which do nothing.
pub(super) fn running() -> Vm {
    let mut vm = Vm::bootable();
    for _ in 0..2 {
        vm.add_vcpu(Mode::Long, Work::Halt);
    }
    vm.start();
    vm
}

/// Returns the bytes of a page, which are random but the same each time: such pages can be merged.
pub(super) fn page() -> Vec<u8> {
    secret(300, PAGE_LEN)
}

fn fill(memory: &Mapping) {
    let page = page();
    for offset in (0..memory.len()).step_by(PAGE_LEN) {
        memory.write(offset, &page);
    }
}

/// Fills memory in an order by which pages lie apart in RAM: the kernel gives one after the other.
fn fill_apart(memory: &Mapping) {
    /// Odd, so that each of a power of two of pages gets its turn.
    const STRIDE: u64 = 5077;

    let page = page();
    let pages = memory.len() / PAGE_LEN as u64;
    assert!(pages.is_power_of_two());
    for number in 0..pages {
        memory.write(number * STRIDE % pages * PAGE_LEN as u64, &page);
    }
}

/// Creates an inspection with eight patterns that are nowhere.
fn inspection() -> Inspection {
    let patterns: Vec<String> = (0..8)
        .map(|number| hex(&secret(310 + number, 16)))
        .collect();
    Inspection::of_self().patterns(&patterns)
}

/// The time of a row relative to the first one, in many rounds. A round is so short that the
/// machine is equally fast for both. The shortest times would be of moments far apart.
#[derive(Clone, Copy)]
pub(super) struct Ratio {
    /// The median of the rounds.
    pub(super) middle: f64,
    /// Half of the rounds are between these.
    half: (f64, f64),
}

impl Ratio {
    pub(super) fn new(times: &[f64], first: &[f64]) -> Self {
        let mut ratios: Vec<f64> = times.iter().zip(first).map(|(a, b)| a / b).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |part: usize| ratios[(ratios.len() - 1) * part / 4];
        Self {
            middle: at(2),
            half: (at(1), at(3)),
        }
    }
}

/// Measures `count` things in turns, each turn beginning with another one. Returns the times of
/// each.
pub(super) fn in_turns(count: usize, rounds: u32, measure: impl Fn(usize) -> u64) -> Vec<Vec<f64>> {
    let mut times_of = vec![Vec::new(); count];
    for round in 0..times(rounds) as usize {
        for turn in 0..count {
            let number = (round + turn) % count;
            // Nothing takes so long that it matters.
            #[allow(clippy::cast_precision_loss)]
            times_of[number].push(measure(number).max(1) as f64);
        }
    }
    times_of
}

/// Measures all rows in turns, and compares each with the first.
fn compare(rows: &[Row], rounds: u32, time: impl Fn(&Report) -> u64) -> Vec<Ratio> {
    let times_of = in_turns(rows.len(), rounds, |row| {
        time(&rows[row].1.report_by_insmod())
    });
    let against_first = |times: &Vec<f64>| Ratio::new(times, &times_of[0]);
    times_of.iter().map(against_first).collect()
}

/// Prints a row.
pub(super) fn show(name: &str, ratio: Ratio, passed: bool, goal: &str) -> bool {
    let Ratio {
        middle,
        half: (low, high),
    } = ratio;
    let goal = match goal {
        "" => String::new(),
        goal => format!(", goal: {goal}{}", verdict(passed)),
    };
    println!("  {name:<24} {middle:.3} ({low:.3} to {high:.3} in half of the rounds){goal}");
    passed
}

pub(super) fn verdict(passed: bool) -> &'static str {
    if passed {
        ""
    } else {
        ": MISSED"
    }
}
