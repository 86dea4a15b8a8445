// SPDX-License-Identifier: GPL-2.0

//! Runs test VMs: packs what they boot, runs an emulator, listens to them, and judges how it went.
//!
//! QEMU emulates the processor with AMD's virtualization extension (TCG, SVM), Bochs with Intel's
//! (VMX), so that every machine gives the same result, whether it has `/dev/kvm` or not.

mod bochs;
mod cases;
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
