// SPDX-License-Identifier: GPL-2.0

//! The kinds of patterns that people have, and memory that is made of parts of them.

use kvm_inspect_pure::scan::MAX_LEN;

use crate::{
    Needle,
    Nibbles,
    Random, //
};

/// Letters, the frequent ones first.
const LETTERS: &[u8] = b"eta oinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ0123456789._-/\\";

/// Characters of text in UTF-16. Of the last three, one has a letter for its lower byte, and one
/// takes four bytes.
const CHARS: &str = "etanANqZ07.\\\u{e9}\u{df}\u{436}\u{161}\u{4e2d}\u{1f600}";

/// Instructions. `?` is an open nibble, `#` a random one.
const INSTRUCTIONS: [&[u8]; 12] = [
    b"488b4???",
    b"8b45??",
    b"4889??24??",
    b"488d????????",
    b"e8????????",
    b"85c074??",
    b"0f84????????",
    b"33d2",
    b"ffc?",
    b"b9##########",
    b"41b8####0000",
    b"c1c?##35########",
];

/// A kind of sets of patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 16 to 40 bytes, all given.
    Long,
    /// Text of 1 to 8 bytes.
    ShortText,
    /// Text of 8 to 12 bytes.
    Text,
    /// Text of 1 to 16 bytes, with letters of either case.
    TextOfEitherCase,
    /// UTF-16 of 2 to 6 characters.
    Wide,
    /// The same, with letters of either case.
    WideOfEitherCase,
    /// 4 to 24 bytes, of which each second, third or fourth is open, or only those are given.
    OpenBytes,
    /// Instructions with open addresses and registers.
    Opcodes,
    /// One nibble of each byte, always the same one or in turns.
    OpenNibbles,
    /// One nibble of all bytes.
    OneNibble,
    /// The same 8 to 200 bytes, and then some others.
    SharedPrefix,
    /// Some bytes, and then the same 8 to 200.
    SharedSuffix,
    /// Few patterns, each many times.
    Equal,
    /// Long ones, and one that is nearly everywhere.
    OnePoor,
    /// All others, in turns.
    Mixed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Long,
        Self::ShortText,
        Self::Text,
        Self::TextOfEitherCase,
        Self::Wide,
        Self::WideOfEitherCase,
        Self::OpenBytes,
        Self::Opcodes,
        Self::OpenNibbles,
        Self::OneNibble,
        Self::SharedPrefix,
        Self::SharedSuffix,
        Self::Equal,
        Self::OnePoor,
        Self::Mixed,
    ];

    /// Those that the mixed set draws from.
    const IN_TURNS: [Self; 12] = [
        Self::Long,
        Self::ShortText,
        Self::OpenBytes,
        Self::Text,
        Self::Wide,
        Self::Opcodes,
        Self::OpenNibbles,
        Self::TextOfEitherCase,
        Self::WideOfEitherCase,
        Self::OneNibble,
        Self::SharedPrefix,
        Self::SharedSuffix,
    ];

    /// Returns whether one place may match many of the patterns.
    #[must_use]
    pub fn is_dense(self) -> bool {
        matches!(
            self,
            Self::OpenNibbles | Self::OneNibble | Self::Equal | Self::Mixed
        )
    }

    /// Returns `count` patterns of this kind.
    #[must_use]
    pub fn draw(self, count: usize, random: &mut Random) -> Vec<Needle> {
        let set = Set::new(random);
        let mut needles: Vec<_> = match self {
            Self::Mixed => {
                let kinds = Self::IN_TURNS.into_iter().cycle().take(count);
                kinds.map(|kind| set.needle(kind, random)).collect()
            }
            Self::Equal => {
                let few = 1 + random.below(4);
                let kinds = [Self::ShortText, Self::OpenBytes, Self::Wide, Self::Long];
                let few = (0..few).map(|_| set.needle(random.one(&kinds), random));
                few.collect::<Vec<_>>()
                    .into_iter()
                    .cycle()
                    .take(count)
                    .collect()
            }
            kind => (0..count).map(|_| set.needle(kind, random)).collect(),
        };
        if self == Self::OnePoor && !needles.is_empty() {
            let at = random.below(needles.len());
            needles[at] = poor(random);
        }
        needles
    }
}

/// What the patterns of a set have in common.
struct Set {
    letters: &'static [u8],
    shared: Vec<Nibbles>,
}

impl Set {
    fn new(random: &mut Random) -> Self {
        // Few letters make many near misses.
        let letters = random.one(&[4, 12, LETTERS.len()]);
        let len = random.one(&[8, 12, 20, 40, 200]);
        let mut shared: Vec<_> = bytes(len, random).into_iter().map(given).collect();
        if random.below(3) == 0 {
            let open = random.below(len);
            shared[open] = (None, None);
        }
        Self {
            letters: &LETTERS[..letters],
            shared,
        }
    }

    /// Returns a pattern of a kind that has one at a time.
    fn needle(&self, kind: Kind, random: &mut Random) -> Needle {
        match kind {
            Kind::ShortText => Needle::text(&self.text(1, 8, random)),
            Kind::Text => Needle::text(&self.text(8, 12, random)),
            Kind::TextOfEitherCase => Needle::itext(&self.text(1, 16, random)),
            Kind::Wide => Needle::utf16(&wide(random)),
            Kind::WideOfEitherCase => Needle::iutf16(&wide(random)),
            Kind::OpenBytes => open_bytes(random),
            Kind::Opcodes => opcodes(random),
            Kind::OpenNibbles => open_nibbles(random),
            Kind::OneNibble => one_nibble(random),
            Kind::SharedPrefix => Needle::hex(&[&self.shared[..], &own(random)].concat()),
            Kind::SharedSuffix => Needle::hex(&[&own(random), &self.shared[..]].concat()),
            Kind::Long | Kind::OnePoor | Kind::Equal | Kind::Mixed => {
                let len = 16 + random.below(25);
                Needle::text(&bytes(len, random))
            }
        }
    }

    fn text(&self, shortest: usize, longest: usize, random: &mut Random) -> Vec<u8> {
        let len = shortest + random.below(longest - shortest + 1);
        (0..len).map(|_| random.one(self.letters)).collect()
    }
}

fn bytes(len: usize, random: &mut Random) -> Vec<u8> {
    (0..len).map(|_| random.byte()).collect()
}

const fn given(byte: u8) -> Nibbles {
    (Some(byte >> 4), Some(byte & 0xf))
}

/// Returns what tells patterns apart that share the rest.
fn own(random: &mut Random) -> Vec<Nibbles> {
    let len = 1 + random.below(6);
    bytes(len, random).into_iter().map(given).collect()
}

fn wide(random: &mut Random) -> String {
    let (len, chars) = (2 + random.below(5), CHARS.chars().collect::<Vec<_>>());
    (0..len).map(|_| random.one(&chars)).collect()
}

fn open_bytes(random: &mut Random) -> Needle {
    let (len, period) = (4 + random.below(21), 2 + random.below(3));
    let phase = random.below(period);
    let is_inverse = random.below(4) == 0;
    let bytes = bytes(len, random).into_iter().enumerate();
    let nibbles = bytes.map(|(at, byte)| {
        let is_open = (at % period == phase) != is_inverse;
        if is_open {
            (None, None)
        } else {
            given(byte)
        }
    });
    Needle::hex(&nibbles.collect::<Vec<_>>())
}

fn opcodes(random: &mut Random) -> Needle {
    let mut nibbles = Vec::new();
    for _ in 0..2 + random.below(5) {
        for digits in random.one(&INSTRUCTIONS).chunks_exact(2) {
            nibbles.push((digit(digits[0], random), digit(digits[1], random)));
        }
    }
    Needle::hex(&nibbles)
}

fn digit(digit: u8, random: &mut Random) -> Option<u8> {
    match digit {
        b'?' => None,
        b'#' => Some(random.byte() & 0xf),
        b'0'..=b'9' => Some(digit - b'0'),
        _ => Some(digit - b'a' + 10),
    }
}

fn open_nibbles(random: &mut Random) -> Needle {
    let (len, how) = (2 + random.below(11), random.below(3));
    let bytes = bytes(len, random).into_iter().enumerate();
    let nibbles = bytes.map(|(at, byte)| {
        let is_high = if how == 2 { at % 2 == 0 } else { how == 1 };
        if is_high {
            (Some(byte >> 4), None)
        } else {
            (None, Some(byte & 0xf))
        }
    });
    Needle::hex(&nibbles.collect::<Vec<_>>())
}

fn one_nibble(random: &mut Random) -> Needle {
    let mut nibbles = vec![(None, None); 1 + random.below(12)];
    let at = random.below(nibbles.len());
    let nibble = Some(random.byte() & 0xf);
    nibbles[at] = if random.below(2) == 0 {
        (nibble, None)
    } else {
        (None, nibble)
    };
    Needle::hex(&nibbles)
}

/// Returns a pattern that much memory is full of.
fn poor(random: &mut Random) -> Needle {
    let open = (None, None);
    let nibbles: [&[Nibbles]; 5] = [
        &[(Some(0), Some(0))],
        &[(None, Some(0))],
        &[(Some(6), None)],
        &[open, (Some(0), Some(0)), open],
        &[(Some(6), Some(5)), open, open, open, (Some(2), None)],
    ];
    Needle::hex(random.one(&nibbles))
}

/// What a part of memory consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// Zeros.
    Zeros,
    /// Any bytes.
    Random,
    /// Letters, the frequent ones more often.
    Letters,
    /// One byte of a pattern, again and again.
    OneByte,
    /// Two to four bytes each from anywhere in the patterns.
    Pieces,
    /// Patterns without their last bytes.
    Prefixes,
    /// Patterns without their first bytes.
    Suffixes,
    /// Patterns with one wrong bit each.
    NearMisses,
    /// Patterns.
    Matches,
}

impl Filling {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Zeros,
        Self::Random,
        Self::Letters,
        Self::OneByte,
        Self::Pieces,
        Self::Prefixes,
        Self::Suffixes,
        Self::NearMisses,
        Self::Matches,
    ];

    /// Returns so many bytes of it. Without patterns they are zeros.
    #[must_use]
    pub fn bytes(self, len: usize, needles: &[Needle], random: &mut Random) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + MAX_LEN);
        let one_byte = match needles {
            [] => 0,
            needles => piece(needles, 1, random)[0],
        };
        while bytes.len() < len {
            match self {
                Self::Random => bytes.push(random.byte()),
                Self::Letters => {
                    let most = random.one(&[8, LETTERS.len()]);
                    bytes.push(random.one(&LETTERS[..most]));
                }
                Self::OneByte => bytes.push(one_byte),
                _ if self == Self::Zeros || needles.is_empty() => bytes.resize(len, 0),
                _ => bytes.extend(self.next(needles, random)),
            }
        }
        bytes.truncate(len);
        bytes
    }

    /// Returns the next bytes of what is made of patterns, at least one.
    fn next(self, needles: &[Needle], random: &mut Random) -> Vec<u8> {
        let needle = &needles[random.below(needles.len())];
        let len = needle.bytes.len();
        // Most lack little.
        let cut = if random.below(4) == 0 {
            random.below(len)
        } else {
            (1 + random.below(2)).min(len - 1)
        };
        match self {
            Self::Prefixes => needle.example(random)[..len - cut].to_vec(),
            Self::Suffixes => needle.example(random).split_off(cut),
            Self::NearMisses => needle.near_miss(random),
            Self::Matches => needle.example(random),
            _ => {
                let most = 2 + random.below(3);
                piece(needles, most, random)
            }
        }
    }
}

/// Returns up to `most` neighbouring bytes of a pattern.
fn piece(needles: &[Needle], most: usize, random: &mut Random) -> Vec<u8> {
    let needle = &needles[random.below(needles.len())];
    let len = most.min(needle.bytes.len());
    let at = random.below(needle.bytes.len() - len + 1);
    needle.example(random)[at..at + len].to_vec()
}
