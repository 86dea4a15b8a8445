// SPDX-License-Identifier: GPL-2.0

//! Ways to search: who searches, with what, in one pause or several. Each must find the same.

pub(super) mod kinds;
mod ksm;
pub(super) mod pauses;
pub(super) mod seams;

use std::{fs, ops::Range, sync::Arc, thread, time::Duration};

use cases::{command_line::parameter, protocol::ENGINE_PARAMETER};
use kvm_inspect_tool::{
    hex::digits,
    report::{Conclusion, Report},
};
use rustix::io::Errno;

use self::ksm::ksm;
use super::{secret, some, times, Case, Random};
use crate::{
    inspect::{hex, Inspection},
    process::{cpu_time, process_state, wait_until, PAGE},
    vmm::{Backing, Mapping, Mode, Vcpu, Vm, Work, LOW_MEMORY},
};

pub(super) const CASES: &[Case] = cases![
    itext.with_stock(),
    access_and_engine.within(600).with_stock(),
    threads,
    killed.within(600).with_stock(),
    lowest_hits.with_stock(),
    sparse.with_stock(),
    own_memory.with_stock(),
    ksm.with_stock(),
    refused,
];

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The size of a chunk: what one thread takes at once. Chunks are aligned to the beginning of the
/// slot.
pub(super) const CHUNK: u64 = 256 << 10;

/// The values of `access=`.
const ACCESSES: [&str; 3] = ["linear", "vmap", "copy"];

/// Returns the engines of this CPU, the best one first.
fn engines() -> Vec<&'static str> {
    let info = fs::read_to_string("/proc/cpuinfo").expect("it can be read");
    let flags = info.lines().find(|line| line.starts_with("flags"));
    let has = |flag: &str| flags.is_some_and(|flags| flags.split(' ').any(|has| has == flag));
    let mut engines = vec!["portable"];
    if has("avx2") {
        engines.insert(0, "avx2");
        if has("avx512bw") && has("avx512vl") && has("avx512vbmi") && has("gfni") {
            engines.insert(0, "avx512");
        }
    }
    engines
}

/// The pattern that [`fill_with_matches`] writes very often.
pub(super) const MATCH: [u8; 16] = [0x5a; 16];

/// Makes any search of memory slow: fills the first `len` bytes of each `step`th page with matches.
/// Returns how many there are.
pub(super) fn fill_with_matches(memory: &Mapping, step: usize, len: usize) -> u64 {
    let pages = (0..memory.len() / PAGE).step_by(step);
    let bytes = vec![MATCH[0]; len];
    for page in pages.clone() {
        memory.write(page * PAGE, &bytes);
    }
    (pages.count() * (len - MATCH.len() + 1)) as u64
}

/// Returns how long a freeze takes, in microseconds, but not less than a few ticks of the kernel's
/// clock.
pub(super) fn freeze_us(report: &Report) -> u64 {
    report.done.freeze_us.max(10_000)
}

/// Returns how long a search must take, in microseconds, to be cut into pauses that are long
/// compared with a freeze.
pub(super) fn long_us(report: &Report) -> u64 {
    40 * freeze_us(report)
}

/// A search that takes long on any machine.
pub(super) struct Long {
    /// The report of all of it.
    pub(super) whole: Report,
    /// How often the memory was added.
    pub(super) times: u64,
}

/// Makes an inspection's search take as long as `needed_us` says of a report, on any machine. Adds
/// `memory` to the VM from `gpa` on, again and again.
pub(super) fn lengthen(
    vm: &mut Vm,
    gpa: u64,
    memory: &Arc<Mapping>,
    inspection: &Inspection,
    needed_us: impl Fn(&Report) -> u64,
) -> Long {
    const MOST: u64 = 4096;
    const MOST_AT_ONCE: u64 = 16;

    let (mut times, mut more) = (0, 1);
    loop {
        for _ in 0..more {
            vm.add_mapping(gpa + times * memory.len(), memory);
            times += 1;
        }
        let whole = inspection.shortest(3);
        let (needed, is) = (needed_us(&whole), whole.done.scan_us.max(1));
        if is >= needed {
            println!(
                "{times} times the memory, {} us of {needed}",
                whole.done.scan_us
            );
            return Long { whole, times };
        }
        assert!(times < MOST, "too quick: {:?}", whole.done);
        // A bit more than it seems, so that the next try suffices.
        let enough = (times * needed).div_ceil(is) * 5 / 4;
        more = enough.saturating_sub(times).clamp(1, MOST_AT_ONCE * times);
    }
}

/// `itext:` finds letters of either case, and no other bytes that differ from them by one bit.
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

/// Finds matches at each offset around each kind of border, with and without context, with each
/// engine and each way to read pages.
fn access_and_engine() {
    // If an engine were missing nobody would notice.
    let best = parameter(ENGINE_PARAMETER).expect("the harness says it");
    assert_eq!(engines()[0], best);
    let mut vm = Vm::running(Work::Halt);
    let borders = add_borders(&mut vm);
    let secret = secret(200, 21);
    // A short pattern, or one with open bits, is searched for in another way than a long one.
    let mut short = hex(&secret[..6]);
    short.replace_range("hex:".len() + 2.."hex:".len() + 3, "?");
    let patterns = [hex(&secret), short];
    // How far before a border the secret begins, and the context: it ends just there, it has one
    // byte on one side, …
    let all = some([(20, 0), (21, 64), (0, 0), (11, 64), (1, 0), (22, 64)]);
    let (without, with): (Vec<_>, Vec<_>) = all.partition(|(_, context)| *context == 0);
    let all = [without, with].into_iter().filter(|all| !all.is_empty());
    for (access, engine, all) in all.flat_map(each_way) {
        let inspection = Inspection::of_self()
            .patterns(&patterns)
            .set("access", access)
            .set("engine", engine)
            .set("context", all[0].1);
        for (before, context) in all {
            println!("{access} {engine}, {before} before each border");
            let places: Vec<u64> = borders.iter().map(|border| border - before).collect();
            places.iter().for_each(|place| vm.write(*place, &secret));
            let report = inspection.report();
            let done = &report.done;
            assert_eq!((&*done.access, &*done.engine), (access, engine));
            assert_found(&report, &places, (context > 0).then_some(&secret));
            vm.assert_slots(&report);
            places.iter().for_each(|place| vm.write(*place, &[0; 21]));
        }
    }
    vm.finish();
}

/// Adds memory with borders of each kind to a VM. Returns where they are, in ascending order.
fn add_borders(vm: &mut Vm) -> Vec<u64> {
    // Two slots that are neighbours in the guest, but not in the VMM. The first one ends within a
    // chunk.
    let (first, second) = (MIB, MIB + 3 * CHUNK + 5 * PAGE);
    let huge = 16 * MIB;
    vm.add_memory(first, second - first, Backing::Anonymous)
        .touch_all();
    let neighbour = vm.add_memory(second, 2 * CHUNK, Backing::Anonymous);
    neighbour.touch_all();
    // With a hole, so that present pages begin within a chunk.
    neighbour.discard(CHUNK + 3 * PAGE, 7 * PAGE);
    vm.add_memory(huge, 4 * MIB, Backing::huge_if_there_are())
        .touch_all();
    vec![
        first + 64,
        first + PAGE,
        first + CHUNK,
        first + 2 * CHUNK,
        second,
        second + CHUNK,
        second + CHUNK + 10 * PAGE + 42,
        huge + CHUNK,
        huge + 2 * MIB,
    ]
}

/// Checks that both patterns were found at these places and nowhere else. The printed bytes have
/// the secret, if there are any.
fn assert_found(report: &Report, places: &[u64], printed: Option<&Vec<u8>>) {
    assert_eq!(report.done.result, Conclusion::Ok);
    for pattern in [0, 1] {
        assert_eq!(report.hits_of(pattern), places, "pattern {pattern}");
    }
    for hit in &report.hits {
        match (&hit.bytes, printed) {
            (Some(bytes), Some(secret)) => assert!(bytes.contains(&digits(secret)), "{hit:?}"),
            (bytes, printed) => assert!(bytes.is_none() && printed.is_none(), "{hit:?}"),
        }
    }
}

/// Returns each way to read pages with each engine, and a copy of `what` for each.
fn each_way<T: Clone>(what: T) -> impl Iterator<Item = (&'static str, &'static str, T)> {
    let ways = ACCESSES
        .into_iter()
        .flat_map(|access| engines().into_iter().map(move |engine| (access, engine)));
    ways.map(move |(access, engine)| (access, engine, what.clone()))
}

/// Several threads find what one finds, and they do search.
fn threads() {
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::Halt, Work::PortIo] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    let size = 8 * MIB;
    vm.add_memory(MIB, size, Backing::Anonymous).touch_all();
    let secret = secret(201, 16);
    let places: Vec<u64> = (MIB..MIB + size - 16).step_by(200_003).collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    let inspection = Inspection::of_self().patterns(&[hex(&secret)]);

    let expected = vm.hits(0, &places);
    let all = [1, 2, 4, 16].into_iter();
    let all = all.flat_map(|threads| ACCESSES.map(|access| (threads, access)));
    for (threads, access) in some(all) {
        let inspection = inspection.clone().set("threads", threads);
        let report = inspection
            .set("max_hits", 2000)
            .set("access", access)
            .report();
        assert_eq!(report.hits, expected, "threads={threads} access={access}");
        assert!((1..=threads).contains(&report.done.threads));
        vm.assert_slots(&report);
    }
    let hits = places.len() as u64;
    wait_for_help(&inspection, hits);
    search_alone(&inspection, hits);
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// Inspects until another thread has helped. They need not come in time each time.
fn wait_for_help(inspection: &Inspection, hits: u64) {
    let inspection = inspection.clone().set("threads", 4);
    wait_until("somebody has helped", || {
        let done = inspection.report().done;
        assert_eq!(done.hits, hits);
        assert!((1..=4).contains(&done.threads));
        done.threads > 1
    });
}

/// Checks that one thread means the inspecting one: the search does not rely on threads that come
/// and go.
fn search_alone(inspection: &Inspection, hits: u64) {
    let inspection = inspection.clone().set("threads", 1);
    for _ in 0..times(12) {
        let done = inspection.report().done;
        let seen = (done.result, done.threads, done.pauses, done.hits);
        assert_eq!(seen, (Conclusion::Ok, 1, 1, hits));
    }
}

/// The vCPUs of [`killed`] that processes run, which can be killed alone.
const ALONE: Range<usize> = 1..3;

/// Threads that help to search are killed, and the VM lives on. Others search what they have left,
/// once.
fn killed() {
    const SHOWN: u64 = 100;

    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::Halt, Work::Halt] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    vm.vcpus()[ALONE].iter_mut().for_each(Vcpu::stop);
    start_alone(&mut vm);
    let inspection = Inspection::of_self()
        .patterns(&[hex(&MATCH)])
        .set("max_hits", SHOWN)
        .set("engine", "portable")
        .set("threads", 4);
    // Each second page is absent. So a chunk has many windows, and may be left between them.
    let memory = Mapping::new(16 * MIB, Backing::Anonymous);
    let hits = fill_with_matches(&memory, 2, 128);
    let Long { whole, times: len } = lengthen(&mut vm, MIB, &memory, &inspection, long_us);
    let shown: Vec<u64> = (MIB..MIB + SHOWN).collect();
    let check = |vm: &Vm, report: &Report| {
        // This shows what is left out, and what is searched twice.
        assert_eq!(report.done.hits, len * hits, "{:?}", report.done);
        assert_eq!(report.hits, vm.hits(0, &shown));
        assert_eq!(report.done.uncovered_bytes, 0);
        assert!(report.done.threads <= 4, "{:?}", report.done);
        Vm::assert_scanned(report, LOW_MEMORY + len * memory.len() / 2);
        vm.assert_slots(report);
    };
    check(&vm, &whole);
    let in_pauses = inspection.clone();
    let in_pauses = in_pauses.set("max_pause_ms", whole.done.scan_us / 4000);
    for inspection in [inspection, in_pauses] {
        kill_often(&mut vm, &inspection, &whole, check);
    }
    vm.finish();
}

/// Inspects the VM of [`killed`] again and again, and kills threads until some were killed while
/// they searched. `whole` is the report of the whole search.
fn kill_often(vm: &mut Vm, inspection: &Inspection, whole: &Report, check: impl Fn(&Vm, &Report)) {
    let mut random = Random::new();
    let (mut rounds, mut while_searching, mut most) = (0, 0, 0);
    // The right moment may be missed, or two helpers may be late.
    while rounds < times(6) || ((while_searching == 0 || most <= 2) && rounds < 60) {
        rounds += 1;
        let report = thread::scope(|scope| {
            let alone = &mut vm.vcpus()[ALONE];
            // A vCPU that halts uses its time for nothing but the search.
            let before: Vec<Duration> = alone.iter().map(|vcpu| cpu_time(vcpu.pid())).collect();
            let loading = scope.spawn(|| inspection.report());
            for (vcpu, before) in alone.iter_mut().zip(before) {
                // More than a freeze takes. Each searching thread has half a CPU or less.
                let some = random.below(whole.done.scan_us / 5);
                let until = before + Duration::from_micros(2 * freeze_us(whole) + some);
                let searches = wait_until_busy(vcpu, until, || loading.is_finished());
                while_searching += u32::from(searches);
                vcpu.stop();
            }
            loading
                .join()
                .expect("a panic would have ended the process")
        });
        check(vm, &report);
        most = most.max(report.done.threads);
        start_alone(vm);
        vm.wait_until_it_goes_on();
    }
    let kills = rounds * 2;
    println!("counted: helpers_killed={kills} while_searching={while_searching}");
    assert!(while_searching > 0, "all were killed too late");
    assert!(most > 2, "{most}: no two of them have helped");
}

/// Waits until a vCPU's process has used more CPU time than `time`, and runs. Returns false if the
/// inspection is over before.
fn wait_until_busy(vcpu: &Vcpu, time: Duration, is_over: impl Fn() -> bool) -> bool {
    while !is_over() {
        if cpu_time(vcpu.pid()) > time && process_state(vcpu.pid()) == 'R' {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Starts the vCPUs [`ALONE`], each in a process of its own.
fn start_alone(vm: &mut Vm) {
    vm.vcpus()[ALONE]
        .iter_mut()
        .for_each(Vcpu::start_in_process);
}

/// `max_hits=` prints the lowest hits, whoever finds them first.
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

/// A search takes as long as the touched memory is large, not the guest.
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
        let inspection = Inspection::of_self().patterns(&[hex(&secret)]);
        let report = inspection.shortest(5);
        assert_eq!(report.hits, vm.hits(0, &gpas));
        vm.assert_slots(&report);
        vm.finish();
        report.done.pause_us
    };
    let small = inspect(32 * MIB, &[123, 31 * MIB]);
    let large = inspect(64 * GIB, &[123, 31 * MIB, 33 * GIB + 5, 64 * GIB - 16]);
    println!("the pause is {small} us with 32 MiB, {large} us with 64 GiB");
    assert!(large < 3 * small, "{large} us, and {small} us");
}

/// The module's own memory stays small, however large the guest is.
fn own_memory() {
    const LEAST: u64 = 11 * MIB;
    const MOST: u64 = 14 * MIB;

    let mut vm = Vm::running(Work::Count);
    let memory = vm.add_memory(4 * GIB, 64 * GIB, Backing::Anonymous);
    let secret = secret(204, 256);
    for offset in (0..16 * MIB).step_by(4096) {
        memory.write(offset, &[1]);
    }
    vm.write(4 * GIB, &secret);
    // All memory from `vmalloc`. The module has all its large pieces from there.
    let allocated = || -> u64 {
        let info = fs::read_to_string("/proc/vmallocinfo").expect("it can be read");
        let areas = info.lines().filter(|line| line.contains("vmalloc"));
        let size = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        areas.filter_map(size).sum()
    };
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 16384)
        .set("context", 64);
    let whole = inspection.report_by_insmod();
    let before = allocated();
    let pause_us = (whole.done.pause_us / 4).max(5 * freeze_us(&whole));
    let mut loaded = inspection
        .set("max_pause_ms", pause_us / 1000)
        .set("interval_ms", 1)
        .load();
    // The module itself is in such memory, too, and counts.
    let (mut most, mut reports) = (0, 0);
    while reports < 5 || (most <= LEAST && reports < 200) {
        wait_until("a report", || {
            most = most.max(allocated().saturating_sub(before));
            let more = loaded.reports().len();
            reports += more;
            more > 0
        });
    }
    loaded.unload();
    println!("{} KiB at most, {reports} reports", most >> 10);
    assert!(most > LEAST, "{most}: that is not what the module needs");
    assert!(most < MOST + MIB, "{most}");
    vm.finish();
}

/// Unknown ways to search are refused.
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
