// SPDX-License-Identifier: GPL-2.0

//! `struct kvm`: one virtual machine.

use core::ptr::NonNull;

use kernel::{
    fs::LocalFile,
    mm::Mm,
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};

use super::{
    ids::VmId,
    Vcpu, //
};
use crate::{
    bindings,
    linux::symbol::Symbol, //
};

/// A virtual machine.
///
/// The reference count keeps the `struct kvm` with its vCPUs, not the memory of the VMM.
///
/// # Invariants
///
/// All instances are VMs that KVM made, with a reference count above zero.
#[repr(transparent)]
pub(crate) struct Vm(Opaque<bindings::kvm>);

// SAFETY: A VM may be released from any task.
unsafe impl Send for Vm {}

// SAFETY: All methods may run in parallel with each other and with KVM.
unsafe impl Sync for Vm {}

// SAFETY: `kvm_get_kvm_safe` and `kvm_put_kvm` count references to a `struct kvm`.
unsafe impl AlwaysRefCounted for Vm {
    fn inc_ref(&self) {
        // SAFETY: By the type invariant `self` is valid with a count above zero: this cannot fail.
        unsafe { bindings::kvm_get_kvm_safe(self.as_raw()) };
    }

    unsafe fn dec_ref(vm: NonNull<Self>) {
        // SAFETY: The caller gives up a reference.
        unsafe { bindings::kvm_put_kvm(vm.cast().as_ptr()) };
    }
}

/// A file of KVM among the open files of a process.
pub(crate) enum KvmFile {
    /// The file of a VM.
    Vm(ARef<Vm>),
    /// The file of a vCPU of this VM.
    Vcpu(ARef<Vm>),
}

impl KvmFile {
    /// Takes a reference to the VM of `file`; [`None`] if the file is not KVM's.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`UnknownKind`]: this can be told after [`Kinds::look_up`].
    pub(crate) fn of(file: &LocalFile, kinds: &mut Kinds) -> Result<Option<Self>, UnknownKind> {
        // SAFETY: An open file has operations, which do not change.
        let Some(ioctl) = (unsafe { (*(*file.as_ptr()).f_op).unlocked_ioctl }) else {
            return Ok(None);
        };
        let kind = kinds.of(ioctl as usize)?;
        Ok(kind.and_then(|kind| Self::of_kind(file, kind)))
    }

    fn of_kind(file: &LocalFile, kind: Kind) -> Option<Self> {
        // SAFETY: KVM sets it when it makes the file, and never changes it.
        let private_data = unsafe { (*file.as_ptr()).private_data };
        let vm = match kind {
            // `kvm_vm_ioctl` runs on files whose private data is the VM (`virt/kvm/kvm_main.c`,
            // `kvm_dev_ioctl_create_vm`).
            Kind::Vm => private_data.cast(),
            // SAFETY: `kvm_vcpu_ioctl` runs on files whose private data is the vCPU, which holds
            // a reference to its VM (`kvm_vm_ioctl_create_vcpu`). That of another KVM than the one
            // this module was built for is not followed.
            Kind::Vcpu => unsafe {
                let vcpu: *mut bindings::kvm_vcpu = private_data.cast();
                if !bindings::vcpu_has_this_layout(vcpu) {
                    return None;
                }
                (*vcpu).kvm
            },
        };
        // SAFETY: The open file keeps the VM in existence.
        let vm = unsafe { Vm::get(vm) }?;
        Some(match kind {
            Kind::Vm => Self::Vm(vm),
            Kind::Vcpu => Self::Vcpu(vm),
        })
    }

    /// Returns the VM of the file.
    pub(crate) fn into_vm(self) -> ARef<Vm> {
        match self {
            Self::Vm(vm) | Self::Vcpu(vm) => vm,
        }
    }
}

/// What a file of KVM is for.
#[derive(Clone, Copy)]
enum Kind {
    Vm,
    Vcpu,
}

/// The kind of a file is not known yet.
pub(crate) struct UnknownKind;

/// Recognizes KVM's files by their `unlocked_ioctl`.
///
/// KVM's operations are not exported, so the function's name decides. A lookup takes long. So each
/// function is looked up once, and not where locks are held: a process may have very many files.
#[derive(Default)]
pub(crate) struct Kinds {
    /// In ascending order of the functions.
    known: KVec<(usize, Option<Kind>)>,
    unknown: Option<usize>,
}

impl Kinds {
    fn of(&mut self, ioctl: usize) -> Result<Option<Kind>, UnknownKind> {
        match self.known.binary_search_by_key(&ioctl, |known| known.0) {
            Ok(index) => Ok(self.known.get(index).and_then(|known| known.1)),
            Err(_) => {
                self.unknown = Some(ioctl);
                Err(UnknownKind)
            }
        }
    }

    /// Looks up what could not be told last. This takes some microseconds.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn look_up(&mut self) -> Result {
        let Some(ioctl) = self.unknown.take() else {
            return Ok(());
        };
        let search = self.known.binary_search_by_key(&ioctl, |known| known.0);
        if let Err(index) = search {
            self.known.reserve(1, GFP_KERNEL)?;
            let known = (ioctl, Self::kind_of(ioctl));
            self.known
                .insert_within_capacity(index, known)
                .map_err(|_| ENOMEM)?;
        }
        Ok(())
    }

    fn kind_of(ioctl: usize) -> Option<Kind> {
        let symbol = Symbol::at(ioctl);
        let kind = if symbol.is(b"kvm_vm_ioctl") {
            Kind::Vm
        } else if symbol.is(b"kvm_vcpu_ioctl") {
            Kind::Vcpu
        } else {
            return None;
        };
        (!symbol.is_in_other_module(b"[kvm]")).then_some(kind)
    }
}

impl Vm {
    /// Takes a reference unless the VM is being destroyed.
    ///
    /// # Safety
    ///
    /// `vm` points to a `struct kvm` that is not freed during the call.
    unsafe fn get(vm: *mut bindings::kvm) -> Option<ARef<Self>> {
        let vm = NonNull::new(vm)?;
        // SAFETY: By this function's contract.
        if !unsafe { bindings::kvm_get_kvm_safe(vm.as_ptr()) } {
            return None;
        }
        // SAFETY: The reference has just been taken.
        // INVARIANT: `vm` is a VM, and keeps this reference.
        Some(unsafe { ARef::from_raw(vm.cast()) })
    }

    /// Returns the VM of a vCPU.
    pub(crate) fn of(vcpu: &Vcpu) -> &Self {
        // SAFETY: By its type invariant the vCPU is valid, and its VM exists; `Vm` is a transparent
        // wrapper.
        // INVARIANT: As long as the VM exists, somebody has a reference.
        unsafe { &*(*vcpu.as_raw()).kvm.cast::<Self>() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::kvm {
        self.0.get()
    }

    /// Returns the identity of this VM.
    pub(crate) fn id(&self) -> VmId {
        VmId::of(self.as_raw())
    }

    /// Returns whether KVM's structures look as in the KVM that this module was built for.
    ///
    /// Checks what holds in every VM at any time: where pointers into the structures themselves
    /// point to.
    pub(crate) fn has_this_layout(&self) -> bool {
        // SAFETY: By the type invariant `self` is valid.
        unsafe { bindings::has_this_layout(self.as_raw()) }
    }

    /// Returns how many references there are.
    pub(super) fn users_count(&self) -> u32 {
        // SAFETY: By the type invariant `self` is valid.
        unsafe { bindings::users_count(self.as_raw()) }
    }

    /// Returns the address space of the process that made the VM. The guest's memory lies there.
    pub(crate) fn mm(&self) -> &Mm {
        // SAFETY: Set when the VM is made and never changed; the VM keeps the structure
        // (`mmgrab`, `kvm_create_vm`).
        unsafe { Mm::from_raw((*self.as_raw()).mm) }
    }

    /// Returns the vCPUs, in the order of their creation.
    pub(crate) fn vcpus(&self) -> impl Iterator<Item = &Vcpu> {
        // SAFETY: By the type invariant `self` is valid.
        let count = unsafe { bindings::online_vcpus(self.as_raw()) };
        (0..count).filter_map(|index| self.vcpu(index))
    }

    /// Returns the vCPU with this index, if there is one.
    pub(crate) fn vcpu(&self, index: c_int) -> Option<&Vcpu> {
        // SAFETY: By the type invariant `self` is valid. The result is null if there is no such
        // vCPU.
        let vcpu = unsafe { bindings::kvm_get_vcpu(self.as_raw(), index) };
        // SAFETY: vCPUs live as long as their VM.
        NonNull::new(vcpu).map(|vcpu| unsafe { Vcpu::from_raw(vcpu.as_ptr()) })
    }

    /// Returns whether the page at `gpa` is private to the guest now: in guest_memfd, if its slot
    /// has one.
    pub(crate) fn is_private(&self, gpa: u64) -> bool {
        // SAFETY: By the type invariant `self` is valid, and any address is allowed.
        unsafe { bindings::kvm_mem_is_private(self.as_raw(), gpa >> PAGE_SHIFT) }
    }

    /// Returns the kind of protection, if the hardware or KVM keeps the host from reading this
    /// guest.
    pub(crate) fn protection(&self) -> Option<&'static CStr> {
        let vm = self.as_raw();
        // SAFETY: By the type invariant `self` is valid.
        let (kind, protected, sev, sev_es, was_sev) = unsafe {
            (
                bindings::vm_type(vm),
                bindings::has_protected_state(vm),
                bindings::is_sev(vm),
                bindings::is_sev_es(vm),
                bindings::was_sev(vm),
            )
        };
        match kind {
            bindings::KVM_X86_SEV_VM => Some(c"SEV"),
            bindings::KVM_X86_SEV_ES_VM => Some(c"SEV-ES"),
            bindings::KVM_X86_SNP_VM => Some(c"SEV-SNP"),
            bindings::KVM_X86_TDX_VM => Some(c"TDX"),
            // KVM_SEV_INIT and KVM_SEV_ES_INIT, the old way, leave the type alone.
            _ if sev_es => Some(c"SEV-ES"),
            _ if sev => Some(c"SEV"),
            _ if protected => Some(c"hardware"),
            _ if was_sev => Some(c"SEV"),
            _ => None,
        }
    }
}
