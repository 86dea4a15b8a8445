// SPDX-License-Identifier: GPL-2.0

//! What a plan is expected to cost: an estimate of how many places pass each step in the memory of
//! guests, and of what each step takes, as measured. Only ratios matter.

use crate::scan::{
    engine::{
        Engine,
        EngineKind, //
    },
    filter::Kind,
    index::{
        self,
        Index,
        Step, //
    },
    odds::{
        self,
        Odds, //
    },
    way::Plan, //
};

/// Costs are in parts of a cycle, for a block of 64 bytes.
pub(in crate::scan) const CYCLE: u64 = 1024;

/// The number of places in a block.
const PLACES: u64 = 64;

/// What it costs to read a block.
pub(in crate::scan) const MEMORY: u64 = 6 * CYCLE;

/// What it costs to look at a place: by itself, after a filter, and closely.
const LOOK: u64 = CYCLE * 6 / 4;
const SIFT: u64 = CYCLE * 8;
const CLOSE_LOOK: u64 = CYCLE * 50;

/// What it costs to find a block where something has passed.
const FIND: u64 = CYCLE * 16;

/// Numbers of places are in parts.
const PARTS: u64 = 64;

/// What is known of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlook {
    /// How many patterns have windows for it.
    pub(super) patterns: usize,
    /// At how many places windows are expected.
    pub(super) odds: u64,
}

/// Returns what it costs to look for some of the patterns in another group, if they are as hard
/// as all `count` of them, which would cost `all`.
pub(super) fn of_others(engine: Engine, all: u64, others: usize, count: usize) -> u64 {
    let least = match engine.kind() {
        EngineKind::Portable => 12,
        EngineKind::Avx2 => 8,
        EngineKind::Avx512 => 7,
    };
    let count_of = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let more = all.saturating_sub(least * CYCLE);
    let more = more
        .saturating_mul(count_of(others))
        .checked_div(count_of(count));
    // What all cost may be the fault of a few that have little in common with the rest.
    let most = count_of(others).saturating_mul(4 * CYCLE);
    (least * CYCLE).saturating_add(more.unwrap_or(0).min(most))
}

/// Returns what it costs to look at places one by one.
pub(super) fn of_looks(mask: u64, stride: usize, outlook: Outlook) -> u64 {
    let Outlook { patterns, odds } = outlook;
    let windows = patterns.saturating_mul(stride);
    let passing = Index::chance(mask, windows, odds::PLACES).saturating_add(odds);
    let look = match index::step(mask, windows) {
        Step::Pair => CYCLE / 2,
        Step::Byte => CYCLE * 13 / 16,
        Step::MaskedByte => CYCLE,
        Step::Bit => CYCLE * 18 / 16,
        Step::MaskedBit => CYCLE * 20 / 16,
    };
    let looks = (PLACES * PARTS)
        .checked_div(u64::try_from(stride).unwrap_or(1))
        .unwrap_or(PLACES * PARTS);
    let close = per_place(passing, CLOSE_LOOK);
    let cost = looks.saturating_mul(look.saturating_add(close)) / PARTS;
    // Less memory is on its way than with vectors. A third of it is passed by.
    let cost = cost.max(MEMORY * 5 / 4).saturating_add(cost / 4);
    cost.saturating_mul(2).saturating_add(MEMORY) / 3
}

/// Returns what it costs to filter, and to look at what has passed.
pub(super) fn of_filter(
    engine: Engine,
    Plan { mask, kind, .. }: Plan,
    skips_zeros: bool,
    passing: Odds,
    patterns: usize,
    odds: u64,
) -> u64 {
    let cost = match (engine.kind(), kind) {
        (_, Kind::ThreeExact | Kind::TwoExact) => 5 * CYCLE,
        (EngineKind::Avx2, Kind::TwoClasses) => 8 * CYCLE,
        (EngineKind::Avx2, Kind::ThreeClasses) => 11 * CYCLE,
        (EngineKind::Avx2, _) => 15 * CYCLE,
        (_, Kind::TwoClasses | Kind::ThreeClasses) => 5 * CYCLE,
        (_, Kind::FourClasses | Kind::Joint) => 6 * CYCLE,
        (_, Kind::WideJoint) => 8 * CYCLE,
        (_, Kind::None) => 0,
    };
    let cost = cost.max(MEMORY).saturating_add(cost / 8);
    let has_classes = matches!(
        kind,
        Kind::TwoClasses | Kind::ThreeClasses | Kind::FourClasses
    );
    let cost = if skips_zeros && has_classes && engine.kind() == EngineKind::Avx2 {
        // Two of three blocks.
        (cost + 2 * MEMORY) / 3
    } else {
        cost
    };
    let sifted = passing.by_kind().into_iter().zip(odds::WEIGHTS);
    let sifted = sifted.fold(0, |sum: u64, (odds, weight)| {
        // Blocks are found in any order, and their places one after the other.
        let blocks = odds.saturating_mul(PLACES).min(odds::PLACES);
        let places = PLACES.saturating_mul(per_place(odds, SIFT));
        let cost = per_place(blocks, FIND).saturating_add(places.min(PLACES * LOOK));
        sum.saturating_add(odds::weighted(cost, weight))
    });
    // Windows are considered only where something passes: a filter may know more of them than the
    // bits that count.
    let patterns_there = u64::try_from(patterns).unwrap_or(u64::MAX);
    let odds = odds.min(passing.in_all().saturating_mul(patterns_there));
    let chance = Index::chance(mask, patterns, passing.in_all()).saturating_add(odds);
    let close = PLACES.saturating_mul(per_place(chance, CLOSE_LOOK));
    cost.saturating_add(sifted).saturating_add(close)
}

/// Returns the cost of what is done at some places.
fn per_place(odds: u64, cost: u64) -> u64 {
    let cost = u128::from(odds).saturating_mul(cost.into()) / u128::from(odds::PLACES);
    u64::try_from(cost).unwrap_or(u64::MAX)
}
