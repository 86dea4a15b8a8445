// SPDX-License-Identifier: GPL-2.0

//! A virtual machine and its memory.

use std::{collections::BTreeMap, os::fd::AsRawFd, sync::Arc};

use kvm_bindings::{
    kvm_create_guest_memfd, kvm_memory_attributes, kvm_userspace_memory_region,
    kvm_userspace_memory_region2, KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
};
use kvm_inspect_tool::report;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::{
    mapping::{Backing, Mapping},
    mode,
    vcpu::{self, Vcpu, Work},
    Mode,
};
use crate::process::{own_pid, present_pages, PAGE};

/// The size of the memory of [`Vm::bootable`], in slot 0 at address 0. Cases may use its first
/// page.
pub(crate) const LOW_MEMORY: u64 = 0x2_0000;

/// The same address as in QEMU.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// The lowest number of KVM's own slots (`KVM_USER_MEM_SLOTS`).
const FIRST_INTERNAL_SLOT: u16 = 32764;

/// A memslot.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) space: u16,
    pub(crate) id: u16,
    pub(crate) gpa: u64,
    pub(crate) len: u64,
    pub(crate) mapping: Arc<Mapping>,
    /// Its offset in `mapping`.
    pub(crate) offset: u64,
    /// `KVM_MEM_READONLY`, `KVM_MEM_LOG_DIRTY_PAGES`.
    pub(crate) flags: u32,
}

impl Slot {
    /// Creates a slot for all of `mapping`, in the first address space.
    pub(crate) fn of(id: u16, gpa: u64, mapping: &Arc<Mapping>) -> Self {
        Self {
            space: 0,
            id,
            gpa,
            len: mapping.len(),
            mapping: mapping.clone(),
            offset: 0,
            flags: 0,
        }
    }

    /// Returns the host-virtual address of `gpa`.
    pub(crate) fn hva(&self, gpa: u64) -> u64 {
        self.mapping.address() + self.offset + (gpa - self.gpa)
    }

    /// Returns the report's line about the slot, without the kinds of pages that are not present.
    pub(crate) fn expected(&self) -> report::Slot {
        let hva = self.hva(self.gpa);
        let last = self.len - 1;
        let pages = self.len / PAGE;
        let present = present_pages(own_pid(), hva, pages);
        let present = present.into_iter().filter(|present| *present).count() as u64;
        let flags = match self.flags {
            0 => "none",
            KVM_MEM_READONLY => "readonly",
            KVM_MEM_LOG_DIRTY_PAGES => "log_dirty",
            other => panic!("no case uses the flags {other:#x}"),
        };
        report::Slot {
            space: self.space,
            id: self.id,
            gpa: self.gpa..=self.gpa + last,
            hva: hva..=hva + last,
            flags: flags.to_owned(),
            pages: report::Pages {
                all: pages,
                present,
                kinds: BTreeMap::new(),
            },
        }
    }

    fn contains(&self, gpa: u64) -> bool {
        (self.gpa..self.gpa + self.len).contains(&gpa)
    }
}

/// A virtual machine. Dropping it stops its vCPUs.
pub(crate) struct Vm {
    // They are dropped first: their threads use the slots' memory.
    vcpus: Vec<Vcpu>,
    slots: Vec<Slot>,
    fd: Option<VmFd>,
    kvm: Kvm,
}

impl Vm {
    /// Creates a VM with neither memory nor vCPUs.
    pub(crate) fn empty() -> Self {
        Self::of_type(0)
    }

    /// Creates an empty VM whose memory may be private, by software alone
    /// (`KVM_X86_SW_PROTECTED_VM`). Its vCPUs cannot run.
    pub(crate) fn with_private_memory() -> Self {
        Self::of_type(1)
    }

    fn of_type(kind: u64) -> Self {
        let kvm = Kvm::new().expect("KVM is loaded");
        let fd = kvm.create_vm_with_type(kind).expect("a VM can be made");
        // With it KVM handles a vCPU that halts.
        fd.create_irq_chip()
            .expect("there is an interrupt controller");
        Self {
            vcpus: Vec::new(),
            slots: Vec::new(),
            fd: Some(fd),
            kvm,
        }
    }

    /// Creates a VM with the memory that [`Vm::add_vcpu`] needs.
    pub(crate) fn bootable() -> Self {
        let mut vm = Self::empty();
        // KVM may use this for real mode, if the processor needs help with that.
        let fd = vm.fd.as_ref().expect("it is open");
        fd.set_tss_address(TSS_ADDRESS)
            .expect("there is room for it");
        let low = vm.add_memory(0, LOW_MEMORY, Backing::Anonymous);
        low.touch_all();
        mode::write_page_tables(&low);
        vcpu::write_programs(&low);
        vm
    }

    /// Creates a bootable VM with one vCPU that does `work` already.
    pub(crate) fn running(work: Work) -> Self {
        let mut vm = Self::bootable();
        vm.add_vcpu(Mode::Long, work);
        vm.start();
        vm
    }

    /// Returns the file descriptor.
    pub(crate) fn fd(&self) -> i32 {
        self.fd.as_ref().expect("it is open").as_raw_fd()
    }

    /// Returns the VM's own file.
    pub(crate) fn file(&self) -> &VmFd {
        self.fd.as_ref().expect("it is open")
    }

    /// Closes the VM's own file. The vCPUs' files keep the VM.
    pub(crate) fn close_fd(&mut self) {
        self.fd = None;
    }

    /// Makes a call for which KVM locks the VM (`kvm->lock`), and which changes nothing: there is
    /// an interrupt controller already.
    pub(crate) fn lock(&self) {
        let fd = self.fd.as_ref().expect("it is open");
        let result = fd.create_irq_chip().map_err(kvm_ioctls::Error::errno);
        assert_eq!(result, Err(libc::EEXIST));
    }

    /// Makes a vCPU that never runs, with this number.
    pub(crate) fn idle_vcpu(&self, id: u64) -> VcpuFd {
        let fd = self.fd.as_ref().expect("it is open");
        fd.create_vcpu(id).expect("a vCPU can be made")
    }

    /// Adds a slot.
    pub(crate) fn add(&mut self, slot: Slot) {
        self.set_region(&slot);
        self.slots.push(slot);
    }

    /// Changes the address or the flags of a slot of the first address space.
    pub(crate) fn change(&mut self, slot: Slot) {
        self.set_region(&slot);
        self.slots.retain(|old| (old.space, old.id) != (0, slot.id));
        self.slots.push(slot);
    }

    /// Removes a slot of the first address space.
    pub(crate) fn remove(&mut self, id: u16) {
        let slot = self.slot(id).expect("it is there").clone();
        self.set_region(&Slot { len: 0, ..slot });
        self.slots.retain(|old| (old.space, old.id) != (0, id));
    }

    /// Returns the slot of the first address space with this number.
    pub(crate) fn slot(&self, id: u16) -> Option<&Slot> {
        self.slots
            .iter()
            .find(|slot| (slot.space, slot.id) == (0, id))
    }

    fn set_region(&self, slot: &Slot) {
        let region = kvm_userspace_memory_region {
            slot: (u32::from(slot.space) << 16) | u32::from(slot.id),
            flags: slot.flags,
            guest_phys_addr: slot.gpa,
            memory_size: slot.len,
            userspace_addr: slot.hva(slot.gpa),
        };
        let fd = self.fd.as_ref().expect("it is open");
        // SAFETY: The VM keeps the mapping as long as the slot.
        let result = unsafe { fd.set_user_memory_region(region) };
        result.unwrap_or_else(|error| panic!("a slot at {:#x}: {error}", slot.gpa));
    }

    /// Adds new memory as [`Vm::add_memory`] does. Any of its pages can become private: they are in
    /// a `guest_memfd` then, and not in the mapping.
    pub(crate) fn add_private_memory(&mut self, gpa: u64, len: u64) -> Arc<Mapping> {
        let mapping = Mapping::new(len, Backing::Anonymous);
        let slot = Slot {
            flags: KVM_MEM_GUEST_MEMFD,
            ..Slot::of(u16::try_from(self.slots.len()).expect("few"), gpa, &mapping)
        };
        let fd = self.fd.as_ref().expect("it is open");
        let memfd = kvm_create_guest_memfd {
            size: len,
            ..Default::default()
        };
        let memfd = fd.create_guest_memfd(memfd).expect("a guest_memfd");
        let region = kvm_userspace_memory_region2 {
            slot: u32::from(slot.id),
            flags: slot.flags,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: slot.hva(gpa),
            guest_memfd: u32::try_from(memfd).expect("a file descriptor"),
            ..Default::default()
        };
        // SAFETY: The VM keeps the mapping as long as the slot.
        let result = unsafe { fd.set_user_memory_region2(region) };
        result.unwrap_or_else(|error| panic!("adding a slot at {gpa:#x}: {error}"));
        self.slots.push(slot);
        mapping
    }

    /// Makes pages private, or shared again.
    pub(crate) fn set_private(&self, gpa: u64, len: u64, private: bool) {
        let attributes = kvm_memory_attributes {
            address: gpa,
            size: len,
            attributes: if private {
                u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE)
            } else {
                0
            },
            flags: 0,
        };
        let fd = self.fd.as_ref().expect("it is open");
        fd.set_memory_attributes(attributes)
            .expect("the pages can change");
    }

    /// Adds new memory in a slot of the first address space, with the next free number.
    pub(crate) fn add_memory(&mut self, gpa: u64, len: u64, backing: Backing) -> Arc<Mapping> {
        let mapping = Mapping::new(len, backing);
        self.add_mapping(gpa, &mapping);
        mapping
    }

    /// Adds all of `mapping`, which may be in other slots, too, as [`Vm::add_memory`] does.
    pub(crate) fn add_mapping(&mut self, gpa: u64, mapping: &Arc<Mapping>) {
        let used = self.slots.iter().filter(|slot| slot.space == 0);
        let id = used.map(|slot| slot.id + 1).max().unwrap_or(0);
        self.add(Slot::of(id, gpa, mapping));
    }

    /// Returns the slot of the first address space that contains `gpa`.
    pub(crate) fn slot_at(&self, gpa: u64) -> &Slot {
        let mut slots = self.slots.iter();
        let slot = slots.find(|slot| slot.space == 0 && slot.contains(gpa));
        slot.unwrap_or_else(|| panic!("no memory at {gpa:#x}"))
    }

    /// Reads bytes of guest memory in one slot.
    pub(crate) fn read(&self, gpa: u64, len: u64) -> Vec<u8> {
        let slot = self.slot_at(gpa);
        slot.mapping.read(slot.offset + (gpa - slot.gpa), len)
    }

    /// Writes bytes into guest memory, across slots if needed.
    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) {
        for (gpa, byte) in (gpa..).zip(bytes) {
            let slot = self.slot_at(gpa);
            slot.mapping.write(slot.offset + (gpa - slot.gpa), &[*byte]);
        }
    }

    /// Returns the expected hits of a pattern at these addresses.
    pub(crate) fn hits(&self, pattern: usize, at: &[u64]) -> Vec<report::Hit> {
        let hit = |&gpa: &u64| {
            let slot = self.slot_at(gpa);
            report::Hit {
                space: 0,
                gpa,
                pattern,
                slot: slot.id,
                hva: slot.hva(gpa),
                bytes: None,
            }
        };
        at.iter().map(hit).collect()
    }

    /// Returns the slots in a report without KVM's own, which it has on Intel.
    pub(crate) fn user_slots(report: &report::Report) -> Vec<report::Slot> {
        let mut slots = report.slots.clone();
        slots.retain(|slot| slot.id < FIRST_INTERNAL_SLOT);
        slots
    }

    /// Checks that the report has all slots, with exactly the pages that are present and absent.
    pub(crate) fn assert_slots(&self, report: &report::Report) {
        assert_eq!(report.done.private_pages, 0);
        let mut expected: Vec<_> = self.slots.iter().map(Slot::expected).collect();
        expected.sort_by_key(|slot| (slot.space, *slot.gpa.start()));
        let mut slots = Self::user_slots(report);
        slots.iter_mut().for_each(|slot| slot.pages.kinds.clear());
        assert_eq!(slots, expected, "slots");
        let absent = report.pages() - report.present();
        assert_eq!(report.done.absent_pages, absent, "absent pages");
    }

    /// Checks how many bytes were searched in the VM's slots. KVM's own slots come on top.
    pub(crate) fn assert_scanned(report: &report::Report, bytes: u64) {
        let slots = report.slots.iter();
        // The second address space has the same memory there.
        let own = slots.filter(|slot| slot.space == 0 && slot.id >= FIRST_INTERNAL_SLOT);
        let own: u64 = own.map(|slot| slot.pages.present * PAGE).sum();
        assert_eq!(report.done.scanned_bytes, bytes + own, "searched bytes");
    }

    /// Adds a vCPU, which does not run yet.
    pub(crate) fn add_vcpu(&mut self, mode: Mode, work: Work) -> &mut Vcpu {
        let fd = self.fd.as_ref().expect("it is open");
        let id = self.vcpus.len() as u64;
        let low = self.slots.first().filter(|slot| slot.gpa == 0);
        let memory = low.map(|slot| slot.mapping.clone());
        self.vcpus
            .push(Vcpu::new(&self.kvm, fd, id, mode, work, memory));
        self.vcpus.last_mut().expect("it was just added")
    }

    /// Starts all vCPUs, and waits until each does its work.
    pub(crate) fn start(&mut self) {
        self.vcpus.iter_mut().for_each(Vcpu::start);
        self.vcpus.iter_mut().for_each(Vcpu::wait_until_at_work);
    }

    /// Returns a vCPU.
    pub(crate) fn vcpu(&mut self, id: usize) -> &mut Vcpu {
        &mut self.vcpus[id]
    }

    /// Returns the vCPUs.
    pub(crate) fn vcpus(&mut self) -> &mut [Vcpu] {
        &mut self.vcpus
    }

    /// Waits until the work of each running vCPU has advanced, if it leaves a trace.
    pub(crate) fn wait_until_it_goes_on(&self) {
        let running = self.vcpus.iter().filter(|vcpu| vcpu.runs());
        running.for_each(Vcpu::wait_until_it_goes_on);
    }

    /// Stops all vCPUs.
    pub(crate) fn stop(&mut self) {
        self.vcpus.iter_mut().for_each(Vcpu::stop);
    }

    /// Stops all vCPUs, and checks that their work was not disturbed.
    pub(crate) fn finish(&mut self) {
        self.vcpus.iter_mut().for_each(Vcpu::finish);
    }
}
