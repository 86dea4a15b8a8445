// SPDX-License-Identifier: GPL-2.0

//! Numbers that look random, the same in each run.

pub(crate) use pattern_sets::Random;
