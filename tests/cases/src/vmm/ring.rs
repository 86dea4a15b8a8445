// SPDX-License-Identifier: GPL-2.0

//! An `io_uring` that waits for events, as far as a case needs it
//! (`include/uapi/linux/io_uring.h`).

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::{
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
        Arc,
    },
    thread,
};

use vmm_sys_util::eventfd::EventFd;

const ENTRIES: u32 = 4;
const PARTS: u32 = 2;
const SQE_LEN: usize = 64;
const OP_POLL_ADD: u8 = 6;
const OFFSET_SQ_RING: libc::off_t = 0;
const OFFSET_CQ_RING: libc::off_t = 0x800_0000;
const OFFSET_SQES: libc::off_t = 0x1000_0000;
const PAGE: usize = 4096;

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    entries: [u32; 2],
    flags: u32,
    other: [u32; 7],
    sq: Offsets,
    cq: Offsets,
}

/// `struct io_sqring_offsets`, `struct io_cqring_offsets`.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    /// Of submissions the flags, the dropped ones and the array; of completions something else.
    rest: [u32; 3],
    other: [u32; 3],
}

/// A ring. It belongs to the thread that made it.
pub(super) struct Ring {
    fd: OwnedFd,
    sq: *mut u8,
    cq: *mut u8,
    sqes: *mut u8,
    params: Params,
    event: Arc<Event>,
}

/// What a ring waits for, in two parts. Anybody may make it happen.
pub(crate) struct Event {
    parts: [EventFd; PARTS as usize],
    /// The ring waits, or will in a moment.
    is_awaited: AtomicBool,
    /// How often both parts have been taken.
    taken: AtomicU64,
}

impl Event {
    pub(super) fn new() -> Self {
        let part = || EventFd::new(libc::EFD_CLOEXEC).expect("there can be one");
        Self {
            parts: [part(), part()],
            is_awaited: AtomicBool::new(false),
            taken: AtomicU64::new(0),
        }
    }

    /// Returns whether a ring waits for it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_awaited.load(SeqCst)
    }

    /// Returns how often the ring has taken all of it.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(SeqCst)
    }

    /// Makes it happen, one part after the other.
    pub(crate) fn happen(&self, between: impl FnOnce()) {
        let [first, second] = &self.parts;
        first.write(1).expect("an eventfd takes a number");
        between();
        second.write(1).expect("an eventfd takes a number");
    }
}

// SAFETY: The pointers are to mappings of its own.
unsafe impl Send for Ring {}

// SAFETY: A shared reference allows nothing.
unsafe impl Sync for Ring {}

impl Ring {
    /// Makes one for the current thread.
    pub(super) fn new(event: Arc<Event>) -> Self {
        let mut params = Params::default();
        // SAFETY: The parameters are valid for writing.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params) };
        let error = io::Error::last_os_error();
        let fd = i32::try_from(fd).expect("file descriptors are small");
        assert!(fd >= 0, "io_uring_setup: {error}");
        // SAFETY: It was just made.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let map = |offset| {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let (raw, shared) = (fd.as_raw_fd(), libc::MAP_SHARED | libc::MAP_POPULATE);
            // SAFETY: A new mapping. Each part of so small a ring fits into a page.
            let at = unsafe { libc::mmap(ptr::null_mut(), PAGE, access, shared, raw, offset) };
            assert_ne!(at, libc::MAP_FAILED, "a part of the ring is mapped");
            at.cast::<u8>()
        };
        Self {
            sq: map(OFFSET_SQ_RING),
            cq: map(OFFSET_CQ_RING),
            sqes: map(OFFSET_SQES),
            fd,
            params,
            event,
        }
    }

    /// Waits for the event from now on, unless it does already.
    pub(super) fn wait_for_event(&mut self) {
        if self.event.is_awaited() {
            return;
        }
        for part in &self.event.parts {
            self.wait_for(part);
        }
        self.event.is_awaited.store(true, SeqCst);
    }

    fn wait_for(&self, part: &EventFd) {
        let mut sqe = [0_u8; SQE_LEN];
        sqe[0] = OP_POLL_ADD;
        // `fd` and `poll32_events`.
        sqe[4..8].copy_from_slice(&part.as_raw_fd().to_ne_bytes());
        sqe[28..32].copy_from_slice(&u32::from(libc::POLLIN as u16).to_ne_bytes());
        let tail = Self::word(self.sq, self.params.sq.tail);
        let index = tail.load(SeqCst) & Self::word(self.sq, self.params.sq.mask).load(SeqCst);
        // SAFETY: There are `ENTRIES` of them, and the index is less.
        unsafe {
            let at = self.sqes.add(index as usize * SQE_LEN);
            ptr::copy_nonoverlapping(sqe.as_ptr(), at, SQE_LEN);
        }
        let array = self.params.sq.rest[2] + 4 * index;
        Self::word(self.sq, array).store(index, SeqCst);
        tail.fetch_add(1, SeqCst);
        let fd = self.fd.as_raw_fd();
        // SAFETY: It takes one entry, and waits for nothing.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, 1, 0, 0, ptr::null::<u8>(), 0) };
        let error = io::Error::last_os_error();
        assert_eq!(taken, 1, "io_uring_enter: {error}");
    }

    /// Takes the completions if there is one, and waits for the other, which comes soon: if it came
    /// before the next `KVM_RUN`, that would not end. Returns whether there was one.
    pub(super) fn take(&mut self) -> bool {
        let head = Self::word(self.cq, self.params.cq.head);
        let tail = Self::word(self.cq, self.params.cq.tail);
        let next = head.load(SeqCst).wrapping_add(PARTS);
        if head.load(SeqCst) == tail.load(SeqCst) {
            return false;
        }
        while tail.load(SeqCst) != next {
            thread::yield_now();
        }
        head.store(next, SeqCst);
        for part in &self.event.parts {
            part.read().expect("it has happened");
        }
        self.event.is_awaited.store(false, SeqCst);
        self.event.taken.fetch_add(1, SeqCst);
        true
    }

    fn word<'a>(ring: *mut u8, offset: u32) -> &'a AtomicU32 {
        let word = ring
            .wrapping_add(offset as usize)
            .cast::<std::ffi::c_void>();
        // SAFETY: The kernel gives offsets of aligned words in the mapping, which stays as long as
        // the process.
        unsafe { &*word.cast::<AtomicU32>() }
    }
}
