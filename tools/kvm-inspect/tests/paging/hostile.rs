// SPDX-License-Identifier: GPL-2.0

//! Tables that no kernel would make.

use kvm_inspect_tool::{
    guest::SparseMemory,
    paging::{AddressSpace, Fault, Mode, Run, RunLimit, VirtualMemory},
};
use proptest::prelude::*;

const MODES: [Mode; 6] = [
    Mode::Off,
    Mode::Legacy { large_pages: false },
    Mode::Legacy { large_pages: true },
    Mode::Pae,
    Mode::FourLevel,
    Mode::FiveLevel,
];

/// Returns memory in which a page of tables has this entry everywhere.
fn filled(entry: u64) -> SparseMemory {
    let mut memory = SparseMemory::with_size(0x10000);
    let page: Vec<u8> = (0..512).flat_map(|_| entry.to_le_bytes()).collect();
    memory.write(0x1000, &page).expect("it is RAM");
    memory
}

#[test]
fn tables_that_contain_themselves_end() {
    let limit = RunLimit {
        tables: 1000,
        runs: 100,
    };
    // Each entry is the table itself; of 32-bit paging, every second one.
    let memory = filled(0x1001);
    for mode in [Mode::FourLevel, Mode::FiveLevel] {
        let view = VirtualMemory::new(&memory, AddressSpace::new(mode, 0x1000));
        let runs: Vec<Result<Run, Fault>> = view.runs(0..=u64::MAX, limit).collect();
        assert!(runs.len() <= 101, "{mode:?}");
        assert!(matches!(runs.last(), Some(Err(Fault::Limit))), "{mode:?}");
        assert_eq!(
            view.translate(0x1234_5678).expect("it is mapped").gpa,
            0x1678
        );
    }
}

#[test]
fn empty_tables_without_end_end() {
    // The last level has nothing present, all before it lead there.
    let mut memory = filled(0x1001);
    memory.write(0x2000, &[0; 4096]).expect("it is RAM");
    let page: Vec<u8> = (0..512).flat_map(|_| 0x2001_u64.to_le_bytes()).collect();
    memory.write(0x3000, &page).expect("it is RAM");
    let page: Vec<u8> = (0..512).flat_map(|_| 0x3001_u64.to_le_bytes()).collect();
    for table in [0x4000, 0x5000] {
        memory.write(table, &page).expect("it is RAM");
    }
    let view = VirtualMemory::new(&memory, AddressSpace::new(Mode::FourLevel, 0x4000));
    let limit = RunLimit {
        tables: 5000,
        runs: 1,
    };
    let mut runs = view.runs(0..=u64::MAX, limit);
    assert!(matches!(runs.next(), Some(Err(Fault::Limit))));
    assert!(runs.next().is_none());
}

/// Returns an entry that often leads to one of the first pages.
fn entry() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        any::<u64>(),
        (0..16_u64, any::<u16>()).prop_map(|(page, bits)| (page << 12) | u64::from(bits % 4096)),
        (0..16_u64).prop_map(|page| (page << 12) | 1),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_tables_neither_panic_nor_take_long(
        entries in prop::collection::vec((0..8192_u64, entry()), 1..400),
        fill in entry(),
        root in any::<u64>(),
        gva in any::<u64>(),
        length in 0..20_000_usize,
    ) {
        let mut memory = filled(fill);
        for (index, entry) in entries {
            memory.write(index * 8, &entry.to_le_bytes()).expect("it is RAM");
        }
        for mode in MODES {
            for root in [root, root % 0x10000, 0x1000] {
                let view = VirtualMemory::new(&memory, AddressSpace::new(mode, root));
                let mut bytes = vec![0; length];
                for gva in [gva, gva % (1 << 32), gva % 0x20_0000, gva | 0xffff_8000_0000_0000] {
                    let _ = view.translate(gva);
                    let _ = view.read(gva, &mut bytes);
                    let limit = RunLimit { tables: 64, runs: 1000 };
                    let mut end = 0;
                    for run in view.runs(gva..=u64::MAX, limit).map_while(Result::ok) {
                        prop_assert!(run.gva >= gva && run.gva >= end && run.length > 0);
                        end = run.gva + (run.length - 1);
                    }
                    prop_assert!(view.runs(gva..=u64::MAX, limit).count() <= 1001);
                }
            }
        }
    }
}
