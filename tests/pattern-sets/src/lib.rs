// SPDX-License-Identifier: GPL-2.0

//! The patterns that the benchmarks search for: what an incident responder or a YARA rule looks
//! for, the same in each run. They are in the module's notation; nothing here knows what they mean.

mod code;
mod random;
mod text;

use std::collections::HashSet;

pub use self::random::Random;

/// The kinds of sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
    /// What the user has in a file.
    File,
}

impl Kind {
    /// All but the one of a file.
    pub const DRAWN: [Self; 10] = [
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

    /// Returns its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
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
    #[must_use]
    pub fn is_short(self) -> bool {
        matches!(
            self,
            Self::ShortText | Self::Text | Self::TextOfEitherCase | Self::Wide
        )
    }

    /// Returns the first `count` patterns, each of them different.
    ///
    /// # Panics
    ///
    /// If it is the kind of a file.
    #[must_use]
    pub fn first(self, count: usize) -> Vec<String> {
        let mut random = Random(0x1b87_3593_cc9e_2d51);
        let mut seen = HashSet::new();
        (0..)
            .map(|index| self.nth(index, &mut random))
            .filter(|spec| seen.insert(spec.clone()))
            .take(count)
            .collect()
    }

    fn nth(self, index: usize, random: &mut Random) -> String {
        match self {
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
                kinds[index % kinds.len()].nth(index / kinds.len(), random)
            }
            Self::SharedPrefix => text::shared_prefix(random),
            Self::File => unreachable!("a file's patterns are not drawn"),
        }
    }
}
