// SPDX-License-Identifier: GPL-2.0

//! Finding the VMs of a process, through its open files.

use kernel::{
    prelude::*,
    sync::aref::ARef,
    task::Task, //
};

use crate::{
    error::refuse,
    hook::MAX_VMS,
    kvm::{
        Kinds,
        KvmFile,
        Vm, //
    },
    linux::task,
    request::Request, //
};

/// A VM to inspect.
pub(crate) struct Target {
    /// Its file descriptor in the VMM; [`None`] if only vCPUs are open.
    pub(crate) fd: Option<u32>,
    /// The VM.
    pub(crate) vm: ARef<Vm>,
}

/// Finds the VMs that `request` names among the open files of `process`.
///
/// # Errors
///
/// After a line that says what is wrong: `ENOENT`, it has no VM open, or not with this file
/// descriptor; `E2BIG`, it has more than [`MAX_VMS`]; `ENOEXEC`, KVM
/// is not the one that this module was built for. `ENOMEM`.
pub(crate) fn find(request: &Request, process: &Task) -> Result<KVec<Target>> {
    let pid = request.pid;
    let mut targets: KVec<Target> = KVec::with_capacity(MAX_VMS, GFP_KERNEL)?;
    let mut too_many = false;
    let mut kinds = Kinds::default();
    task::for_each_file(process, |fd, file| {
        let Some(file) = KvmFile::of(file, &mut kinds) else {
            return;
        };
        let fd = matches!(file, KvmFile::Vm(_)).then_some(fd);
        if request.vm_fd.is_some() && fd != request.vm_fd {
            return;
        }
        let vm = file.into_vm();
        if let Some(known) = targets.iter_mut().find(|known| known.vm.id() == vm.id()) {
            // Not the last reference, so that dropping it here, under a lock, does not sleep.
            known.fd = known.fd.or(fd);
        } else {
            too_many |= targets.push_within_capacity(Target { fd, vm }).is_err();
        }
    });

    if !targets.iter().all(|target| target.vm.has_this_layout()) {
        return Err(refuse!(
            ENOEXEC,
            "the loaded KVM is not the one that this module was built for; build it with the \
             headers of that KVM"
        ));
    }
    if too_many {
        return Err(refuse!(
            E2BIG,
            "process {pid} has more than {MAX_VMS} VMs; name one with vm_fd="
        ));
    }
    if !targets.is_empty() {
        return Ok(targets);
    }
    Err(match request.vm_fd {
        Some(fd) => refuse!(
            ENOENT,
            "file descriptor {fd} of process {pid} is not a VM; leave out vm_fd= to inspect all \
             its VMs"
        ),
        None => refuse!(
            ENOENT,
            "process {pid} has no VM; give the process number of the VMM, not of its parent"
        ),
    })
}
