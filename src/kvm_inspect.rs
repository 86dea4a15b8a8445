// SPDX-License-Identifier: GPL-2.0

//! Stops a running KVM guest for a moment, reads its registers and its memory where they lie,
//! searches that memory, and lets the guest go on.
//!
//! The path of one inspection: [`parameters`] are checked into a [`request`]; [`inspector`] starts
//! the thread that works; [`target`] finds the VM; [`hook`] redirects its calls of KVM_RUN;
//! [`inspect`] has [`freeze`] bring all vCPUs to a stop there ([`park`]), the registers read
//! ([`kvm`]) and the memory searched ([`search`], [`memory`], [`scan`]); the guest goes on, and
//! [`report`] prints the [`outcome`]. See `docs/design.md`.

// Those that derives of zerocopy generate.
#![allow(non_ascii_idents)]

// The path of an inspection.
mod copy;
mod device;
mod error;
mod freeze;
mod hook;
mod inspect;
mod inspector;
mod memory;
mod outcome;
mod parameters;
mod park;
mod progress;
mod report;
mod request;
mod search;
mod target;

// Safe views of KVM, of what the kernel crate lacks, and the raw bindings below them.
mod bindings;
mod kvm;
mod linux;

// What needs no kernel: also an ordinary crate (`pure.rs`), hence public.
pub mod arguments;
pub mod range;
pub mod scan;
pub mod uapi;
pub mod x86;

use kernel::{
    miscdevice::MiscDeviceRegistration,
    prelude::*, //
};

use crate::{
    device::Device,
    hook::drain::Drain,
    inspector::Inspector,
    kvm::Kvm,
    linux::{
        kernels::parameter,
        log,
        module, //
    },
    parameters::RawParameters, //
};

module! {
    type: KvmInspect,
    name: "kvm_inspect",
    authors: ["The kvm_inspect developers"],
    description: "Stops a KVM guest for a moment and searches it",
    license: "GPL v2",
    params: {
        pid: i64 {
            default: 0,
            description: "Process number of the VMM",
        },
        vm_fd: i64 {
            default: -1,
            description: "File descriptor of the VM in the VMM (default: all its VMs)",
        },
        interval_ms: i64 {
            default: 0,
            description: "Inspect again after this time (default: once only)",
        },
        freeze_timeout_ms: i64 {
            default: 1000,
            description: "How long to wait for all vCPUs to stop",
        },
        max_pause_ms: i64 {
            default: 1000,
            description: "Longest pause; several follow if needed (0: one, as long as it takes)",
        },
        threads: i64 {
            default: 0,
            description: "Most threads that search, the inspecting one too (default: the CPUs)",
        },
        max_hits: i64 {
            default: 64,
            description: "Most hits to print; all are counted",
        },
        max_slots: i64 {
            default: 128,
            description: "Most memslots to print; all are searched and counted",
        },
        max_vcpus: i64 {
            default: 64,
            description: "Most vCPUs to print; all are stopped and counted",
        },
        context: i64 {
            default: 0,
            description: "Bytes to print on each side of a hit (default: none, nor the hit's own)",
        },
        bring_in: i64 {
            default: 0,
            description: "1: bring in what is swapped out or in a file, before the pause",
        },
    },
}

/// The loaded module.
///
/// Fields are dropped in this order: first nothing new begins, then nobody is left, then KVM may
/// go, which both needed.
struct KvmInspect {
    _device: Option<Pin<KBox<MiscDeviceRegistration<Device>>>>,
    _inspector: Option<Inspector>,
    _drain: Drain,
    _kvm: Kvm,
}

impl kernel::Module for KvmInspect {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: The module is being loaded, which happens once.
        unsafe { log::init() };
        // SAFETY: The module is being loaded, which happens once; this is dropped last.
        let kvm = unsafe { Kvm::new() };
        // SAFETY: The module is being loaded, which happens once.
        let drain = unsafe { Drain::new() };
        // If one of these fails, the order of drops is the same.
        let inspector = unless_kept(inspector())?;
        // It comes last: as soon as it is there, it can be opened.
        let device = unless_kept(device::register().map(Some))?;
        Ok(Self {
            _device: device,
            _inspector: inspector,
            _drain: drain,
            _kvm: kvm,
        })
    }
}

/// Goes on without a part that has failed, if the code must stay. Lines have said why.
fn unless_kept<T>(part: Result<Option<T>>) -> Result<Option<T>> {
    match part.map_err(error::explain_memory) {
        Err(_) if module::is_kept() => Ok(None),
        part => part,
    }
}

/// Does the inspection that the parameters ask for, if they do.
fn inspector() -> Result<Option<Inspector>> {
    let raw = RawParameters {
        pid: parameter(module_parameters::pid.value()),
        vm_fd: parameter(module_parameters::vm_fd.value()),
        interval_ms: parameter(module_parameters::interval_ms.value()),
        freeze_timeout_ms: parameter(module_parameters::freeze_timeout_ms.value()),
        max_pause_ms: parameter(module_parameters::max_pause_ms.value()),
        threads: parameter(module_parameters::threads.value()),
        max_hits: parameter(module_parameters::max_hits.value()),
        context: parameter(module_parameters::context.value()),
        bring_in: parameter(module_parameters::bring_in.value()),
        max_slots: parameter(module_parameters::max_slots.value()),
        max_vcpus: parameter(module_parameters::max_vcpus.value()),
    };
    parameters::check(&raw)?.map(Inspector::start).transpose()
}
