// SPDX-License-Identifier: GPL-2.0

//! Symbols, and what they lead to.

use kvm_inspect_tool::linux::{CpuNumbers, DirectMap, Kallsyms, KallsymsError, MapSource};

use crate::guest::{Guest, Offsets, DIRECT_MAP, IMAGE, LONG_NAMED};

fn symbols(offsets: Offsets) -> Kallsyms {
    Kallsyms::read(&Guest::new(offsets).kernel()).expect("they are there")
}

#[test]
fn symbols_are_read_in_each_encoding() {
    for offsets in [
        Offsets::FromThemselves,
        Offsets::FromBase,
        Offsets::Absolute,
    ] {
        let symbols = symbols(offsets);
        assert_eq!(symbols.len(), 9, "{offsets:?}");
        assert_eq!(symbols.address("_stext"), Some(IMAGE), "{offsets:?}");
        assert_eq!(
            symbols.address(&"l".repeat(200)),
            Some(LONG_NAMED),
            "{offsets:?}"
        );
        assert_eq!(symbols.address("_stex"), None);
        let per_cpu = symbols.address("__per_cpu_thing");
        let expected = if offsets == Offsets::Absolute {
            0x1000
        } else {
            IMAGE
        };
        assert_eq!(per_cpu, Some(expected), "{offsets:?}");
        let kinds: String = symbols.iter().map(|symbol| symbol.kind).collect();
        assert_eq!(kinds, "DTtDDDdTd");
    }
}

#[test]
fn a_name_may_be_that_of_several() {
    let symbols = symbols(Offsets::FromBase);
    let twice: Vec<u64> = symbols
        .named("twice")
        .map(|symbol| symbol.address)
        .collect();
    assert_eq!(twice, [IMAGE + 0x1_1030, LONG_NAMED + 0x10]);
    assert_eq!(symbols.address("twice"), Some(IMAGE + 0x1_1030));
}

#[test]
fn a_symbol_has_room_up_to_the_next_one() {
    let symbols = symbols(Offsets::Absolute);
    assert_eq!(symbols.room(IMAGE), Some(0x1_1000));
    assert_eq!(symbols.room(LONG_NAMED + 0x10), None);
}

#[test]
fn symbols_that_do_not_fit_vmcoreinfo_are_refused() {
    let mut guest = Guest::new(Offsets::FromBase);
    let moved = format!("SYMBOL(_stext)={:x}", IMAGE + 0x10);
    guest.note = guest
        .note
        .replace(&format!("SYMBOL(_stext)={IMAGE:x}"), &moved);
    let error = Kallsyms::read(&guest.kernel()).expect_err("_stext is elsewhere");
    assert!(matches!(error, KallsymsError::Invalid(_)));
    guest.note = guest.note.replace("kallsyms_names", "names");
    let error = Kallsyms::read(&guest.kernel()).expect_err("a key is missing");
    assert!(matches!(error, KallsymsError::Missing));
}

#[test]
fn the_direct_map_is_found_with_and_without_symbols() {
    let guest = Guest::new(Offsets::FromThemselves);
    let kernel = guest.kernel();
    let symbols = Kallsyms::read(&kernel).expect("they are there");
    let map = |source| {
        Some(DirectMap {
            base: DIRECT_MAP,
            source,
        })
    };
    assert_eq!(
        DirectMap::find(&kernel, Some(&symbols)),
        map(MapSource::Variable)
    );
    assert_eq!(DirectMap::find(&kernel, None), map(MapSource::Tables));
    // A variable that the page tables do not confirm is ignored.
    let mut guest = guest.clone();
    guest.write_u64(IMAGE + 0x1_1008, DIRECT_MAP + 0x20_0000);
    assert_eq!(
        DirectMap::find(&guest.kernel(), Some(&symbols)),
        map(MapSource::Tables)
    );
}

#[test]
fn cpus_have_the_kernels_numbers() {
    let guest = Guest::new(Offsets::FromThemselves);
    let kernel = guest.kernel();
    let symbols = Kallsyms::read(&kernel).expect("they are there");
    let cpus = CpuNumbers::read(&kernel, &symbols).expect("they are there");
    assert_eq!(cpus.apic_ids(), [0, 1, 2, 4]);
    assert_eq!(
        (cpus.cpu_of_apic_id(4), cpus.cpu_of_apic_id(3)),
        (Some(3), None)
    );
    assert_eq!(cpus.numbers(&[4, 0, 1]), Some(vec![3, 0, 1]));
    assert_eq!((cpus.numbers(&[0, 3]), cpus.numbers(&[1, 1])), (None, None));
}

#[test]
fn mappings_are_the_image_and_the_direct_map() {
    let guest = Guest::new(Offsets::FromThemselves);
    let kernel = guest.kernel();
    let runs = kernel.mappings(kvm_inspect_tool::paging::RunLimit::default());
    let runs: Vec<_> = runs.map(|run| run.expect("there are few")).collect();
    let starts: Vec<_> = runs
        .iter()
        .map(|run| (run.gva, run.gpa, run.length))
        .collect();
    let expected = [
        (DIRECT_MAP, 0, 0x200_0000),
        (DIRECT_MAP + 0x1_0000_0000, 0x1_0000_0000, 0x200_0000),
        (IMAGE, 0x1_0100_0000, 0x40_0000),
    ];
    assert_eq!(starts, expected);
}
