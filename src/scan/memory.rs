// SPDX-License-Identifier: GPL-2.0

//! The memory that is scanned. It may change at any time, so no reference to it is ever formed: it
//! is only read, by volatile reads and by assembly.

use core::{
    marker::PhantomData,
    mem::size_of, //
};

/// A piece of memory, all of it at neighbouring addresses.
///
/// # Invariants
///
/// The `len` bytes from `start` on can be read, by volatile reads, during the lifetime.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    start: *const u8,
    len: usize,
    _memory: PhantomData<&'a u8>,
}

/// A number at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned<T>(T);

impl Piece<'_> {
    /// Returns the piece of the `len` bytes from `start` on.
    ///
    /// # Safety
    ///
    /// They can be read, by volatile reads, during the lifetime. They may change meanwhile.
    #[must_use]
    pub const unsafe fn new(start: *const u8, len: usize) -> Self {
        // INVARIANT: By this function's contract.
        Self {
            start,
            len,
            _memory: PhantomData,
        }
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the first `len` bytes, or all of them if there are fewer.
    #[must_use]
    pub fn up_to(self, len: usize) -> Self {
        // INVARIANT: No more bytes than before.
        Self {
            len: self.len.min(len),
            ..self
        }
    }

    /// Returns the bytes from `at` on; none beyond the end.
    #[must_use]
    pub fn after(self, at: usize) -> Self {
        let at = at.min(self.len);
        // INVARIANT: No other bytes than before.
        Self {
            start: self.start.wrapping_add(at),
            len: self.len.wrapping_sub(at),
            ..self
        }
    }

    /// Returns where it begins, for assembly that only reads.
    pub(super) const fn as_ptr(&self) -> *const u8 {
        self.start
    }

    /// Reads a plain number of any alignment at `at`; [`None`] beyond the end.
    #[inline]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        // The first that does not fit does not depend on `at`.
        if at >= self.len.saturating_sub(size_of::<T>() - 1) {
            return None;
        }
        // SAFETY: Within the piece, by its invariant; packed, it needs no alignment. `T` is an
        // integer, see the callers.
        let Unaligned(value) = unsafe { self.start.add(at).cast::<Unaligned<T>>().read_volatile() };
        Some(value)
    }

    /// Returns the little-endian word of eight bytes at `at`.
    #[inline]
    pub(super) fn word(&self, at: usize) -> Option<u64> {
        self.read::<u64>(at).map(u64::from_le)
    }

    /// Returns the little-endian words of eight bytes at each `stride`-th byte, from the first one
    /// on: `count` of them, or none if there are not enough bytes.
    #[inline]
    pub(super) fn words(&self, stride: usize, count: usize) -> Words<'_> {
        let last = count.saturating_sub(1).saturating_mul(stride);
        let is_there = last.saturating_add(size_of::<u64>()) <= self.len;
        // INVARIANT: The last one is within the piece, hence all before it.
        Words {
            next: self.start,
            stride,
            left: if is_there { count } else { 0 },
            _memory: PhantomData,
        }
    }

    /// Copies the first bytes into `into`, as many as fit. Returns how many.
    pub(super) fn copy(&self, into: &mut [u8]) -> usize {
        let len = self.len.min(into.len());
        let mut at = 0_usize;
        for bytes in into.chunks_mut(size_of::<u64>()) {
            if let (Some(word), [_, _, _, _, _, _, _, _]) = (self.word(at), &*bytes) {
                for (byte, from) in bytes.iter_mut().zip(word.to_le_bytes()) {
                    *byte = from;
                }
            } else {
                for (at, byte) in (at..).zip(bytes) {
                    *byte = self.read(at).unwrap_or(*byte);
                }
            }
            at = at.wrapping_add(size_of::<u64>());
        }
        len
    }
}

/// Some words of a piece.
///
/// # Invariants
///
/// During the lifetime eight bytes can be read, by volatile reads, at `next` and after each
/// `stride` bytes, `left` times.
pub(super) struct Words<'a> {
    next: *const u8,
    stride: usize,
    left: usize,
    _memory: PhantomData<&'a u8>,
}

impl Words<'_> {
    /// Returns the words after the first `count`.
    pub(super) fn after(self, count: usize) -> Self {
        let count = count.min(self.left);
        // INVARIANT: No others than before.
        Self {
            next: self.next.wrapping_add(self.stride.wrapping_mul(count)),
            left: self.left.wrapping_sub(count),
            ..self
        }
    }
}

impl Iterator for Words<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: By the type invariant; packed, it needs no alignment.
        let Unaligned(word) = unsafe { self.next.cast::<Unaligned<u64>>().read_volatile() };
        // INVARIANT: Where it is wrong there is none left.
        self.next = self.next.wrapping_add(self.stride);
        Some(u64::from_le(word))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Words<'_> {}

impl<'a> From<&'a [u8]> for Piece<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        // INVARIANT: The slice is borrowed for the lifetime.
        Self {
            start: bytes.as_ptr(),
            len: bytes.len(),
            _memory: PhantomData,
        }
    }
}

/// A stretch of memory, which may consist of several pieces.
pub trait Memory {
    /// Returns the number of bytes.
    fn len(&self) -> usize;

    /// Returns whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the piece with the byte at `at`, from that byte on. Not empty if `at` is below
    /// `len`.
    fn piece(&self, at: usize) -> Piece<'_>;

    /// Copies bytes from `at` on into `into`; what is beyond the end is left as it is.
    fn copy(&self, at: usize, into: &mut [u8]) {
        let mut done = 0_usize;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = at.saturating_add(done);
            if at >= self.len() {
                break;
            }
            match self.piece(at).copy(rest) {
                0 => break,
                copied => done = done.saturating_add(copied),
            }
        }
    }
}

impl Memory for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        Piece::from(self.get(at..).unwrap_or_default())
    }
}

/// Where the scanner runs.
pub trait Host {
    /// Does some work with the vector registers. It takes about as long as reading 128 KiB of
    /// memory.
    fn vector<R>(&self, work: impl FnOnce() -> R) -> R;

    /// Lets others have the CPU; called after each few steps. Returns whether to go on.
    fn breathe(&self) -> bool;
}
