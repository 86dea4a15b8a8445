// SPDX-License-Identifier: GPL-2.0

//! Page walks, against page tables that are built here.

#![expect(clippy::similar_names, reason = "GVA and GPA are what KVM calls them")]

mod builder;
mod hostile;
mod modes;
mod properties;
