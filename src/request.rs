// SPDX-License-Identifier: GPL-2.0

//! What the user asks for, checked.

use kernel::{
    prelude::*,
    sync::Arc,
    time::Delta, //
};

use crate::{
    linux::{
        pages::Access,
        task, //
    },
    range::Range,
    scan::{
        Engine,
        Pattern,
        Scanner,
        Tables, //
    }, //
};

/// The most bytes on each side of a hit that a user can ask for. With the longest pattern a line
/// still fits into the kernel log.
pub(crate) const MAX_CONTEXT: usize = 64;

/// What to do if a vCPU does not stop in time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    /// Let all go on, and refuse.
    Refuse,
    /// Inspect all the same, and say which one may have run.
    Report,
}

impl Late {
    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Report => "report",
        }
    }
}

/// What to inspect, and how.
pub(crate) struct Request {
    /// The VMM's process number.
    pub(crate) pid: i32,
    /// The file descriptor of the VM in the VMM; [`None`] means all its VMs.
    pub(crate) vm_fd: Option<u32>,
    /// The time between two inspections; [`None`] means one inspection.
    pub(crate) interval: Option<Delta>,
    /// The longest time to wait for all vCPUs to stop.
    pub(crate) freeze_timeout: Delta,
    /// What to do then.
    pub(crate) late: Late,
    /// The longest pause; [`None`] means one pause, as long as it takes.
    pub(crate) max_pause: Option<Delta>,
    /// Memory that is swapped out, or in a file, is brought in before the first pause.
    pub(crate) bring_in: bool,
    /// The most threads that search at once, the inspecting one included.
    pub(crate) threads: usize,
    /// What to search for.
    pub(crate) query: Arc<Query>,
}

/// What the report says of a pattern beside what it is.
pub(crate) struct Asked {
    /// Its prefix, without the colon.
    pub(crate) kind: &'static str,
    /// The first 64 bits of the SHA-256 digest of the pattern as it was written.
    pub(crate) digest: u64,
}

/// The limits, as the report says them.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// `max_pause_ms=`
    pub(crate) max_pause_ms: i64,
    /// `freeze_timeout_ms=`
    pub(crate) freeze_timeout_ms: i64,
    /// `interval_ms=`
    pub(crate) interval_ms: i64,
    /// How many threads may search at once.
    pub(crate) threads: usize,
    /// How many memslots to print.
    pub(crate) max_slots: usize,
    /// How many vCPUs to print.
    pub(crate) max_vcpus: usize,
    /// Whether the parameters were compared with what was written.
    pub(crate) are_checked: bool,
    /// `bring_in=`
    pub(crate) bring_in: bool,
    /// `late=`
    pub(crate) late: Late,
}

/// What to search for in memory, and what to report of it.
pub(crate) struct Query {
    /// The patterns; none if memory is not to be searched.
    pub(crate) patterns: KVVec<Pattern>,
    /// What was written for each pattern.
    pub(crate) asked: KVVec<Asked>,
    /// The guest-physical addresses to search, in ascending order, without overlap.
    pub(crate) ranges: KVVec<Range>,
    /// The most hits to keep.
    pub(crate) max_hits: usize,
    /// How many bytes to show on each side of a hit; 0 shows none, nor the hit's own.
    pub(crate) context: usize,
    /// The other limits.
    pub(crate) limits: Limits,
    /// How guest pages are read.
    pub(crate) access: Access,
    /// What scans.
    pub(crate) engine: Engine,
    /// The patterns, prepared for the engine.
    tables: KVBox<Tables>,
}

/// A search that takes so many times as long as reading the memory is slow.
const SLOW: u64 = 16;

impl Query {
    /// Prepares `patterns` for `engine`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[expect(clippy::too_many_arguments, reason = "it takes the fields")]
    pub(crate) fn new(
        patterns: KVVec<Pattern>,
        asked: KVVec<Asked>,
        ranges: KVVec<Range>,
        max_hits: usize,
        context: usize,
        limits: Limits,
        access: Access,
        engine: Engine,
    ) -> Result<Self> {
        // 4 MiB.
        let mut tables = KVBox::init(pin_init::init_zeroed::<Tables>(), GFP_KERNEL)?;
        tables.prepare(&patterns, engine, &task::cond_resched);
        Ok(Self {
            patterns,
            asked,
            ranges,
            max_hits,
            context,
            limits,
            access,
            engine,
            tables,
        })
    }

    /// Returns where to search: nowhere without patterns.
    pub(crate) fn searched_ranges(&self) -> &[Range] {
        if self.patterns.is_empty() {
            &[]
        } else {
            &self.ranges
        }
    }

    /// Returns how many times as long as reading the memory the search is expected to take, if that
    /// is much, and the pattern with the fewest given bits.
    pub(crate) fn slowness(&self) -> Option<(u64, usize, &Pattern)> {
        let times = self.tables.cost() / Tables::READING;
        let patterns = self.patterns.iter().enumerate();
        let (index, poorest) = patterns.min_by_key(|(_, pattern)| pattern.bits())?;
        (times >= SLOW).then_some((times, index, poorest))
    }

    /// Returns the scanner for the patterns.
    pub(crate) fn scanner(&self) -> Scanner<'_> {
        Scanner::of_prepared(&self.tables, &self.patterns, self.engine)
    }
}
