// SPDX-License-Identifier: GPL-2.0

//! Classes: a table for each byte of a window leads from its value to the buckets, each a bit, with
//! a pattern that takes it. A place passes if the entries of its bytes have a bit in common.
//!
//! Where registers cannot hold such a table, there are two: for the low and the high half of the
//! byte. More passes, so patterns with similar bytes are best in one bucket.

use super::{
    byte,
    BYTES, //
};
use crate::scan::{
    engine::{
        Engine,
        EngineKind, //
    },
    odds::{
        self,
        Odds,
        KINDS, //
    }, //
};

/// The number of buckets.
const BUCKETS: usize = 8;

/// The most windows for which this is worth a try: the buckets take nearly all.
const MOST: usize = 512;

/// The tables. All zeros are a valid value.
#[derive(Debug)]
#[repr(C)]
pub(in crate::scan) struct Classes {
    /// The buckets, for each byte of a window and each value of it.
    pub(super) whole: [[u8; 256]; BYTES],
    /// The same, with a table each for the low and the high half of the byte.
    pub(super) halves: [[[u8; 16]; 2]; BYTES],
}

impl Classes {
    pub(super) const fn new() -> Self {
        Self {
            whole: [[0; 256]; BYTES],
            halves: [[[0; 16]; 2]; BYTES],
        }
    }

    /// Returns whether a window may begin with 0, as far as the tables tell.
    pub(super) fn has_zero_first(&self) -> bool {
        let [[low, high], ..] = &self.halves;
        low[0] & high[0] != 0
    }

    /// Prepares them for windows, each with its value and its mask, of which `size` bytes are
    /// looked at. Returns at how many places something passes; [`None`] if there are too many.
    pub(super) fn prepare(
        &mut self,
        engine: Engine,
        windows: &(impl Iterator<Item = (u64, u64)> + Clone),
        offsets: &[usize; BYTES],
        size: usize,
    ) -> Option<Odds> {
        *self = Self::new();
        let count = windows.clone().count();
        if count > MOST {
            return None;
        }
        let by_halves = engine.kind() == EngineKind::Avx2;
        let offsets = offsets.get(..size).unwrap_or_default();
        let mut shares = [[[0; KINDS]; BYTES]; BUCKETS];
        for (index, window) in windows.clone().enumerate() {
            let bucket = if by_halves {
                rank(windows.clone(), index, window, offsets)
                    .saturating_mul(BUCKETS)
                    .checked_div(count)
                    .unwrap_or(0)
            } else {
                self.cheapest(window, offsets, &mut shares)
            };
            self.add(window, offsets, 1 << bucket.min(BUCKETS - 1));
        }
        Some(self.odds(by_halves, size))
    }

    /// Adds a window to a bucket.
    fn add(&mut self, (value, mask): (u64, u64), offsets: &[usize], bucket: u8) {
        let tables = self.whole.iter_mut().zip(&mut self.halves);
        for ((whole, [low, high]), at) in tables.zip(offsets) {
            let (value, mask) = (byte(value, *at), byte(mask, *at));
            for (byte, buckets) in (0..=u8::MAX).zip(whole) {
                if byte & mask == value {
                    *buckets |= bucket;
                    if let (Some(low), Some(high)) = (
                        low.get_mut(usize::from(byte & 0xf)),
                        high.get_mut(usize::from(byte >> 4)),
                    ) {
                        *low |= bucket;
                        *high |= bucket;
                    }
                }
            }
        }
    }

    /// Returns the bucket where one more window lets the fewest further places pass. `shares` are
    /// those of the bytes that the buckets have.
    fn cheapest(
        &self,
        (value, mask): (u64, u64),
        offsets: &[usize],
        shares: &mut [[[u64; KINDS]; BYTES]; BUCKETS],
    ) -> usize {
        let product = |shares: &[[u64; KINDS]; BYTES]| {
            let shares = shares.iter().take(offsets.len());
            shares.fold(Odds::ANYWHERE, Odds::and)
        };
        let mut best = (u64::MAX, 0, [[0; KINDS]; BYTES]);
        for (bucket, before) in shares.iter().enumerate() {
            let mut after = *before;
            let classes = self.whole.iter().zip(&mut after).zip(offsets);
            for ((classes, share), at) in classes {
                let (value, mask) = (byte(value, *at), byte(mask, *at));
                let is_new = |byte: u8| classes[usize::from(byte)] & (1 << bucket) == 0;
                *share = odds::add(*share, odds::shares_of_some(value, mask, is_new));
            }
            let more = product(&after)
                .in_all()
                .saturating_sub(product(before).in_all());
            if more < best.0 {
                best = (more, bucket, after);
            }
        }
        let (_, bucket, after) = best;
        if let Some(shares) = shares.get_mut(bucket) {
            *shares = after;
        }
        bucket
    }

    /// Returns at how many places something passes.
    fn odds(&self, by_halves: bool, size: usize) -> Odds {
        let of_bucket = |bucket: u8| {
            let tables = self.whole.iter().zip(&self.halves).take(size);
            tables.fold(Odds::ANYWHERE, |odds, (whole, [low, high])| {
                odds.and(&odds::shares_of_set(|byte| {
                    let buckets = if by_halves {
                        low[usize::from(byte & 0xf)] & high[usize::from(byte >> 4)]
                    } else {
                        whole[usize::from(byte)]
                    };
                    buckets & bucket != 0
                }))
            })
        };
        let [first, ..] = &self.whole;
        let used = first.iter().fold(0, |used, buckets| used | buckets);
        let buckets = (0..BUCKETS).map(|bucket| 1 << bucket);
        let buckets = buckets.filter(|bucket| used & bucket != 0).map(of_bucket);
        buckets.fold(Odds::NOWHERE, Odds::or)
    }
}

/// Returns the position of a window among all, sorted by their bytes.
fn rank(
    windows: impl Iterator<Item = (u64, u64)>,
    index: usize,
    (value, _): (u64, u64),
    offsets: &[usize],
) -> usize {
    let key = |value: u64, index| {
        let mut bytes = [0; BYTES];
        for (to, at) in bytes.iter_mut().zip(offsets) {
            *to = byte(value, *at);
        }
        (bytes, index)
    };
    let this = key(value, index);
    let others = windows.enumerate();
    others
        .filter(|(other, (value, _))| key(*value, *other) < this)
        .count()
}
