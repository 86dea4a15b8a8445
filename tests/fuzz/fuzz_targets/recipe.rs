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
    kinds::{
        Filling,
        Kind, //
    },
    Needle,
    Nibbles,
    Random, //
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

/// How patterns that are made together differ, and what is open in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Many that differ in one byte.
    Siblings,
    /// They begin with the same bytes.
    SharedPrefix,
    /// They end with the same bytes.
    SharedSuffix,
    /// One in which bytes or nibbles are open at equal distances.
    Periodic,
    /// Those of one of the kinds that people have.
    Drawn,
    /// One.
    Single,
}

impl Family {
    fn of(how: u8) -> Self {
        match how >> 5 {
            0 => Self::Siblings,
            1 => Self::SharedPrefix,
            2 => Self::SharedSuffix,
            3 => Self::Periodic,
            4 => Self::Drawn,
            _ => Self::Single,
        }
    }
}

/// A byte of a pattern, and which of its nibbles are open.
type Cell = (u8, (bool, bool));

/// Patterns, and memory to search.
pub(crate) struct Input {
    pub(crate) memory: Vec<u8>,
    /// The cuts of the memory, as in [`unit::Cut`].
    pub(crate) borders: Vec<usize>,
    pub(crate) patterns: Vec<Needle>,
    /// Where matches must begin to be found.
    pub(crate) begin: Range<usize>,
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
            if Family::of(how) == Family::Drawn {
                self.draw(most);
            } else {
                self.make_family(how, most);
            }
            self.plant();
            if self.recipe.is_empty() || self.patterns.len() == most || !self.can_have(1) {
                return;
            }
        }
    }

    /// Draws patterns of one of the kinds that people have.
    fn draw(&mut self, most: usize) {
        let kind = Kind::ALL[self.count() % Kind::ALL.len()];
        let (count, seed) = (1 + self.count(), self.byte());
        for needle in kind.draw(count.min(most), &mut Random(seed.into())) {
            if self.patterns.len() == most || !self.can_have(needle.bytes.len()) {
                break;
            }
            self.patterns.push(needle);
        }
    }

    /// Makes one pattern, or some that have most of their bytes in common.
    fn make_family(&mut self, how: u8, most: usize) {
        let family = Family::of(how);
        let mut bytes = self.bytes_for_pattern(how);
        let changed = self.count() % bytes.len();
        if how & 4 != 0 {
            bytes[changed] ^= self.byte();
        }
        let is_single = matches!(family, Family::Periodic | Family::Single);
        let others = if is_single { 0 } else { self.byte() };
        let open = self.open(bytes.len());
        let mut cells: Vec<Cell> = bytes.into_iter().zip(open).collect();
        if family == Family::Periodic {
            self.open_periodically(&mut cells);
        }
        for number in 0..=others {
            if self.patterns.len() == most || !self.can_have(cells.len()) {
                break;
            }
            let own = (0..=number % 3).map(|at| (number.wrapping_mul(31 + at), (false, false)));
            let own: Vec<Cell> = own.collect();
            let this = match family {
                Family::SharedPrefix => [&cells[..], &own].concat(),
                Family::SharedSuffix => [&own, &cells[..]].concat(),
                _ => cells.clone(),
            };
            let len = this.len().min(MAX_LEN);
            self.patterns.push(needle(how, &this[..len]));
            if family == Family::Siblings {
                cells[changed].0 = cells[changed].0.wrapping_add(1);
            }
        }
    }

    /// Returns the bytes that a pattern is made of, at least one.
    fn bytes_for_pattern(&mut self, how: u8) -> Vec<u8> {
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
        bytes
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

    /// Opens each second, third or fourth byte, or all but these, or a nibble of them.
    fn open_periodically(&mut self, cells: &mut [Cell]) {
        let how = self.count();
        let period = 2 + how % 3;
        let phase = (how >> 2) % period;
        let is_inverse = how & 0x20 != 0;
        for (at, (_, (high, low))) in cells.iter_mut().enumerate() {
            if (at % period == phase) != is_inverse {
                *high |= how >> 6 != 1;
                *low |= how >> 6 != 2;
            }
        }
    }

    /// Writes patterns into memory: parts of them, or whole ones at its ends, at its cuts, or
    /// anywhere.
    fn plant(&mut self) {
        let how = self.byte();
        if how >= 0xa0 {
            self.string_together();
        }
        for _ in 0..how % 4 {
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
            let here = self.memory.get_mut(start..);
            if let (Some(pattern), Some(here)) = (pattern, here) {
                pattern.write_to(here);
            }
        }
    }

    /// Fills a part of memory with parts of the patterns.
    fn string_together(&mut self) {
        let start = self.below(self.memory.len());
        let (len, seed) = (4 * self.count(), self.byte());
        let filling = Filling::ALL[self.count() % Filling::ALL.len()];
        let here = self.memory.iter_mut().skip(start).take(len);
        let bytes = filling.bytes(here.len(), &self.patterns, &mut Random(seed.into()));
        for (byte, other) in here.zip(bytes) {
            *byte = other;
        }
    }
}

/// Returns a pattern of these bytes.
fn needle(how: u8, cells: &[Cell]) -> Needle {
    let bytes: Vec<u8> = cells.iter().map(|(byte, _)| *byte).collect();
    // Of each byte's character, as many as fit.
    let chars = || -> String {
        let bytes = bytes.iter().take(MAX_LEN / 2);
        bytes.copied().map(char::from).collect()
    };
    match (how >> 3) & 3 {
        _ if Family::of(how) == Family::Periodic => Needle::hex(&nibbles(cells)),
        0 => Needle::text(&bytes),
        1 => Needle::itext(&bytes),
        2 if how & 0x20 == 0 => Needle::iutf16(&chars()),
        2 => Needle::utf16(&chars()),
        _ => Needle::hex(&nibbles(cells)),
    }
}

/// Returns the nibbles that are not open, and at least some.
fn nibbles(cells: &[Cell]) -> Vec<Nibbles> {
    let all_open = cells.iter().all(|(_, open)| *open == (true, true));
    let nibbles = cells.iter().map(|(byte, (high, low))| {
        (
            (all_open || !high).then_some(byte >> 4),
            (!low).then_some(byte & 0xf),
        )
    });
    nibbles.collect()
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
