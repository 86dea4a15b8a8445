// SPDX-License-Identifier: GPL-2.0

//! The address space that the current task uses: its own, or another process's that a kernel thread
//! has taken on.
//!
//! Lock order: `mm->mmap_lock`, only tried, inside all others that an inspection holds.
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

/// How often the holder of `mmap_lock` is waited for, a millisecond each time: the guest stands.
const LOCK_TRIES: u32 = 20;

/// The address space that the current kernel thread has taken on, until this is dropped.
///
/// # Invariants
///
/// The current task is a kernel thread whose `mm` is `mm`.
pub(crate) struct BorrowedAddressSpace<'a> {
    thread: &'a mut OnKthread,
    // Released in a work item: if the process has died meanwhile this may be the last reference,
    // and taking down a large address space here would prolong an inspection.
    mm: ARef<MmWithUserAsync>,
}

impl<'a> BorrowedAddressSpace<'a> {
    /// Takes on `mm`.
    pub(crate) fn take_on(thread: &'a mut OnKthread, mm: ARef<MmWithUser>) -> Self {
        // SAFETY: `thread` proves that the current task is a kernel thread; as it is borrowed for
        // as long as the result lives, no other address space has been taken on.
        unsafe { bindings::kthread_use_mm(mm.as_raw()) };
        // INVARIANT: Just made so.
        Self {
            thread,
            mm: MmWithUser::into_mmput_async(mm),
        }
    }

    /// The kernel thread that has taken it on.
    pub(crate) fn thread(&self) -> &OnKthread {
        self.thread
    }

    /// What the thread can reach by it.
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
    /// How often `mmap_lock` may still be waited for.
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
            // INVARIANT: It is the current task's, which does not change it meanwhile.
            work(&UserMemory::new(own));
        }
    }

    /// How many of `pages` pages from the address `start` on are known not to be there: the page
    /// tables have nothing that [`Self::hold_present`] could take. Empty tables of any level are
    /// passed by at once.
    ///
    /// May be fewer than there are, but not if it is 0: then the first page may well be there.
    pub(crate) fn absent(&self, start: usize, pages: usize) -> usize {
        let end = start.saturating_add(pages.saturating_mul(PAGE_SIZE));
        // SAFETY: An address space with users.
        let next = unsafe { bindings::next_mapped(self.mm.as_raw(), start, end) };
        next.saturating_sub(start) / PAGE_SIZE
    }

    /// Takes hold of those of `pages` pages from the address `start` that are there, up to the
    /// first that is not.
    ///
    /// Nothing is faulted in: a page counts as absent if it was never touched, is swapped out,
    /// ballooned away or not accessible, and also if it is the shared zero page. Appends to `held`
    /// as far as that has capacity, and returns how many.
    pub(crate) fn hold_present(&self, start: usize, pages: usize, held: &mut HeldPages) -> usize {
        let take = |room, most| {
            let wanted = pages.min(most);
            let Ok(count) = c_int::try_from(wanted) else {
                return 0;
            };
            // SAFETY: `room` is for at least `wanted` pointers. It works on `current->mm`, which
            // by the type invariant is `self.mm`.
            let got = unsafe { bindings::get_user_pages_fast_only(start, count, 0, room) };
            match usize::try_from(got).unwrap_or(0) {
                // SAFETY: As above.
                0 => unsafe { self.hold_hinted(start, wanted, room) },
                got => got,
            }
        };
        // SAFETY: Both ways to take pages take a reference to each for the caller.
        unsafe { held.append(take) }
    }

    /// As [`Self::hold_present`], with pages whose entries NUMA balancing has made inaccessible, so
    /// that their next use is seen: the fast GUP takes none of those, and cold memory consists of
    /// them on a host with several nodes. Their entries stay as they are.
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
        // What lies between areas is not asked for: below a stack that gives a warning.
        let Some(area) = guard.vma_lookup(start) else {
            return 0;
        };
        let pages = pages.min(area.end().saturating_sub(start) / PAGE_SIZE);
        // SAFETY: By the contract, and `guard` holds `mmap_lock`, which this does not give up.
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
