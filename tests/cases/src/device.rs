// SPDX-License-Identifier: GPL-2.0

//! The device of the module, as any program may use it: rightly or not.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    ptr,
    sync::Arc,
    thread,
};

use kvm_inspect_pure::uapi::{self, Attach};
use rustix::{
    io::Errno,
    process::{pidfd_open, Pid, PidfdFlags},
};

use crate::{
    inspect::{Inspection, Loaded},
    process::own_pid,
    vmm::Vm,
};

/// The usual `freeze_timeout_ms` of a case: a vCPU may be late because the machine is busy.
pub(crate) const FREEZE_TIMEOUT_MS: u32 = 60_000;

/// The size of a page.
pub(crate) const PAGE_SIZE: usize = 4096;

/// The loaded module, which offers the device. The drop unloads it; it must have said nothing.
pub(crate) struct Module(Option<Loaded>);

impl Module {
    /// Loads the module without parameters.
    pub(crate) fn load() -> Self {
        Self(Some(Inspection::none().load()))
    }

    /// Opens a session, which has no VM.
    pub(crate) fn open(&self) -> Device {
        assert!(self.0.is_some(), "the module is loaded");
        Device::open().expect("the device can be opened")
    }

    /// Opens a session on a VM of this process.
    pub(crate) fn session(&self, vm: &Vm) -> Device {
        let device = self.open();
        let attached = device.attach(own_pid(), vm.fd());
        attached.unwrap_or_else(|error| panic!("attach: {error}, {}", device.explanation()));
        device
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Some(loaded) = self.0.take().filter(|_| !thread::panicking()) {
            let lines = loaded.unload_for_lines();
            assert!(lines.is_empty(), "{lines:#?}");
        }
    }
}

/// An open file of the device.
#[derive(Clone)]
pub(crate) struct Device(pub(crate) Arc<File>);

impl Device {
    /// Opens the device.
    pub(crate) fn open() -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(uapi::DEVICE)?;
        Ok(Self(Arc::new(file)))
    }

    /// Makes a call with an argument at any address.
    pub(crate) fn raw_call(&self, number: u32, argument: *mut u8) -> Result<(), Errno> {
        // SAFETY: The module checks each address. What it writes are structures and buffers that
        // the caller has named, which are no others' memory.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), number.into(), argument) };
        if result == 0 {
            Ok(())
        } else {
            Err(Errno::from_io_error(&io::Error::last_os_error()).expect("an error number"))
        }
    }

    /// Makes a call.
    pub(crate) fn call<T>(&self, number: u32, argument: &mut T) -> Result<(), Errno> {
        self.raw_call(number, ptr::from_mut(argument).cast())
    }

    /// Makes a call that must succeed.
    pub(crate) fn must<T>(&self, number: u32, argument: &mut T) {
        if let Err(error) = self.call(number, argument) {
            panic!("call {number:#x}: {error}, {}", self.explanation());
        }
    }

    /// Gives the session a VM.
    pub(crate) fn attach(&self, pid: i32, vm_fd: i32) -> Result<Attach, Errno> {
        let pidfd: OwnedFd = pidfd_open(
            Pid::from_raw(pid).expect("a process number"),
            PidfdFlags::empty(),
        )?;
        let mut attach = Attach {
            pidfd: pidfd.as_raw_fd(),
            vm_fd,
            pid: 0,
            vcpus: 0,
        };
        self.call(uapi::ATTACH, &mut attach)?;
        Ok(attach)
    }

    /// Returns why the last call failed.
    pub(crate) fn explanation(&self) -> String {
        let mut text = vec![0; uapi::MAX_EXPLANATION];
        let mut explain = uapi::Explain {
            text: text.as_mut_ptr() as u64,
            room: u32::try_from(text.len()).expect("it is small"),
            length: 0,
        };
        self.call(uapi::EXPLAIN, &mut explain)
            .expect("this always works");
        text.truncate(explain.length as usize);
        String::from_utf8(text).expect("text")
    }

    /// Asserts that a call fails with this error, and says why in these words.
    pub(crate) fn refuses<T>(&self, number: u32, argument: &mut T, errno: Errno, why: &str) {
        let result = self.call(number, argument);
        assert_eq!(result, Err(errno), "{}", self.explanation());
        let explanation = self.explanation();
        assert!(explanation.contains(why), "{explanation}");
        let is_helpful = explanation.contains("; ") && !explanation.contains('\n');
        assert!(is_helpful, "{explanation}");
    }

    /// Returns the memslots.
    pub(crate) fn slots(&self) -> Vec<uapi::Slot> {
        self.slots_of(0)
    }

    /// As [`Self::slots`], with flags.
    pub(crate) fn slots_of(&self, flags: u32) -> Vec<uapi::Slot> {
        let mut slots = zeroed::<uapi::Slot>(256);
        let mut list = uapi::Slots {
            slots: slots.as_mut_ptr() as u64,
            slot_size: size_of_u32::<uapi::Slot>(),
            room: 256,
            count: 0,
            flags,
        };
        self.must(uapi::SLOTS, &mut list);
        slots.truncate(list.count as usize);
        slots
    }

    /// Returns the vCPUs, and the call.
    pub(crate) fn vcpus(&self, flags: u32) -> (Vec<uapi::Vcpu>, uapi::Vcpus) {
        let mut vcpus = zeroed::<uapi::Vcpu>(64);
        let mut list = uapi::Vcpus {
            vcpus: vcpus.as_mut_ptr() as u64,
            vcpu_size: size_of_u32::<uapi::Vcpu>(),
            room: 64,
            flags,
            freeze_timeout_ms: FREEZE_TIMEOUT_MS,
            ..new()
        };
        self.must(uapi::VCPUS, &mut list);
        vcpus.truncate(list.count as usize);
        (vcpus, list)
    }

    /// Returns what `pages` pages from `gpa` on are.
    pub(crate) fn present(&self, gpa: u64, pages: u64) -> Vec<uapi::Extent> {
        let mut extents = zeroed::<uapi::Extent>(1024);
        let mut list = uapi::Present {
            gpa,
            pages,
            extents: extents.as_mut_ptr() as u64,
            extent_size: size_of_u32::<uapi::Extent>(),
            room: 1024,
            ..new()
        };
        self.must(uapi::PRESENT_PAGES, &mut list);
        extents.truncate(list.count as usize);
        assert_eq!(list.seen, pages, "{extents:?}");
        let sum: u64 = extents.iter().map(|extent| extent.pages).sum();
        assert_eq!(sum, pages);
        extents
    }

    /// Reads memory at a guest-physical address.
    pub(crate) fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        let mut done = 0;
        while done < len {
            let read = self.0.read_at(&mut bytes[done..], gpa + done as u64);
            match read.expect("memory can be read") {
                0 => break,
                count => done += count,
            }
        }
        bytes.truncate(done);
        bytes
    }

    /// Copies the pages of `ranges`, each of a first address and a number of pages.
    pub(crate) fn copy(&self, ranges: &[(u64, u64)], flags: u32) -> Copied {
        let pages = ranges.iter().map(|(_, pages)| pages).sum::<u64>();
        let pages = usize::try_from(pages).expect("it is small");
        let mut copied = Copied {
            buffer: Buffer::new(pages),
            kinds: vec![0xff; pages],
            digests: vec![0; pages],
            call: new(),
        };
        copied
            .again(self, ranges, flags)
            .expect("a copy can be made");
        copied
    }
}

/// Pages of a guest, copied.
pub(crate) struct Copied {
    pub(crate) buffer: Buffer,
    pub(crate) kinds: Vec<u8>,
    pub(crate) digests: Vec<u64>,
    pub(crate) call: uapi::Copy,
}

impl Copied {
    /// Copies the same pages again.
    pub(crate) fn again(
        &mut self,
        device: &Device,
        ranges: &[(u64, u64)],
        flags: u32,
    ) -> Result<(), Errno> {
        let ranges: Vec<uapi::Pages> = ranges
            .iter()
            .map(|&(gpa, pages)| uapi::Pages { gpa, pages })
            .collect();
        self.call = uapi::Copy {
            ranges: ranges.as_ptr() as u64,
            buffer: self.buffer.address(),
            kinds: self.kinds.as_mut_ptr() as u64,
            digests: self.digests.as_mut_ptr() as u64,
            range_count: u32::try_from(ranges.len()).expect("a few ranges"),
            flags,
            freeze_timeout_ms: FREEZE_TIMEOUT_MS,
            max_pause_ms: uapi::NO_LIMIT,
            ..new()
        };
        device.call(uapi::COPY, &mut self.call)
    }
}

/// Memory that begins at a multiple of the page size.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// Creates a buffer of so many pages, without zeros in it.
    pub(crate) fn new(pages: usize) -> Self {
        let bytes = vec![0xee; (pages + 1) * PAGE_SIZE];
        let start = bytes.as_ptr().align_offset(PAGE_SIZE);
        let len = pages * PAGE_SIZE;
        Self { bytes, start, len }
    }

    /// Returns where it begins.
    pub(crate) fn address(&self) -> u64 {
        self.bytes()[..].as_ptr() as u64
    }

    /// Returns its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

/// Returns a structure of zeros.
pub(crate) fn new<T: zerocopy::FromZeros>() -> T {
    T::new_zeroed()
}

/// Returns so many structures of zeros.
pub(crate) fn zeroed<T: zerocopy::FromZeros>(count: usize) -> Vec<T> {
    (0..count).map(|_| new()).collect()
}

/// Returns the size of a structure.
pub(crate) fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("it is small")
}
