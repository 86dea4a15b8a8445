// SPDX-License-Identifier: GPL-2.0

//! A kernel whose page tables were found.

use std::{
    error::Error,
    fmt::{self, Display},
};

use super::VmcoreInfo;
use crate::{
    guest::GuestMemory,
    paging::{AddressSpace, Fault, Mode, Run, RunLimit, VirtualMemory},
};

/// Where `release` is in `struct new_utsname`, in bytes: after two arrays of 65 bytes.
const RELEASE: u64 = 2 * 65;

/// The last address before the area where Linux maps the same few pages 65536 times, for returns to
/// 16-bit code (`ESPFIX_BASE_ADDR`, `arch/x86/kernel/espfix_64.c`).
const BEFORE_ESPFIX: u64 = 0xffff_feff_ffff_ffff;
/// The first address after it.
const AFTER_ESPFIX: u64 = 0xffff_ff80_0000_0000;

/// A kernel that is where its VMCOREINFO says it is.
///
/// Its page table `swapper_pg_dir`, used as the root, maps its own address to itself, and leads to
/// a release that is the one in VMCOREINFO. So the root, `phys_base`, KASLR's offset and the number
/// of levels are right. The note may still be a copy, or belong to a kernel that ran before; see
/// [`prove`](super::prove).
#[derive(Debug)]
pub struct Kernel<'a> {
    info: VmcoreInfo,
    memory: VirtualMemory<'a>,
}

impl<'a> Kernel<'a> {
    /// Finds a kernel by what it says about itself.
    ///
    /// # Errors
    ///
    /// See [`RootError`].
    pub fn new(memory: &'a dyn GuestMemory, info: &VmcoreInfo) -> Result<Self, RootError> {
        let missing = RootError::Missing("SYMBOL(swapper_pg_dir) or NUMBER(phys_base)");
        let space = info.address_space().ok_or(missing)?;
        let memory = VirtualMemory::new(memory, space);
        check(&memory, info)?;
        let info = info.clone();
        Ok(Self { info, memory })
    }

    /// Returns whether an address space has this kernel in it: whether a vCPU that uses it runs
    /// the kernel or a process of it.
    #[must_use]
    pub fn is_in(&self, space: AddressSpace) -> bool {
        let memory = VirtualMemory::new(self.memory.physical(), space);
        check(&memory, &self.info).is_ok()
    }

    /// Returns what it says about itself.
    #[must_use]
    pub fn info(&self) -> &VmcoreInfo {
        &self.info
    }

    /// Returns its memory by virtual addresses. Memory of processes is not there.
    #[must_use]
    pub fn memory(&self) -> &VirtualMemory<'a> {
        &self.memory
    }

    /// Returns all RAM that is mapped in the upper half: the direct map, the kernel's image,
    /// modules, stacks. The area for returns to 16-bit code, which is mostly repetition, is left
    /// out.
    ///
    /// The iterator ends with its first error, as [`VirtualMemory::runs`].
    pub fn mappings(&self, limit: RunLimit) -> impl Iterator<Item = Result<Run, Fault>> + '_ {
        let first = match self.memory.space().mode() {
            Mode::FiveLevel => 0xff00_0000_0000_0000,
            _ => 0xffff_8000_0000_0000,
        };
        let ranges = self.memory.physical().ranges();
        let parts = [first..=BEFORE_ESPFIX, AFTER_ESPFIX..=u64::MAX];
        let runs = parts
            .into_iter()
            .flat_map(move |part| self.memory.runs(part, limit));
        let mut is_over = false;
        let runs = runs.take_while(move |run| !std::mem::replace(&mut is_over, run.is_err()));
        runs.flat_map(move |run| {
            let (run, error) = match run {
                Ok(run) => (Some(run), None),
                Err(error) => (None, Some(Err(error))),
            };
            let parts = run.into_iter().flat_map(move |run| run.in_ram(ranges));
            parts.map(Ok).chain(error)
        })
    }
}

/// Checks that these page tables lead to the kernel.
fn check(memory: &VirtualMemory<'_>, info: &VmcoreInfo) -> Result<(), RootError> {
    let missing = |key| move || RootError::Missing(key);
    let table = info.symbol("swapper_pg_dir");
    let table = table.ok_or_else(missing("SYMBOL(swapper_pg_dir)"))?;
    let expected = info.image_gpa(table);
    let found = memory.translate(table).map_err(RootError::Fault)?.gpa;
    if expected != Some(found) {
        return Err(RootError::Elsewhere { gpa: found });
    }
    let release = info.os_release().ok_or_else(missing("OSRELEASE"))?;
    let name = info.symbol("init_uts_ns");
    let name = name.ok_or_else(missing("SYMBOL(init_uts_ns)"))?;
    let offset = info.offset("uts_namespace.name");
    let offset = offset.ok_or_else(missing("OFFSET(uts_namespace.name)"))?;
    let at = name.wrapping_add(offset).wrapping_add(RELEASE);
    let mut bytes = [0; 65];
    memory.read(at, &mut bytes).map_err(RootError::Fault)?;
    let length = bytes.iter().position(|byte| *byte == 0);
    let found = &bytes[..length.unwrap_or(bytes.len())];
    if found == release.as_bytes() {
        Ok(())
    } else {
        Err(RootError::OtherRelease(found.escape_ascii().to_string()))
    }
}

/// Why a kernel is not where its VMCOREINFO says it is.
#[derive(Debug)]
pub enum RootError {
    /// VMCOREINFO lacks this key, so that nothing can be said.
    Missing(&'static str),
    /// The page table does not map itself, or not the release.
    Fault(Fault),
    /// The page table maps its own address to this guest-physical address.
    Elsewhere {
        /// Where it leads instead.
        gpa: u64,
    },
    /// The kernel there has this release, escaped.
    OtherRelease(String),
}

impl RootError {
    /// Returns whether VMCOREINFO is refuted, and not only unproved.
    #[must_use]
    pub fn is_refuted(&self) -> bool {
        match self {
            Self::Missing(_) => false,
            Self::Fault(fault) => fault.is_guests(),
            Self::Elsewhere { .. } | Self::OtherRelease(_) => true,
        }
    }
}

impl Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(f, "VMCOREINFO has no {key} of x86-64"),
            Self::Fault(fault) => write!(f, "swapper_pg_dir is not a page table: {fault}"),
            Self::Elsewhere { gpa } => write!(f, "swapper_pg_dir maps itself to {gpa:#x}"),
            Self::OtherRelease(release) => {
                write!(f, "the kernel there has another release: {release}")
            }
        }
    }
}

impl Error for RootError {}
