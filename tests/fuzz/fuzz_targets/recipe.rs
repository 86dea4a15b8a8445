// SPDX-License-Identifier: GPL-2.0

//! The fuzzer's bytes are a recipe: few of them make much memory, patterns that match in it, or
//! nearly do, and cuts near these.

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

/// The most memory that runs make.
const RUNS: usize = 1024;

/// The unit of zeros before it, which move it to where the search begins another step.
const BLANK: usize = 64 << 10;

/// The most bytes of all patterns together.
const BYTES: usize = 4 * MAX_PATTERNS;

/// The most byte comparisons for a plain search.
const COMPARISONS: usize = 1 << 20;

/// The most borders in a row: more than the pieces that are filtered at once.
const BORDERS: usize = 80;

/// Few values, so that matches are frequent. Zeros are searched in a way of their own.
const VALUES: [u8; 8] = [0x00, 0x00, 0x01, 0x10, 0x11, b'a', b'A', 0xff];

/// Patterns, and memory to search.
pub(crate) struct Input {
    pub(crate) memory: Vec<u8>,
    /// The cuts of the memory, as in [`unit::Cut`].
    pub(crate) borders: Vec<usize>,
    pub(crate) patterns: Vec<Needle>,
    /// Where matches must begin to be found.
    pub(crate) begin: Range<usize>,
}

/// A pattern.
pub(crate) struct Needle {
    /// The pattern in the module's notation.
    pub(crate) spec: Vec<u8>,
    /// Its bytes.
    bytes: Vec<Byte>,
}

/// A byte of a pattern.
#[derive(Clone, Copy)]
enum Byte {
    /// Each nibble is known, or open.
    Nibbles(Nibbles),
    /// An ASCII letter of either case.
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

    /// Returns a byte that it matches, as much like `byte` as possible.
    fn like(self, byte: u8) -> u8 {
        match self {
            Self::Nibbles((high, low)) => {
                (high.unwrap_or(byte >> 4) << 4) | low.unwrap_or(byte & 0xf)
            }
            Self::Letter(letter) => (letter & 0xdf) | (byte & 0x20),
        }
    }
}

impl Needle {
    /// Returns whether memory begins with it.
    pub(crate) fn is_prefix_of(&self, memory: &[u8]) -> bool {
        let mut bytes = self.bytes.iter().zip(memory);
        memory.len() >= self.bytes.len() && bytes.all(|(expected, byte)| expected.takes(*byte))
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

    /// Of each byte's character, as many as fit.
    fn iutf16(bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(MAX_LEN / 2)];
        let spec = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
        let unit = |byte: &u8| match byte {
            letter if letter.is_ascii_alphabetic() => [Byte::Letter(*letter), Byte::exact(0)],
            byte => [Byte::exact(*byte), Byte::exact(0)],
        };
        Self {
            spec: format!("iutf16:{}", spec.collect::<String>()).into_bytes(),
            bytes: bytes.iter().flat_map(unit).collect(),
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

/// Follows a recipe. After its end come zeros.
struct Maker<'a, 'b> {
    recipe: &'a mut Unstructured<'b>,
    memory: Vec<u8>,
    borders: Vec<usize>,
    patterns: Vec<Needle>,
}

impl Maker<'_, '_> {
    fn byte(&mut self) -> u8 {
        self.recipe.arbitrary().unwrap_or(0)
    }

    /// Returns a number up to 255.
    fn count(&mut self) -> usize {
        usize::from(self.byte())
    }

    /// Returns a number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        let number = usize::from(self.recipe.arbitrary::<u16>().unwrap_or(0));
        // In large memory take the end, where its runs are.
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
        // Seldom, since it takes long.
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
                // Any bytes.
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

    /// Returns a part of the memory of 1 to `most` bytes, or nothing.
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
        // Seldom many, since their tables take long to prepare.
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
                // The pattern before, with something added.
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
                    0 => Needle::text(&bytes),
                    1 => Needle::itext(&bytes),
                    2 => Needle::iutf16(&bytes),
                    _ => Needle::hex(&nibbles(&bytes, &open)),
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

    /// Returns whether there may be another pattern of this length.
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

    /// Returns which nibbles of `len` bytes are open.
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

    /// Writes some patterns into memory: at its ends, at its cuts, or anywhere.
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
            for (byte, expected) in self.memory.iter_mut().skip(start).zip(bytes) {
                *byte = expected.like(*byte);
            }
        }
    }
}

/// Leaves these nibbles of the bytes open, but not all of them.
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

/// Bytes as text, with long runs of one byte shortened.
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
