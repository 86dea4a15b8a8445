// SPDX-License-Identifier: GPL-2.0

//! What the tests share: memory to search, and a search so simple that it is plainly right.

pub mod kinds;
mod needle;
mod random;

use std::{
    env,
    ops::Range, //
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
    Work, //
};

pub use self::{
    needle::{
        Byte,
        Needle, //
    },
    random::Random,
};

/// Memory in pieces that end at the given offsets.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// All its bytes.
    pub bytes: &'a [u8],
    /// The ends of pieces, ascending.
    pub borders: &'a [usize],
}

impl Memory for Cut<'_> {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        let next = self.borders.partition_point(|border| *border <= at);
        let end = self.borders.get(next).copied().unwrap_or(usize::MAX);
        Piece::from(&self.bytes[at..end.min(self.bytes.len())])
    }
}

/// A thread of an ordinary process.
#[derive(Clone, Copy, Debug)]
pub struct Thread;

impl Host for Thread {
    fn vector<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }

    fn breathe(&self) -> bool {
        true
    }
}

/// Returns how many cases of a property to try: `most`, or `PROPTEST_CASES` where each access to
/// memory is checked, which is slow, and few under Miri.
#[must_use]
pub fn cases(most: u32) -> u32 {
    let asked = env::var("PROPTEST_CASES").ok();
    let asked = asked.and_then(|cases| cases.parse().ok());
    most.min(if cfg!(miri) { 2 } else { asked.unwrap_or(most) })
}

/// A byte of a pattern: its high and its low nibble. `None` matches any.
pub type Nibbles = (Option<u8>, Option<u8>);

/// Writes a pattern in the module's notation.
///
/// # Panics
///
/// If a nibble is larger than 15.
#[must_use]
pub fn hex(bytes: &[Nibbles]) -> String {
    let digit = |nibble: Option<u8>| match nibble {
        Some(value) => char::from_digit(value.into(), 16).expect("a nibble"),
        None => '?',
    };
    bytes.iter().fold("hex:".into(), |mut text, &(high, low)| {
        text.extend([digit(high), digit(low)]);
        text
    })
}

/// Reads patterns that are known to be right.
///
/// # Panics
///
/// If one is not.
#[must_use]
pub fn parse<T: AsRef<[u8]>>(specs: &[T]) -> Vec<Pattern> {
    specs
        .iter()
        .map(|spec| Pattern::parse(spec.as_ref()).expect("a good pattern"))
        .collect()
}

/// Returns every match in `memory`, sorted: it tries each pattern at each place.
#[must_use]
pub fn naive(memory: &[u8], patterns: &[Vec<Nibbles>]) -> Vec<Match> {
    let is = |nibble: Option<u8>, value| nibble.is_none_or(|nibble| nibble == value);
    naive_by(memory, patterns, |pattern, here| {
        here.len() >= pattern.len()
            && pattern
                .iter()
                .zip(here)
                .all(|(&(high, low), byte)| is(high, byte >> 4) && is(low, byte & 0xf))
    })
}

/// Returns what [`naive`] does, for patterns that the code under test has read.
#[must_use]
pub fn naive_of(memory: &[u8], patterns: &[Pattern]) -> Vec<Match> {
    naive_by(memory, patterns, |pattern, here| {
        let bytes = pattern.value().iter().zip(pattern.mask());
        here.len() >= pattern.len()
            && bytes
                .zip(here)
                .all(|((value, mask), byte)| byte & mask == *value)
    })
}

/// Returns what [`naive`] does, for patterns of any kind. `is_prefix` returns whether memory begins
/// with one.
pub fn naive_by<P>(
    memory: &[u8],
    patterns: &[P],
    is_prefix: impl Fn(&P, &[u8]) -> bool,
) -> Vec<Match> {
    let places = (0..memory.len()).flat_map(|offset| {
        let all = patterns.iter().enumerate();
        all.map(move |(index, pattern)| {
            let found = Match {
                offset,
                pattern: index,
            };
            (found, pattern)
        })
    });
    places
        .filter(|(place, pattern)| is_prefix(pattern, &memory[place.offset..]))
        .map(|(place, _)| place)
        .collect()
}

/// Returns what the scanner finds with one engine in `memory`, of what begins in `begin`, in its
/// order.
///
/// # Panics
///
/// If this CPU does not have the engine.
#[must_use]
pub fn search<M: Memory + ?Sized>(
    engine: Engine,
    memory: &M,
    patterns: &[Pattern],
    begin: Range<usize>,
) -> Vec<Match> {
    assert!(kvm_inspect_pure::engines().any(|has| has == engine));
    let mut tables = kvm_inspect_pure::tables();
    let mut scratch = Box::new(Scratch::new());
    let mut matches = Vec::new();
    let scanner = Scanner::new(&mut tables, patterns, engine);
    let _ = scanner.search(memory, begin, &mut scratch, &Thread, |found| {
        matches.push(found);
    });
    matches
}

/// Returns what the scanner has to do with one engine to search `memory`.
///
/// # Panics
///
/// If this CPU does not have the engine.
#[must_use]
pub fn work<M: Memory + ?Sized>(engine: Engine, memory: &M, patterns: &[Pattern]) -> Work {
    assert!(kvm_inspect_pure::engines().any(|has| has == engine));
    let mut tables = kvm_inspect_pure::tables();
    let mut scratch = Box::new(Scratch::new());
    let scanner = Scanner::new(&mut tables, patterns, engine);
    let _ = scanner.search(memory, 0..memory.len(), &mut scratch, &Thread, |_| ());
    scratch.work()
}

/// Returns what the scanner finds in all of `memory`, sorted. All engines find the same.
///
/// # Panics
///
/// If they do not.
#[must_use]
pub fn search_all<M: Memory + ?Sized>(memory: &M, patterns: &[Pattern]) -> Vec<Match> {
    let mut all = kvm_inspect_pure::engines().map(|engine| {
        let mut matches = search(engine, memory, patterns, 0..memory.len());
        matches.sort_unstable();
        (engine, matches)
    });
    let (_, portable) = all.next().expect("one that is portable");
    for (engine, matches) in all {
        assert_eq!(matches, portable, "{engine:?}");
    }
    portable
}
