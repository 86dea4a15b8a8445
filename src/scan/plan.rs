// SPDX-License-Identifier: GPL-2.0

//! Finds the way to search for a group of patterns that is expected to have the least to do.

mod cost;

use self::cost::Outlook;
use super::{
    engine::{
        Engine,
        EngineKind, //
    },
    filter::Kind,
    index::Entry,
    odds,
    pattern::{
        Pattern,
        MAX_PATTERNS, //
    },
    way::{
        places,
        Choice,
        Plan,
        Way, //
    }, //
};

pub(super) use self::cost::{
    CYCLE,
    MEMORY, //
};

/// The distances of places that are tried.
const STRIDES: [usize; 11] = [16, 13, 11, 9, 7, 6, 5, 4, 3, 2, 1];

/// The numbers of bytes of a window that are tried.
const SIZES: [u32; 5] = [8, 5, 4, 3, 2];

/// How many patterns are looked at to estimate what a way costs.
const SAMPLED: usize = 128;

/// The most that is expected of windows that are looked for one by one: a pattern with more
/// frequent ones is left to another group.
const TOO_FREQUENT: u64 = odds::PLACES >> 9;

/// The fewest bits that all windows of a group have in common, but for the last one.
const LEAST_COMMON: u32 = 16;

/// A way with more windows of one hash than this is not robust.
const LONG_LIST: usize = 8;

/// Up to how many patterns the small tables do.
const FEW_JOINT: usize = 96;

/// The bits that tell letters of the two cases apart, and the others.
const CASES: u64 = 0x2020_2020_2020_2020;
const FOLDED: u64 = !CASES;

/// Finds the best plan for a group: some of the patterns that are in no group before it.
pub(super) struct Planner<'a> {
    engine: Engine,
    patterns: &'a [Pattern],
    group_of: &'a mut [u8; MAX_PATTERNS],
    number: u8,
    is_last: bool,
    breathe: &'a dyn Fn(),
}

impl<'a> Planner<'a> {
    /// Returns the planner of the group `number`. To the last one all belong that are left.
    pub(super) fn new(
        engine: Engine,
        patterns: &'a [Pattern],
        group_of: &'a mut [u8; MAX_PATTERNS],
        number: u8,
        is_last: bool,
        breathe: &'a dyn Fn(),
    ) -> Self {
        Self {
            engine,
            patterns,
            group_of,
            number,
            is_last,
            breathe,
        }
    }

    /// Returns whether a pattern is in this group.
    pub(super) fn is_member(&self, index: usize) -> bool {
        self.group_of.get(index) == Some(&self.number)
    }

    fn members(&self) -> impl Iterator<Item = (usize, &Pattern)> + Clone + '_ {
        let all = self.patterns.iter().enumerate();
        all.filter(|(index, _)| self.is_member(*index))
    }

    /// Returns the plan that is expected to cost least, and that cost, without that of the patterns
    /// that it leaves to others. `way`, and `entries` for its windows, are overwritten.
    pub(super) fn best(&self, way: &mut Way, entries: &mut [Entry]) -> Option<(Plan, u64)> {
        let count = self.members().count();
        if count == 0 {
            return None;
        }
        // First those for all members: from what they cost follows what others would.
        let for_all = self.best_of(way, entries, count, |patterns, cost| {
            (patterns == count).then_some(cost)
        });
        if self.is_last {
            return for_all.map(|(plan, cost, _)| (plan, cost));
        }
        let cost_of_all = for_all.map_or(u64::MAX / 2, |(_, cost, _)| cost);
        let for_some = self.best_of(way, entries, count, |patterns, cost| {
            let others = cost::of_others(
                self.engine,
                cost_of_all,
                count.saturating_sub(patterns),
                count,
            );
            (patterns < count).then_some(cost.saturating_add(others))
        });
        let all = [for_all, for_some].into_iter().flatten();
        let best = all.min_by_key(|(_, _, in_all)| *in_all);
        best.map(|(plan, cost, _)| (plan, cost))
    }

    /// Returns the plan with the least value of `cost_in_all`, what it costs, and that value.
    /// `cost_in_all` makes it of the number of patterns that the plan is for and of its cost.
    fn best_of(
        &self,
        way: &mut Way,
        entries: &mut [Entry],
        count: usize,
        cost_in_all: impl Fn(usize, u64) -> Option<u64>,
    ) -> Option<(Plan, u64, u64)> {
        let mut best: Option<(Plan, u64, u64)> = None;
        let mut take = |plan: Plan, patterns: usize, cost: u64| {
            if let Some(in_all) = cost_in_all(patterns, cost) {
                if best.is_none_or(|(_, _, least)| in_all < least) {
                    best = Some((plan, cost, in_all));
                }
            }
        };
        let folds = self.members().any(|(_, pattern)| !is_exact(pattern));
        let bases: &[u64] = if folds {
            &[u64::MAX, FOLDED]
        } else {
            &[u64::MAX]
        };
        let rows = bases.iter().flat_map(|base| {
            let masks = SIZES.into_iter();
            masks.map(move |size| low_bytes(size) & base)
        });
        let common = self.common_mask();
        for mask in rows.chain([common]) {
            (self.breathe)();
            let outlooks = self.outlooks(mask, count);
            for (stride, outlook) in STRIDES.into_iter().zip(outlooks) {
                let Outlook { patterns, odds } = outlook;
                // One is that of no pattern.
                let is_possible = patterns > 0 && patterns.saturating_mul(stride) < entries.len();
                if !is_possible || cost_in_all(patterns, 0).is_none() {
                    continue;
                }
                let plan = Plan {
                    mask,
                    stride,
                    kind: Kind::None,
                };
                // After the last group nobody is left to look for others.
                if self.is_last
                    && !self
                        .members()
                        .all(|(index, _)| self.has_windows(index, plan))
                {
                    continue;
                }
                take(plan, patterns, cost::of_looks(mask, stride, outlook));
                if stride > 1 || Kind::of(self.engine).is_empty() {
                    continue;
                }
                let is_member = |index: usize| self.has_windows(index, plan);
                way.prepare(
                    plan,
                    Choice::First,
                    self.engine,
                    self.patterns,
                    entries,
                    is_member,
                );
                for kind in Kind::of(self.engine).iter().copied() {
                    (self.breathe)();
                    let plan = Plan { kind, ..plan };
                    if let Some(passing) = way.filter(kind, self.engine, self.patterns, entries) {
                        let skips = way.filter.skips_zeros();
                        let cost =
                            cost::of_filter(self.engine, plan, skips, passing, patterns, odds);
                        take(plan, patterns, cost);
                    }
                }
            }
        }
        best
    }

    /// Leaves to later groups what a plan is not for, and what there is no room for among so many
    /// entries; all if there is no plan.
    pub(super) fn leave_others(&mut self, plan: Option<(Plan, usize)>) {
        // How many have windows was estimated. For the last group it was not.
        let room = plan.and_then(|(plan, entries)| most_patterns(entries, plan.stride));
        let mut room = room.unwrap_or(0);
        for index in 0..self.patterns.len() {
            if !self.is_member(index) {
                continue;
            }
            let stays = room > 0 && plan.is_some_and(|(plan, _)| self.has_windows(index, plan));
            if stays {
                room = room.saturating_sub(1);
            } else if let Some(group) = self.group_of.get_mut(index) {
                *group = self.number.saturating_add(1);
            }
        }
    }

    /// Returns whether a pattern is a member and has windows for a plan.
    fn has_windows(&self, index: usize, plan: Plan) -> bool {
        (self.breathe)();
        let pattern = self.patterns.get(index).filter(|_| self.is_member(index));
        pattern.is_some_and(|pattern| {
            if self.is_last {
                places(pattern, plan.mask, plan.stride).next().is_some()
            } else {
                let rows = odds_of_rows(pattern, plan.mask);
                let mut rows = STRIDES.into_iter().zip(rows);
                rows.any(|(stride, odds)| stride == plan.stride && odds <= TOO_FREQUENT)
            }
        })
    }

    /// Returns what is known of plans with each of [`STRIDES`], from some of the `count` members.
    fn outlooks(&self, mask: u64, count: usize) -> [Outlook; STRIDES.len()] {
        let step = count.div_ceil(SAMPLED).max(1);
        let mut outlooks = [Outlook::default(); STRIDES.len()];
        let most = if self.is_last {
            u64::MAX - 1
        } else {
            TOO_FREQUENT
        };
        let mut looked = 0_usize;
        for (_, pattern) in self.members().step_by(step) {
            (self.breathe)();
            looked = looked.saturating_add(1);
            for (outlook, odds) in outlooks.iter_mut().zip(odds_of_rows(pattern, mask)) {
                if odds <= most {
                    outlook.patterns = outlook.patterns.saturating_add(1);
                    outlook.odds = outlook.odds.saturating_add(odds);
                }
            }
        }
        for outlook in &mut outlooks {
            if outlook.patterns == looked {
                outlook.patterns = count;
            } else {
                outlook.patterns = outlook.patterns.saturating_mul(step).min(count);
            }
            outlook.odds = outlook
                .odds
                .saturating_mul(u64::try_from(step).unwrap_or(1));
        }
        outlooks
    }

    /// Returns the mask of the most bits that each member has in some window.
    fn common_mask(&self) -> u64 {
        let mut common = u64::MAX;
        for (_, pattern) in self.members() {
            (self.breathe)();
            let windows = (0..pattern.len()).map(|at| pattern.window(at).1 & common);
            // Of equal ones the one that has its first byte first.
            let most = windows
                .filter(|mask| mask & 0xff != 0)
                .max_by_key(|mask| mask.count_ones());
            let most = most.unwrap_or(0);
            // Who has little in common with the others is left to another group.
            if self.is_last || most.count_ones() >= LEAST_COMMON {
                common = most;
            }
        }
        common
    }

    /// Prepares a second way, which costs little also in memory that somebody has filled: with
    /// other windows than `plan`, and places that are found whatever is in memory.
    pub(super) fn prepare_second(&self, plan: Plan, way: &mut Way, entries: &mut [Entry]) {
        let room = entries.len();
        let mut prepare = |plan: Plan| {
            let is_member = |index: usize| {
                (self.breathe)();
                self.is_member(index)
            };
            way.prepare(
                plan,
                Choice::Second,
                self.engine,
                self.patterns,
                entries,
                is_member,
            );
            way.index.longest_list(entries) <= LONG_LIST
        };
        let count = self.members().count();
        // The first way may have more windows.
        let most = most_patterns(room, count).unwrap_or(1);
        let plan = Plan {
            stride: plan.stride.min(most),
            ..plan
        };
        if matches!(plan.kind, Kind::Joint | Kind::WideJoint) {
            prepare(plan);
            return;
        }
        if self.engine.kind() == EngineKind::Avx512 && plan.kind != Kind::None {
            let kind = if count > FEW_JOINT {
                Kind::WideJoint
            } else {
                Kind::Joint
            };
            prepare(Plan { kind, ..plan });
            return;
        }
        // The most bytes first: parts of patterns pass less often. Then the fewest places. But long
        // rows of windows may be in what patterns have in common.
        let case = if plan.mask & CASES == 0 {
            FOLDED
        } else {
            u64::MAX
        };
        for size in SIZES.into_iter().filter(|size| *size > 2) {
            for stride in STRIDES.into_iter().filter(|stride| *stride > 1) {
                let plan = Plan {
                    mask: low_bytes(size) & case,
                    stride,
                    kind: Kind::None,
                };
                let has = |pattern: &Pattern| places(pattern, plan.mask, stride).next().is_some();
                let is_possible = stride <= most && self.members().all(|(_, pattern)| has(pattern));
                if is_possible && prepare(plan) {
                    return;
                }
            }
        }
        prepare(plan);
    }
}

/// Returns for each of [`STRIDES`] at how many places the rarest windows of a pattern are
/// expected: so many in a row. The greatest number if it has no such row.
fn odds_of_rows(pattern: &Pattern, mask: u64) -> [u64; STRIDES.len()] {
    let [longest, ..] = STRIDES;
    let mut rarest = [u64::MAX; STRIDES.len()];
    // The last windows, and how many of them are one row.
    let mut recent = [0_u64; STRIDES[0]];
    let mut row = 0_usize;
    for at in 0..pattern.len() {
        if pattern.window(at).1 & mask != mask {
            row = 0;
            continue;
        }
        if let Some(odds) = recent.get_mut(row % longest) {
            *odds = odds::of_window(pattern, at, mask);
        }
        row = row.saturating_add(1);
        for (least, stride) in rarest.iter_mut().zip(STRIDES) {
            if row >= stride {
                let windows = row.saturating_sub(stride)..row;
                let sum = windows.fold(0, |sum: u64, window| {
                    let odds = recent.get(window % longest).copied();
                    sum.saturating_add(odds.unwrap_or(0))
                });
                *least = sum.min(*least);
            }
        }
    }
    rarest
}

/// Returns how many patterns have room among so many entries, of which one is that of no pattern.
fn most_patterns(entries: usize, stride: usize) -> Option<usize> {
    entries.saturating_sub(1).checked_div(stride)
}

/// Returns a mask of so many bytes, up to eight.
fn low_bytes(size: u32) -> u64 {
    u64::MAX
        .checked_shr(u64::BITS.saturating_sub(size.saturating_mul(u8::BITS)))
        .unwrap_or(0)
}

/// Returns whether all bytes of a pattern are given or open: there are no letters of either case.
fn is_exact(pattern: &Pattern) -> bool {
    pattern.mask().iter().all(|mask| matches!(mask, 0 | 0xff))
}
