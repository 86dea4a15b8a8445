// SPDX-License-Identifier: GPL-2.0

//! The search of one VM's memory, by several threads at once: the inspecting one, and those of the
//! vCPUs, which are parked and have nothing else to do.
//!
//! Memory is handed out in chunks ([`queue`]). A thread searches its chunk window by window
//! ([`worker`]); each match is found by whoever searches the page in which it begins. A thread that
//! is killed, or has no time left in the pause, hands back what it has not searched. One that is
//! late, since it gets no CPU, is not waited for: its chunk is searched by somebody else.
//!
//! If a pause may not last as long as the search, there are several, and what has changed since it
//! was searched is searched again ([`verify`], [`coverage`]). What is only counted is counted when
//! the guest runs again ([`count`]).
//!
//! Lock order: [`Search::own`], then [`Search::state`], under which page tables are read and
//! `kvm->srcu` is entered, and nothing else is taken. Who holds that may lose its CPU. So in a
//! pause the inspecting thread only tries it, and lets the guest go on in time without it.

mod chunk;
mod count;
mod coverage;
mod digest;
mod findings;
mod hits;
pub(crate) mod host;
mod pace;
mod queue;
mod state;
mod verify;
mod worker;

use core::{
    cell::Cell,
    hint::spin_loop, //
};

use kernel::{
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        MutexGuard, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use self::{
    count::Left,
    coverage::Coverage,
    hits::Kept,
    pace::Pause,
    queue::Queue,
    state::State,
    worker::{
        Job,
        Worker, //
    }, //
};

use crate::{
    kvm::{
        Memslot,
        Memslots, //
    },
    linux::{
        address_space::{
            Patience,
            UserMemory, //
        },
        task, //
    },
    memory::{
        Interrupted,
        Map,
        Neighbours,
        Windows, //
    },
    park::ParkedWork,
    progress::Progress,
    request::{
        Query,
        MAX_CONTEXT, //
    },
    scan::{
        digest::Key,
        MAX_LEN, //
    }, //
};

pub(crate) use self::{
    digest::random_key,
    findings::{
        Findings,
        PauseOutcome, //
    },
    hits::{
        Hit,
        Hits, //
    }, //
};

// A match that begins in a window, and its context, end in the page after it.
const _: () = assert!(MAX_LEN + MAX_CONTEXT <= PAGE_SIZE);

/// How much memory may be used to know what is covered, but for what is proportional to the number
/// of memslots. With more guest memory than about 45 GiB, chunks are larger.
const COVERAGE_MEMORY: usize = 10 << 20;

/// How long to wait before the next look at what another thread may have done.
const POLL: Delta = Delta::from_micros(50);

/// How long a helping thread may do nothing in a pause without limit before it counts as late.
const LATE_AFTER: Delta = Delta::from_secs(10);

/// What a search needs, made before the freeze.
pub(crate) struct Prepared {
    state: State,
    own: Own,
    key: Option<KBox<Key>>,
}

impl Prepared {
    /// Prepares a search of about the memory in `slots` by at most `threads` threads. `in_pauses`:
    /// it may take several pauses.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        query: &Query,
        slots: &[Memslot],
        threads: usize,
        in_pauses: bool,
    ) -> Result<Self> {
        let hits = Hits::with_room_for(query)?;
        let helpers = threads.saturating_sub(1);
        let mut workers = KVec::with_capacity(helpers, GFP_KERNEL)?;
        for _ in 0..helpers {
            workers.push(Worker::new(query)?, GFP_KERNEL)?;
        }
        let (mut coverage, mut key) = (None, None);
        if in_pauses {
            coverage = Some(Coverage::of(slots, COVERAGE_MEMORY)?);
            key = Some(digest::random_key()?);
        }
        let queue = Queue::new(threads)?;
        let findings = Findings::new(hits, slots.len(), coverage)?;
        Ok(Self {
            state: State::new(queue, workers, findings)?,
            own: Own {
                worker: Worker::new(query)?,
                pause: None,
                is_cut_off: false,
                took: Delta::ZERO,
            },
            key,
        })
    }
}

/// The search of one VM's memory.
#[pin_data]
pub(crate) struct Search {
    map: Arc<Map>,
    query: Arc<Query>,
    progress: Arc<Progress>,
    /// What digests are made with, if they are.
    key: Option<KBox<Key>>,
    /// All threads are to end.
    stopped: Atomic<bool>,
    patience: Patience,
    /// Odd while threads may help. Who began to when it was another number brings nothing any more.
    round: Atomic<u32>,
    #[pin]
    own: Mutex<Own>,
    #[pin]
    state: Mutex<State>,
}

/// What the inspecting thread needs to search. Only that takes the lock, for as long as it likes.
struct Own {
    worker: Worker,
    /// This pause, if it is limited.
    pause: Option<Pause>,
    /// The pause ended without the lock of the state, which somebody has who is late.
    is_cut_off: bool,
    /// How long the search took in this pause.
    took: Delta,
}

/// Returns whether threads may help in this round.
fn is_open(round: u32) -> bool {
    round % 2 == 1
}

impl Search {
    /// Creates the search of the memory in `map`. Allocates little, since the guest stands.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        map: Arc<Map>,
        query: Arc<Query>,
        progress: Arc<Progress>,
        prepared: Prepared,
    ) -> Result<Arc<Self>> {
        let Prepared {
            mut state,
            own,
            key,
        } = prepared;
        state.fit(map.slots())?;
        Arc::pin_init(
            pin_init!(Self {
                map,
                query,
                progress,
                key,
                stopped: Atomic::new(false),
                patience: Patience::new(),
                round: Atomic::new(0),
                own <- new_mutex!(own, "kvm_inspect::Search::own"),
                state <- new_mutex!(state, "kvm_inspect::Search::state"),
            }),
            task::gfp_paused(),
        )
    }

    /// Returns how patient threads are with the VMM's `mmap_lock`, all together, in this pause.
    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Begins a pause, which may last for `max_pause` from `since` on.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Stopped`] if `stop` said so.
    pub(crate) fn begin_pause(
        &self,
        since: Instant<Monotonic>,
        max_pause: Option<Delta>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Interrupted> {
        let pause = max_pause.map(|most| Pause { since, most });
        self.patience.renew();
        let mut own = self.own.lock();
        own.pause = pause;
        own.is_cut_off = false;
        own.took = Delta::ZERO;
        match self.lock_in_time(pause, stop) {
            Some(mut state) => {
                state.begin_pause(pause);
                if !state.is_alone {
                    self.set_open(true);
                }
            }
            None if stop() => return Err(Interrupted::Stopped),
            None => own.is_cut_off = true,
        }
        Ok(())
    }

    /// Searches in this pause, with all who help.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Stopped`] if `stop` said so.
    pub(crate) fn run(
        &self,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Interrupted> {
        let begun = Instant::<Monotonic>::now();
        let stop = || {
            let stop = stop();
            if stop {
                self.stopped.store(true, Relaxed);
            }
            stop
        };
        let own = &mut *self.own.lock();
        if !own.is_cut_off {
            own.is_cut_off = self.run_to_end(own, memory, &stop).is_none();
        }
        // Who is late gets no further, whenever the guest goes on.
        self.set_open(false);
        own.took = begun.elapsed();
        if self.stopped.load(Relaxed) {
            return Err(Interrupted::Stopped);
        }
        Ok(())
    }

    /// Searches until nothing is left or the pause is over, and nobody is busy. [`None`]: the lock
    /// could not be had until then.
    fn run_to_end(
        &self,
        own: &mut Own,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Option<()> {
        let pause = own.pause;
        let lock = || self.lock_in_time(pause, stop);
        let ranges = self.query.searched_ranges();
        let mut is_counted = false;
        loop {
            let round = self.round.load(Relaxed);
            self.work(&mut own.worker, memory, round, stop, &lock, &mut is_counted)?;
            let idle_since = Instant::<Monotonic>::now();
            let mut state = lock()?;
            // Each helper looks at the clock as often as this thread. One that does not get so far
            // has no CPU, or has died.
            while state.busy > 0 && !stop() {
                let is_late = match pause {
                    Some(pause) => pause.is_past(),
                    None => idle_since.elapsed() > LATE_AFTER,
                };
                if is_late {
                    break;
                }
                drop(state);
                fsleep(POLL);
                state = lock()?;
            }
            if state.busy > 0 {
                state.take_from_late(&self.map, ranges);
                self.set_open(false);
            }
            let is_stopped = self.stopped.load(Relaxed);
            if !state.queue.has_returned() || is_stopped || state.pace.is_over() {
                state.slots_may_have_changed |= self.map.has_changed();
                // With the lock: who comes to help now takes nothing.
                self.set_open(false);
                return Some(());
            }
        }
    }

    /// Notes the end of a pause, when the guest runs again. Returns how it ended.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn end_pause(&self) -> Result<PauseOutcome> {
        let own = self.own.lock();
        let mut state = self.state.lock();
        state.findings.stats.time += own.took;
        if !own.is_cut_off {
            return state.end_pause(&self.map);
        }
        state.slots_may_have_changed = true;
        state.take_from_late(&self.map, self.query.searched_ranges());
        Ok(match state.end_pause(&self.map)? {
            PauseOutcome::Complete => PauseOutcome::CompleteLate,
            outcome => outcome,
        })
    }

    /// Takes the lock of the state, unless somebody has it for as long as the pause may last. That
    /// one may get no CPU, and the guest stands. [`None`] also if `stop` said so while it waited.
    fn lock_in_time(
        &self,
        pause: Option<Pause>,
        stop: &dyn Fn() -> bool,
    ) -> Option<MutexGuard<'_, State>> {
        /// How often to try before a sleep: most have it for a microsecond or less.
        const TRIES: u32 = 64;

        loop {
            for _ in 0..TRIES {
                if let Some(state) = self.state.try_lock() {
                    return Some(state);
                }
                spin_loop();
            }
            if stop() || pause.is_some_and(|pause| pause.is_past()) {
                return None;
            }
            fsleep(POLL);
        }
    }

    /// Lets threads help from now on, or no more. Only the inspecting thread does this.
    fn set_open(&self, open: bool) {
        let round = self.round.load(Relaxed);
        if is_open(round) != open {
            self.round.store(round.wrapping_add(1), Relaxed);
        }
    }

    /// Searches chunk after chunk, for as long as it is `round`. A thread counts once in a pause;
    /// `is_counted` is whether it has been counted. [`None`]: it is another round, or `lock` gave
    /// up; somebody else has what was searched last.
    fn work<'a>(
        &'a self,
        worker: &mut Worker,
        memory: &UserMemory<'_>,
        round: u32,
        stop: &dyn Fn() -> bool,
        lock: &dyn Fn() -> Option<MutexGuard<'a, State>>,
        is_counted: &mut bool,
    ) -> Option<()> {
        let is_over = || self.round.load(Relaxed) != round;
        let enter = || (!is_over()).then(lock)?.filter(|_| !is_over());
        let is_cut_off = Cell::new(false);
        let stop = || stop() || self.stopped.load(Relaxed) || is_over() || is_cut_off.get();
        let keep = |hit, shown: &[u8]| {
            if let Some(mut state) = enter() {
                return state.findings.hits.add(hit, shown);
            }
            is_cut_off.set(true);
            Kept::Yes
        };
        let job = Job {
            map: &self.map,
            query: &self.query,
            key: self.key.as_deref(),
            memory,
            stop: &stop,
            keep: &keep,
        };
        let ranges = self.query.searched_ranges();
        while !stop() {
            let mut state = enter()?;
            let Some(mut chunk) = state.next_chunk(&self.map, ranges, memory, &stop) else {
                break;
            };
            let mut pace = state.pace;
            drop(state);
            let first = chunk.first;
            let result = worker.search_chunk(&job, &mut chunk, &mut pace);
            self.progress.add(chunk.first.saturating_sub(first));
            if is_cut_off.get() {
                return None;
            }
            let mut state = enter()?;
            if !*is_counted {
                state.count_thread();
                *is_counted = true;
            }
            state.pace = pace;
            if let Err(Interrupted::Error(error)) = result {
                state.result = Err(error);
                self.stopped.store(true, Relaxed);
            }
            state.finish(chunk, result.is_ok(), &self.map, ranges);
        }
        Some(())
    }

    /// Looks, while the guest runs, whether all that was searched still is what was searched. What
    /// is not is searched again in the next pause.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub(crate) fn compare(
        &self,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Interrupted> {
        let own = &mut *self.own.lock();
        let chunk_pages = self.state.lock().queue.chunk_pages();
        let result = self.key.as_deref().map_or(Ok(()), |key| {
            let windows = Windows {
                neighbours: Neighbours::ForMatches {
                    with_context: self.query.context > 0,
                },
                ..self.windows(memory, stop)
            };
            let pages = &mut own.worker.pages;
            verify::digest_all(
                &windows,
                &self.query,
                key,
                chunk_pages,
                pages,
                |slot, first, digest| {
                    if let Some(coverage) = &mut self.state.lock().findings.coverage {
                        coverage.compare(coverage.number(slot, first), digest.value());
                    }
                },
            )
        });
        self.state.lock().queue.begin_changed();
        result
    }

    /// Counts the pages of what was not searched, and ends the search. The guest may run meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub(crate) fn count(
        &self,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Interrupted> {
        let own = &mut *self.own.lock();
        let left = {
            let mut state = self.state.lock();
            Left {
                returned: state.give_up_returned(),
                cursor: state.queue.cursor(),
            }
        };
        let windows = self.windows(memory, stop);
        let pages = &mut own.worker.pages;
        count::count_all(&windows, &left, pages, |slot, counted| {
            self.state.lock().findings.add_counted(slot, counted);
        })
    }

    /// Looks, while the guest runs, which memslots the VMM has changed, if it may have. What lies
    /// in them is not searched any more. `now` is room for those of now.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn note_changed_slots(&self, now: &mut Memslots) -> Result {
        if !self.state.lock().slots_may_have_changed {
            return Ok(());
        }
        let (changed, has_new) = self.map.changes(now)?;
        let mut state = self.state.lock();
        for slot in changed {
            if let Some(lost) = state.findings.lost.get_mut(slot) {
                *lost = true;
            }
        }
        state.findings.has_new_slots |= has_new;
        Ok(())
    }

    /// Returns what visits memory window by window, without neighbours.
    fn windows<'a>(
        &'a self,
        memory: &'a UserMemory<'a>,
        stop: &'a dyn Fn() -> bool,
    ) -> Windows<'a> {
        Windows {
            map: &self.map,
            ranges: self.query.searched_ranges(),
            memory,
            neighbours: Neighbours::None,
            stop,
        }
    }

    /// Returns whether something that was searched in several pauses is not covered in one instant.
    pub(crate) fn has_uncovered(&self) -> bool {
        self.state.lock().findings.has_uncovered()
    }

    /// Takes out what was found. The search has ended.
    pub(crate) fn take_findings(&self) -> Findings {
        let ranges = self.query.searched_ranges();
        self.state.lock().take_findings(&self.map, ranges)
    }
}

impl ParkedWork for Search {
    /// Searches until nothing is left to hand out, or the current thread is being killed.
    fn help(&self) {
        UserMemory::of_current(self.map.vm().mm(), &self.patience, |memory| {
            let round = self.round.load(Relaxed);
            if !is_open(round) {
                return;
            }
            let is_over = || self.round.load(Relaxed) != round;
            // Its vCPU must not wait for one that is late.
            let lock = || self.lock_in_time(None, &is_over);
            let Some(mut state) = lock().filter(|_| !is_over()) else {
                return;
            };
            let Some(mut worker) = state.workers.pop() else {
                return;
            };
            state.busy = state.busy.saturating_add(1);
            drop(state);
            let _ = self.work(
                &mut worker,
                memory,
                round,
                &task::must_leave,
                &lock,
                &mut false,
            );
            // If it was late, nobody wants help any more.
            if let Some(mut state) = lock().filter(|_| !is_over()) {
                // There is room: it came from there.
                let _ = state.workers.push_within_capacity(worker);
                state.busy = state.busy.saturating_sub(1);
            }
        });
    }
}
