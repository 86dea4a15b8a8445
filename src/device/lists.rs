// SPDX-License-Identifier: GPL-2.0

//! What a VM has: its memslots, its vCPUs with their registers, and its pages by what they are.

use kernel::{
    prelude::*,
    time::Delta, //
};

use super::{
    address_space,
    arguments::{
        self,
        Argument, //
    },
    check_flags,
    context::{
        nanoseconds,
        Context, //
    }, //
    convert::{
        to_slot,
        to_vcpu, //
    },
    freeze_timeout,
    late,
    session::{
        Job,
        Session, //
    },
};
use crate::{
    copy,
    error::refuse,
    freeze::Terms,
    kvm::Memslots,
    linux::{
        address_space::Patience,
        task, //
    },
    memory::{
        Interrupted,
        Map,
        Neighbours,
        Plan,
        Step,
        Windows,
        PAGE, //
    },
    range::Range,
    uapi, //
};

/// The most extents that are looked for at once.
const MAX_EXTENTS: usize = 1 << 16;

/// `KVM_INSPECT_SLOTS`
pub(super) fn slots(session: &Session, argument: &Argument) -> Result {
    let mut slots = argument.read::<uapi::Slots>()?;
    check_flags(slots.flags, uapi::OF_SEARCH, 0)?;
    let room = usize::try_from(slots.room)?;
    let write = |all: &[uapi::Slot]| {
        let all = all.iter().copied().take(room);
        arguments::write_elements(slots.slots, slots.slot_size, all)
    };
    let count = if slots.flags & uapi::OF_SEARCH == 0 {
        let job = session.call(SlotsJob(KVVec::new()))?;
        job.with(|job| write(&job.0).map(|()| job.0.len()))?
    } else {
        let found = session.found()?;
        write(&found.slots)?;
        found.slots.len()
    };
    slots.count = u32::try_from(count)?;
    argument.write(&slots)
}

struct SlotsJob(KVVec<uapi::Slot>);

impl Job for SlotsJob {
    fn run(&mut self, context: &mut Context<'_>) -> Result {
        let slots = Memslots::read(&context.target.vm)?;
        for slot in slots.as_slice() {
            self.0.push(to_slot(slot), GFP_KERNEL)?;
        }
        Ok(())
    }
}

/// `KVM_INSPECT_VCPUS`
pub(super) fn vcpus(session: &Session, argument: &Argument) -> Result {
    let mut vcpus = argument.read::<uapi::Vcpus>()?;
    check_flags(
        vcpus.flags,
        uapi::OF_SEARCH | uapi::REPORT_LATE,
        vcpus.reserved,
    )?;
    let room = usize::try_from(vcpus.room)?;
    let write = |all: &[uapi::Vcpu]| {
        let all = all.iter().copied().take(room);
        arguments::write_elements(vcpus.vcpus, vcpus.vcpu_size, all)
    };
    let count = if vcpus.flags & uapi::OF_SEARCH == 0 {
        let timeout = freeze_timeout(vcpus.freeze_timeout_ms)?;
        let job = session.call(VcpusJob {
            terms: Terms {
                timeout: Delta::from_millis(timeout.into()),
                late: late(vcpus.flags),
                is_first: true,
            },
            vcpus: KVVec::new(),
            freeze: Delta::ZERO,
            pause: Delta::ZERO,
        })?;
        job.with(|job| {
            write(&job.vcpus)?;
            vcpus.freeze_ns = nanoseconds(job.freeze);
            vcpus.pause_ns = nanoseconds(job.pause);
            Ok::<_, Error>(job.vcpus.len())
        })?
    } else {
        let found = session.found()?;
        write(&found.vcpus)?;
        found.vcpus.len()
    };
    vcpus.count = u32::try_from(count)?;
    argument.write(&vcpus)
}

struct VcpusJob {
    terms: Terms,
    vcpus: KVVec<uapi::Vcpu>,
    freeze: Delta,
    pause: Delta,
}

impl Job for VcpusJob {
    fn run(&mut self, context: &mut Context<'_>) -> Result {
        let vm = &context.target.vm;
        let mut frozen = KVVec::with_capacity(vm.vcpus().count(), GFP_KERNEL)?;
        let paused = context.pause(&self.terms, |freeze, _, _| {
            for vcpu in vm.vcpus() {
                if let Some(vcpu) = freeze.vcpu(vcpu) {
                    frozen.push(vcpu, task::gfp_paused())?;
                }
            }
            Ok::<_, Error>(())
        })?;
        paused.result?;
        context.target.check_unprotected()?;
        for vcpu in &frozen {
            self.vcpus.push(to_vcpu(vcpu), GFP_KERNEL)?;
        }
        (self.freeze, self.pause) = (paused.freeze, paused.pause);
        Ok(())
    }
}

/// `KVM_INSPECT_PRESENT_PAGES`
pub(super) fn present(session: &Session, argument: &Argument) -> Result {
    let mut present = argument.read::<uapi::Present>()?;
    let last = present
        .pages
        .checked_mul(PAGE)
        .and_then(|size| present.gpa.checked_add(size.checked_sub(1)?));
    let Some(last) = last.filter(|_| present.gpa % PAGE == 0) else {
        return Err(refuse!(
            EINVAL,
            "the pages do not begin at a multiple of 4096, or leave the 64-bit space; give others"
        ));
    };
    let job = session.call(PresentJob {
        address_space: address_space(present.address_space)?,
        range: Range {
            first: present.gpa,
            last,
        },
        extents: KVVec::new(),
        room: usize::try_from(present.room)?.min(MAX_EXTENTS),
        next: present.gpa,
    })?;
    job.with(|job| {
        let extents = job.extents.iter().copied();
        arguments::write_elements(present.extents, present.extent_size, extents)?;
        present.count = u32::try_from(job.extents.len())?;
        present.seen = job.next.wrapping_sub(present.gpa) / PAGE;
        argument.write(&present)
    })
}

struct PresentJob {
    address_space: c_int,
    range: Range,
    extents: KVVec<uapi::Extent>,
    room: usize,
    /// The first page that is in no extent.
    next: u64,
}

impl PresentJob {
    /// Adds pages, which come after those before. Returns whether there was room for them.
    fn add(&mut self, pages: u64, kind: u32) -> Result<bool> {
        if pages == 0 {
            return Ok(true);
        }
        let is_full = self.extents.len() == self.room;
        match self.extents.last_mut() {
            Some(last) if last.kind == kind => last.pages = last.pages.saturating_add(pages),
            _ if is_full => return Ok(false),
            _ => {
                let extent = uapi::Extent {
                    gpa: self.next,
                    pages,
                    kind,
                    reserved: 0,
                };
                self.extents.push(extent, GFP_KERNEL)?;
            }
        }
        self.next = self.next.wrapping_add(pages.wrapping_mul(PAGE));
        Ok(true)
    }

    /// Adds pages that are in no memslot, up to the address before `gpa`.
    fn add_gap(&mut self, gpa: u64) -> Result<bool> {
        self.add(gpa.saturating_sub(self.next) / PAGE, uapi::PAGE_OUTSIDE)
    }

    fn add_slots(&mut self, map: &Map, windows: &Windows<'_>) -> Result<(), Interrupted> {
        let mut held = copy::room()?;
        let Range { first, last } = self.range;
        for slot in map.slots() {
            if slot.address_space != self.address_space
                || slot.last_gpa() < first
                || slot.gpa > last
            {
                continue;
            }
            let begin = slot.gpa.max(first);
            if !self.add_gap(begin)? {
                return Ok(());
            }
            let page_of = |gpa: u64| gpa.saturating_sub(slot.gpa) / PAGE;
            let end = page_of(last.min(slot.last_gpa())).saturating_add(1);
            let mut visit = |plan, from, to: u64| {
                if matches!(plan, Plan::Private { .. }) {
                    let fits = self.add(to.saturating_sub(from), uapi::PAGE_PRIVATE)?;
                    return if fits {
                        Ok(())
                    } else {
                        Err(Interrupted::Stopped)
                    };
                }
                windows.visit(slot, from, to, &mut held, |step| {
                    task::cond_resched();
                    let fits = match step {
                        Step::Absent(absence, count) => self.add(count, copy::kind(absence))?,
                        Step::Window(window, _) => self.add(window.pages(), uapi::PAGE_PRESENT)?,
                    };
                    if fits {
                        Ok(())
                    } else {
                        Err(Interrupted::Stopped)
                    }
                })
            };
            map.for_each_stretch(&[Range::ALL], slot, page_of(begin), end, &mut visit)?;
        }
        // What is left of the range; its end may be that of the 64-bit space.
        let pages = (last / PAGE).wrapping_sub(self.next / PAGE).wrapping_add(1);
        if self.next.wrapping_sub(1) != last {
            self.add(pages, uapi::PAGE_OUTSIDE)?;
        }
        Ok(())
    }
}

impl Job for PresentJob {
    fn run(&mut self, context: &mut Context<'_>) -> Result {
        let map = Map::new(
            context.target.vm.try_clone()?,
            Memslots::read(&context.target.vm)?,
        );
        context.with_memory(|memory, stop| {
            let patience = Patience::new();
            let memory = memory.memory(&patience);
            let windows = Windows {
                map: &map,
                ranges: &[Range::ALL],
                memory: &memory,
                neighbours: Neighbours::None,
                stop,
            };
            match self.add_slots(&map, &windows) {
                Ok(()) => Ok(()),
                Err(Interrupted::Error(error)) => Err(error),
                // There is no room for more, or the caller wants no more.
                Err(Interrupted::Stopped) if stop() => Err(EINTR),
                Err(Interrupted::Stopped) => Ok(()),
            }
        })
    }
}
