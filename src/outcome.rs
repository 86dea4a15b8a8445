// SPDX-License-Identifier: GPL-2.0

//! What one inspection of one VM has brought to light. It owns all of it: the guest runs again.

use kernel::{
    prelude::*,
    sync::Arc,
    time::Delta, //
};

use crate::{
    freeze::{
        FrozenVcpu,
        Pauses, //
    },
    memory::Map,
    request::Query,
    search::Findings, //
};

/// The outcome of one inspection of one VM.
pub(crate) struct Outcome {
    /// The VMM's process number.
    pub(crate) pid: i32,
    /// The VM's file descriptor in the VMM, if it still has one.
    pub(crate) vm_fd: Option<u32>,
    /// The vCPUs, in the order of their creation.
    pub(crate) vcpus: KVVec<FrozenVcpu>,
    /// The memory.
    pub(crate) map: Arc<Map>,
    /// What was searched for.
    pub(crate) query: Arc<Query>,
    /// What was found.
    pub(crate) findings: Findings,
    /// Whether all of that is of one instant.
    pub(crate) conclusion: Conclusion,
    /// How long it took until all vCPUs had stopped for the first time.
    pub(crate) freeze: Delta,
    /// The pauses, the freezes included.
    pub(crate) pauses: Pauses,
}

/// How an inspection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conclusion {
    /// All memory that has content was searched as it was in one instant.
    Ok,
    /// There was nothing to search for.
    NoPattern,
    /// The VMM has changed memslots meanwhile, so that some were searched in part or not at all.
    MemslotsChanged,
    /// Time was up before all memory was searched.
    TimeUp,
    /// A vCPU did not stop in time, and may have changed anything meanwhile.
    NotOneInstant,
    /// Some memory was changed since it was searched.
    Changed,
    /// Some memory has content, and could not be searched.
    Incomplete,
    /// The VMM was killed.
    VmmKilled,
    /// The VMM has closed the VM.
    VmClosed,
}

impl Conclusion {
    /// Returns the word for it in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoPattern => "no_pattern",
            Self::MemslotsChanged => "memslots_changed",
            Self::TimeUp => "time_up",
            Self::NotOneInstant => "not_one_instant",
            Self::Changed => "changed",
            Self::Incomplete => "incomplete",
            Self::VmmKilled => "vmm_killed",
            Self::VmClosed => "vm_closed",
        }
    }
}
