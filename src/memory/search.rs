// SPDX-License-Identifier: GPL-2.0

//! The search of one VM's memory, by several threads at once: the inspecting one, and those of the
//! vCPUs, which stand and have nothing else to do.
//!
//! Memory is handed out in chunks. A thread that is killed, or has no time left in the pause, hands
//! back what it has not searched.
//!
//! Lock order: [`Search::state`], in which page tables are read, and nothing else is taken.

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        CondVar,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use super::{
    coverage::{
        Coverage,
        CHUNK_SHIFT, //
    },
    hits::{
        Hit,
        Hits, //
    },
    pace::{
        Pace,
        Pause, //
    },
    plan::Plan,
    window::{
        Met,
        Neighbours,
        Window,
        Windows,
        WINDOW_PAGES, //
    },
    Findings,
    Interrupted,
    Left,
    Map,
    PAGE, //
};
use crate::{
    address_space::UserMemory,
    fpu,
    kvm::Memslot,
    pages::{
        HeldPages,
        View, //
    },
    parameters::{
        Wanted,
        MAX_CONTEXT, //
    },
    process, random, range,
    scan::{
        digest,
        Match,
        Memory,
        Pattern,
        Piece,
        Scratch,
        MAX_LEN, //
    },
};

/// The most memory that a search needs, but for what is proportional to the number of memslots.
const MEMORY: usize = 7 << 20;

/// How much of it may be asked for to know what is covered, if hits leave so much.
const COVERAGE_MEMORY: usize = 3 << 20;

/// What is needed for a search, made ready before the guest stands still.
pub(crate) struct Prepared {
    hits: Hits,
    workers: KVec<Worker>,
    coverage: Option<Coverage>,
    key: Option<KBox<digest::Key>>,
}

impl Prepared {
    /// For a search of about the memory in `slots` by at most `threads` threads. `in_pauses`: it
    /// may take several.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        wanted: &Wanted,
        slots: &[Memslot],
        threads: usize,
        in_pauses: bool,
    ) -> Result<Self> {
        let hits = Hits::with_room_for(wanted)?;
        let mut workers = KVec::with_capacity(threads, GFP_KERNEL)?;
        for _ in 0..threads {
            workers.push(Worker::new(wanted)?, GFP_KERNEL)?;
        }
        let (mut coverage, mut key) = (None, None);
        if in_pauses {
            let workers = threads.saturating_mul(Worker::memory(wanted));
            let left = MEMORY.saturating_sub(hits.memory().saturating_add(workers));
            coverage = Some(Coverage::of(slots, left.min(COVERAGE_MEMORY))?);
            key = Some(random_key()?);
        }
        Ok(Self {
            hits,
            workers,
            coverage,
            key,
        })
    }
}

/// A key that no guest can know: otherwise it could change its memory and keep the digest.
fn random_key() -> Result<KBox<digest::Key>> {
    let mut key = KBox::init(pin_init::init_zeroed::<digest::Key>(), GFP_KERNEL)?;
    key.fill(random::fill);
    Ok(key)
}

/// What one thread needs to search.
struct Worker {
    pages: HeldPages,
    scratch: KBox<Scratch>,
}

impl Worker {
    fn new(wanted: &Wanted) -> Result<Self> {
        Ok(Self {
            pages: HeldPages::with_capacity(WINDOW_PAGES, wanted.access)?,
            scratch: KBox::init(pin_init::init_zeroed::<Scratch>(), GFP_KERNEL)?,
        })
    }

    /// About how many bytes of memory one has.
    fn memory(wanted: &Wanted) -> usize {
        HeldPages::memory(WINDOW_PAGES, wanted.access).saturating_add(size_of::<Scratch>())
    }
}

/// The search of one VM's memory.
#[pin_data]
pub(crate) struct Search {
    map: Map,
    wanted: Arc<Wanted>,
    /// What digests are made with, if they are.
    key: Option<KBox<digest::Key>>,
    /// The most pages that are handed out at once, a power of two.
    chunk_pages: u64,
    /// All threads are to end.
    stopped: Atomic<bool>,
    #[pin]
    state: Mutex<State>,
    /// Notified when nobody searches any more.
    #[pin]
    idle: CondVar,
}

/// What is done, and what is left to do.
struct State {
    ahead: Ahead,
    /// What threads have left that were killed, or had no time for it. It goes before all else, so
    /// that there are never more than threads, for each of which there is room.
    returned: KVec<Chunk>,
    /// What the inspecting thread needs to search, while it does not.
    own: Option<Worker>,
    /// What those need that help, while they do not.
    workers: KVec<Worker>,
    /// How many of those help.
    busy: usize,
    /// The guest stands, for this search. A thread that comes to help too late must not do so.
    stands: bool,
    /// How many threads have searched in this pause, and in the one with the most.
    threads: (u32, u32),
    /// How many chunks were handed out in this pause.
    handed_out: u64,
    /// The number of this pause, the first of which is 1.
    pause: u32,
    pace: Pace,
    /// How long threads have searched, as seen by the inspecting one.
    time: Delta,
    findings: Findings,
    coverage: Option<Coverage>,
    /// The VMM has changed the memslots by the end of a pause.
    slots_have_changed: bool,
    result: Result,
}

/// What is handed out next.
#[derive(Clone, Copy)]
enum Ahead {
    /// All from this page of this slot on.
    All { slot: usize, page: u64 },
    /// What has changed, from this chunk on.
    Changed { chunk: usize },
}

/// Some pages of a slot, which one thread searches.
struct Chunk {
    slot: usize,
    first: u64,
    end: u64,
    /// It was searched before.
    again: bool,
    /// The number of the pause in which this search of it began.
    begun_in: u32,
    /// What has been found out about it so far.
    digest: Digest,
    /// The page up to which its memory is part of that.
    digested: u64,
    hits: u32,
    present: u64,
    absent: u64,
}

impl Chunk {
    fn new(slot: usize, first: u64, end: u64, again: bool, begun_in: u32) -> Self {
        Self {
            slot,
            first,
            end,
            again,
            begun_in,
            digest: Digest::default(),
            digested: first,
            hits: 0,
            present: 0,
            absent: 0,
        }
    }
}

/// The digest of a chunk, made of those of its windows and their places.
#[derive(Clone, Copy, Default)]
struct Digest(u64);

impl Digest {
    /// Adds a window. The products keep the places of windows apart; that no other content gives
    /// the same is what the digests of the windows are for, which nobody can foresee.
    fn add(&mut self, page: u64, digest: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let placed = digest ^ page.wrapping_add(1).wrapping_mul(ODD);
        self.0 = self
            .0
            .rotate_left(23)
            .wrapping_mul(ODD)
            .wrapping_add(placed);
    }
}

/// How a pause ended for the search.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All that was to be searched has been.
    Complete,
    /// Time was up, after some memory was searched.
    Some,
    /// Time was up before any was.
    None,
}

impl Search {
    /// A search of the memory of `map`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(map: Map, wanted: Arc<Wanted>, prepared: Prepared) -> Result<Arc<Self>> {
        let Prepared {
            hits,
            mut workers,
            mut coverage,
            key,
        } = prepared;
        if let Some(coverage) = &mut coverage {
            coverage.fit(map.slots())?;
        }
        let chunk_shift = coverage.as_ref().map_or(CHUNK_SHIFT, Coverage::chunk_shift);
        let state = State {
            ahead: Ahead::All { slot: 0, page: 0 },
            returned: KVec::with_capacity(workers.len(), GFP_KERNEL)?,
            own: workers.pop(),
            workers,
            busy: 0,
            stands: false,
            threads: (0, 0),
            handed_out: 0,
            pause: 0,
            pace: Pace::new(),
            time: Delta::ZERO,
            findings: Findings::new(hits, map.slots().len())?,
            coverage,
            slots_have_changed: false,
            result: Ok(()),
        };
        Arc::pin_init(
            pin_init!(Self {
                map,
                wanted,
                key,
                chunk_pages: 1 << chunk_shift,
                stopped: Atomic::new(false),
                state <- new_mutex!(state, "kvm_inspect::Search::state"),
                idle <- new_condvar!("kvm_inspect::Search::idle"),
            }),
            GFP_KERNEL,
        )
    }

    /// The guest's memory.
    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    /// Searches in the current thread, a vCPU's that stands, until there is nothing left to be
    /// handed out, or it is being killed.
    pub(crate) fn help(&self) {
        UserMemory::of_current(self.map.vm().mm(), |memory| {
            let mut state = self.state.lock();
            if !state.stands {
                return;
            }
            let Some(mut worker) = state.workers.pop() else {
                return;
            };
            state.busy += 1;
            drop(state);
            let stop = process::current_is_being_killed;
            self.work(&mut worker, memory, &stop, &mut false);
            let mut state = self.state.lock();
            // There is room: it came from there.
            let _ = state.workers.push_within_capacity(worker);
            state.busy -= 1;
            if state.busy == 0 {
                self.idle.notify_all();
            }
        });
    }

    /// Begins a pause, which may take `most` from `since` on.
    pub(crate) fn begin_pause(&self, since: Instant<Monotonic>, most: Option<Delta>) {
        let mut state = self.state.lock();
        state.pause = state.pause.saturating_add(1);
        state.pace.begin(most.map(|most| Pause { since, most }));
        state.threads.0 = 0;
        state.handed_out = 0;
        state.stands = true;
        if let Some(coverage) = &mut state.coverage {
            coverage.begin_pause();
        }
    }

    /// Searches in this pause, with all who help, while the guest stands.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Stopped`] if `stop` said so. Whatever kept memory from being read.
    pub(crate) fn run(
        &self,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Progress, Interrupted> {
        let begun = Instant::<Monotonic>::now();
        let stop = || {
            let stop = stop();
            if stop {
                self.stopped.store(true, Relaxed);
            }
            stop
        };
        let mut worker = self.take_own()?;
        let mut has_worked = false;
        loop {
            self.work(&mut worker, memory, &stop, &mut has_worked);
            let mut state = self.state.lock();
            while state.busy > 0 {
                let _ = self
                    .idle
                    .wait_interruptible_timeout(&mut state, msecs_to_jiffies(10));
                stop();
            }
            let stopped = self.stopped.load(Relaxed);
            if state.returned.is_empty() || stopped || state.pace.is_over() {
                state.own = Some(worker);
                state.stands = false;
                state.time += begun.elapsed();
                return self.end_pause(&mut state, stopped);
            }
        }
    }

    /// What the inspecting thread needs, which is to give it back.
    fn take_own(&self) -> Result<Worker> {
        self.state.lock().own.take().ok_or(EBUSY)
    }

    fn end_pause(&self, state: &mut State, stopped: bool) -> Result<Progress, Interrupted> {
        state.slots_have_changed |= self.map.has_changed();
        state.result?;
        state.threads.1 = state.threads.1.max(state.threads.0);
        let left = match state.ahead {
            Ahead::All { slot, page } => {
                let ahead = self.map.slots().get(slot).map(|_| (slot, page));
                let returned = state.returned.iter().map(|chunk| (chunk.slot, chunk.first));
                Iterator::chain(returned, ahead).min()
            }
            Ahead::Changed { .. } => None,
        };
        state.findings.left = left.and_then(|(slot, page)| {
            let gpa = self.map.slots().get(slot)?.gpa_at(page);
            Some(Left { slot, gpa })
        });
        let changed = |chunk| state.coverage.as_ref()?.next_changed(chunk);
        let is_complete = match state.ahead {
            Ahead::All { .. } => left.is_none(),
            Ahead::Changed { chunk } => state.returned.is_empty() && changed(chunk).is_none(),
        };
        if stopped {
            Err(Interrupted::Stopped { page: 0 })
        } else if is_complete {
            Ok(Progress::Complete)
        } else if state.handed_out > 0 {
            Ok(Progress::Some)
        } else {
            Ok(Progress::None)
        }
    }

    /// Searches chunk after chunk. A thread counts once in a pause: `has_worked` says whether it has
    /// been counted.
    fn work(
        &self,
        worker: &mut Worker,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
        has_worked: &mut bool,
    ) {
        let stop = || stop() || self.stopped.load(Relaxed);
        while let Some((mut chunk, mut pace)) = self.next_chunk(memory, &stop) {
            let result = self.search_chunk(worker, memory, &mut chunk, &mut pace, &stop);
            let mut state = self.state.lock();
            state.threads.0 += u32::from(!*has_worked);
            *has_worked = true;
            state.pace = pace;
            match result {
                Ok(()) => state.finish(&chunk, self.chunk_pages),
                Err(Interrupted::Stopped { page }) => {
                    chunk.first = page;
                    // There is room for one of each thread.
                    let _ = state.returned.push_within_capacity(chunk);
                }
                Err(Interrupted::Error(error)) => {
                    state.result = Err(error);
                    self.stopped.store(true, Relaxed);
                }
            }
        }
    }

    /// The next chunk to be searched, unless there is none, or no time for it.
    fn next_chunk(
        &self,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Option<(Chunk, Pace)> {
        if stop() {
            return None;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.pace.is_over() {
            return None;
        }
        let mut chunk = state.returned.pop();
        if chunk.is_none() {
            chunk = match state.ahead {
                Ahead::All { slot, page } => {
                    let (chunk, ahead) = self.next_of_all(memory, slot, page, state, stop);
                    state.ahead = ahead;
                    chunk
                }
                Ahead::Changed { chunk } => self.next_changed(chunk, state),
            };
        }
        state.handed_out += u64::from(chunk.is_some());
        chunk.map(|chunk| (chunk, state.pace))
    }

    /// The next chunk from page `page` of slot `slot` on with something to be searched, and what
    /// comes after it. What is not there is passed by, and counted.
    fn next_of_all(
        &self,
        memory: &UserMemory<'_>,
        mut slot: usize,
        mut page: u64,
        state: &mut State,
        stop: &dyn Fn() -> bool,
    ) -> (Option<Chunk>, Ahead) {
        while let Some(memslot) = self.map.slots().get(slot) {
            if page >= memslot.pages {
                slot += 1;
                page = 0;
                continue;
            }
            let (plan, pages) = self.map.plan(&self.wanted, memslot, memslot.gpa_at(page));
            let pages = pages.min(memslot.pages - page);
            if plan != Plan::Search {
                page += pages;
                continue;
            }
            let absent = absent(memory, memslot, page, pages);
            if absent > 0 {
                state.findings.absent_pages += absent;
                page += absent;
                if stop() || state.pace.is_over() {
                    break;
                }
                // There may be very much that is not there.
                process::yield_cpu();
                continue;
            }
            let end = (page | (self.chunk_pages - 1)).saturating_add(1);
            let end = end.min(memslot.pages);
            let chunk = Chunk::new(slot, page, end, false, state.pause);
            return (Some(chunk), Ahead::All { slot, page: end });
        }
        (None, Ahead::All { slot, page })
    }

    /// The next chunk from `chunk` on that has changed. What was found in it is forgotten.
    fn next_changed(&self, chunk: usize, state: &mut State) -> Option<Chunk> {
        let coverage = state.coverage.as_ref()?;
        let chunk = coverage.next_changed(chunk)?;
        let (slot, first) = coverage.place(chunk);
        let memslot = self.map.slots().get(slot)?;
        let end = first.saturating_add(self.chunk_pages).min(memslot.pages);
        let hits = u64::from(coverage.hits(chunk));
        state.findings.hit_count = state.findings.hit_count.saturating_sub(hits);
        let last = memslot.gpa_at(end).wrapping_sub(1);
        let hits = &mut state.findings.hits;
        hits.forget(slot, memslot.gpa_at(first), last);
        state.ahead = Ahead::Changed { chunk: chunk + 1 };
        Some(Chunk::new(slot, first, end, true, state.pause))
    }

    /// Searches what is left of a chunk, or as much of it as there is time for.
    fn search_chunk(
        &self,
        worker: &mut Worker,
        memory: &UserMemory<'_>,
        chunk: &mut Chunk,
        pace: &mut Pace,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Interrupted> {
        let slots = self.map.slots();
        let slot = slots.get(chunk.slot).ok_or(EINVAL)?;
        let windows = Windows {
            map: &self.map,
            wanted: &self.wanted,
            memory,
            neighbours: Neighbours::ForMatches,
            stop,
        };
        let Worker { pages, scratch } = worker;
        let wanted = &self.wanted;
        let (first, end) = (chunk.first, chunk.end);
        self.map
            .for_each_stretch(wanted, slot, first, end, |plan, first, end| {
                if plan != Plan::Search {
                    return Ok(());
                }
                windows.visit(slot, first, end, pages, |met| match met {
                    Met::Absent(count) => {
                        chunk.absent += count;
                        Ok(())
                    }
                    Met::Window(window, pages) => {
                        let view = pages.view()?;
                        if let Some(key) = &self.key {
                            // Before it is searched: what changes after this will be noticed. The
                            // rest of one that was searched in part was looked at then.
                            if window.page >= chunk.digested {
                                chunk
                                    .digest
                                    .add(window.page, self.digest(key, &view, window));
                                chunk.digested = window.page.saturating_add(window.pages());
                            }
                        }
                        self.search_window(chunk, &view, window, scratch, pace)
                    }
                })
            })
    }

    fn search_window(
        &self,
        chunk: &mut Chunk,
        view: &View<'_>,
        window: &Window,
        scratch: &mut Scratch,
        pace: &mut Pace,
    ) -> Result<(), Interrupted> {
        let searcher = self.wanted.searcher();
        let mut begin = window.own.start;
        if window.follows_seen {
            let more = searcher.longest().saturating_sub(1);
            begin = begin.saturating_sub(more);
        }
        // Hits from here on are not kept any more.
        let mut bound = None;
        let (mut page, end) = (window.page, window.page.saturating_add(window.pages()));
        while page < end {
            let begun = Instant::<Monotonic>::now();
            let part = (end - page).min(pace.pages());
            page += part;
            let last = window.own.end - usize::try_from((end - page) * PAGE)?;
            searcher.search(view, begin..last, scratch, &fpu::Thread, |found| {
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

    /// Counts a match, and keeps it if it is one of the lowest.
    fn found(
        &self,
        chunk: &mut Chunk,
        view: &View<'_>,
        window: &Window,
        found: Match,
        bound: &mut Option<(usize, u64)>,
    ) {
        let wanted = &*self.wanted;
        let length = wanted.patterns.get(found.pattern).map_or(0, Pattern::len);
        let end = found.offset.saturating_add(length);
        let gpa = window.gpa_at(found.offset);
        // One that is not in its place searched, but not one that is there whole: that was found
        // outside SMM.
        if end <= window.own.start
            || !range::covers(&wanted.ranges, gpa, window.gpa_at(end).wrapping_sub(1))
        {
            return;
        }
        chunk.hits = chunk.hits.saturating_add(1);
        let slot = if found.offset >= window.own.start {
            chunk.slot
        } else {
            let address_space = self.map.slots().get(chunk.slot);
            let address_space = address_space.map_or(0, |slot| slot.address_space);
            self.map
                .slot_index(address_space, gpa)
                .unwrap_or(chunk.slot)
        };
        if bound.is_some_and(|bound| (slot, gpa) > bound) {
            return;
        }
        let mut around = [0; MAX_LEN + 2 * MAX_CONTEXT];
        let shown = if wanted.context > 0 {
            let first = found.offset.saturating_sub(wanted.context);
            let last = end.saturating_add(wanted.context).min(view.len());
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
        let mut state = self.state.lock();
        if let Err(highest) = state.findings.hits.add(hit, shown) {
            *bound = Some(highest);
        }
    }

    fn digest(&self, key: &digest::Key, view: &View<'_>, window: &Window) -> u64 {
        let own = Own { view, window };
        self.wanted.digest(key, &own)
    }

    /// Looks whether all that was searched still is what was searched, while the guest runs.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub(crate) fn compare(
        &self,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Interrupted> {
        let mut worker = self.take_own()?;
        let result = self.compare_all(&mut worker, memory, stop);
        let mut state = self.state.lock();
        state.own = Some(worker);
        state.ahead = Ahead::Changed { chunk: 0 };
        result
    }

    fn compare_all(
        &self,
        worker: &mut Worker,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Interrupted> {
        let (Some(key), slots) = (&self.key, self.map.slots()) else {
            return Ok(());
        };
        let windows = Windows {
            map: &self.map,
            wanted: &self.wanted,
            memory,
            neighbours: Neighbours::None,
            stop,
        };
        for (index, slot) in slots.iter().enumerate() {
            let mut first = 0;
            while first < slot.pages {
                let end = first.saturating_add(self.chunk_pages).min(slot.pages);
                let mut digest = Digest::default();
                let wanted = &self.wanted;
                let pages = &mut worker.pages;
                self.map
                    .for_each_stretch(wanted, slot, first, end, |plan, first, end| {
                        if plan != Plan::Search {
                            return Ok(());
                        }
                        windows.visit(slot, first, end, pages, |met| {
                            if let Met::Window(window, pages) = met {
                                let view = pages.view()?;
                                digest.add(window.page, self.digest(key, &view, window));
                            }
                            Ok(())
                        })
                    })?;
                let mut state = self.state.lock();
                if let Some(coverage) = &mut state.coverage {
                    coverage.compare(coverage.number(index, first), digest.0);
                }
                drop(state);
                process::yield_cpu();
                first = end;
            }
        }
        Ok(())
    }

    /// Counts the pages of what was not searched, unless `stop` says so. The guest may run
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub(crate) fn count(
        &self,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Interrupted> {
        // This is the last that is done.
        let mut worker = self.take_own()?;
        let windows = Windows {
            map: &self.map,
            wanted: &self.wanted,
            memory,
            neighbours: Neighbours::None,
            stop,
        };
        let (returned, ahead) = {
            let mut state = self.state.lock();
            (state.give_up_returned(), state.ahead)
        };
        for (index, slot) in self.map.slots().iter().enumerate() {
            let (mut present, mut absent, mut private) = (0, 0, 0);
            let pages = &mut worker.pages;
            let mut visit = |first, end| {
                windows.visit(slot, first, end, pages, |met| {
                    match met {
                        Met::Absent(count) => absent += count,
                        Met::Window(window, _) => present += window.pages(),
                    }
                    process::yield_cpu();
                    Ok(())
                })
            };
            let searched_to = match ahead {
                Ahead::All { slot: next, page } if index == next => page,
                Ahead::All { slot: next, .. } if index > next => 0,
                _ => slot.pages,
            };
            let result =
                self.map
                    .for_each_stretch(&self.wanted, slot, 0, slot.pages, |plan, first, end| {
                        match plan {
                            Plan::Search => {
                                let chunks = returned.iter().filter(|chunk| chunk.slot == index);
                                for chunk in chunks.filter(|chunk| !chunk.again) {
                                    visit(first.max(chunk.first), end.min(chunk.end))?;
                                }
                                visit(first.max(searched_to), end)
                            }
                            Plan::Private => {
                                private += end - first;
                                Ok(())
                            }
                            _ => visit(first, end),
                        }
                    });
            let mut state = self.state.lock();
            let findings = &mut state.findings;
            findings.absent_pages = findings.absent_pages.saturating_add(absent);
            findings.private_pages = findings.private_pages.saturating_add(private);
            findings.add_present(index, present);
            result?;
        }
        Ok(())
    }

    /// Whether the VMM had changed the memslots by the end of a pause.
    pub(crate) fn slots_have_changed(&self) -> bool {
        self.state.lock().slots_have_changed
    }

    /// Whether something that was searched in several pauses is not covered in one instant.
    pub(crate) fn has_uncovered(&self) -> bool {
        let state = self.state.lock();
        let coverage = state.coverage.as_ref();
        coverage.is_some_and(|coverage| coverage.next_uncovered(0).is_some())
    }

    /// Calls `visit` with the memory that is not covered in one instant, in order: the index of its
    /// slot, the numbers of its first page there and of the last one, and one more.
    pub(crate) fn for_each_uncovered(&self, mut visit: impl FnMut(usize, u64, u64)) {
        let state = self.state.lock();
        let Some(coverage) = &state.coverage else {
            return;
        };
        let mut run: Option<(usize, u64, u64)> = None;
        let mut at = 0;
        while let Some(chunk) = coverage.next_uncovered(at) {
            let (slot, first) = coverage.place(chunk);
            let pages = self.map.slots().get(slot).map_or(0, |slot| slot.pages);
            let end = first.saturating_add(self.chunk_pages).min(pages);
            run = match run {
                Some((of, begin, before)) if (of, before) == (slot, first) => {
                    Some((of, begin, end))
                }
                other => {
                    if let Some((slot, first, end)) = other {
                        visit(slot, first, end);
                    }
                    Some((slot, first, end))
                }
            };
            at = chunk + 1;
        }
        if let Some((slot, first, end)) = run {
            visit(slot, first, end);
        }
    }

    /// What was found. Nobody searches any more.
    pub(crate) fn with_findings<R>(&self, read: impl FnOnce(&Findings, Figures) -> R) -> R {
        let state = self.state.lock();
        let figures = Figures {
            threads: state.threads.1,
            time: state.time,
        };
        read(&state.findings, figures)
    }
}

/// How memory was searched.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// The most threads that searched in one pause.
    pub(crate) threads: u32,
    /// How long they did while the guest stood.
    pub(crate) time: Delta,
}

impl State {
    /// Notes what was found out about a chunk that is searched to its end.
    fn finish(&mut self, chunk: &Chunk, chunk_pages: u64) {
        self.add(chunk);
        if let Some(coverage) = &mut self.coverage {
            let first = chunk.end.saturating_sub(1) & !(chunk_pages - 1);
            let number = coverage.number(chunk.slot, first);
            let at_once = chunk.begun_in == self.pause;
            coverage.set_searched(number, chunk.digest.0, chunk.hits, at_once);
        }
    }

    /// Takes what was handed back and will not be searched to its end, of which it notes what was.
    fn give_up_returned(&mut self) -> KVec<Chunk> {
        let returned = core::mem::take(&mut self.returned);
        returned.iter().for_each(|chunk| self.add(chunk));
        returned
    }

    fn add(&mut self, chunk: &Chunk) {
        let findings = &mut self.findings;
        let bytes = chunk.present.saturating_mul(PAGE);
        if chunk.again {
            findings.rescanned_bytes = findings.rescanned_bytes.saturating_add(bytes);
        } else {
            findings.scanned_bytes = findings.scanned_bytes.saturating_add(bytes);
            findings.absent_pages = findings.absent_pages.saturating_add(chunk.absent);
            findings.add_present(chunk.slot, chunk.present);
        }
        findings.hit_count = findings.hit_count.saturating_add(u64::from(chunk.hits));
    }
}

/// How many of `pages` pages from page `page` of a slot on are known not to be there.
fn absent(memory: &UserMemory<'_>, slot: &Memslot, page: u64, pages: u64) -> u64 {
    let (Ok(hva), Ok(pages)) = (usize::try_from(slot.hva_at(page)), usize::try_from(pages)) else {
        return 0;
    };
    u64::try_from(memory.absent(hva, pages)).unwrap_or(0)
}

/// What a window is about, without its neighbours.
struct Own<'a> {
    view: &'a View<'a>,
    window: &'a Window,
}

impl Memory for Own<'_> {
    fn len(&self) -> usize {
        self.window.own.len()
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        let piece = self.view.piece(self.window.own.start.saturating_add(at));
        piece.up_to(self.len().saturating_sub(at))
    }
}
