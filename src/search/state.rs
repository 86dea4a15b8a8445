// SPDX-License-Identifier: GPL-2.0

//! What the threads of one search share, under its lock.

use kernel::prelude::*;

use super::{
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
        Chunk,
        Queue, //
    },
    worker::Worker, //
};
use crate::{
    linux::address_space::UserMemory,
    memory::Map,
    range::Range, //
};

/// What is done, what is left to do, and with what.
pub(super) struct State {
    /// What is left to be searched.
    pub(super) queue: Queue,
    /// What the inspecting thread needs to search, while it does not.
    pub(super) own: Option<Worker>,
    /// What helping threads need, while they do not help.
    pub(super) workers: KVec<Worker>,
    /// How many threads help.
    pub(super) busy: usize,
    /// A pause is on. A thread that comes to help later must not do so.
    pub(super) in_pause: bool,
    /// How many threads have searched in this pause.
    threads: u32,
    /// How fast the search gets on, and how much time it has.
    pub(super) pace: Pace,
    /// What was found.
    pub(super) findings: Findings,
    /// The VMM has changed the memslots by the end of a pause.
    pub(super) slots_have_changed: bool,
    /// Why the search cannot go on, if so.
    pub(super) result: Result,
}

impl State {
    /// Creates the state of a search that begins.
    pub(super) fn new(queue: Queue, mut workers: KVec<Worker>, findings: Findings) -> Self {
        Self {
            queue,
            own: workers.pop(),
            workers,
            busy: 0,
            in_pause: false,
            threads: 0,
            pace: Pace::new(),
            findings,
            slots_have_changed: false,
            result: Ok(()),
        }
    }

    /// Begins a pause, which is limited by `pause`.
    pub(super) fn begin_pause(&mut self, pause: Option<Pause>) {
        self.queue.begin_pause();
        self.pace.begin(pause);
        self.threads = 0;
        self.in_pause = true;
        if let Some(coverage) = &mut self.findings.coverage {
            coverage.begin_pause();
        }
    }

    /// Notes the end of a pause. Returns how it ended.
    ///
    /// # Errors
    ///
    /// What keeps the search from going on.
    pub(super) fn end_pause(&mut self, map: &Map) -> Result<PauseOutcome> {
        self.in_pause = false;
        self.slots_have_changed |= map.has_changed();
        self.result?;
        self.findings.stats.threads = self.findings.stats.threads.max(self.threads);
        let first_left = self.queue.first_left(map);
        self.findings.stopped_at = first_left.and_then(|(slot, page)| {
            let gpa = map.slots().get(slot)?.gpa_at(page);
            Some(StoppedAt { slot, gpa })
        });
        Ok(
            if self.queue.is_empty(map, self.findings.coverage.as_ref()) {
                PauseOutcome::Complete
            } else if self.queue.has_handed_out() {
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
        let pace = self.pace;
        let coverage = self.findings.coverage.as_ref();
        let chunk = self
            .queue
            .next(map, ranges, memory, coverage, &|| stop() || pace.is_over())?;
        if chunk.again && !is_returned {
            let slot = map.slots().get(chunk.slot)?;
            self.findings.forget(&chunk, slot);
        }
        Some(chunk)
    }

    /// Counts the current thread as one that searches in this pause.
    pub(super) fn count_thread(&mut self) {
        self.threads = self.threads.saturating_add(1);
    }

    /// Notes what was found in a chunk that was searched to its end.
    pub(super) fn finish_chunk(&mut self, chunk: &Chunk) {
        self.findings.add(chunk);
        if let Some(coverage) = &mut self.findings.coverage {
            let first = chunk.end.saturating_sub(1) & !(self.queue.chunk_pages() - 1);
            let number = coverage.number(chunk.slot, first);
            let in_one_pause = chunk.begun_in == self.queue.pause();
            coverage.set_searched(number, chunk.digest.value(), chunk.hits, in_one_pause);
        }
    }

    /// Gives up the chunks that were handed back, and notes what was found in them.
    pub(super) fn give_up_returned(&mut self) -> KVec<Chunk> {
        let returned = self.queue.take_returned();
        returned.iter().for_each(|chunk| self.findings.add(chunk));
        returned
    }

    /// Takes out the findings. The search has ended.
    pub(super) fn take_findings(&mut self) -> Findings {
        let mut findings = core::mem::replace(&mut self.findings, Findings::empty());
        findings.absent_pages = findings.absent_pages.saturating_add(self.queue.absent());
        findings
    }
}
