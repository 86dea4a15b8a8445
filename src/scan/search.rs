// SPDX-License-Identifier: GPL-2.0

//! Finds every match of every pattern in a piece of memory.

use super::{
    filter::{
        self,
        State,
        Tables,
        BUCKETS, //
    },
    pattern::{
        Pattern,
        MAX_LEN, //
    },
};

/// The number of bytes in a word of memory.
const WORD: usize = size_of::<u64>();

/// After how many words with a place to be checked the caller is asked whether to go on. With the
/// most patterns, of the greatest length, each byte of a word may cost as many checks.
const WORDS_AT_ONCE: u32 = 16;

/// A piece of memory to be searched.
///
/// It may change while it is read: each byte is read once by the filter and, where a pattern may
/// stand, again into a copy on which the match is decided.
pub trait Memory {
    /// The number of bytes.
    fn len(&self) -> usize;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The little-endian word at `at`, which is a multiple of 8, with `at + 8 <= self.len()`.
    fn word(&self, at: usize) -> u64;

    /// Fills `into` with the bytes from `at` on, where `at + into.len() <= self.len()`.
    fn copy(&self, at: usize, into: &mut [u8]);
}

/// A place where a pattern stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The offset of its first byte in the memory.
    pub offset: usize,
    /// The index of the pattern.
    pub pattern: usize,
}

/// A set of patterns, ready to be searched for. Any number of threads may share it.
#[derive(Clone, Copy, Debug)]
pub struct Searcher<'a> {
    patterns: &'a [Pattern],
    tables: &'a Tables,
    longest: usize,
}

impl<'a> Searcher<'a> {
    /// Prepares `tables` for a search for `patterns`.
    #[must_use]
    pub fn new(tables: &'a mut Tables, patterns: &'a [Pattern]) -> Self {
        filter::fill(tables, patterns);
        Self {
            patterns,
            tables,
            longest: patterns.iter().map(Pattern::len).max().unwrap_or(0),
        }
    }

    /// The length of the longest pattern, 0 if there is none. A piece of memory has to begin with
    /// the last `longest - 1` bytes of the piece before it, if they touch.
    #[must_use]
    pub const fn longest(&self) -> usize {
        self.longest
    }

    /// Calls `found` for every match that ends after the first `seen` bytes of `memory`. Returns
    /// whether it came to the end.
    ///
    /// Where much has to be checked, `go_on` is asked often, so that no choice of patterns and
    /// memory can make the caller wait for long; without that, about a gigabyte a second is
    /// searched.
    ///
    /// Those bytes were part of the piece before, so that matches within them were found then.
    /// Overlapping matches are all found, each once. They come in the order of memory but for a
    /// shift by less than the length of a pattern, since it is the rarest bytes of a pattern that
    /// are met, not its first: those of one pattern come in ascending order, those of different
    /// patterns may be out of order by less than [`MAX_LEN`] bytes.
    pub fn search<M: Memory>(
        &self,
        memory: &M,
        seen: usize,
        mut found: impl FnMut(Match),
        mut go_on: impl FnMut() -> bool,
    ) -> bool {
        let len = memory.len();
        if self.longest == 0 || seen >= len {
            return true;
        }

        let mut check = Check {
            searcher: self,
            memory,
            seen,
            copy: [0; MAX_LEN],
        };
        // No match that begins earlier can end after what was seen.
        let first = seen.saturating_add(1).saturating_sub(self.longest);
        let first = first.saturating_sub(first % WORD);
        let words = len.saturating_sub(len % WORD);
        let mut state = State::new();
        let mut checked = 0;

        for at in (first..words).step_by(WORD) {
            let word = memory.word(at);
            let before = state;
            if state.word(self.tables, word) != 0 {
                check.bytes(before, at, &word.to_le_bytes(), &mut found);
                checked += 1;
                if checked == WORDS_AT_ONCE {
                    checked = 0;
                    if !go_on() {
                        return false;
                    }
                }
            }
        }

        let mut tail = [0; WORD];
        if let Some(tail @ [_, ..]) = tail.get_mut(..len.saturating_sub(words)) {
            memory.copy(words, tail);
            check.bytes(state, words, tail, &mut found);
        }
        true
    }
}

/// The second stage of a search: looks closely at the places that passed the filter.
struct Check<'a, M> {
    searcher: &'a Searcher<'a>,
    memory: &'a M,
    seen: usize,
    copy: [u8; MAX_LEN],
}

impl<M: Memory> Check<'_, M> {
    /// Takes the filter over `bytes`, which are those at `at`, and checks where windows end.
    #[cold]
    #[inline(never)]
    fn bytes(
        &mut self,
        mut state: State,
        at: usize,
        bytes: &[u8],
        found: &mut impl FnMut(Match), //
    ) {
        for (end, &byte) in (at..at.saturating_add(bytes.len())).zip(bytes) {
            let mut buckets = state.byte(self.searcher.tables, byte);
            while let Some(bucket) = lowest(buckets) {
                buckets &= buckets.wrapping_sub(1);
                self.bucket(bucket, end, found);
            }
        }
    }

    /// Checks the patterns of one bucket, all of which have their anchor at `anchor`.
    fn bucket(&mut self, bucket: usize, anchor: usize, found: &mut impl FnMut(Match)) {
        let patterns = self.searcher.patterns;
        for index in (bucket..patterns.len()).step_by(BUCKETS) {
            let Some(pattern) = patterns.get(index) else {
                continue;
            };
            // A window may have ended where there is no room for the rest of the pattern.
            let Some(offset) = anchor.checked_sub(pattern.anchor()) else {
                continue;
            };
            let Some(end) = offset.checked_add(pattern.len()) else {
                continue;
            };
            if end <= self.seen || end > self.memory.len() {
                continue;
            }
            let Some(copy) = self.copy.get_mut(..pattern.len()) else {
                continue;
            };
            self.memory.copy(offset, copy);
            if pattern.matches(copy) {
                found(Match {
                    offset,
                    pattern: index,
                });
            }
        }
    }
}

/// The number of the lowest bit of `buckets`.
fn lowest(buckets: u64) -> Option<usize> {
    if buckets == 0 {
        return None;
    }
    usize::try_from(buckets.trailing_zeros()).ok()
}
