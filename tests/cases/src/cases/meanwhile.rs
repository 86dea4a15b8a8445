// SPDX-License-Identifier: GPL-2.0

//! Memslots and memory change while the VM is inspected again and again.

use std::sync::Arc;

use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_inspect_tool::report::{Conclusion, Report};

use super::{secret, times, Case, Random};
use crate::{
    inspect::{hex, Inspection},
    process::{vm_event, wait_until, PAGE},
    swap,
    vmm::{Backing, Mapping, Mode, Slot, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    slots_change,
    slot_flags.with_stock(),
    one_slot.with_stock(),
    memory_ballooned,
    memory_unmapped,
    memory_punched,
    memory_swapped,
    memory_migrated.with_two_nodes(),
    memory_huge,
];

const MIB: u64 = 1 << 20;

/// Inspects without rest while something `happens`, `count` times each in a short run. Gives each
/// report to `check`.
pub(super) fn inspect_while(
    inspection: Inspection,
    count: u32,
    mut happens: impl FnMut(),
    mut check: impl FnMut(&Report),
) {
    let mut loaded = inspection.set("interval_ms", 1).load();
    let count = times(count);
    let (mut inspections, mut rounds) = (0, 0);
    while inspections < count || rounds < count {
        wait_until("the next inspection", || {
            happens();
            rounds += 1;
            let reports = loaded.reports();
            reports.iter().for_each(&mut check);
            inspections += u32::try_from(reports.len()).expect("not many");
            !reports.is_empty()
        });
    }
    loaded.unload().iter().for_each(&mut check);
    println!("counted: freezes={inspections} disturbances={rounds}");
}

/// Whether the pages with the secrets stay mapped.
#[derive(Clone, Copy)]
enum Stay {
    Always,
    /// They are moved or swapped nearly all the time.
    Seldom,
}

/// A guest that counts and halts, with a slot that a case changes.
struct Guest {
    vm: Vm,
    memory: Arc<Mapping>,
    secret: Vec<u8>,
    /// The addresses of the secret: at both ends of the slot, whose first and last page stay.
    places: [u64; 2],
}

impl Guest {
    const LEN: u64 = 4 * MIB;

    fn new(backing: Backing) -> Self {
        let mut vm = Vm::bootable();
        for work in [Work::Count, Work::Halt] {
            vm.add_vcpu(Mode::Long, work);
        }
        let memory = vm.add_memory(4 * MIB, Self::LEN, backing);
        // The kernel would not write pages of zeros to swap.
        memory.fill_all(&[0xa5, 0x5a]);
        let secret = secret(120, 16);
        let places = [4 * MIB + 8, 4 * MIB + Self::LEN - 24];
        for place in places {
            vm.write(place, &secret);
        }
        vm.start();
        Self {
            vm,
            memory,
            secret,
            places,
        }
    }

    /// Changes parts of the memory, but not its first and last page, while it is searched. While
    /// these stay mapped both secrets are found each time.
    fn change(mut self, stay: Stay, mut change: impl FnMut(&Mapping, u64, u64)) {
        let mut random = Random::new();
        let inspection = Inspection::of_self().patterns(&[hex(&self.secret)]);
        let expected = self.vm.hits(0, &self.places);
        let pages = Self::LEN / PAGE;
        let (mut found, mut reports) = (0, 0);
        inspect_while(
            inspection.clone(),
            60,
            || {
                for _ in 0..4 {
                    let first = 1 + random.below(pages - 2);
                    let count = 1 + random.below(pages - 1 - first);
                    change(&self.memory, first * PAGE, count * PAGE);
                }
            },
            |report| {
                // Pages may be swapped out, or just be moving.
                let result = report.done.result;
                assert!(
                    matches!(result, Conclusion::Ok | Conclusion::Incomplete),
                    "{result:?}"
                );
                assert!(report.hits.iter().all(|hit| expected.contains(hit)));
                found += u32::from(report.hits == expected);
                reports += 1;
            },
        );
        println!("both secrets found in {found} of {reports} inspections");
        match stay {
            Stay::Always => assert_eq!(found, reports),
            Stay::Seldom => (),
        }
        // Nothing is lost, and nothing is still pinned.
        for place in self.places {
            assert_eq!(self.vm.read(place, 16), self.secret);
        }
        // The kernel may still be making huge pages, which are absent for that moment.
        wait_until("both secrets are found", || {
            inspection.partial_report().hits == expected
        });
        self.vm.wait_until_it_goes_on();
        self.vm.finish();
    }
}

/// The VMM discards memory and touches it again, as with a balloon.
fn memory_ballooned() {
    Guest::new(Backing::Anonymous).change(Stay::Always, |memory, offset, len| {
        memory.discard(offset, len);
        memory.write(offset, &[1]);
    });
}

/// The VMM unmaps memory in a slot, and maps other memory there.
fn memory_unmapped() {
    Guest::new(Backing::Anonymous).change(Stay::Always, |memory, offset, len| {
        memory.unmap(offset, len);
        memory.map_again(offset, len);
        memory.write(offset, &[1]);
    });
}

/// The VMM punches holes into the memfd of the memory.
fn memory_punched() {
    Guest::new(Backing::Memfd).change(Stay::Always, |memory, offset, len| {
        memory.punch(offset, len);
        memory.write(offset, &[1]);
    });
}

/// The kernel swaps memory out, the program's own, too.
fn memory_swapped() {
    swap::turn_on();
    let guest = Guest::new(Backing::Anonymous);
    let low = guest.vm.slot_at(0).mapping.clone();
    let before = vm_event("pswpout");
    guest.change(Stay::Seldom, |memory, offset, len| {
        low.page_out();
        memory.page_out();
        // Some pages are read back.
        for offset in (offset..offset + len.min(8 * PAGE)).step_by(4096) {
            memory.write(offset, &[1]);
        }
    });
    let swapped = vm_event("pswpout") - before;
    println!("counted: pages_swapped_out={swapped}");
    assert!(swapped > 100, "{swapped}");
}

/// The kernel moves the memory to the other NUMA node, and back.
fn memory_migrated() {
    let guest = Guest::new(Backing::Anonymous);
    let before = vm_event("pgmigrate_success");
    let (mut node, mut there) = (0, 0);
    guest.change(Stay::Always, |memory, offset, len| {
        node = 1 - node;
        there += memory.move_to_node(offset, len, node);
    });
    let moved = vm_event("pgmigrate_success") - before;
    println!("counted: pages_migrated={moved} pages_at_their_node={there}");
    assert!(moved > 100, "{moved}");
}

/// Huge pages are split, and made again.
fn memory_huge() {
    let guest = Guest::new(Backing::TransparentHuge);
    let before = vm_event("thp_split_pmd");
    guest.change(Stay::Seldom, |memory, offset, len| {
        memory.discard(offset, len.min(PAGE));
        memory.write(offset, &[1]);
        memory.collapse();
    });
    let split = vm_event("thp_split_pmd") - before;
    println!("counted: huge_pages_split={split}");
    assert!(split > 10, "{split}");
}

/// The VMM adds, moves and removes slots, and changes their flags, without pause.
fn slots_change() {
    let secret = secret(121, 16);
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::Halt, Work::PortIo] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.write(0x600, &secret);
    let mappings: [_; 4] = std::array::from_fn(|_| {
        let mapping = Mapping::new(CHANGING_LEN, Backing::Anonymous);
        mapping.touch_all();
        mapping.write(16, &secret);
        mapping
    });
    vm.start();
    let always = vm.hits(0, &[0x600]);
    let mut random = Random::new();
    let (mut ok, mut changed, mut with_others) = (0, 0, 0);
    inspect_while(
        Inspection::of_self().patterns(&[hex(&secret)]),
        100,
        || (0..8).for_each(|_| change_a_slot(&mut vm, &mappings, &mut random)),
        |report| {
            match report.done.result {
                Conclusion::Ok => ok += 1,
                Conclusion::MemslotsChanged => changed += 1,
                other => panic!("unexpected result {other:?}"),
            }
            assert_eq!(report.hits[..1], always);
            for hit in &report.hits[1..] {
                let index = u64::from(hit.slot - FIRST_CHANGING);
                let places = [false, true].map(|other| changing_place(index, other) + 16);
                assert!(places.contains(&hit.gpa), "{hit:?}");
                with_others += 1;
            }
        },
    );
    println!("{ok} undisturbed, {changed} with changed slots, {with_others} hits in those");
    assert!(with_others > 0, "no hit in a slot that comes and goes");
    vm.wait_until_it_goes_on();
    vm.assert_slots(&Inspection::of_self().report());
    vm.finish();
}

/// Flags of a slot that change all the time disturb nothing: it is the same memory.
fn slot_flags() {
    let secret = secret(122, 16);
    let mut vm = Vm::running(Work::Halt);
    let mapping = Mapping::new(CHANGING_LEN, Backing::Anonymous);
    mapping.fill_all(&[0x5a, 0xa5]);
    let gpa = changing_place(0, false);
    vm.add(Slot::of(FIRST_CHANGING, gpa, &mapping));
    vm.write(gpa + 16, &secret);
    let expected = vm.hits(0, &[gpa + 16]);
    inspect_while(
        Inspection::of_self().patterns(&[hex(&secret)]),
        60,
        || {
            for _ in 0..8 {
                let slot = vm.slot(FIRST_CHANGING).expect("it stays").clone();
                let flags = slot.flags ^ KVM_MEM_LOG_DIRTY_PAGES;
                vm.change(Slot { flags, ..slot });
            }
        },
        |report| {
            assert_eq!(report.done.result, Conclusion::Ok);
            assert_eq!(report.hits, expected);
        },
    );
    vm.finish();
}

/// A slot that comes and goes costs that slot: the others are searched, and the report says which
/// one is lacking.
fn one_slot() {
    let secret = secret(123, 16);
    let mut vm = Vm::running(Work::Halt);
    let memory = vm.add_memory(64 * MIB, MIB, Backing::Anonymous);
    memory.fill_all(&[0x5a, 0xa5]);
    let places = [64 * MIB + 16, 65 * MIB - 16];
    for place in places {
        vm.write(place, &secret);
    }
    let expected = vm.hits(0, &places);
    let mapping = Mapping::new(CHANGING_LEN, Backing::Anonymous);
    mapping.touch_all();
    let slot = Slot::of(FIRST_CHANGING, changing_place(0, false), &mapping);
    let (mut ok, mut changed) = (0, 0);
    inspect_while(
        Inspection::of_self().patterns(&[hex(&secret)]),
        100,
        || {
            for _ in 0..8 {
                vm.add(slot.clone());
                vm.remove(FIRST_CHANGING);
            }
        },
        |report| {
            assert_eq!(report.hits, expected);
            match report.done.result {
                Conclusion::Ok => ok += 1,
                Conclusion::MemslotsChanged => changed += 1,
                other => panic!("unexpected result {other:?}"),
            }
            let lost = report.lost.iter();
            assert!(lost
                .map(|lost| lost.slot)
                .all(|slot| slot == FIRST_CHANGING));
        },
    );
    println!("{ok} undisturbed, {changed} with a changed slot");
    vm.finish();
}

/// The slots of [`slots_change`] that change: the number of the first one, and their size.
const FIRST_CHANGING: u16 = 10;
const CHANGING_LEN: u64 = 64 * PAGE;

/// Returns one of the two places that each of them has of its own.
fn changing_place(index: u64, other: bool) -> u64 {
    MIB + (2 * index + u64::from(other)) * CHANGING_LEN
}

/// Adds one of these slots, or removes it, moves it, or changes its flags.
fn change_a_slot(vm: &mut Vm, mappings: &[Arc<Mapping>; 4], random: &mut Random) {
    let index = random.below(4);
    let mapping = &mappings[usize::try_from(index).expect("small")];
    let id = FIRST_CHANGING + u16::try_from(index).expect("small");
    let fresh = Slot::of(id, changing_place(index, random.below(2) == 1), mapping);
    match (vm.slot(id).cloned(), random.below(3)) {
        (None, _) => vm.add(fresh),
        (Some(_), 0) => vm.remove(id),
        (Some(old), 1) => vm.change(Slot {
            flags: old.flags,
            ..fresh
        }),
        (Some(old), _) => vm.change(Slot {
            flags: old.flags ^ KVM_MEM_LOG_DIRTY_PAGES,
            ..old
        }),
    }
}
