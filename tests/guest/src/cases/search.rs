// SPDX-License-Identifier: GPL-2.0

//! How memory is searched: by whom, in which way, in one pause or in several. Whatever the way, what is
//! found must be the same.

use std::{
    fs,
    ops::Range,
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use guest::{command_line::parameter, protocol::ENGINE_PARAMETER};
use rustix::io::Errno;

use super::{secret, some, times, Case, Random};
use crate::{
    init::{less_memory, slowness},
    inspect::{hex, Inspection},
    process::{cpu_time, process_state, wait_within, PAGE},
    report::Report,
    vmm::{Backing, Mapping, Mode, Vcpu, Vm, Work},
};

pub(super) const CASES: &[Case] = &[
    Case::new("search_itext", itext).with_stock(),
    Case::new("search_ways", ways).within(200).with_stock(),
    Case::new("search_threads", threads).within(120),
    Case::new("search_killed", killed).within(200),
    Case::new("search_lowest_hits", lowest_hits).with_stock(),
    Case::new("search_sparse", sparse).within(120).with_stock(),
    Case::new("search_own_memory", own_memory)
        .within(120)
        .with_stock(),
    Case::new("search_pauses_still", pauses_still)
        .within(120)
        .with_stock(),
    Case::new("search_pauses_moving", pauses_moving)
        .within(200)
        .with_stock(),
    Case::new("search_pauses_writing", pauses_writing)
        .within(120)
        .with_stock(),
    Case::new("search_refused", refused),
];

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What is handed out at once to those who search, aligned to the beginning of the slot.
const CHUNK: u64 = 256 << 10;

/// How pages may be read.
const ACCESSES: [&str; 3] = ["linear", "vmap", "copy"];

/// What may search on this CPU, the best one first.
fn engines() -> Vec<&'static str> {
    let info = fs::read_to_string("/proc/cpuinfo").expect("it can be read");
    let flags = info.lines().find(|line| line.starts_with("flags"));
    let has = |flag: &str| flags.is_some_and(|flags| flags.split(' ').any(|has| has == flag));
    let mut engines = vec!["portable"];
    if has("avx2") {
        engines.insert(0, "avx2");
        if has("avx512bw") && has("avx512vl") && has("avx512vbmi") {
            engines.insert(0, "avx512");
        }
    }
    engines
}

/// What stands very often where [`fill_with_matches`] was.
pub(super) const MATCH: [u8; 16] = [0x5a; 16];

/// Makes the search of memory slow, whatever searches: the first `len` bytes of each `step`th page are full
/// of matches. How many there are.
pub(super) fn fill_with_matches(memory: &Mapping, step: usize, len: usize) -> u64 {
    let pages = (0..memory.len() / PAGE).step_by(step);
    let bytes = vec![MATCH[0]; len];
    for page in pages.clone() {
        memory.write(page * PAGE, &bytes);
    }
    (pages.count() * (len - MATCH.len() + 1)) as u64
}

/// Letters of either case, and nothing else that differs from them by one bit.
fn itext() {
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, 4 * PAGE, Backing::Anonymous).touch_all();
    let written: [(u64, &[u8]); 6] = [
        (0x100, b"PassWord: [1]"),
        (0x200, b"password: [1]"),
        (0x300, b"PASSWORD: {1}"),
        (0x400, b"\x10assword: [1]"),
        (PAGE - 4, b"paSSwoRD: [1]"),
        (0x500, b"p\x01ssword: [1]"),
    ];
    for (offset, bytes) in written {
        vm.write(MIB + offset, bytes);
    }
    let report = Inspection::of_self()
        .patterns(&[r"itext:pAssword:\s[1]", "itext:PASSWORD", "text:password"])
        .report();
    let at = |offsets: &[u64]| -> Vec<u64> { offsets.iter().map(|offset| MIB + offset).collect() };
    assert_eq!(report.hits_of(0), at(&[0x100, 0x200, PAGE - 4]));
    assert_eq!(report.hits_of(1), at(&[0x100, 0x200, 0x300, PAGE - 4]));
    assert_eq!(report.hits_of(2), at(&[0x200]));
    vm.finish();
}

/// Matches at each offset around each kind of border, with and without the bytes around them, in
/// each way in which memory can be read and searched.
fn ways() {
    // No way is left out without notice.
    let best = parameter(ENGINE_PARAMETER).expect("the harness says it");
    assert_eq!(engines()[0], best);
    let mut vm = Vm::running(Work::Halt);
    // Two slots that are neighbours in the guest, and not in the VMM, the first one with a part of a
    // chunk at its end; and one of huge pages.
    let (first, second) = (MIB, MIB + 3 * CHUNK + 5 * PAGE);
    let huge = 16 * MIB;
    vm.add_memory(first, second - first, Backing::Anonymous)
        .touch_all();
    let neighbour = vm.add_memory(second, 2 * CHUNK, Backing::Anonymous);
    neighbour.touch_all();
    // With a hole: what is there begins in the middle of a chunk.
    neighbour.discard(CHUNK + 3 * PAGE, 7 * PAGE);
    vm.add_memory(huge, 4 * MIB, Backing::TransparentHuge)
        .touch_all();

    let secret = secret(200, 21);
    // A short pattern, or one with open bits, is searched for in another way than a long one.
    let mut short = hex(&secret[..6]);
    short.replace_range("hex:".len() + 2.."hex:".len() + 3, "?");
    let patterns = [hex(&secret), short];
    let borders = [
        first + 64,
        first + PAGE,
        first + CHUNK,
        first + 2 * CHUNK,
        second,
        second + CHUNK,
        huge + CHUNK,
        huge + 2 * MIB,
    ];
    let set = |before: u64| -> Vec<u64> {
        let places = borders.iter().map(|border| border - before);
        let mut places: Vec<u64> = places.collect();
        places.push(second + CHUNK + 10 * PAGE + 42 - before);
        places.sort_unstable();
        places
    };
    // How far before the border it begins: it ends just there, it has one byte on one side, …
    for (index, before) in some([20, 21, 0, 11, 1, 22]).enumerate() {
        let places = set(before);
        for &place in &places {
            vm.write(place, &secret);
        }
        for access in ACCESSES {
            for engine in engines() {
                let context = if index % 2 == 0 { 0 } else { 64 };
                let report = Inspection::of_self()
                    .patterns(&patterns)
                    .set("access", access)
                    .set("engine", engine)
                    .set("context", context)
                    .report();
                assert_eq!(
                    (&*report.done.access, &*report.done.engine),
                    (access, engine)
                );
                for pattern in 0..patterns.len() {
                    let found = report.hits_of(pattern);
                    assert_eq!(found, places, "{pattern} {access} {engine} at {before}");
                }
                if context > 0 {
                    for hit in &report.hits {
                        let bytes = hit.bytes.as_ref().expect("they were asked for");
                        assert!(bytes.contains(&hex(&secret)["hex:".len()..]), "{hit:?}");
                    }
                }
                vm.assert_slots(&report);
            }
        }
        for &place in &places {
            vm.write(place, &[0; 21]);
        }
    }
    vm.finish();
}

/// What several threads find is what one finds, and they do search.
fn threads() {
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::Halt, Work::PortIo] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    let size = less_memory(16 * MIB);
    vm.add_memory(MIB, size, Backing::Anonymous).touch_all();
    let secret = secret(201, 16);
    let places: Vec<u64> = (MIB..MIB + size - 16).step_by(200_003).collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    let expected = vm.hits(0, &places);
    let mut most = 0;
    let all = [1, 2, 4, 16].into_iter();
    let all = all.flat_map(|threads| ACCESSES.map(|access| (threads, access)));
    for (threads, access) in some(all) {
        let report = Inspection::of_self()
            .patterns(&[hex(&secret)])
            .set("max_hits", 2000)
            .set("threads", threads)
            .set("access", access)
            .report();
        assert_eq!(report.hits, expected, "threads={threads} access={access}");
        assert!((1..=threads).contains(&report.done.threads));
        most = most.max(report.done.threads);
        vm.assert_slots(&report);
    }
    assert!(most > 1, "nobody has helped");
    // One means the inspecting one: it does not rely on a thread that comes and goes.
    let inspection = Inspection::of_self().patterns(&[hex(&secret)]);
    let mut loaded = inspection.set("threads", 1).set("interval_ms", 1).load();
    let mut reports = 0;
    let mut check = |report: &Report| {
        let done = &report.done;
        let seen = (done.result.as_str(), done.threads, done.pauses, done.hits);
        assert_eq!(seen, ("ok", 1, 1, places.len() as u64));
        reports += 1;
        reports
    };
    wait_within(Duration::from_secs(90), "the inspections", || {
        loaded.reports().iter().map(&mut check).max() >= Some(times(12))
    });
    loaded.unload().iter().for_each(|report| {
        check(report);
    });
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// Who helps to search is killed meanwhile, and the VM lives on: what it has not searched others do, once.
fn killed() {
    /// The vCPUs whose threads can be killed alone.
    const ALONE: Range<usize> = 1..3;
    const SHOWN: u64 = 100;

    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::Halt, Work::Halt] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    vm.vcpus()[ALONE].iter_mut().for_each(Vcpu::stop);
    // Each second page is not there: a chunk consists of many windows, and may be left between them.
    let size = less_memory(32 * MIB);
    let memory = vm.add_memory(MIB, size, Backing::Anonymous);
    let hits = fill_with_matches(&memory, 2, 128);
    let shown: Vec<u64> = (MIB..MIB + SHOWN).collect();
    let check = |vm: &Vm, report: &Report| {
        // What is left out shows, and what is searched twice.
        assert_eq!(report.done.hits, hits, "{:?}", report.done);
        assert_eq!(report.hits, vm.hits(0, &shown));
        assert_eq!(report.done.uncovered_bytes, 0);
        assert!(report.done.threads <= 4, "{:?}", report.done);
        Vm::assert_scanned(report, crate::vmm::LOW_MEMORY + size / 2);
        vm.assert_slots(report);
    };

    let inspection = Inspection::of_self()
        .patterns(&[hex(&MATCH)])
        .set("max_hits", SHOWN)
        .set("engine", "portable")
        .set("threads", 4);
    let in_pauses = inspection.clone().set("max_pause_ms", 4 * short_pause());
    let mut random = Random::new();
    let (mut kills, mut while_searching, mut most) = (0, 0, 0);
    for (inspection, rounds) in [(inspection, times(6)), (in_pauses, times(6))] {
        start_alone(&mut vm, ALONE);
        let whole = inspection.report();
        check(&vm, &whole);
        let before = while_searching;
        for _ in 0..rounds {
            let report = thread::scope(|scope| {
                let alone = &mut vm.vcpus()[ALONE];
                // One that halts takes time for nothing but the search.
                let used = |vcpu: &Vcpu| cpu_time(vcpu.pid());
                let before: Vec<Duration> = alone.iter().map(used).collect();
                let loading = scope.spawn(|| inspection.report());
                for (vcpu, before) in alone.iter_mut().zip(before) {
                    // There is half a CPU for each who searches.
                    let some = Duration::from_micros(random.below(whole.done.scan_us / 3));
                    let enough = Duration::from_millis(20) * slowness() + some;
                    let searches = |vcpu: &Vcpu| {
                        used(vcpu) - before > enough && process_state(vcpu.pid()) == 'R'
                    };
                    while !loading.is_finished() {
                        if searches(vcpu) {
                            while_searching += 1;
                            break;
                        }
                        thread::sleep(Duration::from_millis(1));
                    }
                    vcpu.stop();
                    kills += 1;
                }
                let report = loading.join();
                report.expect("a panic would have ended the process")
            });
            check(&vm, &report);
            most = most.max(report.done.threads);
            start_alone(&mut vm, ALONE);
            vm.wait_until_it_goes_on();
        }
        assert!(while_searching > before, "all were killed too late");
        vm.vcpus()[ALONE].iter_mut().for_each(Vcpu::stop);
    }
    println!("counted: helpers_killed={kills} while_searching={while_searching}");
    assert!(most > 2, "{most}: no two of them have helped");
    vm.finish();
}

/// Lets those of some vCPUs that do not run do so, each in a process that can be killed alone.
fn start_alone(vm: &mut Vm, vcpus: Range<usize>) {
    vm.vcpus()[vcpus]
        .iter_mut()
        .for_each(Vcpu::start_in_process);
}

/// Of more hits than are printed it is the lowest ones, whoever finds them first.
fn lowest_hits() {
    let mut vm = Vm::bootable();
    for _ in 0..2 {
        vm.add_vcpu(Mode::Long, Work::Halt);
    }
    vm.start();
    let size = 8 * MIB;
    vm.add_memory(MIB, size, Backing::Anonymous).touch_all();
    let secret = secret(202, 16);
    let places: Vec<u64> = (MIB..MIB + size - 16).step_by(2003).collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    for (most, context) in [(0, 0), (1, 5), (100, 0), (1000, 64)] {
        let report = Inspection::of_self()
            .patterns(&[hex(&secret)])
            .set("max_hits", most)
            .set("context", context)
            .set("threads", 3)
            .report();
        assert_eq!(report.done.hits, places.len() as u64);
        assert_eq!(report.hits_of(0), places[..most]);
        for hit in report.hits.iter().filter(|_| context > 0) {
            let bytes = hit.bytes.as_ref().expect("they were asked for");
            assert!(bytes.contains(&hex(&secret)["hex:".len()..]), "{hit:?}");
        }
    }
    vm.finish();
}

/// A guest costs what it has touched, not what it could have.
fn sparse() {
    let inspect = |size: u64, places: &[u64]| -> u64 {
        let mut vm = Vm::running(Work::Halt);
        let memory = vm.add_memory(4 * GIB, size, Backing::Anonymous);
        let secret = secret(203, 16);
        for offset in (0..16 * MIB).step_by(4096) {
            memory.write(offset, &[1]);
        }
        for &place in places {
            vm.write(4 * GIB + place, &secret);
        }
        let gpas: Vec<u64> = places.iter().map(|place| 4 * GIB + place).collect();
        let pauses = (0..3).map(|_| {
            let report = Inspection::of_self().patterns(&[hex(&secret)]).report();
            assert_eq!(report.hits, vm.hits(0, &gpas));
            vm.assert_slots(&report);
            report.done.pause_us
        });
        let shortest = pauses.min().expect("there are three");
        vm.finish();
        shortest
    };
    let small = inspect(32 * MIB, &[123, 31 * MIB]);
    let large = inspect(64 * GIB, &[123, 31 * MIB, 33 * GIB + 5, 64 * GIB - 16]);
    println!("the pause is {small} us with 32 MiB, {large} us with 64 GiB");
    assert!(large < 3 * small, "{large} us, and {small} us");
}

/// The module's own memory stays small, whatever the size of the guest.
fn own_memory() {
    const MOST: u64 = 8 * MIB;

    let mut vm = Vm::running(Work::Count);
    let memory = vm.add_memory(4 * GIB, 64 * GIB, Backing::Anonymous);
    let secret = secret(204, 256);
    for offset in (0..64 * MIB).step_by(4096) {
        memory.write(offset, &[1]);
    }
    vm.write(4 * GIB, &secret);
    // What the kernel has given to anybody by `vmalloc`, of which the module has all that is large.
    let allocated = || -> u64 {
        let info = fs::read_to_string("/proc/vmallocinfo").expect("it can be read");
        let areas = info.lines().filter(|line| line.contains("vmalloc"));
        let size = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        areas.filter_map(size).sum()
    };
    let before = allocated();
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 16384)
        .set("context", 64)
        .set("max_pause_ms", 10 * slowness())
        .set("interval_ms", 1);
    let mut loaded = inspection.load();
    // The module itself is in such memory, too: it counts.
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(3);
    let mut reports = 0;
    while Instant::now() < end || reports == 0 {
        most = most.max(allocated().saturating_sub(before));
        reports += loaded.reports().len();
    }
    let reports = loaded.unload();
    println!("{} KiB at most, {} reports", most >> 10, reports.len());
    assert!(most > 6 * MIB, "{most}: that is not what the module needs");
    assert!(most < MOST + MIB, "{most}");
    vm.finish();
}

/// An inspection in several pauses.
fn in_pauses(patterns: &[String], most_ms: u64) -> Inspection {
    Inspection::of_self()
        .patterns(patterns)
        .set("max_pause_ms", most_ms)
        .set("max_hits", 2000)
}

/// Milliseconds for a pause in which something can be done.
fn short_pause() -> u64 {
    30 * u64::from(slowness())
}

/// Of a guest that writes nothing all is covered, though it runs in between.
fn pauses_still() {
    let mut vm = Vm::bootable();
    for work in [Work::Spin, Work::Halt] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    let size = 64 * MIB;
    vm.add_memory(MIB, size, Backing::Anonymous).fill_all(0x5a);
    let secret = secret(205, 16);
    let places: Vec<u64> = (MIB..MIB + size - 16).step_by(100_003).collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    let patterns = [hex(&secret)];
    for threads in [1, 2] {
        let report = in_pauses(&patterns, short_pause())
            .set("threads", threads)
            .report();
        assert!(report.done.pauses > 1, "{:?}", report.done);
        assert_eq!(report.hits, vm.hits(0, &places));
        assert_eq!(report.done.hits, places.len() as u64);
        assert_eq!(report.done.uncovered_bytes, 0);
        Vm::assert_scanned(&report, crate::vmm::LOW_MEMORY + size);
        vm.assert_slots(&report);
        vm.wait_until_it_goes_on();
    }
    vm.finish();
}

/// Whether the report has a place of the secret, or says that it does not know.
fn is_told(report: &Report, place: u64) -> bool {
    let mut uncovered = report.uncovered.iter();
    report.hits_of(0).contains(&place)
        || uncovered.any(|(_, _, (first, last))| (*first..=*last).contains(&place))
}

/// A secret that is moved while the guest runs, by the VMM, which KVM knows nothing of, from memory that
/// is searched late to memory that was searched early: it is never missed in silence.
fn pauses_moving() {
    let mut vm = Vm::running(Work::Halt);
    let size = 48 * MIB;
    let memory = vm.add_memory(MIB, size, Backing::Anonymous);
    memory.fill_all(0x5a);
    let secret = secret(206, 24);
    let (low, high) = (3 * PAGE + 100, size - 5 * PAGE);
    let patterns = [hex(&secret)];
    let mut random = Random::new();
    let (mut at_low, mut at_high, mut uncovered) = (0, 0, 0);
    for _ in 0..times(8) {
        memory.write(low, &[0x5a; 24]);
        memory.write(high, &secret);
        let mover = {
            let (memory, secret) = (memory.clone(), secret.clone());
            let delay = Duration::from_millis(random.below(1500) * u64::from(slowness()));
            thread::spawn(move || {
                thread::sleep(delay);
                memory.write(low, &secret);
                memory.write(high, &[0x5a; 24]);
            })
        };
        let report = in_pauses(&patterns, short_pause()).partial_report();
        mover.join().expect("it moves it");
        assert!(matches!(&*report.done.result, "ok" | "changed"));
        let [low, high] = [low, high].map(|offset| is_told(&report, MIB + offset));
        assert!(
            low || high,
            "missed: {:?} {:?}",
            report.done,
            report.uncovered
        );
        at_low += u32::from(low && !high);
        at_high += u32::from(high && !low);
        uncovered += u32::from(report.done.uncovered_bytes > 0);
    }
    println!("counted: moved_seen={at_low} moved_late={at_high} moved_uncovered={uncovered}");
    vm.finish();
}

/// Memory that a thread writes to all the time, until it is told to end.
fn write_all_the_time(
    memory: &Arc<Mapping>,
    offsets: impl Iterator<Item = u64> + Clone + Send + 'static,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    let (memory, stop) = (memory.clone(), stop.clone());
    thread::spawn(move || {
        let mut value = 0_u8;
        while !stop.load(SeqCst) {
            value = value.wrapping_add(1);
            for offset in offsets.clone() {
                memory.write(offset, &[value]);
            }
        }
    })
}

/// What changes faster than it can be searched is said; what does not is covered.
fn pauses_writing() {
    let mut vm = Vm::running(Work::Count);
    let size = 48 * MIB;
    let memory = vm.add_memory(MIB, size, Backing::Anonymous);
    memory.fill_all(0x5a);
    let secret = secret(207, 24);
    let places = [MIB + 11 * CHUNK + 5, MIB + size - 24];
    for &place in &places {
        vm.write(place, &secret);
    }
    let patterns = [hex(&secret)];

    // A page of its own, and what the guest counts in: few enough for one pause.
    let stop = Arc::new(AtomicBool::new(false));
    let writer = write_all_the_time(&memory, std::iter::once(7 * PAGE), &stop);
    let report = in_pauses(&patterns, short_pause()).report();
    assert_eq!(report.hits, vm.hits(0, &places));
    assert!(report.done.rescanned_bytes > 0, "{:?}", report.done);
    stop.store(true, SeqCst);
    writer.join().expect("it ends");

    // A byte in each chunk: too many.
    let stop = Arc::new(AtomicBool::new(false));
    let all = (0..size / CHUNK).map(|chunk| chunk * CHUNK + 9 * PAGE);
    let writer = write_all_the_time(&memory, all, &stop);
    let report = in_pauses(&patterns, short_pause()).partial_report();
    stop.store(true, SeqCst);
    writer.join().expect("it ends");
    assert_eq!(report.done.result, "changed");
    assert_eq!(report.left, None);
    assert!(!report.uncovered.is_empty());
    assert!(report.done.uncovered_bytes >= CHUNK);
    assert!(report.done.rescanned_bytes > 0, "{:?}", report.done);
    assert_eq!(report.hits, vm.hits(0, &places), "they have not moved");
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// Ways that there are not.
fn refused() {
    let mut vm = Vm::running(Work::Count);
    let inspection = || Inspection::of_self().patterns(&["text:abc"]);
    for (name, value, why) in [
        ("access", "direct", "access=direct"),
        ("access", "Linear", "access=Linear"),
        ("engine", "sse", "engine=sse"),
        ("engine", "avx", "engine=avx"),
        ("threads", "-1", "threads=-1"),
        ("threads", "17", "threads=17"),
    ] {
        inspection().set(name, value).refused(Errno::INVAL, &[why]);
    }
    for engine in ["avx512", "avx2"] {
        if !engines().contains(&engine) {
            inspection()
                .set("engine", engine)
                .refused(Errno::OPNOTSUPP, &[engine]);
        }
    }
    vm.wait_until_it_goes_on();
    vm.finish();
}
