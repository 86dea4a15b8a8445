// SPDX-License-Identifier: GPL-2.0

//! What is prepared for a set of patterns: they are divided into groups, and each group has two
//! ways to be searched for, the second one for memory that is full of what the first one looks for.

use super::{
    engine::Engine,
    index::Entry,
    pattern::{
        Pattern,
        MAX_PATTERNS, //
    },
    plan::{
        Planner,
        CYCLE,
        MEMORY, //
    },
    way::{
        Choice,
        Way, //
    }, //
};

/// The most groups of patterns.
pub(super) const GROUPS: usize = 3;

/// The ways of a group.
pub(super) const WAYS: usize = 2;

/// The windows of all ways, each with that of no pattern. There is room for at least one of each
/// pattern, and for more where most patterns are expected. All zeros are a valid value.
#[derive(Debug)]
#[repr(C)]
struct Entries {
    first: [Entry; 7 * MAX_PATTERNS + 1],
    first_other: [Entry; 3 * MAX_PATTERNS + 1],
    second: [Entry; 2 * MAX_PATTERNS + 1],
    second_other: [Entry; MAX_PATTERNS + 1],
    third: [Entry; 2 * MAX_PATTERNS + 1],
    third_other: [Entry; MAX_PATTERNS + 1],
}

impl Entries {
    fn of_ways(&mut self) -> [[&mut [Entry]; WAYS]; GROUPS] {
        [
            [&mut self.first, &mut self.first_other],
            [&mut self.second, &mut self.second_other],
            [&mut self.third, &mut self.third_other],
        ]
    }

    fn of_group(&self, group: usize) -> [&[Entry]; WAYS] {
        match group {
            0 => [&self.first, &self.first_other],
            1 => [&self.second, &self.second_other],
            _ => [&self.third, &self.third_other],
        }
    }
}

/// What is prepared for a set of patterns. All zeros are a valid value.
///
/// It is too large for a kernel stack. It consists of integers, so it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Tables {
    pub(super) groups: [[Way; WAYS]; GROUPS],
    entries: Entries,
    /// The length of the longest pattern.
    pub(super) longest: usize,
    /// The group of each pattern.
    group_of: [u8; MAX_PATTERNS],
    /// What all is expected to cost.
    cost: u64,
}

impl Tables {
    /// Prepares them for a scan by `engine`. Patterns beyond [`MAX_PATTERNS`] are left out. That
    /// takes a second or two for thousands of long ones; `breathe`, called after each few
    /// milliseconds, lets others have the CPU.
    pub fn prepare(&mut self, patterns: &[Pattern], engine: Engine, breathe: &dyn Fn()) {
        let patterns = patterns.get(..MAX_PATTERNS).unwrap_or(patterns);
        self.longest = patterns.iter().map(Pattern::len).max().unwrap_or(0);
        self.group_of = [0; MAX_PATTERNS];
        self.cost = 0;
        let Self {
            groups,
            entries,
            group_of,
            cost,
            ..
        } = self;
        let mut number = 0;
        let ways = groups.iter_mut().zip(entries.of_ways());
        for ([first, second], [entries, other_entries]) in ways {
            let is_last = usize::from(number) + 1 == GROUPS;
            let mut planner = Planner::new(engine, patterns, group_of, number, is_last, breathe);
            first.remove();
            second.remove();
            number = number.saturating_add(1);
            let Some((plan, least)) = planner.best(first, entries) else {
                planner.leave_others(None);
                continue;
            };
            *cost = cost.saturating_add(least);
            planner.leave_others(Some((plan, entries.len())));
            let is_member = |index: usize| {
                breathe();
                planner.is_member(index)
            };
            first.prepare(
                plan,
                Choice::First,
                engine,
                patterns,
                entries,
                is_member, //
            );
            planner.prepare_second(plan, second, other_entries);
        }
    }

    /// Returns what all is expected to cost, in cycles for 64 bytes. To read them takes
    /// [`Self::READING`].
    #[must_use]
    pub fn cost(&self) -> u64 {
        self.cost / CYCLE
    }

    /// What it costs to read 64 bytes, in cycles.
    pub const READING: u64 = MEMORY / CYCLE;

    /// Returns the windows of the ways of a group.
    pub(super) fn entries_of(&self, group: usize) -> [&[Entry]; WAYS] {
        self.entries.of_group(group)
    }

    /// Returns the group of a pattern.
    pub(super) fn group_of(&self, pattern: usize) -> usize {
        self.group_of.get(pattern).copied().unwrap_or(0).into()
    }
}
