// SPDX-License-Identifier: GPL-2.0

//! Patterns that know what they mean, without the code under test.

use crate::{
    hex,
    Nibbles,
    Random, //
};

/// A pattern.
#[derive(Clone, Debug)]
pub struct Needle {
    /// The pattern in the module's notation.
    pub spec: Vec<u8>,
    /// Its bytes.
    pub bytes: Vec<Byte>,
}

/// A byte of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Byte {
    /// Each nibble is known, or open.
    Nibbles(Nibbles),
    /// An ASCII letter of either case.
    Letter(u8),
}

impl Byte {
    /// Creates one that is fully given.
    #[must_use]
    pub const fn exact(byte: u8) -> Self {
        Self::Nibbles((Some(byte >> 4), Some(byte & 0xf)))
    }

    /// Creates one that takes both cases, if it is an ASCII letter.
    #[must_use]
    pub const fn either_case(byte: u8) -> Self {
        if byte.is_ascii_alphabetic() {
            Self::Letter(byte)
        } else {
            Self::exact(byte)
        }
    }

    /// Returns whether it matches `byte`.
    #[must_use]
    pub fn takes(self, byte: u8) -> bool {
        let is = |nibble: Option<u8>, value| nibble.is_none_or(|nibble| nibble == value);
        match self {
            Self::Nibbles((high, low)) => is(high, byte >> 4) && is(low, byte & 0xf),
            Self::Letter(letter) => letter.eq_ignore_ascii_case(&byte),
        }
    }

    /// Returns a byte that it matches, as much like `byte` as possible.
    #[must_use]
    pub fn like(self, byte: u8) -> u8 {
        match self {
            Self::Nibbles((high, low)) => {
                (high.unwrap_or(byte >> 4) << 4) | low.unwrap_or(byte & 0xf)
            }
            Self::Letter(letter) => (letter & 0xdf) | (byte & 0x20),
        }
    }

    /// Returns the bits that are given.
    #[must_use]
    pub fn given(self) -> u8 {
        self.like(0) ^ !self.like(0xff)
    }
}

impl Needle {
    /// Creates one of these bytes.
    #[must_use]
    pub fn text(bytes: &[u8]) -> Self {
        Self {
            spec: [b"text:", &*escaped(bytes)].concat(),
            bytes: bytes.iter().copied().map(Byte::exact).collect(),
        }
    }

    /// Creates one of these bytes, with letters of either case.
    #[must_use]
    pub fn itext(bytes: &[u8]) -> Self {
        Self {
            spec: [b"itext:", &*escaped(bytes)].concat(),
            bytes: bytes.iter().copied().map(Byte::either_case).collect(),
        }
    }

    /// Creates one of these characters in UTF-16.
    #[must_use]
    pub fn utf16(text: &str) -> Self {
        Self {
            spec: format!("utf16:{}", escaped_chars(text)).into_bytes(),
            bytes: units(text, Byte::exact),
        }
    }

    /// Creates one of these characters in UTF-16, with letters of either case.
    #[must_use]
    pub fn iutf16(text: &str) -> Self {
        Self {
            spec: format!("iutf16:{}", escaped_chars(text)).into_bytes(),
            bytes: units(text, Byte::either_case),
        }
    }

    /// Creates one of these nibbles.
    #[must_use]
    pub fn hex(nibbles: &[Nibbles]) -> Self {
        Self {
            spec: hex(nibbles).into_bytes(),
            bytes: nibbles.iter().copied().map(Byte::Nibbles).collect(),
        }
    }

    /// Returns whether memory begins with it.
    #[must_use]
    pub fn is_prefix_of(&self, memory: &[u8]) -> bool {
        let mut bytes = self.bytes.iter().zip(memory);
        memory.len() >= self.bytes.len() && bytes.all(|(expected, byte)| expected.takes(*byte))
    }

    /// Writes it to the begin of memory, as much of it as fits, and leaves open bits as they are.
    pub fn write_to(&self, memory: &mut [u8]) {
        for (byte, expected) in memory.iter_mut().zip(&self.bytes) {
            *byte = expected.like(*byte);
        }
    }

    /// Returns bytes that match, with random bits where they are open.
    #[must_use]
    pub fn example(&self, random: &mut Random) -> Vec<u8> {
        let bytes = self.bytes.iter();
        bytes.map(|byte| byte.like(random.byte())).collect()
    }

    /// Returns bytes that match but for one bit.
    #[must_use]
    pub fn near_miss(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.example(random);
        let given: Vec<(usize, u8)> = (0..bytes.len())
            .flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)))
            .filter(|(at, bit)| self.bytes[*at].given() & bit != 0)
            .collect();
        let (at, bit) = given[random.below(given.len())];
        bytes[at] ^= bit;
        bytes
    }
}

fn escaped(bytes: &[u8]) -> Vec<u8> {
    let escaped = bytes.iter().map(|byte| match byte {
        b'\\' => &b"\\\\"[..],
        byte => std::slice::from_ref(byte),
    });
    escaped.collect::<Vec<_>>().concat()
}

/// Returns the text with escapes where there are any, and other characters as they are.
fn escaped_chars(text: &str) -> String {
    text.chars().fold(String::new(), |mut spec, char| {
        match u8::try_from(char) {
            Ok(byte) => spec += &format!("\\x{byte:02x}"),
            Err(_) => spec.push(char),
        }
        spec
    })
}

/// Returns the bytes of UTF-16. `low` is for the lower one of an ASCII character.
fn units(text: &str, low: fn(u8) -> Byte) -> Vec<Byte> {
    let mut bytes = Vec::new();
    for unit in text.encode_utf16() {
        let [first, second] = unit.to_le_bytes();
        // Others may have a letter for their lower byte.
        bytes.push(if unit < 0x80 {
            low(first)
        } else {
            Byte::exact(first)
        });
        bytes.push(Byte::exact(second));
    }
    bytes
}
