// SPDX-License-Identifier: GPL-2.0

//! What lies across the seams of a search in several pauses: from one chunk into the next one, and
//! where a chunk is searched in two pauses.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use kvm_inspect_tool::{
    hex::digits,
    report::{Conclusion, Report},
};

use super::{
    freeze_us,
    pauses::{in_pauses, inspect_and_change, is_told, Ends},
    CHUNK, MATCH, MIB,
};
use crate::{
    cases::{secret, times, Case, Random},
    inspect::{hex, Inspection},
    process::PAGE,
    vmm::{Backing, Vm, Work},
};

pub(in crate::cases) const CASES: &[Case] = cases![
    border.within(600).with_stock(),
    torn.within(600).with_stock(),
];

/// The chunk borders in the first memory across which a match lies, and those before which one
/// ends. No two are borders of the same chunk.
const ACROSS: [u64; 4] = [1, 5, 9, 13];
const BEFORE: [u64; 4] = [3, 7, 11, 15];

/// The rest of a match, and what is shown after one, is written to the next chunk when both chunks
/// have been searched, and stays. What the guest has then is found: only the next chunk has
/// changed.
fn border() {
    let mut vm = Vm::running(Work::Halt);
    let (secret, mark) = (secret(310, 24), secret(311, 24));
    let patterns = [hex(&secret), hex(&mark)];
    let ends = Ends::add_to(&mut vm, &patterns);
    let inspection = in_pauses(&patterns, ends.most_ms)
        .set("threads", 1)
        .set("context", 8);
    let mark_at = Ends::LEN - 5 * PAGE;
    let mut random = Random::new();
    let (mut rounds, mut noticed) = (0, 0);
    let mut takes = Duration::ZERO;
    while rounds < times(4) || (noticed == 0 && rounds < 100) {
        rounds += 1;
        for border in ACROSS.map(|number| number * CHUNK) {
            ends.first.write(border - 12, &secret[..12]);
            ends.first.write(border, &[0x5a; 12]);
        }
        for border in BEFORE.map(|number| number * CHUNK) {
            ends.first.write(border - 24, &secret);
            ends.first.write(border, &[0x5a; 8]);
        }
        ends.last.write(mark_at, &[0x5a; 24]);
        let delay = random.some_of(takes);
        let report;
        (report, takes) = inspect_and_change(&inspection, delay, || {
            for border in ACROSS.map(|number| number * CHUNK) {
                ends.first.write(border, &secret[12..]);
            }
            for border in BEFORE.map(|number| number * CHUNK) {
                ends.first.write(border, &[0x11; 8]);
            }
            // Last of all, where it is searched last.
            ends.last.write(mark_at, &mark);
        });
        let result = report.done.result;
        assert!(
            matches!(result, Conclusion::Ok | Conclusion::Changed),
            "{result:?}"
        );
        if report.hits_of(1).is_empty() {
            continue;
        }
        // All had been written when the last pause ended.
        noticed += u32::from(report.done.rescanned_bytes > 0);
        assert_all_told(&report);
    }
    println!("{noticed} of {rounds} were written between two pauses");
    assert!(noticed > 0, "it was never written between two pauses");
    vm.finish();
}

fn assert_all_told(report: &Report) {
    for border in ACROSS.map(|number| Ends::FIRST + number * CHUNK) {
        assert!(
            is_told(report, border - 12),
            "missed at {border:#x}: {report:?}"
        );
    }
    let shown = digits(&[0x11; 8]);
    for border in BEFORE.map(|number| Ends::FIRST + number * CHUNK) {
        let mut hits = report.hits.iter();
        let hit = hits.find(|hit| hit.gpa == border - 24);
        let bytes = hit.and_then(|hit| hit.bytes.as_ref());
        let is_new = bytes.is_some_and(|bytes| bytes.ends_with(&shown));
        let mut uncovered = report.uncovered.iter();
        let is_uncovered = uncovered.any(|uncovered| uncovered.gpa.contains(&(border - 24)));
        assert!(is_new || is_uncovered, "stale at {border:#x}: {report:?}");
    }
}

/// A chunk that takes several pauses is not covered by what it was in one of them. A secret is now
/// at its beginning, now at its end, and never nowhere. The VMM moves it, at any moment: also
/// between the digest of a step and its search, and while digests are compared. So neither end ever
/// is what it was before, which a digest cannot tell.
fn torn() {
    let mut vm = Vm::running(Work::Halt);
    let gpa = MIB;
    let memory = vm.add_memory(gpa, CHUNK, Backing::Anonymous);
    memory.fill_all(&MATCH[..1]);
    let secret = secret(312, 16);
    // As many patterns that nearly match everywhere as needed to make it take long, compared with a
    // freeze.
    let mut count = 1;
    let (in_one_pause, whole) = loop {
        // What is not there is a zero between two bytes that are, too far from either to be looked
        // at with it, and too frequent to be looked for by itself.
        let nearly = (0..count).map(|more| {
            let (there, open) = (MATCH[0], "??".repeat(30 + more));
            format!("hex:{there:02x}{open}00{open}{there:02x}")
        });
        let patterns: Vec<String> = [hex(&secret)].into_iter().chain(nearly).collect();
        let inspection = Inspection::of_self().patterns(&patterns).set("threads", 1);
        let whole = inspection.shortest(3);
        if whole.done.scan_us > 16 * freeze_us(&whole) {
            break (inspection, whole);
        }
        assert!(count < 64, "too quick: {:?}", whole.done);
        count *= 2;
    };
    let inspection = in_one_pause
        .clone()
        .set("max_pause_ms", whole.done.scan_us / 4000);
    let places = [5 * PAGE + 100, CHUNK - 5 * PAGE];
    let stop = AtomicBool::new(false);
    memory.write(places[0], &secret);
    let (mut told, mut torn) = (0, 0);
    thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut random = Random::new();
            let mut moves = 0_u64;
            while !stop.load(SeqCst) {
                for [from, to] in [[0, 1], [1, 0]] {
                    moves += 1;
                    memory.write(places[to] + 16, &moves.to_le_bytes());
                    memory.write(places[to], &secret);
                    let left = [moves, !moves].map(u64::to_le_bytes);
                    memory.write(places[from], left.as_flattened());
                    let most = Duration::from_micros(whole.done.scan_us);
                    thread::sleep(random.some_of(most));
                }
            }
        });
        let mut rounds = 0;
        while rounds < times(10) || (told == 0 && rounds < 100) {
            rounds += 1;
            let report = inspection.partial_report();
            let is_covered = matches!(report.done.result, Conclusion::Ok | Conclusion::Changed);
            if is_covered && report.done.pauses > 1 {
                let is_there = places.map(|place| is_told(&report, gpa + place));
                if !is_there.contains(&true) {
                    // If the machine has become faster, the last pause may have had time for all of
                    // the chunk. What the VMM does meanwhile need not be seen.
                    let fastest = in_one_pause.shortest_partial(20).done.scan_us;
                    // There is other memory, too.
                    if fastest / 2 >= report.done.pause_us {
                        stop.store(true, SeqCst);
                        panic!("missed, not in {fastest} us: {report:?}");
                    }
                    continue;
                }
                told += 1;
                torn += u32::from(report.done.rescanned_bytes > 0);
            }
        }
        stop.store(true, SeqCst);
        mover.join().expect("it moves it");
    });
    println!("{told} reports of several pauses, {torn} with changes");
    assert!(told > 0, "never in several pauses");
    vm.finish();
}
