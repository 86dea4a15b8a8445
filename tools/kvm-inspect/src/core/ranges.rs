// SPDX-License-Identifier: GPL-2.0

//! Guest-physical ranges of RAM.

use std::{
    error::Error,
    fmt::{self, Display},
};

use serde::{Deserialize, Serialize};

use super::PAGE_SIZE;

/// The first guest-physical address that no CPU has.
const END_OF_ADDRESSES: u64 = 1 << 52;

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    /// Its first address.
    pub gpa: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Range {
    /// Creates a range.
    #[must_use]
    pub fn new(gpa: u64, size: u64) -> Self {
        Self { gpa, size }
    }

    /// Returns the address after the last one. `None` is beyond all addresses.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.gpa.checked_add(self.size)
    }

    /// Returns the part that two ranges share.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let gpa = self.gpa.max(other.gpa);
        let end = self.end()?.min(other.end()?);
        let size = end.checked_sub(gpa).filter(|size| *size > 0)?;
        Some(Self { gpa, size })
    }
}

/// The RAM of a guest.
///
/// # Invariants
///
/// There is at least one range. All are of whole pages, not empty, below 2^52, and in ascending
/// order, with at least a page between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Takes ranges in any order. Those that overlap or touch become one.
    ///
    /// # Errors
    ///
    /// A range is not of whole pages or reaches beyond 2^52, or nothing is in them.
    pub fn new(ranges: impl IntoIterator<Item = Range>) -> Result<Self, RangeError> {
        let mut sorted = Vec::new();
        for range in ranges {
            if range.gpa % PAGE_SIZE != 0 || range.size % PAGE_SIZE != 0 {
                return Err(RangeError::NotPages(range));
            }
            if range.end().is_none_or(|end| end > END_OF_ADDRESSES) {
                return Err(RangeError::TooHigh(range));
            }
            if range.size > 0 {
                sorted.push(range);
            }
        }
        sorted.sort_unstable();
        let mut merged: Vec<Range> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                // Neither sum is above 2^53.
                Some(last) if range.gpa <= last.gpa + last.size => {
                    let end = (range.gpa + range.size).max(last.gpa + last.size);
                    last.size = end - last.gpa;
                }
                _ => merged.push(range),
            }
        }
        if merged.is_empty() {
            return Err(RangeError::Nothing);
        }
        Ok(Self(merged))
    }

    /// Returns the ranges in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[Range] {
        &self.0
    }

    /// Returns the size of all ranges in bytes. It is at most 2^52.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.iter().map(|range| range.size).sum()
    }
}

/// Why ranges are not RAM of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// It is not of whole pages.
    NotPages(Range),
    /// It reaches beyond 2^52.
    TooHigh(Range),
    /// There is no RAM.
    Nothing,
}

impl Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPages(Range { gpa, size }) => {
                write!(
                    f,
                    "the range at {gpa:#x} of {size:#x} bytes is not of whole pages; \
                     give multiples of {PAGE_SIZE:#x}"
                )
            }
            Self::TooHigh(Range { gpa, size }) => {
                write!(
                    f,
                    "the range at {gpa:#x} of {size:#x} bytes ends beyond the highest \
                     guest-physical address, {:#x}; give a lower one",
                    END_OF_ADDRESSES - 1
                )
            }
            Self::Nothing => write!(f, "the guest has no RAM; wait until it was started"),
        }
    }
}

impl Error for RangeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_range() {
        let ranges = [(0x3000, 0x1000), (0, 0x2000), (0x1000, 0x1000), (0x4000, 0)];
        let ranges = ranges.map(|(gpa, size)| Range::new(gpa, size));
        let ranges = Ranges::new(ranges).expect("they are ranges");
        assert_eq!(
            ranges.as_slice(),
            [Range::new(0, 0x2000), Range::new(0x3000, 0x1000)]
        );
        assert_eq!(ranges.size(), 0x3000);
    }

    #[test]
    fn strange_ranges_are_refused() {
        let one = |gpa, size| Ranges::new([Range::new(gpa, size)]).unwrap_err();
        assert!(matches!(one(1, 0x1000), RangeError::NotPages(_)));
        assert!(matches!(one(0, 0x1001), RangeError::NotPages(_)));
        assert!(matches!(one(1 << 52, 0x1000), RangeError::TooHigh(_)));
        assert!(matches!(
            one(u64::MAX - 0xfff, 0x1000),
            RangeError::TooHigh(_)
        ));
        assert_eq!(one(0x1000, 0), RangeError::Nothing);
        let highest = Range::new((1 << 52) - 0x1000, 0x1000);
        assert!(Ranges::new([highest]).is_ok());
    }
}
