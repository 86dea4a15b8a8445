// SPDX-License-Identifier: GPL-2.0

//! The search, against one that is plainly right, and at the borders where it could go wrong.

use std::cell::Cell;

use host::{
    hex,
    naive,
    parse,
    search,
    search_all,
    search_in_pieces,
    Bytes,
    Nibbles, //
};
use kvm_inspect_pure::scan::{
    Match,
    Memory,
    Searcher,
    Tables, //
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{
        select,
        Index, //
    },
};

/// Few values, so that matches are frequent; zeros, since they are searched in a way of their own.
const VALUES: [u8; 5] = [0x00, 0x00, 0x01, 0x10, 0x11];

fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![20 => select(&VALUES[..]), 1 => any::<u8>()]
}

/// Memory with runs of zeros, as guests have them.
fn any_memory() -> impl Strategy<Value = Vec<u8>> {
    let run = prop_oneof![
        vec(any_byte(), 0..40),
        (0..100_usize).prop_map(|len| vec![0; len])
    ];
    vec(run, 0..10).prop_map(|runs| runs.concat())
}

/// A few of the nibbles of `bytes` left open, but not all.
fn open(bytes: &[u8], wild: &[u8]) -> Vec<Nibbles> {
    let mut pattern: Vec<Nibbles> = bytes
        .iter()
        .zip(wild.iter().cycle())
        .map(|(byte, wild)| {
            (
                (wild & 1 == 0).then_some(byte >> 4),
                (wild & 2 == 0).then_some(byte & 0xf),
            )
        })
        .collect();
    if pattern.iter().all(|&nibbles| nibbles == (None, None)) {
        pattern[bytes.len() / 2].0 = Some(bytes[bytes.len() / 2] >> 4);
    }
    pattern
}

fn any_wildcards() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![6 => Just(0_u8), 1 => Just(1), 1 => Just(2), 2 => Just(3)],
        1..20,
    )
}

/// Memory, and patterns that were taken out of it or may well be in it.
fn any_search(
    patterns: impl Into<proptest::collection::SizeRange> + Clone,
) -> impl Strategy<Value = (Vec<u8>, Vec<Vec<Nibbles>>)> {
    any_memory().prop_flat_map(move |memory| {
        let short = (vec(any_byte(), 1..7), any_wildcards());
        let taken = (any::<Index>(), 1..=256_usize, any_wildcards());
        let source = memory.clone();
        let taken = taken.prop_map(move |(start, len, wild)| {
            if source.is_empty() {
                return (vec![0], wild);
            }
            let start = start.index(source.len());
            let end = source.len().min(start + len);
            (source[start..end].to_vec(), wild)
        });
        let pattern =
            prop_oneof![2 => short, 1 => taken].prop_map(|(bytes, wild)| open(&bytes, &wild));
        (Just(memory), vec(pattern, patterns.clone()))
    })
}

fn specs(patterns: &[Vec<Nibbles>]) -> Vec<String> {
    patterns.iter().map(|pattern| hex(pattern)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn finds_what_a_naive_search_finds((memory, patterns) in any_search(0..45)) {
        let found = search_all(&memory, &parse(&specs(&patterns)));
        prop_assert_eq!(found, naive(&memory, &patterns));
    }

    #[test]
    fn pieces_are_as_good_as_the_whole(
        (memory, patterns) in any_search(0..10),
        borders in vec(any::<Index>(), 0..8),
    ) {
        let borders: Vec<_> = borders.iter().map(|at| at.index(memory.len() + 1)).collect();
        let found = search_in_pieces(&memory, &parse(&specs(&patterns)), &borders);
        prop_assert_eq!(found, naive(&memory, &patterns));
    }

    #[test]
    fn leaves_out_what_ends_within_the_seen_bytes(
        (memory, patterns) in any_search(1..10),
        seen in 0..400_usize,
    ) {
        let mut found = search(&Bytes(&memory), &parse(&specs(&patterns)), seen);
        found.sort_unstable();
        let mut expected = naive(&memory, &patterns);
        expected.retain(|found| found.offset + patterns[found.pattern].len() > seen);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn comes_in_the_order_that_is_promised((memory, patterns) in any_search(1..45)) {
        let found = search(&Bytes(&memory), &parse(&specs(&patterns)), 0);
        let mut highest = 0;
        let mut last = vec![None; patterns.len()];
        for Match { offset, pattern } in found {
            prop_assert!(last[pattern] < Some(offset));
            prop_assert!(offset + 256 > highest);
            last[pattern] = Some(offset);
            highest = highest.max(offset);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn buckets_may_be_shared((memory, patterns) in any_search(60..=256)) {
        let found = search_all(&memory, &parse(&specs(&patterns)));
        prop_assert_eq!(found, naive(&memory, &patterns));
    }
}

/// The offsets at which `spec` is found in `memory`.
fn offsets(memory: &[u8], spec: &str) -> Vec<usize> {
    search_all(memory, &parse(&[spec]))
        .iter()
        .map(|found| found.offset)
        .collect()
}

#[test]
fn nothing_to_look_for() {
    assert_eq!(search_all(&[0; 64], &[]), []);
}

#[test]
fn nothing_to_look_into() {
    assert_eq!(search_all(&[], &parse(&["hex:00", "text:abc"])), []);
}

#[test]
fn memory_shorter_than_the_pattern() {
    assert_eq!(offsets(b"secre", "text:secret"), []);
    assert_eq!(offsets(b"secret", "text:secret"), [0]);
    assert_eq!(offsets(&[7; 255], &format!("hex:{}", "07".repeat(256))), []);
    assert_eq!(
        offsets(&[7; 257], &format!("hex:{}", "07".repeat(256))),
        [0, 1]
    );
}

#[test]
fn every_offset_and_length() {
    // Each length of the memory around each place, so that every part of a word comes last once.
    for pattern_len in [1, 2, 3, 4, 7, 8, 9, 256] {
        let pattern: Vec<u8> = (1..=u8::MAX).cycle().take(pattern_len).collect();
        let digits = pattern.iter().map(|byte| format!("{byte:02x}"));
        let spec = format!("hex:{}", digits.collect::<String>());
        for before in 0..20 {
            for after in 0..20 {
                let memory = [&vec![0; before], &pattern[..], &vec![0; after]].concat();
                let found = offsets(&memory, &spec);
                assert_eq!(found, [before], "{pattern_len} bytes, {after} after them");
            }
        }
    }
}

#[test]
fn overlapping_matches() {
    assert_eq!(offsets(b"aaaaa", "text:aa"), [0, 1, 2, 3]);
    assert_eq!(offsets(b"abababa", "text:aba"), [0, 2, 4]);
    let nine_zeros = offsets(&[0; 20], "hex:0000000000000000 00");
    assert_eq!(nine_zeros, (0..12).collect::<Vec<_>>());
}

#[test]
fn the_same_pattern_twice() {
    let found = search_all(b"-x", &parse(&["text:x", "text:x"]));
    let expected = [0, 1].map(|pattern| Match { offset: 1, pattern });
    assert_eq!(found, expected);
}

#[test]
fn open_bytes_need_room_on_both_sides() {
    assert_eq!(offsets(b"xaxaxa", "hex:?? 61 ??"), [0, 2]);
    assert_eq!(offsets(b"a", "hex:?? 61"), []);
    assert_eq!(offsets(b"a", "hex:61 ??"), []);
    assert_eq!(offsets(&[0; 5], "hex:?? ?? ?? 00"), [0, 1]);
    assert_eq!(offsets(&[0; 5], "hex:00 ?? ?? ??"), [0, 1]);
}

#[test]
fn open_nibbles() {
    assert_eq!(offsets(&[0x41, 0x14, 0x42, 0x24], "hex:4?"), [0, 2]);
    assert_eq!(offsets(&[0x41, 0x14, 0x42, 0x24], "hex:?4"), [1, 3]);
    assert_eq!(offsets(&[0x41, 0x14, 0x42, 0x24], "hex:4? ?4"), [0, 2]);
}

#[test]
fn text_in_utf16() {
    assert_eq!(offsets(b"_h\0\xe9\0_", "utf16:h\u{e9}"), [1]);
}

#[test]
fn longest_is_that_of_the_set() {
    let mut tables = Box::<Tables>::new([[0; 256]; 3]);
    assert_eq!(Searcher::new(&mut tables, &[]).longest(), 0);
    let patterns = parse(&["text:ab", "text:abcde", "text:abc"]);
    assert_eq!(Searcher::new(&mut tables, &patterns).longest(), 5);
}

#[test]
fn tables_can_be_used_again() {
    let mut tables = Box::<Tables>::new([[0; 256]; 3]);
    for (spec, expected) in [("text:a", 0), ("text:b", 1)] {
        let patterns = parse(&[spec]);
        let mut found = Vec::new();
        Searcher::new(&mut tables, &patterns).search(
            &Bytes(b"ab"),
            0,
            |hit| found.push(hit),
            || true,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].offset, expected);
    }
}

/// Memory that counts how often the search looks closely.
struct Watched<'a> {
    bytes: Bytes<'a>,
    looks: Cell<usize>,
}

impl Memory for Watched<'_> {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn word(&self, at: usize) -> u64 {
        self.bytes.word(at)
    }

    fn copy(&self, at: usize, into: &mut [u8]) {
        self.looks.set(self.looks.get() + 1);
        self.bytes.copy(at, into);
    }
}

#[test]
fn frequent_bytes_are_not_what_is_looked_for() {
    // What was searched for before must not count, either.
    let before = parse(&["hex:00", "hex:65"]);
    let patterns = parse(&[
        "hex:00 00 00 00 00 f4 00 00 00",
        "hex:?? ?? 7f 00 ??",
        "utf16:Queen",
        "text:eeeeeQueeeee",
    ]);
    let text = "e\0".repeat(4096) + &"e".repeat(4096) + &"\0".repeat(4096);
    let memory = Watched {
        bytes: Bytes(text.as_bytes()),
        looks: Cell::new(0),
    };
    let mut tables = Box::<Tables>::new([[0; 256]; 3]);
    let _ = Searcher::new(&mut tables, &before);
    Searcher::new(&mut tables, &patterns).search(&memory, 0, |_| unreachable!(), || true);
    assert_eq!(memory.looks.get(), 0);
}

/// Memory that is something else each time it is read.
struct Restless {
    len: usize,
    seed: Cell<u64>,
}

impl Restless {
    fn next(&self) -> u64 {
        // A linear congruential generator; two of its bits are enough for matches to be frequent.
        let seed = self
            .seed
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.seed.set(seed);
        (seed >> 32) & 0x0101_0101
    }
}

impl Memory for Restless {
    fn len(&self) -> usize {
        self.len
    }

    fn word(&self, at: usize) -> u64 {
        assert!(at % 8 == 0 && at + 8 <= self.len);
        (self.next() << 32) | self.next()
    }

    fn copy(&self, at: usize, into: &mut [u8]) {
        assert!(at + into.len() <= self.len);
        into.fill_with(|| self.next().to_le_bytes()[0]);
    }
}

proptest! {
    #[test]
    fn memory_may_change_meanwhile(
        len in 0..500_usize,
        seen in 0..500_usize,
        seed in any::<u64>(),
        patterns in vec(vec(0..=1_u8, 1..10), 0..10),
    ) {
        let nibbles: Vec<Vec<Nibbles>> = patterns
            .iter()
            .map(|bytes| bytes.iter().map(|&byte| (Some(0), Some(byte))).collect())
            .collect();
        let memory = Restless { len, seed: Cell::new(seed) };
        let mut found = search(&memory, &parse(&specs(&nibbles)), seen);
        for &Match { offset, pattern } in &found {
            prop_assert!(offset + patterns[pattern].len() <= len);
            prop_assert!(offset + patterns[pattern].len() > seen);
        }
        let all = found.len();
        found.sort_unstable();
        found.dedup();
        prop_assert_eq!(found.len(), all, "a match was reported twice");
    }
}

/// Memory of which the filter and the check see different things.
struct TwoFaced {
    filter: u64,
    check: u8,
}

impl Memory for TwoFaced {
    fn len(&self) -> usize {
        8
    }

    fn word(&self, _: usize) -> u64 {
        self.filter
    }

    fn copy(&self, _: usize, into: &mut [u8]) {
        into.fill(self.check);
    }
}

#[test]
fn a_match_is_decided_on_a_copy() {
    let patterns = parse(&["hex:11 11"]);
    let gone = TwoFaced {
        filter: 0x1111,
        check: 0,
    };
    assert_eq!(search(&gone, &patterns, 0), []);
    let there = TwoFaced {
        filter: 0x1111,
        check: 0x11,
    };
    let expected = Match {
        offset: 0,
        pattern: 0,
    };
    assert_eq!(search(&there, &patterns, 0), [expected]);
}

/// Whatever it costs to check, the caller is asked soon whether to go on, and obeyed.
#[test]
fn asks_often_whether_to_go_on() {
    // The costliest there is: of many long patterns all but the last byte is everywhere.
    let patterns: Vec<String> = (0..=255_u8)
        .map(|last| format!("hex:{}{last:02x}", "a5".repeat(255)))
        .collect();
    let patterns = parse(&patterns);
    let mut tables = Box::<Tables>::new([[0; 256]; 3]);
    let searcher = Searcher::new(&mut tables, &patterns);
    let memory = vec![0xa5; 1 << 20];

    for most in [0, 1, 3] {
        let (mut asked, mut found) = (0, 0);
        let complete = searcher.search(
            &Bytes(&memory),
            0,
            |_| found += 1,
            || {
                asked += 1;
                asked <= most
            },
        );
        assert!(!complete);
        assert_eq!(asked, most + 1);
        // At most 256 bytes in between.
        assert!(
            found <= (most + 1) * 256,
            "{found} matches, asked {asked} times"
        );
    }
}

/// Where there is nothing to check, nobody is asked.
#[test]
fn comes_to_the_end() {
    let patterns = parse(&["hex:0102"]);
    let mut tables = Box::<Tables>::new([[0; 256]; 3]);
    let searcher = Searcher::new(&mut tables, &patterns);
    let memory = vec![0xa5; 1 << 16];
    assert!(searcher.search(&Bytes(&memory), 0, |_| unreachable!(), || false));
}
