// SPDX-License-Identifier: GPL-2.0

//! The structures of [`uapi`] against those of `include/uapi/kvm_inspect.h`.

use core::mem::{
    offset_of,
    size_of, //
};

use crate::{
    bindings,
    uapi, //
};

/// Checks that two structures have the same layout. All members of the Rust one must be named.
macro_rules! same_layout {
    ($rust:ident, $c:ident, $($member:ident)*) => {
        const _: () = {
            assert!(size_of::<uapi::$rust>() == size_of::<bindings::$c>());
            $(
                assert!(offset_of!(uapi::$rust, $member) == offset_of!(bindings::$c, $member));
            )*
            let _ = |uapi::$rust { $($member: _,)* }| ();
        };
    };
}

same_layout! {
    Attach, kvm_inspect_attach,
    pidfd vm_fd pid vcpus
}
same_layout! {
    Slot, kvm_inspect_slot,
    gpa pages hva flags address_space id kinds
}
same_layout! {
    Slots, kvm_inspect_slots,
    slots slot_size room count flags
}
same_layout! {
    Segment, kvm_inspect_segment,
    base limit selector type_ present dpl db s l g avl unusable reserved
}
same_layout! {
    Table, kvm_inspect_table,
    base limit
}
same_layout! {
    Vcpu, kvm_inspect_vcpu,
    id state flags lacks rip rflags rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14
    r15 cr0 cr2 cr3 cr4 cr8 efer apic_base kernel_gs_base lstar star cstar sfmask sysenter_cs
    sysenter_esp sysenter_eip tsc_aux pat xcr0 dr0 dr1 dr2 dr3 dr6 dr7 cs ds es fs gs ss tr
    ldt gdt idt
}
same_layout! {
    Vcpus, kvm_inspect_vcpus,
    vcpus vcpu_size room count flags freeze_timeout_ms reserved freeze_ns pause_ns
}
same_layout! {
    Extent, kvm_inspect_extent,
    gpa pages kind reserved
}
same_layout! {
    Present, kvm_inspect_present,
    gpa pages extents extent_size room count address_space seen
}
same_layout! {
    Pages, kvm_inspect_pages,
    gpa pages
}
same_layout! {
    Copy, kvm_inspect_copy,
    ranges buffer kinds digests range_count address_space flags freeze_timeout_ms max_pause_ms
    threads present copied late freeze_ns pause_ns
}
same_layout! {
    Pattern, kvm_inspect_pattern,
    text length reserved
}
same_layout! {
    Span, kvm_inspect_span,
    first last
}
same_layout! {
    Search, kvm_inspect_search,
    patterns spans pattern_count span_count max_hits context flags freeze_timeout_ms
    max_pause_ms threads engine access result pauses hits kept uncovered uncovered_bytes
    scanned_bytes rescanned_bytes missing_pages chunk_bytes kinds freeze_ns pause_ns paused_ns
    scan_ns late_threads vcpus slots left_address_space left_gpa
}
same_layout! {
    Hit, kvm_inspect_hit,
    gpa hva pattern address_space slot bytes before length
}
same_layout! {
    Hits, kvm_inspect_hits,
    first hits bytes hit_size room bytes_room count
}
same_layout! {
    Uncovered, kvm_inspect_uncovered,
    gpa pages address_space slot reserved
}
same_layout! {
    Uncovereds, kvm_inspect_uncovereds,
    first uncovered uncovered_size room count reserved
}
same_layout! {
    Hold, kvm_inspect_hold,
    lease_ms freeze_timeout_ms flags reserved freeze_ns
}
same_layout! {
    Release, kvm_inspect_release,
    pause_ns is_expired reserved
}
same_layout! {
    Progress, kvm_inspect_progress,
    done all does pauses
}
same_layout! {
    Explain, kvm_inspect_explain,
    text room length
}

/// Checks that constants have the same values.
macro_rules! same_values {
    ($($rust:ident $c:ident)*) => {
        $(const _: () = assert!(uapi::$rust == bindings::$c);)*
    };
}

same_values! {
    PAGE_PRESENT KVM_INSPECT_PRESENT
    PAGE_UNTOUCHED KVM_INSPECT_UNTOUCHED
    PAGE_UNMAPPED KVM_INSPECT_UNMAPPED
    PAGE_SWAPPED KVM_INSPECT_SWAPPED
    PAGE_IN_FILE KVM_INSPECT_IN_FILE
    PAGE_USERFAULT KVM_INSPECT_USERFAULT
    PAGE_POISONED KVM_INSPECT_POISONED
    PAGE_DEVICE KVM_INSPECT_DEVICE_MEMORY
    PAGE_UNREADABLE KVM_INSPECT_UNREADABLE
    PAGE_PRIVATE KVM_INSPECT_PRIVATE
    PAGE_OUTSIDE KVM_INSPECT_OUTSIDE
    PAGE_LATE KVM_INSPECT_LATE
    SLOT_LOG_DIRTY KVM_INSPECT_SLOT_LOG_DIRTY
    SLOT_READONLY KVM_INSPECT_SLOT_READONLY
    SLOT_GUEST_MEMFD KVM_INSPECT_SLOT_GUEST_MEMFD
    SLOT_GUEST_MEMFD_ONLY KVM_INSPECT_SLOT_GUEST_MEMFD_ONLY
    SLOT_LOST KVM_INSPECT_SLOT_LOST
    OF_SEARCH KVM_INSPECT_OF_SEARCH
    REPORT_LATE KVM_INSPECT_REPORT_LATE
    VCPU_PARKED KVM_INSPECT_PARKED
    VCPU_AWAY KVM_INSPECT_AWAY
    VCPU_RUNNING KVM_INSPECT_RUNNING
    VCPU_NESTED KVM_INSPECT_VCPU_NESTED
    VCPU_SMM KVM_INSPECT_VCPU_SMM
    VCPU_UNFINISHED KVM_INSPECT_VCPU_UNFINISHED
    NO_VMCS KVM_INSPECT_NO_VMCS
    NO_RIP KVM_INSPECT_NO_RIP
    NO_RSP KVM_INSPECT_NO_RSP
    NO_CR0 KVM_INSPECT_NO_CR0
    NO_CR3 KVM_INSPECT_NO_CR3
    NO_CR4 KVM_INSPECT_NO_CR4
    NO_REGISTERS KVM_INSPECT_NO_REGISTERS
    COPY_PAUSED KVM_INSPECT_COPY_PAUSED
    COPY_CHANGED KVM_INSPECT_COPY_CHANGED
    BRING_IN KVM_INSPECT_BRING_IN
    ENGINE_BEST KVM_INSPECT_ENGINE_BEST
    ENGINE_PORTABLE KVM_INSPECT_ENGINE_PORTABLE
    ENGINE_AVX2 KVM_INSPECT_ENGINE_AVX2
    ENGINE_AVX512 KVM_INSPECT_ENGINE_AVX512
    ACCESS_LINEAR KVM_INSPECT_ACCESS_LINEAR
    ACCESS_VMAP KVM_INSPECT_ACCESS_VMAP
    ACCESS_COPY KVM_INSPECT_ACCESS_COPY
    RESULT_OK KVM_INSPECT_OK
    RESULT_NO_PATTERN KVM_INSPECT_NO_PATTERN
    RESULT_MEMSLOTS_CHANGED KVM_INSPECT_MEMSLOTS_CHANGED
    RESULT_TIME_UP KVM_INSPECT_TIME_UP
    RESULT_NOT_ONE_INSTANT KVM_INSPECT_NOT_ONE_INSTANT
    RESULT_CHANGED KVM_INSPECT_CHANGED
    RESULT_INCOMPLETE KVM_INSPECT_INCOMPLETE
    RESULT_VMM_KILLED KVM_INSPECT_VMM_KILLED
    RESULT_VM_CLOSED KVM_INSPECT_VM_CLOSED
    DOES_NOTHING KVM_INSPECT_DOES_NOTHING
    SEARCHES KVM_INSPECT_SEARCHES
    COPIES KVM_INSPECT_COPIES
    HOLDS KVM_INSPECT_HOLDS
    NO_LIMIT KVM_INSPECT_NO_LIMIT
}

same_values! {
    ATTACH KVM_INSPECT_NR_ATTACH
    EXPLAIN KVM_INSPECT_NR_EXPLAIN
    PROGRESS KVM_INSPECT_NR_PROGRESS
    SLOTS KVM_INSPECT_NR_SLOTS
    VCPUS KVM_INSPECT_NR_VCPUS
    PRESENT_PAGES KVM_INSPECT_NR_PRESENT_PAGES
    COPY KVM_INSPECT_NR_COPY
    SEARCH KVM_INSPECT_NR_SEARCH
    HITS KVM_INSPECT_NR_HITS
    UNCOVERED KVM_INSPECT_NR_UNCOVERED
    HOLD KVM_INSPECT_NR_HOLD
    RELEASE KVM_INSPECT_NR_RELEASE
}
