// SPDX-License-Identifier: GPL-2.0

//! What the fuzzer's bytes mean: a recipe, so that few of them make much memory, patterns that stand in
//! it, or nearly do, and cuts where those are.

use std::{
    fmt,
    ops::Range, //
};

use kvm_inspect_pure::scan::{
    MAX_LEN,
    MAX_PATTERNS, //
};
use libfuzzer_sys::arbitrary::{
    self,
    Arbitrary,
    Unstructured, //
};
use unit::{
    hex,
    Nibbles, //
};

/// The most memory that is made run by run.
const RUNS: usize = 1024;

/// What may precede it in these multiples, for it to lie where the search begins another step.
const BLANK: usize = 64 << 10;

/// The most bytes in all patterns together.
const BYTES: usize = 4 * MAX_PATTERNS;

/// The most comparisons of bytes that a plain search may need.
const COMPARISONS: usize = 1 << 20;

/// The most borders in a row: more than there are pieces that are filtered at once.
const BORDERS: usize = 80;

/// Few values, so that matches are frequent; zeros, since they are searched in a way of their own.
const VALUES: [u8; 8] = [0x00, 0x00, 0x01, 0x10, 0x11, b'a', b'A', 0xff];

/// What to search for, and where.
pub(crate) struct Input {
    pub(crate) memory: Vec<u8>,
    /// Where it is cut, as [`unit::Cut`] has it.
    pub(crate) borders: Vec<usize>,
    pub(crate) patterns: Vec<Wanted>,
    /// Where matches begin that are to be found.
    pub(crate) begin: Range<usize>,
}

/// A pattern.
pub(crate) struct Wanted {
    /// As the user writes it.
    pub(crate) spec: Vec<u8>,
    /// What that means.
    bytes: Vec<Byte>,
}

/// What a pattern has in the place of a byte.
#[derive(Clone, Copy)]
enum Byte {
    /// Each nibble is known, or any.
    Nibbles(Nibbles),
    /// An ASCII letter may be of either case.
    Letter(u8),
}

impl Byte {
    const fn exact(byte: u8) -> Self {
        Self::Nibbles((Some(byte >> 4), Some(byte & 0xf)))
    }

    fn takes(self, byte: u8) -> bool {
        let is = |nibble: Option<u8>, value| nibble.is_none_or(|nibble| nibble == value);
        match self {
            Self::Nibbles((high, low)) => is(high, byte >> 4) && is(low, byte & 0xf),
            Self::Letter(letter) => letter.eq_ignore_ascii_case(&byte),
        }
    }

    /// One that it takes, as much like `byte` as may be.
    fn like(self, byte: u8) -> u8 {
        match self {
            Self::Nibbles((high, low)) => {
                (high.unwrap_or(byte >> 4) << 4) | low.unwrap_or(byte & 0xf)
            }
            Self::Letter(letter) => (letter & 0xdf) | (byte & 0x20),
        }
    }
}

impl Wanted {
    /// Whether it stands where `memory` begins.
    pub(crate) fn stands(&self, memory: &[u8]) -> bool {
        let mut bytes = self.bytes.iter().zip(memory);
        memory.len() >= self.bytes.len() && bytes.all(|(wanted, byte)| wanted.takes(*byte))
    }

    fn text(bytes: &[u8]) -> Self {
        Self {
            spec: [b"text:", &*escaped(bytes)].concat(),
            bytes: bytes.iter().copied().map(Byte::exact).collect(),
        }
    }

    fn itext(bytes: &[u8]) -> Self {
        let byte = |byte: &u8| match byte {
            letter if letter.is_ascii_alphabetic() => Byte::Letter(*letter),
            byte => Byte::exact(*byte),
        };
        Self {
            spec: [b"itext:", &*escaped(bytes)].concat(),
            bytes: bytes.iter().map(byte).collect(),
        }
    }

    fn hex(nibbles: &[Nibbles]) -> Self {
        Self {
            spec: hex(nibbles).into_bytes(),
            bytes: nibbles.iter().copied().map(Byte::Nibbles).collect(),
        }
    }
}

fn escaped(bytes: &[u8]) -> Vec<u8> {
    let escaped = bytes.iter().map(|byte| match byte {
        b'\\' => &b"\\\\"[..],
        byte => std::slice::from_ref(byte),
    });
    escaped.collect::<Vec<_>>().concat()
}

impl Arbitrary<'_> for Input {
    fn arbitrary(bytes: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        let mut maker = Maker {
            recipe: bytes,
            memory: Vec::new(),
            borders: Vec::new(),
            patterns: Vec::new(),
        };
        maker.make_memory();
        maker.make_borders();
        let begin = maker.range();
        maker.make_patterns();
        let Maker {
            memory,
            borders,
            patterns,
            ..
        } = maker;
        Ok(Self {
            memory,
            borders,
            patterns,
            begin,
        })
    }
}

/// What is made of a recipe. Where that has ended zeros follow.
struct Maker<'a, 'b> {
    recipe: &'a mut Unstructured<'b>,
    memory: Vec<u8>,
    borders: Vec<usize>,
    patterns: Vec<Wanted>,
}

impl Maker<'_, '_> {
    fn byte(&mut self) -> u8 {
        self.recipe.arbitrary().unwrap_or(0)
    }

    /// A number up to 255.
    fn count(&mut self) -> usize {
        usize::from(self.byte())
    }

    /// A number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        let number = usize::from(self.recipe.arbitrary::<u16>().unwrap_or(0));
        // Of large memory the end, where its runs are.
        let skipped = end.saturating_sub(1 << 16);
        skipped + number % (end - skipped).max(1)
    }

    fn value(&mut self) -> u8 {
        match self.byte() {
            byte if byte < 0xc0 => VALUES[usize::from(byte) % VALUES.len()],
            byte => byte,
        }
    }

    fn values(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.value()).collect()
    }

    fn make_memory(&mut self) {
        // Seldom, for it takes long.
        if let blanks @ 0xf0.. = self.byte() {
            let len = usize::from(blanks % 4) * BLANK;
            self.memory = vec![self.value(); len.saturating_sub(self.count())];
        }
        let end = self.memory.len() + RUNS;
        while self.memory.len() < end && !self.recipe.is_empty() {
            let run = match self.byte() % 8 {
                0 => break,
                1 => vec![0; self.count() * 4],
                2 => vec![self.value(); self.count()],
                3 => {
                    let count = self.count() % 32;
                    self.values(count)
                }
                // Something that it has already.
                4 => self.part(MAX_LEN),
                5 => self.part(8),
                // All different, and anything.
                6 => {
                    let (first, step) = (self.byte(), self.byte());
                    let steps = (0..=u8::MAX).take(self.count());
                    steps
                        .map(|at| first.wrapping_add(at.wrapping_mul(step)))
                        .collect()
                }
                _ => {
                    let mut seed = u32::from(self.byte());
                    let mut next = || {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        seed.to_be_bytes()[0]
                    };
                    (0..self.count()).map(|_| next()).collect()
                }
            };
            self.memory.extend(run);
        }
        self.memory.truncate(end);
    }

    /// A part of the memory of 1 to `most` bytes, or nothing.
    fn part(&mut self, most: usize) -> Vec<u8> {
        let (start, len) = (self.below(self.memory.len()), 1 + self.count() % most);
        self.memory.iter().skip(start).take(len).copied().collect()
    }

    fn make_borders(&mut self) {
        let len = self.memory.len();
        let how = self.byte();
        if how & 1 != 0 {
            for _ in 0..how >> 4 {
                let border = self.below(len + 1);
                self.borders.push(border);
            }
        }
        if how & 2 != 0 {
            let (first, step) = (self.below(len), 1 + self.count());
            let all = (first..len).step_by(step);
            self.borders.extend(all.take(BORDERS));
        }
        self.borders.sort_unstable();
    }

    fn range(&mut self) -> Range<usize> {
        let len = self.memory.len();
        match self.byte() % 4 {
            0 | 1 => 0..len,
            2 => self.below(len + 1)..len + self.count(),
            _ => {
                let start = self.below(len + 1);
                start..start + self.count()
            }
        }
    }

    fn make_patterns(&mut self) {
        // Seldom many, for tables of many take long to prepare.
        let most = match self.byte() {
            0xe0.. => MAX_PATTERNS,
            few => 1 + usize::from(few) % 8,
        };
        loop {
            let how = self.byte();
            let mut bytes = match how % 4 {
                0 => {
                    let count = 1 + self.count() % 6;
                    self.values(count)
                }
                1 => self.part(8),
                2 => self.part(MAX_LEN),
                // The one before, with something added.
                _ => {
                    let last = self.patterns.last();
                    let last = last.map_or(&[][..], |last| &last.bytes);
                    let mut bytes: Vec<_> = last.iter().map(|byte| byte.like(b'a')).collect();
                    bytes.truncate(MAX_LEN - 1);
                    bytes.push(self.value());
                    bytes
                }
            };
            if bytes.is_empty() {
                bytes.push(self.value());
            }
            let changed = self.count() % bytes.len();
            if how & 4 != 0 {
                bytes[changed] ^= self.byte();
            }
            // Many that differ in one byte.
            let siblings = if how >> 5 == 0 { self.byte() } else { 0 };
            let open = self.open(bytes.len());
            for _ in 0..=siblings {
                if self.patterns.len() == most || !self.can_have(bytes.len()) {
                    break;
                }
                let pattern = match (how >> 3) & 3 {
                    0 => Wanted::text(&bytes),
                    1 => Wanted::itext(&bytes),
                    _ => Wanted::hex(&nibbles(&bytes, &open)),
                };
                self.patterns.push(pattern);
                bytes[changed] = bytes[changed].wrapping_add(1);
            }
            self.plant();
            if self.recipe.is_empty() || self.patterns.len() == most || !self.can_have(1) {
                return;
            }
        }
    }

    /// Whether another pattern of so many bytes is not too much.
    fn can_have(&self, len: usize) -> bool {
        let bytes: usize = self
            .patterns
            .iter()
            .map(|pattern| pattern.bytes.len())
            .sum();
        let bytes = bytes + len;
        self.patterns.is_empty()
            || (bytes <= BYTES && bytes.saturating_mul(self.memory.len()) <= COMPARISONS)
    }

    /// Which nibbles of `len` bytes are open.
    fn open(&mut self, len: usize) -> Vec<(bool, bool)> {
        let mut open = vec![(false, false); len];
        for _ in 0..self.byte() % 4 {
            let (start, how) = (self.count(), self.byte());
            let run = open.iter_mut().skip(start % len);
            for (high, low) in run.take(1 + usize::from(how >> 3)) {
                *high |= how & 1 == 0;
                *low |= how & 2 == 0;
            }
        }
        open
    }

    /// Puts some patterns into memory: at its ends and where it is cut, or anywhere.
    fn plant(&mut self) {
        for _ in 0..self.byte() % 4 {
            let end = self.memory.len();
            let near = match self.byte() {
                0..0x40 => self.below(end),
                0x40..0x60 => 0,
                0x60..0x80 => end,
                0x80..0xa0 => end - end % BLANK,
                border => {
                    let border = self
                        .borders
                        .get(usize::from(border) % self.borders.len().max(1));
                    border.copied().unwrap_or(end)
                }
            };
            let start = near.saturating_sub(self.count());
            let pattern = self.count() % self.patterns.len().max(1);
            let pattern = self.patterns.iter().rev().nth(pattern);
            let bytes = pattern.into_iter().flat_map(|pattern| &pattern.bytes);
            for (byte, wanted) in self.memory.iter_mut().skip(start).zip(bytes) {
                *byte = wanted.like(*byte);
            }
        }
    }
}

/// The bytes with those nibbles open, but not all of them.
fn nibbles(bytes: &[u8], open: &[(bool, bool)]) -> Vec<Nibbles> {
    let all_open = open.iter().all(|nibbles| *nibbles == (true, true));
    let nibbles = bytes.iter().zip(open);
    nibbles
        .map(|(byte, (high, low))| {
            (
                (all_open || !high).then_some(byte >> 4),
                (!low).then_some(byte & 0xf),
            )
        })
        .collect()
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let specs: Vec<_> = self
            .patterns
            .iter()
            .map(|pattern| Bytes(&pattern.spec))
            .collect();
        f.debug_struct("Input")
            .field("memory", &Bytes(&self.memory))
            .field("borders", &format_args!("{:?}", self.borders))
            .field("begin", &self.begin)
            .field("patterns", &specs)
            .finish()
    }
}

/// Bytes as text, long runs of one of them in short.
struct Bytes<'a>(&'a [u8]);

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.0.chunk_by(|byte, next| byte == next) {
            match run {
                [byte, _, _, _, _, _, _, _, ..] => {
                    write!(f, "{{{}*{}}}", byte.escape_ascii(), run.len())?;
                }
                run => write!(f, "{}", run.escape_ascii())?,
            }
        }
        Ok(())
    }
}
