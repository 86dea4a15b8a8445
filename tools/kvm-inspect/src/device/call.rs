// SPDX-License-Identifier: GPL-2.0

//! The calls of the device (`include/uapi/kvm_inspect.h`).
//!
//! This is the only file with unsafe code. Each function takes slices, and tells the kernel of no
//! more than they have.

#![allow(
    unsafe_code,
    reason = "an ioctl is unsafe: its structure has addresses"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use kvm_inspect_pure::uapi;
use rustix::{
    fs::{open, Mode, OFlags},
    io::{pread, Errno},
    ioctl::{ioctl, Opcode, Updater},
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// An open file of the device.
///
/// # Invariants
///
/// The descriptor is one of [`uapi::DEVICE`].
#[derive(Debug)]
pub(super) struct Device(OwnedFd);

/// Where a copy is written. What is [`None`] is not asked for.
#[derive(Debug, Default)]
pub(super) struct CopyRoom<'a> {
    /// A page for each.
    pub(super) buffer: Option<&'a mut [u8]>,
    /// A byte for each page.
    pub(super) kinds: Option<&'a mut [u8]>,
    /// 64 bits for each page.
    pub(super) digests: Option<&'a mut [u64]>,
}

impl Device {
    /// Opens the device.
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        // INVARIANT: The path is the device's.
        Ok(Self(open(uapi::DEVICE, flags, Mode::empty())?))
    }

    /// Reads at a guest-physical address.
    pub(super) fn read_at(&self, buffer: &mut [u8], gpa: u64) -> Result<usize, Errno> {
        pread(&self.0, buffer, gpa)
    }

    pub(super) fn attach(
        &self,
        pidfd: BorrowedFd<'_>,
        vm_fd: Option<i32>,
    ) -> Result<uapi::Attach, Errno> {
        let mut attach = uapi::Attach {
            pidfd: pidfd.as_raw_fd(),
            vm_fd: vm_fd.unwrap_or(-1),
            pid: 0,
            vcpus: 0,
        };
        // SAFETY: The structure is this call's, and has no address.
        unsafe { self.call::<{ uapi::ATTACH }, _>(&mut attach)? };
        Ok(attach)
    }

    /// Writes why the last call failed, and returns how many bytes that are.
    pub(super) fn explain(&self, text: &mut [u8]) -> Result<usize, Errno> {
        let mut explain = uapi::Explain {
            text: address(text),
            room: room(text),
            length: 0,
        };
        // SAFETY: The structure is this call's, and its address is that of as many bytes.
        unsafe { self.call::<{ uapi::EXPLAIN }, _>(&mut explain)? };
        Ok(to_usize(explain.length).min(text.len()))
    }

    pub(super) fn progress(&self) -> Result<uapi::Progress, Errno> {
        let mut progress = uapi::Progress::new_zeroed();
        // SAFETY: The structure is this call's, and has no address.
        unsafe { self.call::<{ uapi::PROGRESS }, _>(&mut progress)? };
        Ok(progress)
    }

    /// Writes the memslots, and returns how many there are.
    pub(super) fn slots(&self, slots: &mut [uapi::Slot], flags: u32) -> Result<usize, Errno> {
        let mut request = uapi::Slots {
            slots: address(slots),
            slot_size: size::<uapi::Slot>(),
            room: room(slots),
            count: 0,
            flags,
        };
        // SAFETY: The structure is this call's, and its address is that of as many slots.
        unsafe { self.call::<{ uapi::SLOTS }, _>(&mut request)? };
        Ok(to_usize(request.count))
    }

    pub(super) fn vcpus(
        &self,
        vcpus: &mut [uapi::Vcpu],
        flags: u32,
        freeze_timeout_ms: u32,
    ) -> Result<uapi::Vcpus, Errno> {
        let mut request = uapi::Vcpus {
            vcpus: address(vcpus),
            vcpu_size: size::<uapi::Vcpu>(),
            room: room(vcpus),
            flags,
            freeze_timeout_ms,
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The structure is this call's, and its address is that of as many vCPUs.
        unsafe { self.call::<{ uapi::VCPUS }, _>(&mut request)? };
        Ok(request)
    }

    pub(super) fn present(
        &self,
        extents: &mut [uapi::Extent],
        pages: uapi::Pages,
        address_space: u32,
    ) -> Result<uapi::Present, Errno> {
        let mut request = uapi::Present {
            gpa: pages.gpa,
            pages: pages.pages,
            extents: address(extents),
            extent_size: size::<uapi::Extent>(),
            room: room(extents),
            address_space,
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The structure is this call's, and its address is that of as many extents.
        unsafe { self.call::<{ uapi::PRESENT_PAGES }, _>(&mut request)? };
        Ok(request)
    }

    /// Copies pages. The addresses and the count of ranges in `request` are set here.
    ///
    /// `EINVAL`: a slice has not just one element for each page, or the buffer not 4096 bytes.
    pub(super) fn copy(
        &self,
        ranges: &[uapi::Pages],
        to: &mut CopyRoom<'_>,
        mut request: uapi::Copy,
    ) -> Result<uapi::Copy, Errno> {
        let pages = ranges
            .iter()
            .try_fold(0_u64, |sum, range| sum.checked_add(range.pages));
        let pages = pages
            .and_then(|pages| usize::try_from(pages).ok())
            .ok_or(Errno::INVAL)?;
        let bytes = pages.checked_mul(super::PAGE_BYTES).ok_or(Errno::INVAL)?;
        let buffer = to.buffer.as_deref_mut();
        let kinds = to.kinds.as_deref_mut();
        let digests = to.digests.as_deref_mut();
        if buffer.as_ref().is_some_and(|buffer| buffer.len() != bytes)
            || kinds.as_ref().is_some_and(|kinds| kinds.len() != pages)
            || digests
                .as_ref()
                .is_some_and(|digests| digests.len() != pages)
        {
            return Err(Errno::INVAL);
        }
        request.ranges = address_of(ranges);
        request.range_count = u32::try_from(ranges.len()).map_err(|_| Errno::TOOBIG)?;
        request.buffer = buffer.map_or(0, address);
        request.kinds = kinds.map_or(0, address);
        request.digests = digests.map_or(0, address);
        // SAFETY: The structure is this call's. Its addresses are those of as many ranges, and of
        // as many elements as the ranges have pages.
        unsafe { self.call::<{ uapi::COPY }, _>(&mut request)? };
        Ok(request)
    }

    /// Searches. The addresses and counts of patterns and spans in `request` are set here.
    pub(super) fn search(
        &self,
        patterns: &[Vec<u8>],
        spans: &[uapi::Span],
        mut request: uapi::Search,
    ) -> Result<uapi::Search, Errno> {
        let texts = patterns.iter().map(|text| {
            Ok(uapi::Pattern {
                text: address_of(text),
                length: u32::try_from(text.len()).map_err(|_| Errno::TOOBIG)?,
                reserved: 0,
            })
        });
        let texts = texts.collect::<Result<Vec<_>, Errno>>()?;
        request.patterns = address_of(&texts);
        request.pattern_count = u32::try_from(texts.len()).map_err(|_| Errno::TOOBIG)?;
        request.spans = address_of(spans);
        request.span_count = u32::try_from(spans.len()).map_err(|_| Errno::TOOBIG)?;
        // SAFETY: The structure is this call's. Its addresses are those of as many patterns, each
        // with the address of as many bytes, and of as many spans.
        unsafe { self.call::<{ uapi::SEARCH }, _>(&mut request)? };
        Ok(request)
    }

    /// Writes hits of the last search with their bytes, and returns how many.
    pub(super) fn hits(
        &self,
        first: u64,
        hits: &mut [uapi::Hit],
        bytes: &mut [u8],
    ) -> Result<usize, Errno> {
        let mut request = uapi::Hits {
            first,
            hits: address(hits),
            bytes: address(bytes),
            hit_size: size::<uapi::Hit>(),
            room: room(hits),
            bytes_room: room(bytes),
            count: 0,
        };
        // SAFETY: The structure is this call's, and its addresses are those of as many hits and
        // bytes.
        unsafe { self.call::<{ uapi::HITS }, _>(&mut request)? };
        Ok(to_usize(request.count).min(hits.len()))
    }

    /// Writes what the last search does not cover, and returns how many.
    pub(super) fn uncovered(
        &self,
        first: u64,
        uncovered: &mut [uapi::Uncovered],
    ) -> Result<usize, Errno> {
        let mut request = uapi::Uncovereds {
            first,
            uncovered: address(uncovered),
            uncovered_size: size::<uapi::Uncovered>(),
            room: room(uncovered),
            count: 0,
            reserved: 0,
        };
        // SAFETY: The structure is this call's, and its address is that of as many elements.
        unsafe { self.call::<{ uapi::UNCOVERED }, _>(&mut request)? };
        Ok(to_usize(request.count).min(uncovered.len()))
    }

    pub(super) fn hold(&self, mut request: uapi::Hold) -> Result<uapi::Hold, Errno> {
        // SAFETY: The structure is this call's, and has no address.
        unsafe { self.call::<{ uapi::HOLD }, _>(&mut request)? };
        Ok(request)
    }

    pub(super) fn release(&self) -> Result<uapi::Release, Errno> {
        let mut request = uapi::Release::new_zeroed();
        // SAFETY: The structure is this call's, and has no address.
        unsafe { self.call::<{ uapi::RELEASE }, _>(&mut request)? };
        Ok(request)
    }

    /// Makes a call.
    ///
    /// # Safety
    ///
    /// `T` is the structure of the call `CALL`, and each address in it is of as much memory as it
    /// says, which outlives the call: memory to be read, or exclusive memory to be written, in
    /// which each value of a byte is valid.
    unsafe fn call<const CALL: Opcode, T: FromBytes + IntoBytes>(
        &self,
        structure: &mut T,
    ) -> Result<(), Errno> {
        // SAFETY: By the contract, the structure is that of the call.
        let call = unsafe { Updater::<CALL, T>::new(structure) };
        // SAFETY: By the type invariant the descriptor is the device's, so the call does what the
        // header says: it reads and writes the structure, and, by the contract, memory that may be
        // read and written.
        unsafe { ioctl(self.0.as_fd(), call) }
    }
}

/// Returns the address of memory that the kernel is to write.
fn address<T: FromBytes + IntoBytes>(memory: &mut [T]) -> u64 {
    to_u64(memory.as_mut_ptr().expose_provenance())
}

/// Returns the address of memory that the kernel is to read.
fn address_of<T>(memory: &[T]) -> u64 {
    to_u64(memory.as_ptr().expose_provenance())
}

/// Returns for how many elements the kernel is told that there is room.
fn room<T>(memory: &[T]) -> u32 {
    u32::try_from(memory.len()).unwrap_or(u32::MAX)
}

/// Returns the size of a structure.
fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// Returns the same number: there is no address of more than 64 bits.
fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Returns the same number: the program is of 64 bits, as KVM on x86-64.
fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
