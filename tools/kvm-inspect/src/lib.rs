// SPDX-License-Identifier: GPL-2.0

//! Asks the module `kvm_inspect` for inspections of KVM guests, and reads its reports.
//!
//! An [`Inspection`] holds the parameters of the module. Loading the module with them makes the
//! inspection; the report comes in the kernel log ([`KernelLog`]), and becomes a
//! [`Report`](report::Report). The tests of the module use this crate, too.
//!
//! Memory and [`registers`] of a guest become a file for drgn, crash, gdb and others in [`core`].
//! It appears whole or not at all ([`output`]), with a [`manifest`] that says what is missing.
//!
//! What a guest is, this crate finds out from its registers and memory alone: [`guest`] reads the
//! memory, [`paging`] walks its page tables, [`linux`] finds its kernel.

#![deny(unsafe_code)]

pub mod cli;
pub mod core;
pub mod device;
pub mod dump;
pub mod escape;
pub mod guest;
pub mod hex;
pub mod hexdump;
pub mod host;
mod inspection;
pub mod json;
mod kernel_log;
pub mod linux;
pub mod live;
pub mod manifest;
pub mod module;
pub mod output;
pub mod paging;
pub mod registers;
pub mod report;

pub use self::{
    inspection::{load_as_written, Inspection, LoadError, Loaded, Refusal},
    kernel_log::KernelLog,
};
