// SPDX-License-Identifier: GPL-2.0

//! The interface of `/dev/kvm_inspect`: the structures and numbers of `include/uapi/kvm_inspect.h`.
//!
//! `docs/device.md` says what each call does. The module's build checks that both layouts are the
//! same; programs in Rust use these.

#![forbid(unsafe_code)]

use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The path of the device.
pub const DEVICE: &str = "/dev/kvm_inspect";

/// How many kinds of pages there may be.
pub const KINDS: usize = 16;

/// The most bytes of a line that says why a call failed.
pub const MAX_EXPLANATION: usize = 1024;

/// As a time: as long as it takes.
pub const NO_LIMIT: u32 = u32::MAX;

/// In memory, and readable.
pub const PAGE_PRESENT: u32 = 0;

/// Without content: it would be read as zeros.
pub const PAGE_UNTOUCHED: u32 = 1;

/// The VMM has nothing there.
pub const PAGE_UNMAPPED: u32 = 2;

/// Swapped out.
pub const PAGE_SWAPPED: u32 = 3;

/// In a file only.
pub const PAGE_IN_FILE: u32 = 4;

/// Its VMM brings it when it is touched.
pub const PAGE_USERFAULT: u32 = 5;

/// With a memory error.
pub const PAGE_POISONED: u32 = 6;

/// Of a device.
pub const PAGE_DEVICE: u32 = 7;

/// Not to be read by anybody but its owner, or busy.
pub const PAGE_UNREADABLE: u32 = 8;

/// Private to the guest.
pub const PAGE_PRIVATE: u32 = 9;

/// In no memslot.
pub const PAGE_OUTSIDE: u32 = 10;

/// Not reached in time.
pub const PAGE_LATE: u32 = 11;

/// KVM logs writes to it.
pub const SLOT_LOG_DIRTY: u32 = 1 << 0;

/// The guest cannot write to it.
pub const SLOT_READONLY: u32 = 1 << 1;

/// Some of it may lie in a `guest_memfd`.
pub const SLOT_GUEST_MEMFD: u32 = 1 << 2;

/// All of it lies in a `guest_memfd`.
pub const SLOT_GUEST_MEMFD_ONLY: u32 = 1 << 3;

/// It has changed during the search.
pub const SLOT_LOST: u32 = 1 << 16;

/// Those that the last search has found.
pub const OF_SEARCH: u32 = 1 << 0;

/// A vCPU that does not stop in time is reported; else the call fails.
pub const REPORT_LATE: u32 = 1 << 1;

/// Stopped between two runs of the guest.
pub const VCPU_PARKED: u32 = 0;

/// Its thread was in user space, or it never ran; kept from running.
pub const VCPU_AWAY: u32 = 1;

/// It did not stop in time.
pub const VCPU_RUNNING: u32 = 2;

/// These are a nested guest's registers.
pub const VCPU_NESTED: u32 = 1 << 0;

/// It is in system management mode.
pub const VCPU_SMM: u32 = 1 << 1;

/// Its VMM has not completed its last exit.
pub const VCPU_UNFINISHED: u32 = 1 << 2;

/// Not known: `rflags`, segments, tables, `sysenter_*`.
pub const NO_VMCS: u32 = 1 << 0;

/// Not known: `rip`.
pub const NO_RIP: u32 = 1 << 1;

/// Not known: `rsp`.
pub const NO_RSP: u32 = 1 << 2;

/// Not known: `cr0`.
pub const NO_CR0: u32 = 1 << 3;

/// Not known: `cr3`.
pub const NO_CR3: u32 = 1 << 4;

/// Not known: `cr4`.
pub const NO_CR4: u32 = 1 << 5;

/// No register is known.
pub const NO_REGISTERS: u32 = 1 << 31;

/// All in one pause; else the guest runs.
pub const COPY_PAUSED: u32 = 1 << 2;

/// Only pages whose digests differ from those given.
pub const COPY_CHANGED: u32 = 1 << 3;

/// Bring in, before the pause, what is swapped or in a file.
pub const BRING_IN: u32 = 1 << 4;

/// The fastest one that this CPU has.
pub const ENGINE_BEST: u32 = 0;

/// Without vector instructions.
pub const ENGINE_PORTABLE: u32 = 1;

/// With AVX2.
pub const ENGINE_AVX2: u32 = 2;

/// With AVX-512.
pub const ENGINE_AVX512: u32 = 3;

/// In the kernel's map of all memory.
pub const ACCESS_LINEAR: u32 = 0;

/// In a mapping made for the pages.
pub const ACCESS_VMAP: u32 = 1;

/// In a copy, which survives memory errors.
pub const ACCESS_COPY: u32 = 2;

/// `result=ok` (`docs/report.md`, also for the others).
pub const RESULT_OK: u32 = 0;

/// `result=no_pattern`.
pub const RESULT_NO_PATTERN: u32 = 1;

/// `result=memslots_changed`.
pub const RESULT_MEMSLOTS_CHANGED: u32 = 2;

/// `result=time_up`.
pub const RESULT_TIME_UP: u32 = 3;

/// `result=not_one_instant`.
pub const RESULT_NOT_ONE_INSTANT: u32 = 4;

/// `result=changed`.
pub const RESULT_CHANGED: u32 = 5;

/// `result=incomplete`.
pub const RESULT_INCOMPLETE: u32 = 6;

/// `result=vmm_killed`.
pub const RESULT_VMM_KILLED: u32 = 7;

/// `result=vm_closed`.
pub const RESULT_VM_CLOSED: u32 = 8;

/// The session does nothing.
pub const DOES_NOTHING: u32 = 0;

/// The session searches.
pub const SEARCHES: u32 = 1;

/// The session copies.
pub const COPIES: u32 = 2;

/// The session holds the guest, and does nothing else.
pub const HOLDS: u32 = 3;

/// The VM that a session is to inspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Attach {
    /// A pidfd of the VMM.
    pub pidfd: i32,
    /// The descriptor of the VM in the VMM; -1: its only VM. Out: -1 if it has none any more.
    pub vm_fd: i32,
    /// Out: the VMM, in the PID namespace of the caller.
    pub pid: i32,
    /// Out: how many there are now.
    pub vcpus: u32,
}

/// One memslot: guest-physical pages that lie in the VMM's memory, or in a `guest_memfd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// The guest-physical address of the first byte.
    pub gpa: u64,
    /// How many pages there are.
    pub pages: u64,
    /// The address of the first byte, in the VMM.
    pub hva: u64,
    /// `SLOT_*`.
    pub flags: u32,
    /// 1: what the guest sees in system management mode.
    pub address_space: u16,
    /// From 32764 on KVM's own.
    pub id: i16,
    /// Of a search: how many pages there are of each kind.
    pub kinds: [u64; KINDS],
}

/// A request for the memslots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Slots {
    /// Where to write them.
    pub slots: u64,
    /// The size of [`Slot`].
    pub slot_size: u32,
    /// For how many there is room.
    pub room: u32,
    /// Out: how many there are, also without room.
    pub count: u32,
    /// `OF_SEARCH`, or 0.
    pub flags: u32,
}

/// A segment register with its hidden part, as `struct kvm_segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// The base address.
    pub base: u64,
    /// The limit.
    pub limit: u32,
    /// The selector.
    pub selector: u16,
    /// The type.
    pub type_: u8,
    /// Whether it is present.
    pub present: u8,
    /// The privilege level.
    pub dpl: u8,
    /// The size of operands.
    pub db: u8,
    /// Whether it is code or data.
    pub s: u8,
    /// Whether it is 64-bit code.
    pub l: u8,
    /// Whether the limit counts pages.
    pub g: u8,
    /// The bit for the system.
    pub avl: u8,
    /// Whether it cannot be used.
    pub unusable: u8,
    /// Must be 0.
    pub reserved: u8,
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// The base address.
    pub base: u64,
    /// The limit.
    pub limit: u64,
}

/// One vCPU with its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Vcpu {
    /// As the VMM gave it; usually the number of its APIC.
    pub id: i32,
    /// Where it was: one of `VCPU_*`.
    pub state: u32,
    /// `VCPU_*`.
    pub flags: u32,
    /// `NO_*`.
    pub lacks: u32,
    /// `rip`.
    pub rip: u64,
    /// `rflags`.
    pub rflags: u64,
    /// `rax`.
    pub rax: u64,
    /// `rbx`.
    pub rbx: u64,
    /// `rcx`.
    pub rcx: u64,
    /// `rdx`.
    pub rdx: u64,
    /// `rsi`.
    pub rsi: u64,
    /// `rdi`.
    pub rdi: u64,
    /// `rsp`.
    pub rsp: u64,
    /// `rbp`.
    pub rbp: u64,
    /// `r8`.
    pub r8: u64,
    /// `r9`.
    pub r9: u64,
    /// `r10`.
    pub r10: u64,
    /// `r11`.
    pub r11: u64,
    /// `r12`.
    pub r12: u64,
    /// `r13`.
    pub r13: u64,
    /// `r14`.
    pub r14: u64,
    /// `r15`.
    pub r15: u64,
    /// `cr0`.
    pub cr0: u64,
    /// `cr2`.
    pub cr2: u64,
    /// `cr3`.
    pub cr3: u64,
    /// `cr4`.
    pub cr4: u64,
    /// `cr8`.
    pub cr8: u64,
    /// `efer`.
    pub efer: u64,
    /// `apic_base`.
    pub apic_base: u64,
    /// `kernel_gs_base`.
    pub kernel_gs_base: u64,
    /// `lstar`.
    pub lstar: u64,
    /// `star`.
    pub star: u64,
    /// `cstar`.
    pub cstar: u64,
    /// `sfmask`.
    pub sfmask: u64,
    /// `sysenter_cs`.
    pub sysenter_cs: u64,
    /// `sysenter_esp`.
    pub sysenter_esp: u64,
    /// `sysenter_eip`.
    pub sysenter_eip: u64,
    /// `tsc_aux`.
    pub tsc_aux: u64,
    /// `pat`.
    pub pat: u64,
    /// `xcr0`.
    pub xcr0: u64,
    /// `dr0`.
    pub dr0: u64,
    /// `dr1`.
    pub dr1: u64,
    /// `dr2`.
    pub dr2: u64,
    /// `dr3`.
    pub dr3: u64,
    /// `dr6`.
    pub dr6: u64,
    /// `dr7`.
    pub dr7: u64,
    /// `cs`.
    pub cs: Segment,
    /// `ds`.
    pub ds: Segment,
    /// `es`.
    pub es: Segment,
    /// `fs`.
    pub fs: Segment,
    /// `gs`.
    pub gs: Segment,
    /// `ss`.
    pub ss: Segment,
    /// `tr`.
    pub tr: Segment,
    /// `ldt`.
    pub ldt: Segment,
    /// `gdt`.
    pub gdt: Table,
    /// `idt`.
    pub idt: Table,
}

/// A request for all vCPUs, at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Vcpus {
    /// Where to write them.
    pub vcpus: u64,
    /// The size of [`Vcpu`].
    pub vcpu_size: u32,
    /// For how many there is room.
    pub room: u32,
    /// Out: how many there are, also without room.
    pub count: u32,
    /// `OF_SEARCH`, `REPORT_LATE`.
    pub flags: u32,
    /// How long to wait for all to stop.
    pub freeze_timeout_ms: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Out: how long that took.
    pub freeze_ns: u64,
    /// Out: how long the guest stood.
    pub pause_ns: u64,
}

/// Neighbouring pages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Extent {
    /// The guest-physical address of the first byte.
    pub gpa: u64,
    /// How many pages there are.
    pub pages: u64,
    /// What they are: one of `PAGE_*`.
    pub kind: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// A request for what pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Present {
    /// Of the first page to look at.
    pub gpa: u64,
    /// How many.
    pub pages: u64,
    /// Where to write what they are.
    pub extents: u64,
    /// The size of [`Extent`].
    pub extent_size: u32,
    /// For how many extents there is room.
    pub room: u32,
    /// Out: how many were written.
    pub count: u32,
    /// The address space: 0, or 1 for system management mode.
    pub address_space: u32,
    /// Out: how many pages they are; fewer than asked if there was no room.
    pub seen: u64,
}

/// Neighbouring pages of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Pages {
    /// The guest-physical address of the first byte.
    pub gpa: u64,
    /// How many pages there are.
    pub pages: u64,
}

/// A request for a copy of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Copy {
    /// The address of the ranges, [`Pages`], as many as `range_count`.
    pub ranges: u64,
    /// A page for each, in their order; 0: only look, or digest.
    pub buffer: u64,
    /// Where to write a byte for each page, what it is; 0: nowhere.
    pub kinds: u64,
    /// Out, unless 0: 64 bits for each; of one session, equal is equal.
    pub digests: u64,
    /// How many ranges there are.
    pub range_count: u32,
    /// The address space: 0, or 1 for system management mode.
    pub address_space: u32,
    /// `COPY_*`.
    pub flags: u32,
    /// How long to wait for all vCPUs to stop, in milliseconds; 0: a second.
    pub freeze_timeout_ms: u32,
    /// The longest pause in milliseconds; 0: a second.
    pub max_pause_ms: u32,
    /// At most; 0: as many as there are CPUs. Out: how many took part.
    pub threads: u32,
    /// Out: how many pages could be read.
    pub present: u64,
    /// Out: how many were copied.
    pub copied: u64,
    /// Out: how many were not reached in time.
    pub late: u64,
    /// Out: how long it took until all vCPUs had stopped, in nanoseconds.
    pub freeze_ns: u64,
    /// Out: how long the guest stood, in nanoseconds.
    pub pause_ns: u64,
}

/// A pattern as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Pattern {
    /// As after pattern=, without the comma.
    pub text: u64,
    /// `length`.
    pub length: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// A range of guest-physical addresses, by its first and its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Span {
    /// The first byte's GPA.
    pub first: u64,
    /// The last byte's.
    pub last: u64,
}

/// A request for a search, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Search {
    /// The address of the patterns, [`Pattern`], as many as `pattern_count`.
    pub patterns: u64,
    /// The address of the spans, [`Span`], as many as `span_count`; none: all memory.
    pub spans: u64,
    /// How many patterns there are.
    pub pattern_count: u32,
    /// How many spans there are.
    pub span_count: u32,
    /// How many to keep, the lowest ones; all are counted.
    pub max_hits: u32,
    /// How many bytes to keep on each side; 0: nor the hit's own.
    pub context: u32,
    /// `REPORT_LATE`, `BRING_IN`.
    pub flags: u32,
    /// How long to wait for all vCPUs to stop, in milliseconds; 0: a second.
    pub freeze_timeout_ms: u32,
    /// `NO_LIMIT`: one pause.
    pub max_pause_ms: u32,
    /// At most; 0: as many as there are CPUs. Out: how many took part.
    pub threads: u32,
    /// `ENGINE_*`. Out: the one that searched.
    pub engine: u32,
    /// `ACCESS_*`.
    pub access: u32,
    /// Out: one of `RESULT_*`.
    pub result: u32,
    /// Out: how many pauses there were.
    pub pauses: u32,
    /// Out: how many hits there are in all.
    pub hits: u64,
    /// For `HITS`.
    pub kept: u32,
    /// For `UNCOVERED`.
    pub uncovered: u32,
    /// Out: how many bytes are not covered in one instant.
    pub uncovered_bytes: u64,
    /// Out: how many bytes were searched, each counted once.
    pub scanned_bytes: u64,
    /// Out: how many were searched again.
    pub rescanned_bytes: u64,
    /// Out: how many pages have content, and could not be searched.
    pub missing_pages: u64,
    /// Out: the size of a chunk; 0 if there was one pause.
    pub chunk_bytes: u64,
    /// Out: how many pages there are of each kind.
    pub kinds: [u64; KINDS],
    /// Of the first pause.
    pub freeze_ns: u64,
    /// The longest.
    pub pause_ns: u64,
    /// All pauses together.
    pub paused_ns: u64,
    /// Out: how long the search itself took.
    pub scan_ns: u64,
    /// Out: how many helpers got too little of a CPU.
    pub late_threads: u32,
    /// For `VCPUS`.
    pub vcpus: u32,
    /// For `SLOTS`.
    pub slots: u32,
    /// If the result is `TIME_UP`: where it stopped.
    pub left_address_space: u32,
    /// Out: where it stopped.
    pub left_gpa: u64,
}

/// A match in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Hit {
    /// The guest-physical address of the first byte.
    pub gpa: u64,
    /// The address in the VMM.
    pub hva: u64,
    /// The number of the pattern.
    pub pattern: u32,
    /// The address space: 0, or 1 for system management mode.
    pub address_space: u16,
    /// The number of the memslot.
    pub slot: i16,
    /// Where in the buffer its bytes and those beside it are.
    pub bytes: u32,
    /// How many come before its own.
    pub before: u16,
    /// How many there are in all; 0 without context.
    pub length: u16,
}

/// A request for hits of the last search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Hits {
    /// Which of the kept ones to write first.
    pub first: u64,
    /// Where to write them: [`Hit`].
    pub hits: u64,
    /// Where to write their bytes.
    pub bytes: u64,
    /// The size of [`Hit`].
    pub hit_size: u32,
    /// For how many hits there is room.
    pub room: u32,
    /// For how many bytes.
    pub bytes_room: u32,
    /// Out: how many were written.
    pub count: u32,
}

/// Memory that a search does not cover in one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Uncovered {
    /// The guest-physical address of the first byte.
    pub gpa: u64,
    /// How many pages there are.
    pub pages: u64,
    /// The address space: 0, or 1 for system management mode.
    pub address_space: u16,
    /// The number of the memslot.
    pub slot: i16,
    /// Must be 0.
    pub reserved: u32,
}

/// A request for what the last search does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Uncovereds {
    /// Which one to write first.
    pub first: u64,
    /// Where to write them.
    pub uncovered: u64,
    /// The size of [`Uncovered`].
    pub uncovered_size: u32,
    /// For how many there is room.
    pub room: u32,
    /// Out: how many were written.
    pub count: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// A request to stop the guest until [`Release`], or the end of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Hold {
    /// The guest goes on after this, whatever happens: 1 to 60000.
    pub lease_ms: u32,
    /// How long to wait for all vCPUs to stop, in milliseconds; 0: a second.
    pub freeze_timeout_ms: u32,
    /// `REPORT_LATE`.
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Out: how long it took until all vCPUs had stopped, in nanoseconds.
    pub freeze_ns: u64,
}

/// A request to let the guest go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Release {
    /// Out: how long the guest stood.
    pub pause_ns: u64,
    /// Out: 1 if the lease had ended before.
    pub is_expired: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// What a session does just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Progress {
    /// Pages.
    pub done: u64,
    /// Pages, as far as is known.
    pub all: u64,
    /// `DOES_*`.
    pub does: u32,
    /// Out: how many pauses there were.
    pub pauses: u32,
}

/// A request for the line that says why the last call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Explain {
    /// Where to write it; without a NUL at its end.
    pub text: u64,
    /// For how many bytes.
    pub room: u32,
    /// Out: how many there are.
    pub length: u32,
}

/// Where the size of the structure is in the number of a call.
pub const SIZE_SHIFT: u32 = 16;

/// The bits of the size in the number of a call.
pub const SIZE_MASK: u32 = 0x3fff << SIZE_SHIFT;

/// The type of the calls' numbers.
const IOC: u32 = 0xbd;

/// Returns the number of a call as `_IOWR` makes it (`include/uapi/asm-generic/ioctl.h`).
const fn iowr<T>(number: u32) -> u32 {
    let size = size_of::<T>();
    assert!(size < 1 << 14);
    #[expect(clippy::cast_possible_truncation, reason = "it is small")]
    let size = size as u32;
    (3 << 30) | (size << SIZE_SHIFT) | (IOC << 8) | number
}

/// `KVM_INSPECT_ATTACH`, with [`Attach`].
pub const ATTACH: u32 = iowr::<Attach>(0);

/// `KVM_INSPECT_EXPLAIN`, with [`Explain`].
pub const EXPLAIN: u32 = iowr::<Explain>(1);

/// `KVM_INSPECT_PROGRESS`, with [`Progress`].
pub const PROGRESS: u32 = iowr::<Progress>(2);

/// `KVM_INSPECT_SLOTS`, with [`Slots`].
pub const SLOTS: u32 = iowr::<Slots>(3);

/// `KVM_INSPECT_VCPUS`, with [`Vcpus`].
pub const VCPUS: u32 = iowr::<Vcpus>(4);

/// `KVM_INSPECT_PRESENT_PAGES`, with [`Present`].
pub const PRESENT_PAGES: u32 = iowr::<Present>(5);

/// `KVM_INSPECT_COPY`, with [`Copy`].
pub const COPY: u32 = iowr::<Copy>(6);

/// `KVM_INSPECT_SEARCH`, with [`Search`].
pub const SEARCH: u32 = iowr::<Search>(7);

/// `KVM_INSPECT_HITS`, with [`Hits`].
pub const HITS: u32 = iowr::<Hits>(8);

/// `KVM_INSPECT_UNCOVERED`, with [`Uncovereds`].
pub const UNCOVERED: u32 = iowr::<Uncovereds>(9);

/// `KVM_INSPECT_HOLD`, with [`Hold`].
pub const HOLD: u32 = iowr::<Hold>(10);

/// `KVM_INSPECT_RELEASE`, with [`Release`].
pub const RELEASE: u32 = iowr::<Release>(11);
