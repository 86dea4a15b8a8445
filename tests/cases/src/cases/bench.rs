// SPDX-License-Identifier: GPL-2.0

//! Measurements. Each compares alternating parts of one run: machines are noisy, and an emulator's
//! times mean nothing by themselves.

mod idle;
mod module;
mod reach;

use self::{idle::idle, module::module};
use super::Case;

pub(super) const CASES: &[Case] = cases![idle.within(600), module.within(1800),];
