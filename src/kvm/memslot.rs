// SPDX-License-Identifier: GPL-2.0

//! The memslots: where guest-physical pages lie in the VMM's address space.

use core::marker::PhantomData;

use kernel::{
    alloc::Flags,
    container_of,
    page::PAGE_SHIFT,
    prelude::*, //
};

use super::Vm;
use crate::{
    bindings,
    linux::file_pages::OpenFile,
    uapi, //
};

/// One memslot: guest-physical pages that lie in the VMM's memory, or in a guest_memfd.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memslot {
    /// The address space: 0, or 1 for what the guest sees in system management mode.
    pub(crate) address_space: c_int,
    /// The number that the VMM gave the slot; from `KVM_USER_MEM_SLOTS` on KVM's own.
    pub(crate) id: i16,
    /// The guest-physical address of the first byte. A multiple of the page size.
    pub(crate) gpa: u64,
    /// The number of pages, at least 1. The last byte's address fits in 64 bits.
    pub(crate) pages: u64,
    /// The host-virtual address of the first byte, in the VMM.
    pub(crate) hva: u64,
    /// `KVM_MEM_*` of `include/uapi/linux/kvm.h`.
    pub(crate) flags: u32,
    /// The guest_memfd, if the guest's pages are there and not at `hva`: its identity, and the
    /// number in it of the first page.
    pub(crate) in_file: Option<(usize, u64)>,
}

/// Where a page of a guest is. Equal values are the same page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// At this host-virtual address in the VMM.
    Mapped(u64),
    /// In the guest_memfd with this identity, at this place.
    InFile(usize, u64),
}

impl Memslot {
    /// Returns the guest-physical address of the last byte.
    pub(crate) fn last_gpa(&self) -> u64 {
        self.gpa.wrapping_add(self.last_offset())
    }

    /// Returns whether some of it may lie in guest_memfd, where the VMM does not see it.
    pub(crate) fn may_be_private(&self) -> bool {
        self.flags & bindings::KVM_MEM_GUEST_MEMFD != 0
    }

    /// Returns where the page at `gpa` is, which is in the slot.
    pub(crate) fn backing(&self, gpa: u64) -> Backing {
        let page = gpa.wrapping_sub(self.gpa) >> PAGE_SHIFT;
        match self.in_file {
            Some((file, first)) => Backing::InFile(file, first.wrapping_add(page)),
            None => Backing::Mapped(self.hva_at(page)),
        }
    }

    /// Returns whether this is still the same memory at the same place as `before`; other flags do
    /// not matter.
    pub(crate) fn is_still(&self, before: &Self) -> bool {
        let flags = before.flags;
        *before == Self { flags, ..*self }
    }

    /// Returns the host-virtual address of the byte at `gpa`, which is in the slot.
    pub(crate) fn hva_of(&self, gpa: u64) -> u64 {
        self.hva.wrapping_add(gpa.wrapping_sub(self.gpa))
    }

    /// Returns the guest-physical address of page number `page` of the slot.
    pub(crate) fn gpa_at(&self, page: u64) -> u64 {
        self.gpa.wrapping_add(page << PAGE_SHIFT)
    }

    /// Returns the host-virtual address of page number `page` of the slot.
    pub(crate) fn hva_at(&self, page: u64) -> u64 {
        self.hva.wrapping_add(page << PAGE_SHIFT)
    }

    /// Returns the host-virtual address of the last byte.
    pub(crate) fn last_hva(&self) -> u64 {
        self.hva.wrapping_add(self.last_offset())
    }

    fn last_offset(&self) -> u64 {
        (self.pages << PAGE_SHIFT).wrapping_sub(1)
    }
}

/// The names of the flags that a slot may have, with their bits.
pub(crate) const FLAG_NAMES: [(u32, &str); 4] = [
    (bindings::KVM_MEM_LOG_DIRTY_PAGES, "log_dirty"),
    (bindings::KVM_MEM_READONLY, "readonly"),
    (bindings::KVM_MEM_GUEST_MEMFD, "guest_memfd"),
    (GMEM_ONLY, "guest_memfd_only"),
];

/// The flags that a slot may have, by their bits and as the device gives them.
pub(crate) const SLOT_FLAGS: [(u32, u32); 4] = [
    (bindings::KVM_MEM_LOG_DIRTY_PAGES, uapi::SLOT_LOG_DIRTY),
    (bindings::KVM_MEM_READONLY, uapi::SLOT_READONLY),
    (bindings::KVM_MEM_GUEST_MEMFD, uapi::SLOT_GUEST_MEMFD),
    (GMEM_ONLY, uapi::SLOT_GUEST_MEMFD_ONLY),
];

/// KVM serves the guest from guest_memfd alone, whatever is at `hva`.
const GMEM_ONLY: u32 = bindings::KVM_MEMSLOT_GMEM_ONLY;

/// All memslots of a VM as they were at one moment, in ascending order of address space and
/// guest-physical address.
pub(crate) struct Memslots {
    slots: KVVec<Memslot>,
    /// The files of those slots that have one, open as long as this lives.
    files: KVVec<OpenFile>,
    generations: [u64; ADDRESS_SPACES],
}

/// Room for slots that are made between two looks.
pub(crate) const SPARE_SLOTS: usize = 256;

const ADDRESS_SPACES: usize = bindings::KVM_MAX_NR_ADDRESS_SPACES as usize;

impl Memslots {
    /// Reads the memslots of `vm`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn read(vm: &Vm) -> Result<Self> {
        let mut this = Self {
            slots: KVVec::new(),
            files: KVVec::new(),
            generations: [0; ADDRESS_SPACES],
        };
        this.read_again(vm, GFP_KERNEL)?;
        this.slots.reserve(SPARE_SLOTS, GFP_KERNEL)?;
        Ok(this)
    }

    /// Reads them again. Allocates, with `flags`, only if there are many more now.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn read_again(&mut self, vm: &Vm, flags: Flags) -> Result {
        let Self {
            slots,
            files,
            generations,
        } = self;
        slots.clear();
        files.clear();
        for_each_address_space(vm, |address_space, set| {
            if let Some(generation) = generations.get_mut(index(address_space)) {
                *generation = set.generation();
            }
            set.for_each(|slot, file| {
                // A slot that is being moved or deleted is marked invalid.
                if slot.flags & bindings::KVM_MEMSLOT_INVALID != 0 {
                    return Ok(());
                }
                if let Some(file) = file {
                    files.push(file, flags)?;
                }
                let slot = Memslot {
                    address_space,
                    ..slot
                };
                Ok(slots.push(slot, flags)?)
            })
        })
    }

    /// Returns whether the VMM has changed the memslots since they were read.
    pub(crate) fn have_changed(&self, vm: &Vm) -> bool {
        let mut changed = false;
        // Cannot fail: the closure does not.
        let _ = for_each_address_space(vm, |address_space, set| {
            changed |= self.generations.get(index(address_space)) != Some(&set.generation());
            Ok(())
        });
        changed
    }

    /// Returns the slots.
    pub(crate) fn as_slice(&self) -> &[Memslot] {
        &self.slots
    }

    /// Returns the guest_memfd with this identity, if one of the slots has it.
    pub(crate) fn file(&self, id: usize) -> Option<&OpenFile> {
        self.files.iter().find(|file| file.id() == id)
    }
}

fn index(address_space: c_int) -> usize {
    usize::try_from(address_space).unwrap_or(usize::MAX)
}

/// The slots of one address space, in an SRCU read-side section.
///
/// # Invariants
///
/// Points to memslots of a VM whose `srcu` is held for reading during the lifetime. Other parts of
/// them and of their slots than those read here may change at any time.
struct SlotSet<'a>(*const bindings::kvm_memslots, PhantomData<&'a ()>);

impl SlotSet<'_> {
    /// Returns a number that changes when the slots do, and once more when the update is over.
    fn generation(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { (&raw const (*self.0).generation).read_volatile() }
    }

    fn for_each(&self, mut visit: impl FnMut(Memslot, Option<OpenFile>) -> Result) -> Result {
        // SAFETY: By the type invariant; it never changes.
        let node_index = index(unsafe { (*self.0).node_idx });
        // SAFETY: The tree is not changed while it is the active one, which it is at least until
        // the section ends (`virt/kvm/kvm_main.c`, `kvm_swap_active_memslots`).
        let mut node = unsafe { bindings::rb_first(&raw const (*self.0).gfn_tree) };
        while !node.is_null() {
            // SAFETY: The nodes of this tree are `gfn_node[node_idx]` of their slots, and these
            // fields of a slot in the active tree do not change.
            let (mut slot, raw) = unsafe {
                let nodes = node.sub(node_index).cast::<[bindings::rb_node; 2]>();
                let slot = container_of!(nodes, bindings::kvm_memory_slot, gfn_node);
                (
                    Memslot {
                        address_space: 0,
                        id: (*slot).id,
                        gpa: (*slot).base_gfn << PAGE_SHIFT,
                        pages: u64::try_from((*slot).npages)?,
                        hva: u64::try_from((*slot).userspace_addr)?,
                        flags: (*slot).flags,
                        in_file: None,
                    },
                    slot,
                )
            };
            let mut file = None;
            if slot.flags & GMEM_ONLY != 0 {
                // SAFETY: The slot exists as long as the section; its file may be closed at any
                // time, which `get_file_active` copes with (`virt/kvm/guest_memfd.c`,
                // `kvm_gmem_get_file`). The reference is given to `OpenFile`.
                file = unsafe {
                    OpenFile::owned(bindings::get_file_active(&raw mut (*raw).gmem.file))
                };
                // SAFETY: As above; the number does not change while the slot has a file.
                let first = u64::try_from(unsafe { (*raw).gmem.pgoff })?;
                // Without a file there is nothing: no file has this identity.
                slot.in_file = Some((file.as_ref().map_or(0, OpenFile::id), first));
            }
            visit(slot, file)?;
            // SAFETY: As long as the tree is active, its nodes do not change.
            node = unsafe { bindings::rb_next(node) };
        }
        Ok(())
    }
}

/// Calls `visit` with the slots of each address space, inside one SRCU read-side section.
fn for_each_address_space(vm: &Vm, mut visit: impl FnMut(c_int, SlotSet<'_>) -> Result) -> Result {
    let vm = vm.as_raw();
    // SAFETY: `vm` is a valid VM. The section ends with this function.
    let section = unsafe { bindings::srcu_read_lock(&raw mut (*vm).srcu) };
    // SAFETY: `vm` is a valid VM.
    let count = unsafe { bindings::kvm_arch_nr_memslot_as_ids(vm) };
    let result = (0..count).try_for_each(|address_space| {
        // SAFETY: This is in the section, and `address_space` is one of the VM's.
        let set = unsafe { bindings::__kvm_memslots(vm, address_space) };
        // INVARIANT: `visit` cannot keep it, so it does not outlive the section.
        visit(address_space, SlotSet(set, PhantomData))
    });
    // SAFETY: Entered above, by this task.
    unsafe { bindings::srcu_read_unlock(&raw mut (*vm).srcu, section) };
    result
}
