/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/kvm_inspect: stops a KVM guest for a moment.
 *
 * docs/device.md says what each call does, its errors, and what holds when. One open file is a
 * session on one VM, from KVM_INSPECT_ATTACH on.
 *
 * Every structure may become longer, at its end: its size is part of its call's number. What a
 * program does not know of it is as if it were 0. All reserved members must be 0.
 */
#ifndef _UAPI_KVM_INSPECT_H
#define _UAPI_KVM_INSPECT_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define KVM_INSPECT_DEVICE "/dev/kvm_inspect"
#define KVM_INSPECT_IOC 0xbd

/* Times in milliseconds: 0 is the default, a second. */
#define KVM_INSPECT_NO_LIMIT 0xffffffffU

struct kvm_inspect_attach {
	__s32 pidfd;		/* of the VMM */
	__s32 vm_fd;		/* in the VMM; -1: its only VM. Out: -1 if it has none now */
	__s32 pid;		/* out: the VMM, in the PID namespace of the caller */
	__u32 vcpus;		/* out: how many there are now */
};

/* What a page is. */
#define KVM_INSPECT_PRESENT 0		/* in memory, and readable */
#define KVM_INSPECT_UNTOUCHED 1		/* without content: it would be read as zeros */
#define KVM_INSPECT_UNMAPPED 2		/* the VMM has nothing there */
#define KVM_INSPECT_SWAPPED 3		/* swapped out */
#define KVM_INSPECT_IN_FILE 4		/* in a file only */
#define KVM_INSPECT_USERFAULT 5		/* its VMM brings it when it is touched */
#define KVM_INSPECT_POISONED 6		/* with a memory error */
#define KVM_INSPECT_DEVICE_MEMORY 7	/* of a device */
#define KVM_INSPECT_UNREADABLE 8	/* not to be read by anybody but its owner, or busy */
#define KVM_INSPECT_PRIVATE 9		/* private to the guest */
#define KVM_INSPECT_OUTSIDE 10		/* in no memslot */
#define KVM_INSPECT_LATE 11		/* not reached in time */
#define KVM_INSPECT_KINDS 16		/* room for more */

/* The flags of a memslot. */
#define KVM_INSPECT_SLOT_LOG_DIRTY (1U << 0)
#define KVM_INSPECT_SLOT_READONLY (1U << 1)
#define KVM_INSPECT_SLOT_GUEST_MEMFD (1U << 2)
#define KVM_INSPECT_SLOT_GUEST_MEMFD_ONLY (1U << 3)
#define KVM_INSPECT_SLOT_LOST (1U << 16)	/* it has changed during the search */

struct kvm_inspect_slot {
	__u64 gpa;
	__u64 pages;
	__u64 hva;			/* in the VMM */
	__u32 flags;			/* KVM_INSPECT_SLOT_* */
	__u16 address_space;		/* 1: what the guest sees in system management mode */
	__s16 id;			/* from 32764 on KVM's own */
	__u64 kinds[KVM_INSPECT_KINDS];	/* of a search: how many pages of each kind */
};

/* For KVM_INSPECT_SLOTS and KVM_INSPECT_VCPUS: those that the last search has found. */
#define KVM_INSPECT_OF_SEARCH (1U << 0)
/* A vCPU that does not stop in time is reported; else the call fails. */
#define KVM_INSPECT_REPORT_LATE (1U << 1)

struct kvm_inspect_slots {
	__u64 slots;		/* where to write them */
	__u32 slot_size;	/* sizeof(struct kvm_inspect_slot) */
	__u32 room;		/* for how many there is room */
	__u32 count;		/* out: how many there are, also without room */
	__u32 flags;		/* KVM_INSPECT_OF_SEARCH */
};

struct kvm_inspect_segment {
	__u64 base;
	__u32 limit;
	__u16 selector;
	__u8 type;
	__u8 present;
	__u8 dpl;
	__u8 db;
	__u8 s;
	__u8 l;
	__u8 g;
	__u8 avl;
	__u8 unusable;
	__u8 reserved;
};

struct kvm_inspect_table {
	__u64 base;
	__u64 limit;
};

/* Where a vCPU was. */
#define KVM_INSPECT_PARKED 0	/* stopped between two runs of the guest */
#define KVM_INSPECT_AWAY 1	/* its thread was in user space, or it never ran */
#define KVM_INSPECT_RUNNING 2	/* it did not stop in time */

#define KVM_INSPECT_VCPU_NESTED (1U << 0)	/* these are a nested guest's registers */
#define KVM_INSPECT_VCPU_SMM (1U << 1)		/* it is in system management mode */
#define KVM_INSPECT_VCPU_UNFINISHED (1U << 2)	/* its VMM has not completed its last exit */

/* What is not known, and 0. */
#define KVM_INSPECT_NO_VMCS (1U << 0)	/* rflags, segments, tables, sysenter_* */
#define KVM_INSPECT_NO_RIP (1U << 1)
#define KVM_INSPECT_NO_RSP (1U << 2)
#define KVM_INSPECT_NO_CR0 (1U << 3)
#define KVM_INSPECT_NO_CR3 (1U << 4)
#define KVM_INSPECT_NO_CR4 (1U << 5)
#define KVM_INSPECT_NO_REGISTERS (1U << 31)	/* none at all */

struct kvm_inspect_vcpu {
	__s32 id;		/* as the VMM gave it; usually the number of its APIC */
	__u32 state;
	__u32 flags;		/* KVM_INSPECT_VCPU_* */
	__u32 lacks;		/* KVM_INSPECT_NO_* */
	__u64 rip, rflags;
	__u64 rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	__u64 r8, r9, r10, r11, r12, r13, r14, r15;
	__u64 cr0, cr2, cr3, cr4, cr8, efer, apic_base;
	__u64 kernel_gs_base, lstar, star, cstar, sfmask;
	__u64 sysenter_cs, sysenter_esp, sysenter_eip;
	__u64 tsc_aux, pat, xcr0;
	__u64 dr0, dr1, dr2, dr3, dr6, dr7;
	struct kvm_inspect_segment cs, ds, es, fs, gs, ss, tr, ldt;
	struct kvm_inspect_table gdt, idt;
};

struct kvm_inspect_vcpus {
	__u64 vcpus;		/* where to write them */
	__u32 vcpu_size;	/* sizeof(struct kvm_inspect_vcpu) */
	__u32 room;		/* for how many there is room */
	__u32 count;		/* out: how many there are, also without room */
	__u32 flags;		/* KVM_INSPECT_OF_SEARCH, KVM_INSPECT_REPORT_LATE */
	__u32 freeze_timeout_ms;	/* how long to wait for all to stop */
	__u32 reserved;
	__u64 freeze_ns;	/* out: how long that took */
	__u64 pause_ns;		/* out: how long the guest stood */
};

/* Neighbouring pages of one kind. */
struct kvm_inspect_extent {
	__u64 gpa;
	__u64 pages;
	__u32 kind;
	__u32 reserved;
};

struct kvm_inspect_present {
	__u64 gpa;		/* of the first page to look at */
	__u64 pages;		/* how many */
	__u64 extents;		/* where to write what they are */
	__u32 extent_size;	/* sizeof(struct kvm_inspect_extent) */
	__u32 room;		/* for how many extents there is room */
	__u32 count;		/* out: how many were written */
	__u32 address_space;
	__u64 seen;		/* out: how many pages they are; fewer if there was no room */
};

struct kvm_inspect_pages {
	__u64 gpa;
	__u64 pages;
};

/* All in one pause; else the guest runs. */
#define KVM_INSPECT_COPY_PAUSED (1U << 2)
/* Only pages whose digests differ from those given. */
#define KVM_INSPECT_COPY_CHANGED (1U << 3)

struct kvm_inspect_copy {
	__u64 ranges;		/* struct kvm_inspect_pages, as many as range_count */
	__u64 buffer;		/* a page for each, in their order; 0: only look, or digest */
	__u64 kinds;		/* out, unless 0: a byte for each page, what it is */
	__u64 digests;		/* out: 64 bits each; 0: not present, 1: not known */
	__u32 range_count;
	__u32 address_space;
	__u32 flags;		/* KVM_INSPECT_COPY_* */
	__u32 freeze_timeout_ms;
	__u32 max_pause_ms;
	__u32 threads;		/* at most; 0: as many as CPUs. Out: how many took part */
	__u64 present;		/* out: how many pages could be read */
	__u64 copied;		/* out: how many were copied */
	__u64 late;		/* out: how many were not reached in time */
	__u64 freeze_ns;	/* out */
	__u64 pause_ns;		/* out */
};

struct kvm_inspect_pattern {
	__u64 text;		/* as after pattern=, without the comma */
	__u32 length;
	__u32 reserved;
};

struct kvm_inspect_span {
	__u64 first;		/* the first byte's GPA */
	__u64 last;		/* the last byte's */
};

/* Bring in, before the pause, what is swapped out or in a file. */
#define KVM_INSPECT_BRING_IN (1U << 4)

#define KVM_INSPECT_ENGINE_BEST 0
#define KVM_INSPECT_ENGINE_PORTABLE 1
#define KVM_INSPECT_ENGINE_AVX2 2
#define KVM_INSPECT_ENGINE_AVX512 3

#define KVM_INSPECT_ACCESS_LINEAR 0
#define KVM_INSPECT_ACCESS_VMAP 1
#define KVM_INSPECT_ACCESS_COPY 2

/* How a search ended: docs/report.md, result=. */
#define KVM_INSPECT_OK 0
#define KVM_INSPECT_NO_PATTERN 1
#define KVM_INSPECT_MEMSLOTS_CHANGED 2
#define KVM_INSPECT_TIME_UP 3
#define KVM_INSPECT_NOT_ONE_INSTANT 4
#define KVM_INSPECT_CHANGED 5
#define KVM_INSPECT_INCOMPLETE 6
#define KVM_INSPECT_VMM_KILLED 7
#define KVM_INSPECT_VM_CLOSED 8

struct kvm_inspect_search {
	__u64 patterns;		/* struct kvm_inspect_pattern, as many as pattern_count */
	__u64 spans;		/* struct kvm_inspect_span, span_count of them; none: all */
	__u32 pattern_count;
	__u32 span_count;
	__u32 max_hits;		/* how many to keep, the lowest ones; all are counted */
	__u32 context;		/* how many bytes to keep on each side; 0: nor the hit's own */
	__u32 flags;		/* KVM_INSPECT_REPORT_LATE, KVM_INSPECT_BRING_IN */
	__u32 freeze_timeout_ms;
	__u32 max_pause_ms;	/* KVM_INSPECT_NO_LIMIT: one pause */
	__u32 threads;		/* at most; 0: as many as CPUs. Out: how many took part */
	__u32 engine;		/* KVM_INSPECT_ENGINE_*. Out: the one that searched */
	__u32 access;		/* KVM_INSPECT_ACCESS_* */
	/* All of these are out. */
	__u32 result;
	__u32 pauses;
	__u64 hits;
	__u32 kept;		/* for KVM_INSPECT_HITS */
	__u32 uncovered;	/* for KVM_INSPECT_UNCOVERED */
	__u64 uncovered_bytes;
	__u64 scanned_bytes;
	__u64 rescanned_bytes;
	__u64 missing_pages;
	__u64 chunk_bytes;
	__u64 kinds[KVM_INSPECT_KINDS];
	__u64 freeze_ns;	/* of the first pause */
	__u64 pause_ns;		/* the longest */
	__u64 paused_ns;	/* all pauses together */
	__u64 scan_ns;
	__u32 late_threads;
	__u32 vcpus;		/* for KVM_INSPECT_VCPUS */
	__u32 slots;		/* for KVM_INSPECT_SLOTS */
	__u32 left_address_space;	/* with KVM_INSPECT_TIME_UP: where it stopped */
	__u64 left_gpa;
};

struct kvm_inspect_hit {
	__u64 gpa;
	__u64 hva;
	__u32 pattern;
	__u16 address_space;
	__s16 slot;
	__u32 bytes;		/* where in the buffer its bytes and those beside it are */
	__u16 before;		/* how many come before its own */
	__u16 length;		/* how many there are in all; 0 without context */
};

struct kvm_inspect_hits {
	__u64 first;		/* which of the kept ones to write first */
	__u64 hits;		/* where to write them */
	__u64 bytes;		/* where to write their bytes */
	__u32 hit_size;		/* sizeof(struct kvm_inspect_hit) */
	__u32 room;		/* for how many hits there is room */
	__u32 bytes_room;	/* for how many bytes */
	__u32 count;		/* out: how many were written */
};

/* Memory that a search does not cover in one instant. */
struct kvm_inspect_uncovered {
	__u64 gpa;
	__u64 pages;
	__u16 address_space;
	__s16 slot;
	__u32 reserved;
};

struct kvm_inspect_uncovereds {
	__u64 first;		/* which one to write first */
	__u64 uncovered;	/* where to write them */
	__u32 uncovered_size;	/* sizeof(struct kvm_inspect_uncovered) */
	__u32 room;		/* for how many there is room */
	__u32 count;		/* out: how many were written */
	__u32 reserved;
};

struct kvm_inspect_hold {
	__u32 lease_ms;		/* the guest goes on after this in any case: 1 to 60000 */
	__u32 freeze_timeout_ms;
	__u32 flags;		/* KVM_INSPECT_REPORT_LATE */
	__u32 reserved;
	__u64 freeze_ns;	/* out */
};

struct kvm_inspect_release {
	__u64 pause_ns;		/* out: how long the guest stood */
	__u32 is_expired;	/* out: 1 if the lease had ended before */
	__u32 reserved;
};

/* What a session does. */
#define KVM_INSPECT_DOES_NOTHING 0
#define KVM_INSPECT_SEARCHES 1
#define KVM_INSPECT_COPIES 2
#define KVM_INSPECT_HOLDS 3

struct kvm_inspect_progress {
	__u64 done;		/* pages */
	__u64 all;		/* pages, as far as is known */
	__u32 does;		/* KVM_INSPECT_DOES_* */
	__u32 pauses;
};

struct kvm_inspect_explain {
	__u64 text;		/* where to write it; without a NUL at its end */
	__u32 room;		/* for how many bytes */
	__u32 length;		/* out: how many there are */
};

#define KVM_INSPECT_ATTACH _IOWR(KVM_INSPECT_IOC, 0, struct kvm_inspect_attach)
#define KVM_INSPECT_EXPLAIN _IOWR(KVM_INSPECT_IOC, 1, struct kvm_inspect_explain)
#define KVM_INSPECT_PROGRESS _IOWR(KVM_INSPECT_IOC, 2, struct kvm_inspect_progress)
#define KVM_INSPECT_SLOTS _IOWR(KVM_INSPECT_IOC, 3, struct kvm_inspect_slots)
#define KVM_INSPECT_VCPUS _IOWR(KVM_INSPECT_IOC, 4, struct kvm_inspect_vcpus)
#define KVM_INSPECT_PRESENT_PAGES _IOWR(KVM_INSPECT_IOC, 5, struct kvm_inspect_present)
#define KVM_INSPECT_COPY _IOWR(KVM_INSPECT_IOC, 6, struct kvm_inspect_copy)
#define KVM_INSPECT_SEARCH _IOWR(KVM_INSPECT_IOC, 7, struct kvm_inspect_search)
#define KVM_INSPECT_HITS _IOWR(KVM_INSPECT_IOC, 8, struct kvm_inspect_hits)
#define KVM_INSPECT_UNCOVERED _IOWR(KVM_INSPECT_IOC, 9, struct kvm_inspect_uncovereds)
#define KVM_INSPECT_HOLD _IOWR(KVM_INSPECT_IOC, 10, struct kvm_inspect_hold)
#define KVM_INSPECT_RELEASE _IOWR(KVM_INSPECT_IOC, 11, struct kvm_inspect_release)

#endif
