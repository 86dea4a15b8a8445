// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate lacks: owners of one kernel thing each, behind a safe interface.
//!
//! Nothing here uses KVM or a search; pages show themselves to `scan/` as memory. Each file is a
//! candidate for the kernel crate.

pub(crate) mod address_space;
pub(crate) mod arguments;
pub(crate) mod completion;
pub(crate) mod cpumask;
pub(crate) mod file_pages;
pub(crate) mod fpu;
pub(crate) mod ftrace;
pub(crate) mod kernels;
pub(crate) mod kprobe;
pub(crate) mod kthread;
pub(crate) mod lockdown;
pub(crate) mod log;
pub(crate) mod miscdevice;
pub(crate) mod module;
pub(crate) mod pages;
mod patience;
pub(crate) mod random;
pub(crate) mod rcu;
pub(crate) mod sha256;
pub(crate) mod symbol;
pub(crate) mod task;
