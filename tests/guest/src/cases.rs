// SPDX-License-Identifier: GPL-2.0

//! The cases. Each has a VM of its own, ends with a panic if something is wrong, and would fail if
//! the module did nothing.

mod faults;
mod find;
mod invisible;
mod life;
mod limits;
mod memory;
mod patterns;
mod refuse;
mod registers;
mod slots;
mod vcpus;

use std::time::Duration;

use guest::protocol::CaseInfo;

use crate::{
    init::{fewer, scale},
    role::Role,
};

/// After what time a case is ended, unless it says so itself. It takes a few seconds, but the
/// machine may be slow and busy.
const LIMIT: Duration = Duration::from_secs(90);

/// A case.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// Its name.
    pub(crate) name: &'static str,
    /// The function, which runs in a process of its own.
    pub(crate) run: fn(),
    /// After what time it is ended.
    pub(crate) limit: Duration,
    /// Whether KVM is loaded before it begins.
    pub(crate) needs_kvm: bool,
    /// Whether it needs what only the kernel that catches mistakes has.
    pub(crate) needs_debug: bool,
    /// Whether no other case can follow in the same VM.
    pub(crate) is_last: bool,
}

impl Case {
    /// A case with this name.
    const fn new(name: &'static str, run: fn()) -> Self {
        Self {
            name,
            run,
            limit: LIMIT,
            needs_kvm: true,
            needs_debug: false,
            is_last: false,
        }
    }

    /// What the harness is told of it.
    pub(crate) fn info(&self) -> CaseInfo {
        CaseInfo {
            name: self.name.to_owned(),
            seconds: self.limit.as_secs(),
            without_kvm: !self.needs_kvm,
            needs_debug: self.needs_debug,
            is_last: self.is_last,
        }
    }

    /// Gives it more time.
    const fn within(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Lets it begin without KVM.
    const fn without_kvm(mut self) -> Self {
        self.needs_kvm = false;
        self
    }

    /// Runs it on the kernel that catches mistakes only.
    const fn with_debug(mut self) -> Self {
        self.needs_debug = true;
        self
    }

    /// Lets no other case follow.
    const fn last(mut self) -> Self {
        self.is_last = true;
        self
    }
}

/// All cases.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    [
        memory::CASES,
        slots::CASES,
        patterns::CASES,
        limits::CASES,
        vcpus::CASES,
        invisible::CASES,
        registers::CASES,
        find::CASES,
        refuse::CASES,
        faults::CASES,
        life::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The case with this name.
pub(crate) fn find(name: &str) -> Case {
    let case = all().find(|case| case.name == name);
    case.unwrap_or_else(|| panic!("there is no case {name}"))
}

/// The roles that other processes play in the cases.
pub(crate) fn roles() -> impl Iterator<Item = &'static Role> {
    [memory::ROLES, vcpus::ROLES, find::ROLES, life::ROLES]
        .into_iter()
        .flatten()
}

/// How often to do something that a short run on a fast machine does `count` times.
fn times(count: u32) -> u32 {
    count.saturating_mul(scale()).div_ceil(fewer())
}

/// Bytes that stand nowhere by accident; another number gives others.
fn secret(number: u64, len: usize) -> Vec<u8> {
    // SplitMix64.
    let mut state = number.wrapping_mul(0xd134_2543_de82_ef95);
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    });
    words.flatten().take(len).collect()
}
