// SPDX-License-Identifier: GPL-2.0

//! The search with all engines, compared with one that is plainly right.

#![no_main]

mod guarded;
mod recipe;

use kvm_inspect_pure::scan::Match;
use libfuzzer_sys::fuzz_target;
use unit::{
    naive_by,
    parse,
    search,
    Cut,
    Needle, //
};

use crate::{
    guarded::Guarded,
    recipe::Input, //
};

/// How far matches may be out of order.
const STEP: usize = 128 << 10;

fuzz_target!(|input: Input| {
    let Input {
        memory,
        borders,
        patterns,
        begin,
    } = input;
    let mut expected = naive_by(&memory, &patterns, Needle::is_prefix_of);
    expected.retain(|found| begin.contains(&found.offset));

    let specs: Vec<_> = patterns.iter().map(|pattern| &pattern.spec).collect();
    let patterns = parse(&specs);
    let memory = Guarded::new(&Cut {
        bytes: &memory,
        borders: &borders,
    });
    for engine in kvm_inspect_pure::engines() {
        let mut found = search(engine, &memory, &patterns, begin.clone());
        let mut farthest = 0;
        for &Match { offset, .. } in &found {
            assert!(offset + STEP > farthest, "{engine:?}: {offset} is late");
            farthest = farthest.max(offset);
        }
        found.sort_unstable();
        let all = found.len().max(expected.len());
        for (found, expected) in (0..all).map(|at| (found.get(at), expected.get(at))) {
            assert_eq!(found, expected, "{engine:?}");
        }
    }
});
