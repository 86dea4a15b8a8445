// SPDX-License-Identifier: GPL-2.0

//! Kernels that lie.

use kvm_inspect_tool::{
    linux::{prove, CpuNumbers, DirectMap, Log, Record},
    paging::RunLimit,
};
use proptest::prelude::*;

use crate::{
    guest::{Guest, Offsets, IMAGE},
    ring::Writer,
};

/// Does all that can be done with a guest.
fn inspect(guest: &Guest) {
    let proofs = prove(&guest.memory, &[guest.note_gpa], &[guest.vcpu()]);
    for candidate in &proofs.candidates {
        let Ok(kernel) = &candidate.kernel else {
            continue;
        };
        let symbols = candidate.pointer.as_ref().ok();
        let _ = DirectMap::find(kernel, symbols);
        if let Ok(log) = Log::read(kernel) {
            let _ = log.records.iter().flat_map(Record::lines).count();
        }
        if let Some(symbols) = symbols {
            let _ = CpuNumbers::read(kernel, symbols);
            for symbol in symbols.iter().take(100) {
                let _ = (symbols.address(symbol.name), symbols.room(symbol.address));
            }
        }
        let limit = RunLimit {
            tables: 100,
            runs: 100,
        };
        let _ = kernel.mappings(limit).count();
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..64_u32).prop_map(|bits| 1 << bits),
        (0..64_u32).prop_map(|bits| u64::MAX >> bits),
        (0..0x40_0000_u64).prop_map(|offset| IMAGE + offset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn wrong_structures_neither_panic_nor_take_long(
        places in prop::collection::vec((0..0x2_6000_u64, 1..9_usize, number()), 1..20),
        ring in prop::collection::vec((0..0x900_u64, 1..9_usize, number()), 0..8),
    ) {
        let mut writer = Writer::new(Guest::new(Offsets::FromBase));
        for number in 0..20 {
            writer.push(&format!("record {number}"));
        }
        let mut guest = writer.guest;
        let ring = ring.into_iter().map(|(at, size, number)| (at + 0x1_2000, size, number));
        for (at, size, number) in places.into_iter().chain(ring) {
            // The root would end all.
            let at = if at < 0x6000 { at + 0x1_0000 } else { at };
            guest.write(IMAGE + at, &number.to_le_bytes()[..size]);
        }
        inspect(&guest);
    }

    #[test]
    fn wrong_notes_neither_panic_nor_take_long(
        line in any::<prop::sample::Index>(),
        number in number(),
        is_decimal in any::<bool>(),
    ) {
        let mut writer = Writer::new(Guest::new(Offsets::FromThemselves));
        writer.push("text");
        let mut guest = writer.guest;
        let lines: Vec<&str> = guest.note.lines().collect();
        let key = line.get(&lines).split('=').next().expect("there is a first word");
        let value = if is_decimal { number.to_string() } else { format!("{number:x}") };
        // The first one counts, if a key comes twice.
        let note = format!("OSRELEASE=7.3.4-test\n{key}={value}\n{}", guest.note);
        guest.write_note(guest.note_gpa, &note);
        inspect(&guest);
    }
}
