// SPDX-License-Identifier: GPL-2.0

//! Finds the places where windows of patterns may be, looking at each place, in vector code.
//!
//! Memory is looked at in blocks of 64 bytes. Each of them gives one word, with a bit for each
//! place. Neither the time nor the code path depends on what is in memory, but that zeros may be
//! skipped. What is found is more than what is looked for; how much more tells the filters apart:
//!
//! - [`exact`] compares two or three bytes with those of few patterns;
//! - [`classes`] looks up two to four bytes, each by itself, for patterns in eight buckets;
//! - [`joint`] looks up hashes of four bytes together, for hundreds of patterns.

mod avx2;
mod avx512;
mod classes;
mod exact;
mod joint;

use self::{
    classes::Classes,
    exact::Exact,
    joint::Joint, //
};
use super::{
    engine::{
        Engine,
        EngineKind, //
    },
    index::Windows,
    memory::Piece,
    odds::Odds,
    pattern::Pattern, //
};

/// The number of places in a block.
pub(super) const PLACES: usize = u64::BITS as usize;

/// The most bytes of a window that a filter looks at.
const BYTES: usize = 4;

/// How many bytes after a place a filter may read, with that of the place.
pub(super) const REACH: usize = size_of::<u64>();

/// The kinds of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// None: places are looked at one by one.
    None,
    /// Three bytes, of which each value of the lower half stands for one byte.
    ThreeExact,
    /// Two bytes, of which each value of the lower half stands for one or two.
    TwoExact,
    /// Two bytes, each by itself.
    TwoClasses,
    /// Three bytes, each by itself.
    ThreeClasses,
    /// Four bytes, each by itself.
    FourClasses,
    /// Four bytes together, with small tables.
    Joint,
    /// Four bytes together, with large tables.
    WideJoint,
}

impl Kind {
    /// The filters of an engine.
    pub(super) const fn of(engine: Engine) -> &'static [Self] {
        match engine.kind() {
            EngineKind::Portable => &[],
            EngineKind::Avx2 => &[
                Self::ThreeExact,
                Self::TwoExact,
                Self::TwoClasses,
                Self::ThreeClasses,
                Self::FourClasses,
            ],
            EngineKind::Avx512 => &[
                Self::ThreeClasses,
                Self::FourClasses,
                Self::Joint,
                Self::WideJoint,
            ],
        }
    }
}

/// A filter for some patterns. All zeros are a valid value.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Filter {
    kind: Kind,
    /// No window begins with 0.
    skips_zeros: bool,
    /// Which bytes of a window it looks at. The first one is 0.
    offsets: [usize; BYTES],
    exact: Exact,
    classes: Classes,
    joint: Joint,
}

impl Filter {
    /// Returns whether there is a filter.
    pub(super) fn is_there(&self) -> bool {
        self.kind != Kind::None
    }

    /// Returns whether it skips blocks of zeros.
    pub(super) fn skips_zeros(&self) -> bool {
        self.skips_zeros
    }

    /// Removes the filter.
    pub(super) fn remove(&mut self) {
        self.kind = Kind::None;
    }

    /// Prepares it for the `windows`. Returns at how many places something passes,
    /// [`None`] if it cannot be this kind.
    pub(super) fn prepare(
        &mut self,
        kind: Kind,
        engine: Engine,
        patterns: &[Pattern],
        windows: Windows<'_>,
    ) -> Option<Odds> {
        self.kind = kind;
        self.offsets = offsets(windows);
        let places = windows.places();
        let values = places.filter_map(|(pattern, at)| Some(patterns.get(pattern)?.window(at)));
        self.skips_zeros = values.clone().all(|(value, _)| value & 0xff != 0);
        match kind {
            Kind::None => None,
            Kind::ThreeExact => self.exact.prepare_three(windows, &self.offsets),
            Kind::TwoExact => self.exact.prepare_two(windows, &self.offsets),
            Kind::TwoClasses | Kind::ThreeClasses | Kind::FourClasses => {
                let size = match kind {
                    Kind::TwoClasses => 2,
                    Kind::ThreeClasses => 3,
                    _ => 4,
                };
                let odds = self.classes.prepare(engine, &values, &self.offsets, size);
                self.skips_zeros &= !self.classes.has_zero_first();
                odds
            }
            Kind::Joint => self.joint.prepare(windows, &self.offsets, false),
            Kind::WideJoint => self.joint.prepare(windows, &self.offsets, true),
        }
    }

    /// Filters the first blocks in `piece`, one for each of `words`. Sets a bit in `marks` for each
    /// word that is not 0, the lowest one for the first.
    ///
    /// `piece` must have [`REACH`] more bytes. Where it does not, or where there is no room for
    /// marks, words stay as they are, without marks. `ahead` is what will be scanned some time
    /// later; as much of it is fetched.
    pub(super) fn blocks(
        &self,
        engine: Engine,
        piece: Piece<'_>,
        ahead: Piece<'_>,
        words: &mut [u64],
        marks: &mut [u64],
    ) {
        let enough = piece.len().saturating_sub(REACH) / PLACES;
        let room = marks.len().saturating_mul(PLACES);
        let count = words.len().min(enough).min(room);
        let Some(words) = words.get_mut(..count).filter(|words| !words.is_empty()) else {
            return;
        };
        if !Kind::of(engine).contains(&self.kind) {
            // It was prepared for another engine: all pass, and are looked at.
            words.fill(u64::MAX);
            for (mark, words) in marks.iter_mut().zip(words.chunks(PLACES)) {
                *mark = u64::MAX >> PLACES.saturating_sub(words.len());
            }
            return;
        }
        let last = match engine.kind() {
            EngineKind::Portable => return,
            // SAFETY: By its invariant the engine has the instructions; there are enough bytes, and
            // there is a mark for each word.
            EngineKind::Avx2 => unsafe { avx2::blocks(self, piece, ahead, words, marks) },
            // SAFETY: As above.
            EngineKind::Avx512 => unsafe { avx512::blocks(self, piece, ahead, words, marks) },
        };
        // Above the marks of those after the last 64, which are 0 where they are set, is a 1.
        if let Some(mark) = marks.get_mut(count / PLACES) {
            let left = PLACES.saturating_sub(count % PLACES);
            if left < PLACES {
                *mark = (!last & ((1 << (count % PLACES)) - 1)) << left;
            }
        }
        for mark in marks.iter_mut().filter(|mark| **mark != 0) {
            *mark = mark.reverse_bits();
        }
    }
}

/// Returns which bytes of a window to look at: the first one, since that is where the place is, and
/// those that tell windows apart best, in ascending order.
fn offsets(windows: Windows<'_>) -> [usize; BYTES] {
    let masks = windows.mask().to_le_bytes();
    let mut worth = [0_u32; REACH];
    for ((at, worth), mask) in (0..).zip(&mut worth).zip(masks) {
        let mut seen = [0_u64; 4];
        for window in windows.bits() {
            let value = byte(window, at);
            if let Some(seen) = seen.get_mut(usize::from(value >> 6)) {
                *seen |= 1 << (value & 0x3f);
            }
        }
        let values: u32 = seen.iter().map(|seen| seen.count_ones()).sum();
        // Bits that do not count tell nothing, and the more others the better.
        *worth = values.saturating_mul(16).saturating_add(mask.count_ones());
        if mask == 0 {
            *worth = 0;
        }
    }
    let mut taken = [false; REACH];
    taken[0] = true;
    for _ in 1..BYTES {
        let free = (0..REACH).filter(|at| !taken.get(*at).copied().unwrap_or(true));
        // Of equal ones the first.
        let best = free.rev().max_by_key(|at| worth.get(*at).copied());
        if let Some(taken) = best.and_then(|at| taken.get_mut(at)) {
            *taken = true;
        }
    }
    let mut offsets = [0; BYTES];
    let taken = (0..REACH).filter(|at| taken.get(*at).copied().unwrap_or(false));
    for (offset, at) in offsets.iter_mut().zip(taken) {
        *offset = at;
    }
    offsets
}

/// Returns the byte of a window at an offset.
fn byte(window: u64, offset: usize) -> u8 {
    window.to_le_bytes().get(offset).copied().unwrap_or(0)
}
