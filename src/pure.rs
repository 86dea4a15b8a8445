// SPDX-License-Identifier: GPL-2.0

//! The parts of `kvm_inspect` that need no kernel, as an ordinary crate.
//!
//! The module compiles the same files. Here they can be tested on any machine, with tools that
//! do not exist in the kernel.

#![no_std]

pub mod mode;
pub mod range;
pub mod scan;
