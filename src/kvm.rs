// SPDX-License-Identifier: GPL-2.0

//! A safe view of KVM, as far as an inspection needs it.
//!
//! KVM exports almost nothing to modules outside it. This reads its structures, whose layouts are
//! checked at build time, and calls only what it exports (`kvm_get_kvm_safe`, `kvm_put_kvm`) or
//! registered as an entry of its own (`file_operations`).
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h)

mod ids;
mod loaded;
mod lock;
mod memslot;
mod reference;
mod registers;
pub(crate) mod run;
mod vcpu;
mod vm;

pub(crate) use self::{
    ids::VmId,
    loaded::{
        bind,
        Kvm, //
    },
    lock::LockedVcpus,
    memslot::{
        Backing,
        Memslot,
        Memslots,
        FLAG_NAMES,
        SLOT_FLAGS,
        SPARE_SLOTS, //
    },
    reference::VmRef,
    registers::{
        Register,
        Registers, //
    },
    run::RunCall,
    vcpu::{
        Holder,
        Vcpu, //
    },
    vm::{
        Kinds,
        KvmFile,
        UnknownKind,
        Vm, //
    }, //
};
