// SPDX-License-Identifier: GPL-2.0

//! Which Linux runs in the guest of a command.

use kvm_inspect_pure::uapi;

use super::{arguments::FreezeArgs, bar::Bar, failure::Failure, vm::Opened, Context};
use crate::{
    linux::{self, Candidate, Proof, Proofs},
    live::{self, LiveMemory},
};

/// Calls `work` with the kernel that runs in the guest, and the vCPUs. Its note was looked for in
/// all of the guest's memory while it ran; for the vCPUs the guest stood for a moment.
pub(super) fn with_kernel<R>(
    opened: &Opened,
    freeze: &FreezeArgs,
    context: &mut Context,
    work: impl FnOnce(&Proofs<'_>, &[uapi::Vcpu], &mut Context) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let memory = LiveMemory::new(&opened.session)?;
    let mut bar = Bar::new(context.terminal.shows_progress());
    let found = memory.candidates(|done, all| bar.set("looked at", done, all))?;
    drop(bar);
    let vcpus = opened
        .session
        .vcpus(freeze.late(), freeze.timeout_ms())?
        .vcpus;
    let proofs = linux::prove(&memory, &found, &live::control_registers(&vcpus));
    work(&proofs, &vcpus, context)
}

/// Returns the note of the kernel that runs.
pub(super) fn taken<'a, 'b>(proofs: &'b Proofs<'a>) -> Result<&'b Candidate<'a>, Failure> {
    proofs.taken().ok_or_else(|| {
        let line = if proofs.candidates.is_empty() {
            "no Linux was found in the guest (its note VMCOREINFO); a kernel without \
             CONFIG_VMCORE_INFO has none, and one that is swapped out cannot be read"
        } else {
            "notes VMCOREINFO were found in the guest, but none is of a kernel that runs; see them \
             with kvm-inspect info --json"
        };
        Failure::Failed(line.to_owned())
    })
}

/// Returns the word for a proof.
pub(super) const fn word(proof: Proof) -> &'static str {
    match proof {
        Proof::Refuted => "refuted",
        Proof::None => "none",
        Proof::Root => "root",
        Proof::Pointer => "pointer",
    }
}
