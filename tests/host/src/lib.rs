// SPDX-License-Identifier: GPL-2.0

//! What the tests share: memory to search, and a search so simple that it is plainly right.

use kvm_inspect_pure::scan::{
    Match,
    Memory,
    Pattern,
    Searcher,
    Tables, //
};

/// Memory that checks that it is read as [`Memory`] says.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Memory for Bytes<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn word(&self, at: usize) -> u64 {
        assert_eq!(at % 8, 0, "a word is read at an offset that is not aligned");
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn copy(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0[at..at + into.len()]);
    }
}

/// A byte as a pattern has it: the two nibbles, high one first, `None` where any will do.
pub type Nibbles = (Option<u8>, Option<u8>);

/// Writes a pattern as the user does.
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

/// Makes patterns of texts that are known to be right.
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

/// Every match in `memory`, sorted: each pattern tried at each place.
#[must_use]
pub fn naive(memory: &[u8], patterns: &[Vec<Nibbles>]) -> Vec<Match> {
    let is = |nibble: Option<u8>, value| nibble.is_none_or(|nibble| nibble == value);
    let mut matches = Vec::new();
    for offset in 0..memory.len() {
        for (index, pattern) in patterns.iter().enumerate() {
            let here = &memory[offset..];
            if here.len() >= pattern.len()
                && pattern
                    .iter()
                    .zip(here)
                    .all(|(&(high, low), byte)| is(high, byte >> 4) && is(low, byte & 0xf))
            {
                matches.push(Match {
                    offset,
                    pattern: index,
                });
            }
        }
    }
    matches
}

/// What the searcher finds in `memory`, in the order in which it does.
#[must_use]
pub fn search(memory: &impl Memory, patterns: &[Pattern], seen: usize) -> Vec<Match> {
    let mut tables = Box::<Tables>::new([[0; 256]; 3]);
    let mut matches = Vec::new();
    Searcher::new(&mut tables, patterns).search(memory, seen, |found| matches.push(found), || true);
    matches
}

/// What the searcher finds in all of `memory`, sorted.
#[must_use]
pub fn search_all(memory: &[u8], patterns: &[Pattern]) -> Vec<Match> {
    let mut matches = search(&Bytes(memory), patterns, 0);
    matches.sort_unstable();
    matches
}

/// What the searcher finds in pieces of `memory` that end at `borders`, sorted. Each piece begins
/// with the end of the one before, as far as a match may reach back.
#[must_use]
pub fn search_in_pieces(memory: &[u8], patterns: &[Pattern], borders: &[usize]) -> Vec<Match> {
    let mut tables = Box::<Tables>::new([[0; 256]; 3]);
    let searcher = Searcher::new(&mut tables, patterns);
    let mut borders = borders.to_vec();
    borders.push(memory.len());
    borders.sort_unstable();

    let mut matches = Vec::new();
    let mut done: usize = 0;
    for end in borders {
        let begin = (done + 1).saturating_sub(searcher.longest()).min(done);
        searcher.search(
            &Bytes(&memory[begin..end]),
            done - begin,
            |found| {
                matches.push(Match {
                    offset: begin + found.offset,
                    ..found
                });
            },
            || true,
        );
        done = end;
    }
    matches.sort_unstable();
    matches
}
