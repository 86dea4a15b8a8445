// SPDX-License-Identifier: GPL-2.0

//! A guest's page tables, walked outside of the guest.
//!
//! Follows Intel's Software Developer's Manual, volume 3, chapter "Paging", and AMD's Architecture
//! Programmer's Manual, volume 2, chapter "Page Translation and Protection". It differs from a CPU
//! where a debugger needs more than the guest may have:
//!
//! - Access rights are told, not enforced.
//! - Reserved bits are ignored, except the ones that would make an entry of an upper level a page.
//!   A physical address has 52 bits, whatever the guest's CPUID says.
//! - The four page-directory-pointer entries of PAE paging come from memory. A CPU may use older
//!   ones, which it loaded with CR3.
//! - Protection keys and linear address masking play no role.
//!
//! The tables are the guest's, which may be hostile: each walk reads at most one table a level, and
//! [`Runs`] has a [`RunLimit`].

#![expect(clippy::similar_names, reason = "GVA and GPA are what KVM calls them")]

mod entry;
mod runs;
mod tables;
mod virtual_memory;

pub use self::{
    runs::{Run, RunLimit, Runs},
    virtual_memory::{Fault, Translation, VirtualMemory},
};

/// The bits of a physical address, of which an entry has those from 12 up.
const PHYSICAL: u64 = (1 << 52) - 1;

/// The registers of a vCPU that say how it translates addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlRegisters {
    /// CR0
    pub cr0: u64,
    /// CR3
    pub cr3: u64,
    /// CR4
    pub cr4: u64,
    /// The MSR EFER
    pub efer: u64,
}

/// How addresses are translated: "Paging Modes" of the SDM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all. A virtual address, of 32 bits, is the physical one.
    Off,
    /// 32-bit paging: two levels of 4-byte entries.
    Legacy {
        /// CR4.PSE: there are pages of 4 MiB, at physical addresses of 40 bits (PSE-36).
        large_pages: bool,
    },
    /// PAE paging: three levels of 8-byte entries, for virtual addresses of 32 bits.
    Pae,
    /// 4-level paging, for virtual addresses of 48 bits.
    FourLevel,
    /// 5-level paging, for virtual addresses of 57 bits.
    FiveLevel,
}

impl Mode {
    /// Returns the mode of a vCPU.
    #[must_use]
    pub fn of(control: &ControlRegisters) -> Self {
        let bit = |register: u64, bit: u32| register & (1 << bit) != 0;
        let paging = bit(control.cr0, 31);
        let large_pages = bit(control.cr4, 4);
        let extended = bit(control.cr4, 5);
        let la57 = bit(control.cr4, 12);
        let long_mode = bit(control.efer, 10);
        match (paging, extended, long_mode) {
            (false, _, _) => Self::Off,
            (true, false, _) => Self::Legacy { large_pages },
            (true, true, false) => Self::Pae,
            (true, true, true) if la57 => Self::FiveLevel,
            (true, true, true) => Self::FourLevel,
        }
    }

    /// Returns the bits of CR3 that are the address of the first table.
    fn root_bits(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Legacy { .. } => 0xffff_f000,
            Self::Pae => 0xffff_ffe0,
            // Bits 0 to 11 may be a PCID, 61 and 62 are for LAM, and 63 is that of a write to CR3.
            Self::FourLevel | Self::FiveLevel => PHYSICAL & !0xfff,
        }
    }

    /// Returns an address as this mode uses it, or nothing if it is not canonical or too large.
    fn checked(self, gva: u64) -> Option<u64> {
        (gva == self.extended(gva)).then_some(gva)
    }

    /// Returns the address of which the lower bits are given.
    fn extended(self, gva: u64) -> u64 {
        let unused = match self {
            Self::Off | Self::Legacy { .. } | Self::Pae => return gva & 0xffff_ffff,
            Self::FourLevel => 16,
            Self::FiveLevel => 7,
        };
        let used = u64::MAX >> unused;
        let is_upper_half = gva & (used ^ (used >> 1)) != 0;
        if is_upper_half {
            gva | !used
        } else {
            gva & used
        }
    }
}

/// Where the page tables of an address space are, and what form they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    mode: Mode,
    root: u64,
    no_execute: bool,
}

impl AddressSpace {
    /// Creates an address space from the guest-physical address of the first table, of which other
    /// bits than those that the mode has are ignored.
    #[must_use]
    pub fn new(mode: Mode, root: u64) -> Self {
        Self {
            mode,
            root: root & mode.root_bits(),
            no_execute: true,
        }
    }

    /// Returns what a vCPU uses. Under Linux with page-table isolation, that may be tables with
    /// user memory and little else; see [`Self::kernel_candidates`].
    #[must_use]
    pub fn of(control: &ControlRegisters) -> Self {
        Self {
            // EFER.NXE; without it, bit 63 of an entry is reserved.
            no_execute: control.efer & (1 << 11) != 0,
            ..Self::new(Mode::of(control), control.cr3)
        }
    }

    /// Returns what may be the kernel's tables: those of the vCPU, then those that Linux with
    /// page-table isolation would use in the kernel.
    ///
    /// There, the tables of user mode follow those of the kernel: the address differs in bit 12
    /// (`PTI_USER_PGTABLE_BIT`, `arch/x86/entry/calling.h`). Nothing in the registers says whether
    /// that is so; only what is mapped does.
    #[must_use]
    pub fn kernel_candidates(control: &ControlRegisters) -> Vec<Self> {
        let own = Self::of(control);
        let is_long = matches!(own.mode, Mode::FourLevel | Mode::FiveLevel);
        let mut candidates = vec![own];
        if is_long && own.root & 0x1000 != 0 {
            let root = own.root & !0x1000;
            candidates.push(Self { root, ..own });
        }
        candidates
    }

    /// Returns its mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the guest-physical address of the first table.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.root
    }
}

/// What a page may be used for, by all levels of its tables together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// It may be written.
    pub writable: bool,
    /// User mode may use it.
    pub user: bool,
    /// It may be executed.
    pub executable: bool,
}

impl Access {
    const ALL: Self = Self {
        writable: true,
        user: true,
        executable: true,
    };

    fn and(self, other: Self) -> Self {
        Self {
            writable: self.writable && other.writable,
            user: self.user && other.user,
            executable: self.executable && other.executable,
        }
    }
}
