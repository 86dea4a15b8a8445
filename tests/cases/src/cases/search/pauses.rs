// SPDX-License-Identifier: GPL-2.0

//! A search in several pauses (`max_pause_ms=`). The guest runs between them.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use kvm_inspect_tool::report::{Conclusion, Report};

use super::{lengthen, long_us, CHUNK, GIB, MIB};
use crate::{
    cases::{secret, times, Case, Random},
    inspect::{hex, Inspection},
    process::PAGE,
    vmm::{Backing, Mapping, Mode, Vm, Work, LOW_MEMORY},
};

pub(in crate::cases) const CASES: &[Case] = cases![
    still.with_stock(),
    moving.within(600).with_stock(),
    writing.with_stock(),
];

/// Creates an inspection in several pauses.
pub(super) fn in_pauses(patterns: &[String], most_ms: u64) -> Inspection {
    Inspection::of_self()
        .patterns(patterns)
        .set("max_pause_ms", most_ms)
        .set("max_hits", 2000)
}

/// Two pieces of memory, and between them as much as takes many pauses to search. That is one piece
/// again and again.
pub(super) struct Ends {
    pub(super) first: Arc<Mapping>,
    between: Arc<Mapping>,
    /// How often `between` was added.
    times: u64,
    pub(super) last: Arc<Mapping>,
    /// The longest pause, in milliseconds.
    pub(super) most_ms: u64,
}

impl Ends {
    pub(super) const FIRST: u64 = MIB;
    pub(super) const LAST: u64 = 256 * GIB;
    /// The size of each of the three.
    pub(super) const LEN: u64 = 4 * MIB;

    /// Adds it to a VM. None of these patterns is in it.
    pub(super) fn add_to(vm: &mut Vm, patterns: &[String]) -> Self {
        let [first, between, last] = [(); 3].map(|()| {
            let memory = Mapping::new(Self::LEN, Backing::Anonymous);
            memory.fill_all(&[0x5a, 0xa5]);
            memory
        });
        vm.add_mapping(Self::FIRST, &first);
        vm.add_mapping(Self::LAST, &last);
        let inspection = Inspection::of_self().patterns(patterns).set("threads", 2);
        let long = lengthen(vm, GIB, &between, &inspection, long_us);
        Self {
            first,
            between,
            times: long.times,
            last,
            most_ms: long.whole.done.scan_us / 8000,
        }
    }
}

/// If a guest writes nothing all is covered, though it runs in between.
fn still() {
    let mut vm = Vm::bootable();
    for work in [Work::Spin, Work::Halt] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    let secret = secret(205, 16);
    let patterns = [hex(&secret)];
    let ends = Ends::add_to(&mut vm, &patterns);
    let places = (0..Ends::LEN - 16).step_by(25_003);
    let places: Vec<u64> = [Ends::FIRST, Ends::LAST]
        .into_iter()
        .flat_map(|gpa| places.clone().map(move |offset| gpa + offset))
        .collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    for threads in [1, 2] {
        let report = in_pauses(&patterns, ends.most_ms)
            .set("threads", threads)
            .report();
        assert!(report.done.pauses > 1, "{:?}", report.done);
        assert_eq!(report.hits, vm.hits(0, &places));
        assert_eq!(report.done.hits, places.len() as u64);
        assert_eq!(report.done.uncovered_bytes, 0);
        Vm::assert_scanned(&report, LOW_MEMORY + (2 + ends.times) * Ends::LEN);
        vm.assert_slots(&report);
        vm.wait_until_it_goes_on();
    }
    vm.finish();
}

/// Returns whether the report has a hit at a place, or says that the place is uncovered.
pub(super) fn is_told(report: &Report, place: u64) -> bool {
    let mut uncovered = report.uncovered.iter();
    report.hits_of(0).contains(&place) || uncovered.any(|uncovered| uncovered.gpa.contains(&place))
}

/// A secret that moves while the guest runs is never missed in silence. The VMM moves it, without
/// KVM's knowledge, from memory that is searched late to memory that was searched early.
fn moving() {
    let mut vm = Vm::running(Work::Halt);
    let secret = secret(206, 24);
    let patterns = [hex(&secret)];
    let ends = Ends::add_to(&mut vm, &patterns);
    let inspection = in_pauses(&patterns, ends.most_ms);
    let mut random = Random::new();
    let (mut rounds, mut noticed) = (0, 0);
    let (mut at_low, mut at_high, mut uncovered) = (0, 0, 0);
    let mut takes = Duration::ZERO;
    // The right moment may be missed.
    while rounds < times(8) || (noticed == 0 && rounds < 100) {
        rounds += 1;
        let delay = random.some_of(takes);
        let report;
        (report, takes) = move_while_searched(&ends, &secret, &inspection, delay);
        println!("moved after {delay:?} of {takes:?}");
        let low = is_told(&report, Ends::FIRST + LOW);
        let high = is_told(&report, Ends::LAST + HIGH);
        assert!(low || high, "missed: {report:?}");
        at_low += u32::from(low && !high);
        at_high += u32::from(high && !low);
        uncovered += u32::from(report.done.uncovered_bytes > 0);
        // Nobody else writes.
        noticed += u32::from(report.done.rescanned_bytes > 0);
    }
    println!("counted: moved_seen={at_low} moved_late={at_high} moved_uncovered={uncovered}");
    println!("{noticed} of {rounds} moves were noticed between two pauses");
    assert!(noticed > 0, "it was never moved between two pauses");
    vm.finish();
}

/// Inspects, and changes something some time after that has begun. Returns the report, and how long
/// the inspection took.
pub(super) fn inspect_and_change(
    inspection: &Inspection,
    delay: Duration,
    change: impl FnOnce() + Send,
) -> (Report, Duration) {
    thread::scope(|scope| {
        let changer = scope.spawn(move || {
            thread::sleep(delay);
            change();
        });
        let begun = Instant::now();
        let report = inspection.partial_report();
        let takes = begun.elapsed();
        changer.join().expect("it changes it");
        (report, takes)
    })
}

/// The places of the secret of [`moving`]: where it moves to, in the first memory, and from, in the
/// last.
const LOW: u64 = 3 * PAGE + 100;
const HIGH: u64 = Ends::LEN - 5 * PAGE;

/// Moves a secret some time after an inspection has begun. Returns the report, and how long the
/// inspection took.
fn move_while_searched(
    ends: &Ends,
    secret: &[u8],
    inspection: &Inspection,
    delay: Duration,
) -> (Report, Duration) {
    let nothing = [0x5a; 24];
    ends.first.write(LOW, &nothing);
    ends.last.write(HIGH, secret);
    let (report, takes) = inspect_and_change(inspection, delay, || {
        ends.first.write(LOW, secret);
        ends.last.write(HIGH, &nothing);
    });
    let result = report.done.result;
    assert!(
        matches!(result, Conclusion::Ok | Conclusion::Changed),
        "{result:?}"
    );
    (report, takes)
}

/// Starts a thread that writes to memory all the time, until it is told to stop.
fn write_all_the_time(
    memory: Vec<Arc<Mapping>>,
    offsets: impl Iterator<Item = u64> + Clone + Send + 'static,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    let stop = stop.clone();
    thread::spawn(move || {
        let mut value = 0_u8;
        while !stop.load(SeqCst) {
            value = value.wrapping_add(1);
            for (memory, offset) in memory
                .iter()
                .flat_map(|memory| offsets.clone().map(move |offset| (memory, offset)))
            {
                memory.write(offset, &[value]);
            }
        }
    })
}

/// The report says which memory changes faster than it can be searched. The rest is covered.
fn writing() {
    let mut vm = Vm::running(Work::Count);
    let secret = secret(207, 24);
    let patterns = [hex(&secret)];
    let ends = Ends::add_to(&mut vm, &patterns);
    let places = [Ends::FIRST + 11 * CHUNK + 5, Ends::LAST + Ends::LEN - 24];
    for &place in &places {
        vm.write(place, &secret);
    }

    // One page, and the guest's counter: few enough for one pause.
    let stop = Arc::new(AtomicBool::new(false));
    let first = vec![ends.first.clone()];
    let writer = write_all_the_time(first, std::iter::once(7 * PAGE), &stop);
    let report = in_pauses(&patterns, ends.most_ms).report();
    assert_eq!(report.hits, vm.hits(0, &places));
    assert!(report.done.rescanned_bytes > 0, "{:?}", report.done);
    stop.store(true, SeqCst);
    writer.join().expect("it ends");

    // A byte in each chunk: too many, if the writer runs between the pauses.
    let stop = Arc::new(AtomicBool::new(false));
    let all = (0..Ends::LEN / CHUNK).map(|chunk| chunk * CHUNK + 9 * PAGE);
    let memory = [&ends.first, &ends.between, &ends.last].map(Arc::clone);
    let writer = write_all_the_time(memory.into(), all, &stop);
    let mut tries = (0..20).map(|_| in_pauses(&patterns, ends.most_ms).partial_report());
    let report = tries.find(|report| report.done.result != Conclusion::Ok);
    let report = report.expect("what changes all the time is not covered");
    stop.store(true, SeqCst);
    writer.join().expect("it ends");
    assert_eq!(report.done.result, Conclusion::Changed);
    assert_eq!(report.left, None);
    assert!(!report.uncovered.is_empty());
    assert!(report.done.uncovered_bytes >= CHUNK);
    assert!(report.done.rescanned_bytes > 0, "{:?}", report.done);
    assert_eq!(report.hits, vm.hits(0, &places), "they have not moved");
    vm.wait_until_it_goes_on();
    vm.finish();
}
