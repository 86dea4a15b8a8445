// SPDX-License-Identifier: GPL-2.0

//! What the threads of one search share, under its lock.

use kernel::prelude::*;

use super::{
    chunk::{
        Chunk,
        Extent, //
    },
    findings::{
        Findings,
        PauseOutcome,
        StoppedAt, //
    },
    pace::{
        Pace,
        Pause, //
    },
    queue::{
        Ahead,
        Queue, //
    },
    worker::Worker, //
};
use crate::{
    kvm::Memslot,
    linux::{
        address_space::UserMemory,
        pages::Absence, //
    },
    memory::Map,
    range::Range, //
};

/// How often a chunk is searched once more at once, since a page beside it was just being moved.
const MAX_TRIES: u32 = 8;

/// What is done, what is left to do, and with what.
pub(super) struct State {
    /// What is left to be searched.
    pub(super) queue: Queue,
    /// What helping threads need, while they do not help.
    pub(super) workers: KVec<Worker>,
    /// The chunks that are being searched; as many as threads at most.
    out: KVec<Extent>,
    /// How many threads help in this round.
    pub(super) busy: usize,
    /// A helping thread was late once: those get too little of a CPU to help.
    pub(super) is_alone: bool,
    /// How many threads have searched in this pause.
    threads: u32,
    /// Something was searched in this pause, or passed by.
    has_got_on: bool,
    /// How fast the search gets on, and how much time it has.
    pub(super) pace: Pace,
    /// What was found.
    pub(super) findings: Findings,
    /// The VMM has changed the memslots, or only their flags.
    pub(super) slots_may_have_changed: bool,
    /// Why the search cannot go on, if so.
    pub(super) result: Result,
}

impl State {
    /// Creates the state of a search that begins.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(queue: Queue, workers: KVec<Worker>, findings: Findings) -> Result<Self> {
        Ok(Self {
            // One is the inspecting thread's.
            out: KVec::with_capacity(workers.len().saturating_add(1), GFP_KERNEL)?,
            queue,
            workers,
            busy: 0,
            is_alone: false,
            threads: 0,
            has_got_on: false,
            pace: Pace::new(),
            findings,
            slots_may_have_changed: false,
            result: Ok(()),
        })
    }

    /// Fits it to the memslots, before anything is searched. Allocates nothing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there are many more slots than were prepared for.
    pub(super) fn fit(&mut self, slots: &[Memslot]) -> Result {
        self.findings.fit(slots)?;
        if let Some(coverage) = &self.findings.coverage {
            self.queue.set_chunk_shift(coverage.chunk_shift());
        }
        Ok(())
    }

    /// Begins a pause, which is limited by `pause`.
    pub(super) fn begin_pause(&mut self, pause: Option<Pause>) {
        self.queue.begin_pause();
        self.pace.begin(pause);
        self.threads = 0;
        self.has_got_on = false;
        if let Some(coverage) = &mut self.findings.coverage {
            coverage.begin_pause();
        }
    }

    /// Takes back what helping threads are searching yet: the guest may go on before they are done,
    /// so whatever they find does not count. Nobody helps any more from now on.
    pub(super) fn take_from_late(&mut self, map: &Map, ranges: &[Range]) {
        self.is_alone = true;
        let late = u32::try_from(self.busy).unwrap_or(u32::MAX).max(1);
        let stats = &mut self.findings.stats;
        stats.late = stats.late.saturating_add(late);
        self.busy = 0;
        while let Some(extent) = self.out.pop() {
            self.findings.forget_hits(&extent, map, ranges);
            let chunk = Chunk::new(extent, self.queue.pause());
            self.queue.hand_back(chunk);
        }
    }

    /// Notes the end of a pause. Nobody is searching. Returns how it ended.
    ///
    /// # Errors
    ///
    /// What keeps the search from going on.
    pub(super) fn end_pause(&mut self, map: &Map) -> Result<PauseOutcome> {
        self.result?;
        self.findings.stats.threads = self.findings.stats.threads.max(self.threads);
        let first_left = self.queue.first_left(map);
        self.findings.stopped_at = first_left.and_then(|(slot, page)| {
            let gpa = map.slots().get(slot)?.gpa_at(page);
            Some(StoppedAt { slot, gpa })
        });
        Ok(
            if self.queue.is_empty(map, self.findings.coverage.as_ref()) {
                if let Some(coverage) = &mut self.findings.coverage {
                    coverage.tear_cut_off();
                }
                PauseOutcome::Complete
            } else if core::mem::take(&mut self.has_got_on) {
                PauseOutcome::TimeUp
            } else {
                PauseOutcome::InVain
            },
        )
    }

    /// Returns the next chunk to be searched. [`None`]: there is none, no time, or `stop` said so.
    pub(super) fn next_chunk(
        &mut self,
        map: &Map,
        ranges: &[Range],
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Option<Chunk> {
        if self.pace.is_over() {
            return None;
        }
        // The queue hands these out first, and they are forgotten already.
        let is_returned = self.queue.has_returned();
        let pause = self.pace.pause();
        let give_up = || stop() || pause.is_some_and(|pause| pause.is_past());
        let ahead = Ahead {
            map,
            ranges,
            memory,
            give_up: &give_up,
        };
        let chunk = self.queue.next(&ahead, &mut self.findings);
        self.has_got_on |= self.queue.take_has_passed_by();
        let chunk = chunk?;
        if chunk.extent.again && !is_returned {
            self.findings.forget(&chunk.extent, map, ranges);
        }
        // There is room for one of each thread.
        let _ = self.out.push_within_capacity(chunk.extent);
        Some(chunk)
    }

    /// Takes over what was found in a chunk, searched to its end or not, that was handed out in
    /// this round.
    pub(super) fn finish(&mut self, mut chunk: Chunk, is_done: bool, map: &Map, ranges: &[Range]) {
        if let Some(at) = self.out.iter().position(|out| *out == chunk.extent) {
            let _ = self.out.remove(at);
        }
        self.has_got_on |= core::mem::take(&mut chunk.has_got_on);
        if is_done && chunk.lacks_beside > 0 && chunk.tries < MAX_TRIES {
            self.findings.forget_hits(&chunk.extent, map, ranges);
            let tries = chunk.tries.saturating_add(1);
            let again = Chunk::new(chunk.extent, self.queue.pause());
            self.queue.hand_back(Chunk { tries, ..again });
        } else if is_done {
            if chunk.lacks_beside > 0 && self.findings.coverage.is_some() {
                chunk.torn = true;
                chunk.lacks_beside = 0;
            }
            self.findings.add(&chunk);
            let at_once = chunk.begun_in == self.queue.pause();
            self.findings.set_searched(&chunk, at_once);
        } else {
            // A step that was given up may have found some already, and will find them again.
            self.findings.forget_hits_after(&chunk, map, ranges);
            self.queue.hand_back(chunk);
        }
    }

    /// Counts the current thread as one that searches in this pause.
    pub(super) fn count_thread(&mut self) {
        self.threads = self.threads.saturating_add(1);
    }

    /// Gives up the chunks that were handed back, and notes what was found in them.
    pub(super) fn give_up_returned(&mut self) -> KVec<Chunk> {
        let returned = self.queue.take_returned();
        returned.iter().for_each(|chunk| self.findings.add(chunk));
        returned
    }

    /// Takes out the findings. The search has ended.
    pub(super) fn take_findings(&mut self, map: &Map, ranges: &[Range]) -> Findings {
        let mut findings = core::mem::replace(&mut self.findings, Findings::empty());
        let mut missing = 0_u64;
        // Pages of a slot that has changed, or that there was no time to look at.
        for (counts, slot) in findings.pages.iter_mut().zip(map.slots()) {
            let unknown = slot.pages.saturating_sub(counts.all());
            counts.add_absent(Absence::Unreadable, unknown);
            if !ranges.is_empty() {
                missing = missing.saturating_add(unknown);
            }
        }
        findings.missing_pages = findings.missing_pages.saturating_add(missing);
        let kept = u64::try_from(findings.hits.len()).unwrap_or(0);
        findings.hit_count = findings.hit_count.max(kept);
        findings
    }
}
