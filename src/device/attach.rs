// SPDX-License-Identifier: GPL-2.0

//! `KVM_INSPECT_ATTACH`: which VM a session is about.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    arguments::Argument,
    session::Session,
    worker::Worker, //
};
use crate::{
    error::refuse,
    kvm,
    linux::{
        kernels::ENOTUNIQ,
        kthread::Kthread,
        task::Process, //
    },
    target,
    uapi, //
};

/// Gives a session its VM.
///
/// # Errors
///
/// After a line that says why: `EBUSY`: it has one. `EBADF`: what is given is no pidfd. `ESRCH`:
/// the process has ended. `ENOENT`: it has no such VM, or KVM is not loaded. `ENOTUNIQ`: it has
/// several. `E2BIG`: it has very many. `ENOEXEC`: KVM is not the one that this module was built
/// for. `EOPNOTSUPP`: the guest is protected.
pub(super) fn attach(session: &Session, argument: &Argument) -> Result {
    let mut attach = argument.read::<uapi::Attach>()?;
    // Before there is a thread: two would serve the same calls.
    let attaching = session.begin_attach().map_err(|_| busy())?;
    kvm::bind()?;
    let process = u32::try_from(attach.pidfd).map_err(|_| EBADF);
    let process = process.and_then(Process::of_pidfd).map_err(|error| {
        if error == ESRCH {
            refuse!(
                error,
                "the process has ended; give a pidfd of one that runs"
            )
        } else {
            refuse!(
                EBADF,
                "pidfd={} is no pidfd; see pidfd_open(2)",
                attach.pidfd
            )
        }
    })?;
    attach.pid = process.number();
    let vm_fd = match attach.vm_fd {
        -1 => None,
        fd => Some(u32::try_from(fd).map_err(|_| {
            refuse!(
                EINVAL,
                "vm_fd={fd} is no descriptor; give one, or -1 for the only VM"
            )
        })?),
    };
    let task = process.task()?;
    let targets = target::find(vm_fd, &task)?;
    let count = targets.len();
    let first = targets.first().map(|target| {
        let vcpus = u32::try_from(target.vm.vcpus().count()).unwrap_or(u32::MAX);
        let fd = target.fd.and_then(|fd| i32::try_from(fd).ok());
        (fd.unwrap_or(-1), vcpus)
    });
    // From here on the thread of the session gives them back, also if there is none.
    let worker = Worker::new(session.shared().clone(), process, targets);
    let thread = Arc::new(Kthread::spawn(c"kvm_inspect_dev", worker)?, GFP_KERNEL)?;
    let Some((fd, vcpus)) = first else {
        return Err(target::explain_none(vm_fd, attach.pid));
    };
    if count > 1 {
        return Err(refuse!(
            ENOTUNIQ,
            "process {} has {count} VMs; name one with vm_fd=",
            attach.pid
        ));
    }
    (attach.vm_fd, attach.vcpus) = (fd, vcpus);
    argument.write(&attach)?;
    attaching.finish(thread);
    Ok(())
}

fn busy() -> Error {
    refuse!(
        EBUSY,
        "the session has a VM already; open the device once more for another one"
    )
}
