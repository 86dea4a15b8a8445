// SPDX-License-Identifier: GPL-2.0

//! Another process's address space, taken on by a kernel thread, and its pages.
//!
//! Lock order: `mm->mmap_lock`, only tried, inside all others that an inspection holds.
//!
//! C headers: [`include/linux/kthread.h`](srctree/include/linux/kthread.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::{
    cell::Cell,
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
};

use kernel::{
    bindings,
    io::{
        Region,
        SysMem, //
    },
    mm::{
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
};

use crate::{
    kthread::OnKthread,
    sys, //
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
    /// How often `mmap_lock` may still be waited for.
    lock_tries: Cell<u32>,
}

impl<'a> BorrowedAddressSpace<'a> {
    /// Takes on `mm`.
    pub(crate) fn take_on(thread: &'a mut OnKthread, mm: ARef<MmWithUser>) -> Self {
        // SAFETY: `thread` proves that the current task is a kernel thread; as it is borrowed for
        // as long as the result lives, no other address space has been taken on.
        unsafe { sys::kthread_use_mm(mm.as_raw()) };
        // INVARIANT: Just made so.
        Self {
            thread,
            mm: MmWithUser::into_mmput_async(mm),
            lock_tries: Cell::new(LOCK_TRIES),
        }
    }

    /// The kernel thread that has taken it on.
    pub(crate) fn thread(&self) -> &OnKthread {
        self.thread
    }

    /// Takes hold of those of `pages` pages from the address `start` that are there, up to the
    /// first that is not.
    ///
    /// Nothing is faulted in: a page counts as absent if it was never touched, is swapped out,
    /// ballooned away or not accessible, and also if it is the shared zero page. Appends to `held`
    /// as far as that has capacity, and returns how many.
    pub(crate) fn hold_present(&self, start: usize, pages: usize, held: &mut HeldPages) -> usize {
        let spare = held.pages.spare_capacity_mut();
        let wanted = pages.min(spare.len());
        let Ok(count) = c_int::try_from(wanted) else {
            return 0;
        };
        let room = spare.as_mut_ptr().cast();
        // SAFETY: `room` is for `wanted` pointers. It works on `current->mm`, which by the
        // type invariant is `self.mm`.
        let got = unsafe { sys::get_user_pages_fast_only(start, count, 0, room) };
        let mut got = usize::try_from(got).unwrap_or(0);
        if got == 0 {
            // SAFETY: As above.
            got = unsafe { self.hold_hinted(start, wanted, room) };
        }
        // SAFETY: The first `got` pointers were written, and `got <= wanted <= spare.len()`.
        // INVARIANT: With each page came a reference to it.
        unsafe { held.pages.inc_len(got) };
        got
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
        if !unsafe { sys::kvm_inspect_has_numa_hints() } {
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
            sys::get_user_pages_remote(
                self.mm.as_raw(),
                start,
                pages,
                sys::KVM_INSPECT_FOLL_PRESENT,
                room,
                ptr::null_mut(),
            )
        };
        usize::try_from(got).unwrap_or(0)
    }
}

impl Drop for BorrowedAddressSpace<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. The reference in `self.mm` goes after this.
        unsafe { sys::kthread_unuse_mm(self.mm.as_raw()) };
    }
}

/// Pages held by reference, so that they are not freed; a list of bounded length.
///
/// # Invariants
///
/// Each element is a valid page, to which this owns one reference.
pub(crate) struct HeldPages {
    pages: KVVec<NonNull<bindings::page>>,
}

// SAFETY: A page may be released from any task.
unsafe impl Send for HeldPages {}

impl HeldPages {
    /// An empty list with room for `capacity` pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn with_capacity(capacity: usize) -> Result<Self> {
        Ok(Self {
            pages: KVVec::with_capacity(capacity, GFP_KERNEL)?,
        })
    }

    /// The number of pages held.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// How many more pages can be held.
    pub(crate) fn room(&self) -> usize {
        self.pages.capacity().saturating_sub(self.pages.len())
    }

    /// Releases all but the last `keep` pages.
    pub(crate) fn release_all_but_last(&mut self, keep: usize) {
        let gone = self.pages.len().saturating_sub(keep);
        for page in self.pages.iter().take(gone) {
            // SAFETY: By the type invariant; the pointer is removed below.
            unsafe { sys::kvm_inspect_put_page(page.as_ptr()) };
        }
        self.pages.copy_within(gone.., 0);
        let left = self.pages.len().saturating_sub(gone);
        self.pages.truncate(left);
    }

    /// Maps all pages, in order, as one piece of read-only kernel memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. An empty list cannot be mapped: `EINVAL`.
    pub(crate) fn map(&self) -> Result<Window<'_>> {
        let count = u32::try_from(self.pages.len()).map_err(|_| EINVAL)?;
        if count == 0 {
            return Err(EINVAL);
        }
        let size = self.pages.len().checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        // SAFETY: `count` valid pages. `NonNull<page>` has the layout of a pointer, and the array
        // is only read.
        let base = unsafe {
            sys::kvm_inspect_vmap_read_only(
                self.pages.as_ptr().cast_mut().cast::<*mut bindings::page>(),
                count,
            )
        };
        // INVARIANT: The mapping stands until `drop`, its pages until the borrow ends.
        Ok(Window {
            base: NonNull::new(base).ok_or(ENOMEM)?,
            size,
            _pages: PhantomData,
        })
    }
}

impl Drop for HeldPages {
    fn drop(&mut self) {
        self.release_all_but_last(0);
    }
}

/// Pages that are neighbours in the guest, seen as one piece of memory.
///
/// The guest's devices and the VMM may write to it at any time.
///
/// # Invariants
///
/// `base` is a mapping by `vmap` of `size` bytes, whose pages are held for the lifetime.
pub(crate) struct Window<'a> {
    base: NonNull<c_void>,
    size: usize,
    _pages: PhantomData<&'a HeldPages>,
}

impl Window<'_> {
    /// A view for volatile reads.
    pub(crate) fn view(&self) -> SysMem<'_, Region> {
        let region = Region::ptr_from_raw_parts_mut(self.base.as_ptr().cast(), self.size);
        // SAFETY: By the type invariant; `vmap` aligns to pages. The mapping is read-only, and
        // this crate never writes through the view.
        unsafe { SysMem::new(region) }
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { sys::vunmap(self.base.as_ptr()) };
    }
}
