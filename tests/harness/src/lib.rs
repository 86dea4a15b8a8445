// SPDX-License-Identifier: GPL-2.0

//! Runs test VMs: packs their archives, runs an emulator, reads its output, and judges it.
//!
//! QEMU emulates a processor with AMD's virtualization extension (TCG, SVM), Bochs one with Intel's
//! (VMX). So every machine gives the same result, with or without `/dev/kvm`.

mod bochs;
mod cases;
pub mod core_cases;
mod fresh;
pub mod initramfs;
pub mod judge;
pub mod kernel;
pub mod nested;
pub mod paths;
mod patience;
pub mod qemu;
pub mod run;
pub mod stamp;
pub mod suite;
pub mod testbed;
mod tsc;
