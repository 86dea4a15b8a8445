// SPDX-License-Identifier: GPL-2.0

//! Entries of page tables.

use super::{Access, AddressSpace, Mode, PHYSICAL};

/// A level of page tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    /// The lowest bit of a virtual address that selects an entry.
    pub(super) shift: u32,
    /// How many bits do.
    pub(super) bits: u32,
}

const fn level(shift: u32, bits: u32) -> Level {
    Level { shift, bits }
}

const LONG: [Level; 5] = [
    level(48, 9),
    level(39, 9),
    level(30, 9),
    level(21, 9),
    level(12, 9),
];
const PAE: [Level; 3] = [level(30, 2), level(21, 9), level(12, 9)];
const LEGACY: [Level; 2] = [level(22, 10), level(12, 10)];

impl Mode {
    /// Returns the levels of its tables, the first one first.
    pub(super) fn levels(self) -> &'static [Level] {
        match self {
            Self::Off => &[],
            Self::Legacy { .. } => &LEGACY,
            Self::Pae => &PAE,
            Self::FourLevel => &LONG[1..],
            Self::FiveLevel => &LONG,
        }
    }

    /// Returns the size of an entry, in bytes.
    fn entry_size(self) -> usize {
        match self {
            Self::Legacy { .. } => 4,
            _ => 8,
        }
    }
}

impl Level {
    /// Returns how many bytes of virtual addresses an entry is for.
    pub(super) fn size(self) -> u64 {
        1 << self.shift
    }

    /// Returns how many entries a table has.
    pub(super) fn count(self) -> u64 {
        1 << self.bits
    }

    /// Returns which entry is for a virtual address.
    pub(super) fn index(self, gva: u64) -> u64 {
        (gva >> self.shift) % self.count()
    }
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing is mapped.
    Empty,
    /// The guest-physical address of a table of the next level.
    Table(u64, Access),
    /// The guest-physical address of a page of the level's size.
    Page(u64, Access),
    /// A page of a size that this level does not have. A CPU faults.
    Reserved,
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// The entry is a page, not a table. In the last level this is another bit.
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

impl AddressSpace {
    /// Returns an entry of a table that begins at a guest-physical address and lies in this page.
    pub(super) fn entry(&self, level: Level, table: u64, page: &[u8; 4096], index: u64) -> Entry {
        let size = self.mode.entry_size();
        // Only the first table of PAE paging does not begin with its page.
        let at = usize::try_from((table & 0xfff) + index * size as u64);
        let bytes = at.ok().and_then(|at| page.get(at..at + size));
        let bytes = bytes.unwrap_or_default().iter().rev();
        let raw = bytes.fold(0, |raw, byte| (raw << 8) | u64::from(*byte));
        self.decode(level, raw)
    }

    fn decode(&self, level: Level, raw: u64) -> Entry {
        if raw & PRESENT == 0 {
            return Entry::Empty;
        }
        let (last, large) = (level.shift == 12, raw & LARGE != 0);
        let address = raw & PHYSICAL & !0xfff;
        let access = Access {
            writable: raw & WRITABLE != 0,
            user: raw & USER != 0,
            executable: raw & NO_EXECUTE == 0 || !self.no_execute,
        };
        match self.mode {
            // The table for PAE's page-directory-pointer entries has no rights.
            Mode::Pae if level.shift == 30 && large => Entry::Reserved,
            Mode::Pae if level.shift == 30 => Entry::Table(address, Access::ALL),
            Mode::Legacy { large_pages } if !last && large && large_pages => {
                // PSE-36: bits 13 to 20 are bits 32 to 39 of the address.
                let above = ((raw >> 13) & 0xff) << 32;
                Entry::Page((address & !(level.size() - 1)) | above, access)
            }
            Mode::Legacy { .. } if !last => Entry::Table(address, access),
            _ if last => Entry::Page(address, access),
            _ if !large => Entry::Table(address, access),
            // Bit 12 of a large page is PAT; the bits up to the address are reserved.
            _ if level.shift <= 30 => Entry::Page(address & !(level.size() - 1), access),
            _ => Entry::Reserved,
        }
    }
}
