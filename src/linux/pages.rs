// SPDX-License-Identifier: GPL-2.0

//! Pages of another process, held so that they are not freed, and the ways to read them.
//!
//! This module never writes to them. Their owner, its devices and its guest may, at any time.

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    bindings,
    linux::task,
    scan::{
        Memory,
        Piece, //
    }, //
};

/// Why a page cannot be held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It has no content: who reads it first gets zeros.
    Untouched,
    /// Nothing is mapped there, or nobody may read it.
    Unmapped,
    /// The host has swapped it out.
    Swapped,
    /// It is in a file, and not in memory.
    InFile,
    /// Its owner brings it when somebody touches it (`userfaultfd(2)`).
    Userfault,
    /// It has an uncorrectable memory error that the kernel knows of.
    Poisoned,
    /// It is memory of a device.
    Device,
    /// It is there, but nobody but its owner may read it.
    Unreadable,
    /// It is there, but could not be held just now: it is being moved, or its area being changed.
    Busy,
}

/// What is at an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// A page that can probably be held.
    Present,
    /// So many pages that cannot be held, for the same reason.
    Absent(Absence, usize),
}

/// How many pages after the first one [`View::piece`] checks for being neighbours.
const PIECE_PAGES: usize = 16;

/// How held pages are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// In the kernel's map of all memory. Each page is a piece of its own, unless they are
    /// neighbours there, too.
    Linear,
    /// In a mapping made for them, where they are one piece.
    Vmap,
    /// In a copy of each held page.
    Copy,
}

impl Access {
    /// All ways, with their names.
    pub(crate) const ALL: [(Self, &'static str); 3] = [
        (Self::Linear, "linear"),
        (Self::Vmap, "vmap"),
        (Self::Copy, "copy"),
    ];

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(access, _)| *access == self)
            .map_or("", |(_, name)| name)
    }
}

/// Pages held by reference, so that they are not freed; a list of bounded length.
///
/// # Invariants
///
/// Each element is a valid page, to which this owns one reference.
pub(crate) struct HeldPages {
    pages: KVVec<NonNull<bindings::page>>,
    /// Room for copies of all pages, if they are read in copies.
    copies: KVVec<u8>,
    access: Access,
}

// SAFETY: A page may be released from any task.
unsafe impl Send for HeldPages {}

impl HeldPages {
    /// Creates an empty list with room for `capacity` pages, which are read by `access`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn with_capacity(capacity: usize, access: Access) -> Result<Self> {
        let copied = match access {
            Access::Copy => capacity.checked_mul(PAGE_SIZE).ok_or(ENOMEM)?,
            Access::Linear | Access::Vmap => 0,
        };
        Ok(Self {
            pages: KVVec::with_capacity(capacity, GFP_KERNEL)?,
            copies: KVVec::from_elem(0, copied, GFP_KERNEL)?,
            access,
        })
    }

    /// Lets `take` append pages: it gets the room and its size, and returns how many it has filled.
    ///
    /// # Safety
    ///
    /// `take` fills as much as it returns, from the first element on, each with a reference that
    /// becomes this list's.
    pub(crate) unsafe fn append(
        &mut self,
        take: impl FnOnce(*mut *mut bindings::page, usize) -> usize, //
    ) -> usize {
        let spare = self.pages.spare_capacity_mut();
        let most = spare.len();
        let taken = take(spare.as_mut_ptr().cast(), most).min(most);
        // SAFETY: By this function's contract.
        // INVARIANT: With each page came a reference to it.
        unsafe { self.pages.inc_len(taken) };
        taken
    }

    /// Appends the kernel's page of zeros, in the place of one that nobody has touched. Returns
    /// whether there was room.
    pub(crate) fn append_zeros(&mut self) -> bool {
        let take = |room: *mut *mut bindings::page, most: usize| {
            if most == 0 {
                return 0;
            }
            // SAFETY: There is room for one pointer; the page is never freed.
            unsafe { room.write(bindings::zero_page()) };
            1
        };
        let before = self.len();
        // SAFETY: The page comes with a reference.
        let is_held = unsafe { self.append(take) } == 1;
        // Makes the copy, if pages are read in copies.
        is_held && !self.release_from_poisoned(before)
    }

    /// Returns how many pages are held.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Releases the first page from number `from` on that is known to be poisoned, and all after
    /// it. Returns whether there was one. Makes the copies, if pages are read in copies: those meet
    /// a memory error that the kernel does not know of yet, and survive it.
    ///
    /// Any other load from such a page would be a machine check, which ends the kernel.
    pub(crate) fn release_from_poisoned(&mut self, from: usize) -> bool {
        let copies = &mut self.copies;
        let mut pages = self.pages.iter().enumerate().skip(from);
        let poisoned = pages.find(|(number, page)| {
            let page = page.as_ptr();
            // SAFETY: By the type invariant.
            if unsafe { bindings::is_page_hwpoison(page) } {
                return true;
            }
            let start = number.saturating_mul(PAGE_SIZE);
            let copy = copies.get_mut(start..start.saturating_add(PAGE_SIZE));
            // SAFETY: By the type invariant, and `copy` has the size of a page.
            copy.is_some_and(|copy| unsafe {
                let from = bindings::page_address(page);
                bindings::copy_mc(copy.as_mut_ptr().cast(), from, PAGE_SIZE) != 0
            })
        });
        let Some((first, _)) = poisoned else {
            return false;
        };
        while self.pages.len() > first {
            if let Some(page) = self.pages.pop() {
                let mut page = page.as_ptr();
                // SAFETY: By the type invariant, this page's reference is given up here.
                unsafe { bindings::put_pages(&raw mut page, 1) };
            }
        }
        true
    }

    /// Releases all pages.
    pub(crate) fn release(&mut self) {
        // SAFETY: By the type invariant; the pointers are removed below. `NonNull<page>` has the
        // layout of a pointer, and the array is only read.
        unsafe {
            bindings::put_pages(
                self.pages.as_ptr().cast_mut().cast::<*mut bindings::page>(),
                self.pages.len() as c_ulong,
            )
        };
        self.pages.clear();
    }

    /// Returns a view of all pages, in order.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. `EINVAL`: the list is empty.
    pub(crate) fn view(&mut self) -> Result<View<'_>> {
        if self.pages.is_empty() {
            return Err(EINVAL);
        }
        match self.access {
            Access::Linear => Ok(View::Linear(&self.pages)),
            Access::Vmap => Ok(View::Mapped(Mapping::of(&self.pages)?)),
            Access::Copy => {
                let len = self.pages.len().saturating_mul(PAGE_SIZE);
                Ok(View::Copied(self.copies.get(..len).ok_or(EINVAL)?))
            }
        }
    }
}

impl Drop for HeldPages {
    fn drop(&mut self) {
        self.release();
    }
}

/// Pages of the current process's own memory, pinned so that they can be written by others.
///
/// # Invariants
///
/// Each element is a page that is pinned for writing by this.
pub(crate) struct UserPages(KVVec<NonNull<bindings::page>>);

// SAFETY: A page may be written, and unpinned, from any task.
unsafe impl Send for UserPages {}

// SAFETY: Pages are written without a reference to their memory being formed.
unsafe impl Sync for UserPages {}

impl UserPages {
    /// How many pages are pinned before signals are looked at.
    const AT_ONCE: usize = 512;

    /// Pins `count` pages from the address `start` on, which is a multiple of the page size.
    ///
    /// # Errors
    ///
    /// `EFAULT`: they cannot be written. `EINTR`: the current thread has a signal. `ENOMEM`.
    pub(crate) fn pin(start: usize, count: usize) -> Result<Self> {
        let mut this = Self(KVVec::with_capacity(count, GFP_KERNEL)?);
        while this.0.len() < count {
            if task::task_sigpending() {
                return Err(EINTR);
            }
            let done = this.0.len();
            let at = done
                .checked_mul(PAGE_SIZE)
                .and_then(|offset| start.checked_add(offset))
                .ok_or(EFAULT)?;
            let most = count.saturating_sub(done).min(Self::AT_ONCE);
            let room = this.0.spare_capacity_mut().as_mut_ptr();
            // SAFETY: There is room for `most` pages.
            let got = unsafe {
                bindings::pin_user_pages_fast(
                    at,
                    c_int::try_from(most)?,
                    bindings::KVM_INSPECT_FOLL_WRITE,
                    room.cast(),
                )
            };
            let got = usize::try_from(got).map_err(|_| Error::from_errno(got))?;
            if got == 0 {
                return Err(EFAULT);
            }
            // SAFETY: So many have been filled.
            // INVARIANT: They have just been pinned.
            unsafe { this.0.inc_len(got.min(most)) };
            task::cond_resched();
        }
        Ok(this)
    }

    /// Copies the page of `view` at the offset `at`, a multiple of the page size, to page number
    /// `index`. Returns whether it could: not if there is a memory error, which this survives.
    pub(crate) fn copy_page(&self, index: usize, view: &View<'_>, at: usize) -> bool {
        let (Some(page), Some((from, PAGE_SIZE))) = (self.0.get(index), view.contiguous(at)) else {
            return false;
        };
        // SAFETY: By the type invariant, and that of `view`. Its owner may write to it, too.
        unsafe {
            let to = bindings::page_address(page.as_ptr());
            bindings::copy_mc(to, from, PAGE_SIZE) == 0
        }
    }

    /// Fills page number `index` with zeros.
    pub(crate) fn clear_page(&self, index: usize) {
        if let Some(page) = self.0.get(index) {
            // SAFETY: By the type invariant.
            unsafe { bindings::page_address(page.as_ptr()).write_bytes(0, PAGE_SIZE) };
        }
    }

    /// Returns a view of `count` pages from number `index` on, at least one.
    pub(crate) fn view(&self, index: usize, count: usize) -> Option<View<'_>> {
        let pages = self.0.get(index..index.checked_add(count.max(1))?)?;
        // INVARIANT: By the type invariant.
        Some(View::Linear(pages))
    }
}

impl Drop for UserPages {
    fn drop(&mut self) {
        let pages = self.0.as_mut_ptr().cast::<*mut bindings::page>();
        // SAFETY: By the type invariant; `NonNull<page>` has the layout of a pointer.
        unsafe { bindings::unpin_user_pages_dirty_lock(pages, self.0.len(), true) };
    }
}

// Neighbours in the kernel's array of `struct page` are then neighbours in its map of all memory.
static_assert!(cfg!(CONFIG_SPARSEMEM_VMEMMAP));

/// Held pages as a stretch of memory.
///
/// # Invariants
///
/// The pages of `Linear` are held for the lifetime, and at least one.
pub(crate) enum View<'a> {
    /// In the kernel's map of all memory.
    Linear(&'a [NonNull<bindings::page>]),
    /// In a mapping made for them.
    Mapped(Mapping<'a>),
    /// Copied.
    Copied(&'a [u8]),
}

impl View<'_> {
    /// Copies bytes from `at` on into `into`, as many as there are. Returns how many; fewer if
    /// there is a memory error, which this survives.
    pub(crate) fn copy_safely(&self, at: usize, into: &mut [u8]) -> usize {
        let mut done = 0_usize;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = at.saturating_add(done);
            let Some((from, len)) = self.contiguous(at) else {
                break;
            };
            let len = len.min(rest.len());
            // SAFETY: By the type invariant there are `len` bytes at `from`, and `rest` has room.
            let left = unsafe { bindings::copy_mc(rest.as_mut_ptr().cast(), from, len) };
            done = done.saturating_add(len.saturating_sub(left));
            if left > 0 {
                break;
            }
        }
        done
    }

    /// Returns where the byte at `at` is, and how many there are from there on in its page.
    fn contiguous(&self, at: usize) -> Option<(*const c_void, usize)> {
        let left = self.len().checked_sub(at).filter(|left| *left > 0)?;
        let offset = at % PAGE_SIZE;
        let len = left.min(PAGE_SIZE - offset);
        let start = match self {
            Self::Linear(pages) => {
                let page = pages.get(at / PAGE_SIZE)?;
                // SAFETY: A held page; `offset` is within it.
                unsafe {
                    bindings::page_address(page.as_ptr())
                        .cast::<u8>()
                        .add(offset)
                }
                .cast_const()
            }
            // SAFETY: By its invariant, `at` is within the mapping.
            Self::Mapped(mapping) => unsafe { mapping.base.as_ptr().cast::<u8>().add(at) },
            Self::Copied(bytes) => bytes.get(at..)?.as_ptr(),
        };
        Some((start.cast(), len))
    }
}

impl Memory for View<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Linear(pages) => pages.len().saturating_mul(PAGE_SIZE),
            Self::Mapped(mapping) => mapping.size,
            Self::Copied(bytes) => bytes.len(),
        }
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        match self {
            Self::Linear(pages) => linear_piece(pages, at),
            Self::Mapped(mapping) => mapping.piece(at),
            Self::Copied(bytes) => Piece::from(bytes.get(at..).unwrap_or_default()),
        }
    }
}

/// Returns the piece from `at` on of held pages, each in the kernel's map of all memory.
fn linear_piece<'a>(pages: &'a [NonNull<bindings::page>], at: usize) -> Piece<'a> {
    let index = at / PAGE_SIZE;
    let Some((first, rest)) = pages.get(index..).and_then(<[_]>::split_first) else {
        return Piece::from(&[][..]);
    };
    let mut last = *first;
    let mut more = 0;
    for page in rest.iter().take(PIECE_PAGES) {
        if last.as_ptr().wrapping_add(1) != page.as_ptr() {
            break;
        }
        last = *page;
        more += 1;
    }
    let offset = at % PAGE_SIZE;
    // SAFETY: A held page. It and its `more` neighbours lie side by side, and stay mapped while
    // they are held; `offset` is within the first.
    unsafe {
        let base = bindings::page_address(first.as_ptr()).cast::<u8>();
        Piece::new(base.add(offset), (1 + more) * PAGE_SIZE - offset)
    }
}

/// Pages that are neighbours in the guest, mapped as one piece of read-only memory.
///
/// # Invariants
///
/// `base` is a mapping by `vmap` of `size` bytes, whose pages are held for the lifetime.
pub(crate) struct Mapping<'a> {
    base: NonNull<c_void>,
    size: usize,
    _pages: PhantomData<&'a HeldPages>,
}

impl<'a> Mapping<'a> {
    /// Maps pages that are held.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn of(pages: &'a KVVec<NonNull<bindings::page>>) -> Result<Self> {
        let count = u32::try_from(pages.len()).map_err(|_| EINVAL)?;
        let size = pages.len().checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        // SAFETY: `count` valid pages. `NonNull<page>` has the layout of a pointer, and the array
        // is only read.
        let base = unsafe {
            bindings::vmap_read_only(
                pages.as_ptr().cast_mut().cast::<*mut bindings::page>(),
                count,
            )
        };
        // INVARIANT: The mapping lasts until `drop`, its pages until the borrow ends.
        Ok(Self {
            base: NonNull::new(base).ok_or(ENOMEM)?,
            size,
            _pages: PhantomData,
        })
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        let at = at.min(self.size);
        // SAFETY: By the type invariant.
        unsafe { Piece::new(self.base.as_ptr().cast::<u8>().add(at), self.size - at) }
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::vunmap(self.base.as_ptr()) };
    }
}
