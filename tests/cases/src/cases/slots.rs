// SPDX-License-Identifier: GPL-2.0

//! Memslots of all kinds and numbers are searched, and those of system management mode.

use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_inspect_tool::report::{Conclusion, State};

use super::{secret, Case};
use crate::{
    inspect::{hex, Inspection},
    process::PAGE,
    vmm::{Backing, Mapping, Mode, Slot, Vm, Work, HUGE_PAGE, LOW_MEMORY},
};

pub(super) const CASES: &[Case] = cases![
    borders,
    flags,
    many.with_stock(),
    smm,
    none,
    private.with_debug(),
];

const MIB: u64 = 1 << 20;

/// Matches across the borders of slots are found, and belong to the slot where they begin. The
/// slots are neighbours in the guest, but not in the VMM.
fn borders() {
    let mut vm = Vm::running(Work::Spin);
    let mut borders = Vec::new();
    let mut gpa = MIB;
    // Of one page, where the longest pattern fits; of many pages; and up to exactly 2 MiB from the
    // beginning, which is a border of two huge pages as well.
    let lens = [
        PAGE,
        PAGE,
        3 * PAGE,
        HUGE_PAGE - 5 * PAGE,
        16 * PAGE,
        PAGE,
        HUGE_PAGE,
    ];
    // The last one is mapped first: addresses in the VMM descend while those in the guest ascend.
    let mut mappings = lens.map(|len| Mapping::new(len, Backing::Anonymous));
    mappings.sort_by_key(|mapping| std::cmp::Reverse(mapping.address()));
    let mut mappings = mappings.to_vec();
    for (id, len) in (10..).zip(lens) {
        let fits = mappings.iter().position(|mapping| mapping.len() == len);
        let mapping = mappings.remove(fits.expect("there is one for each"));
        mapping.touch_all();
        vm.add(Slot::of(id, gpa, &mapping));
        gpa += len;
        borders.push(gpa);
    }
    borders.pop();
    let hva = |gpa| vm.slot_at(gpa).hva(gpa);
    assert!(borders
        .iter()
        .all(|&border| hva(border - 1) + 1 != hva(border)));

    let long = secret(10, 256);
    let short = secret(11, 2);
    let long_places: Vec<u64> = borders.iter().map(|border| border - 200).collect();
    for &place in &long_places {
        vm.write(place, &long);
    }
    let report = Inspection::of_self().patterns(&[hex(&long)]).report();
    assert_eq!(report.hits, vm.hits(0, &long_places));
    vm.assert_slots(&report);

    // The shortest pattern that can cross a border.
    let short_places: Vec<u64> = borders.iter().map(|border| border - 1).collect();
    for &place in &short_places {
        vm.write(place, &short);
    }
    let ranges: Vec<String> = short_places
        .iter()
        .map(|place| format!("{place:#x}+2"))
        .collect();
    let report = Inspection::of_self()
        .patterns(&[hex(&short)])
        .ranges(&ranges)
        .report();
    assert_eq!(report.hits, vm.hits(0, &short_places));
    vm.finish();
}

/// Slots with flags are searched like others, and the report has the flags.
fn flags() {
    let mut vm = Vm::running(Work::Count);
    let secret = secret(12, 20);
    let mut places = Vec::new();
    for (id, flags) in [(1, KVM_MEM_READONLY), (2, KVM_MEM_LOG_DIRTY_PAGES), (3, 0)] {
        let mapping = Mapping::new(4 * PAGE, Backing::Anonymous);
        mapping.touch_all();
        let gpa = u64::from(id) * MIB;
        vm.add(Slot {
            flags,
            ..Slot::of(id, gpa, &mapping)
        });
        places.extend([gpa, gpa + 2 * PAGE - 10, gpa + 4 * PAGE - 20]);
    }
    for &place in &places {
        vm.write(place, &secret);
    }
    // One mapping at another address.
    let alias = Slot {
        id: 4,
        gpa: 16 * MIB,
        ..vm.slot_at(MIB).clone()
    };
    places.extend([
        alias.gpa,
        alias.gpa + 2 * PAGE - 10,
        alias.gpa + 4 * PAGE - 20,
    ]);
    vm.add(alias);

    let report = Inspection::of_self().patterns(&[hex(&secret)]).report();
    assert_eq!(report.hits, vm.hits(0, &places));
    vm.assert_slots(&report);
    let slots = Vm::user_slots(&report);
    let named: Vec<&str> = slots.iter().map(|slot| slot.flags.as_str()).collect();
    assert_eq!(named, ["none", "readonly", "log_dirty", "none", "readonly"]);
    vm.finish();
}

/// 300 slots, made in no order, are all searched.
fn many() {
    const COUNT: u64 = 300;
    let mut vm = Vm::running(Work::Count);
    let secret = secret(13, 16);
    let mut places = Vec::new();
    for index in 0..COUNT {
        // This reaches all of them: 7 and the count have no common divisor.
        let at = index * 7 % COUNT;
        let id = u16::try_from(1000 - at).expect("it is small");
        // Each third one is a neighbour of the one before.
        let gpa = 16 * MIB + (2 * at - u64::from(at % 3 == 2)) * PAGE;
        let mapping = Mapping::new(PAGE, Backing::Anonymous);
        mapping.write(at, &secret);
        vm.add(Slot::of(id, gpa, &mapping));
        places.push(gpa + at);
    }
    places.sort_unstable();
    let report = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 1000)
        .report();
    assert_eq!(report.hits, vm.hits(0, &places));
    vm.assert_slots(&report);
    assert_eq!(report.slots.len() as u64, COUNT + 1);
    vm.finish();
}

/// Memory that only SMM sees is searched. Memory that SMM and the rest see at the same address is
/// searched once.
fn smm() {
    let mut vm = Vm::running(Work::Count);
    let (outside, inside) = add_smm_memory(&mut vm);
    let (shared, smm_only, across) = (secret(14, 24), secret(15, 24), secret(16, 24));
    outside.write(100, &shared);
    // Only the rest sees this.
    outside.write(HOLE.0 + 100, &shared);
    inside.write(5 * PAGE - 10, &smm_only);
    inside.write(20 * PAGE - 24, &smm_only);
    // Into memory of SMM alone, out of it, and into it again at its other place.
    write_across(&across, 7, (&outside, HOLE.0), (&inside, 0));
    write_across(&across, 8, (&inside, 16 * PAGE), (&outside, HOLE.1));
    write_across(&across, 9, (&outside, MIB), (&inside, 16 * PAGE));

    let report = Inspection::of_self()
        .patterns(&[hex(&shared), hex(&smm_only), hex(&across)])
        .report();

    let mut hits: Vec<_> = report
        .hits
        .iter()
        .map(|hit| (hit.space, hit.slot, hit.gpa - MIB, hit.hva, hit.pattern))
        .collect();
    hits.sort_unstable();
    let (outside, inside) = (outside.address(), inside.address());
    let expected = [
        (0, 1, 100, outside + 100, 0),
        (0, 1, HOLE.0 + 100, outside + HOLE.0 + 100, 0),
        (1, 1, HOLE.0 - 7, outside + HOLE.0 - 7, 2),
        (1, 2, HOLE.0 + 5 * PAGE - 10, inside + 5 * PAGE - 10, 1),
        (1, 2, HOLE.1 - 8, inside + 16 * PAGE - 8, 2),
        (1, 3, MIB - 9, outside + MIB - 9, 2),
        (1, 4, MIB + 4 * PAGE - 24, inside + 20 * PAGE - 24, 1),
    ];
    assert_eq!(hits, expected);
    vm.assert_slots(&report);
    Vm::assert_scanned(&report, LOW_MEMORY + MIB + 20 * PAGE);
    vm.finish();
}

/// The first offset and the end of the part of [`add_smm_memory`] that differs in SMM.
const HOLE: (u64, u64) = (MIB / 2, MIB / 2 + 16 * PAGE);

/// Adds a megabyte of memory to a VM. SMM sees the same, but for 64 KiB in the middle, and 16 KiB
/// more after the end. Returns the memory outside SMM, and that of SMM alone.
fn add_smm_memory(vm: &mut Vm) -> (Arc<Mapping>, Arc<Mapping>) {
    let outside = vm.add_memory(MIB, MIB, Backing::Anonymous);
    outside.touch_all();
    let inside = Mapping::new(20 * PAGE, Backing::Anonymous);
    inside.touch_all();
    let slot = |id, gpa, mapping, offset, len| Slot {
        space: 1,
        offset,
        len,
        ..Slot::of(id, gpa, mapping)
    };
    vm.add(slot(1, MIB, &outside, 0, HOLE.0));
    vm.add(slot(2, MIB + HOLE.0, &inside, 0, 16 * PAGE));
    vm.add(slot(3, MIB + HOLE.1, &outside, HOLE.1, MIB - HOLE.1));
    vm.add(slot(4, 2 * MIB, &inside, 16 * PAGE, 4 * PAGE));
    (outside, inside)
}

/// Writes the first `at` bytes of a secret just before one place, and the rest at another one.
fn write_across(secret: &[u8], at: u64, from: (&Mapping, u64), to: (&Mapping, u64)) {
    let (first, second) = secret.split_at(usize::try_from(at).expect("it is small"));
    from.0.write(from.1 - at, first);
    to.0.write(to.1, second);
}

/// A VM without anything, one without memory and one without vCPUs are inspected.
fn none() {
    let secret = secret(17, 16);
    let inspection = Inspection::of_self().patterns(&[hex(&secret)]);

    let mut vm = Vm::empty();
    let report = inspection.report();
    assert_eq!(report.fd, Some(vm.fd()));
    assert!(report.vcpus.is_empty() && report.slots.is_empty() && report.hits.is_empty());
    assert_eq!(
        (report.done.scanned_bytes, report.done.absent_pages),
        (0, 0)
    );

    vm.add_vcpu(Mode::Real, Work::Spin);
    let report = inspection.report();
    assert_eq!(report.states(), [State::Outside]);
    assert!(report.slots.is_empty() && report.hits.is_empty());
    drop(vm);

    let mut vm = Vm::empty();
    vm.add_memory(MIB, 4 * PAGE, Backing::Anonymous)
        .write(PAGE, &secret);
    let report = inspection.report();
    assert!(report.vcpus.is_empty());
    assert_eq!(report.hits, vm.hits(0, &[MIB + PAGE]));
    vm.assert_slots(&report);
}

/// Pages that are private to the guest are neither searched nor counted as present or absent,
/// though the VMM has memory in their place. Other pages of the slot are.
fn private() {
    const PAGES: u64 = 64;
    let mut vm = Vm::with_private_memory();
    let memory = vm.add_private_memory(MIB, PAGES * PAGE);
    memory.touch_all();
    let secret = secret(15, 16);
    // In shared pages, across the border of two of them, and in pages that become private.
    let places = [0, 3 * PAGE - 8, 10 * PAGE, 20 * PAGE - 8, PAGES * PAGE - 16].map(|at| MIB + at);
    for place in places {
        vm.write(place, &secret);
    }
    let hex = hex(&secret);
    let found = |private: u64, hits: &[u64]| {
        let report = Inspection::of_self().patterns(&[&hex]).partial_report();
        let result = if private > 0 {
            Conclusion::Incomplete
        } else {
            Conclusion::Ok
        };
        assert_eq!(report.done.result, result);
        assert_eq!(report.done.missing_pages, private);
        assert_eq!(report.hits_of(0), hits);
        assert_eq!(report.done.private_pages, private);
        assert_eq!(report.present(), PAGES - private);
        assert_eq!(report.done.absent_pages, 0);
        assert_eq!(report.done.scanned_bytes, (PAGES - private) * PAGE);
        assert_eq!(report.slots[0].flags, "guest_memfd");
    };
    found(0, &places);
    vm.set_private(MIB + 10 * PAGE, PAGE, true);
    found(1, &[places[0], places[1], places[3], places[4]]);
    // This match ends in a private page then.
    vm.set_private(MIB + 20 * PAGE, 4 * PAGE, true);
    found(5, &[places[0], places[1], places[4]]);
    vm.set_private(MIB, PAGES * PAGE, true);
    found(PAGES, &[]);
    vm.set_private(MIB, PAGES * PAGE, false);
    found(0, &places);
}
