// SPDX-License-Identifier: GPL-2.0

//! The notes of an ELF core file.

use std::{
    error::Error,
    fmt::{self, Display},
};

use object::{
    elf::{NoteHeader32, NoteType, NT_PRSTATUS},
    endian::{LittleEndian, U32},
    pod::bytes_of,
};

use crate::registers::Registers;

/// How many bytes the text of the own note takes at least. It is filled up with spaces, so that a
/// later text of another length fits into the same place.
const OWN_SIZE: usize = 2048;

/// The type of all notes that are not Linux's. crash looks at the type before the name, so it would
/// take any other type for one that it knows.
const UNTYPED: NoteType = NoteType(0);

/// What the notes of a core file tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// All CPUs, in any order.
    pub cpus: Vec<CpuNote>,
    /// The text of the guest's VMCOREINFO, without its note header.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// The text of the note `KVM_INSPECT`, JSON usually.
    pub own: String,
}

/// What the notes of a core file tell of a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuNote {
    /// The guest's number of the CPU.
    pub cpu: u32,
    /// Its registers. If they are not known, zeros stand for them: crash takes the n-th note for
    /// that of CPU n, so none may be left out.
    pub registers: Option<Registers>,
}

impl Notes {
    /// Returns the bytes of all notes.
    ///
    /// The CPUs are in ascending order: crash goes by the order of the notes, drgn by their pid.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, NoteError> {
        let mut cpus: Vec<_> = self.cpus.iter().collect();
        cpus.sort_by_key(|note| note.cpu);
        let unknown = Registers::default();
        let mut bytes = Vec::new();
        if cpus.is_empty() {
            return Err(NoteError::NoCpu);
        }
        for (expected, note) in (0..).zip(&cpus) {
            if note.cpu > expected {
                return Err(NoteError::CpuMissing(expected));
            }
            if note.cpu < expected {
                return Err(NoteError::CpuTwice(note.cpu));
            }
            let registers = note.registers.as_ref().unwrap_or(&unknown);
            let pid = note.cpu.checked_add(1).ok_or(NoteError::TooLong)?;
            append(&mut bytes, "CORE", NT_PRSTATUS, &registers.prstatus(pid))?;
        }
        for note in &cpus {
            let registers = note.registers.as_ref().unwrap_or(&unknown);
            append(&mut bytes, "QEMU", UNTYPED, &registers.qemu_state())?;
        }
        if let Some(text) = &self.vmcoreinfo {
            append(&mut bytes, "VMCOREINFO", UNTYPED, text)?;
        }
        let own = format!("{:OWN_SIZE$}", self.own);
        append(&mut bytes, "KVM_INSPECT", UNTYPED, own.as_bytes())?;
        Ok(bytes)
    }
}

/// Appends a note. Names have their NUL; names and descriptors are filled up to 4 bytes.
fn append(notes: &mut Vec<u8>, name: &str, kind: NoteType, desc: &[u8]) -> Result<(), NoteError> {
    let size = |bytes: usize| u32::try_from(bytes).map_err(|_| NoteError::TooLong);
    let header = NoteHeader32 {
        n_namesz: U32::new(LittleEndian, size(name.len() + 1)?),
        n_descsz: U32::new(LittleEndian, size(desc.len())?),
        n_type: U32::new(LittleEndian, kind),
    };
    notes.extend_from_slice(bytes_of(&header));
    notes.extend_from_slice(name.as_bytes());
    notes.push(0);
    notes.resize(notes.len().next_multiple_of(4), 0);
    notes.extend_from_slice(desc);
    notes.resize(notes.len().next_multiple_of(4), 0);
    Ok(())
}

/// Why there are no notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteError {
    /// There is no CPU.
    NoCpu,
    /// There is no CPU with this number, but one with a higher.
    CpuMissing(u32),
    /// Two CPUs have this number.
    CpuTwice(u32),
    /// A note has 4 GiB or more.
    TooLong,
}

impl Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ADVICE: &str = "let the numbers be assumed, or write another format";
        match self {
            Self::NoCpu => write!(f, "the guest has no vCPU; write another format"),
            Self::CpuMissing(cpu) => write!(f, "no vCPU is the guest's CPU {cpu}; {ADVICE}"),
            Self::CpuTwice(cpu) => write!(f, "two vCPUs are the guest's CPU {cpu}; {ADVICE}"),
            Self::TooLong => write!(f, "a note is too long; write another format"),
        }
    }
}

impl Error for NoteError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(cpus: &[u32]) -> Result<Vec<u8>, NoteError> {
        let note = |cpu: &u32| CpuNote {
            cpu: *cpu,
            registers: None,
        };
        Notes {
            cpus: cpus.iter().map(note).collect(),
            ..Notes::default()
        }
        .bytes()
    }

    #[test]
    fn cpus_are_numbered_without_gaps() {
        assert!(notes(&[2, 0, 1]).is_ok());
        assert_eq!(notes(&[]), Err(NoteError::NoCpu));
        assert_eq!(notes(&[1]), Err(NoteError::CpuMissing(0)));
        assert_eq!(notes(&[0, 1, 3]), Err(NoteError::CpuMissing(2)));
        assert_eq!(notes(&[0, 1, 1]), Err(NoteError::CpuTwice(1)));
        assert_eq!(notes(&[0, 0]), Err(NoteError::CpuTwice(0)));
    }

    #[test]
    fn names_have_the_sizes_that_crash_computes_with() {
        let bytes = notes(&[0]).expect("one CPU");
        assert_eq!(
            bytes[..20],
            *b"\x05\0\0\0\x50\x01\0\0\x01\0\0\0CORE\0\0\0\0"
        );
        let qemu = &bytes[20 + 336..];
        assert_eq!(qemu[..20], *b"\x05\0\0\0\xb8\x01\0\0\0\0\0\0QEMU\0\0\0\0");
        let own = &qemu[20 + 440..];
        assert_eq!(own[..24], *b"\x0c\0\0\0\0\x08\0\0\0\0\0\0KVM_INSPECT\0");
        assert_eq!(own.len(), 24 + OWN_SIZE);
    }
}
