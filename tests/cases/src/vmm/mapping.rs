// SPDX-License-Identifier: GPL-2.0

//! Memory of this process that a guest may share.

use std::{
    ffi::c_void,
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    ptr::{self, NonNull},
    sync::Arc,
};

use rustix::{
    fd::OwnedFd,
    fs::{ftruncate, memfd_create, MemfdFlags},
    io::Errno,
    mm::{
        madvise, mmap, mmap_anonymous, mprotect, munmap, Advice, MapFlags, MprotectFlags, ProtFlags,
    },
};

use crate::process::PAGE;

/// The size of a huge page.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// Moves only pages of this process alone (the kernel's `include/uapi/linux/mempolicy.h`).
const MPOL_MF_MOVE: i32 = 1 << 1;

/// A kind of memory.
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

/// Memory, aligned to huge pages, without neighbours in the process's address space.
///
/// The guest may change it at any time, so there are no references to its bytes.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: u64,
    /// All of its address space, with what is around it.
    reserved: (NonNull<c_void>, usize),
}

// SAFETY: The memory belongs to no thread, and is accessed by volatile operations only.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, none of them touched.
    pub(crate) fn new(len: u64, backing: Backing) -> Arc<Self> {
        let file = backing.file(len.next_multiple_of(HUGE_PAGE));
        let this = Self::with(
            len,
            file.as_ref().map(|file| (file.as_fd(), 0)),
            MapFlags::SHARED,
        );
        match backing {
            // A realtime kernel has no huge pages, and refuses.
            Backing::Anonymous => {
                let _ = this.try_to_advise(0, len, Advice::LinuxNoHugepage);
            }
            Backing::TransparentHuge => this.advise(0, len, Advice::LinuxHugepage),
            Backing::Memfd | Backing::HugeTlb => (),
        }
        this
    }

    /// Maps the first `len` bytes of a file, shared.
    pub(crate) fn shared(file: &File, len: u64) -> Arc<Self> {
        Self::shared_at(file, len, 0)
    }

    /// Maps `len` bytes of a file from an offset on, shared.
    pub(crate) fn shared_at(file: &File, len: u64, offset: u64) -> Arc<Self> {
        Self::with(len, Some((file.as_fd(), offset)), MapFlags::SHARED)
    }

    /// Maps the first `len` bytes of a device, to be read.
    pub(crate) fn device(file: &File, len: u64) -> Arc<Self> {
        // SAFETY: A new mapping, at an address that the kernel chooses.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                to_usize(len),
                ProtFlags::READ,
                MapFlags::SHARED,
                file,
                0,
            )
        };
        let start = NonNull::new(start.expect("it can be mapped"));
        let start = start.expect("the mapping has an address");
        Arc::new(Self {
            start: start.cast(),
            len,
            reserved: (start, to_usize(len)),
        })
    }

    /// Maps the first `len` bytes of a file, none of them touched. What is written stays here.
    pub(crate) fn private(file: &File, len: u64) -> Arc<Self> {
        Self::with(len, Some((file.as_fd(), 0)), MapFlags::PRIVATE)
    }

    /// Creates a memfd of `len` bytes.
    pub(crate) fn new_memfd(len: u64) -> File {
        Backing::Memfd.file(len).expect("this kind has one").into()
    }

    /// Maps `len` bytes, of a file from an offset on if there is one.
    fn with(len: u64, file: Option<(BorrowedFd<'_>, u64)>, kind: MapFlags) -> Arc<Self> {
        assert!(len > 0 && len % PAGE == 0, "whole pages");
        let rounded = len.next_multiple_of(HUGE_PAGE);
        // With the size of a huge page unmapped on each side, or more.
        let reserved_len = to_usize(rounded + 3 * HUGE_PAGE);
        // SAFETY: This is a new mapping, at an address that the kernel chooses.
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
        let mapped = match file {
            // SAFETY: This replaces a part of the new mapping.
            None => unsafe {
                let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
                mmap_anonymous(start, size, protection, flags)
            },
            // SAFETY: As above.
            Some((file, offset)) => unsafe {
                mmap(
                    start,
                    size,
                    protection,
                    kind | MapFlags::FIXED,
                    file,
                    offset,
                )
            },
        };
        let start = mapped.expect("the memory can be mapped");
        Arc::new(Self {
            start: NonNull::new(start.cast()).expect("the mapping has an address"),
            len,
            reserved: (
                NonNull::new(reserved).expect("the mapping has an address"),
                reserved_len,
            ),
        })
    }

    /// Returns the host-virtual address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.start.addr().get() as u64
    }

    /// Returns the number of bytes.
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

    /// Reads a number in one piece, as the guest wrote it.
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

    /// Fills all pages with some bytes, again and again. To search equal bytes takes less time.
    pub(crate) fn fill_all(&self, bytes: &[u8]) {
        let bytes = bytes.iter().copied().cycle();
        let page: Vec<u8> = bytes.take(to_usize(PAGE)).collect();
        for offset in (0..self.len).step_by(to_usize(PAGE)) {
            self.write(offset, &page);
        }
    }

    /// Lets the kernel merge pages that have the same contents.
    pub(crate) fn let_merge(&self) {
        self.advise(0, self.len, Advice::LinuxMergeable);
    }

    /// Gives the pages of a range back to the kernel. They are absent then, and zeros when touched
    /// again.
    pub(crate) fn discard(&self, offset: u64, len: u64) {
        self.advise(offset, len, Advice::LinuxDontNeed);
    }

    /// Unmaps the pages of a range.
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
        // SAFETY: This replaces a part of the mapping, on whose contents nobody relies.
        unsafe { mmap_anonymous(start.cast(), to_usize(len), protection, flags) }
            .expect("the memory can be replaced");
    }

    /// Lets nobody read the pages of a range any more (`PROT_NONE`). Their contents stay.
    pub(crate) fn forbid(&self, offset: u64, len: u64) {
        self.protect(offset, len, MprotectFlags::empty());
    }

    /// Allows again what [`Self::forbid`] has forbidden.
    pub(crate) fn allow(&self, offset: u64, len: u64) {
        self.protect(offset, len, MprotectFlags::READ | MprotectFlags::WRITE);
    }

    fn protect(&self, offset: u64, len: u64, protection: MprotectFlags) {
        let start = self.at(offset, len);
        // SAFETY: The range is in the mapping, whose contents stay.
        unsafe { mprotect(start.cast(), to_usize(len), protection) }
            .expect("the protection can be changed");
    }

    /// Punches a hole into the file that the memory is in.
    pub(crate) fn punch(&self, offset: u64, len: u64) {
        self.advise(offset, len, Advice::LinuxRemove);
    }

    /// Asks the kernel to swap everything out.
    pub(crate) fn page_out(&self) {
        self.page_out_range(0, self.len);
    }

    /// Asks the kernel to swap a range out.
    pub(crate) fn page_out_range(&self, offset: u64, len: u64) {
        self.advise(offset, len, Advice::LinuxPageOut);
    }

    /// Tells the kernel that the page at `offset` has a memory error.
    pub(crate) fn poison(&self, offset: u64) {
        let start = self.at(offset, PAGE);
        // SAFETY: The page is in the mapping. Nobody relies on its contents.
        let result = unsafe { madvise(start.cast(), to_usize(PAGE), Advice::LinuxHwPoison) };
        // The kernel may not be able to take it away.
        assert!(
            matches!(result, Ok(()) | Err(Errno::HWPOISON)),
            "poisoning: {result:?}"
        );
    }

    /// Asks the kernel to move the pages of a range to a NUMA node. Returns how many are there
    /// then.
    pub(crate) fn move_to_node(&self, offset: u64, len: u64, node: i32) -> usize {
        let pages: Vec<*mut u8> = (offset..offset + len)
            .step_by(to_usize(PAGE))
            .map(|offset| self.at(offset, PAGE))
            .collect();
        let nodes = vec![node; pages.len()];
        let mut status = vec![-1_i32; pages.len()];
        // SAFETY: The three arrays have as many elements as is said. Moving a page does not change
        // its contents.
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

    /// Asks the kernel to make huge pages of it.
    pub(crate) fn collapse(&self) {
        // SAFETY: The range is the mapping, whose contents stay.
        unsafe {
            libc::madvise(
                self.start.as_ptr().cast(),
                to_usize(self.len),
                libc::MADV_COLLAPSE,
            );
        }
    }

    /// Gives advice, of a kind that keeps the memory valid. It may change the contents.
    fn advise(&self, offset: u64, len: u64, advice: Advice) {
        self.try_to_advise(offset, len, advice)
            .unwrap_or_else(|error| panic!("{advice:?}: {error}"));
    }

    /// The same, which may be refused.
    fn try_to_advise(&self, offset: u64, len: u64, advice: Advice) -> rustix::io::Result<()> {
        let start = self.at(offset, len);
        // SAFETY: The range is in the mapping. Nobody relies on its contents.
        unsafe { madvise(start.cast(), to_usize(len), advice) }
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
        // SAFETY: The range is all of this mapping. No pointer to it is left.
        unsafe { munmap(start.as_ptr(), len) }.expect("it was mapped");
    }
}

impl Backing {
    /// Returns transparent huge pages, or small ones for a kernel that has no others, as a realtime
    /// one.
    pub(crate) fn huge_if_there_are() -> Self {
        if Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            Self::TransparentHuge
        } else {
            Self::Anonymous
        }
    }

    /// Creates the file for the memory, if this kind has one.
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

/// Returns a length of memory as a `usize`, which it fits in.
pub(crate) fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("the host has 64 bits")
}
