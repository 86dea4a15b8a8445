// SPDX-License-Identifier: GPL-2.0

//! Present pages beside those that nobody may read.

use std::iter;

use kvm_inspect_tool::report::Conclusion;

use super::{assert_kinds, places, MIB};
use crate::{
    cases::{search::CHUNK, secret},
    inspect::{hex, Inspection},
    process::PAGE,
    vmm::{Backing, Vm, Work},
};

const CHUNK_PAGES: u64 = CHUNK / PAGE;

const GPA: u64 = 16 * MIB;

/// Slots that touch in the guest: how many pages each has, and which of them nobody may read. These
/// are beside present ones of the same chunk, of the next one, and of another slot.
const SLOTS: [(u64, &[u64]); 3] = [
    (
        2 * CHUNK_PAGES,
        &[10, 20, 21, 22, CHUNK_PAGES, 2 * CHUNK_PAGES - 1],
    ),
    (CHUNK_PAGES + 5, &[]),
    (CHUNK_PAGES, &[0, 1, 40]),
];

/// Pages that nobody may read are missing once each, however many present pages are beside them.
/// Those are covered: nothing has changed.
pub(super) fn unreadable_neighbour() {
    let mut vm = Vm::running(Work::Halt);
    let secret = secret(307, 16);
    let hits = add_slots(&mut vm, &secret);
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 1000);
    let default = inspection.clone().unset("max_pause_ms");
    // Long enough for all of it, on any machine.
    let long = ["3600000", "0"].map(|most| inspection.clone().set("max_pause_ms", most));
    let all = iter::once((&default, false)).chain(long.iter().map(|long| (long, true)));
    for (inspection, is_long) in all {
        for context in [0, 8] {
            let report = inspection.clone().set("context", context).partial_report();
            let done = &report.done;
            println!("{inspection} context={context}: {done:?}");
            assert_eq!(done.result, Conclusion::Incomplete);
            let forbidden = SLOTS.map(|(_, forbidden)| forbidden.len() as u64);
            assert_eq!(done.missing_pages, forbidden.iter().sum::<u64>());
            assert_eq!((done.uncovered_bytes, done.rescanned_bytes), (0, 0));
            assert!(!is_long || done.pauses == 1, "{done:?}");
            assert_eq!(report.hits_of(0), hits);
            let mut gpa = GPA;
            for ((pages, _), forbidden) in SLOTS.into_iter().zip(forbidden) {
                let kinds = [("unreadable", forbidden)];
                assert_kinds(&report, gpa, pages - forbidden, &kinds);
                gpa += pages * PAGE;
            }
        }
    }
    vm.finish();
}

/// Adds [`SLOTS`] with a secret in each page. Returns where it can be read.
fn add_slots(vm: &mut Vm, secret: &[u8]) -> Vec<u64> {
    let mut gpa = GPA;
    let mut readable = Vec::new();
    for (pages, forbidden) in SLOTS {
        let memory = vm.add_memory(gpa, pages * PAGE, Backing::Anonymous);
        for (page, place) in (0..).zip(places(gpa, 0..pages)) {
            vm.write(place, secret);
            if forbidden.contains(&page) {
                memory.forbid(page * PAGE, PAGE);
            } else {
                readable.push(place);
            }
        }
        gpa += pages * PAGE;
    }
    readable
}
