// SPDX-License-Identifier: GPL-2.0

//! What the module knows, as the device gives it.

use crate::{
    freeze::{
        FrozenVcpu,
        VcpuState, //
    },
    kvm::{
        Memslot,
        SLOT_FLAGS, //
    },
    memory::PageCounts,
    outcome::Conclusion,
    uapi, //
};

/// Returns a memslot as the device gives it, without counts of pages.
pub(super) fn to_slot(slot: &Memslot) -> uapi::Slot {
    let flags = SLOT_FLAGS.into_iter();
    let flags = flags.filter(|(bit, _)| slot.flags & bit != 0);
    uapi::Slot {
        gpa: slot.gpa,
        pages: slot.pages,
        hva: slot.hva,
        flags: flags.fold(0, |flags, (_, flag)| flags | flag),
        address_space: u16::try_from(slot.address_space).unwrap_or(u16::MAX),
        id: slot.id,
        kinds: [0; uapi::KINDS],
    }
}

/// Returns a vCPU as the device gives it.
pub(super) fn to_vcpu(vcpu: &FrozenVcpu) -> uapi::Vcpu {
    let mut to = vcpu.registers.as_ref().map_or(
        uapi::Vcpu {
            lacks: uapi::NO_REGISTERS,
            ..zerocopy::FromZeros::new_zeroed()
        },
        |registers| registers.to_uapi(),
    );
    to.id = vcpu.number;
    to.state = match vcpu.state {
        VcpuState::Parked => uapi::VCPU_PARKED,
        VcpuState::Outside => uapi::VCPU_AWAY,
        VcpuState::Running => uapi::VCPU_RUNNING,
    };
    to
}

/// Returns how many pages there are of each kind, by the numbers of the kinds.
pub(super) fn kinds(pages: &PageCounts) -> [u64; uapi::KINDS] {
    let mut kinds = [0; uapi::KINDS];
    // In the order of the kinds.
    let counts = pages.kinds().map(|(_, count)| count);
    for (kind, count) in kinds.iter_mut().skip(1).zip(counts) {
        *kind = count;
    }
    kinds[0] = pages.present;
    kinds
}

/// Returns the number of a conclusion.
pub(super) fn conclusion(conclusion: Conclusion) -> u32 {
    match conclusion {
        Conclusion::Ok => uapi::RESULT_OK,
        Conclusion::NoPattern => uapi::RESULT_NO_PATTERN,
        Conclusion::MemslotsChanged => uapi::RESULT_MEMSLOTS_CHANGED,
        Conclusion::TimeUp => uapi::RESULT_TIME_UP,
        Conclusion::NotOneInstant => uapi::RESULT_NOT_ONE_INSTANT,
        Conclusion::Changed => uapi::RESULT_CHANGED,
        Conclusion::Incomplete => uapi::RESULT_INCOMPLETE,
        Conclusion::VmmKilled => uapi::RESULT_VMM_KILLED,
        Conclusion::VmClosed => uapi::RESULT_VM_CLOSED,
    }
}
