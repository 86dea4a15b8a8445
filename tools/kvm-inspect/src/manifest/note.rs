// SPDX-License-Identifier: GPL-2.0

//! The short manifest in an ELF core file, for who has the file without its manifest.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Consistency, Host, Manifest, Times, Tool, Vcpu, VERSION};
use crate::core::PageKind;

/// The text of the note `KVM_INSPECT`. All of it is short, so that the note has the same size at
/// the begin and at the end.
#[derive(Serialize)]
struct Note<'a> {
    manifest_version: u32,
    tool: &'a Tool,
    host: &'a Host,
    vm: Vm,
    /// Some of the CPUs' numbers are not found in the guest.
    cpus_assumed: bool,
    #[serde(flatten)]
    result: Option<Outcome<'a>>,
}

#[derive(Serialize)]
struct Vm {
    pid: i32,
    fd: Option<i32>,
}

/// What is known at the end only.
#[derive(Serialize)]
struct Outcome<'a> {
    times: &'a Times,
    consistency: &'a Consistency,
    complete: bool,
    pages: &'a BTreeMap<PageKind, u64>,
}

impl Manifest {
    /// Returns the text of the note `KVM_INSPECT` for a file that is whole.
    ///
    /// Lists and names of any length are only in the manifest: a note must not outgrow its place.
    #[must_use]
    pub fn note(&self) -> String {
        let outcome = Outcome {
            times: &self.times,
            consistency: &self.consistency,
            complete: self.memory.complete,
            pages: &self.memory.pages,
        };
        note(&self.tool, &self.host, &self.vm, &self.vcpus, Some(outcome))
    }

    /// Returns the text of the note for a pipe, which gets it before the memory. What is known at
    /// the end only is left out.
    #[must_use]
    pub fn early_note(vm: &super::Vm, vcpus: &[Vcpu]) -> String {
        note(&Tool::default(), &Host::this(), vm, vcpus, None)
    }
}

fn note(
    tool: &Tool,
    host: &Host,
    vm: &super::Vm,
    vcpus: &[Vcpu],
    result: Option<Outcome<'_>>,
) -> String {
    let note = Note {
        manifest_version: VERSION,
        tool,
        host,
        vm: Vm {
            pid: vm.pid,
            fd: vm.fd,
        },
        cpus_assumed: vcpus.iter().any(|vcpu| vcpu.cpu_assumed),
        result,
    };
    // It has text for keys only, so nothing can fail.
    serde_json::to_string(&note).unwrap_or_default()
}
