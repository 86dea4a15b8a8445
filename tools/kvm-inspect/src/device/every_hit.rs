// SPDX-License-Identifier: GPL-2.0

//! More hits than one search keeps.
//!
//! A search keeps the hits at the lowest addresses, those outside of system management mode first.
//! The next one searches what lies above the last hit that was kept. What only that mode sees comes
//! at the end, in a search of its own: a range of addresses is one of both address spaces.

use std::{collections::BTreeMap, fmt};

use kvm_inspect_pure::{range, range::Range, uapi};

use super::{Error, Hit};

/// How far a hit may reach beyond memory that only system management mode sees: the longest
/// pattern's length.
const MAX_LEN: u64 = 256;

/// The hits that one search has kept.
pub struct Batch<'a> {
    /// In ascending order.
    pub hits: Box<dyn Iterator<Item = Result<Hit, Error>> + 'a>,
    /// Whether these are all hits of the search.
    pub is_whole: bool,
}

/// All hits, however many: an iterator that searches again where one search cannot keep them.
///
/// Each search is of an instant of its own, unless the guest stands meanwhile
/// ([`Session::hold`](super::Session::hold)).
pub struct EveryHit<'a, S> {
    search: S,
    ranges: Vec<Range>,
    smm: Vec<Range>,
    part: Part,
    hits: Box<dyn Iterator<Item = Result<Hit, Error>> + 'a>,
    is_whole: bool,
    /// The last hit of the batch, given out or not.
    last: Option<Key>,
    /// The last hit that was given out.
    given: Option<Key>,
    /// Whether one of the batch was given out.
    has_given: bool,
    is_cut: bool,
}

/// What orders hits.
type Key = (u16, u64, u32);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The first batch, which may have all.
    First,
    /// Outside of system management mode.
    Normal,
    /// In it.
    Smm,
    /// There is no more.
    Over,
}

fn key(hit: &Hit) -> Key {
    (hit.address_space, hit.gpa, hit.pattern)
}

impl<'a, S> EveryHit<'a, S>
where
    S: FnMut(&[Range]) -> Result<Batch<'a>, Error>,
{
    /// Creates an iterator that begins with the hits of a search of `ranges`, `first`.
    ///
    /// `search` makes another search, of other ranges. `smm` is what only system management mode
    /// sees ([`only_in_smm`]).
    pub fn new(first: Batch<'a>, ranges: &[Range], smm: &[Range], search: S) -> Self {
        let mut ranges = ranges.to_vec();
        if ranges.is_empty() {
            ranges.push(Range::ALL);
        }
        let merged = range::merge(&mut ranges);
        ranges.truncate(merged);
        let smm = smm
            .iter()
            .flat_map(|part| range::clip(&ranges, part.first, part.last));
        let smm = smm.collect();
        Self {
            search,
            ranges,
            smm,
            part: Part::First,
            hits: first.hits,
            is_whole: first.is_whole,
            last: None,
            given: None,
            has_given: false,
            is_cut: false,
        }
    }

    /// Returns whether hits are missing because no search could keep them. That is known when the
    /// iterator has ended.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns whether a hit belongs to the part that is searched, and was not given out before.
    fn is_next(&self, key: Key) -> bool {
        let belongs = match self.part {
            Part::First => true,
            Part::Normal => key.0 == 0,
            Part::Smm => key.0 != 0,
            Part::Over => false,
        };
        belongs && self.given.is_none_or(|given| key > given)
    }

    /// Searches what comes after the batch.
    fn go_on(&mut self) -> Result<(), Error> {
        let last = self.last.take();
        // A batch without anything new would come again and again.
        let can_go_on = self.is_whole || self.has_given;
        let (part, ranges) = match (self.part, last) {
            (Part::First | Part::Smm, _) if self.is_whole => (Part::Over, Vec::new()),
            (Part::Normal, _) if self.is_whole => (Part::Smm, self.smm.clone()),
            // All outside of that mode is done. Nothing in it was given out.
            (Part::Normal, Some((1.., ..))) => (Part::Smm, self.smm.clone()),
            (Part::First | Part::Normal, Some((0, gpa, _))) if can_go_on => (
                Part::Normal,
                range::clip(&self.ranges, gpa, u64::MAX).collect(),
            ),
            (Part::First | Part::Smm, Some((1.., gpa, _))) if can_go_on => {
                (Part::Smm, range::clip(&self.smm, gpa, u64::MAX).collect())
            }
            _ => {
                self.is_cut = true;
                (Part::Over, Vec::new())
            }
        };
        self.has_given = false;
        // No range at all would be all memory.
        if ranges.is_empty() {
            self.part = Part::Over;
            return Ok(());
        }
        self.part = part;
        let batch = (self.search)(&ranges)?;
        self.hits = batch.hits;
        self.is_whole = batch.is_whole;
        Ok(())
    }
}

impl<'a, S> Iterator for EveryHit<'a, S>
where
    S: FnMut(&[Range]) -> Result<Batch<'a>, Error>,
{
    type Item = Result<Hit, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.part != Part::Over {
            match self.hits.next() {
                Some(Ok(hit)) => {
                    let key = key(&hit);
                    self.last = Some(key);
                    if self.is_next(key) {
                        self.given = Some(key);
                        self.has_given = true;
                        return Some(Ok(hit));
                    }
                }
                Some(Err(error)) => {
                    self.part = Part::Over;
                    return Some(Err(error));
                }
                None => {
                    if let Err(error) = self.go_on() {
                        self.part = Part::Over;
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }
}

impl<S> fmt::Debug for EveryHit<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("EveryHit");
        fields.field("given", &self.given).finish_non_exhaustive()
    }
}

/// Returns the guest-physical addresses that have other memory in system management mode than
/// outside, with as many after them as the longest pattern has bytes.
#[must_use]
pub fn only_in_smm(slots: &[uapi::Slot]) -> Vec<Range> {
    let mut shared = BTreeMap::new();
    for slot in slots.iter().filter(|slot| slot.address_space == 0) {
        shared.insert(slot.gpa, (slot.pages, slot.hva));
    }
    let others = slots.iter().filter(|slot| {
        // Usually a slot is all in both address spaces. Else it may be searched in vain.
        slot.address_space != 0 && shared.get(&slot.gpa) != Some(&(slot.pages, slot.hva))
    });
    let ranges = others.filter_map(|slot| {
        let size = slot.pages.checked_mul(4096)?.checked_add(MAX_LEN - 1)?;
        let last = slot.gpa.saturating_add(size.checked_sub(1)?);
        let first = slot.gpa;
        Some(Range { first, last })
    });
    let mut ranges: Vec<_> = ranges.collect();
    let merged = range::merge(&mut ranges);
    ranges.truncate(merged);
    ranges
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn hit((address_space, gpa, pattern): Key) -> Hit {
        Hit {
            address_space,
            gpa,
            pattern,
            slot: 0,
            hva: 0,
            before: 0,
            bytes: Vec::new(),
        }
    }

    /// Searches as the device does.
    fn search(all: &[Key], ranges: &[Range], most: usize) -> Batch<'static> {
        let is_in = |gpa: u64| ranges.iter().any(|range| range.contains(gpa));
        let mut hits: Vec<Key> = all.iter().copied().filter(|key| is_in(key.1)).collect();
        hits.sort_unstable();
        let is_whole = hits.len() <= most;
        hits.truncate(most);
        let hits = Box::new(hits.into_iter().map(|key| Ok(hit(key))));
        Batch { hits, is_whole }
    }

    fn every(all: &[Key], smm: &[Range], most: usize) -> (Vec<Key>, bool, usize) {
        let mut searches = 1;
        let first = search(all, &[Range::ALL], most);
        let mut hits = EveryHit::new(first, &[], smm, |ranges| {
            searches += 1;
            assert!(searches < 1000);
            Ok(search(all, ranges, most))
        });
        let keys = hits.by_ref().map(|hit| key(&hit.expect("a hit"))).collect();
        let is_cut = hits.is_cut();
        (keys, is_cut, searches)
    }

    #[test]
    fn one_search_will_do_if_it_has_kept_all() {
        let all = [(0, 1, 0), (0, 2, 0), (1, 1, 0)];
        assert_eq!(every(&all, &[], 3), (all.to_vec(), false, 1));
    }

    #[test]
    fn all_hits_come_once_and_in_order() {
        let smm = [Range {
            first: 50,
            last: 99,
        }];
        let mut all: Vec<Key> = (0..100)
            .flat_map(|gpa| [(0, gpa, 0), (0, gpa, 1)])
            .collect();
        all.extend((50..60).map(|gpa| (1, gpa, 0)));
        for most in [3, 4, 7, 100, 105, 208] {
            let (keys, is_cut, _) = every(&all, &smm, most);
            // What lies at the same addresses outside of system management mode may be in the way.
            if is_cut {
                assert_eq!(keys, &all[..keys.len()], "{most}");
                assert!(keys.len() >= 200, "{most}");
            } else {
                assert_eq!(keys, all, "{most}");
            }
        }
    }

    #[test]
    fn hits_of_smm_come_where_nothing_else_is() {
        let smm = [Range {
            first: 50,
            last: 99,
        }];
        let outside = (0..100).filter(|gpa| !(50..60).contains(gpa));
        let mut all: Vec<Key> = outside.map(|gpa| (0, gpa, 0)).collect();
        all.extend((50..60).map(|gpa| (1, gpa, 0)));
        for most in [2, 3, 5, 89, 90, 91, 99, 100] {
            let (keys, is_cut, _) = every(&all, &smm, most);
            assert_eq!(keys[..90], all[..90], "{most}");
            assert!(is_cut || keys == all, "{most}");
            assert!(!is_cut || most < 40, "{most}");
        }
    }

    #[test]
    fn a_search_that_keeps_none_ends() {
        assert_eq!(every(&[(0, 1, 0)], &[], 0), (Vec::new(), true, 1));
        let crowded = [(0, 1, 0), (0, 1, 1), (0, 2, 0)];
        assert_eq!(every(&crowded, &[], 1).0, [(0, 1, 0)]);
        assert!(every(&crowded, &[], 1).1);
    }

    #[test]
    fn only_what_differs_is_of_smm_only() {
        let slot = |address_space, gpa, hva| uapi::Slot {
            gpa,
            pages: 1,
            hva,
            address_space,
            ..FromZeros::new_zeroed()
        };
        let slots = [
            slot(0, 0, 0x7000),
            slot(0, 0x4000, 0x8000),
            slot(1, 0, 0x7000),
            slot(1, 0x4000, 0x9000),
            slot(1, 0xa000, 0xa000),
        ];
        let ranges = only_in_smm(&slots);
        let firsts: Vec<u64> = ranges.iter().map(|range| range.first).collect();
        assert_eq!(firsts, [0x4000, 0xa000]);
        assert_eq!(ranges[1].last, 0xa000 + 4096 + 254);
    }
}
