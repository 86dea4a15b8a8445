// SPDX-License-Identifier: GPL-2.0

//! The patterns: what an incident responder or a YARA rule looks for, the same in each run.

mod code;
mod text;

use std::{collections::HashSet, fs, io, path::Path};

use kvm_inspect_pure::scan::{Pattern, MAX_PATTERNS};

use crate::random::Random;

/// The numbers of patterns in the sets.
const COUNTS: [usize; 6] = [1, 8, 64, 256, 1024, 4096];

/// The mask of a letter of either case.
pub(crate) const EITHER_CASE: u8 = 0xdf;

/// The kinds of sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Keys, addresses, headers, names in UTF-16, code: 16 to 40 bytes.
    Long,
    /// Text of 4 to 8 bytes.
    ShortText,
    /// Text of 8 to 12 bytes.
    Text,
    /// Text of 8 to 16 bytes, with letters of either case.
    TextOfEitherCase,
    /// UTF-16 of 3 to 6 characters.
    Wide,
    /// UTF-16 of 4 to 10 characters, with letters of either case.
    WideOfEitherCase,
    /// 12 to 20 bytes, each fourth of them open.
    OpenBytes,
    /// Instructions with open addresses and registers.
    Opcodes,
    /// All the others, in turns.
    Mixed,
    /// Text of 12 to 20 bytes that begins with the same 8 bytes.
    SharedPrefix,
    /// What the caller has in a file.
    File,
}

impl Kind {
    /// All but the one of a file.
    pub(crate) const DRAWN: [Self; 10] = [
        Self::Long,
        Self::ShortText,
        Self::Text,
        Self::TextOfEitherCase,
        Self::Wide,
        Self::WideOfEitherCase,
        Self::OpenBytes,
        Self::Opcodes,
        Self::Mixed,
        Self::SharedPrefix,
    ];

    /// Those that the mixed set draws from.
    const IN_TURNS: [Self; 9] = [
        Self::Long,
        Self::ShortText,
        Self::Opcodes,
        Self::Text,
        Self::Wide,
        Self::OpenBytes,
        Self::TextOfEitherCase,
        Self::WideOfEitherCase,
        Self::SharedPrefix,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::ShortText => "text 4-8",
            Self::Text => "text 8-12",
            Self::TextOfEitherCase => "itext 8-16",
            Self::Wide => "wide 3-6",
            Self::WideOfEitherCase => "iwide 4-10",
            Self::OpenBytes => "open bytes",
            Self::Opcodes => "opcodes",
            Self::Mixed => "mixed",
            Self::SharedPrefix => "shared prefix",
            Self::File => "file",
        }
    }

    /// Returns whether the patterns are too short for few places to be looked at.
    pub(crate) fn is_short(self) -> bool {
        matches!(
            self,
            Self::ShortText | Self::Text | Self::TextOfEitherCase | Self::Wide
        )
    }

    /// Returns the first `count` patterns, each of them different.
    pub(crate) fn first(self, count: usize) -> Vec<Needle> {
        let mut random = Random(0x1b87_3593_cc9e_2d51);
        let mut seen = HashSet::new();
        (0..)
            .map(|index| self.nth(index, &mut random))
            .filter(|needle| seen.insert((needle.value.clone(), needle.mask.clone())))
            .take(count)
            .collect()
    }

    fn nth(self, index: usize, random: &mut Random) -> Needle {
        let spec = match self {
            Self::Long => text::long(index, random),
            Self::ShortText => text::short(index, random),
            Self::Text => text::middle(index, random),
            Self::TextOfEitherCase => text::either_case(index, random),
            Self::Wide => text::wide(index, random),
            Self::WideOfEitherCase => text::wide_either_case(index, random),
            Self::OpenBytes => code::open_bytes(random),
            Self::Opcodes => code::opcodes(random),
            Self::Mixed => {
                let kinds = Self::IN_TURNS;
                return kinds[index % kinds.len()].nth(index / kinds.len(), random);
            }
            Self::SharedPrefix => text::shared_prefix(random),
            Self::File => unreachable!("a file's patterns are not drawn"),
        };
        Needle::parse(&spec).expect("a good pattern")
    }
}

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
        let sets = if counts.is_empty() {
            usual.map(|count| kind.first(count)).collect()
        } else {
            counts.iter().map(|count| kind.first(*count)).collect()
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
