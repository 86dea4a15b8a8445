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
//! Lock order: [`Search::state`], under which page tables are read and `kvm->srcu` is entered, and
//! nothing else is taken.

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

use kernel::{
    new_condvar,
    new_mutex,
    page::PAGE_SIZE,
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

use self::{
    count::Left,
    coverage::Coverage,
    hits::Hits,
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
        address_space::UserMemory,
        task, //
    },
    memory::{
        Interrupted,
        Map,
        Neighbours,
        Windows, //
    },
    park::ParkedWork,
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
    findings::{
        Findings,
        PauseOutcome, //
    },
    hits::Hit, //
};

// A match that begins in a window, and its context, end in the page after it.
const _: () = assert!(MAX_LEN + MAX_CONTEXT <= PAGE_SIZE);

/// How much memory may be used to know what is covered, but for what is proportional to the number
/// of memslots. With more guest memory than about 45 GiB, chunks are larger.
const COVERAGE_MEMORY: usize = 3 << 20;

/// How long a helping thread may do nothing in a pause without limit before it counts as late.
const LATE_AFTER: Delta = Delta::from_secs(10);

/// What a search needs, made before the freeze.
pub(crate) struct Prepared {
    state: State,
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
        let mut workers = KVec::with_capacity(threads, GFP_KERNEL)?;
        for _ in 0..threads {
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
            key,
        })
    }
}

/// The search of one VM's memory.
#[pin_data]
pub(crate) struct Search {
    map: Arc<Map>,
    query: Arc<Query>,
    /// What digests are made with, if they are.
    key: Option<KBox<Key>>,
    /// All threads are to end.
    stopped: Atomic<bool>,
    /// That of `state`, to be looked at without the lock.
    round: Atomic<u32>,
    #[pin]
    state: Mutex<State>,
    /// Notified when nobody helps any more.
    #[pin]
    idle: CondVar,
}

impl Search {
    /// Creates the search of the memory in `map`. Allocates little, since the guest stands.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(map: Arc<Map>, query: Arc<Query>, prepared: Prepared) -> Result<Arc<Self>> {
        let Prepared { mut state, key } = prepared;
        state.fit(map.slots())?;
        Arc::pin_init(
            pin_init!(Self {
                map,
                query,
                key,
                stopped: Atomic::new(false),
                round: Atomic::new(0),
                state <- new_mutex!(state, "kvm_inspect::Search::state"),
                idle <- new_condvar!("kvm_inspect::Search::idle"),
            }),
            task::gfp_paused(),
        )
    }

    /// Begins a pause, which may last for `max_pause` from `since` on.
    pub(crate) fn begin_pause(&self, since: Instant<Monotonic>, max_pause: Option<Delta>) {
        let pause = max_pause.map(|most| Pause { since, most });
        self.state.lock().begin_pause(pause);
    }

    /// Searches in this pause, with all who help.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Stopped`] if `stop` said so. `ENOMEM`.
    pub(crate) fn run(
        &self,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<PauseOutcome, Interrupted> {
        let begun = Instant::<Monotonic>::now();
        let stop = || {
            let stop = stop();
            if stop {
                self.stopped.store(true, Relaxed);
            }
            stop
        };
        let mut worker = self.take_own()?;
        let mut is_counted = false;
        let ranges = self.query.searched_ranges();
        loop {
            self.work(&mut worker, memory, &stop, &mut is_counted);
            let mut state = self.state.lock();
            let idle_since = Instant::<Monotonic>::now();
            // Each helper looks at the clock as often as this thread. One that does not get so far
            // has no CPU, or has died.
            while state.busy > 0 && !stop() {
                let is_late = match state.pace.pause() {
                    Some(pause) => pause.is_past(),
                    None => idle_since.elapsed() > LATE_AFTER,
                };
                if is_late {
                    break;
                }
                let _ = self
                    .idle
                    .wait_interruptible_timeout(&mut state, msecs_to_jiffies(1));
            }
            let stopped = self.stopped.load(Relaxed);
            if state.busy > 0 {
                state.take_from_late(&self.map, ranges);
                self.round.store(state.round(), Relaxed);
            }
            if !state.queue.has_returned() || stopped || state.pace.is_over() {
                state.own = Some(worker);
                state.findings.stats.time += begun.elapsed();
                let outcome = state.end_pause(&self.map)?;
                if stopped {
                    return Err(Interrupted::Stopped);
                }
                return Ok(outcome);
            }
        }
    }

    /// Takes what the inspecting thread needs. It gives that back, unless the search has ended.
    fn take_own(&self) -> Result<Worker> {
        self.state.lock().own.take().ok_or(EBUSY)
    }

    /// Searches chunk after chunk. A thread counts once in a pause; `is_counted` is whether it has
    /// been counted.
    fn work(
        &self,
        worker: &mut Worker,
        memory: &UserMemory<'_>,
        stop: &dyn Fn() -> bool,
        is_counted: &mut bool,
    ) {
        let round = self.state.lock().round();
        let is_over = || self.round.load(Relaxed) != round;
        let stop = || stop() || self.stopped.load(Relaxed) || is_over();
        let job = Job {
            map: &self.map,
            query: &self.query,
            key: self.key.as_deref(),
            memory,
            stop: &stop,
            keep: &|hit, shown| self.state.lock().keep(round, hit, shown),
        };
        while !stop() {
            let mut state = self.state.lock();
            if state.round() != round {
                return;
            }
            let ranges = self.query.searched_ranges();
            let Some(mut chunk) = state.next_chunk(&self.map, ranges, memory, &stop) else {
                return;
            };
            let mut pace = state.pace;
            drop(state);
            let result = worker.search_chunk(&job, &mut chunk, &mut pace);
            let mut state = self.state.lock();
            if state.round() != round {
                // Somebody else has this chunk.
                return;
            }
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
        let mut worker = self.take_own()?;
        let chunk_pages = self.state.lock().queue.chunk_pages();
        let result = self.key.as_deref().map_or(Ok(()), |key| {
            let windows = Windows {
                neighbours: Neighbours::ForMatches {
                    with_context: self.query.context > 0,
                },
                ..self.windows(memory, stop)
            };
            let pages = &mut worker.pages;
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
        let mut state = self.state.lock();
        state.own = Some(worker);
        state.queue.begin_changed();
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
        let mut worker = self.take_own()?;
        let left = {
            let mut state = self.state.lock();
            Left {
                returned: state.give_up_returned(),
                cursor: state.queue.cursor(),
            }
        };
        let windows = self.windows(memory, stop);
        let pages = &mut worker.pages;
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
        UserMemory::of_current(self.map.vm().mm(), |memory| {
            let mut state = self.state.lock();
            if !state.wants_help() {
                return;
            }
            let Some(mut worker) = state.workers.pop() else {
                return;
            };
            let round = state.round();
            state.busy = state.busy.saturating_add(1);
            drop(state);
            self.work(&mut worker, memory, &task::must_leave, &mut false);
            let mut state = self.state.lock();
            // There is room: it came from there.
            let _ = state.workers.push_within_capacity(worker);
            if state.round() == round {
                state.busy = state.busy.saturating_sub(1);
                if state.busy == 0 {
                    self.idle.notify_all();
                }
            }
        });
    }
}
