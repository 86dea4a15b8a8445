// SPDX-License-Identifier: GPL-2.0

//! The address space of the current task: its own, or that of a process, which a kernel thread has
//! taken on.
//!
//! Lock order: `mm->mmap_lock`, only tried, inside all other locks of an inspection.
//!
//! C headers: [`include/linux/kthread.h`](srctree/include/linux/kthread.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::ptr;

use kernel::{
    mm::{
        virt::{
            flags,
            vm_flags_t,
            VmaRef, //
        },
        Mm,
        MmWithUser,
        MmWithUserAsync, //
        MmapReadGuard,
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef,
    time::{
        delay::fsleep,
        Delta, //
    },
    types::NotThreadSafe, //
};

use crate::{
    bindings,
    linux::{
        file_pages::FilePages,
        kthread::OnKthread,
        pages::{
            Absence,
            HeldPages,
            Sight, //
        },
        task, //
    }, //
};

pub(crate) use super::patience::Patience;

/// How many pages are brought in at once.
const BROUGHT_AT_ONCE: usize = 64;

/// The address space that the current kernel thread has taken on, until this is dropped.
///
/// # Invariants
///
/// The current task is a kernel thread whose `mm` is `mm`.
pub(crate) struct BorrowedAddressSpace<'a> {
    thread: &'a mut OnKthread,
    // Released in a work item: if the process has died, this may be the last reference, and to take
    // down a large address space here would prolong the inspection.
    mm: ARef<MmWithUserAsync>,
}

impl<'a> BorrowedAddressSpace<'a> {
    /// Takes on `mm`.
    pub(crate) fn take_on(thread: &'a mut OnKthread, mm: ARef<MmWithUser>) -> Self {
        // SAFETY: `thread` proves that the current task is a kernel thread; as it is borrowed for
        // as long as the result lives, no other address space has been taken on.
        unsafe { bindings::kthread_use_mm(mm.as_raw()) };
        // INVARIANT: `kthread_use_mm` has just made it so.
        Self {
            thread,
            mm: MmWithUser::into_mmput_async(mm),
        }
    }

    /// Returns the kernel thread that has taken it on.
    pub(crate) fn thread(&self) -> &OnKthread {
        self.thread
    }

    /// Returns the memory of the address space.
    pub(crate) fn memory<'b>(&'b self, patience: &'b Patience) -> UserMemory<'b> {
        // INVARIANT: By the type invariant, and the thread cannot go back while it is borrowed.
        UserMemory::new(&self.mm, patience)
    }
}

impl Drop for BorrowedAddressSpace<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. The reference in `self.mm` goes after this.
        unsafe { bindings::kthread_unuse_mm(self.mm.as_raw()) };
    }
}

/// The memory of the process whose address space the current task uses.
///
/// # Invariants
///
/// The `mm` of the current task is `mm`, as long as this lives.
pub(crate) struct UserMemory<'a> {
    mm: &'a MmWithUser,
    patience: &'a Patience,
    _not_send: NotThreadSafe,
}

/// An area that is locked, or why there is none.
enum AreaAt<T> {
    Found(T),
    /// So many pages are in no area.
    None(usize),
    /// The address space is being changed, and nobody wants to wait.
    Busy,
}

impl<'a> UserMemory<'a> {
    fn new(mm: &'a MmWithUser, patience: &'a Patience) -> Self {
        Self {
            mm,
            patience,
            _not_send: NotThreadSafe,
        }
    }

    /// Calls `work` with the memory of the current task, if its address space is `mm`.
    pub(crate) fn of_current(mm: &Mm, patience: &Patience, work: impl FnOnce(&UserMemory<'_>)) {
        let task = kernel::current!();
        if let Some(own) = task.mm().filter(|own| own.as_raw() == mm.as_raw()) {
            // INVARIANT: It is that of the current task, which does not change it meanwhile.
            work(&UserMemory::new(own, patience));
        }
    }

    /// Tells what is at the address `start`, and for how many of `pages` pages, at least one, that
    /// is so. Empty tables of any level are passed by at once. `give_up` is asked before each wait.
    pub(crate) fn look(&self, start: usize, pages: usize, give_up: &dyn Fn() -> bool) -> Sight {
        let end = start.saturating_add(pages.saturating_mul(PAGE_SIZE));
        let mut entry = 0;
        // SAFETY: An address space with users.
        let next = unsafe { bindings::next_entry(self.mm.as_raw(), start, end, &raw mut entry) };
        // `next` is the start itself where something is present, or beyond what users have.
        let count = next.saturating_sub(start) / PAGE_SIZE;
        if count == 0 {
            return Sight::Present;
        }
        match entry {
            bindings::KVM_INSPECT_ENTRY_SWAPPED => Sight::Absent(Absence::Swapped, count),
            bindings::KVM_INSPECT_ENTRY_POISONED => Sight::Absent(Absence::Poisoned, count),
            bindings::KVM_INSPECT_ENTRY_GUARD => Sight::Absent(Absence::Unmapped, count),
            bindings::KVM_INSPECT_ENTRY_DEVICE => Sight::Absent(Absence::Device, count),
            bindings::KVM_INSPECT_ENTRY_BUSY => Sight::Absent(Absence::Busy, count),
            bindings::KVM_INSPECT_ENTRY_SPECIAL => self.look_at_area(start, count, true, give_up),
            _ => self.look_at_area(start, count, false, give_up),
        }
    }

    /// As [`Self::look`], for `pages` pages for which the page tables have nothing, or, if
    /// `special`, no ordinary page: the area decides what that means.
    fn look_at_area(
        &self,
        start: usize,
        pages: usize,
        special: bool,
        give_up: &dyn Fn() -> bool,
    ) -> Sight {
        let looked = self.with_area(start, give_up, |area| {
            let pages = pages.min(area.end().saturating_sub(start) / PAGE_SIZE);
            let has = |wanted| area.flags() & wanted != 0;
            if special {
                // Else it is the zero page: somebody has read it.
                let is_device = has(bindings::KVM_INSPECT_VM_DEVICE_SPECIAL as vm_flags_t);
                let absence = if is_device {
                    Absence::Device
                } else {
                    Absence::Untouched
                };
                return Sight::Absent(absence, pages);
            }
            let sight = match look_behind_tables(area, start, pages) {
                Sight::Absent(Absence::Untouched, pages)
                    if has(bindings::KVM_INSPECT_VM_UFFD_MISSING as vm_flags_t) =>
                {
                    Sight::Absent(Absence::Userfault, pages)
                }
                sight => sight,
            };
            match sight {
                Sight::Present => Sight::Present,
                // They may have been empty for a moment only, while somebody exchanged entries.
                Sight::Absent(absence, pages) => match self.count_empty(start, pages) {
                    0 => Sight::Present,
                    pages => Sight::Absent(absence, pages),
                },
            }
        });
        match looked {
            AreaAt::Found(sight) => sight,
            AreaAt::None(gap) => Sight::Absent(Absence::Unmapped, pages.min(gap.max(1))),
            AreaAt::Busy => Sight::Absent(Absence::Busy, pages),
        }
    }

    /// Holds those of `pages` pages from the address `start` on that are present, up to the first
    /// that is not, or is poisoned. Appends them to `held` as far as that has capacity, and returns
    /// how many. `give_up` is asked before each wait.
    ///
    /// Nothing is faulted in. The pages of a file that are cached are taken from there.
    ///
    /// # Errors
    ///
    /// Why the first page could not be held, and for how many pages that is so.
    pub(crate) fn hold_present(
        &self,
        start: usize,
        pages: usize,
        held: &mut HeldPages,
        give_up: &dyn Fn() -> bool,
    ) -> Result<usize, (Absence, usize)> {
        // A page may be just exchanged for another.
        const ATTEMPTS: usize = 3;

        let before = held.len();
        let take = |room, most| {
            let Ok(count) = c_int::try_from(pages.min(most)) else {
                return 0;
            };
            // SAFETY: `room` is for at least `most` pointers. It works on `current->mm`, which
            // by the type invariant is `self.mm`.
            let got = unsafe { bindings::get_user_pages_fast_only(start, count, 0, room) };
            usize::try_from(got).unwrap_or(0)
        };
        for _ in 0..ATTEMPTS {
            // SAFETY: A reference to each page is taken for the caller.
            if unsafe { held.append(take) } == 0 {
                self.hold_otherwise(start, pages, held, give_up)?;
            }
            if held.len() > before {
                break;
            }
        }
        let poisoned = held.release_from_poisoned(before);
        match held.len().saturating_sub(before) {
            0 if poisoned => Err((Absence::Poisoned, 1)),
            0 => Err((Absence::Busy, 1)),
            count => Ok(count),
        }
    }

    /// As [`Self::hold_present`], for pages that the fast GUP does not take.
    fn hold_otherwise(
        &self,
        start: usize,
        pages: usize,
        held: &mut HeldPages,
        give_up: &dyn Fn() -> bool,
    ) -> Result<(), (Absence, usize)> {
        let end = start.saturating_add(pages.saturating_mul(PAGE_SIZE));
        let mut entry = 0;
        // SAFETY: An address space with users.
        let next = unsafe { bindings::next_entry(self.mm.as_raw(), start, end, &raw mut entry) };
        let empty = next.saturating_sub(start) / PAGE_SIZE;
        if entry == bindings::KVM_INSPECT_ENTRY_NONE {
            // Only here: what the page tables have may be another page than the file's.
            let held = self.with_area(start, give_up, |area| {
                let in_area = area.end().saturating_sub(start) / PAGE_SIZE;
                let empty = self.count_empty(start, empty.min(in_area));
                // SAFETY: `area` is valid and locked.
                let is_anonymous = unsafe { bindings::area_is_anonymous(area.as_ptr()) };
                match FilePages::of_area(area).filter(|_| !is_anonymous && empty > 0) {
                    Some(file) => file
                        .hold(index_in_file(area, start), empty, held)
                        .map(|_| ()),
                    None => Ok(()),
                }
            });
            return match held {
                AreaAt::None(gap) => Err((Absence::Unmapped, pages.min(gap.max(1)))),
                AreaAt::Found(Err(Absence::Untouched)) => Err((Absence::Untouched, 1)),
                AreaAt::Found(_) | AreaAt::Busy => Ok(()),
            };
        }
        let Some(guard) = self.lock(give_up) else {
            return Ok(());
        };
        // Not what lies between areas: below a stack that would give a warning.
        let Some(area) = guard.vma_lookup(start) else {
            return Err((Absence::Unmapped, 1));
        };
        let pages = pages.min(area.end().saturating_sub(start) / PAGE_SIZE);
        if area.flags() & flags::READ == 0 {
            return Err((Absence::Unreadable, pages.max(1)));
        }
        // SAFETY: `guard` holds `mmap_lock`; references are taken for the caller.
        let got =
            unsafe { held.append(|room, most| self.hold_slowly(start, pages.min(most), room)) };
        // SAFETY: `area` is valid and locked.
        let is_anonymous = unsafe { bindings::area_is_anonymous(area.as_ptr()) };
        if got == 0 && is_access_tracked(area) {
            return Err((Absence::Userfault, 1));
        }
        if got == 0 && !is_anonymous && FilePages::of_area(area).is_none() {
            return Err((Absence::Unreadable, 1));
        }
        Ok(())
    }

    /// Takes pages under `mmap_lock`: NUMA balancing has made their entries inaccessible, to see
    /// their next use (on a host with several nodes cold memory consists of them); they have a
    /// protection key that is another thread's; or they were just being moved. Their entries stay
    /// as they are. Returns how many it took.
    ///
    /// # Safety
    ///
    /// `room` is for `pages` pointers. The caller holds `mmap_lock`; the pages are in one area.
    unsafe fn hold_slowly(
        &self,
        start: usize,
        pages: usize,
        room: *mut *mut bindings::page,
    ) -> usize {
        // SAFETY: By this function's contract; `mmap_lock` is not released.
        let got = unsafe {
            bindings::get_user_pages_remote(
                self.mm.as_raw(),
                start,
                pages,
                bindings::KVM_INSPECT_FOLL_PRESENT,
                room,
                ptr::null_mut(),
            )
        };
        usize::try_from(got).unwrap_or(0)
    }

    /// Returns how many of `pages` pages from the address `start` on, all in an area that is
    /// locked, still have nothing in the page tables.
    fn count_empty(&self, start: usize, pages: usize) -> usize {
        let end = start.saturating_add(pages.saturating_mul(PAGE_SIZE));
        // SAFETY: An address space with users; the caller has locked the area.
        let empty = unsafe { bindings::empty_until(self.mm.as_raw(), start, end) };
        empty.saturating_sub(start) / PAGE_SIZE
    }

    /// Takes `mmap_lock`, with limited patience.
    fn lock(&self, give_up: &dyn Fn() -> bool) -> Option<MmapReadGuard<'_>> {
        loop {
            if let Some(guard) = self.mm.mmap_read_trylock() {
                return Some(guard);
            }
            if give_up() || !self.patience.take() {
                return None;
            }
            fsleep(Delta::from_millis(1));
        }
    }

    /// Calls `work` with the area at `address`, locked.
    fn with_area<R>(
        &self,
        address: usize,
        give_up: &dyn Fn() -> bool,
        work: impl FnOnce(&VmaRef) -> R,
    ) -> AreaAt<R> {
        if let Some(area) = self.mm.lock_vma_under_rcu(address) {
            return AreaAt::Found(work(&area));
        }
        let Some(guard) = self.lock(give_up) else {
            return AreaAt::Busy;
        };
        if let Some(area) = guard.vma_lookup(address) {
            return AreaAt::Found(work(area));
        }
        // SAFETY: `guard` holds `mmap_lock`.
        let next = unsafe { bindings::find_vma(self.mm.as_raw(), address) };
        let end = if next.is_null() {
            usize::MAX
        } else {
            // SAFETY: An area that `mmap_lock` keeps.
            unsafe { VmaRef::from_raw(next) }.start()
        };
        AreaAt::None(end.saturating_sub(address) / PAGE_SIZE)
    }

    /// Brings in the pages among `pages` pages from the address `start` on that are swapped out or
    /// in a file, as if their owner had read them. Stops early if `stop` says so, asked after each
    /// few pages.
    ///
    /// The guest must run, since this waits for disks.
    pub(crate) fn bring_in(&self, start: usize, pages: usize, stop: &dyn Fn() -> bool) {
        let mut at = start;
        let end = start.saturating_add(pages.saturating_mul(PAGE_SIZE));
        while at < end && !stop() {
            let left = end.saturating_sub(at) / PAGE_SIZE;
            let count = match self.look(at, left, stop) {
                Sight::Absent(Absence::Swapped | Absence::InFile, count) => {
                    // One that cannot be brought in is passed by.
                    self.bring_in_some(at, count, stop).max(1)
                }
                Sight::Absent(_, count) => count,
                Sight::Present => 1,
            };
            at = at.saturating_add(count.saturating_mul(PAGE_SIZE));
            task::cond_resched();
        }
    }

    /// Brings in some of `pages` pages from the address `start` on. Returns how many it has dealt
    /// with.
    fn bring_in_some(&self, start: usize, pages: usize, stop: &dyn Fn() -> bool) -> usize {
        let looked = self.with_area(start, stop, |area| {
            let in_area = area.end().saturating_sub(start) / PAGE_SIZE;
            let count = pages.min(BROUGHT_AT_ONCE).min(in_area);
            (count, is_access_tracked(area))
        });
        match looked {
            // Its owner would be told, and waited for.
            AreaAt::Found((count, true)) => count,
            AreaAt::Found((count, false)) => {
                // SAFETY: No pages are asked for. It works on `current->mm`, which by the type
                // invariant is `self.mm`.
                let got =
                    unsafe { bindings::get_user_pages_unlocked(start, count, ptr::null_mut(), 0) };
                usize::try_from(got).unwrap_or(0)
            }
            AreaAt::None(_) | AreaAt::Busy => 0,
        }
    }
}

/// Returns whether the owner of an area, which is locked, wants to know who touches its pages, also
/// those that are present (`UFFDIO_RWPROTECT`, since 7.3).
fn is_access_tracked(area: &VmaRef) -> bool {
    area.flags() & bindings::KVM_INSPECT_VM_UFFD_RWP as vm_flags_t != 0
}

/// Tells what an area, which is locked, has for `pages` pages from `start` on for which the page
/// tables have nothing, and for how many of them that is so.
fn look_behind_tables(area: &VmaRef, start: usize, pages: usize) -> Sight {
    let has = |wanted| area.flags() & wanted != 0;
    // SAFETY: `area` is valid and locked.
    let is_anonymous = unsafe { bindings::area_is_anonymous(area.as_ptr()) };
    if has(bindings::KVM_INSPECT_VM_UFFD_MINOR as vm_flags_t) {
        // What the file has may be old.
        Sight::Absent(Absence::Userfault, pages)
    } else if has(bindings::KVM_INSPECT_VM_DEVICE as vm_flags_t) {
        Sight::Absent(Absence::Device, pages)
    } else if is_anonymous {
        Sight::Absent(Absence::Untouched, pages)
    } else {
        FilePages::of_area(area).map_or(Sight::Absent(Absence::Unreadable, pages), |file| {
            file.look(index_in_file(area, start), pages)
        })
    }
}

/// Returns the number in its file of the page at `address` of an area.
fn index_in_file(area: &VmaRef, address: usize) -> u64 {
    // SAFETY: `area` is valid and locked.
    let index = unsafe { bindings::linear_page_index(area.as_ptr(), address) };
    u64::try_from(index).unwrap_or(u64::MAX)
}
