// SPDX-License-Identifier: GPL-2.0

//! What the scenario `dump` and its harness have in common.

/// The kernel parameter of the host with the levels of page tables that the guest is to have.
pub const LEVELS: &str = "levels=";

/// Where the host has the folder of the machine that emulates it.
pub const OUT: &str = "/out";

/// The tag by which the host finds it.
pub const TAG: &str = "out";

/// The list of the kernel modules for that, in the order of loading.
pub const MODULES: &str = "/modules/9p";
