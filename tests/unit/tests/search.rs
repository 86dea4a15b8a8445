// SPDX-License-Identifier: GPL-2.0

//! The search, compared with one that is plainly right, and at borders where it could go wrong.

use std::{
    cell::Cell,
    collections::HashSet,
    sync::atomic::{
        AtomicBool,
        AtomicU8,
        Ordering, //
    },
    thread, //
};

use kvm_inspect_pure::scan::{
    Engine,
    Host,
    Match,
    Memory,
    Pattern,
    Piece,
    Scanner,
    Scratch,
    MAX_PATTERNS, //
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{
        select,
        Index, //
    },
};
use unit::{
    cases,
    hex,
    naive,
    naive_of,
    parse,
    search,
    search_all,
    work,
    Cut,
    Nibbles,
    Random,
    Thread, //
};

/// Few values, so that matches are frequent. Zeros are searched in a way of their own.
const VALUES: [u8; 5] = [0x00, 0x00, 0x01, 0x10, 0x11];

fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![20 => select(&VALUES[..]), 1 => any::<u8>()]
}

/// Returns memory with runs of zeros, as guests have them.
fn any_memory() -> impl Strategy<Value = Vec<u8>> {
    let run = prop_oneof![
        vec(any_byte(), 0..40),
        (0..100_usize).prop_map(|len| vec![0; len])
    ];
    vec(run, 0..10).prop_map(|runs| runs.concat())
}

/// Leaves a few of the nibbles of `bytes` open, but not all.
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

/// Returns memory, and patterns that are in it or may be.
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

/// Returns letters, other bytes, and one of them again and again, so that much is almost a match.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let letters = || vec(select(&b"aAbBzZ019{[\x80"[..]), 1..30);
    let run = prop_oneof![
        letters(),
        (letters(), 1..12_usize).prop_map(|(part, times)| part.repeat(times))
    ];
    vec(run, 0..12).prop_map(|runs| runs.concat())
}

/// Returns text, and long patterns from it: most unchanged, some with another last byte, with an
/// open digit, or with letters of either case.
fn any_long_search() -> impl Strategy<Value = (Vec<u8>, Vec<String>)> {
    any_text().prop_flat_map(|memory| {
        let source = memory.clone();
        let taken = (any::<Index>(), 8..60_usize, 0..6_u8, any::<Index>());
        let pattern = taken.prop_map(move |(start, len, kind, open_at)| {
            let start = start.index(source.len() + 1);
            let end = source.len().min(start + len);
            let mut bytes = [&source[start..end], b"tail"].concat();
            let all = bytes.len();
            bytes.truncate(if all < 12 { all } else { all - 4 });
            match kind {
                0 => *bytes.last_mut().expect("there are some") ^= 1,
                1 => {
                    let text = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
                    return format!("itext:{}", text.collect::<String>());
                }
                _ => (),
            }
            let mut spec = hex(&open(&bytes, &[0]));
            if kind == 2 {
                let at = "hex:".len() + open_at.index(2 * bytes.len());
                spec.replace_range(at..=at, "?");
            }
            spec
        });
        (Just(memory), vec(pattern, 1..80))
    })
}

fn specs(patterns: &[Vec<Nibbles>]) -> Vec<String> {
    patterns.iter().map(|pattern| hex(pattern)).collect()
}

/// Returns cuts for memory: near the sizes that the search works with, or anywhere.
fn any_cuts() -> impl Strategy<Value = Vec<Index>> {
    prop_oneof![1 => Just(vec![]), 3 => vec(any::<Index>(), 0..8), 1 => vec(any::<Index>(), 100)]
}

/// Returns the cuts as in [`Cut::borders`].
fn borders(cuts: &[Index], len: usize) -> Vec<usize> {
    let mut borders: Vec<_> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
    borders.sort_unstable();
    borders
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(300)))]

    #[test]
    fn finds_what_a_naive_search_finds(
        (memory, patterns) in any_search(0..45),
        cuts in any_cuts(),
    ) {
        let borders = borders(&cuts, memory.len());
        let cut = Cut { bytes: &memory, borders: &borders };
        let found = search_all(&cut, &parse(&specs(&patterns)));
        prop_assert_eq!(found, naive(&memory, &patterns));
    }

    #[test]
    fn parts_are_as_good_as_the_whole(
        (memory, patterns) in any_search(0..10),
        cuts in any_cuts(),
        parts in any_cuts(),
    ) {
        let cuts = borders(&cuts, memory.len());
        let cut = Cut { bytes: &memory, borders: &cuts };
        let mut parts = borders(&parts, memory.len());
        parts.push(memory.len());
        for engine in kvm_inspect_pure::engines() {
            let (mut found, mut begin) = (Vec::new(), 0);
            for end in parts.iter().copied() {
                found.extend(search(engine, &cut, &parse(&specs(&patterns)), begin..end));
                begin = end;
            }
            found.sort_unstable();
            prop_assert_eq!(found, naive(&memory, &patterns));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(200)))]

    #[test]
    fn long_patterns(
        (memory, specs) in any_long_search(),
        cuts in any_cuts(),
        parts in vec(any::<Index>(), 0..4),
    ) {
        let patterns = parse(&specs);
        let borders = |cuts| borders(cuts, memory.len());
        let cuts = borders(&cuts);
        let cut = Cut { bytes: &memory, borders: &cuts };
        let expected = naive_of(&memory, &patterns);
        prop_assert_eq!(search_all(&cut, &patterns), &expected[..]);
        for engine in kvm_inspect_pure::engines() {
            let (mut found, mut begin) = (Vec::new(), 0);
            for end in borders(&parts).into_iter().chain([memory.len()]) {
                found.extend(search(engine, &cut, &patterns, begin..end));
                begin = end;
            }
            found.sort_unstable();
            prop_assert_eq!(&found, &expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(60)))]

    #[test]
    fn buckets_may_be_shared((memory, patterns) in any_search(60..=256), cuts in any_cuts()) {
        let borders = borders(&cuts, memory.len());
        let cut = Cut { bytes: &memory, borders: &borders };
        let found = search_all(&cut, &parse(&specs(&patterns)));
        prop_assert_eq!(found, naive(&memory, &patterns));
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(30)))]

    /// Tests memory larger than what is filtered at once, with pieces and matches at all its
    /// borders.
    #[test]
    #[cfg_attr(miri, ignore = "takes too long")]
    fn large_memory(
        places in vec((0..3_usize, 0..600_usize), 1..20),
        cuts in vec((0..3_usize, 0..200_usize), 0..20),
        lens in vec(1..=256_usize, 1..20),
    ) {
        const STEP: usize = 128 << 10;
        let near = |(step, by): (usize, usize)| (step * STEP + by).saturating_sub(300);
        let mut memory = vec![0; 3 * STEP];
        let patterns: Vec<Vec<Nibbles>> = lens
            .iter()
            .zip(1_u8..)
            .map(|(&len, seed)| {
                let steps = (0..=u8::MAX).cycle().take(len);
                let bytes = steps.map(|at| seed.wrapping_mul(31).wrapping_add(at.wrapping_mul(7)));
                bytes.map(|byte| (Some(byte >> 4), Some(byte & 0xf))).collect()
            })
            .collect();
        for (place, pattern) in places.iter().zip(patterns.iter().cycle()) {
            let here = memory[near(*place)..].iter_mut();
            for (byte, (high, low)) in here.zip(pattern) {
                *byte = (high.unwrap_or(0) << 4) | low.unwrap_or(0);
            }
        }
        let mut borders: Vec<_> = cuts.iter().map(|cut| near(*cut)).collect();
        borders.sort_unstable();
        let cut = Cut { bytes: &memory, borders: &borders };
        let parsed = parse(&specs(&patterns));
        prop_assert_eq!(search_all(&cut, &parsed), naive(&memory, &patterns));
        for engine in kvm_inspect_pure::engines() {
            let mut farthest = 0;
            for Match { offset, .. } in search(engine, &cut, &parsed, 0..memory.len()) {
                prop_assert!(offset + STEP > farthest, "{engine:?}: {offset} is late");
                farthest = farthest.max(offset);
            }
        }
    }
}

/// Tests matches at every offset around every border: of what is filtered at once, of a page, of a
/// piece.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn every_border() {
    let patterns = parse(&["text:Queen", "hex:5175 ?? 65", "itext:queeN"]);
    for (border, around) in [(64, 64), (4096, 70), (128 << 10, 6)] {
        let mut memory = vec![0x51; border + 200];
        for at in border - around..border + around {
            for cut in [usize::MAX, border - 1, border, border + 1] {
                memory.fill(0x51);
                memory[at..at + 5].copy_from_slice(b"Queen");
                let cut = Cut {
                    bytes: &memory,
                    borders: &[cut],
                };
                let found = search_all(&cut, &patterns);
                let expected = [0, 1, 2].map(|pattern| Match {
                    offset: at,
                    pattern,
                });
                assert_eq!(found, expected, "at {at}, cut at {cut:?}");
            }
        }
    }
}

/// Returns the offsets at which `spec` is found in `memory`.
fn offsets(memory: &[u8], spec: &str) -> Vec<usize> {
    search_all(memory, &parse(&[spec]))
        .iter()
        .map(|found| found.offset)
        .collect()
}

#[test]
fn nothing_to_look_for() {
    assert_eq!(search_all(&[0; 64][..], &[]), []);
}

#[test]
fn nothing_to_look_into() {
    assert_eq!(search_all(&[][..], &parse(&["hex:00", "text:abc"])), []);
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
#[cfg_attr(miri, ignore = "takes too long")]
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
    let found = search_all(&b"-x"[..], &parse(&["text:x", "text:x"]));
    let expected = [0, 1].map(|pattern| Match { offset: 1, pattern });
    assert_eq!(found, expected);
}

/// Tests as many patterns as possible, each so long that the sampled places are as far apart as
/// possible.
/// Of thousands of patterns only each 32nd is looked at to plan the search: what the others are
/// like must cost no match.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn thousands_of_patterns_unlike_those_that_are_looked_at() {
    for each in [32, 64] {
        let mut random = Random(1);
        let patterns: Vec<Vec<Nibbles>> = (0..MAX_PATTERNS)
            .map(|index| {
                let len = if index % each == 0 { 3 } else { 16 };
                let bytes = (0..len).map(|_| random.byte());
                bytes
                    .map(|byte| (Some(byte >> 4), Some(byte & 0xf)))
                    .collect()
            })
            .collect();
        let mut memory = Vec::new();
        let mut planted = Vec::new();
        for (pattern, nibbles) in patterns.iter().enumerate() {
            planted.push((memory.len(), pattern));
            let given = |nibble: Option<u8>| nibble.expect("it is given");
            let bytes = nibbles.iter();
            memory.extend(bytes.map(|(high, low)| (given(*high) << 4) | given(*low)));
            memory.push(0);
        }
        let patterns = parse(&specs(&patterns));
        for engine in kvm_inspect_pure::engines() {
            let found = search(engine, &memory[..], &patterns, 0..memory.len());
            let found: HashSet<_> = found.iter().map(|hit| (hit.offset, hit.pattern)).collect();
            for (offset, pattern) in &planted {
                assert!(
                    found.contains(&(*offset, *pattern)),
                    "{engine:?}: {pattern}"
                );
            }
        }
    }
}

/// Where all bytes are equal few of them are looked at. Patterns may begin or end with the same
/// byte, and lie at any distance from where that is noticed.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn runs_of_equal_bytes() {
    for (len, count) in [(6, 1), (6, 200), (12, 1), (12, 300), (40, 1), (40, 300)] {
        for equal in 0..=7.min(len / 2) {
            let mut random = Random(1);
            let mut draw = || -> Vec<u8> {
                let bytes = (0..len).map(|at| if at < equal { 0 } else { random.byte() | 1 });
                let mut bytes: Vec<_> = bytes.collect();
                if count > 1 && bytes[len - 1] & 2 == 0 {
                    bytes.reverse();
                }
                bytes
            };
            let patterns: Vec<_> = (0..count).map(|_| draw()).collect();
            let mut memory = Vec::new();
            let mut expected = Vec::new();
            for at in 0..700 {
                // Prime, so that each remainder comes.
                memory.resize(memory.len() + 1499 + at % 7, 0);
                let pattern = at % count;
                let offset = memory.len();
                expected.push(Match { offset, pattern });
                memory.extend(&patterns[pattern]);
            }
            memory.resize(memory.len() + 1499, 0);
            let specs: Vec<_> = patterns
                .iter()
                .map(|bytes| hex(&open(bytes, &[0])))
                .collect();
            let patterns = parse(&specs);
            for engine in kvm_inspect_pure::engines() {
                let mut found = search(engine, &memory[..], &patterns, 0..memory.len());
                found.sort_unstable();
                assert_eq!(
                    found, expected,
                    "{engine:?}: {count} of {len}, {equal} equal"
                );
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn many_long_patterns() {
    const LEN: usize = 48;
    let mut word = 1_u64;
    let mut byte = || {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        word.to_be_bytes()[0]
    };
    let patterns: Vec<Vec<u8>> = (0..256)
        .map(|_| (0..LEN).map(|_| byte()).collect())
        .collect();
    let (mut memory, mut expected) = (Vec::new(), Vec::new());
    // Often enough for each of them to lie at each distance from a sampled place.
    for _ in 0..=30 {
        for (pattern, bytes) in patterns.iter().enumerate() {
            let offset = memory.len();
            expected.push(Match { offset, pattern });
            memory.extend(bytes);
        }
        memory.push(0);
    }
    let specs: Vec<_> = patterns
        .iter()
        .map(|bytes| hex(&open(bytes, &[0])))
        .collect();
    assert_eq!(search_all(&memory[..], &parse(&specs)), expected);
}

/// Tests the border of the first 1024 sampled places, after which the share of those that pass is
/// looked at, for all distances between them.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn a_second_look() {
    let specs = [
        "text:0123456789abcdef",
        "text:ABCDEFGHIJKLMNOP",
        "text:qrstuvwxyz-+*/=?",
    ];
    let patterns = parse(&specs);
    let borders = (7..=16).map(|distance| 1024 * distance);
    for offset in borders.flat_map(|border| border - 32..border + 32_usize) {
        let pattern = offset % patterns.len();
        let mut memory = vec![b' '; offset + 100];
        memory[offset..][..16].copy_from_slice(&specs[pattern].as_bytes()["text:".len()..]);
        assert_eq!(
            search_all(&memory[..], &patterns),
            [Match { offset, pattern }]
        );
    }
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
fn text_in_either_case() {
    assert_eq!(offsets(b"aBcAbC@bc`BC", "itext:abc"), [0, 3]);
    assert_eq!(offsets(b"[1] {1}", "itext:[1]"), [0]);
    assert_eq!(offsets(b"Z z", "itext:z\\sZ"), [0]);
}

#[test]
fn longest_is_that_of_the_set() {
    let longest = |patterns: &[Pattern]| {
        let mut tables = kvm_inspect_pure::tables();
        Scanner::new(&mut tables, patterns, Engine::PORTABLE).longest()
    };
    assert_eq!(longest(&[]), 0);
    assert_eq!(longest(&parse(&["text:ab", "text:abcde", "text:abc"])), 5);
}

#[test]
fn tables_and_scratch_can_be_used_again() {
    let mut tables = kvm_inspect_pure::tables();
    let mut scratch = Box::new(Scratch::new());
    let patterns = [parse(&["text:a", "hex:00"]), parse(&["text:b"])];
    for (patterns, expected) in patterns.iter().zip([0, 1]) {
        let mut found = Vec::new();
        let scanner = Scanner::new(&mut tables, patterns, Engine::PORTABLE);
        let _ = scanner.search(&b"ab"[..], 0..2, &mut scratch, &Thread, |hit| {
            found.push(hit);
        });
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].offset, expected);
    }
}

#[test]
fn frequent_bytes_are_not_what_is_looked_for() {
    let patterns = parse(&[
        "hex:00 00 00 00 00 f4 00 00 00",
        "hex:?? ?? 7f 00 ??",
        "utf16:Queen",
        "text:eeeeeQueeeee",
        "text:ZZZZZZZZe",
    ]);
    let text = "e\0".repeat(4096) + &"e".repeat(4096) + &"Z".repeat(4096) + &"\0".repeat(4096);
    for engine in kvm_inspect_pure::engines() {
        let work = work(engine, text.as_bytes(), &patterns);
        // Where one kind of text becomes another one of them nearly is.
        assert!(work.compared < 4, "{engine:?}: {work:?}");
        assert!(work.close < 2048, "{engine:?}: {work:?}");
    }
}

/// One piece of memory.
struct Shared<'a>(Piece<'a>);

impl Memory for Shared<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        self.0.after(at)
    }
}

/// Tests memory that another thread writes all the time: each match is within bounds, and found
/// once.
#[test]
#[cfg_attr(miri, ignore = "is a data race, on purpose")]
fn memory_may_change_meanwhile() {
    let memory: Vec<AtomicU8> = (0..200_000).map(|_| AtomicU8::new(0)).collect();
    let patterns = parse(&["hex:01 01 00", "hex:00 01", "hex:01 00 ?? ?? 01 01 01"]);
    let stop = AtomicBool::new(false);
    // SAFETY: The piece is read by volatile reads only, and the vector is borrowed for longer.
    let piece = unsafe { Piece::new(memory.as_ptr().cast(), memory.len()) };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 1_u64;
            while !stop.load(Ordering::Relaxed) {
                for byte in &memory {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    byte.store(u8::from(seed >> 63 == 1), Ordering::Relaxed);
                }
            }
        });
        for engine in kvm_inspect_pure::engines() {
            for _ in 0..20 {
                let mut found = search(engine, &Shared(piece), &patterns, 0..memory.len());
                let all = found.len();
                for hit in &found {
                    assert!(hit.offset + patterns[hit.pattern].len() <= memory.len());
                }
                found.sort_unstable();
                found.dedup();
                assert_eq!(found.len(), all, "a match was reported twice");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Memory that changes between the first look and the decision, which reads from where the match
/// begins.
struct TwoFaced {
    filter: [u8; 100],
    check: [u8; 100],
}

impl Memory for TwoFaced {
    fn len(&self) -> usize {
        100
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        let bytes = if at == 3 { &self.check } else { &self.filter };
        Piece::from(&bytes[at..])
    }
}

#[test]
fn a_match_is_decided_by_what_was_read_last() {
    let patterns = parse(&["hex:11 11"]);
    let mut filter = [0; 100];
    filter[3..5].fill(0x11);
    filter[5] = 0x12;
    for engine in kvm_inspect_pure::engines() {
        let check = [0; 100];
        let gone = TwoFaced { filter, check };
        assert_eq!(search(engine, &gone, &patterns, 0..90), []);
        let check = [0x11; 100];
        let there = TwoFaced { filter, check };
        let expected = Match {
            offset: 3,
            pattern: 0,
        };
        assert_eq!(search(engine, &there, &patterns, 0..90), [expected]);
    }
}

/// A host that counts, and gives up after so many breaths.
struct Counting {
    breaths: Cell<usize>,
    most: usize,
    in_vector: Cell<bool>,
}

impl Counting {
    fn new(most: usize) -> Self {
        Self {
            breaths: Cell::new(0),
            most,
            in_vector: Cell::new(false),
        }
    }
}

impl Host for Counting {
    fn vector<R>(&self, work: impl FnOnce() -> R) -> R {
        assert!(!self.in_vector.replace(true));
        let result = work();
        self.in_vector.set(false);
        result
    }

    fn breathe(&self) -> bool {
        assert!(!self.in_vector.get());
        assert!(self.breaths.get() < self.most, "it goes on");
        self.breaths.set(self.breaths.get() + 1);
        self.breaths.get() < self.most
    }
}

/// Tests that a host that gives up is obeyed at once, whatever finds the matches, and that it is
/// asked often where every byte is a match of many patterns.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn gives_up() {
    let long = parse(&vec![format!("hex:{}", "a5".repeat(40)); 256]);
    let short = parse(&vec!["hex:a5a5".to_owned(); 256]);
    let memory = vec![0xa5; 1 << 16];
    for engine in kvm_inspect_pure::engines() {
        for patterns in [&long, &short] {
            let mut tables = kvm_inspect_pure::tables();
            let mut scratch = Box::new(Scratch::new());
            let scanner = Scanner::new(&mut tables, patterns, engine);
            for most in [1, 2, 100] {
                let host = Counting::new(most);
                let mut found = 0;
                let done =
                    scanner.search(&memory[..], 0..4096, &mut scratch, &host, |_| found += 1);
                assert!(!done);
                // Few places, each with as many matches as there are patterns.
                assert!(found <= most * 16 * 256, "{found} after {most} breaths");
            }
            let host = Counting::new(usize::MAX);
            assert!(scanner.search(&memory[..], 0..16, &mut scratch, &host, |_| ()));
        }
    }
}

/// Tests that others get the CPU soon, however long checks take, and never while vector registers
/// are in use.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn breathes_often() {
    // The costliest case: all but the last byte of many long patterns is everywhere.
    let patterns: Vec<String> = (0..=255_u8)
        .map(|last| format!("hex:{}{last:02x}{}", "a5".repeat(254), "a5"))
        .collect();
    let patterns = parse(&patterns);
    let memory = vec![0xa5; 1 << 20];
    for engine in kvm_inspect_pure::engines() {
        let mut tables = kvm_inspect_pure::tables();
        let mut scratch = Box::new(Scratch::new());
        let scanner = Scanner::new(&mut tables, &patterns, engine);
        let host = Counting::new(usize::MAX);
        let mut found = 0;
        let _ = scanner.search(&memory[..], 0..4096, &mut scratch, &host, |_| {
            assert!(!host.in_vector.get());
            found += 1;
        });
        assert_eq!(found, 4096);
        assert!(host.breaths.get() >= 4096 / 64, "{}", host.breaths.get());
    }
}

mod digests {
    use kvm_inspect_pure::scan::digest::{digest, digest_part, Key};

    use super::{any, cases, vec, Cut, Engine, Index, Thread};
    use proptest::prelude::*;

    fn key(seed: u64) -> Key {
        let mut key = Key::new();
        key.fill(|words| {
            for (at, word) in words.iter_mut().enumerate() {
                let mixed = (at as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                *word = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            }
        });
        key
    }

    fn of(engine: Engine, memory: &[u8]) -> u64 {
        let borders: Vec<usize> = (0..memory.len()).step_by(4096).collect();
        let cut = Cut {
            bytes: memory,
            borders: &borders,
        };
        digest(engine, &key(7), &cut, 0, &Thread)
    }

    fn of_all(memory: &[u8]) -> u64 {
        let digest = of(Engine::PORTABLE, memory);
        for engine in kvm_inspect_pure::engines() {
            assert_eq!(of(engine, memory), digest, "{engine:?}");
        }
        digest
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(100)))]

        #[test]
        fn sees_each_change(
            mut memory in vec(any::<u8>(), 4 * 4096),
            at in any::<Index>(),
            bit in 0..8_u8,
        ) {
            let before = of_all(&memory);
            prop_assert_eq!(before, of_all(&memory));
            memory[at.index(4 * 4096)] ^= 1 << bit;
            prop_assert_ne!(before, of_all(&memory));
        }

        #[test]
        fn does_not_depend_on_pieces(
            memory in vec(any::<u8>(), 3 * 4096),
            cuts in vec(any::<Index>(), 0..5),
        ) {
            let borders = super::borders(&cuts, memory.len());
            let cut = Cut { bytes: &memory, borders: &borders };
            for engine in kvm_inspect_pure::engines() {
                let digest = digest(engine, &key(7), &cut, 0, &Thread);
                prop_assert_eq!(digest, of_all(&memory));
            }
        }
    }

    #[test]
    fn order_counts() {
        let [a, b] = [vec![1; 4096], vec![2; 4096]];
        let ab = of_all(&[&a[..], &b].concat());
        assert_ne!(ab, of_all(&[&b[..], &a].concat()));
        assert_ne!(ab, of_all(&[&a[..], &a].concat()));
    }

    /// Tests that the digest of pages is the sum of those of any portions of them.
    #[test]
    fn portions_add_up() {
        let memory: Vec<u8> = (0..5 * 4096_u32)
            .map(|at| (at * 7 / 3).to_le_bytes()[0])
            .collect();
        for engine in kvm_inspect_pure::engines() {
            let all = digest(engine, &key(7), &memory[..], 11, &Thread);
            for cut in 0..=5 {
                let (first, rest) = memory.split_at(cut * 4096);
                let first = digest(engine, &key(7), first, 11, &Thread);
                let rest = digest(engine, &key(7), rest, 11 + cut as u64, &Thread);
                assert_eq!(first.wrapping_add(rest), all);
            }
        }
        assert_eq!(digest(Engine::PORTABLE, &key(7), &[][..], 3, &Thread), 0);
    }

    /// Tests that the digest of a part sees its bytes and its place, and nothing else.
    #[test]
    fn parts() {
        let mut memory = vec![5; 4096];
        let of = |memory: &[u8], place| digest_part(&key(7), memory, 0, 40, place);
        let before = of(&memory, 1);
        memory[320] = 6;
        assert_eq!(of(&memory, 1), before);
        assert_ne!(of(&memory, 2), before);
        memory[319] = 6;
        assert_ne!(of(&memory, 1), before);
    }

    #[test]
    fn is_secret() {
        let memory = vec![3; 4096];
        let with = |seed| digest(Engine::PORTABLE, &key(seed), &memory[..], 0, &Thread);
        assert_ne!(with(1), with(2));
    }
}

/// Tables that were prepared for one engine are of use for each other one, if not as fast.
#[test]
fn tables_of_another_engine() {
    let patterns = parse(&["text:secret", "hex:4? 8b ?? e8"]);
    let mut memory = vec![b'.'; 5000];
    memory[70..76].copy_from_slice(b"secret");
    memory[4096..4100].copy_from_slice(b"\x48\x8b\0\xe8");
    let engines: Vec<_> = kvm_inspect_pure::engines().collect();
    for prepared_for in &engines {
        let mut tables = kvm_inspect_pure::tables();
        let _ = Scanner::new(&mut tables, &patterns, *prepared_for);
        for engine in &engines {
            let mut scratch = Box::new(Scratch::new());
            let mut found = Vec::new();
            let scanner = Scanner::of_prepared(&tables, &patterns, *engine);
            let memory = &memory[..];
            let _ = scanner.search(memory, 0..5000, &mut scratch, &Thread, |hit| {
                found.push(hit.offset);
            });
            found.sort_unstable();
            assert_eq!(found, [70, 4096], "{prepared_for:?}, {engine:?}");
        }
    }
}
