// SPDX-License-Identifier: GPL-2.0

//! The lowest hits, however many there are, in whatever order they are found.

use kernel::prelude::*;

use crate::{
    request::Query,
    scan::Pattern, //
};

/// A match in the guest's memory.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    /// The index of the memslot where it begins.
    pub(crate) slot: usize,
    /// The guest-physical address of its first byte.
    pub(crate) gpa: u64,
    /// The index of the pattern.
    pub(crate) pattern: usize,
    /// How many bytes before it are shown.
    pub(crate) before: usize,
}

impl Hit {
    /// Returns what hits are sorted by. Memslots are in order of address space and address.
    fn key(&self) -> (usize, u64, usize) {
        (self.slot, self.gpa, self.pattern)
    }
}

/// Where a hit begins, in the order of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HitPlace {
    /// The index of the memslot.
    pub(super) slot: usize,
    /// The guest-physical address.
    pub(super) gpa: u64,
}

/// Whether a hit was kept.
pub(super) enum Kept {
    /// It is one of the lowest so far.
    Yes,
    /// There are enough below this place: no hit from there on will be kept.
    OnlyBelow(HitPlace),
}

/// The lowest hits, in order, with the bytes around them.
pub(crate) struct Hits {
    kept: KVVec<(Hit, Shown)>,
    most: usize,
    /// The bytes to show, in places of `place_size` bytes, as many as there can be hits.
    bytes: KVVec<u8>,
    place_size: usize,
    /// The places that no hit uses.
    free: KVVec<usize>,
}

/// Where the bytes of a hit and those around it are.
#[derive(Clone, Copy, Default)]
struct Shown {
    place: usize,
    len: usize,
}

impl Hits {
    /// Creates a list with room for what `query` may find, so that nothing is allocated later.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn with_room_for(query: &Query) -> Result<Self> {
        let most = query.max_hits;
        let longest = query.patterns.iter().map(Pattern::len).max().unwrap_or(0);
        let (places, place_size) = match query.context {
            0 => (0, 0),
            context => (most, longest.saturating_add(context.saturating_mul(2))),
        };
        let size = places.checked_mul(place_size).ok_or(ENOMEM)?;
        let mut free = KVVec::with_capacity(places, GFP_KERNEL)?;
        for place in (0..places).rev() {
            free.push(place, GFP_KERNEL)?;
        }
        Ok(Self {
            kept: KVVec::with_capacity(most, GFP_KERNEL)?,
            most,
            bytes: KVVec::from_elem(0, size, GFP_KERNEL)?,
            place_size,
            free,
        })
    }

    /// Returns a list without room for any hit.
    pub(super) fn empty() -> Self {
        Self {
            kept: KVVec::new(),
            most: 0,
            bytes: KVVec::new(),
            place_size: 0,
            free: KVVec::new(),
        }
    }

    /// Keeps a hit, with the bytes to be shown of it, if it is one of the lowest.
    pub(super) fn add(&mut self, hit: Hit, shown: &[u8]) -> Kept {
        let place = self
            .kept
            .partition_point(|(kept, _)| kept.key() < hit.key());
        let is_known = |(kept, _): &(Hit, Shown)| kept.key() == hit.key();
        if self.kept.get(place).is_some_and(is_known) {
            // What is around it may have changed.
            let known = self.kept.get(place).map(|(_, known)| known.place);
            let again = known.map(|known| self.write(known, shown));
            if let (Some((_, known)), Some(again)) = (self.kept.get_mut(place), again) {
                *known = again;
            }
            return Kept::Yes;
        }
        if self.kept.len() >= self.most {
            if place >= self.most {
                let (slot, gpa) = self
                    .kept
                    .last()
                    .map_or((0, 0), |(kept, _)| (kept.slot, kept.gpa));
                return Kept::OnlyBelow(HitPlace { slot, gpa });
            }
            if let Some((_, given_up)) = self.kept.pop() {
                self.give_up(given_up);
            }
        }
        let shown = self.show(shown);
        // There is room for `most`.
        let _ = self.kept.insert_within_capacity(place, (hit, shown));
        Kept::Yes
    }

    /// Forgets the hits that begin in a slot from `first` to `last`.
    pub(super) fn forget(&mut self, slot: usize, first: u64, last: u64) {
        let is_gone = |hit: &Hit| hit.slot == slot && (first..=last).contains(&hit.gpa);
        let mut free = core::mem::take(&mut self.free);
        self.kept.retain(|(hit, shown)| {
            let gone = is_gone(hit);
            if gone && shown.len > 0 {
                // There is room for all places.
                let _ = free.push_within_capacity(shown.place);
            }
            !gone
        });
        self.free = free;
    }

    /// Returns how many are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Returns the kept hits in order, each with its bytes and those around it, if the query asks
    /// for them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Hit, &[u8])> {
        self.kept.iter().map(|(hit, shown)| {
            let start = shown.place.saturating_mul(self.place_size);
            let bytes = self.bytes.get(start..start.saturating_add(shown.len));
            (hit, bytes.unwrap_or_default())
        })
    }

    fn show(&mut self, shown: &[u8]) -> Shown {
        let Some(place) = self.free.pop() else {
            return Shown::default();
        };
        self.write(place, shown)
    }

    /// Writes bytes to a place.
    fn write(&mut self, place: usize, shown: &[u8]) -> Shown {
        let len = shown.len().min(self.place_size);
        let start = place.saturating_mul(self.place_size);
        let room = self.bytes.get_mut(start..start.saturating_add(len));
        for (to, from) in room.into_iter().flatten().zip(shown) {
            *to = *from;
        }
        Shown { place, len }
    }

    fn give_up(&mut self, shown: Shown) {
        if shown.len > 0 {
            // There is room for all places.
            let _ = self.free.push_within_capacity(shown.place);
        }
    }
}
