// SPDX-License-Identifier: GPL-2.0

//! Measurements. Each compares alternating stretches of one run, since machines are noisy and an
//! emulator's times mean nothing.

mod idle;
mod nested_alone;
mod search;

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new("bench_idle", idle::idle).within(600),
    Case::new("bench_module", search::search).within(1800),
    Case::new("nested_alone", nested_alone::nested_alone).within(1800),
];
