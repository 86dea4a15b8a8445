// SPDX-License-Identifier: GPL-2.0

//! Memory of this process that a guest may use, too.

use std::{
    ffi::c_void,
    fs::{self, OpenOptions},
    io,
    ptr::{self, NonNull},
    sync::Arc,
};

use rustix::{
    fd::OwnedFd,
    fs::{ftruncate, memfd_create, MemfdFlags},
    mm::{madvise, mmap, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags},
};

use crate::process::PAGE;

/// The size of a huge page.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// Moves pages that this process alone has (the kernel's `include/uapi/linux/mempolicy.h`).
const MPOL_MF_MOVE: i32 = 1 << 1;

/// What memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Anonymous pages of 4 KiB.
    Anonymous,
    /// Anonymous memory with `madvise(MADV_HUGEPAGE)`.
    TransparentHuge,
    /// A memfd, shared.
    Memfd,
    /// A file in hugetlbfs, with pages of 2 MiB.
    HugeTlb,
}

/// Memory, aligned to huge pages, and with no neighbour in the process's address space.
///
/// The guest may change it at any time, hence there are no references to its bytes.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: u64,
    /// The whole stretch of address space.
    reserved: (NonNull<c_void>, usize),
}

// SAFETY: The memory belongs to no thread, and is accessed by volatile operations only.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, none of them touched.
    pub(crate) fn new(len: u64, backing: Backing) -> Arc<Self> {
        assert!(len > 0 && len % PAGE == 0, "whole pages");
        let rounded = len.next_multiple_of(HUGE_PAGE);
        // With at least one huge page of nothing on each side.
        let reserved_len = to_usize(rounded + 3 * HUGE_PAGE);
        // SAFETY: A new mapping, at an address that the kernel chooses.
        let reserved = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                reserved_len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let reserved = reserved.expect("there is address space");
        let first = reserved.addr() as u64;
        let offset = to_usize((first + HUGE_PAGE).next_multiple_of(HUGE_PAGE) - first);
        let start = reserved.wrapping_byte_add(offset);

        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let size = to_usize(len);
        let mapped = match backing.file(rounded) {
            // SAFETY: Replaces a part of what was reserved above.
            None => unsafe {
                let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
                mmap_anonymous(start, size, protection, flags)
            },
            // SAFETY: As above.
            Some(file) => unsafe {
                mmap(
                    start,
                    size,
                    protection,
                    MapFlags::SHARED | MapFlags::FIXED,
                    file,
                    0,
                )
            },
        };
        let start = mapped.expect("the memory can be mapped");
        let advice = match backing {
            Backing::Anonymous => Some(Advice::LinuxNoHugepage),
            Backing::TransparentHuge => Some(Advice::LinuxHugepage),
            Backing::Memfd | Backing::HugeTlb => None,
        };
        if let Some(advice) = advice {
            // SAFETY: The range is the mapping made above, and the advice does not change contents.
            unsafe { madvise(start, size, advice) }.expect("the kernel has huge pages");
        }
        Arc::new(Self {
            start: NonNull::new(start.cast()).expect("the mapping has an address"),
            len,
            reserved: (
                NonNull::new(reserved).expect("the mapping has an address"),
                reserved_len,
            ),
        })
    }

    /// The host-virtual address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.start.addr().get() as u64
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Writes bytes.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            // SAFETY: `at` returns a pointer into the mapping, which is writable.
            unsafe { self.at(at, 1).write_volatile(*byte) };
        }
    }

    /// Reads bytes.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        (offset..offset + len)
            // SAFETY: `at` returns a pointer into the mapping, which is readable.
            .map(|at| unsafe { self.at(at, 1).read_volatile() })
            .collect()
    }

    /// Reads a number at once, as the guest wrote it.
    pub(crate) fn read_u64(&self, offset: u64) -> u64 {
        let pointer = self.at(offset, 8).cast::<c_void>().cast::<u64>();
        assert!(pointer.is_aligned(), "the guest writes it as one");
        // SAFETY: `at` returns a pointer into the mapping, which is readable; it is aligned.
        unsafe { pointer.read_volatile() }
    }

    /// Makes all pages present, by writing to them.
    pub(crate) fn touch_all(&self) {
        for offset in (0..self.len).step_by(to_usize(PAGE)) {
            self.write(offset, &[0]);
        }
    }

    /// Fills all pages with a byte: what is not zero takes longer to search.
    pub(crate) fn fill_all(&self, byte: u8) {
        let page = vec![byte; to_usize(PAGE)];
        for offset in (0..self.len).step_by(to_usize(PAGE)) {
            self.write(offset, &page);
        }
    }

    /// Lets the kernel merge pages that have the same contents.
    pub(crate) fn let_merge(&self) {
        self.advise(0, self.len, Advice::LinuxMergeable);
    }

    /// Gives the pages of a range back to the kernel: they are absent, and zero when next touched.
    pub(crate) fn discard(&self, offset: u64, len: u64) {
        self.advise(offset, len, Advice::LinuxDontNeed);
    }

    /// Takes the pages of a range out of the address space.
    pub(crate) fn unmap(&self, offset: u64, len: u64) {
        self.replace(offset, len, ProtFlags::empty());
    }

    /// Maps new anonymous pages where [`Self::unmap`] has left a hole.
    pub(crate) fn map_again(&self, offset: u64, len: u64) {
        self.replace(offset, len, ProtFlags::READ | ProtFlags::WRITE);
    }

    fn replace(&self, offset: u64, len: u64, protection: ProtFlags) {
        let start = self.at(offset, len);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: Replaces a part of the mapping, on whose contents nobody relies.
        unsafe { mmap_anonymous(start.cast(), to_usize(len), protection, flags) }
            .expect("the memory can be replaced");
    }

    /// Punches a hole into the file that the memory is in.
    pub(crate) fn punch(&self, offset: u64, len: u64) {
        self.advise(offset, len, Advice::LinuxRemove);
    }

    /// Asks the kernel to swap everything out.
    pub(crate) fn page_out(&self) {
        self.advise(0, self.len, Advice::LinuxPageOut);
    }

    /// Moves the pages of a range to a NUMA node, as far as the kernel can. How many are there.
    pub(crate) fn move_to_node(&self, offset: u64, len: u64, node: i32) -> usize {
        let pages: Vec<*mut u8> = (offset..offset + len)
            .step_by(to_usize(PAGE))
            .map(|offset| self.at(offset, PAGE))
            .collect();
        let nodes = vec![node; pages.len()];
        let mut status = vec![-1_i32; pages.len()];
        // SAFETY: Three arrays of as many elements; where a page lies does not change its contents.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                pages.len(),
                pages.as_ptr(),
                nodes.as_ptr(),
                status.as_mut_ptr(),
                MPOL_MF_MOVE,
            )
        };
        assert!(result >= 0, "move_pages: {}", io::Error::last_os_error());
        status.iter().filter(|&&at| at == node).count()
    }

    /// Asks the kernel to make huge pages of all of it, as far as it can.
    pub(crate) fn collapse(&self) {
        // SAFETY: The range is the mapping, and its contents stay.
        unsafe {
            libc::madvise(
                self.start.as_ptr().cast(),
                to_usize(self.len),
                libc::MADV_COLLAPSE,
            );
        }
    }

    /// Gives advice that leaves the memory valid, whatever it does to the contents.
    fn advise(&self, offset: u64, len: u64, advice: Advice) {
        let start = self.at(offset, len);
        // SAFETY: The range is in the mapping, and nobody relies on more than that it is.
        unsafe { madvise(start.cast(), to_usize(len), advice) }
            .unwrap_or_else(|error| panic!("{advice:?}: {error}"));
    }

    fn at(&self, offset: u64, len: u64) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} bytes at {offset:#x} are not in a mapping of {:#x}",
            self.len
        );
        self.start.as_ptr().wrapping_add(to_usize(offset))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, len) = self.reserved;
        // SAFETY: This mapping is all that there is, and no pointer to it is left.
        unsafe { munmap(start.as_ptr(), len) }.expect("it was mapped");
    }
}

impl Backing {
    /// The file that the memory is in, if it is in one.
    fn file(self, len: u64) -> Option<OwnedFd> {
        match self {
            Self::Anonymous | Self::TransparentHuge => None,
            Self::Memfd => {
                let file = memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd is there");
                ftruncate(&file, len).expect("the memfd can grow");
                Some(file)
            }
            Self::HugeTlb => {
                let pages = (len / HUGE_PAGE).to_string();
                let pool = "/proc/sys/vm/nr_hugepages";
                fs::write(pool, &pages).expect("the pool can be set");
                let got = fs::read_to_string(pool).expect("the pool can be read");
                assert_eq!(got.trim(), pages, "huge pages are to be had");
                let path = "/dev/hugepages/guest";
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(path)
                    .expect("hugetlbfs is mounted");
                fs::remove_file(path).expect("it was just made");
                ftruncate(&file, len).expect("the file can grow");
                Some(file.into())
            }
        }
    }
}

/// A length of memory that fits into an address space.
pub(crate) fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("the host has 64 bits")
}
