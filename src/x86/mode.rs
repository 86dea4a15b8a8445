// SPDX-License-Identifier: GPL-2.0

//! What a vCPU's control registers say about how it runs.
//!
//! SDM is Intel's Software Developer's Manual, APM is AMD's Architecture Programmer's Manual.

#![forbid(unsafe_code)]

use core::fmt;

/// Protection enable (SDM volume 3, 2.5; APM volume 2, 3.1.1).
const CR0_PE: u64 = 1 << 0;
/// Paging (SDM volume 3, 2.5; APM volume 2, 3.1.1).
const CR0_PG: u64 = 1 << 31;
/// Physical-address extension (SDM volume 3, 2.5; APM volume 2, 3.1.3).
const CR4_PAE: u64 = 1 << 5;
/// 57-bit linear addresses (SDM volume 3, 2.5; APM volume 2, 3.1.3).
const CR4_LA57: u64 = 1 << 12;
/// Long mode active (SDM volume 3, 2.2.1; APM volume 2, 3.1.7).
const EFER_LMA: u64 = 1 << 10;
/// Virtual-8086 mode (SDM volume 3, 2.3; APM volume 2, 3.1.6).
const RFLAGS_VM: u64 = 1 << 17;

/// How instructions are executed (SDM volume 3, 2.2; APM volume 2, 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real-address mode.
    Real,
    /// Protected mode, of 16 or 32 bits.
    Protected,
    /// Virtual-8086 mode, a task of protected mode.
    Vm86,
    /// Long mode, in a code segment of 16 or 32 bits.
    Compat,
    /// Long mode, in a code segment of 64 bits.
    Long,
}

impl Mode {
    /// Returns the mode that these registers give; `cs_long` is the L bit of the code segment.
    #[must_use]
    pub const fn new(cr0: u64, efer: u64, rflags: u64, cs_long: bool) -> Self {
        if cr0 & CR0_PE == 0 {
            Self::Real
        } else if efer & EFER_LMA != 0 {
            // The VM flag has no effect here, whatever its value.
            if cs_long {
                Self::Long
            } else {
                Self::Compat
            }
        } else if rflags & RFLAGS_VM != 0 {
            Self::Vm86
        } else {
            // Without long mode, the L bit has no meaning.
            Self::Protected
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Real => "real",
            Self::Protected => "protected",
            Self::Vm86 => "vm86",
            Self::Compat => "compat",
            Self::Long => "long",
        })
    }
}

/// How linear addresses are translated (SDM volume 3, 4.1.1; APM volume 2, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// Not at all.
    None,
    /// With two levels of tables, entries of 32 bits.
    TwoLevels,
    /// With three levels, entries of 64 bits (PAE).
    ThreeLevels,
    /// With four levels, in long mode.
    FourLevels,
    /// With five levels, in long mode (LA57).
    FiveLevels,
}

impl Paging {
    /// Returns the paging that these registers give.
    #[must_use]
    pub const fn new(cr0: u64, cr4: u64, efer: u64) -> Self {
        if cr0 & CR0_PG == 0 {
            Self::None
        } else if cr4 & CR4_PAE == 0 {
            Self::TwoLevels
        } else if efer & EFER_LMA == 0 {
            Self::ThreeLevels
        } else if cr4 & CR4_LA57 == 0 {
            Self::FourLevels
        } else {
            Self::FiveLevels
        }
    }
}

impl fmt::Display for Paging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::TwoLevels => "2",
            Self::ThreeLevels => "3",
            Self::FourLevels => "4",
            Self::FiveLevels => "5",
        })
    }
}
