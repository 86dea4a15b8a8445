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
    /// A tail that no memory has.
    pub(super) const NOWHERE: Self = Self { value: 1, mask: 0 };

    /// Returns the tail of `pattern`.
    pub(super) fn of(pattern: &Pattern) -> Self {
        let (value, mask) = pattern.window(Self::at(pattern));
        Self { value, mask }
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
