// SPDX-License-Identifier: GPL-2.0

//! Parameters that limit an inspection, or repeat it.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use kvm_inspect_tool::{
    hex::digits,
    report::{Conclusion, Output, ParseError, Report, State},
    KernelLog,
};

use super::{
    search::{fill_with_matches, freeze_us, lengthen, long_us, Long, CHUNK, MATCH},
    secret, Case,
};
use crate::{
    inspect::{hex, module_thread, Inspection},
    process::{own_pid, pin, wait_until, PAGE},
    vmm::{Backing, Mapping, Mode, Slot, Vm, Work, LOW_MEMORY},
};

pub(super) const CASES: &[Case] = cases![
    range.with_stock(),
    max_hits.with_stock(),
    context.with_stock(),
    no_pattern,
    default_pause.with_stock(),
    many_slots.with_stock(),
    long_report.with_stock(),
    interval,
    max_pause.with_stock(),
    max_pause_dense.with_stock(),
    max_pause_all_match.with_stock(),
    max_pause_late_helper.with_stock(),
    max_pause_late_in_queue.with_stock(),
    coverage.with_stock(),
];

const MIB: u64 = 1 << 20;

/// How often to try until no pause is longer than allowed: other work on the machine prolongs any
/// pause.
const TRIES: u32 = 30;

/// A hit lies in one range, or in ranges that touch.
fn range() {
    let mut vm = Vm::running(Work::Spin);
    vm.add_memory(MIB, 64 * PAGE, Backing::Anonymous)
        .touch_all();
    let secret = secret(60, 16);
    let (first, second) = (MIB + 10 * PAGE - 8, MIB + 20 * PAGE);
    vm.write(first, &secret);
    vm.write(second, &secret);

    let hex = hex(&secret);
    let hits = |ranges: &[String]| {
        let report = Inspection::of_self()
            .patterns(&[&hex])
            .ranges(ranges)
            .report();
        vm.assert_slots(&report);
        assert_eq!(report.done.hits, report.hits.len() as u64);
        (report.hits_of(0), report.done.scanned_bytes)
    };
    let one = |first: u64, last: u64| vec![format!("{first:#x}-{last:#x}")];

    // Exact to the byte, on both sides. Whole pages are scanned.
    assert_eq!(hits(&one(first, first + 15)), (vec![first], 2 * PAGE));
    assert_eq!(hits(&one(first + 1, first + 15)), (vec![], 2 * PAGE));
    assert_eq!(hits(&one(first, first + 14)), (vec![], 2 * PAGE));
    assert_eq!(
        hits(&one(0, u64::MAX)),
        (vec![first, second], LOW_MEMORY + 64 * PAGE)
    );
    assert_eq!(hits(&one(second, u64::MAX)).0, [second]);
    assert_eq!(hits(&one(0, second - 1)).0, [first]);
    // In decimal, and as a start and a size.
    assert_eq!(hits(&[format!("{first}-{}", first + 15)]).0, [first]);
    assert_eq!(hits(&[format!("{first:#x}+16")]).0, [first]);
    assert_eq!(hits(&[format!("{first:#x}+15")]).0, [0; 0]);
    assert_eq!(hits(&["1M+64K".to_owned()]).0, [first]);
    // Two ranges that touch are one, in any order. With a byte between them they are not.
    let touch = [one(first + 5, first + 100), one(first - 10, first + 4)].concat();
    assert_eq!(hits(&touch).0, [first]);
    let apart = [one(first - 10, first + 4), one(first + 6, first + 100)].concat();
    assert_eq!(hits(&apart).0, [0; 0]);
    let both = [one(second, second + 15), one(first, first + 15)].concat();
    assert_eq!(hits(&both), (vec![first, second], 3 * PAGE));
    // Where there is no memory.
    assert_eq!(hits(&one(1 << 40, 1 << 41)), (vec![], 0));
    // `insmod` reads the list itself.
    let inspection = Inspection::of_self().patterns(&[&hex]).ranges(&touch);
    let report = inspection.report_by_insmod();
    assert_eq!(report.hits_of(0), [first]);
    assert_eq!(report.ranges, [first - 10..=first + 100]);
    vm.finish();
}

/// `max_hits=` limits the printed hits, but all are counted.
fn max_hits() {
    let mut vm = Vm::running(Work::Spin);
    vm.add_memory(MIB, 64 * PAGE, Backing::Anonymous)
        .touch_all();
    let secret = secret(61, 16);
    let places: Vec<u64> = (0..300).map(|index| MIB + index * 800).collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    let inspection = || Inspection::of_self().patterns(&[hex(&secret)]);
    let by_insmod: fn(&Inspection) -> Report = Inspection::report_by_insmod;
    for (limit, printed, inspect) in [
        (None, 64, by_insmod),
        (Some(299), 299, by_insmod),
        (Some(0), 0, Inspection::report),
        (Some(1), 1, Inspection::report),
        (Some(16384), 300, Inspection::report),
    ] {
        let report = match limit {
            Some(limit) => inspect(&inspection().set("max_hits", limit)),
            None => inspect(&inspection()),
        };
        assert_eq!(report.done.hits, 300, "with max_hits={limit:?}");
        assert_eq!(
            report.hits,
            vm.hits(0, &places[..printed]),
            "with max_hits={limit:?}"
        );
    }
    vm.finish();
}

/// `context=` prints exactly the bytes around a hit that are present. Without it none are printed.
fn context() {
    let mut vm = Vm::running(Work::Halt);
    // Two pieces of memory: one begins and ends with a match, the other has matches at all borders
    // of its windows, wherever these are.
    let (small, large) = (MIB, 16 * MIB);
    let (small_len, large_len) = (4 * PAGE, 5 * MIB);
    for (gpa, len) in [(small, small_len), (large, large_len)] {
        let noise = secret(gpa, usize::try_from(len).expect("64 bits"));
        vm.add_memory(gpa, len, Backing::Anonymous).write(0, &noise);
    }
    let secret = secret(62, 256);
    let mut places = vec![small, small + small_len - 256];
    let distances = [1, 64, 128, 200, 255, 320].into_iter().cycle();
    let borders = (large + PAGE..large + large_len).step_by(4096);
    places.extend(
        borders
            .zip(distances)
            .map(|(border, before)| border - before),
    );
    for &place in &places {
        vm.write(place, &secret);
    }
    let read = |from: u64, to: u64| -> String {
        let slot = vm.slot_at(from);
        digits(&slot.mapping.read(from - slot.gpa, to - from))
    };
    let by_insmod: fn(&Inspection) -> Report = Inspection::report_by_insmod;
    for (context, inspect) in [(64, by_insmod), (1, Inspection::report)] {
        let inspection = Inspection::of_self()
            .patterns(&[hex(&secret)])
            .set("context", context)
            .set("max_hits", 2000);
        let report = inspect(&inspection);
        let mut expected = vm.hits(0, &places);
        for hit in &mut expected {
            let slot = vm.slot_at(hit.gpa);
            let from = (hit.gpa - context).max(slot.gpa);
            let to = (hit.gpa + 256 + context).min(slot.gpa + slot.len);
            hit.bytes = Some(read(from, to));
        }
        assert_eq!(report.hits, expected, "with context={context}");
    }
    let report = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 2000)
        .report();
    assert_eq!(report.hits, vm.hits(0, &places), "no bytes");
    vm.finish();
}

/// Without a pattern nothing is searched, and all else is reported.
fn no_pattern() {
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, 64 * PAGE, Backing::Anonymous)
        .write(5 * PAGE, &[1]);
    let report = Inspection::of_self().report();
    assert_eq!(report.states(), [State::Parked]);
    assert_eq!((report.done.scanned_bytes, report.done.hits), (0, 0));
    vm.assert_slots(&report);
    vm.finish();
}

/// Without `max_pause_ms=` no pause is longer than a second, and the report tells.
fn default_pause() {
    let mut vm = Vm::running(Work::Count);
    let report = Inspection::of_self()
        .unset("max_pause_ms")
        .patterns(&["text:secret"])
        .partial_report_by_insmod();
    assert_eq!(report.limits["max_pause_ms"], 1000);
    let report = Inspection::of_self().report_by_insmod();
    assert_eq!(report.limits["max_pause_ms"], 0);
    vm.finish();
}

/// A VMM with many memslots and vCPUs does not flood the log. All are counted.
fn many_slots() {
    const SLOTS: u64 = 1000;

    let mut vm = Vm::bootable();
    for _ in 0..3 {
        vm.add_vcpu(Mode::Long, Work::Halt);
    }
    let memory = Mapping::new(PAGE, Backing::Anonymous);
    memory.touch_all();
    for index in 0..SLOTS {
        vm.add_mapping(MIB + 2 * index * PAGE, &memory);
    }
    let inspection = Inspection::of_self();
    let report = inspection.report_by_insmod();
    assert_eq!(report.slots.len(), 128);
    let all = report.omitted_slots + 128;
    // KVM has some of its own.
    assert!((SLOTS..SLOTS + 16).contains(&all), "{all} slots");
    assert_eq!((report.vcpus.len(), report.omitted_vcpus), (3, 0));
    let report = inspection
        .set("max_slots", 0)
        .set("max_vcpus", 1)
        .patterns(&["hex:??00"])
        .report_by_insmod();
    assert_eq!((report.slots.len(), report.omitted_slots), (0, all));
    assert_eq!((report.vcpus.len(), report.omitted_vcpus), (1, 2));
    assert!(
        report.done.scanned_bytes >= SLOTS * PAGE,
        "{:?}",
        report.done
    );
    let report = Inspection::of_self()
        .set("max_slots", all)
        .report_by_insmod();
    assert_eq!(report.omitted_slots, 0);
    vm.assert_slots(&report);
    vm.finish();
}

/// The module warns of a report that is longer than the kernel log. Who reads it meanwhile gets all
/// of it, and who does so afterwards sees what is missing.
fn long_report() {
    const HITS: usize = 2000;

    let mut vm = Vm::running(Work::Halt);
    vm.add_memory(MIB, 64 * PAGE, Backing::Anonymous)
        .touch_all();
    let secret = secret(64, 16);
    let places: Vec<u64> = (0..HITS as u64).map(|index| MIB + index * 100).collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", HITS)
        .set("context", 64);
    let mut log = KernelLog::from_now().expect("the kernel log can be read");
    let mut loaded = inspection.load();
    let (reports, others) = loaded.reports_and_others();
    assert!(
        others.len() == 1 && others[0].contains("log_buf_len="),
        "{others:#?}"
    );
    assert_eq!(reports[0].hits_of(0), places);
    assert!(loaded.unload().is_empty());

    log.lines().expect_err("lines were lost");
    let lines = log.module_lines().expect("the rest can be read");
    let error = Output::parse(&lines).expect_err("lines are missing");
    let ParseError::LinesLost(lost) = error else {
        panic!("{error}");
    };
    assert_eq!((lost.len(), *lost[0].start()), (1, 1), "{lost:?}");
    vm.finish();
}

/// With `interval_ms=` reports follow each other, each about the memory of its time. The VMM sees
/// no `EINTR` after the first freeze.
fn interval() {
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::Halt, Work::PortIo] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.add_memory(MIB, 64 * PAGE, Backing::Anonymous)
        .touch_all();
    let secret = secret(63, 16);
    let mut loaded = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("interval_ms", 20)
        .load();
    // `insmod` has returned, and there is one report.
    let first = loaded.reports();
    assert_eq!(first[0].states(), [State::Outside; 3]);
    assert_eq!(first[0].done.hits, 0);
    // From here on each KVM_RUN comes after the module.
    vm.start();

    let mut seen = 0;
    let mut wait_for = |what: &str, is_it: &dyn Fn(&Report) -> bool| {
        wait_until(what, || {
            let reports = loaded.reports();
            for report in &reports {
                assert_eq!(report.done.result, Conclusion::Ok);
                vm.assert_slots(report);
            }
            seen += reports.len();
            reports.iter().any(is_it)
        });
    };
    wait_for("a report with all vCPUs parked", &|report| {
        report.states() == [State::Parked; 3]
    });
    let places = [MIB + 123, MIB + 33 * PAGE - 1];
    for count in 1..=2 {
        vm.write(places[count - 1], &secret);
        let expected = vm.hits(0, &places[..count]);
        wait_for("the hits of a report", &|report| report.hits == expected);
    }
    for _ in 0..20 {
        wait_for("one more report", &|report| report.hits.len() == 2);
    }
    assert!(seen >= 20, "{seen} reports");
    vm.wait_until_it_goes_on();
    let rest = loaded.unload();
    assert!(rest.iter().all(|report| report.hits.len() == 2));
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// No pause is longer than `max_pause_ms=`. The rest is searched in further pauses, between which
/// the guest runs.
fn max_pause() {
    let mut vm = Vm::running(Work::Count);
    let memory = Mapping::new(16 * MIB, Backing::Anonymous);
    let hits = fill_with_matches(&memory, 1, 40);
    // The slowest search.
    let inspection = Inspection::of_self()
        .patterns(&[hex(&MATCH)])
        .set("engine", "portable")
        .set("threads", 1);
    let Long { whole, times } = lengthen(&mut vm, MIB, &memory, &inspection, long_us);
    let hits = times * hits;
    let shown: Vec<u64> = (MIB..)
        .take(25)
        .chain((MIB + PAGE..).take(25))
        .chain(MIB + 2 * PAGE..)
        .take(64)
        .collect();
    assert_eq!(whole.hits, vm.hits(0, &shown));
    assert_eq!(whole.done.hits, hits);
    assert_eq!(
        (whole.done.pauses, whole.done.paused_us),
        (1, whole.done.pause_us)
    );

    // An eighth of it. The emulator may need three more to schedule a thread that is due.
    let whole_us = whole.done.scan_us;
    let in_pauses = inspection.clone();
    let in_pauses = in_pauses.set("max_pause_ms", whole_us / 8000);
    let mut tries = (0..TRIES).map(|_| in_pauses.report());
    let report = tries.find(|report| report.done.pause_us < whole_us / 2 && report.done.pauses > 2);
    let report = report.expect("no pause is too long");
    let done = &report.done;
    assert!(done.paused_us > done.pause_us, "{done:?}");
    // The guest counts all the time, so its first page differs in each pause.
    assert!(done.rescanned_bytes > 0, "{done:?}");
    assert_eq!((&report.hits, done.hits), (&whole.hits, hits));
    assert_eq!(done.scanned_bytes, LOW_MEMORY + times * memory.len());
    vm.assert_slots(&report);
    vm.wait_until_it_goes_on();

    // Long enough for all of it.
    let report = inspection.set("max_pause_ms", 3_600_000).report();
    assert_eq!((&report.hits, report.done.hits), (&whole.hits, hits));
    assert_eq!(report.done.pauses, 1);
    vm.finish();
}

/// A pause ends within a chunk if that takes longer: each byte is a match.
fn max_pause_dense() {
    const CHUNKS: u64 = 2;

    let mut vm = Vm::bootable();
    for _ in 0..2 {
        vm.add_vcpu(Mode::Long, Work::Halt);
    }
    vm.start();
    let size = CHUNKS * (256 << 10);
    vm.add_memory(MIB, size, Backing::Anonymous)
        .fill_all(&MATCH[..1]);
    // As many patterns as needed to make a chunk take long, compared with a freeze.
    let mut lens = 16..17;
    let (inspection, alone) = loop {
        let patterns = lens.clone().map(|len| hex(&vec![MATCH[0]; len]));
        let patterns: Vec<String> = patterns.collect();
        let inspection = Inspection::of_self().patterns(&patterns);
        let alone = inspection.clone().set("threads", 1).shortest(3);
        if alone.done.scan_us / CHUNKS > 16 * freeze_us(&alone) {
            break (inspection, alone);
        }
        lens.end += lens.len();
        assert!(lens.end < 256, "too quick: {:?}", alone.done);
    };
    println!("{} patterns", lens.len());
    let hits = lens.map(|len| size + 1 - len as u64).sum::<u64>();
    assert_eq!(alone.done.hits, hits);
    let chunk_us = alone.done.scan_us / CHUNKS;
    for threads in [1, 3] {
        let inspection = inspection.clone().set("threads", threads);
        let in_pauses = inspection.set("max_pause_ms", chunk_us / 4000);
        let mut tries = (0..TRIES).map(|_| in_pauses.report());
        let report =
            tries.find(|report| report.done.pause_us < chunk_us * 2 / 3 && report.done.pauses > 3);
        let report = report.expect("all pauses are shorter than a chunk takes");
        let done = &report.done;
        assert_eq!((&report.hits, done.hits), (&alone.hits, hits));
        assert_eq!(
            (done.scanned_bytes, done.rescanned_bytes),
            (LOW_MEMORY + size, 0),
            "what was cut is searched once"
        );
        vm.assert_slots(&report);
    }
    vm.finish();
}

/// A pause ends within a page, too: each byte is a match of 256 patterns, which takes very long.
fn max_pause_all_match() {
    const MOST_MS: u64 = 200;

    let mut vm = Vm::running(Work::Halt);
    vm.add_memory(MIB, 2 * PAGE, Backing::Anonymous)
        .fill_all(&MATCH[..1]);
    let patterns: Vec<String> = (1..=256).map(|len| hex(&vec![MATCH[0]; len])).collect();
    let inspection = Inspection::of_self()
        .patterns(&patterns)
        .set("max_pause_ms", MOST_MS);
    let mut tries = (0..TRIES).map(|_| inspection.partial_report());
    // The emulator may need some more to schedule a thread that is due.
    let report = tries.find(|report| report.done.pause_us < 3 * MOST_MS * 1000);
    let report = report.expect("a pause that ends in time");
    assert!(report.done.hits > 0, "it gets on: {:?}", report.done);
    vm.finish();
}

/// A pause ends in time though a thread that helps gets no CPU any more. What that had begun is
/// searched by others.
fn max_pause_late_helper() {
    let memory = Mapping::new(16 * MIB, Backing::Anonymous);
    let hits = fill_with_matches(&memory, 1, 40);
    late_helper(&memory, hits);
}

/// A pause ends in time, too, though that thread keeps others from getting something to search: it
/// is looking for the next page that is there.
fn max_pause_late_in_queue() {
    const SHARE: u64 = 64;

    let memory = Mapping::new(64 * MIB, Backing::Anonymous);
    for chunk in 0..memory.len() / CHUNK {
        if chunk % SHARE == 0 {
            memory.write(chunk * CHUNK, &[1]);
        }
        // What is absent for another reason than the page before is looked at by itself: this one
        // is the zero page, that one is in no page table.
        for page in (1..CHUNK / PAGE).step_by(2) {
            memory.read(chunk * CHUNK + page * PAGE, 1);
        }
    }
    late_helper(&memory, 0);
}

/// Inspects a VM with `memory`, in which `hits` matches are, while the thread of its vCPU often
/// loses its CPU.
fn late_helper(memory: &Arc<Mapping>, hits: u64) {
    const DISTURBED: usize = 12;

    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Halt);
    vm.start();
    let inspection = Inspection::of_self().patterns(&[hex(&MATCH)]);
    let alone = inspection.clone().set("threads", 1);
    let Long { whole, times } = lengthen(&mut vm, MIB, memory, &alone, long_us);
    let most_us = whole.done.scan_us / 4;
    let thread = vm.vcpu(0).tid();
    pin(0, own_pid());
    pin(1, thread);
    let stop = AtomicBool::new(false);
    let mut in_time = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            // It takes the CPU of the vCPU's thread whenever that is parked, or helps.
            pin(1, 0);
            run_before_all_others();
            while !stop.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
                if module_thread().is_some() {
                    let begun = Instant::now();
                    while begun.elapsed() < Duration::from_micros(4 * most_us) {
                        std::hint::spin_loop();
                    }
                }
            }
        });
        let in_pauses = inspection
            .clone()
            .set("threads", 2)
            .set("max_pause_ms", most_us / 1000);
        for _ in 0..10 * TRIES {
            // By `insmod`: its thread is there only while it inspects. Otherwise the vCPU's was
            // late before it was parked.
            let Ok(loaded) = in_pauses.try_load() else {
                continue;
            };
            let Some(report) = loaded.unload().pop() else {
                continue;
            };
            let done = report.done;
            println!(
                "{} us of {most_us}, {} late",
                done.pause_us, done.late_threads
            );
            assert!(
                done.hits <= times * hits,
                "nothing is counted twice: {done:?}"
            );
            let is_in_time = done.pause_us < 2 * most_us;
            if done.late_threads > 0 || !is_in_time {
                in_time.push(is_in_time);
            }
            if in_time.len() == DISTURBED {
                break;
            }
        }
        stop.store(true, SeqCst);
    });
    // Other work on the machine prolongs some.
    let good = in_time.iter().filter(|is_in_time| **is_in_time).count();
    assert!(
        good > 0 && good * 6 >= in_time.len() * 5,
        "pauses with a late thread that ended in time: {good} of {}",
        in_time.len()
    );
    // A freeze that is broken off, as those for which it was late before it was parked, may be
    // seen.
    vm.wait_until_it_goes_on();
}

/// Makes the current thread one that runs before all ordinary ones.
fn run_before_all_others() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: The structure is valid.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// However much memory hits take, it is known to the chunk what is covered, and the report says how
/// large chunks are.
fn coverage() {
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, 16 * MIB, Backing::Anonymous).touch_all();
    let long = secret(64, 256);
    let report = Inspection::of_self()
        .patterns(&[hex(&long)])
        .set("max_hits", 16384)
        .set("context", 64)
        .set("max_pause_ms", 3_600_000)
        .report();
    assert_eq!(report.done.chunk_bytes, 256 << 10);
    // Hundreds of gigabytes, none of it touched.
    for (id, gpa) in (20..).zip((1..7).map(|index| index << 37)) {
        let memory = Mapping::new(1 << 37, Backing::Anonymous);
        vm.add(Slot::of(id, gpa, &memory));
    }
    let report = Inspection::of_self()
        .patterns(&[hex(&long)])
        .set("max_pause_ms", 3_600_000)
        .report();
    assert!(report.done.chunk_bytes > 256 << 10, "{:?}", report.done);
    let report = Inspection::of_self().patterns(&[hex(&long)]).report();
    assert_eq!(report.done.chunk_bytes, 0, "one pause needs no chunks");
    vm.finish();
}
