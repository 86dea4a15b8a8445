// SPDX-License-Identifier: GPL-2.0

//! What is prepared for a set of patterns: they are divided into groups, and each group has two
//! ways to be searched for, the second one for memory that is full of what the first one looks for.

use super::{
    engine::Engine,
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

/// What is prepared for a set of patterns. All zeros are a valid value.
///
/// It is too large for a kernel stack. It consists of integers, so it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Tables {
    pub(super) groups: [[Way; WAYS]; GROUPS],
    /// The length of the longest pattern.
    pub(super) longest: usize,
    /// The group of each pattern.
    group_of: [u8; MAX_PATTERNS],
    /// What all is expected to cost.
    cost: u64,
}

impl Tables {
    /// Prepares them for a scan by `engine`. Patterns beyond [`MAX_PATTERNS`] are left out.
    pub(super) fn prepare(&mut self, patterns: &[Pattern], engine: Engine) {
        let patterns = patterns.get(..MAX_PATTERNS).unwrap_or(patterns);
        self.longest = patterns.iter().map(Pattern::len).max().unwrap_or(0);
        self.group_of = [0; MAX_PATTERNS];
        self.cost = 0;
        let Self {
            groups,
            group_of,
            cost,
            ..
        } = self;
        let mut number = 0;
        for [first, second] in groups {
            let is_last = usize::from(number) + 1 == GROUPS;
            let mut planner = Planner::new(engine, patterns, group_of, number, is_last);
            first.remove();
            second.remove();
            number = number.saturating_add(1);
            let Some((plan, least)) = planner.best(first) else {
                planner.leave_others(None);
                continue;
            };
            *cost = cost.saturating_add(least);
            planner.leave_others(Some(plan));
            let is_member = |index: usize| planner.is_member(index);
            first.prepare(plan, Choice::First, engine, patterns, is_member);
            planner.prepare_second(plan, second);
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

    /// Returns the group of a pattern.
    pub(super) fn group_of(&self, pattern: usize) -> usize {
        self.group_of.get(pattern).copied().unwrap_or(0).into()
    }
}
