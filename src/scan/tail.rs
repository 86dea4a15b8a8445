// SPDX-License-Identifier: GPL-2.0

//! How a pattern ends: most memory that begins like a pattern ends otherwise.

use super::pattern::Pattern;

const SIZE: usize = size_of::<u64>();

/// The last bytes of a pattern, up to eight, as a little-endian word.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Tail {
    value: u64,
    mask: u64,
}

impl Tail {
    /// The tail of no pattern.
    pub(super) const NONE: Self = Self { value: 0, mask: 0 };

    /// A tail that no memory has.
    pub(super) const NOWHERE: Self = Self { value: 1, mask: 0 };

    /// Returns the tail of `pattern`.
    pub(super) fn of(pattern: &Pattern) -> Self {
        let (mut value, mut mask) = ([0; SIZE], [0; SIZE]);
        for (at, bytes) in (Self::at(pattern)..).zip(value.iter_mut().zip(&mut mask)) {
            (*bytes.0, *bytes.1) = pattern.byte(at).unwrap_or((0, 0));
        }
        Self {
            value: u64::from_le_bytes(value),
            mask: u64::from_le_bytes(mask),
        }
    }

    /// Returns where the tail begins in `pattern`.
    #[inline]
    pub(super) fn at(pattern: &Pattern) -> usize {
        pattern.len().saturating_sub(SIZE)
    }

    /// Returns whether there may be a match where `word` is in the place of the tail.
    #[inline]
    pub(super) const fn may_be(&self, word: u64) -> bool {
        word & self.mask == self.value
    }
}
