// SPDX-License-Identifier: GPL-2.0

//! Memory that ends the process if any instruction reads beyond it.

use std::{
    ffi::c_void,
    ptr, //
};

use kvm_inspect_pure::scan::{
    Memory,
    Piece, //
};
use rustix::mm::{
    mmap_anonymous,
    mprotect,
    munmap,
    MapFlags,
    MprotectFlags,
    ProtFlags, //
};
use unit::Cut;

const PAGE: usize = 4096;

/// Memory whose pieces each end before a page that cannot be read.
pub(crate) struct Guarded {
    pieces: Vec<Mapping>,
    /// The offsets where pieces end.
    ends: Vec<usize>,
}

/// One piece.
///
/// # Invariants
///
/// The `size` bytes from `base` on are mapped for this piece alone. All but the last page can be
/// read.
struct Mapping {
    base: *mut c_void,
    size: usize,
    /// The number of bytes in the piece.
    len: usize,
}

impl Guarded {
    /// Creates a copy of pieces.
    pub(crate) fn new(cut: &Cut<'_>) -> Self {
        let (mut pieces, mut ends) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < cut.len() {
            let next = at + cut.piece(at).len();
            pieces.push(Mapping::new(&cut.bytes[at..next]));
            ends.push(next);
            at = next;
        }
        Self { pieces, ends }
    }
}

impl Memory for Guarded {
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        let index = self.ends.partition_point(|end| *end <= at);
        let piece = &self.pieces[index];
        piece.last(self.ends[index] - at)
    }
}

impl Mapping {
    fn new(bytes: &[u8]) -> Self {
        let size = bytes.len().next_multiple_of(PAGE) + PAGE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: This is new memory.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), size, access, MapFlags::PRIVATE) }
            .expect("there is memory");
        // INVARIANT: The last page is made unreadable below.
        let this = Self {
            base,
            size,
            len: bytes.len(),
        };
        let guard = base.wrapping_byte_add(size - PAGE);
        let start = guard.wrapping_byte_sub(bytes.len()).cast();
        // SAFETY: Both have this many bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
        // SAFETY: It is a page of this mapping, which nobody uses.
        unsafe { mprotect(guard, PAGE, MprotectFlags::empty()) }.expect("there is memory");
        this
    }

    /// Returns the last `len` bytes.
    fn last(&self, len: usize) -> Piece<'_> {
        assert!(len <= self.len);
        let guard = self.base.wrapping_byte_add(self.size - PAGE);
        // SAFETY: By the invariant they can be read as long as `self` lives.
        unsafe { Piece::new(guard.wrapping_byte_sub(len).cast(), len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: By the invariant it is ours. No piece of it outlives `self`.
        unsafe { munmap(self.base, self.size) }.expect("it is there");
    }
}
