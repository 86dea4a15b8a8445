// SPDX-License-Identifier: GPL-2.0

//! Finding the VMs of a process, through its open files.

use core::ops::ControlFlow;

use kernel::{
    fs::LocalFile,
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
        UnknownKind,
        Vm,
        VmRef, //
    },
    linux::{
        address_space::BorrowedAddressSpace,
        kernels::EOPNOTSUPP,
        kthread::OnKthread,
        lockdown,
        task::{
            self,
            FileVisitor, //
        }, //
    }, //
};

/// A VM to inspect.
pub(crate) struct Target {
    /// Its file descriptor in the VMM; [`None`] if only vCPUs are open.
    pub(crate) fd: Option<u32>,
    /// The VM.
    pub(crate) vm: VmRef,
}

impl Target {
    /// Checks that the guest's registers and memory can be read.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`, after a line that says so: it is protected.
    pub(crate) fn check_unprotected(&self) -> Result {
        let Some(kind) = self.vm.protection() else {
            return Ok(());
        };
        Err(refuse!(
            EOPNOTSUPP,
            "the guest is protected by {kind:?}; its registers and memory cannot be read from the \
             host"
        ))
    }
}

/// Checks that the kernel is not locked down so that guests must not be read.
///
/// # Errors
///
/// `EPERM`, after a line that says so.
pub(crate) fn check_lockdown() -> Result {
    lockdown::may_read_memory().map_err(|error| {
        refuse!(
            error,
            "the kernel is locked down and keeps memory confidential; boot it without \
             lockdown=confidentiality"
        )
    })
}

/// A VM that was found.
struct Found {
    fd: Option<u32>,
    vm: ARef<Vm>,
}

/// Finds the VM with the descriptor `vm_fd`, or else all VMs, among the open files of `process`.
/// There may be none.
///
/// # Errors
///
/// After a line that says so: `E2BIG`, it has more than [`MAX_VMS`]; `ENOEXEC`, KVM is not the one
/// that this module was built for. `ENOMEM`.
pub(crate) fn find(vm_fd: Option<u32>, process: &Task) -> Result<KVec<Target>> {
    let mut finder = Finder {
        vm_fd,
        kinds: Kinds::default(),
        targets: KVec::with_capacity(MAX_VMS, GFP_KERNEL)?,
        too_many: false,
    };
    task::for_each_file(process, &mut finder)?;
    if !finder
        .targets
        .iter()
        .all(|target| target.vm.has_this_layout())
    {
        return Err(refuse!(
            ENOEXEC,
            "the loaded KVM is not the one that this module was built for; build it with the \
             headers of that KVM"
        ));
    }
    if finder.too_many {
        return Err(refuse!(
            E2BIG,
            "the process has more than {MAX_VMS} VMs; name one with vm_fd="
        ));
    }
    let mut targets = KVec::with_capacity(finder.targets.len(), GFP_KERNEL)?;
    for Found { fd, vm } in finder.targets.drain_all() {
        let vm = VmRef::new(vm)?;
        targets.push(Target { fd, vm }, GFP_KERNEL)?;
    }
    Ok(targets)
}

/// Gives back VMs. If nobody else uses one any more, KVM removes what it has mapped into its VMM,
/// which it can do from there only (`kvm_arch_destroy_vm`, `arch/x86/kvm/x86.c`).
pub(crate) fn release(targets: &mut KVec<Target>, thread: &mut OnKthread) {
    // Else KVM would not wait for the lock that it needs for that.
    thread.forget_kill();
    while let Some(target) = targets.pop() {
        let mm = target.vm.mm().mmget_not_zero();
        let memory = mm.map(|mm| BorrowedAddressSpace::take_on(thread, mm));
        drop(target);
        drop(memory);
    }
}

/// Logs a line that says that [`find`] has found none. Returns `ENOENT`.
pub(crate) fn explain_none(vm_fd: Option<u32>, pid: i32) -> Error {
    match vm_fd {
        Some(fd) => refuse!(
            ENOENT,
            "file descriptor {fd} of process {pid} is not a VM; leave out vm_fd= to inspect all \
             its VMs"
        ),
        None => refuse!(
            ENOENT,
            "process {pid} has no VM; give the process number of the VMM, not of its parent"
        ),
    }
}

struct Finder {
    vm_fd: Option<u32>,
    kinds: Kinds,
    targets: KVec<Found>,
    too_many: bool,
}

impl FileVisitor for Finder {
    fn visit(&mut self, fd: u32, file: &LocalFile) -> ControlFlow<()> {
        let file = match KvmFile::of(file, &mut self.kinds) {
            Ok(Some(file)) => file,
            Ok(None) => return ControlFlow::Continue(()),
            Err(UnknownKind) => return ControlFlow::Break(()),
        };
        let fd = matches!(file, KvmFile::Vm(_)).then_some(fd);
        if self.vm_fd.is_some() && fd != self.vm_fd {
            return ControlFlow::Continue(());
        }
        let vm = file.into_vm();
        let mut targets = self.targets.iter_mut();
        if let Some(known) = targets.find(|known| known.vm.id() == vm.id()) {
            // Not the last reference, so that dropping it here, under a lock, does not sleep.
            known.fd = known.fd.or(fd);
        } else {
            let target = Found { fd, vm };
            self.too_many |= self.targets.push_within_capacity(target).is_err();
        }
        ControlFlow::Continue(())
    }

    fn prepare(&mut self) -> Result {
        self.kinds.look_up()
    }
}
