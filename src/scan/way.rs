// SPDX-License-Identifier: GPL-2.0

//! A way to search for some patterns: where their windows are, and how places with a window are
//! found.
//!
//! Each pattern has so many windows in a row as places are bytes apart; so each match has one at a
//! place. If places are one byte apart, a filter may rule out most of them at once.

use core::num::NonZeroUsize;

use super::{
    engine::Engine,
    filter::{
        Filter,
        Kind, //
    },
    index::{
        Entry,
        Index, //
    },
    odds::{
        self,
        Odds, //
    },
    pattern::{
        Pattern,
        MAX_LEN, //
    }, //
};

/// What makes a way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The bits of a window that count.
    pub(super) mask: u64,
    /// How far apart places are.
    pub(super) stride: usize,
    /// The filter, if they are one byte apart.
    pub(super) kind: Kind,
}

/// Which windows of a pattern to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The rarest ones.
    First,
    /// Others, if there are some, best at its end: for memory that is full of the first.
    Second,
}

/// A way. All zeros are a valid value: one that is not there.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Way {
    /// How far apart places are; 0 if it is not there.
    stride: usize,
    pub(super) filter: Filter,
    pub(super) index: Index,
}

impl Way {
    /// Returns how far apart places are; [`None`] if the way is not there.
    pub(super) fn stride(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.stride)
    }

    /// Makes it a way that is not there.
    pub(super) fn remove(&mut self) {
        self.stride = 0;
    }

    /// Prepares it for those of `patterns` that `is_member` says, which have windows with all bits
    /// of the plan's mask. If it cannot have the plan's filter, it has none.
    pub(super) fn prepare(
        &mut self,
        plan: Plan,
        choice: Choice,
        engine: Engine,
        patterns: &[Pattern],
        entries: &mut [Entry],
        is_member: impl Fn(usize) -> bool,
    ) {
        let Plan { mask, stride, kind } = plan;
        self.stride = stride;
        self.index.begin(mask);
        let members = patterns.iter().enumerate();
        let members = members.filter(|(index, _)| is_member(*index));
        for (_, pattern) in members.clone() {
            for at in places(pattern, mask, 1) {
                self.index.count_alike(pattern.window(at).0);
            }
        }
        for (index, pattern) in members {
            if let Some((_, first)) = self.best(pattern, plan, choice) {
                for at in first..first.saturating_add(stride) {
                    self.index.add(entries, pattern, index, at);
                }
            }
        }
        self.index.link(entries);
        let _ = self.filter(kind, engine, patterns, entries);
    }

    /// Gives it a filter. Returns at how many places something passes; [`None`] if it cannot be of
    /// this kind: then it has none.
    pub(super) fn filter(
        &mut self,
        kind: Kind,
        engine: Engine,
        patterns: &[Pattern],
        entries: &[Entry],
    ) -> Option<Odds> {
        let windows = self.index.with(entries);
        let passing = self.filter.prepare(kind, engine, patterns, windows);
        if passing.is_none() {
            self.filter.remove();
        }
        passing
    }

    /// Returns where the windows of a pattern begin, and their odds in all.
    fn best(&self, pattern: &Pattern, plan: Plan, choice: Choice) -> Option<(u64, usize)> {
        let Plan { mask, stride, .. } = plan;
        let mut costs = [0_u64; MAX_LEN];
        for at in places(pattern, mask, 1) {
            if let Some(cost) = costs.get_mut(at) {
                // Similar ones share a hash.
                let alike = u64::from(self.index.alike(pattern.window(at).0).max(1));
                let odds = odds::of_window(pattern, at, mask).max(1);
                *cost = odds.saturating_mul(alike);
            }
        }
        let cost = |first: usize| {
            let windows = costs.get(first..first.saturating_add(stride));
            windows.map_or(u64::MAX, |windows| {
                windows
                    .iter()
                    .fold(0, |sum, cost| sum.saturating_add(*cost))
            })
        };
        let best = |may_be: &dyn Fn(usize) -> bool| {
            let places = places(pattern, mask, stride).filter(|at| may_be(*at));
            places.map(|at| (cost(at), at)).min()
        };
        let first = best(&|_| true)?;
        if choice == Choice::First {
            return Some(first);
        }
        let last = places(pattern, mask, stride).last()?;
        let second = if last == first.1 || cost(last) > FREQUENT {
            best(&|at| at != first.1)
        } else {
            Some((cost(last), last))
        };
        second.or(Some(first))
    }
}

/// Windows that are expected at more places are not worth a choice.
const FREQUENT: u64 = odds::PLACES >> 12;

/// Returns where in a pattern so many windows in a row can begin, all with the bits of `mask`.
pub(super) fn places(
    pattern: &Pattern,
    mask: u64,
    windows: usize,
) -> impl Iterator<Item = usize> + '_ {
    let has = move |at: usize| pattern.window(at).1 & mask == mask;
    (0..pattern.len().min(MAX_LEN))
        .scan(0_usize, move |row, at| {
            *row = if has(at) { row.saturating_add(1) } else { 0 };
            Some((*row, at))
        })
        .filter(move |(row, _)| *row >= windows)
        .map(move |(_, at)| at.saturating_sub(windows.saturating_sub(1)))
}
