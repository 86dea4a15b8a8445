// SPDX-License-Identifier: GPL-2.0

//! Measurements. Each compares alternating parts of one run: machines are noisy, and an emulator's
//! times mean nothing by themselves.

mod device;
mod idle;
mod module;
mod reach;

use self::{device::device, idle::idle, module::module};
use super::Case;

pub(super) const CASES: &[Case] =
    cases![device.within(900), idle.within(600), module.within(1800),];
