// SPDX-License-Identifier: GPL-2.0

//! One thread's part of a search: chunk by chunk, window by window.

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    }, //
};

use super::{
    chunk::Chunk,
    digest::{
        ChunkDigest,
        Digested,
        Home,
        Mark, //
    },
    hits::{
        Hit,
        HitPlace,
        Kept, //
    },
    host::SearchingThread,
    pace::Pace, //
};
use crate::{
    kvm::Memslot,
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
    /// Asked before each window, and after each few steps, whether to stop.
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

    /// Searches what is left of a chunk, or as much of it as there is time for.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Stopped`]: time is up, or `stop` said so. The chunk knows what is left.
    /// `ENOMEM`.
    pub(super) fn search_chunk(
        &mut self,
        job: &Job<'_>,
        chunk: &mut Chunk,
        pace: &mut Pace,
    ) -> Result<(), Interrupted> {
        let slot = job.map.slots().get(chunk.extent.slot).ok_or(EINVAL)?;
        let ranges = job.query.searched_ranges();
        let pause = pace.pause();
        let stop = || (job.stop)() || pause.is_some_and(|pause| pause.is_past());
        let windows = Windows {
            map: job.map,
            ranges,
            memory: job.memory,
            neighbours: job.neighbours(),
            stop: &stop,
        };
        let Self { pages, scratch } = self;
        job.compare_mark(chunk, slot, pages)?;
        let (first, end) = (chunk.first, chunk.extent.end);
        job.map
            .for_each_stretch(ranges, slot, first, end, |plan, first, end| {
                if plan == (Plan::Private { is_asked: true }) {
                    let count = end.saturating_sub(first);
                    chunk.counts.private = chunk.counts.private.saturating_add(count);
                }
                if plan != Plan::Read {
                    chunk.go_to(end);
                    return Ok(());
                }
                windows.visit(slot, first, end, pages, |step| match step {
                    Step::Absent(absence, count) => {
                        chunk.counts.add_absent(absence, count);
                        chunk.has_got_on = true;
                        chunk.is_cut_off = false;
                        chunk.go_to(chunk.first.saturating_add(count));
                        Ok(())
                    }
                    Step::Window(window, pages) => {
                        let view = pages.view()?;
                        let searched = Searched {
                            job,
                            view: &view,
                            window,
                            home: Home::new(slot, chunk.extent.home, chunk.extent.end),
                            stop: &stop,
                        };
                        searched.search(chunk, scratch, pace)
                    }
                })
            })
    }
}

impl Chunk {
    /// Goes on at the beginning of a page.
    fn go_to(&mut self, page: u64) {
        self.first = page;
        self.offset = 0;
    }
}

impl Job<'_> {
    /// Returns which pages next to a window are read with it.
    fn neighbours(&self) -> Neighbours {
        Neighbours::ForMatches {
            with_context: self.query.context > 0,
        }
    }

    /// Compares what is now where the search of a chunk goes on with what was there when it
    /// stopped. If that is not the same, a match across the seam may be missed: the chunk is torn.
    fn compare_mark(
        &self,
        chunk: &mut Chunk,
        slot: &Memslot,
        pages: &mut HeldPages,
    ) -> Result<(), Interrupted> {
        let (Some(mark), Some(key)) = (chunk.mark.take(), self.key) else {
            return Ok(());
        };
        let source = self.map.source(slot, self.memory);
        let is_there = source.hold(mark.page, 1, pages, self.stop).is_ok();
        let now = if is_there {
            let window = Window {
                gpa: slot.gpa_at(mark.page),
                page: mark.page,
                body: 0..PAGE_SIZE,
                before: None,
                after: None,
                lacks_beside: false,
            };
            let view = pages.view()?;
            let digested = Digested {
                query: self.query,
                key,
                view: &view,
                window: &window,
            };
            Mark::new(&digested, mark.page, mark.whole, Some(0))
        } else {
            Mark::absent(mark.page, mark.whole)
        };
        pages.release();
        chunk.torn |= !mark.is(&now);
        Ok(())
    }
}

/// A window that is searched.
struct Searched<'a> {
    job: &'a Job<'a>,
    view: &'a View<'a>,
    window: &'a Window,
    /// The pages of the chunk.
    home: Home,
    /// Asked after each few steps whether to stop: time is up, or the job is to end.
    stop: &'a dyn Fn() -> bool,
}

impl Searched<'_> {
    /// Searches what is left of the window step by step, and looks at the time in between. Each
    /// step is digested just before it is searched: what changes after this will be noticed.
    fn search(
        &self,
        chunk: &mut Chunk,
        scratch: &mut Scratch,
        pace: &mut Pace,
    ) -> Result<(), Interrupted> {
        let Self { job, window, .. } = *self;
        let scanner = job.query.scanner();
        let host = SearchingThread { give_up: self.stop };
        let body = &window.body;
        let mut at = body.start.saturating_add(chunk.offset);
        chunk.lacks_beside = chunk
            .lacks_beside
            .saturating_add(u64::from(window.lacks_beside));
        chunk.begins |= window.page == chunk.extent.home;
        let is_last = window.page_at(body.end) == chunk.extent.end;
        chunk.is_cut_off = is_last && window.after.is_none();
        // Hits from here on are not kept any more.
        let mut bound = None;
        while at < body.end {
            let begun = Instant::<Monotonic>::now();
            let next = at.saturating_add(pace.bytes()).min(body.end);
            let digested = self.digest_step(chunk, at, next);
            let mut from = at;
            if at == body.start && window.follows_shared() {
                from = from.saturating_sub(scanner.longest().saturating_sub(1));
            }
            let hits = chunk.hits;
            let is_done = scanner.search(self.view, from..next, scratch, &host, |found| {
                self.found(chunk, found, &mut bound);
            });
            if !is_done {
                chunk.hits = hits;
                pace.gave_up(next - at, begun.elapsed());
                self.set_mark(chunk);
                return Err(Interrupted::Stopped);
            }
            if let Some((digest, page)) = digested {
                chunk.digest = digest;
                chunk.digested = page;
            }
            pace.searched(next - at, begun.elapsed());
            at = next;
            chunk.has_got_on = true;
            let page = window.page_at(at);
            chunk.counts.present = chunk
                .counts
                .present
                .saturating_add(page.saturating_sub(chunk.first));
            chunk.go_to(page);
            chunk.offset = (at - body.start) % PAGE_SIZE;
            if (at < body.end || page < chunk.extent.end) && pace.is_over() {
                self.set_mark(chunk);
                return Err(Interrupted::Stopped);
            }
        }
        self.set_mark(chunk);
        Ok(())
    }

    /// Returns the digest of the chunk with that of what is searched from the offset `at` to
    /// `next`, and the page up to which it goes then.
    fn digest_step(&self, chunk: &Chunk, at: usize, next: usize) -> Option<(ChunkDigest, u64)> {
        let Self { window, home, .. } = *self;
        let digested = self.digested()?;
        let mut digest = chunk.digest;
        if at == window.body.start {
            digest.add_before(&digested, home);
        }
        let end = window.page_at(next.saturating_add(PAGE_SIZE - 1));
        let first = window.page_at(at).max(chunk.digested);
        digest.add_pages(&digested, first..end);
        if next == window.body.end {
            digest.add_after(&digested, home);
        }
        Some((digest, end))
    }

    fn digested(&self) -> Option<Digested<'_>> {
        Some(Digested {
            query: self.job.query,
            key: self.job.key?,
            view: self.view,
            window: self.window,
        })
    }

    /// Notes what must still be there when the search goes on in another pause.
    fn set_mark(&self, chunk: &mut Chunk) {
        let page = chunk.first;
        let Some(digested) = self.digested().filter(|_| page < chunk.extent.end) else {
            return;
        };
        let at = usize::try_from(page.saturating_sub(self.window.page).saturating_mul(PAGE));
        let at = at.map_or(usize::MAX, |at| at.saturating_add(self.window.body.start));
        let is_held = at.saturating_add(PAGE_SIZE) <= self.view.len();
        let at = is_held.then_some(at);
        chunk.mark = Some(Mark::new(&digested, page, chunk.offset > 0, at));
    }

    /// Counts a match as a hit, and keeps it if it is one of the lowest.
    fn found(&self, chunk: &mut Chunk, found: Match, bound: &mut Option<HitPlace>) {
        let Self {
            job, view, window, ..
        } = *self;
        let query = job.query;
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
            chunk.extent.slot
        } else {
            let address_space = job.map.slots().get(chunk.extent.slot);
            let address_space = address_space.map_or(0, |slot| slot.address_space);
            job.map
                .slot_index(address_space, gpa)
                .unwrap_or(chunk.extent.slot)
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
            let copied = view.copy_safely(first, shown);
            shown.get_mut(..copied).unwrap_or_default()
        } else {
            &mut []
        };
        let hit = Hit {
            slot,
            gpa,
            pattern: found.pattern,
            before: query.context.min(found.offset),
        };
        if let Kept::OnlyBelow(highest) = (job.keep)(hit, shown) {
            *bound = Some(highest);
        }
    }
}
