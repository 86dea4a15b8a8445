// SPDX-License-Identifier: GPL-2.0

//! How often something is expected in the memory of guests: a mixture of kinds of memory, each with
//! the share of its bytes that have each value.
//!
//! The figures need not be exact: a bad choice costs time, never a match. But they must know that
//! bytes come in company. A letter is rare in memory, and where one is, the next byte is a letter,
//! too; a single table of frequencies takes text for far rarer than it is.

use super::pattern::Pattern;

/// How many kinds of memory there are.
pub(super) const KINDS: usize = 6;

/// The kind that is mostly zeros.
const MOSTLY_ZEROS: usize = 0;

/// Stands for all of memory, and for all bytes of one kind.
const ALL: u64 = 1 << ALL_BITS;
const ALL_BITS: u32 = 12;

/// Odds are in parts of this many places.
pub(super) const PLACES: u64 = 1 << PLACES_BITS;
const PLACES_BITS: u32 = 40;

/// How many of [`ALL`] bytes of memory are of each kind.
pub(super) const WEIGHTS: [u64; KINDS] = [2400, 480, 60, 330, 416, 410];

/// For each value, how many of [`ALL`] bytes of each kind have it. The sum of a kind is about
/// [`ALL`].
const SHARES: [[u16; KINDS]; 256] = by_value(&[
    shares(0, &[(b"\0", 4000)]),
    TEXT,
    wide(),
    shares(
        8,
        &[
            (b"\0", 400),
            (b"\x48", 250),
            (b"\xff", 200),
            (b"\x8b", 170),
            (b"\x89", 150),
            (b"\x0f\x24", 120),
            (b"\xe8\x4c\x41", 90),
            (b"\x8d\xcc", 60),
            (b"\x01\x02\x04\x08\x10\x18\x20\x28\x30\x44\x45", 28),
            (b"\x49\x55\x5d\x74\x75\x83\x85\xc0\xc3\xc7\xec", 28),
        ],
    ),
    shares(
        10,
        &[
            (b"\0", 900),
            (b"\xff", 120),
            (b"\x01\x02\x03\x04\x08\x10\x20\x40\x80", 35),
        ],
    ),
    // What is compressed or encrypted.
    [16; 256],
]);

const TEXT: [u16; 256] = shares(
    1,
    &[
        (b" ", 500),
        (b"e", 270),
        (b"t", 210),
        (b"anoirs", 160),
        (b"dhlucmpfg", 80),
        (b"bvkwyxjqz", 30),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 10),
        (b"0123456789", 25),
        (b"\n_", 50),
        (b"./-,;:()\"'=<>{}[]*+", 15),
    ],
);

/// Returns for each value the shares of all kinds.
const fn by_value(kinds: &[[u16; 256]; KINDS]) -> [[u16; KINDS]; 256] {
    let mut shares = [[0; KINDS]; 256];
    let mut value = 0;
    while value < shares.len() {
        let mut kind = 0;
        while kind < KINDS {
            shares[value][kind] = kinds[kind][value];
            kind += 1;
        }
        value += 1;
    }
    shares
}

/// Returns `least` for each value, and more for some.
const fn shares(least: u16, more: &[(&[u8], u16)]) -> [u16; 256] {
    let mut shares = [least; 256];
    let mut at = 0;
    while at < more.len() {
        let (values, share) = more[at];
        let mut value = 0;
        while value < values.len() {
            shares[values[value] as usize] = share;
            value += 1;
        }
        at += 1;
    }
    shares
}

/// Returns the shares of text in UTF-16: each other byte is 0.
const fn wide() -> [u16; 256] {
    let mut shares = TEXT;
    let mut value = 1;
    while value < shares.len() {
        shares[value] = shares[value].div_ceil(2);
        value += 1;
    }
    shares[0] = 2048;
    shares
}

/// Returns how many of [`ALL`] bytes of each kind are `value` under `mask`.
pub(super) fn shares_of(value: u8, mask: u8) -> [u64; KINDS] {
    if mask == 0 {
        return [ALL; KINDS];
    }
    shares_of_some(value, mask, |_| true)
}

/// The same of those bytes that `includes` allows.
pub(super) fn shares_of_some(value: u8, mask: u8, includes: impl Fn(u8) -> bool) -> [u64; KINDS] {
    let mut sums = [0; KINDS];
    // All values of the open bits, downwards.
    let open = !mask;
    let mut bits = open;
    loop {
        let byte = value | bits;
        if includes(byte) {
            sums = add(sums, shares_of_byte(byte));
        }
        if bits == 0 {
            return sums;
        }
        bits = bits.wrapping_sub(1) & open;
    }
}

fn shares_of_byte(byte: u8) -> [u64; KINDS] {
    SHARES[usize::from(byte)].map(u64::from)
}

/// Returns how many of [`ALL`] bytes of each kind are in a set.
pub(super) fn shares_of_set(has: impl Fn(u8) -> bool) -> [u64; KINDS] {
    let bytes = (0..=u8::MAX).filter(|byte| has(*byte));
    bytes.fold([0; KINDS], |sums, byte| add(sums, shares_of_byte(byte)))
}

/// Returns the shares of two sets that have no byte in common.
pub(super) fn add(shares: [u64; KINDS], others: [u64; KINDS]) -> [u64; KINDS] {
    let mut sums = shares;
    for (sum, other) in sums.iter_mut().zip(others) {
        *sum = sum.saturating_add(other).min(ALL);
    }
    sums
}

/// The odds of some bytes in a row, which grow less with each of them.
#[derive(Clone, Copy)]
pub(super) struct Odds([u64; KINDS]);

impl Odds {
    /// Those of no byte.
    pub(super) const ANYWHERE: Self = Self([PLACES; KINDS]);

    /// Those of nothing.
    pub(super) const NOWHERE: Self = Self([0; KINDS]);

    /// Returns these, if so many of so many pass in addition, whatever the kind of memory.
    pub(super) fn times(self, some: u64, all: u64) -> Self {
        let share = some.saturating_mul(ALL).checked_div(all).unwrap_or(ALL);
        self.and(&[share.clamp(1, ALL); KINDS])
    }

    /// Returns these, if zeros pass.
    pub(super) fn with_zeros(self) -> Self {
        let mut odds = self.0;
        odds[MOSTLY_ZEROS] = PLACES;
        Self(odds)
    }

    /// Returns these with one more byte, of which so many of [`ALL`] have the right value.
    pub(super) fn and(self, shares: &[u64; KINDS]) -> Self {
        let mut odds = self.0;
        for (odds, share) in odds.iter_mut().zip(shares) {
            *odds = odds.saturating_mul(*share) >> ALL_BITS;
        }
        Self(odds)
    }

    /// Returns these for either of both.
    pub(super) fn or(self, other: Self) -> Self {
        let mut odds = self.0;
        for (odds, other) in odds.iter_mut().zip(other.0) {
            *odds = odds.saturating_add(other).min(PLACES);
        }
        Self(odds)
    }

    /// Returns at how many of [`PLACES`] places of each kind.
    pub(super) fn by_kind(self) -> [u64; KINDS] {
        self.0
    }

    /// Returns at how many of [`PLACES`] places in memory.
    pub(super) fn in_all(self) -> u64 {
        let weighted = self.0.iter().zip(WEIGHTS);
        weighted.fold(0, |sum: u64, (odds, weight)| {
            sum.saturating_add(odds.saturating_mul(weight) >> ALL_BITS)
        })
    }
}

/// The least odds of equal bytes: memory is full of runs and tables.
const RUN: u64 = PLACES >> 9;

/// Returns at how many of [`PLACES`] places in memory a window of `pattern` is expected: the bytes
/// from `at` on, as far as `mask` has bits.
pub(super) fn of_window(pattern: &Pattern, at: usize, mask: u64) -> u64 {
    let mut odds = Odds::ANYWHERE;
    let mut bytes = [None; size_of::<u64>()];
    for ((at, mask), known) in (at..).zip(mask.to_le_bytes()).zip(&mut bytes) {
        let (value, given) = pattern.byte(at).unwrap_or((0, 0));
        if given & mask != 0 {
            odds = odds.and(&shares_of(value & mask, given & mask));
            *known = Some(value & mask);
        }
    }
    let mut known = bytes.iter().flatten();
    let is_run = known
        .next()
        .is_some_and(|first| known.all(|byte| byte == first));
    if is_run {
        odds.in_all().max(RUN)
    } else {
        odds.in_all()
    }
}

/// Returns the part of a cost that the memory of one kind has.
pub(super) fn weighted(cost: u64, weight: u64) -> u64 {
    cost.saturating_mul(weight) >> ALL_BITS
}
