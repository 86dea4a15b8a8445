// SPDX-License-Identifier: GPL-2.0

//! The pages of a file that are in memory, whether or not somebody has mapped them.
//!
//! C headers: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h),
//! [`include/linux/xarray.h`](srctree/include/linux/xarray.h)

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::mm::virt::VmaRef;

use crate::{
    bindings,
    linux::pages::{
        Absence,
        HeldPages,
        Sight, //
    }, //
};

/// An open file, which stays open while this lives.
///
/// # Invariants
///
/// This owns a reference to the file, which has a mapping of its pages.
pub(crate) struct OpenFile(NonNull<bindings::file>);

// SAFETY: A file may be used and released from any task.
unsafe impl Send for OpenFile {}

// SAFETY: A shared reference allows to look for pages, which is safe from any task.
unsafe impl Sync for OpenFile {}

impl OpenFile {
    /// Takes over a reference to a file.
    ///
    /// # Safety
    ///
    /// `file` is null, or the caller owns a reference to it and gives it up.
    pub(crate) unsafe fn owned(file: *mut bindings::file) -> Option<Self> {
        // INVARIANT: By this function's contract.
        NonNull::new(file).map(Self)
    }

    /// Returns its pages.
    pub(crate) fn pages(&self) -> FilePages<'_> {
        // SAFETY: By the type invariant; the field does not change while the file is open.
        let mapping = unsafe { (*self.0.as_ptr()).f_mapping };
        // INVARIANT: The open file keeps its mapping.
        FilePages {
            mapping,
            _file: PhantomData,
        }
    }

    /// Returns a number that tells files apart while they are open.
    pub(crate) fn id(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. (A kernel thread leaves the rest to a work item.)
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// How many entries for pages that are not in memory to look at, after the first.
const VALUES_AT_ONCE: usize = 1023;

/// What a mapping has at one place.
struct Found {
    index: usize,
    /// An entry for a page that is not in memory.
    is_value: bool,
}

/// The pages of a file. A page has the number of its place in the file.
///
/// # Invariants
///
/// `mapping` is that of a file that stays open for the lifetime.
pub(crate) struct FilePages<'a> {
    mapping: *mut bindings::address_space,
    _file: PhantomData<&'a ()>,
}

impl<'a> FilePages<'a> {
    /// Returns the pages of the file that `area` maps, if it does. If it maps some that must not
    /// be looked at, or that are nowhere but in the mapping, that is [`None`], too.
    pub(super) fn of_area(area: &'a VmaRef) -> Option<Self> {
        // SAFETY: `area` is valid and locked, and keeps its file.
        let mapping = unsafe { bindings::area_mapping(area.as_ptr()) };
        // SAFETY: The mapping of an open file.
        let is_readable = !mapping.is_null() && unsafe { bindings::is_in_linear_map(mapping) };
        // INVARIANT: The area keeps the file open.
        is_readable.then_some(Self {
            mapping,
            _file: PhantomData,
        })
    }

    /// Tells what is at page `first`, and for how many of `pages` pages, at least one, that is so.
    pub(crate) fn look(&self, first: u64, pages: usize) -> Sight {
        let Ok(first) = usize::try_from(first) else {
            return Sight::Absent(Absence::Unmapped, pages);
        };
        // SAFETY: By the type invariant.
        let size = unsafe { bindings::mapping_pages(self.mapping) };
        let Some(in_file) = size.checked_sub(first).filter(|in_file| *in_file > 0) else {
            return Sight::Absent(Absence::Unmapped, pages);
        };
        let pages = pages.min(in_file);
        // SAFETY: By the type invariant.
        let memory_only = unsafe { bindings::is_memory_only(self.mapping) };
        let (nothing, value) = if memory_only {
            (Absence::Untouched, Absence::Swapped)
        } else {
            (Absence::InFile, Absence::InFile)
        };
        let last = first.saturating_add(pages.saturating_sub(1));
        match self.find(first, last) {
            None => Sight::Absent(nothing, pages),
            Some(found) if found.index > first => {
                Sight::Absent(nothing, found.index.saturating_sub(first))
            }
            Some(found) if !found.is_value => Sight::Present,
            Some(_) => {
                let more = (first.saturating_add(1)..=last).take(VALUES_AT_ONCE);
                let is_value = |at: &usize| self.find(*at, *at).is_some_and(|found| found.is_value);
                Sight::Absent(value, more.take_while(is_value).count().saturating_add(1))
            }
        }
    }

    /// Returns what the mapping has at the first place from `first` to `last` that is not empty.
    fn find(&self, first: usize, last: usize) -> Option<Found> {
        let mut index = first;
        // SAFETY: By the type invariant. The entry is only looked at, not what it points to.
        let entry = unsafe {
            bindings::xa_find(
                &raw mut (*self.mapping).i_pages,
                &raw mut index,
                last,
                bindings::KVM_INSPECT_XA_PRESENT,
            )
        };
        (!entry.is_null()).then(|| Found {
            index,
            // SAFETY: Any pointer is allowed.
            is_value: unsafe { bindings::xa_is_value(entry) },
        })
    }

    /// Holds those of `pages` pages from `first` on that are cached, up to the first that is not.
    /// Appends them to `held` as far as that has capacity, and returns how many.
    ///
    /// # Errors
    ///
    /// Why not even the first is held.
    pub(crate) fn hold(
        &self,
        first: u64,
        pages: usize,
        held: &mut HeldPages,
    ) -> Result<usize, Absence> {
        let mut fresh = false;
        let take = |room: *mut *mut bindings::page, most: usize| {
            let mut count = 0;
            while count < pages.min(most) {
                let Some(index) = usize::try_from(first)
                    .ok()
                    .and_then(|first| first.checked_add(count))
                else {
                    break;
                };
                // SAFETY: By the type invariant.
                let page = unsafe { bindings::cached_page(self.mapping, index, &raw mut fresh) };
                if page.is_null() {
                    break;
                }
                // SAFETY: `room` is for at least `most` pointers.
                unsafe { room.add(count).write(page) };
                count += 1;
            }
            count
        };
        // SAFETY: Each page comes with a reference.
        match unsafe { held.append(take) } {
            0 if fresh => Err(Absence::Untouched),
            0 => Err(Absence::Busy),
            count => Ok(count),
        }
    }
}
