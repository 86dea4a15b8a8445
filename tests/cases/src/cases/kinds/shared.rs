// SPDX-License-Identifier: GPL-2.0

//! Shared memory that the host has swapped out. The page tables have nothing there: only the file
//! knows of each page.

use std::time::Duration;

use kvm_inspect_tool::report::{Conclusion, Report};

use super::{assert_kinds, places, COUNT, MIB};
use crate::{
    cases::{search::freeze_us, secret},
    inspect::{hex, module_thread, Inspection},
    process::{cpu_time, swapped_kib, wait_until, PAGE},
    swap,
    vmm::{Backing, Mapping, Slot, Vm, Work},
};

/// How many pages are swapped out: 64 MiB.
const SWAPPED: u64 = 16384;

/// Swaps pages of shared memory out, of which nothing else is swapped out. All have content.
fn swap_out(memory: &Mapping, first: u64, pages: u64) {
    wait_until("the pages are swapped out", || {
        memory.page_out_range(first * PAGE, pages * PAGE);
        swapped_kib(memory.address()) == pages * PAGE / 1024
    });
}

/// Shared pages that were swapped out are told apart and counted, in whatever pauses, and what lies
/// behind them is searched. On request they are brought in and searched.
pub(super) fn shared_swapped() {
    swap::turn_on();
    let mut vm = Vm::running(Work::Halt);
    let gpa = 64 * MIB;
    // Those that are swapped out have as many before them as behind them.
    let pages = COUNT + SWAPPED + COUNT;
    let memory = vm.add_memory(gpa, pages * PAGE, Backing::Memfd);
    memory.fill_all(&[0x5a, 0xa5]);
    let secret = secret(306, 16);
    let here = [
        places(gpa, 0..COUNT),
        places(gpa, COUNT + SWAPPED..COUNT + SWAPPED + COUNT),
    ]
    .concat();
    let out = places(gpa, COUNT..COUNT + SWAPPED);
    for &place in here.iter().chain(&out) {
        vm.write(place, &secret);
    }
    swap_out(&memory, COUNT, SWAPPED);
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 1000);
    let check = |report: &Report| {
        println!("{:?}", report.done);
        assert_eq!(report.done.result, Conclusion::Incomplete);
        assert_eq!(report.done.missing_pages, SWAPPED);
        assert_eq!(report.done.uncovered_bytes, 0);
        assert_eq!(report.hits, vm.hits(0, &here));
        assert_kinds(report, gpa, 2 * COUNT, &[("swapped", SWAPPED)]);
    };
    let whole = inspection.partial_report();
    check(&whole);
    // The default, and one that is long enough for a freeze.
    check(&inspection.clone().unset("max_pause_ms").partial_report());
    let short_ms = 5 * freeze_us(&whole) / 1000;
    let short = inspection.clone().set("max_pause_ms", short_ms);
    check(&short.partial_report());
    let swapped_kib = swapped_kib(memory.address());
    assert_eq!(swapped_kib, SWAPPED * PAGE / 1024, "none is brought in");

    let report = inspection.set("bring_in", 1).report();
    assert_eq!(report.done.hits, pages);
    assert_kinds(&report, gpa, pages, &[]);
    vm.finish();
}

/// Each such page costs the same, however many there are, if they are only counted and if they are
/// to be searched.
pub(super) fn shared_swapped_many() {
    const TIMES: u32 = 8;
    const FEW: u64 = SWAPPED / TIMES as u64;
    const ID: u16 = 9;

    swap::turn_on();
    let mut vm = Vm::running(Work::Halt);
    let memory = Mapping::new(SWAPPED * PAGE, Backing::Memfd);
    memory.fill_all(&[0x5a, 0xa5]);
    swap_out(&memory, 0, SWAPPED);
    let counts = Inspection::of_self().set("threads", 1);
    let searches = counts.clone().patterns(&["text:secret"]);
    for inspection in [counts, searches] {
        let [few, many] = [FEW, SWAPPED].map(|pages| {
            let gpa = 64 * MIB;
            vm.add(Slot {
                len: pages * PAGE,
                ..Slot::of(ID, gpa, &memory)
            });
            let report = inspection.partial_report();
            assert_kinds(&report, gpa, 0, &[("swapped", pages)]);
            let time = time_of_one(&inspection);
            vm.remove(ID);
            time
        });
        println!("{FEW} pages take {few:?}, {SWAPPED} pages {many:?} with {inspection}");
        // If it grew as the square, it would be TIMES times as much again.
        assert!(many < few * TIMES * 3, "{many:?}, and {few:?}");
    }
    vm.finish();
}

/// Returns how much CPU time the inspecting thread takes for an inspection: the median, since a
/// busy machine may hold up a few.
fn time_of_one(inspection: &Inspection) -> Duration {
    const SAMPLES: usize = 9;

    let mut loaded = inspection.clone().set("interval_ms", 1).load();
    let thread = module_thread().expect("it goes on");
    loaded.next_reports();
    let mut times = [(); SAMPLES].map(|()| {
        let before = cpu_time(thread);
        let reports = loaded.next_reports().len();
        (cpu_time(thread) - before) / u32::try_from(reports).expect("not many")
    });
    loaded.unload();
    times.sort_unstable();
    times[SAMPLES / 2]
}
