// SPDX-License-Identifier: GPL-2.0

//! All memory is searched, and left as it was.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use kvm_inspect_tool::report::Hit;

use super::{secret, Case};
use crate::{
    inspect::{hex, Inspection},
    process::{huge_kib, own_pid, present_pages, resident_kib, vm_event, PAGE},
    role::{hear, say, Other, Role},
    vmm::{Backing, Mapping, Mode, Slot, Vm, Work, HUGE_PAGE, LOW_MEMORY},
};

pub(super) const CASES: &[Case] = cases![
    borders,
    highest,
    overlaps.with_stock(),
    holes,
    anonymous.with_stock(),
    transparent_huge,
    memfd.with_stock(),
    hugetlb,
    untouched.with_stock(),
    untouched_two_nodes.with_two_nodes().with_stock(),
    numa_hints.with_two_nodes().with_stock(),
    numa_hints_huge.with_two_nodes(),
];

pub(super) const ROLES: &[Role] = roles![mostly_untouched];

const MIB: u64 = 1 << 20;

/// Hits are found across each border of two pages of 8 MiB, and so across each border of windows,
/// and in the first and the last bytes.
fn borders() {
    let mut vm = Vm::running(Work::Count);
    let (gpa, len) = (MIB, 8 * MIB);
    vm.add_memory(gpa, len, Backing::Anonymous).touch_all();

    let secret = secret(1, 16);
    let mut places = vec![0, LOW_MEMORY - 16, gpa];
    for (border, before) in (gpa + PAGE..gpa + len).step_by(4096).zip((1..16).cycle()) {
        places.push(border - before);
    }
    places.push(gpa + len - 16);
    for &place in &places {
        vm.write(place, &secret);
    }
    let report = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 4096)
        .report();
    assert_eq!(report.hits, vm.hits(0, &places));
    assert_eq!(report.done.hits, places.len() as u64);
    Vm::assert_scanned(&report, LOW_MEMORY + len);
    vm.assert_slots(&report);

    // A single byte is found at the very first and the very last address of a range, and not beside
    // it.
    let byte = 0xe7;
    vm.write(gpa, &[byte; 2]);
    vm.write(gpa + len - 2, &[byte; 2]);
    for (first, last, hits) in [
        (gpa, gpa, vec![gpa]),
        (gpa + len - 1, gpa + len - 1, vec![gpa + len - 1]),
    ] {
        let report = Inspection::of_self()
            .patterns(&[hex(&[byte])])
            .ranges(&[format!("{first:#x}-{last:#x}")])
            .report();
        assert_eq!(report.hits, vm.hits(0, &hits));
    }
    vm.finish();
}

/// Hits are found at the highest guest-physical addresses.
fn highest() {
    let mut vm = Vm::running(Work::Halt);
    let end = 1 << physical_address_bits();
    vm.add_memory(end - 4 * PAGE, 4 * PAGE, Backing::Anonymous)
        .touch_all();
    vm.add_memory((4 << 30) - PAGE, 2 * PAGE, Backing::Anonymous)
        .touch_all();

    let secret = secret(2, 24);
    let places = [(4 << 30) - 12, end - 24];
    for place in places {
        vm.write(place, &secret);
    }
    let report = Inspection::of_self().patterns(&[hex(&secret)]).report();
    assert_eq!(report.hits, vm.hits(0, &places));
    vm.assert_slots(&report);
    vm.finish();
}

/// Returns how many bits a guest-physical address has on this machine.
fn physical_address_bits() -> u32 {
    let text = std::fs::read_to_string("/proc/cpuinfo").expect("it can be read");
    let line = text.lines().find(|line| line.starts_with("address sizes"));
    let bits = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    bits.expect("the line says \"address sizes : N bits physical, …\"")
}

/// Matches that overlap each other are all found, of one pattern and of several.
fn overlaps() {
    let mut vm = Vm::running(Work::Spin);
    let gpa = MIB;
    vm.add_memory(gpa, 4 * PAGE, Backing::Anonymous).touch_all();
    let letters = gpa + PAGE - 500;
    vm.write(letters, &[b'a'; 1000]);
    let pairs = gpa + 3 * PAGE - 101;
    vm.write(pairs, &b"xy".repeat(100));

    let report = Inspection::of_self()
        .patterns(&["text:aaaa", "text:xyxy", "text:yxyx", "text:aaaaaaaa"])
        .ranges(&[format!("{gpa:#x}-{:#x}", gpa + 4 * PAGE - 1)])
        .set("max_hits", 4096)
        .report();
    let expected: [Vec<u64>; 4] = [
        (letters..letters + 997).collect(),
        (pairs..pairs + 197).step_by(2).collect(),
        (pairs + 1..pairs + 197).step_by(2).collect(),
        (letters..letters + 993).collect(),
    ];
    for (pattern, places) in expected.iter().enumerate() {
        assert_eq!(&report.hits_of(pattern), places, "pattern {pattern}");
    }
    let count: usize = expected.iter().map(Vec::len).sum();
    assert_eq!(report.done.hits, count as u64);
    vm.finish();
}

/// No match spans a hole between slots or an absent page. Hits after it are found.
fn holes() {
    let mut vm = Vm::running(Work::Halt);
    let secret = secret(3, 32);
    let (first, second) = secret.split_at(16);

    // Neighbours in the VMM, with a hole of one page between them in the guest.
    let mapping = Mapping::new(8 * PAGE, Backing::Anonymous);
    mapping.touch_all();
    let below = Slot {
        len: 4 * PAGE,
        ..Slot::of(1, MIB, &mapping)
    };
    let above = Slot {
        id: 2,
        gpa: MIB + 5 * PAGE,
        offset: 4 * PAGE,
        ..below.clone()
    };
    let (end_below, begin_above) = (below.gpa + below.len, above.gpa);
    vm.add(below);
    vm.add(above);
    vm.write(end_below - 16, first);
    vm.write(begin_above, second);

    // Three pages present, one absent, one discarded, and three present again.
    let gpa = 4 * MIB;
    let sparse = vm.add_memory(gpa, 8 * PAGE, Backing::Anonymous);
    for page in [0, 1, 2, 4, 5, 6, 7] {
        sparse.write(page * PAGE, &[0]);
    }
    vm.write(gpa + 3 * PAGE - 16, first);
    vm.write(gpa + 5 * PAGE, second);
    vm.write(gpa + 2 * PAGE - 7, &secret);
    vm.write(gpa + 6 * PAGE - 7, &secret);
    sparse.discard(4 * PAGE, PAGE);

    let report = Inspection::of_self()
        .patterns(&[hex(&secret), hex(first), hex(second)])
        .report();
    let whole = [gpa + 2 * PAGE - 7, gpa + 6 * PAGE - 7];
    assert_eq!(report.hits_of(0), whole);
    assert_eq!(
        report.hits_of(1),
        [end_below - 16, whole[0], gpa + 3 * PAGE - 16, whole[1]]
    );
    assert_eq!(
        report.hits_of(2),
        [begin_above, whole[0] + 16, gpa + 5 * PAGE, whole[1] + 16]
    );
    assert_eq!(report.done.absent_pages, 2);
    vm.assert_slots(&report);
    vm.finish();
}

/// In pages of 4 KiB.
fn anonymous() {
    kind_of_memory(Backing::Anonymous);
}

/// In transparent huge pages.
fn transparent_huge() {
    kind_of_memory(Backing::TransparentHuge);
}

/// In a file in memory.
fn memfd() {
    kind_of_memory(Backing::Memfd);
}

/// In huge pages of hugetlbfs.
fn hugetlb() {
    kind_of_memory(Backing::HugeTlb);
}

/// Memory of one kind is searched at both ends and across borders of both page sizes, counted to
/// the page, and left as it was.
fn kind_of_memory(backing: Backing) {
    let mut vm = Vm::running(Work::Count);
    let gpa = 64 * MIB;
    let chunk = HUGE_PAGE;
    let memory = vm.add_memory(gpa, 6 * chunk, backing);

    // Touch all of the first and the second huge page, one byte of the fourth, all of the last.
    let huge = matches!(backing, Backing::TransparentHuge | Backing::HugeTlb);
    for offset in (0..2 * chunk).chain(5 * chunk..6 * chunk).step_by(4096) {
        memory.write(offset, &[0]);
    }
    memory.write(3 * chunk + 5 * PAGE, &[0]);
    let expected = (3 * chunk + if huge { chunk } else { PAGE }) / PAGE;
    if backing == Backing::TransparentHuge {
        assert_eq!(
            huge_kib(memory.address()),
            4 * chunk / 1024,
            "the pages are huge"
        );
    }

    let secret = secret(4, 40);
    let offsets = [
        0,
        7 * PAGE - 13,
        chunk - 39,
        2 * chunk - 40,
        3 * chunk + 5 * PAGE,
        5 * chunk,
        6 * chunk - 40,
    ];
    let places = offsets.map(|offset| gpa + offset);
    for place in places {
        vm.write(place, &secret);
    }
    let state = || {
        let pages = present_pages(own_pid(), memory.address(), memory.len() / PAGE);
        let huge = (backing == Backing::TransparentHuge).then(|| huge_kib(memory.address()));
        (pages, huge)
    };
    let before = state();
    let report = Inspection::of_self().patterns(&[hex(&secret)]).report();
    assert_eq!(state(), before, "pages present before and after");
    assert_eq!(report.hits, vm.hits(0, &places));
    vm.assert_slots(&report);
    let slot = report
        .slots
        .iter()
        .find(|slot| *slot.gpa.start() == gpa)
        .expect("the slot");
    assert_eq!(slot.pages.present, expected, "pages present");
    vm.finish();
}

/// In pages of 4 KiB with NUMA hints.
fn numa_hints() {
    with_numa_hints(Backing::Anonymous);
}

/// In transparent huge pages with NUMA hints.
fn numa_hints_huge() {
    with_numa_hints(Backing::TransparentHuge);
}

/// Memory that NUMA balancing has made inaccessible, to see who uses it next, is searched, and
/// stays so.
fn with_numa_hints(backing: Backing) {
    fs::write("/proc/sys/kernel/numa_balancing", "1").expect("the kernel has NUMA balancing");
    for (file, value) in [
        ("scan_delay_ms", "100"),
        ("scan_period_min_ms", "100"),
        ("scan_period_max_ms", "100"),
    ] {
        let path = format!("/sys/kernel/debug/sched/numa_balancing/{file}");
        fs::write(path, value).expect("it can be hastened");
    }
    let mut vm = Vm::running(Work::Spin);
    let (gpa, len) = (64 * MIB, 12 * MIB);
    let memory = vm.add_memory(gpa, len, backing);
    memory.touch_all();
    let secret = secret(6, 32);
    let places: Vec<u64> = (gpa..gpa + len).step_by(1 << 20).collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    let entries = match backing {
        Backing::TransparentHuge => len / HUGE_PAGE,
        _ => len / PAGE,
    };
    let mut tries = (0..100).map(|_| {
        // Balancing works in running tasks, by their run time.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            std::hint::spin_loop();
        }
        let report = Inspection::of_self().patterns(&[hex(&secret)]).report();
        assert_eq!(report.hits, vm.hits(0, &places));
        assert_eq!(report.done.absent_pages, 0);
        // Entries that were inaccessible, and still are, fault now.
        let before = vm_event("numa_hint_faults");
        for offset in (0..len).step_by(4096) {
            memory.read(offset, 1);
        }
        let faults = vm_event("numa_hint_faults") - before;
        println!("{faults} of {entries} entries were inaccessible");
        faults >= entries * 9 / 10
    });
    assert!(tries.any(|most| most), "most was never inaccessible");
    vm.finish();
}

/// The memory of [`mostly_untouched`], and the distance of its touched pages.
const GIANT: u64 = 4 << 30;
const GIANT_GPA: u64 = 4 << 30;
const GIANT_STEP: u64 = 1000 * PAGE;

/// [`untouched`] on a host with two NUMA nodes.
fn untouched_two_nodes() {
    untouched();
}

/// No page of a large VM that uses little memory is faulted in.
fn untouched() {
    let mut vmm = Other::start("mostly_untouched", &[]);
    let address: u64 = vmm.hear().parse().expect("an address");
    let pid = vmm.pid();
    let secret = secret(5, 32);

    let pages = || present_pages(pid, address, GIANT / PAGE);
    let untouched = pages();
    let mut inspect = || {
        let report = Inspection::of(pid).patterns(&[hex(&secret)]).report();
        assert_eq!(vmm.ask("check"), "right");
        report
    };
    // Once beforehand: then the VMM's own code for all this is present.
    inspect();
    let before = resident_kib(pid);
    let report = inspect();
    assert_eq!(resident_kib(pid), before, "resident KiB after and before");
    assert!(
        pages() == untouched,
        "the same pages are present after and before"
    );

    let places: Vec<u64> = (GIANT_STEP..GIANT)
        .step_by(usize::try_from(GIANT_STEP).expect("64 bits"))
        .collect();
    let hit = |&offset: &u64| Hit {
        space: 0,
        gpa: GIANT_GPA + offset,
        pattern: 0,
        slot: 1,
        hva: address + offset,
        bytes: None,
    };
    let hits: Vec<Hit> = places.iter().map(hit).take(64).collect();
    assert_eq!(report.hits, hits);
    assert_eq!(report.done.hits, places.len() as u64);
    let present = places.len() as u64;
    assert_eq!(report.slots[1].pages.present, present);
    assert_eq!(report.done.absent_pages, GIANT / PAGE - present);
    Vm::assert_scanned(&report, LOW_MEMORY + present * PAGE);
    vmm.tell("end");
    vmm.finish();
}

/// A VMM with 4 GiB that has touched every 1000th page. It has read one more page, but never
/// written it: that is the shared page of zeros.
fn mostly_untouched(_: &[&str]) {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Halt);
    let memory: Arc<Mapping> = vm.add_memory(GIANT_GPA, GIANT, Backing::Anonymous);
    let secret = secret(5, 32);
    for offset in (GIANT_STEP..GIANT).step_by(usize::try_from(GIANT_STEP).expect("64 bits")) {
        memory.write(offset, &secret);
    }
    assert_eq!(memory.read(PAGE, 1), [0]);
    vm.start();
    say(&memory.address().to_string());
    while hear() == "check" {
        assert_eq!(vm.vcpu(0).interruptions(), 0);
        say("right");
    }
    vm.finish();
}
