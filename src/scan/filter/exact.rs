// SPDX-License-Identifier: GPL-2.0

//! Exact: for each byte of a window a table leads from its low half to the byte that is meant, and
//! a place passes if its bytes are those.
//!
//! That takes the least time. But only few patterns have windows whose bytes the low halves tell
//! apart; and a place with the first byte of one and the second one of another passes, too. The
//! highest bit of a byte does not count: where it is set, `vpshufb` looks nothing up.

use super::{
    byte,
    BYTES, //
};
use crate::scan::{
    index::Windows,
    odds::{
        self,
        Odds, //
    }, //
};

/// For each low half of a byte the byte that is meant.
type Bytes = [u8; 16];

/// Matches no byte.
const NONE: Bytes = [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];

/// The most tables.
const TABLES: usize = 4;

/// The tables. All zeros are a valid value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(in crate::scan) struct Exact {
    /// Three bytes: one for each. Two: two for each.
    pub(super) tables: [Bytes; TABLES],
    /// Which bits of each byte count.
    pub(super) masks: [u8; BYTES],
}

impl Exact {
    pub(super) const fn new() -> Self {
        Self {
            tables: [NONE; TABLES],
            masks: [0; BYTES],
        }
    }

    /// Prepares it for the first three bytes of the `windows`. Returns at how many places
    /// they are; [`None`] if low halves do not tell them apart.
    pub(super) fn prepare_three(
        &mut self,
        windows: Windows<'_>,
        offsets: &[usize; BYTES],
    ) -> Option<Odds> {
        self.prepare(windows, offsets, 3, 1)
    }

    /// The same with two bytes, and with two tables for each.
    pub(super) fn prepare_two(
        &mut self,
        windows: Windows<'_>,
        offsets: &[usize; BYTES],
    ) -> Option<Odds> {
        self.prepare(windows, offsets, 2, 2)
    }

    fn prepare(
        &mut self,
        windows: Windows<'_>,
        offsets: &[usize; BYTES],
        size: usize,
        tables: usize,
    ) -> Option<Odds> {
        *self = Self::new();
        for (mask, at) in self.masks.iter_mut().zip(offsets).take(size) {
            *mask = byte(windows.mask(), *at) & 0x7f;
        }
        let mut odds = Odds::ANYWHERE;
        for (position, at) in offsets.iter().enumerate().take(size) {
            let mask = self.masks.get(position).copied()?;
            let first = position.checked_mul(tables)?;
            let tables = self.tables.get_mut(first..first.checked_add(tables)?)?;
            for window in windows.bits() {
                let value = byte(window, *at) & mask;
                // A bit of the low half that does not count is 0 in what is looked up.
                let low = usize::from(value & 0xf);
                let takes = |table: &&mut Bytes| {
                    let known = table.get(low);
                    known == Some(&value) || known == NONE.get(low)
                };
                let table = tables.iter_mut().find(takes)?;
                *table.get_mut(low)? = value;
            }
            let tables = &*tables;
            odds = odds.and(&odds::shares_of_set(|byte| {
                let looked_up = byte & mask;
                let low = usize::from(looked_up & 0xf);
                tables
                    .iter()
                    .any(|table| table.get(low) == Some(&looked_up))
            }));
        }
        Some(odds)
    }
}
