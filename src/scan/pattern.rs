// SPDX-License-Identifier: GPL-2.0

//! What to look for: a string of bytes, in which some bits may be open.

use core::fmt;

/// The most patterns that are searched for at once.
pub const MAX_PATTERNS: usize = 4096;

/// The most bytes in one pattern.
pub const MAX_LEN: usize = 256;

/// The mask of a fully specified byte.
const EXACT: u8 = 0xff;

/// The bit that tells ASCII letters of the two cases apart.
const CASE: u8 = 0x20;

/// The mask of a letter of either case.
const EITHER_CASE: u8 = EXACT & !CASE;

/// Returns the mask with which `byte` stands for both cases, if it is an ASCII letter.
const fn either_case(byte: u8) -> u8 {
    if byte.is_ascii_alphabetic() {
        EITHER_CASE
    } else {
        EXACT
    }
}

/// A string of 1 to [`MAX_LEN`] bytes, each with a mask of the bits that count.
///
/// # Invariants
///
/// - `1 <= len <= MAX_LEN`.
/// - `value` has no bit that `mask` has not, and beyond `len` bytes both are 0.
/// - At least one bit of `mask` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    value: [u8; MAX_LEN],
    mask: [u8; MAX_LEN],
    len: usize,
}

impl Pattern {
    /// Reads a pattern as the user writes it.
    ///
    /// - `text:` takes the bytes as they are;
    /// - `itext:` takes them, too, and ASCII letters match in either case;
    /// - `utf16:` takes UTF-8 text and looks for it in little-endian UTF-16;
    /// - `iutf16:` does so, too, and ASCII letters match in either case;
    /// - `hex:` takes two hex digits for each byte, with spaces between bytes where wanted; a `?`
    ///   in the place of a digit leaves that nibble open.
    ///
    /// In all but `hex:`, `\\` is a backslash, `\s` a space, and `\xHH` the byte, or the
    /// character, of that number.
    ///
    /// # Errors
    ///
    /// Anything else, an empty or too long pattern, and one that leaves every bit open.
    pub fn parse(spec: &[u8]) -> Result<Self, PatternError> {
        let mut pattern = Self {
            value: [0; MAX_LEN],
            mask: [0; MAX_LEN],
            len: 0,
        };

        if let Some(body) = spec.strip_prefix(b"text:") {
            pattern.push_text(Body::new(spec, body), |_| EXACT)?;
        } else if let Some(body) = spec.strip_prefix(b"itext:") {
            pattern.push_text(Body::new(spec, body), either_case)?;
        } else if let Some(body) = spec.strip_prefix(b"utf16:") {
            pattern.push_utf16(Body::new(spec, body), |_| EXACT)?;
        } else if let Some(body) = spec.strip_prefix(b"iutf16:") {
            pattern.push_utf16(Body::new(spec, body), either_case)?;
        } else if let Some(body) = spec.strip_prefix(b"hex:") {
            pattern.push_hex(Body::new(spec, body))?;
        } else {
            return Err(PatternError::UnknownPrefix);
        }

        if pattern.len == 0 {
            return Err(PatternError::Empty);
        }
        if pattern.mask().iter().all(|&mask| mask == 0) {
            return Err(PatternError::OnlyWildcards);
        }

        // INVARIANT: `push` keeps `len` within bounds and `value` within `mask`; the rest was
        // checked above.
        Ok(pattern)
    }

    /// Returns the kind of a pattern that was read from `spec`: its prefix, without the colon.
    #[must_use]
    pub fn kind(spec: &[u8]) -> &'static str {
        let kinds = ["text", "itext", "utf16", "iutf16", "hex"];
        let is_it = |kind: &&str| {
            let rest = spec.strip_prefix(kind.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b":"))
        };
        kinds.into_iter().find(is_it).unwrap_or("none")
    }

    /// Returns how many bits of the pattern are given.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.mask().iter().map(|mask| mask.count_ones()).sum()
    }

    /// Returns the number of bytes in the pattern, never 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is no empty pattern")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes to be found, with 0 for each bit that is open.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.value.get(..self.len).unwrap_or_default()
    }

    /// Returns the bits that count, for each byte of the pattern.
    #[must_use]
    pub fn mask(&self) -> &[u8] {
        self.mask.get(..self.len).unwrap_or_default()
    }

    /// Returns whether `bytes`, as many as the pattern has, are what it asks for.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.len
            && self
                .bytes()
                .zip(bytes)
                .all(|((value, mask), byte)| byte & mask == value)
    }

    /// Returns the value and the mask of a byte.
    pub(super) fn byte(&self, index: usize) -> Option<(u8, u8)> {
        let value = self.value().get(index)?;
        Some((*value, *self.mask().get(index)?))
    }

    /// Returns the value and the mask of the eight bytes from `at` on, as little-endian words.
    /// Beyond the end of the pattern all is open.
    #[inline]
    pub(super) fn window(&self, at: usize) -> (u64, u64) {
        (word(&self.value, at), word(&self.mask, at))
    }

    /// Returns the value and the mask of each byte.
    fn bytes(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        self.value()
            .iter()
            .copied()
            .zip(self.mask().iter().copied())
    }

    fn push(&mut self, value: u8, mask: u8) -> Result<(), PatternError> {
        let (Some(last_value), Some(last_mask)) =
            (self.value.get_mut(self.len), self.mask.get_mut(self.len))
        else {
            return Err(PatternError::TooLong);
        };
        *last_value = value & mask;
        *last_mask = mask;
        // No overflow: `len` was an index of the arrays.
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    fn push_text(
        &mut self,
        mut body: Body<'_>,
        mask: impl Fn(u8) -> u8, //
    ) -> Result<(), PatternError> {
        while let Some(byte) = body.next() {
            let byte = match byte {
                b'\\' => body.escape()?,
                byte => byte,
            };
            self.push(byte, mask(byte))?;
        }
        Ok(())
    }

    fn push_utf16(
        &mut self,
        mut body: Body<'_>,
        mask: impl Fn(u8) -> u8, //
    ) -> Result<(), PatternError> {
        while let Some(char) = body.next_char()? {
            let char = match char {
                '\\' => char::from(body.escape()?),
                char => char,
            };
            for unit in char.encode_utf16(&mut [0; 2]) {
                let [low, high] = unit.to_le_bytes();
                // Only ASCII: others may have a letter for their lower byte.
                self.push(low, if char.is_ascii() { mask(low) } else { EXACT })?;
                self.push(high, EXACT)?;
            }
        }
        Ok(())
    }

    fn push_hex(&mut self, mut body: Body<'_>) -> Result<(), PatternError> {
        while let Some(high) = body.next() {
            if high == b' ' {
                continue;
            }
            let (high, high_mask) = body.nibble(high)?;
            let at = body.position();
            let low = match body.next() {
                None | Some(b' ') => return Err(PatternError::HalfByte { at }),
                Some(low) => low,
            };
            let (low, low_mask) = body.nibble(low)?;
            self.push((high << 4) | low, (high_mask << 4) | low_mask)?;
        }
        Ok(())
    }
}

/// Returns the eight bytes from `at` on as a little-endian word, with zeros beyond the end.
#[inline]
fn word(bytes: &[u8; MAX_LEN], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    if let Some(word) = rest.first_chunk() {
        return u64::from_le_bytes(*word);
    }
    let mut word = [0; size_of::<u64>()];
    for (to, from) in word.iter_mut().zip(rest) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

/// What is left to read of a pattern's text.
struct Body<'a> {
    rest: &'a [u8],
    /// The length of the whole list element, from which positions are counted.
    total: usize,
}

impl<'a> Body<'a> {
    const fn new(spec: &'a [u8], body: &'a [u8]) -> Self {
        Self {
            rest: body,
            total: spec.len(),
        }
    }

    /// Returns the place of the byte that was read last; the first one of the list element is 1.
    const fn position(&self) -> usize {
        self.total.saturating_sub(self.rest.len())
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn next_char(&mut self) -> Result<Option<char>, PatternError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let error = PatternError::NotUtf8 {
            at: self.position().saturating_add(1),
        };
        let chunk = self.rest.utf8_chunks().next().ok_or(error)?;
        let char = chunk.valid().chars().next().ok_or(error)?;
        self.rest = self.rest.get(char.len_utf8()..).unwrap_or_default();
        Ok(Some(char))
    }

    /// Returns what stands for itself after a backslash that was just read.
    fn escape(&mut self) -> Result<u8, PatternError> {
        let error = PatternError::BadEscape {
            at: self.position(),
        };
        match self.next().ok_or(error)? {
            b'\\' => Ok(b'\\'),
            b's' => Ok(b' '),
            b'x' => {
                let high = self.next().and_then(hex_digit).ok_or(error)?;
                let low = self.next().and_then(hex_digit).ok_or(error)?;
                Ok((high << 4) | low)
            }
            _ => Err(error),
        }
    }

    /// Returns the value and the mask of the nibble written as `digit`, which was just read.
    fn nibble(&self, digit: u8) -> Result<(u8, u8), PatternError> {
        if digit == b'?' {
            return Ok((0, 0));
        }
        let value = hex_digit(digit).ok_or(PatternError::NotHex {
            at: self.position(),
            found: digit,
        })?;
        Ok((value, 0xf))
    }
}

/// Returns the value of a hex digit of either case.
const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
        b'A'..=b'F' => Some(digit.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}

/// Why a text is not a pattern.
///
/// Positions count the bytes of the whole text, its prefix included, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// It does not begin with a known prefix.
    UnknownPrefix,
    /// Nothing follows the prefix.
    Empty,
    /// It makes more than [`MAX_LEN`] bytes.
    TooLong,
    /// Every bit is open.
    OnlyWildcards,
    /// A byte is written with one hex digit.
    HalfByte {
        /// The position of that digit.
        at: usize,
    },
    /// There is something else in place of a hex digit.
    NotHex {
        /// The position.
        at: usize,
        /// What is there.
        found: u8,
    },
    /// A backslash is not followed by what makes an escape.
    BadEscape {
        /// The position of the backslash.
        at: usize,
    },
    /// Text that is to become UTF-16 is not UTF-8.
    NotUtf8 {
        /// The position of the first bad byte.
        at: usize,
    },
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownPrefix => f.write_str(
                "the kind of pattern is not known; begin it with text:, itext:, utf16:, \
                 iutf16: or hex:",
            ),
            Self::Empty => {
                f.write_str("the pattern is empty; write at least one byte after the prefix")
            }
            Self::TooLong => write!(
                f,
                "the pattern makes more than {MAX_LEN} bytes; leave out some of them"
            ),
            Self::OnlyWildcards => f.write_str(
                "the pattern matches everywhere; write at least one digit that is not ?",
            ),
            Self::HalfByte { at } => write!(
                f,
                "the byte at position {at} has one hex digit; write two for each byte, \
                 ? for one that may be any"
            ),
            Self::NotHex { at, found } => write!(
                f,
                "'{}' at position {at} is no hex digit; \
                 write 0-9, a-f, or ? for one that may be any",
                found.escape_ascii()
            ),
            Self::BadEscape { at } => write!(
                f,
                "the escape at position {at} is not known; \
                 write \\\\ for a backslash, \\s for a space, \\xHH for the byte HH"
            ),
            Self::NotUtf8 { at } => write!(
                f,
                "the text is not UTF-8 at position {at}; \
                 write it in UTF-8, or the bytes to be found with hex:"
            ),
        }
    }
}
