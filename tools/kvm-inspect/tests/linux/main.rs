// SPDX-License-Identifier: GPL-2.0

//! Finding and reading a kernel, in memory that is made here.

#![expect(clippy::similar_names, reason = "GVA and GPA are what KVM calls them")]

mod guest;
mod hostile;
mod log;
mod proof;
mod ring;
mod symbols;
