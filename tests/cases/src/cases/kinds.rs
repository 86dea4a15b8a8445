// SPDX-License-Identifier: GPL-2.0

//! Memory is told apart by what it is. An `ok` left out only what has no content.

mod neighbours;
mod shared;

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::FileExt,
    },
    ptr,
    sync::Arc,
};

use kvm_bindings::{kvm_create_guest_memfd, kvm_userspace_memory_region2, KVM_MEM_GUEST_MEMFD};
use kvm_inspect_tool::report::{Conclusion, Pages, Report};

use self::{
    neighbours::unreadable_neighbour,
    shared::{shared_swapped, shared_swapped_many},
};
use super::{secret, Case};
use crate::{
    inspect::{hex, load_module, unload_module, Inspection},
    process::{own_pid, present_pages, wait_until, PAGE},
    swap,
    vmm::{to_usize, Backing, Mapping, Slot, Userfault, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    swapped.with_stock(),
    shared_swapped.with_stock(),
    shared_swapped_many.with_stock(),
    private_file.with_stock(),
    disk.with_stock(),
    guest_memfd.with_stock(),
    poisoned.with_stock(),
    poisoned_huge.with_stock(),
    device.with_stock(),
    device_huge.with_stock(),
    elsewhere.with_stock(),
    access_tracked.with_stock(),
    unreadable_neighbour.with_stock(),
];

const MIB: u64 = 1 << 20;

/// The number of pages of each kind.
const COUNT: u64 = 100;

/// Returns the pages of the slot at `gpa`.
pub(super) fn pages_at(report: &Report, gpa: u64) -> &Pages {
    let slot = report.slots.iter().find(|slot| *slot.gpa.start() == gpa);
    &slot.expect("the slot").pages
}

/// Checks the figures of the slot at `gpa`: there are no others.
pub(super) fn assert_kinds(report: &Report, gpa: u64, present: u64, kinds: &[(&str, u64)]) {
    let pages = pages_at(report, gpa);
    assert_eq!(pages.present, present, "{pages:?}");
    for (kind, count) in &pages.kinds {
        let expected = kinds.iter().find(|(name, _)| name == kind);
        let expected = expected.map_or(0, |(_, count)| *count);
        assert_eq!(*count, expected, "{kind} of {pages:?}");
    }
}

/// Returns the addresses of a secret in each of some pages.
pub(super) fn places(gpa: u64, pages: std::ops::Range<u64>) -> Vec<u64> {
    pages.map(|page| gpa + page * PAGE + 64).collect()
}

/// Pages that were swapped out are told apart from those that nobody has touched, or that were
/// discarded. On request they are brought in and searched.
fn swapped() {
    swap::turn_on();
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    let memory = vm.add_memory(gpa, 4 * COUNT * PAGE, Backing::Anonymous);
    let secret = secret(300, 16);
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 1000);
    let here = places(gpa, 0..COUNT);
    let out = places(gpa, COUNT..2 * COUNT);
    for &place in here.iter().chain(&out) {
        vm.write(place, &secret);
    }
    for page in 3 * COUNT..4 * COUNT {
        memory.write(page * PAGE, &[1]);
    }
    memory.discard(3 * COUNT * PAGE, COUNT * PAGE);
    let is_out = || {
        memory.page_out_range(COUNT * PAGE, COUNT * PAGE);
        let present = present_pages(own_pid(), memory.address() + COUNT * PAGE, COUNT);
        !present.contains(&true)
    };
    wait_until("the pages are swapped out", is_out);

    let report = inspection.partial_report();
    assert_eq!(report.done.result, Conclusion::Incomplete);
    assert_eq!(report.done.missing_pages, COUNT);
    assert_eq!(report.hits, vm.hits(0, &here));
    let kinds = [("swapped", COUNT), ("untouched", 2 * COUNT)];
    assert_kinds(&report, gpa, COUNT, &kinds);
    // What was not asked for is not missing.
    let first = format!("{gpa:#x}+{}", COUNT * PAGE);
    let report = inspection.clone().ranges(&[first]).report();
    assert_eq!(report.hits, vm.hits(0, &here));
    assert!(is_out(), "nothing is brought in unasked");

    let report = inspection.set("bring_in", 1).report();
    assert_eq!(report.hits, vm.hits(0, &[here, out].concat()));
    assert_kinds(&report, gpa, 2 * COUNT, &[("untouched", 2 * COUNT)]);
    vm.finish();
}

/// A guest resumed from a snapshot: its memory is a private mapping of a file, of which the VMM has
/// touched nothing yet. Pages that are cached are searched.
fn private_file() {
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    let (pages, len) = (2 * COUNT, 3 * COUNT * PAGE);
    let secret = secret(301, 16);
    let file = Mapping::new_memfd(len);
    for page in 0..pages {
        file.write_all_at(&secret, page * PAGE + 64)
            .expect("the memfd has room");
    }
    let memory = Mapping::private(&file, len);
    vm.add_mapping(gpa, &memory);
    let report = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 1000)
        .report();
    assert_eq!(report.hits, vm.hits(0, &places(gpa, 0..pages)));
    assert_kinds(&report, gpa, pages, &[("untouched", COUNT)]);
    let present = present_pages(own_pid(), memory.address(), pages);
    assert!(!present.contains(&true), "nothing was mapped for that");
    // What the VMM has written itself is what the guest sees.
    let own = [0x77; 16];
    vm.write(gpa + 64, &own);
    let report = Inspection::of_self()
        .patterns(&[hex(&secret), hex(&own)])
        .set("max_hits", 1000)
        .report();
    assert_eq!(report.hits_of(0), places(gpa, 1..pages));
    assert_eq!(report.hits_of(1), [gpa + 64]);
    vm.finish();
}

/// Memory that is on a disk and not in memory is no `ok`. On request it is brought in and searched.
fn disk() {
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    let secret = secret(302, 16);
    swap::turn_on();
    let disk = OpenOptions::new().read(true).write(true).open("/dev/ram1");
    let disk = disk.expect("there is a second disk");
    for page in 0..COUNT {
        disk.write_all_at(&secret, page * PAGE + 64)
            .expect("the disk has room");
    }
    disk.sync_all().expect("it is written");
    let memory = Mapping::private(&disk, COUNT * PAGE);
    vm.add_mapping(gpa, &memory);
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 1000);
    let mut report = inspection.partial_report();
    wait_until("the pages are not in memory", || {
        // SAFETY: Drops cached pages only.
        unsafe { libc::posix_fadvise(disk.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        report = inspection.partial_report();
        pages_at(&report, gpa).present == 0
    });
    assert_eq!(report.done.result, Conclusion::Incomplete);
    assert_kinds(&report, gpa, 0, &[("in_file", COUNT)]);
    assert_eq!(report.done.missing_pages, COUNT);
    assert_eq!(report.hits, []);

    let report = inspection.set("bring_in", 1).report();
    assert_eq!(report.hits, vm.hits(0, &places(gpa, 0..COUNT)));
    assert_kinds(&report, gpa, COUNT, &[]);
    vm.finish();
}

/// Where a `guest_memfd` alone is the guest's memory, it is searched there, whatever the VMM has
/// mapped at the slot's address.
fn guest_memfd() {
    const MMAP_AND_INIT_SHARED: u64 = 3;
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    let len = 3 * COUNT * PAGE;
    let secret = secret(303, 16);
    let file = vm.create_guest_memfd(len, MMAP_AND_INIT_SHARED);
    let through = Mapping::shared(&file, len);
    for page in COUNT..2 * COUNT {
        through.write(page * PAGE + 64, &secret);
    }
    // The VMM has something else at the slot's address, and the secret of another page in it.
    let decoy = Mapping::new(len, Backing::Anonymous);
    decoy.write(5 * PAGE, &secret);
    vm.add_guest_memfd(gpa, &decoy, &file);
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 1000);
    for access in ["linear", "vmap", "copy"] {
        let report = inspection.clone().set("access", access).report();
        assert_eq!(report.hits_of(0), places(gpa, COUNT..2 * COUNT));
        assert_kinds(&report, gpa, COUNT, &[("untouched", 2 * COUNT)]);
        let slot = report.slots.iter().find(|slot| *slot.gpa.start() == gpa);
        let flags = &slot.expect("the slot").flags;
        assert_eq!(flags, "guest_memfd,guest_memfd_only");
    }
    // A closed file has nothing for the guest.
    drop(through);
    drop(file);
    let report = inspection.report();
    assert_eq!(report.hits, []);
    vm.finish();
}

/// A page with a memory error that the kernel knows of is counted, and not read.
fn poisoned() {
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    let memory = vm.add_memory(gpa, COUNT * PAGE, Backing::Anonymous);
    memory.touch_all();
    let secret = secret(304, 16);
    let all = places(gpa, 0..COUNT);
    for &place in &all {
        vm.write(place, &secret);
    }
    ignore_bus_errors();
    memory.poison(7 * PAGE);
    assert_one_poisoned(&vm, gpa, &secret, &all, 7);
    vm.finish();
}

/// The same where the page stays mapped: it is part of a huge page that somebody has pinned, so the
/// kernel cannot take it away.
fn poisoned_huge() {
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    let memory = vm.add_memory(gpa, 2 * MIB, Backing::TransparentHuge);
    memory.touch_all();
    let secret = secret(305, 16);
    let all = places(gpa, 0..512);
    for &place in &all {
        vm.write(place, &secret);
    }
    ignore_bus_errors();
    let pinned = Pinned::new(&memory);
    memory.poison(7 * PAGE);
    let present = present_pages(own_pid(), memory.address(), 512);
    assert!(!present.contains(&false), "all of it stays mapped");
    assert_one_poisoned(&vm, gpa, &secret, &all, 7);
    drop(pinned);
    vm.finish();
}

fn assert_one_poisoned(vm: &Vm, gpa: u64, secret: &[u8], all: &[u64], page: usize) {
    let mut expected = all.to_vec();
    expected.remove(page);
    let count = all.len() as u64;
    for access in ["linear", "vmap", "copy"] {
        let report = Inspection::of_self()
            .patterns(&[hex(secret)])
            .set("max_hits", 1000)
            .set("access", access)
            .partial_report();
        assert_eq!(report.done.result, Conclusion::Incomplete);
        assert_eq!(report.hits, vm.hits(0, &expected));
        assert_kinds(&report, gpa, count - 1, &[("poisoned", 1)]);
        assert_eq!(report.done.missing_pages, 1);
    }
}

/// The kernel tells whoever has mapped a page that it is poisoned, and insists on it.
fn ignore_bus_errors() {
    extern "C" fn nothing(_signal: i32) {}

    // SAFETY: The handler does nothing.
    unsafe { libc::signal(libc::SIGBUS, nothing as extern "C" fn(i32) as usize) };
}

/// Memory that `io_uring` has pinned.
struct Pinned {
    _ring: File,
}

impl Pinned {
    fn new(memory: &Mapping) -> Self {
        const IORING_REGISTER_BUFFERS: u32 = 0;
        // `struct io_uring_params` of `include/uapi/linux/io_uring.h`.
        let mut parameters = [0_u32; 30];
        // SAFETY: The structure has 120 bytes.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
        assert!(ring >= 0, "io_uring: {}", io::Error::last_os_error());
        let ring = i32::try_from(ring).expect("a descriptor");
        // SAFETY: It was just made.
        let ring = unsafe { File::from_raw_fd(ring) };
        let buffer = libc::iovec {
            iov_base: ptr::without_provenance_mut(to_usize(memory.address())),
            iov_len: to_usize(memory.len()),
        };
        // SAFETY: One buffer, of which nobody reads or writes anything.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring.as_raw_fd(),
                IORING_REGISTER_BUFFERS,
                &raw const buffer,
                1,
            )
        };
        assert_eq!(result, 0, "pinning: {}", io::Error::last_os_error());
        Self { _ring: ring }
    }
}

/// Memory of a device is told apart, and passed by.
fn device() {
    // The memory of a VGA adapter.
    const VGA: u64 = 0xa_0000;
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    let len = 16 * PAGE;
    let file = OpenOptions::new().read(true).write(true).open("/dev/mem");
    let file = file.expect("there is /dev/mem");
    let memory = Mapping::shared_at(&file, len, VGA);
    vm.add_mapping(gpa, &memory);
    let report = Inspection::of_self().patterns(&["text:x"]).partial_report();
    assert_eq!(report.done.result, Conclusion::Incomplete);
    assert_kinds(&report, gpa, 0, &[("device", 16)]);
    assert_eq!(report.done.missing_pages, 16);
    vm.finish();
}

/// The same where it is mapped in entries of 1 GiB: each is passed by in one step, so the pause is
/// not longer for that.
fn device_huge() {
    const GIB: u64 = 1 << 30;
    load_module("/modules/huge_device.ko", "").expect("the test's own module");
    let file = OpenOptions::new().read(true).open("/dev/huge_device");
    let file = file.expect("the module makes it");
    let mut vm = Vm::running(Work::Halt);
    let gpa = 4 * GIB;
    let inspection = Inspection::of_self().patterns(&["text:x"]);
    let without = inspection.shortest(3);
    let memory = Mapping::device(&file, 2 * GIB);
    // The middle of three is whole, and aligned as the entries are.
    let offset = memory.address().next_multiple_of(GIB) - memory.address();
    memory.read(offset, 1);
    vm.add(Slot {
        offset,
        len: GIB,
        ..Slot::of(9, gpa, &memory)
    });
    let with = inspection.shortest_partial(3);
    assert_kinds(&with, gpa, 0, &[("device", GIB / PAGE)]);
    let (with, without) = (with.done.scan_us, without.done.scan_us.max(100));
    assert!(with < 20 * without, "{with} us with it, {without} without");
    drop(vm);
    drop(memory);
    drop(file);
    unload_module("huge_device");
}

/// Memory that the VMM brings when somebody touches it (`userfaultfd`) has content, elsewhere.
fn elsewhere() {
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    let page = Userfault::new();
    vm.add(Slot::of(9, gpa, page.memory()));
    let inspection = Inspection::of_self().patterns(&["text:x"]);
    let report = inspection.clone().set("bring_in", 1).partial_report();
    assert_eq!(report.done.result, Conclusion::Incomplete);
    assert_kinds(&report, gpa, 0, &[("userfault", 1)]);
    page.resolve();
    let report = inspection.report();
    assert_kinds(&report, gpa, 0, &[("untouched", 1)]);
    vm.finish();
}

/// Memory whose VMM is told when somebody touches it (`UFFDIO_RWPROTECT`), and waited for, is left
/// alone.
fn access_tracked() {
    let Some(page) = Userfault::access_tracked() else {
        println!("this kernel cannot track who touches a page");
        return;
    };
    swap::turn_on();
    let mut vm = Vm::running(Work::Halt);
    let gpa = 16 * MIB;
    vm.add(Slot::of(9, gpa, page.memory()));
    let inspection = Inspection::of_self()
        .patterns(&["text:x"])
        .set("bring_in", 1);
    let report = inspection.clone().partial_report();
    assert_eq!(report.done.result, Conclusion::Incomplete);
    assert_kinds(&report, gpa, 0, &[("userfault", 1)]);

    wait_until("the page is swapped out", || {
        page.memory().page_out();
        present_pages(own_pid(), page.address(), 1) == [false]
    });
    let report = inspection.partial_report();
    assert_eq!(report.done.result, Conclusion::Incomplete);
    assert_kinds(&report, gpa, 0, &[("swapped", 1)]);
    vm.finish();
}

impl Vm {
    /// Creates a `guest_memfd`.
    fn create_guest_memfd(&self, size: u64, flags: u64) -> File {
        let memfd = kvm_create_guest_memfd {
            size,
            flags,
            ..Default::default()
        };
        let fd = self
            .file()
            .create_guest_memfd(memfd)
            .expect("a guest_memfd");
        // SAFETY: It was just made.
        unsafe { File::from_raw_fd(fd) }
    }

    /// Adds a slot whose memory is in a `guest_memfd`; `decoy` is at its address in the VMM.
    fn add_guest_memfd(&mut self, gpa: u64, decoy: &Arc<Mapping>, file: &File) {
        let region = kvm_userspace_memory_region2 {
            slot: 20,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: gpa,
            memory_size: decoy.len(),
            userspace_addr: decoy.address(),
            guest_memfd: u32::try_from(file.as_raw_fd()).expect("a file descriptor"),
            ..Default::default()
        };
        // SAFETY: The mapping outlives the VM's use of it: the case ends with both.
        let result = unsafe { self.file().set_user_memory_region2(region) };
        result.unwrap_or_else(|error| panic!("adding a guest_memfd: {error}"));
    }
}
