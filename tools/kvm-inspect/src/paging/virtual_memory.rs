// SPDX-License-Identifier: GPL-2.0

//! Guest memory by virtual addresses.

use std::{
    error::Error,
    fmt::{self, Display},
    io,
    ops::RangeInclusive,
};

use super::{
    entry::Entry,
    runs::{RunLimit, Runs},
    tables::Tables,
    Access, AddressSpace, Mode,
};
use crate::guest::{GuestMemory, OutsideRam};

/// Where a virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address. It need not be RAM.
    pub gpa: u64,
    /// The size of the page it is in, in bytes: 4 KiB, 2 MiB, 4 MiB, or 1 GiB.
    pub page_size: u64,
    /// What the page may be used for. Without paging, everything.
    pub access: Access,
}

/// Guest memory as one address space shows it.
///
/// Tables that were read are kept, a few at a time: memory that changes meanwhile needs
/// [`Self::forget_tables`].
pub struct VirtualMemory<'a> {
    memory: &'a dyn GuestMemory,
    space: AddressSpace,
    tables: Tables,
}

impl<'a> VirtualMemory<'a> {
    /// Creates the view of an address space.
    #[must_use]
    pub fn new(memory: &'a dyn GuestMemory, space: AddressSpace) -> Self {
        Self {
            memory,
            space,
            tables: Tables::default(),
        }
    }

    /// Returns the address space.
    #[must_use]
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// Returns the physical memory.
    #[must_use]
    pub fn physical(&self) -> &'a dyn GuestMemory {
        self.memory
    }

    /// Reads all tables anew.
    pub fn forget_tables(&self) {
        self.tables.clear();
    }

    /// Returns where a virtual address leads.
    ///
    /// # Errors
    ///
    /// See [`Fault`].
    pub fn translate(&self, gva: u64) -> Result<Translation, Fault> {
        let mode = self.space.mode;
        let gva = mode.checked(gva).ok_or(Fault::NotCanonical { gva })?;
        if mode == Mode::Off {
            return Ok(Translation {
                gpa: gva,
                page_size: 4096,
                access: Access::ALL,
            });
        }
        let mut table = self.space.root;
        let mut access = Access::ALL;
        for level in mode.levels() {
            let page = self.tables.read(self.memory, table);
            let page = page.map_err(|error| Fault::new(gva, table, error))?;
            match self.space.entry(*level, table, &page, level.index(gva)) {
                Entry::Table(next, also) => {
                    table = next;
                    access = access.and(also);
                }
                Entry::Page(page, also) => {
                    return Ok(Translation {
                        gpa: page + gva % level.size(),
                        page_size: level.size(),
                        access: access.and(also),
                    });
                }
                Entry::Empty => return Err(Fault::NotPresent { gva }),
                Entry::Reserved => return Err(Fault::Reserved { gva }),
            }
        }
        Err(Fault::NotPresent { gva })
    }

    /// Fills a buffer with the bytes that begin at a virtual address.
    ///
    /// # Errors
    ///
    /// See [`Fault`]. What the buffer holds then is not specified.
    pub fn read(&self, gva: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut next = gva;
        let mut rest = into;
        while !rest.is_empty() {
            let Translation { gpa, page_size, .. } = self.translate(next)?;
            let here = page_size - gpa % page_size;
            let length = usize::try_from(here).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            let read = self.memory.read(gpa, now);
            read.map_err(|error| Fault::new(next, gpa, error))?;
            rest = later;
            if !rest.is_empty() {
                // Both are less than 2^57, or the address is in the upper half.
                next = next.checked_add(here).ok_or(Fault::NotCanonical { gva })?;
            }
        }
        Ok(())
    }

    /// Reads a little-endian number.
    ///
    /// # Errors
    ///
    /// See [`Fault`].
    pub fn read_u32(&self, gva: u64) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        self.read(gva, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian number.
    ///
    /// # Errors
    ///
    /// See [`Fault`].
    pub fn read_u64(&self, gva: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(gva, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Returns what is mapped in a range of virtual addresses, ascending. Neighbours are merged if
    /// they are neighbours in physical memory, too, whatever their access rights.
    ///
    /// Devices may be mapped as well: [`Run::in_ram`](super::Run::in_ram). Tables that are not in
    /// RAM are taken for empty ones.
    #[must_use]
    pub fn runs(&self, range: RangeInclusive<u64>, limit: RunLimit) -> Runs<'_> {
        Runs::new(self.memory, &self.tables, self.space, range, limit)
    }
}

impl fmt::Debug for VirtualMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("VirtualMemory");
        f.field("space", &self.space).finish_non_exhaustive()
    }
}

/// Why a virtual address cannot be read.
#[derive(Debug)]
pub enum Fault {
    /// It has more bits than the mode translates.
    NotCanonical {
        /// The virtual address.
        gva: u64,
    },
    /// It is not mapped.
    NotPresent {
        /// The virtual address.
        gva: u64,
    },
    /// An entry on the way has a form that a CPU refuses.
    Reserved {
        /// The virtual address.
        gva: u64,
    },
    /// It leads, or a table on the way lies, outside of RAM.
    OutsideRam {
        /// The virtual address.
        gva: u64,
        /// The guest-physical address.
        gpa: u64,
    },
    /// The limit of [`Runs`] is reached.
    Limit,
    /// The host cannot read the guest's memory.
    Memory(io::Error),
}

impl Fault {
    pub(super) fn new(gva: u64, gpa: u64, error: io::Error) -> Self {
        if OutsideRam::is(&error) {
            Self::OutsideRam { gva, gpa }
        } else {
            Self::Memory(error)
        }
    }

    /// Returns whether the guest is the reason, and not the host.
    #[must_use]
    pub fn is_guests(&self) -> bool {
        !matches!(self, Self::Memory(_))
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCanonical { gva } => write!(f, "{gva:#x} is no address in this mode"),
            Self::NotPresent { gva } => write!(f, "{gva:#x} is not mapped"),
            Self::Reserved { gva } => write!(f, "the page tables are not valid for {gva:#x}"),
            Self::OutsideRam { gva, gpa } => {
                write!(f, "{gva:#x} leads to {gpa:#x}, which is not RAM")
            }
            Self::Limit => f.write_str("there are more page tables than a guest should have"),
            Self::Memory(error) => write!(f, "the memory of the guest: {error}"),
        }
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Memory(error) => Some(error),
            _ => None,
        }
    }
}
