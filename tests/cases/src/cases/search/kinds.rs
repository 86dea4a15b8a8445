// SPDX-License-Identifier: GPL-2.0

//! Pages that cannot be read when they are looked at, in a search in several pauses.

use std::{ops::Range, thread, time::Duration};

use kvm_inspect_tool::report::{Conclusion, Report};

use super::{
    pauses::{in_pauses, inspect_and_change, Ends},
    CHUNK, MIB,
};
use crate::{
    cases::{
        kinds::{assert_kinds, pages_at, places},
        secret, times, Case, Random,
    },
    inspect::{hex, Inspection},
    process::{own_pid, present_pages, wait_until, PAGE},
    swap,
    vmm::{to_usize, Backing, Mapping, Vm, Work},
};

pub(in crate::cases) const CASES: &[Case] = cases![
    unreadable_neighbour.with_stock(),
    brought_between.within(600).with_stock(),
    sent_out_between.within(600).with_stock(),
    allowed_between.within(600).with_stock(),
    allowed_meanwhile.within(600).with_stock(),
];

const CHUNK_PAGES: u64 = CHUNK / PAGE;

/// The number of pages in each end.
const PAGES: u64 = Ends::LEN / PAGE;

/// Pages beside those that nobody may read are searched once, and covered: nothing has changed. The
/// others are missing once each.
fn unreadable_neighbour() {
    const FORBIDDEN: [u64; 6] = [10, 20, 21, 22, CHUNK_PAGES, PAGES - 1];
    const MISSING: u64 = FORBIDDEN.len() as u64;

    let mut vm = Vm::running(Work::Halt);
    let secret = secret(313, 16);
    let patterns = [hex(&secret)];
    let ends = Ends::add_to(&mut vm, &patterns);
    let mut hits = Vec::new();
    for (gpa, memory) in [(Ends::FIRST, &ends.first), (Ends::LAST, &ends.last)] {
        for page in (0..2 * CHUNK_PAGES).chain(PAGES - 2..PAGES) {
            let place = gpa + page * PAGE + 64;
            vm.write(place, &secret);
            if !FORBIDDEN.contains(&page) {
                hits.push(place);
            }
        }
        FORBIDDEN.map(|page| memory.forbid(page * PAGE, PAGE));
    }
    for threads in [1, 2] {
        let inspection = in_pauses(&patterns, ends.most_ms).set("threads", threads);
        let report = inspection.partial_report();
        let done = &report.done;
        assert_eq!(done.result, Conclusion::Incomplete, "{done:?}");
        assert!(done.pauses > 1, "{done:?}");
        assert_eq!(done.missing_pages, 2 * MISSING, "{done:?}");
        assert_eq!((done.uncovered_bytes, done.rescanned_bytes), (0, 0));
        assert_eq!(report.hits, vm.hits(0, &hits));
        for gpa in [Ends::FIRST, Ends::LAST] {
            assert_kinds(&report, gpa, PAGES - MISSING, &[("unreadable", MISSING)]);
        }
    }
    vm.finish();
}

/// Pages that are swapped out when they are counted, and that the VMM brings in between two pauses,
/// are searched. The report says what they are at the end.
fn brought_between() {
    swap::turn_on();
    change_between(page_out, bring_in, Conclusion::Ok);
}

/// Pages that are searched, and swapped out between two pauses, are missing. The report says what
/// they are at the end.
fn sent_out_between() {
    swap::turn_on();
    change_between(bring_in, page_out, Conclusion::Incomplete);
}

/// The same as [`brought_between`] for pages that nobody may read at first.
fn allowed_between() {
    let forbid = |memory: &Mapping| {
        OUT.map(|Range { start, end }| memory.forbid(start * PAGE, (end - start) * PAGE));
    };
    let allow = |memory: &Mapping| {
        OUT.map(|Range { start, end }| memory.allow(start * PAGE, (end - start) * PAGE));
    };
    change_between(forbid, allow, Conclusion::Ok);
}

/// A page that nobody may read when the page before it is searched, and that is searched a moment
/// later, is one of which matches may be missed: the report does not say that all is well.
fn allowed_meanwhile() {
    // Within chunks, and at their borders. Some page is always the next one.
    allowed_in_steps(2);
    allowed_in_steps(CHUNK_PAGES);
}

/// Forbids and allows each of so many pages, again and again.
fn allowed_in_steps(step: u64) {
    const COUNT: u64 = 8 * CHUNK_PAGES;

    let mut vm = Vm::running(Work::Halt);
    let secret = secret(315, 16);
    let memory = Mapping::new(COUNT * PAGE, Backing::Anonymous);
    vm.add_mapping(MIB, &memory);
    // In each page, and across its end.
    let places: Vec<u64> = (0..COUNT - 1)
        .flat_map(|page| [64, PAGE - 8].map(|offset| MIB + page * PAGE + offset))
        .collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", places.len())
        .set("max_pause_ms", 1000)
        .set("threads", 2)
        .ranges(&[format!("{MIB:#x}+{:#x}", COUNT * PAGE)]);
    let inspect = || {
        let report = inspection.partial_report();
        let done = &report.done;
        println!("{done:?}");
        // One missing page hides what is in it, and across both of its ends.
        let lacks = places.len() as u64 - done.hits;
        let missing = done.missing_pages;
        if done.uncovered_bytes == 0 {
            assert!(lacks <= 3 * missing, "{report:?}");
        } else {
            assert!(done.pauses > 1, "{report:?}");
        }
        (1..COUNT / step - 1).contains(&missing)
    };
    let (rounds, changed) = thread::scope(|scope| {
        let inspecting = scope.spawn(|| {
            let (mut rounds, mut changed) = (0, 0);
            // The right moment may be missed.
            while rounds < times(8) || (changed == 0 && rounds < 100) {
                rounds += 1;
                changed += u32::from(inspect());
            }
            (rounds, changed)
        });
        let mut random = Random::new();
        while !inspecting.is_finished() {
            for page in (step..COUNT).step_by(to_usize(step)) {
                memory.forbid(page * PAGE, PAGE);
            }
            thread::sleep(random.some_of(Duration::from_millis(5)));
            memory.allow(0, COUNT * PAGE);
            thread::sleep(random.some_of(Duration::from_millis(5)));
        }
        inspecting.join().expect("it inspects")
    });
    println!("{changed} of {rounds} inspections met a change");
    assert!(changed > 0, "it was never changed while it was searched");
    vm.finish();
}

/// The pages that change: whole chunks, and half of one.
const OUT: [Range<u64>; 2] = [
    2 * CHUNK_PAGES..4 * CHUNK_PAGES,
    8 * CHUNK_PAGES + CHUNK_PAGES / 2..9 * CHUNK_PAGES,
];

/// The pages that nobody has touched, at the beginning of the half chunk.
const UNTOUCHED: Range<u64> = 8 * CHUNK_PAGES..8 * CHUNK_PAGES + 5;

/// Swaps [`OUT`] out.
fn page_out(memory: &Mapping) {
    for Range { start, end } in OUT {
        wait_until("the pages are swapped out", || {
            memory.page_out_range(start * PAGE, (end - start) * PAGE);
            let address = memory.address() + start * PAGE;
            !present_pages(own_pid(), address, end - start).contains(&true)
        });
    }
}

/// Brings [`OUT`] in.
fn bring_in(memory: &Mapping) {
    for page in OUT.into_iter().flatten() {
        memory.read(page * PAGE, 1);
    }
}

/// Returns where the secret is: in each page of [`OUT`], and across the borders of both parts.
fn places_in_out() -> Vec<u64> {
    let mut places = OUT.map(|pages| places(Ends::FIRST, pages)).concat();
    for Range { start, end } in OUT {
        places.extend([start, end].map(|page| Ends::FIRST + page * PAGE - 8));
    }
    places.sort_unstable();
    places
}

/// Inspects until [`OUT`] was changed between two pauses: after it was looked at for the first
/// time, and before the last time. Each inspection begins with what `before` makes, and meanwhile
/// comes what `change` makes. Then the result is to be `expected`.
fn change_between(
    before: impl Fn(&Mapping),
    change: impl Fn(&Mapping) + Sync,
    expected: Conclusion,
) {
    let mut vm = Vm::running(Work::Halt);
    let secret = secret(314, 16);
    let patterns = [hex(&secret)];
    let ends = Ends::add_to(&mut vm, &patterns);
    for place in places_in_out() {
        vm.write(place, &secret);
    }
    let Range { start, end } = UNTOUCHED;
    ends.first.discard(start * PAGE, (end - start) * PAGE);
    let inspection = in_pauses(&patterns, ends.most_ms);
    let mut random = Random::new();
    let (mut rounds, mut noticed) = (0, 0);
    let mut takes = Duration::ZERO;
    // The right moment may be missed.
    while rounds < times(2) || (noticed == 0 && rounds < 100) {
        rounds += 1;
        before(&ends.first);
        let delay = random.some_of(takes);
        let report;
        (report, takes) = inspect_and_change(&inspection, delay, || change(&ends.first));
        println!("changed after {delay:?} of {takes:?}: {:?}", report.done);
        assert_is_of_the_end(&vm, &report);
        // Half a chunk stays as it is, and is searched again.
        let is_noticed = report.done.rescanned_bytes > 0 && report.done.result == expected;
        noticed += u32::from(is_noticed);
    }
    println!("{noticed} of {rounds} changes were noticed between two pauses");
    assert!(noticed > 0, "it was never changed between two pauses");
    vm.finish();
}

/// Checks that the kinds in a report are those of the end, whenever [`OUT`] has changed: they are
/// what is missing, and what the hits are in.
fn assert_is_of_the_end(vm: &Vm, report: &Report) {
    let pages = pages_at(report, Ends::FIRST);
    // One that is swapped out may just be on its way.
    let missing = pages.of("swapped") + pages.of("unreadable");
    assert_eq!(report.done.missing_pages, missing, "{pages:?}");
    let untouched = UNTOUCHED.end - UNTOUCHED.start;
    assert_eq!(pages.of("untouched"), untouched, "{pages:?}");
    assert_eq!(pages.present + missing + untouched, PAGES, "{pages:?}");
    let places = places_in_out();
    let lacks = places.len() as u64 - report.done.hits;
    match report.done.result {
        Conclusion::Ok => assert_eq!(report.hits, vm.hits(0, &places)),
        // It may have taken several pauses.
        Conclusion::Incomplete | Conclusion::Changed => {
            assert!(lacks >= missing, "{report:?}");
        }
        other => panic!("unexpected result {other:?}"),
    }
}
