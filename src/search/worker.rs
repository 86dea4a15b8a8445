// SPDX-License-Identifier: GPL-2.0

//! One thread's part of a search: chunk by chunk, window by window.

use kernel::{
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    }, //
};

use super::{
    hits::{
        Hit,
        HitPlace,
        Kept, //
    },
    host::CurrentThread,
    pace::Pace,
    queue::Chunk, //
};
use crate::{
    linux::{
        address_space::UserMemory,
        pages::{
            HeldPages,
            View, //
        }, //
    },
    memory::{
        Interrupted,
        Map,
        Neighbours,
        Plan,
        Step,
        Window,
        Windows,
        PAGE,
        WINDOW_PAGES, //
    },
    range,
    request::{
        Query,
        MAX_CONTEXT, //
    },
    scan::{
        digest::Key,
        Match,
        Memory,
        Pattern,
        Scratch,
        MAX_LEN, //
    }, //
};

/// What one thread needs to search, made before the freeze.
pub(super) struct Worker {
    /// The pages of the window at hand.
    pub(super) pages: HeldPages,
    scratch: KBox<Scratch>,
}

/// What a thread searches, and what for.
pub(super) struct Job<'a> {
    /// The guest's memory.
    pub(super) map: &'a Map,
    /// What to search for.
    pub(super) query: &'a Query,
    /// What digests are made with, if they are.
    pub(super) key: Option<&'a Key>,
    /// The VMM's memory.
    pub(super) memory: &'a UserMemory<'a>,
    /// Asked before each window whether to stop.
    pub(super) stop: &'a dyn Fn() -> bool,
    /// Keeps a hit, with the bytes to show of it, if it is one of the lowest.
    pub(super) keep: &'a dyn Fn(Hit, &[u8]) -> Kept,
}

impl Worker {
    /// Creates what a thread needs for `query`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(query: &Query) -> Result<Self> {
        Ok(Self {
            pages: HeldPages::with_capacity(WINDOW_PAGES, query.access)?,
            scratch: KBox::init(pin_init::init_zeroed::<Scratch>(), GFP_KERNEL)?,
        })
    }

    /// Returns about how many bytes of memory one has.
    pub(super) fn memory(query: &Query) -> usize {
        HeldPages::memory(WINDOW_PAGES, query.access).saturating_add(size_of::<Scratch>())
    }

    /// Searches what is left of a chunk, or as much of it as there is time for.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Stopped`] with the first page that is left: time is up, or `stop` said so.
    /// `ENOMEM`.
    pub(super) fn search_chunk(
        &mut self,
        job: &Job<'_>,
        chunk: &mut Chunk,
        pace: &mut Pace,
    ) -> Result<(), Interrupted> {
        let slot = job.map.slots().get(chunk.slot).ok_or(EINVAL)?;
        let ranges = job.query.searched_ranges();
        let windows = Windows {
            map: job.map,
            ranges,
            memory: job.memory,
            neighbours: Neighbours::ForMatches {
                with_context: job.query.context > 0,
            },
            stop: job.stop,
        };
        let Self { pages, scratch } = self;
        let (first, end) = (chunk.first, chunk.end);
        job.map
            .for_each_stretch(ranges, slot, first, end, |plan, first, end| {
                if plan != Plan::Read {
                    return Ok(());
                }
                windows.visit(slot, first, end, pages, |step| match step {
                    Step::Absent(count) => {
                        chunk.absent += count;
                        Ok(())
                    }
                    Step::Window(window, pages) => {
                        let view = pages.view()?;
                        job.add_to_digest(chunk, &view, window);
                        job.search_window(chunk, &view, window, scratch, pace)
                    }
                })
            })
    }
}

impl Job<'_> {
    /// Adds a window to the digest of its chunk, before it is searched: what changes after this
    /// will be noticed.
    fn add_to_digest(&self, chunk: &mut Chunk, view: &View<'_>, window: &Window) {
        let Some(key) = self.key else {
            return;
        };
        // The rest of a window that was searched in part was added then.
        if window.page >= chunk.digested {
            chunk.digest.add(self.query, key, view, window);
            chunk.digested = window.page.saturating_add(window.pages());
        }
    }

    /// Searches a window part by part, and looks at the time in between.
    fn search_window(
        &self,
        chunk: &mut Chunk,
        view: &View<'_>,
        window: &Window,
        scratch: &mut Scratch,
        pace: &mut Pace,
    ) -> Result<(), Interrupted> {
        let scanner = self.query.scanner();
        let mut begin = window.body.start;
        if window.follows_shared {
            let more = scanner.longest().saturating_sub(1);
            begin = begin.saturating_sub(more);
        }
        // Hits from here on are not kept any more.
        let mut bound = None;
        let (mut page, end) = (window.page, window.page.saturating_add(window.pages()));
        while page < end {
            let begun = Instant::<Monotonic>::now();
            let part = (end - page).min(pace.pages());
            page += part;
            let last = window.body.end - usize::try_from((end - page) * PAGE)?;
            scanner.search(view, begin..last, scratch, &CurrentThread, |found| {
                self.found(chunk, view, window, found, &mut bound);
            });
            begin = last;
            chunk.present += part;
            pace.searched(part, begun.elapsed());
            if page < chunk.end && pace.is_over() {
                return Err(Interrupted::Stopped { page });
            }
        }
        Ok(())
    }

    /// Counts a match as a hit, and keeps it if it is one of the lowest.
    fn found(
        &self,
        chunk: &mut Chunk,
        view: &View<'_>,
        window: &Window,
        found: Match,
        bound: &mut Option<HitPlace>,
    ) {
        let query = self.query;
        let length = query.patterns.get(found.pattern).map_or(0, Pattern::len);
        let end = found.offset.saturating_add(length);
        let gpa = window.gpa_at(found.offset);
        // Skip matches wholly in the page before: the search of address space 0 reported them.
        if end <= window.body.start
            || !range::covers(&query.ranges, gpa, window.gpa_at(end).wrapping_sub(1))
        {
            return;
        }
        chunk.hits = chunk.hits.saturating_add(1);
        let slot = if found.offset >= window.body.start {
            chunk.slot
        } else {
            let address_space = self.map.slots().get(chunk.slot);
            let address_space = address_space.map_or(0, |slot| slot.address_space);
            self.map
                .slot_index(address_space, gpa)
                .unwrap_or(chunk.slot)
        };
        if bound.is_some_and(|bound| HitPlace { slot, gpa } > bound) {
            return;
        }
        let mut around = [0; MAX_LEN + 2 * MAX_CONTEXT];
        let shown = if query.context > 0 {
            let first = found.offset.saturating_sub(query.context);
            let last = end.saturating_add(query.context).min(view.len());
            let shown = around.get_mut(..last.saturating_sub(first));
            let shown = shown.unwrap_or_default();
            view.copy(first, shown);
            shown
        } else {
            &mut []
        };
        let hit = Hit {
            slot,
            gpa,
            pattern: found.pattern,
        };
        if let Kept::OnlyBelow(highest) = (self.keep)(hit, shown) {
            *bound = Some(highest);
        }
    }
}
