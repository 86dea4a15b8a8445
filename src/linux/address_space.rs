// SPDX-License-Identifier: GPL-2.0

//! The address space of the current task: its own, or that of a process, which a kernel thread has
//! taken on.
//!
//! Lock order: `mm->mmap_lock`, only tried, inside all other locks of an inspection.
//!
//! C headers: [`include/linux/kthread.h`](srctree/include/linux/kthread.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::{
    cell::Cell,
    ptr, //
};

use kernel::{
    mm::{
        Mm,
        MmWithUser,
        MmWithUserAsync, //
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
        kthread::OnKthread,
        pages::HeldPages, //
    }, //
};

/// How often to wait for `mmap_lock`, a millisecond each time: the guest may be paused.
const LOCK_TRIES: u32 = 20;

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
    pub(crate) fn memory(&self) -> UserMemory<'_> {
        // INVARIANT: By the type invariant, and the thread cannot go back while it is borrowed.
        UserMemory::new(&self.mm)
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
    /// How often to wait for `mmap_lock` yet.
    lock_tries: Cell<u32>,
    _not_send: NotThreadSafe,
}

impl<'a> UserMemory<'a> {
    fn new(mm: &'a MmWithUser) -> Self {
        Self {
            mm,
            lock_tries: Cell::new(LOCK_TRIES),
            _not_send: NotThreadSafe,
        }
    }

    /// Calls `work` with the memory of the current task, if its address space is `mm`.
    pub(crate) fn of_current(mm: &Mm, work: impl FnOnce(&UserMemory<'_>)) {
        let task = kernel::current!();
        if let Some(own) = task.mm().filter(|own| own.as_raw() == mm.as_raw()) {
            // INVARIANT: It is that of the current task, which does not change it meanwhile.
            work(&UserMemory::new(own));
        }
    }

    /// Returns how many of `pages` pages from the address `start` on are known to be absent: the
    /// page tables have nothing there that [`Self::hold_present`] could take. Empty tables of any
    /// level are skipped at once.
    ///
    /// More pages may be absent. If it is 0, the first page may be present.
    pub(crate) fn absent(&self, start: usize, pages: usize) -> usize {
        let end = start.saturating_add(pages.saturating_mul(PAGE_SIZE));
        // SAFETY: An address space with users.
        let next = unsafe { bindings::next_mapped(self.mm.as_raw(), start, end) };
        next.saturating_sub(start) / PAGE_SIZE
    }

    /// Holds the present ones of `pages` pages from the address `start` on, up to the first that is
    /// absent. Appends them to `held` as far as that has capacity, and returns how many.
    ///
    /// Nothing is faulted in: a page counts as absent if it was never touched, is swapped out,
    /// ballooned away or not accessible, and also if it is the shared zero page.
    pub(crate) fn hold_present(&self, start: usize, pages: usize, held: &mut HeldPages) -> usize {
        let take = |room, most| {
            let most = pages.min(most);
            let Ok(count) = c_int::try_from(most) else {
                return 0;
            };
            // SAFETY: `room` is for at least `most` pointers. It works on `current->mm`, which
            // by the type invariant is `self.mm`.
            let got = unsafe { bindings::get_user_pages_fast_only(start, count, 0, room) };
            match usize::try_from(got).unwrap_or(0) {
                // SAFETY: `room` is for at least `most` pointers.
                0 => unsafe { self.hold_hinted(start, most, room) },
                got => got,
            }
        };
        // SAFETY: Both ways take a reference to each page for the caller.
        unsafe { held.append(take) }
    }

    /// As [`Self::hold_present`], for pages whose entries NUMA balancing has made inaccessible, to
    /// see their next use. The fast GUP takes none of them, and on a host with several nodes cold
    /// memory consists of them. Their entries stay as they are.
    ///
    /// # Safety
    ///
    /// `room` is for `pages` pointers.
    unsafe fn hold_hinted(
        &self,
        start: usize,
        pages: usize,
        room: *mut *mut bindings::page,
    ) -> usize {
        // SAFETY: No preconditions.
        if !unsafe { bindings::has_numa_hints() } {
            return 0;
        }
        let guard = loop {
            if let Some(guard) = self.mm.mmap_read_trylock() {
                break guard;
            }
            let Some(left) = self.lock_tries.get().checked_sub(1) else {
                return 0;
            };
            self.lock_tries.set(left);
            fsleep(Delta::from_millis(1));
        };
        // Not what lies between areas: below a stack that would give a warning.
        let Some(area) = guard.vma_lookup(start) else {
            return 0;
        };
        let pages = pages.min(area.end().saturating_sub(start) / PAGE_SIZE);
        // SAFETY: By this function's contract; `guard` holds `mmap_lock`, which this does not
        // release.
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
}
