// SPDX-License-Identifier: GPL-2.0

//! How much the search has to do: in counts, which are the same on each machine. One more pattern,
//! one more open byte, or a shorter pattern is a step, and never a fall.

use std::{
    ops::Range,
    sync::OnceLock, //
};

use kvm_inspect_pure::scan::{
    Engine,
    Tables,
    Work,
    MAX_PATTERNS, //
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::RngSeed, //
};
use unit::{
    cases,
    hex,
    parse,
    Nibbles,
    Random, //
};

/// How much memory is searched.
const SIZE: usize = 1 << 20;

/// A set may cost this many times what a neighbour costs.
const MOST: f64 = 2.0;

/// What costs less is not told apart, in cycles for 64 bytes.
const LITTLE: f64 = 16.0;

/// The estimate may be wrong by this factor.
const WRONG: f64 = 3.0;

/// The fewest given bits of a pattern. Those with fewer match so often that their matches cost.
const GIVEN: u32 = 24;

/// Returns what work costs, in about cycles for 64 bytes.
fn cost(work: Work) -> f64 {
    let each = |count: u64, cycles: f64| f64::from(u32::try_from(count).expect("little")) * cycles;
    let all = each(work.filtered, 8.0 / 64.0)
        + each(work.stepped, 0.8)
        + each(work.looked, 3.0)
        + each(work.close, 14.0)
        + each(work.windows, 4.0)
        + each(work.compared, 20.0);
    all / f64::from(u32::try_from(SIZE / 64).expect("little"))
}

/// Returns memory like a guest's: zeros, text, code, tables, and what is compressed.
fn memory() -> &'static [u8] {
    static MEMORY: OnceLock<Vec<u8>> = OnceLock::new();
    MEMORY.get_or_init(|| {
        const TEXT: &[u8] = b"etaoin shrdlu cumwfgypbvk eta oin ETAOI_N./-0123456789\n ";
        const CODE: &[u8] = b"\x48\x8b\x89\xe8\0\0\0\xff\x0f\x24\x4c\x8d\x08\x10\x74\x85\xc0\x83";
        let mut random = Random(7);
        let mut memory = Vec::with_capacity(SIZE);
        while memory.len() < SIZE {
            let kind = random.below(16);
            for _ in 0..4096 {
                memory.push(match kind {
                    0..=8 => 0,
                    9 | 10 => TEXT[random.below(TEXT.len())],
                    11 | 12 => CODE[random.below(CODE.len())],
                    13 | 14 if random.below(4) == 0 => 0,
                    _ => random.byte(),
                });
            }
        }
        memory
    })
}

/// Returns the work with some patterns, and what it was expected to cost.
fn search(engine: Engine, patterns: &[Vec<Nibbles>]) -> (f64, f64) {
    let specs: Vec<_> = patterns.iter().map(|pattern| hex(pattern)).collect();
    let patterns = parse(&specs);
    let work = unit::work(engine, memory(), &patterns);
    let mut tables = kvm_inspect_pure::tables();
    let _ = kvm_inspect_pure::scan::Scanner::new(&mut tables, &patterns, engine);
    let expected = f64::from(u32::try_from(Tables::cost(&tables)).unwrap_or(u32::MAX));
    (cost(work), expected)
}

/// Returns how many bits are given.
fn given(pattern: &[Nibbles]) -> u32 {
    let nibbles = pattern.iter().flat_map(|(high, low)| [high, low]);
    nibbles
        .map(|nibble| if nibble.is_some() { 4 } else { 0 })
        .sum()
}

/// A pattern of text, of code, or of any bytes, with some bytes open.
fn any_pattern() -> impl Strategy<Value = Vec<Nibbles>> {
    let byte = prop_oneof![
        3 => 0x61_u8..0x7b,
        1 => 0x20_u8..0x7f,
        1 => any::<u8>(),
        1 => prop::sample::select(&b"\0\xff\x48\x8b\xe8\x89\x0f"[..]),
    ];
    let bytes = prop_oneof![
        vec(0x61_u8..0x7b, 3..12),
        vec(any::<u8>(), 3..20),
        vec(byte, 3..20),
    ];
    let open = prop_oneof![
        3 => Just(None),
        1 => (0_usize..4, 2_usize..6).prop_map(Some),
    ];
    let pattern = (bytes, open).prop_map(|(bytes, open)| {
        let bytes = bytes.iter().enumerate();
        let nibbles = bytes.map(|(at, byte)| match open {
            Some((first, step)) if at % step == first % step => (None, None),
            _ => (Some(byte >> 4), Some(byte & 0xf)),
        });
        nibbles.collect::<Vec<_>>()
    });
    pattern.prop_filter("is poor", |pattern| given(pattern) >= GIVEN)
}

/// Always the same sets: whoever changes the search tries others, by another seed or more cases.
fn config(most: u32) -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::with_cases(cases(most))
    }
}

fn any_set(count: Range<usize>) -> impl Strategy<Value = Vec<Vec<Nibbles>>> {
    vec(any_pattern(), count)
}

/// How one set becomes another.
#[derive(Clone, Debug)]
enum Step {
    More(Vec<Nibbles>),
    Open(Index, Index),
    Shorter(Index),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any_pattern().prop_map(Step::More),
        any::<(Index, Index)>().prop_map(|(pattern, at)| Step::Open(pattern, at)),
        any::<Index>().prop_map(Step::Shorter),
    ]
}

impl Step {
    /// Returns the other set, and the pattern that it has and this one has not; [`None`] if that is
    /// too poor.
    fn from(&self, set: &[Vec<Nibbles>]) -> Option<(Vec<Vec<Nibbles>>, Vec<Nibbles>)> {
        let mut other = set.to_vec();
        let index = match self {
            Self::More(pattern) => {
                other.push(pattern.clone());
                set.len()
            }
            Self::Open(pattern, at) => {
                let index = pattern.index(set.len());
                let at = at.index(other[index].len());
                other[index][at] = (None, None);
                index
            }
            Self::Shorter(pattern) => {
                let index = pattern.index(set.len());
                other[index].pop();
                index
            }
        };
        let new = other[index].clone();
        (given(&new) >= GIVEN).then_some((other, new))
    }
}

fn is_a_step(set: &[Vec<Nibbles>], step: &Step) -> Result<(), TestCaseError> {
    let Some((other, new)) = step.from(set) else {
        return Ok(());
    };
    for engine in kvm_inspect_pure::engines() {
        let ((before, _), (after, expected)) = (search(engine, set), search(engine, &other));
        // A pattern may be frequent by itself.
        let (alone, _) = search(engine, &[new.clone()]);
        prop_assert!(
            after <= (before + alone).max(LITTLE) * MOST,
            "{engine:?}: {before:.1} and {alone:.1} became {after:.1}, by {step:?}"
        );
        prop_assert!(
            after <= expected.max(LITTLE) * WRONG,
            "{engine:?}: {after:.1} in place of {expected:.1}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn few_patterns(set in any_set(1..12), step in any_step()) {
        is_a_step(&set, &step)?;
    }

    #[test]
    fn many_patterns(set in any_set(12..200), step in any_step()) {
        is_a_step(&set, &step)?;
    }
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn very_many_patterns(set in any_set(400..MAX_PATTERNS / 4), step in any_step()) {
        is_a_step(&set, &step)?;
    }
}

/// Two patterns that have no bit in common, each of them easy to find.
#[test]
fn nothing_in_common() {
    let nibble = |index: u8| Some(index % 9 + 1);
    let high: Vec<Nibbles> = (0..10).map(|index| (nibble(index), None)).collect();
    let low: Vec<Nibbles> = (0..10).map(|index| (None, nibble(index))).collect();
    for engine in kvm_inspect_pure::engines() {
        let alone: f64 = [&high, &low]
            .map(|pattern| search(engine, &[pattern.clone()]).0)
            .iter()
            .sum();
        let (both, expected) = search(engine, &[high.clone(), low.clone()]);
        assert!(
            both <= alone * MOST,
            "{engine:?}: {alone:.1} became {both:.1}"
        );
        assert!(
            expected <= both * WRONG,
            "{engine:?}: {both:.1} in place of {expected:.1}"
        );
    }
}
