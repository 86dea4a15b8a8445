// SPDX-License-Identifier: GPL-2.0

//! The patterns: sets of those that are drawn, or what the user has in a file.

use std::{fs, io, path::Path};

use kvm_inspect_pure::scan::{Pattern, MAX_PATTERNS};
pub(crate) use pattern_sets::Kind;
use pattern_sets::Random;

/// The numbers of patterns in the sets.
const COUNTS: [usize; 6] = [1, 8, 64, 256, 1024, 4096];

/// The mask of a letter of either case.
pub(crate) const EITHER_CASE: u8 = 0xdf;

/// A pattern, in the module's notation and as bytes with the bits of them that count.
#[derive(Clone, Debug)]
pub(crate) struct Needle {
    pub(crate) spec: String,
    pub(crate) value: Vec<u8>,
    pub(crate) mask: Vec<u8>,
}

impl Needle {
    fn parse(spec: &str) -> Result<Self, String> {
        let pattern = Pattern::parse(spec.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self {
            spec: spec.to_owned(),
            value: pattern.value().to_vec(),
            mask: pattern.mask().to_vec(),
        })
    }

    /// Returns the value and the mask of each byte.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        self.value.iter().copied().zip(self.mask.iter().copied())
    }

    /// Returns bytes that match, with random bits where they are open.
    pub(crate) fn example(&self, random: &mut Random) -> Vec<u8> {
        self.bytes()
            .map(|(value, mask)| match mask {
                0xff => value,
                // No other byte than a letter.
                EITHER_CASE if value.is_ascii_alphabetic() => value | (random.byte() & 0x20),
                _ => value | (random.byte() & !mask),
            })
            .collect()
    }
}

/// The sets of one kind.
pub(crate) struct Sets {
    pub(crate) kind: Kind,
    /// Sets of more and more patterns.
    pub(crate) sets: Vec<Vec<Needle>>,
}

impl Sets {
    /// Draws sets of these numbers of patterns, or of the usual ones.
    pub(crate) fn draw(kind: Kind, counts: &[usize]) -> Self {
        let usual = COUNTS.into_iter().filter(|count| *count <= MAX_PATTERNS);
        let draw = |count| -> Vec<_> {
            let specs = kind.first(count);
            let parse = |spec: &String| Needle::parse(spec).expect("a good pattern");
            specs.iter().map(parse).collect()
        };
        let sets = if counts.is_empty() {
            usual.map(draw).collect()
        } else {
            counts.iter().copied().map(draw).collect()
        };
        Self { kind, sets }
    }

    /// Reads patterns from a file, one a line, and makes sets of the usual numbers of them and of
    /// all.
    pub(crate) fn read(path: &Path, counts: &[usize]) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let mut needles = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let needle = Needle::parse(line).map_err(|error| {
                io::Error::other(format!("{}:{}: {error}", path.display(), index + 1))
            })?;
            needles.push(needle);
        }
        let all = needles.len();
        let mut sizes = if counts.is_empty() {
            COUNTS.to_vec()
        } else {
            counts.to_vec()
        };
        sizes.retain(|count| *count < all);
        sizes.push(all);
        sizes.retain(|count| (1..=MAX_PATTERNS).contains(count));
        Ok(Self {
            kind: Kind::File,
            sets: sizes
                .into_iter()
                .map(|count| needles[..count].to_vec())
                .collect(),
        })
    }
}
