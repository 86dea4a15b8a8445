// SPDX-License-Identifier: GPL-2.0

//! The VM that a command is for.

use std::ffi::OsString;

use rustix::io::Errno;

use super::{failure::Failure, Context};
use crate::{
    device::{self, Attached, Session},
    host::{Selection, Vm},
    json,
};

/// Which VM.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct VmArgs {
    /// The process number of the VMM (QEMU and the like), or PID-FD with the VM's file descriptor
    /// there; may be left out if there is only one VM
    #[arg(value_name = "VM", conflicts_with = "name")]
    vm: Option<Selection>,
    /// The VM with this name, as `list` has it
    #[arg(short, long, value_name = "NAME")]
    name: Option<OsString>,
}

/// A session on a VM.
pub(super) struct Opened {
    /// The session.
    pub(super) session: Session,
    /// What `/proc` tells of the VM.
    pub(super) vm: Vm,
    /// What the device tells of it.
    pub(super) attached: Attached,
}

impl VmArgs {
    /// Returns which VM is meant.
    pub(super) fn selection(&self) -> Selection {
        match (&self.vm, &self.name) {
            (Some(vm), _) => vm.clone(),
            (None, Some(name)) => Selection::Name(name.clone()),
            (None, None) => Selection::Only,
        }
    }
}

impl Opened {
    /// Opens a session on the VM that is meant.
    pub(super) fn new(wanted: &Selection, context: &Context) -> Result<Self, Failure> {
        // First, for without the device nothing else matters.
        let session = Session::open()?;
        let vm = context.host.select(wanted)?;
        Self::attach(session, vm, context)
    }

    /// Makes a VM that of a session.
    pub(super) fn attach(session: Session, vm: Vm, context: &Context) -> Result<Self, Failure> {
        let pidfd = device::open_process(vm.pid)?;
        if !context.host.is_same(&vm) {
            let line = "the VMM has ended; look for another VM with kvm-inspect list";
            return Err(device::Error::new(Errno::SRCH, line).into());
        }
        let attached = session.attach(pidfd, vm.fd)?;
        Ok(Self {
            session,
            vm,
            attached,
        })
    }

    /// Returns what is printed of the VM.
    pub(super) fn json(&self) -> json::Inspected {
        json::Inspected::new(&self.vm, &self.attached)
    }
}
