// SPDX-License-Identifier: GPL-2.0

//! Copying pages of a guest to memory that the caller has pinned, by several threads at once.
//!
//! Pages are taken in chunks. A helper that gets no CPU until the pause must end is not waited for:
//! the guest goes on, and the pages of its chunk count as late. But who asks for the copy waits
//! until that helper has let go of the memory.
//!
//! Lock order: `Copy::target` and `Copy::rooms`, spin locks: who copies must not wait for a helper
//! that has lost its CPU. Nothing else is taken under them.

use kernel::{
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicType,
            Full,
            Relaxed,
            Release, //
        },
        Arc,
        SetOnce,
        SpinLock, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    kvm::Memslot,
    linux::{
        address_space::{
            Patience,
            UserMemory, //
        },
        pages::{
            Absence,
            Access,
            HeldPages,
            Sight,
            UserPages,
            View, //
        },
        task, //
    },
    memory::{
        Map,
        Plan,
        PAGE, //
    },
    park::ParkedWork,
    progress::Progress,
    range::Range,
    scan::{
        digest::{
            self,
            Key, //
        },
        Engine,
    },
    search::host::CurrentThread,
    uapi, //
};

/// How many pages a thread takes at once.
const CHUNK_PAGES: usize = 64;

/// How long to wait before the next look at whether others have finished.
const POLL: Delta = Delta::from_micros(50);

/// The same when the guest goes on already.
const SETTLE_POLL: Delta = Delta::from_millis(1);

/// How long a helper may do nothing, in a pause without limit, before it counts as late.
const LATE_AFTER: Delta = Delta::from_secs(10);

/// Some neighbouring pages that are to be copied.
#[derive(Clone, Copy)]
pub(crate) struct Stretch {
    /// The guest-physical address of the first one.
    pub(crate) gpa: u64,
    /// How many there are.
    pub(crate) pages: usize,
    /// How many pages come before it in all stretches.
    pub(crate) before: usize,
}

/// What is to be copied, and how.
pub(crate) struct Order {
    /// The address space.
    pub(crate) address_space: c_int,
    /// The pages, in any order.
    pub(crate) stretches: KVVec<Stretch>,
    /// How many pages that are.
    pub(crate) pages: usize,
    /// Where to copy them to.
    pub(crate) target: Option<UserPages>,
    /// What their digests were, by which those that have not changed are left out.
    pub(crate) known: Option<KVVec<u64>>,
    /// With what digests are made; [`None`]: there are to be none.
    pub(crate) key: Option<(Arc<KBox<Key>>, Engine)>,
    /// The most threads that copy.
    pub(crate) threads: usize,
}

/// What has become of a chunk: these numbers, so that one thread can change them atomically.
mod fate {
    pub(super) const FREE: i8 = 0;
    pub(super) const TAKEN: i8 = 1;
    pub(super) const DONE: i8 = 2;
    pub(super) const LATE: i8 = 3;
}

/// What came of a copy.
#[derive(Default)]
pub(crate) struct Copied {
    /// How many pages could be read.
    pub(crate) present: u64,
    /// How many were copied.
    pub(crate) copied: u64,
    /// How many were not reached in time.
    pub(crate) late: u64,
    /// How many threads took part.
    pub(crate) threads: u32,
    /// What each page is, one of `PAGE_*`.
    pub(crate) kinds: KVVec<u8>,
    /// The digest of each page, 0 if it is not present; if there are to be any.
    pub(crate) digests: KVVec<u64>,
}

/// A copy that is being made.
#[pin_data]
pub(crate) struct Copy {
    map: SetOnce<Arc<Map>>,
    order: Order,
    kinds: KVVec<Atomic<i8>>,
    digests: KVVec<Atomic<u64>>,
    /// One of `fate` for each chunk.
    chunks: KVVec<Atomic<i8>>,
    /// The next chunk to be taken.
    next: Atomic<usize>,
    copied: Atomic<u64>,
    /// Threads may take chunks.
    is_open: Atomic<bool>,
    /// How many helpers are at work.
    busy: Atomic<i32>,
    threads: Atomic<u32>,
    patience: Patience,
    progress: Arc<Progress>,
    /// Who asked for the copy takes it when nobody is busy any more: no vCPU's thread gives pages
    /// back, which may take long.
    #[pin]
    target: SpinLock<Option<Arc<UserPages>>>,
    /// What helpers need to hold pages.
    #[pin]
    rooms: SpinLock<KVec<HeldPages>>,
}

impl Copy {
    /// Prepares a copy. The memory is told by [`Self::set_map`].
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(mut order: Order, progress: Arc<Progress>) -> Result<Arc<Self>> {
        let helpers = order.threads.saturating_sub(1);
        let mut rooms = KVec::with_capacity(helpers, GFP_KERNEL)?;
        for _ in 0..helpers {
            rooms.push(room()?, GFP_KERNEL)?;
        }
        let target = match order.target.take() {
            Some(target) => Some(Arc::new(target, GFP_KERNEL)?),
            None => None,
        };
        let digests = if order.key.is_some() { order.pages } else { 0 };
        let late = i8::try_from(uapi::PAGE_LATE)?;
        let this = pin_init!(Self {
            kinds: atomics(order.pages, late)?,
            digests: atomics(digests, digest::UNKNOWN)?,
            chunks: atomics(order.pages.div_ceil(CHUNK_PAGES), fate::FREE)?,
            map: SetOnce::new(),
            order,
            next: Atomic::new(0),
            copied: Atomic::new(0),
            is_open: Atomic::new(true),
            busy: Atomic::new(0),
            threads: Atomic::new(0),
            patience: Patience::new(),
            progress,
            target <- new_spinlock!(target, "kvm_inspect::Copy::target"),
            rooms <- new_spinlock!(rooms, "kvm_inspect::Copy::rooms"),
        }? Error);
        Arc::pin_init(this, GFP_KERNEL)
    }

    /// Says what memory there is, before anybody copies.
    pub(crate) fn set_map(&self, map: Arc<Map>) {
        self.map.populate(map);
    }

    /// Returns how patient threads are with the VMM's `mmap_lock`, all together.
    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Copies, with all who help, until all is copied or `stop` says so. Then nobody takes anything
    /// more, and the guest may go on.
    pub(crate) fn run(
        &self,
        memory: &UserMemory<'_>,
        held: &mut HeldPages,
        stop: &dyn Fn() -> bool,
    ) {
        let target = self.target.lock().clone();
        self.work(memory, held, target.as_deref(), stop);
        drop(target);
        let idle_since = Instant::<Monotonic>::now();
        while self.busy.load(Acquire) > 0 && !stop() && idle_since.elapsed() < LATE_AFTER {
            fsleep(POLL);
        }
        // Who comes after this sees it; who came before is counted.
        self.is_open.xchg(false, Full);
        if self.busy.load(Acquire) == 0 {
            return;
        }
        for chunk in &self.chunks {
            let _ = chunk.cmpxchg(fate::TAKEN, fate::LATE, Relaxed);
        }
    }

    /// Waits, after [`Self::run`], until nobody touches the memory any more, and gives it back.
    ///
    /// # Errors
    ///
    /// `EINTR`: the current thread is being killed. Then the last who touches it gives it back.
    pub(crate) fn settle(&self) -> Result {
        let mut result = Ok(());
        while self.busy.load(Acquire) > 0 && result.is_ok() {
            fsleep(SETTLE_POLL);
            if task::fatal_signal_pending() {
                result = Err(EINTR);
            }
        }
        let target = self.target.lock().take();
        drop(target);
        result
    }

    /// Returns what was copied, after [`Self::settle`].
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn copied(&self) -> Result<Copied> {
        let mut copied = Copied {
            copied: self.copied.load(Relaxed),
            threads: self.threads.load(Relaxed),
            kinds: KVVec::with_capacity(self.order.pages, GFP_KERNEL)?,
            digests: KVVec::with_capacity(self.digests.len(), GFP_KERNEL)?,
            ..Copied::default()
        };
        for (index, kind) in self.kinds.iter().enumerate() {
            let chunk = self.chunks.get(index / CHUNK_PAGES);
            let is_done = chunk.is_some_and(|chunk| chunk.load(Relaxed) == fate::DONE);
            let kind = u8::try_from(kind.load(Relaxed)).unwrap_or(0);
            let kind = if is_done { kind } else { LATE };
            match kind {
                PRESENT => copied.present = copied.present.saturating_add(1),
                LATE => copied.late = copied.late.saturating_add(1),
                _ => (),
            }
            copied.kinds.push(kind, GFP_KERNEL)?;
            if index % CHUNK_PAGES == 0 {
                task::cond_resched();
            }
        }
        for (digest, kind) in self.digests.iter().zip(&copied.kinds) {
            // Nothing is known of what the buffer has there.
            let digest = if *kind == LATE {
                digest::UNKNOWN
            } else {
                digest.load(Relaxed)
            };
            copied.digests.push(digest, GFP_KERNEL)?;
        }
        Ok(copied)
    }

    /// Copies chunk after chunk.
    fn work(
        &self,
        memory: &UserMemory<'_>,
        held: &mut HeldPages,
        target: Option<&UserPages>,
        stop: &dyn Fn() -> bool,
    ) {
        let stop = || stop() || !self.is_open.load(Relaxed);
        let Some(map) = self.map.as_ref() else {
            return;
        };
        let job = Job {
            copy: self,
            map,
            memory,
            target,
            stop: &stop,
        };
        let mut is_counted = false;
        while !stop() {
            let number = self.next.fetch_add(1, Relaxed);
            let Some(chunk) = self.chunks.get(number) else {
                break;
            };
            if !core::mem::replace(&mut is_counted, true) {
                self.threads.fetch_add(1, Relaxed);
            }
            chunk.store(fate::TAKEN, Relaxed);
            let first = number.saturating_mul(CHUNK_PAGES);
            let end = first.saturating_add(CHUNK_PAGES).min(self.order.pages);
            if !job.copy_chunk(first, end, held) {
                break;
            }
            if chunk.cmpxchg(fate::TAKEN, fate::DONE, Relaxed).is_ok() {
                let pages = end.saturating_sub(first);
                self.progress.add(u64::try_from(pages).unwrap_or(0));
            }
            task::cond_resched();
        }
    }
}

impl ParkedWork for Copy {
    fn help(&self) {
        self.busy.fetch_add(1, Full);
        if let Some(map) = self.map.as_ref().filter(|_| self.is_open.load(Acquire)) {
            UserMemory::of_current(map.vm().mm(), &self.patience, |memory| {
                let target = self.target.lock().clone();
                let room = self.rooms.lock().pop();
                if let Some(mut held) = room {
                    self.work(memory, &mut held, target.as_deref(), &task::must_leave);
                    // There is room: it came from there.
                    let _ = self.rooms.lock().push_within_capacity(held);
                }
            });
        }
        self.busy.fetch_add(-1, Release);
    }
}

const PRESENT: u8 = 0;
const LATE: u8 = 11;
const _: () = assert!(PRESENT as u32 == uapi::PAGE_PRESENT && LATE as u32 == uapi::PAGE_LATE);

/// Returns room for a thread that copies.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn room() -> Result<HeldPages> {
    HeldPages::with_capacity(CHUNK_PAGES, Access::Linear)
}

/// Returns so many atomics with this value.
fn atomics<T: AtomicType + core::marker::Copy>(count: usize, value: T) -> Result<KVVec<Atomic<T>>> {
    let mut atomics = KVVec::with_capacity(count, GFP_KERNEL)?;
    for index in 0..count {
        atomics.push(Atomic::new(value), GFP_KERNEL)?;
        if index % 4096 == 0 {
            task::cond_resched();
        }
    }
    Ok(atomics)
}

/// What one thread does of a copy.
struct Job<'a> {
    copy: &'a Copy,
    map: &'a Map,
    memory: &'a UserMemory<'a>,
    target: Option<&'a UserPages>,
    stop: &'a dyn Fn() -> bool,
}

impl Job<'_> {
    /// Copies the pages with numbers from `first` to before `end`. Returns whether it has copied
    /// all.
    fn copy_chunk(&self, first: usize, end: usize, held: &mut HeldPages) -> bool {
        let stretches = &self.copy.order.stretches;
        let mut index = first;
        while index < end {
            if (self.stop)() {
                return false;
            }
            let number = stretches.partition_point(|stretch| stretch.before <= index);
            let Some(stretch) = number.checked_sub(1).and_then(|last| stretches.get(last)) else {
                return false;
            };
            let offset = index.saturating_sub(stretch.before);
            let pages = stretch.pages.saturating_sub(offset).min(end - index);
            let offset = u64::try_from(offset).unwrap_or(0).saturating_mul(PAGE);
            let gpa = stretch.gpa.saturating_add(offset);
            index += self.copy_pages(index, gpa, pages, held).max(1);
        }
        true
    }

    /// Copies some of `pages` pages from `gpa` on, and returns how many.
    fn copy_pages(&self, index: usize, gpa: u64, pages: usize, held: &mut HeldPages) -> usize {
        let map = self.map;
        let slot = map.slot_index(self.copy.order.address_space, gpa);
        let Some(slot) = slot.and_then(|slot| map.slots().get(slot)) else {
            return self.leave_out(index, 1, uapi::PAGE_OUTSIDE);
        };
        let (plan, same) = map.plan(&[Range::ALL], slot, gpa);
        let pages = pages.min(usize::try_from(same).unwrap_or(usize::MAX));
        if matches!(plan, Plan::Private { .. }) {
            return self.leave_out(index, pages, uapi::PAGE_PRIVATE);
        }
        let page = page_of(slot, gpa);
        let source = map.source(slot, self.memory);
        let count = u64::try_from(pages).unwrap_or(0);
        let (absence, absent) = match source.look(page, count, self.stop) {
            Sight::Absent(absence, absent) => (absence, absent),
            Sight::Present => match source.hold(page, pages, held, self.stop) {
                Ok(count) => {
                    if let Ok(view) = held.view() {
                        self.copy_held(index, count, &view);
                    }
                    held.release();
                    return count;
                }
                Err(absent) => absent,
            },
        };
        self.leave_out(index, absent.min(pages), kind(absence))
    }

    /// Copies pages that are held.
    fn copy_held(&self, index: usize, count: usize, view: &View<'_>) {
        let order = &self.copy.order;
        let known = order.known.as_deref();
        let known = known.map(|known| known.get(index..).unwrap_or_default());
        if known.is_some() || self.target.is_none() {
            self.digest(index, view);
        }
        let mut copied = 0;
        for offset in 0..count {
            let at = index.saturating_add(offset);
            let kind = match self.target {
                Some(target) if !self.is_known(known, offset, at) => {
                    let kind = self.copy_page(at, view, offset.saturating_mul(PAGE_SIZE), target);
                    copied += u64::from(kind == uapi::PAGE_PRESENT);
                    kind
                }
                _ => uapi::PAGE_PRESENT,
            };
            self.set_kind(at, kind);
        }
        self.copy.copied.fetch_add(copied, Relaxed);
        self.digest_copies(index, count, known.is_some());
    }

    /// Digests copies of pages: what the caller has got, not what is there now. Those of pages that
    /// could not be read are 0.
    fn digest_copies(&self, index: usize, count: usize, are_digested: bool) {
        if let Some(target) = self.target.filter(|_| !are_digested) {
            if let Some(view) = target.view(index, count) {
                self.digest(index, &view);
            }
        }
        let kinds = self.copy.kinds.iter().zip(&self.copy.digests);
        for (kind, digest) in kinds.skip(index).take(count) {
            if kind.load(Relaxed) != 0 {
                digest.store(0, Relaxed);
            }
        }
    }

    /// Copies one page, and returns what it is.
    fn copy_page(&self, index: usize, view: &View<'_>, at: usize, target: &UserPages) -> u32 {
        if !target.copy_page(index, view, at) {
            target.clear_page(index);
            return uapi::PAGE_POISONED;
        }
        if self.copy.order.known.is_some() {
            if let Some(view) = target.view(index, 1) {
                self.digest(index, &view);
            }
        }
        uapi::PAGE_PRESENT
    }

    /// Returns whether the digest of page `index` is the one that the caller knows.
    fn is_known(&self, known: Option<&[u64]>, offset: usize, index: usize) -> bool {
        let known = known.and_then(|known| known.get(offset));
        let digest = self.copy.digests.get(index);
        known
            .zip(digest)
            .is_some_and(|(known, digest)| *known == digest.load(Relaxed))
    }

    /// Digests pages, if there are to be digests.
    fn digest(&self, index: usize, view: &View<'_>) {
        let Some((key, engine)) = &self.copy.order.key else {
            return;
        };
        digest::digest_each(*engine, key, view, &CurrentThread, |page, digest| {
            if let Some(place) = self.copy.digests.get(index.saturating_add(page)) {
                place.store(digest, Relaxed);
            }
        });
    }

    /// Notes pages that cannot be read; their copies are zeros. Returns how many.
    fn leave_out(&self, index: usize, pages: usize, kind: u32) -> usize {
        for at in index..index.saturating_add(pages) {
            self.set_kind(at, kind);
            if let Some(digest) = self.copy.digests.get(at) {
                digest.store(0, Relaxed);
            }
            let known = self
                .copy
                .order
                .known
                .as_ref()
                .and_then(|known| known.get(at));
            if let Some(target) = self.target.filter(|_| known != Some(&0)) {
                target.clear_page(at);
            }
        }
        pages
    }

    fn set_kind(&self, index: usize, kind: u32) {
        if let (Some(place), Ok(kind)) = (self.copy.kinds.get(index), i8::try_from(kind)) {
            place.store(kind, Relaxed);
        }
    }
}

/// Returns the number in its slot of the page at `gpa`.
fn page_of(slot: &Memslot, gpa: u64) -> u64 {
    gpa.saturating_sub(slot.gpa) / PAGE
}

/// Returns the kind of pages that cannot be read.
pub(crate) fn kind(absence: Absence) -> u32 {
    match absence {
        Absence::Untouched => uapi::PAGE_UNTOUCHED,
        Absence::Unmapped => uapi::PAGE_UNMAPPED,
        Absence::Swapped => uapi::PAGE_SWAPPED,
        Absence::InFile => uapi::PAGE_IN_FILE,
        Absence::Userfault => uapi::PAGE_USERFAULT,
        Absence::Poisoned => uapi::PAGE_POISONED,
        Absence::Device => uapi::PAGE_DEVICE,
        Absence::Unreadable | Absence::Busy => uapi::PAGE_UNREADABLE,
    }
}
