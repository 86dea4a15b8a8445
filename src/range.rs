// SPDX-License-Identifier: GPL-2.0

//! Ranges of guest-physical addresses.

#![forbid(unsafe_code)]

use core::fmt;

/// The addresses from `first` to `last`, both included. So even the whole 64-bit space is a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The lowest address.
    pub first: u64,
    /// The highest address. Below `first`, the range is empty.
    pub last: u64,
}

impl Range {
    /// All addresses.
    pub const ALL: Self = Self {
        first: 0,
        last: u64::MAX,
    };

    /// Reads a range as the user writes it: `START-END`, with `END` the last address that belongs
    /// to it, or `START+SIZE`.
    ///
    /// Numbers are decimal, or hexadecimal after `0x`. With `START+SIZE`, each may end with `K`,
    /// `M`, `G` or `T`, for 2 to the power of 10, 20, 30 or 40.
    ///
    /// # Errors
    ///
    /// Anything else, and a range that is empty or leaves the 64-bit space.
    pub fn parse(spec: &[u8]) -> Result<Self, RangeError> {
        let separator = spec
            .iter()
            .position(|byte| matches!(byte, b'-' | b'+'))
            .ok_or(RangeError::NoSeparator)?;
        let (start, rest) = spec
            .split_at_checked(separator)
            .ok_or(RangeError::NoSeparator)?;
        let (kind, end) = rest.split_first().ok_or(RangeError::NoSeparator)?;

        if *kind == b'-' {
            let first = number(start).map_err(|problem| problem.of(Part::Start))?;
            let last = number(end).map_err(|problem| problem.of(Part::End))?;
            if last < first {
                return Err(RangeError::Backwards);
            }
            Ok(Self { first, last })
        } else {
            let first = scaled(start).map_err(|problem| problem.of(Part::Start))?;
            let size = scaled(end).map_err(|problem| problem.of(Part::Size))?;
            let more = size.checked_sub(1).ok_or(RangeError::NoSize)?;
            let last = first.checked_add(more).ok_or(RangeError::BeyondEnd)?;
            Ok(Self { first, last })
        }
    }

    /// Returns whether `address` is in the range.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        self.first <= address && address <= self.last
    }

    /// Returns what the range has in common with the addresses from `first` to `last`.
    #[must_use]
    pub fn intersect(&self, first: u64, last: u64) -> Option<Self> {
        let first = first.max(self.first);
        let last = last.min(self.last);
        (first <= last).then_some(Self { first, last })
    }

    /// Returns the number of addresses, or the greatest `u64` for the whole 64-bit space.
    #[must_use]
    pub const fn size(&self) -> u64 {
        if self.last < self.first {
            return 0;
        }
        self.last.wrapping_sub(self.first).saturating_add(1)
    }

    /// Returns whether `other` begins after this range, with at least one address between the two.
    fn is_apart_from(&self, other: &Self) -> bool {
        self.last
            .checked_add(1)
            .is_some_and(|next| next < other.first)
    }
}

/// Sorts `ranges` and makes one of those that overlap or touch. Returns how many are left, at the
/// beginning of the slice: they cover the same addresses, ascending, with gaps between them.
pub fn merge(ranges: &mut [Range]) -> usize {
    sort(ranges);

    // The first `count` ranges are done, but that the last of them may still grow.
    let mut count: usize = 0;
    for index in 0..ranges.len() {
        let Some(&range) = ranges.get(index).filter(|range| range.size() > 0) else {
            continue;
        };
        let grows = count
            .checked_sub(1)
            .and_then(|last| ranges.get_mut(last))
            .filter(|last| !last.is_apart_from(&range));
        if let Some(last) = grows {
            last.last = last.last.max(range.last);
        } else if let Some(next) = ranges.get_mut(count) {
            *next = range;
            count = count.saturating_add(1);
        }
    }
    count
}

/// Sorts by insertion: that of `core` can panic, which must not happen in a kernel.
fn sort(ranges: &mut [Range]) {
    for end in 1..=ranges.len() {
        let Some([sorted @ .., last]) = ranges.get_mut(..end) else {
            continue;
        };
        let place = sorted.partition_point(|range| range.first <= last.first);
        if let Some(greater) = ranges.get_mut(place..end) {
            greater.rotate_right(1);
        }
    }
}

/// Returns the parts of `merged`, which came out of [`merge`], between `first` and `last`,
/// ascending.
pub fn clip(merged: &[Range], first: u64, last: u64) -> impl Iterator<Item = Range> + '_ {
    let before = merged.partition_point(|range| range.last < first);
    merged
        .get(before..)
        .unwrap_or_default()
        .iter()
        .map_while(move |range| range.intersect(first, last))
}

/// Returns whether all addresses from `first` to `last` are in `merged`, which came out of
/// [`merge`].
#[must_use]
pub fn covers(merged: &[Range], first: u64, last: u64) -> bool {
    clip(merged, first, last).next() == Some(Range { first, last })
}

/// Reads a number with or without a unit.
fn scaled(text: &[u8]) -> Result<u64, Problem> {
    let (digits, unit) = match text.split_last() {
        Some((b'K' | b'k', digits)) => (digits, 1 << 10),
        Some((b'M' | b'm', digits)) => (digits, 1 << 20),
        Some((b'G' | b'g', digits)) => (digits, 1 << 30),
        Some((b'T' | b't', digits)) => (digits, 1 << 40),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(unit).ok_or(Problem::TooLarge)
}

/// Reads a number.
fn number(text: &[u8]) -> Result<u64, Problem> {
    let (digits, radix) = match text {
        [b'0', b'x' | b'X', digits @ ..] => (digits, 16),
        digits => (digits, 10),
    };
    if digits.is_empty() {
        return Err(Problem::NotANumber);
    }
    // All of it is looked at first: a long text that is no number is not a number too large.
    if !digits
        .iter()
        .all(|&digit| char::from(digit).is_digit(radix))
    {
        return Err(Problem::NotANumber);
    }
    digits.iter().try_fold(0, |number: u64, &digit| {
        let digit = char::from(digit)
            .to_digit(radix)
            .ok_or(Problem::NotANumber)?;
        number
            .checked_mul(u64::from(radix))
            .and_then(|number| number.checked_add(u64::from(digit)))
            .ok_or(Problem::TooLarge)
    })
}

/// What is wrong with a number.
#[derive(Clone, Copy)]
enum Problem {
    NotANumber,
    TooLarge,
}

impl Problem {
    const fn of(self, part: Part) -> RangeError {
        match self {
            Self::NotANumber => RangeError::NotANumber(part),
            Self::TooLarge => RangeError::TooLarge(part),
        }
    }
}

/// One of the numbers of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first address.
    Start,
    /// The last address.
    End,
    /// The number of addresses.
    Size,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::End => "end",
            Self::Size => "size",
        })
    }
}

/// Why a text is not a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// Nothing separates two numbers.
    NoSeparator,
    /// One of them is not a number.
    NotANumber(Part),
    /// One of them does not fit into 64 bits.
    TooLarge(Part),
    /// It ends before it starts.
    Backwards,
    /// Its size is 0.
    NoSize,
    /// It goes on after the last 64-bit address.
    BeyondEnd,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSeparator => {
                f.write_str("the range has no separator; write START-END or START+SIZE")
            }
            Self::NotANumber(part) => write!(
                f,
                "the range's {part} is no number; write digits, or 0x and hex digits{}",
                match part {
                    Part::End => "",
                    Part::Start | Part::Size => ", and in START+SIZE a K, M or G if wanted",
                }
            ),
            Self::TooLarge(part) => write!(
                f,
                "the range's {part} is larger than 64 bits; write at most 0xffffffffffffffff"
            ),
            Self::Backwards => f.write_str(
                "the range ends before it starts; write the lower address first, \
                 or START+SIZE",
            ),
            Self::NoSize => f.write_str("the range's size is 0; write at least 1"),
            Self::BeyondEnd => {
                f.write_str("the range goes beyond 0xffffffffffffffff; write a smaller size")
            }
        }
    }
}
