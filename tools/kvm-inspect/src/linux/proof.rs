// SPDX-License-Identifier: GPL-2.0

//! Which of several notes is the running kernel's.
//!
//! Any program may hold a copy of VMCOREINFO, and a hostile guest as many as it likes, with other
//! values. Two proofs tell them apart:
//!
//! 1. The page table that the note names, used as the root, maps its own address to itself, and
//!    leads to the release that the note names ([`Kernel`]). A copy passes, a note with other
//!    addresses does not. It would not do to ask whether a vCPU's tables lead to that address: any
//!    address of the kernel's image would pass.
//! 2. The kernel's variable `vmcoreinfo_note`, found by the symbols that the note names, points to
//!    this very note. A copy does not pass.
//!
//! A kernel that ran before `kexec` may pass both. But no vCPU uses it.

use std::{
    error::Error,
    fmt::{self, Display},
};

use super::{Kallsyms, KallsymsError, Kernel, Note, NoteError, RootError};
use crate::{
    guest::GuestMemory,
    paging::{AddressSpace, ControlRegisters, Fault},
};

/// How many notes are looked at. There is one, and some copies if tools for dumps run.
pub const MAX_CANDIDATES: usize = 1024;
/// For how many of them the symbols are read, which takes a tenth of a second.
const MAX_POINTERS: usize = 8;

/// How far a note is proved. Less is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// It is wrong: the kernel is not where it says, or its own note is another one.
    Refuted,
    /// Nothing can be said.
    None,
    /// The kernel is where it says. It may be a copy of the right note.
    Root,
    /// The kernel itself says that this is its note.
    Pointer,
}

/// A note, and what is known of it.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// The note.
    pub note: Note,
    /// The first proof: the kernel that it is about.
    pub kernel: Result<Kernel<'a>, RootError>,
    /// The second proof: the kernel's symbols, which lead to the note.
    pub pointer: Result<Kallsyms, PointerError>,
    /// Which of the vCPUs run this kernel.
    pub vcpus: Vec<usize>,
}

impl Candidate<'_> {
    /// Returns how far it is proved.
    #[must_use]
    pub fn proof(&self) -> Proof {
        match (&self.kernel, &self.pointer) {
            (Err(error), _) if error.is_refuted() => Proof::Refuted,
            (Err(_), _) => Proof::None,
            (Ok(_), Err(error)) if error.is_refuted() => Proof::Refuted,
            (Ok(_), Err(_)) => Proof::Root,
            (Ok(_), Ok(_)) => Proof::Pointer,
        }
    }
}

/// All notes, and which one is taken.
#[derive(Debug)]
pub struct Proofs<'a> {
    /// The notes, in the order in which their addresses were given.
    pub candidates: Vec<Candidate<'a>>,
    /// The addresses where there is no note, and why.
    pub others: Vec<(u64, NoteError)>,
    /// How many addresses were not looked at, because there are too many.
    pub omitted: usize,
    /// Which of the candidates is taken: of those whose kernel is there, the one that most vCPUs
    /// run, then the one that is proved best. One that is not proved is taken if it is the only one
    /// that is not refuted.
    pub taken: Option<usize>,
    /// Others are as good as the one that is taken, which is then the first of them.
    pub is_ambiguous: bool,
}

impl<'a> Proofs<'a> {
    /// Returns the note that is taken.
    #[must_use]
    pub fn taken(&self) -> Option<&Candidate<'a>> {
        self.candidates.get(self.taken?)
    }
}

/// Finds out which note is the running kernel's.
///
/// The guest-physical addresses are those of the hits of a search for
/// [`PATTERN`](super::PATTERN), or come from [`candidates`](super::candidates); those that do not
/// begin a page are no candidates. Without vCPUs, the kernel that runs is not told from one that
/// ran before.
#[must_use]
pub fn prove<'a>(
    memory: &'a dyn GuestMemory,
    gpas: &[u64],
    vcpus: &[ControlRegisters],
) -> Proofs<'a> {
    let mut proofs = Proofs {
        candidates: Vec::new(),
        others: Vec::new(),
        omitted: gpas.len().saturating_sub(MAX_CANDIDATES),
        taken: None,
        is_ambiguous: false,
    };
    let mut pointers = 0;
    for gpa in gpas.iter().copied().take(MAX_CANDIDATES) {
        match Note::read(memory, gpa) {
            Ok(note) => {
                let kernel = Kernel::new(memory, &note.info);
                let pointer = match &kernel {
                    Err(_) => Err(PointerError::NoKernel),
                    Ok(_) if pointers == MAX_POINTERS => Err(PointerError::TooMany),
                    Ok(kernel) => {
                        pointers += 1;
                        check_pointer(kernel, gpa)
                    }
                };
                let vcpus = kernel.as_ref().map(|kernel| users(kernel, vcpus));
                let vcpus = vcpus.unwrap_or_default();
                let candidate = Candidate {
                    note,
                    kernel,
                    pointer,
                    vcpus,
                };
                proofs.candidates.push(candidate);
            }
            Err(error) => proofs.others.push((gpa, error)),
        }
    }
    proofs.follow_pointers();
    proofs.choose();
    proofs
}

impl Proofs<'_> {
    /// Asks the kernel about the notes that it says are its own, if there were too many others.
    fn follow_pointers(&mut self) {
        let elsewhere = |candidate: &Candidate<'_>| match &candidate.pointer {
            Err(PointerError::Elsewhere { gpa }) => Some(*gpa),
            _ => None,
        };
        let own: Vec<u64> = self.candidates.iter().filter_map(elsewhere).collect();
        for candidate in &mut self.candidates {
            let is_own = own.contains(&candidate.note.gpa);
            if let (Ok(kernel), Err(PointerError::TooMany)) =
                (&candidate.kernel, &candidate.pointer)
            {
                if is_own {
                    candidate.pointer = check_pointer(kernel, candidate.note.gpa);
                }
            }
        }
    }

    fn choose(&mut self) {
        // Copies of a note have its vCPUs, and are told from it by their proof. A kernel that ran
        // before may be proved better than the one that runs, if that has no symbols.
        let rank = |candidate: &Candidate<'_>| {
            let proof = candidate.proof();
            (proof.min(Proof::Root), candidate.vcpus.len(), proof)
        };
        let ranks: Vec<_> = self.candidates.iter().map(rank).collect();
        let Some(best) = ranks.iter().max().copied() else {
            return;
        };
        let mut alike = (0..ranks.len()).filter(|index| ranks[*index] == best);
        let first = alike.next();
        let is_ambiguous = alike.next().is_some();
        let is_taken = match best.0 {
            Proof::Refuted => false,
            Proof::None => !is_ambiguous,
            Proof::Root | Proof::Pointer => true,
        };
        self.taken = first.filter(|_| is_taken);
        self.is_ambiguous = is_ambiguous && best.0 != Proof::Refuted;
    }
}

/// Returns which vCPUs have the kernel in their page tables. Those of user mode have, unless they
/// are isolated; then the kernel's are beside them.
fn users(kernel: &Kernel<'_>, vcpus: &[ControlRegisters]) -> Vec<usize> {
    let runs = |control: &ControlRegisters| {
        let mut spaces = AddressSpace::kernel_candidates(control).into_iter();
        spaces.any(|space| kernel.is_in(space))
    };
    let all = vcpus.iter().enumerate();
    let users = all.filter(|(_, control)| runs(control));
    users.map(|(index, _)| index).collect()
}

/// Returns the kernel's symbols if they lead to the note at this guest-physical address.
fn check_pointer(kernel: &Kernel<'_>, gpa: u64) -> Result<Kallsyms, PointerError> {
    let kallsyms = Kallsyms::read(kernel).map_err(PointerError::Kallsyms)?;
    let variable = kallsyms.address("vmcoreinfo_note");
    let variable = variable.ok_or(PointerError::NoVariable)?;
    let memory = kernel.memory();
    let note = memory.read_u64(variable).map_err(PointerError::Fault)?;
    let found = memory.translate(note).map_err(PointerError::Fault)?.gpa;
    if found == gpa {
        Ok(kallsyms)
    } else {
        Err(PointerError::Elsewhere { gpa: found })
    }
}

/// Why the kernel does not confirm a note.
#[derive(Debug)]
pub enum PointerError {
    /// There is no kernel where the note says.
    NoKernel,
    /// Its symbols cannot be read.
    Kallsyms(KallsymsError),
    /// It has no variable `vmcoreinfo_note`: only functions have symbols (`CONFIG_KALLSYMS_ALL`).
    NoVariable,
    /// The variable cannot be read, or leads nowhere.
    Fault(Fault),
    /// The kernel's note is at this guest-physical address.
    Elsewhere {
        /// Where it is.
        gpa: u64,
    },
    /// Too many other notes came before.
    TooMany,
}

impl PointerError {
    /// Returns whether the kernel has said that this is not its note.
    #[must_use]
    pub fn is_refuted(&self) -> bool {
        // A page that the host has not got reads as zeros, so that no address may be the host's
        // fault.
        matches!(self, Self::Elsewhere { .. })
    }
}

impl Display for PointerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel => f.write_str("there is no kernel to ask"),
            Self::Kallsyms(error) => error.fmt(f),
            Self::NoVariable => f.write_str("kallsyms have no vmcoreinfo_note"),
            Self::Fault(fault) => write!(f, "vmcoreinfo_note: {fault}"),
            Self::Elsewhere { gpa } => write!(f, "the kernel's own note is at {gpa:#x}"),
            Self::TooMany => f.write_str("too many notes came before"),
        }
    }
}

impl Error for PointerError {}
