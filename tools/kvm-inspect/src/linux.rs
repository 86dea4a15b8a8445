// SPDX-License-Identifier: GPL-2.0

//! The Linux kernel of a guest, found and read from the outside.
//!
//! It begins with VMCOREINFO, a note in the guest's memory that Linux writes at boot for tools that
//! read dumps. [`candidates`] finds what looks like one, [`prove`] finds out which one is the
//! running kernel's, and makes it a [`Kernel`]. That has its symbols ([`Kallsyms`]), its log
//! ([`Log`]), and the numbers of its CPUs ([`CpuNumbers`]). None of it needs a symbol file.
//!
//! All of it is the guest's word: sizes and counts are bounded, and text is not fit for a terminal
//! before it was escaped ([`Record::lines`] does that).

mod cpus;
mod direct_map;
mod kallsyms;
mod kernel;
mod log;
mod note;
mod proof;
mod vmcoreinfo;

pub use self::{
    cpus::CpuNumbers,
    direct_map::{DirectMap, MapSource},
    kallsyms::{Kallsyms, KallsymsError, Symbol},
    kernel::{Kernel, RootError},
    log::{Caller, Log, LogError, Record},
    note::{candidates, candidates_in, Note, NoteError, PATTERN},
    proof::{prove, Candidate, PointerError, Proof, Proofs, MAX_CANDIDATES},
    vmcoreinfo::VmcoreInfo,
};
