// SPDX-License-Identifier: GPL-2.0

//! The search for each kind of patterns that people have, in memory made of parts of them, compared
//! with one that is plainly right.

use std::ops::Range;

use kvm_inspect_pure::scan::{
    Match,
    MAX_PATTERNS, //
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{
        select,
        Index, //
    },
    test_runner::TestCaseResult,
};
use unit::{
    cases,
    kinds::{
        Filling,
        Kind, //
    },
    naive_by,
    parse,
    search,
    Cut,
    Needle,
    Random, //
};

/// How far matches may be out of order: what is searched at once.
const STEP: usize = 128 << 10;

/// The most memory but in [`large_memory`].
const SMALL: usize = 20 << 10;

/// Where each place may match many patterns, the most memory times patterns, and memory that is
/// never too much.
const DENSE: usize = 1 << 18;
const LITTLE: usize = 512;

/// The most comparisons for a search that tries each pattern at each place.
const COMPARISONS: usize = 1 << 20;

/// Patterns of one kind, memory, and its cuts, in so few numbers that proptest can simplify them.
#[derive(Clone, Debug)]
struct Recipe {
    count: usize,
    seed: u64,
    parts: Vec<(Filling, usize)>,
    cuts: Cuts,
    plants: Vec<Plant>,
}

/// Where memory is cut.
#[derive(Clone, Debug)]
struct Cuts {
    anywhere: Vec<Index>,
    /// Rows of cuts: where one begins, the step, and how many there are.
    rows: Vec<(Index, usize, usize)>,
    /// The first cut of those at each page.
    pages: Option<usize>,
}

/// A pattern that is written into memory.
#[derive(Clone, Debug)]
struct Plant {
    pattern: Index,
    near: Near,
    /// How far before that it begins.
    back: Index,
}

#[derive(Clone, Debug)]
enum Near {
    Anywhere(Index),
    Start,
    End,
    Cut(Index),
    /// A step's number, and how many bytes after the 300th before its begin.
    Step(usize, usize),
}

/// What a recipe makes.
struct Made {
    memory: Vec<u8>,
    borders: Vec<usize>,
    needles: Vec<Needle>,
}

impl Recipe {
    /// Makes memory that is searched for as many patterns as asked for, and is smaller where they
    /// are many.
    fn make(&self, kind: Kind) -> Made {
        let mut random = Random(self.seed);
        let count = self.count.min(MAX_PATTERNS);
        let needles = kind.draw(count, &mut random);
        let most = if kind.is_dense() {
            (DENSE / count).clamp(LITTLE, SMALL)
        } else {
            SMALL
        };
        self.make_with(needles, most, &mut random)
    }

    /// Makes all of the memory, with fewer patterns where a place may match many.
    fn make_large(&self, kind: Kind) -> Made {
        let mut random = Random(self.seed);
        let count = if kind.is_dense() {
            1 + self.count % 3
        } else {
            self.count.min(MAX_PATTERNS)
        };
        let needles = kind.draw(count, &mut random);
        self.make_with(needles, usize::MAX, &mut random)
    }

    fn make_with(&self, needles: Vec<Needle>, most: usize, random: &mut Random) -> Made {
        let mut memory = Vec::new();
        for (filling, len) in &self.parts {
            memory.extend(filling.bytes(*len, &needles, random));
        }
        memory.truncate(most);
        let borders = self.cuts.borders(memory.len());
        for plant in &self.plants {
            plant.write(&needles, &borders, &mut memory);
        }
        Made {
            memory,
            borders,
            needles,
        }
    }
}

impl Cuts {
    /// Returns the cuts as in [`Cut::borders`].
    fn borders(&self, len: usize) -> Vec<usize> {
        let anywhere = self.anywhere.iter().map(|cut| cut.index(len + 1));
        let mut borders: Vec<_> = anywhere.collect();
        for (first, step, count) in &self.rows {
            let row = (first.index(len + 1)..len).step_by(*step);
            borders.extend(row.take(*count));
        }
        if let Some(first) = self.pages {
            borders.extend((first..len).step_by(4096));
        }
        borders.sort_unstable();
        borders
    }
}

impl Plant {
    fn write(&self, needles: &[Needle], borders: &[usize], memory: &mut [u8]) {
        let needle = self.pattern.get(needles);
        let end = memory.len();
        let near = match &self.near {
            Near::Anywhere(at) => at.index(end + 1),
            Near::Start => 0,
            Near::End => end,
            Near::Cut(_) if borders.is_empty() => end,
            Near::Cut(cut) => *cut.get(borders),
            Near::Step(step, by) => (step * STEP + by).saturating_sub(300),
        };
        // Some end just before that, and some just do not.
        let back = self.back.index(needle.bytes.len() + 2);
        let from = near.saturating_sub(back).min(end);
        needle.write_to(&mut memory[from..]);
    }
}

/// Returns numbers of patterns, few of them more often.
fn any_count() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 1..=8_usize,
        4 => 9..=64_usize,
        3 => 65..=300_usize,
        1 => 301..=MAX_PATTERNS.max(301)
    ]
}

fn any_cuts(most: usize) -> impl Strategy<Value = Cuts> {
    let rows = (any::<Index>(), 1..=20_usize, 0..150_usize);
    let pages = prop_oneof![2 => Just(None), 1 => (0..4096_usize).prop_map(Some)];
    (vec(any::<Index>(), 0..most), vec(rows, 0..4), pages).prop_map(|(anywhere, rows, pages)| {
        Cuts {
            anywhere,
            rows,
            pages,
        }
    })
}

fn any_plants(near: impl Strategy<Value = Near>) -> impl Strategy<Value = Vec<Plant>> {
    let plant = (any::<Index>(), near, any::<Index>());
    let plant = plant.prop_map(|(pattern, near, back)| Plant {
        pattern,
        near,
        back,
    });
    vec(plant, 0..40)
}

fn any_recipe() -> impl Strategy<Value = Recipe> {
    let near = prop_oneof![
        4 => any::<Index>().prop_map(Near::Anywhere),
        1 => Just(Near::Start),
        1 => Just(Near::End),
        4 => any::<Index>().prop_map(Near::Cut),
    ];
    let len = prop_oneof![3 => 0..80_usize, 2 => 0..1000_usize, 1 => 0..8000_usize];
    let part = (select(&Filling::ALL[..]), len);
    let all = (
        any_count(),
        any::<u64>(),
        vec(part, 0..16),
        any_cuts(8),
        any_plants(near),
    );
    all.prop_map(|(count, seed, parts, cuts, plants)| Recipe {
        count,
        seed,
        parts,
        cuts,
        plants,
    })
}

/// Returns recipes for more memory than is filtered at once, with patterns at the borders of that.
fn any_large_recipe() -> impl Strategy<Value = Recipe> {
    let near = prop_oneof![
        4 => (0..4_usize, 0..600_usize).prop_map(|(step, by)| Near::Step(step, by)),
        1 => any::<Index>().prop_map(Near::Cut),
        1 => Just(Near::End),
    ];
    let part = (select(&Filling::ALL[..]), 80_000..140_000_usize);
    let all = (
        1..=300_usize,
        any::<u64>(),
        vec(part, 4),
        any_cuts(20),
        any_plants(near),
    );
    all.prop_map(|(count, seed, parts, cuts, plants)| Recipe {
        count,
        seed,
        parts,
        cuts,
        plants,
    })
}

/// Returns every match, sorted, as the plain search does. It tries a pattern only where one of its
/// bytes is, one that takes few values.
fn by_one_byte(memory: &[u8], needles: &[Needle]) -> Vec<Match> {
    // For each value of a byte the patterns to try, and where that byte is in them.
    let mut lists = vec![Vec::new(); 256];
    for (pattern, needle) in needles.iter().enumerate() {
        let values = |at: usize| (0..=255_u8).filter(move |value| needle.bytes[at].takes(*value));
        let tried = |at: usize| -> usize {
            values(at)
                .map(|value| 1 + lists[usize::from(value)].len())
                .sum()
        };
        let at = (0..needle.bytes.len()).min_by_key(|at| tried(*at));
        let at = at.expect("no pattern is empty");
        for value in values(at) {
            lists[usize::from(value)].push((pattern, at));
        }
    }
    let mut found = Vec::new();
    for (place, byte) in memory.iter().enumerate() {
        for (pattern, at) in &lists[usize::from(*byte)] {
            let offset = place.checked_sub(*at);
            let offset = offset.filter(|offset| needles[*pattern].is_prefix_of(&memory[*offset..]));
            found.extend(offset.map(|offset| Match {
                offset,
                pattern: *pattern,
            }));
        }
    }
    found.sort_unstable();
    found
}

/// Checks that two sorted lists are the same. If not, names what only one of them has.
fn assert_same(
    found: &[Match],
    expected: &[Match],
    needles: &[Needle],
    who: &str,
) -> TestCaseResult {
    let all = found.len().max(expected.len());
    let pairs = (0..all).map(|at| (found.get(at), expected.get(at)));
    let Some((found, expected)) = pairs
        .into_iter()
        .find(|(found, expected)| found != expected)
    else {
        return Ok(());
    };
    let missed = expected.filter(|expected| found.is_none_or(|found| found > *expected));
    let (what, place) = match missed {
        Some(missed) => ("misses", missed),
        None => ("wrongly has", found.expect("one of them has more")),
    };
    let spec = needles[place.pattern].spec.escape_ascii();
    Err(TestCaseError::fail(format!(
        "{who} {what} {place:?}: {spec}"
    )))
}

/// Checks that each engine finds what a plain search finds in all of the memory, in no other order
/// than it may.
fn check(made: &Made) -> TestCaseResult {
    let whole = 0..made.memory.len();
    check_parts(made, &[whole])
}

/// The same for memory that is searched in parts.
fn check_parts(made: &Made, parts: &[Range<usize>]) -> TestCaseResult {
    let Made {
        memory,
        borders,
        needles,
    } = made;
    let expected = by_one_byte(memory, needles);
    if memory.len().saturating_mul(needles.len()) <= COMPARISONS {
        let plain = naive_by(memory, needles, Needle::is_prefix_of);
        assert_same(&expected, &plain, needles, "the search by one byte")?;
    }
    let specs: Vec<_> = needles.iter().map(|needle| &needle.spec).collect();
    let patterns = parse(&specs);
    let cut = Cut {
        bytes: memory,
        borders,
    };
    for engine in kvm_inspect_pure::engines() {
        let mut found = Vec::new();
        for part in parts {
            found.extend(search(engine, &cut, &patterns, part.clone()));
        }
        let mut farthest = 0;
        for &Match { offset, .. } in &found {
            prop_assert!(offset + STEP > farthest, "{engine:?}: {offset} is late");
            farthest = farthest.max(offset);
        }
        found.sort_unstable();
        assert_same(&found, &expected, needles, &format!("{engine:?}"))?;
    }
    Ok(())
}

macro_rules! kinds {
    ($($name:ident: $kind:ident,)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(cases(150)))]
            $(
                #[test]
                #[cfg_attr(miri, ignore = "takes too long")]
                fn $name(recipe in any_recipe()) {
                    check(&recipe.make(Kind::$kind))?;
                }
            )*
        }

        #[test]
        fn all_kinds_are_tested() {
            assert_eq!([$(Kind::$kind),*], Kind::ALL);
        }
    };
}

kinds! {
    long: Long,
    short_text: ShortText,
    text: Text,
    text_of_either_case: TextOfEitherCase,
    wide: Wide,
    wide_of_either_case: WideOfEitherCase,
    open_bytes: OpenBytes,
    opcodes: Opcodes,
    open_nibbles: OpenNibbles,
    one_nibble: OneNibble,
    shared_prefix: SharedPrefix,
    shared_suffix: SharedSuffix,
    equal: Equal,
    one_poor: OnePoor,
    mixed: Mixed,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(100)))]

    #[test]
    #[cfg_attr(miri, ignore = "takes too long")]
    fn in_parts(
        kind in select(&Kind::ALL[..]),
        recipe in any_recipe(),
        ends in vec(any::<Index>(), 1..4),
    ) {
        let made = recipe.make(kind);
        let all = made.memory.len();
        let mut ends: Vec<_> = ends.iter().map(|end| end.index(all + 1)).collect();
        ends.push(all);
        ends.sort_unstable();
        let begins = [0].into_iter().chain(ends.iter().copied());
        let parts: Vec<_> = begins.zip(&ends).map(|(begin, end)| begin..*end).collect();
        check_parts(&made, &parts)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(60)))]

    /// Tests memory larger than what is filtered at once.
    #[test]
    #[cfg_attr(miri, ignore = "takes too long")]
    fn large_memory(kind in select(&Kind::ALL[..]), recipe in any_large_recipe()) {
        check(&recipe.make_large(kind))?;
    }
}
