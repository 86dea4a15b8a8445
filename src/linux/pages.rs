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
    scan::{
        Memory,
        Piece, //
    }, //
};

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

    /// Returns about how many bytes of memory a list with room for `capacity` pages has.
    pub(crate) fn memory(capacity: usize, access: Access) -> usize {
        capacity.saturating_mul(match access {
            Access::Copy => PAGE_SIZE,
            Access::Linear | Access::Vmap => size_of::<usize>(),
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
                for (page, copy) in self
                    .pages
                    .iter()
                    .zip(self.copies.chunks_exact_mut(PAGE_SIZE))
                {
                    // SAFETY: By the type invariant, and `copy` has the size of a page.
                    unsafe { bindings::copy_page(copy.as_mut_ptr().cast(), page.as_ptr()) };
                }
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
