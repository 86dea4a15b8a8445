// SPDX-License-Identifier: GPL-2.0

//! Builds page tables, without any code of the library's.

use kvm_inspect_tool::{
    guest::{GuestMemory, SparseMemory},
    paging::{AddressSpace, ControlRegisters, VirtualMemory},
};

/// The RAM that the tables are in. Pages that are mapped may be elsewhere.
pub(crate) const RAM: u64 = 0x100_0000;

pub(crate) const WRITABLE: u64 = 2;
pub(crate) const USER: u64 = 4;
pub(crate) const NO_EXECUTE: u64 = 1 << 63;

/// The forms that page tables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Legacy,
    Pae,
    Four,
    Five,
}

pub(crate) const FORMS: [Form; 4] = [Form::Legacy, Form::Pae, Form::Four, Form::Five];

impl Form {
    /// Returns where the bits of a virtual address that each level uses begin and end.
    pub(crate) fn levels(self) -> &'static [(u32, u32)] {
        match self {
            Self::Legacy => &[(22, 32), (12, 22)],
            Self::Pae => &[(30, 32), (21, 30), (12, 21)],
            Self::Four => &[(39, 48), (30, 39), (21, 30), (12, 21)],
            Self::Five => &[(48, 57), (39, 48), (30, 39), (21, 30), (12, 21)],
        }
    }

    /// Returns the sizes of pages, as powers of two.
    pub(crate) fn page_sizes(self) -> &'static [u32] {
        match self {
            Self::Legacy => &[12, 22],
            Self::Pae => &[12, 21],
            Self::Four | Self::Five => &[12, 21, 30],
        }
    }

    /// Returns an address with the bits that a guest may use.
    pub(crate) fn canonical(self, gva: u64) -> u64 {
        match self {
            Self::Legacy | Self::Pae => gva % (1 << 32),
            Self::Four if gva & (1 << 47) == 0 => gva % (1 << 47),
            Self::Four => gva | (0x1ffff << 47),
            Self::Five if gva & (1 << 56) == 0 => gva % (1 << 56),
            Self::Five => gva | (0xff << 56),
        }
    }

    fn is_long(self) -> bool {
        matches!(self, Self::Four | Self::Five)
    }
}

/// Page tables under construction.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) memory: SparseMemory,
    pub(crate) form: Form,
    root: u64,
    next_table: u64,
}

impl Builder {
    pub(crate) fn new(form: Form) -> Self {
        Self {
            memory: SparseMemory::new(&[0..RAM, RAM * 2..RAM * 3]),
            form,
            // The first table of PAE may begin at any 32 bytes.
            root: if form == Form::Pae { 0x1fe0 } else { 0x1000 },
            next_table: 0x2000,
        }
    }

    pub(crate) fn control(&self) -> ControlRegisters {
        let (pse, pae, la57) = (1 << 4, 1 << 5, 1 << 12);
        ControlRegisters {
            cr0: 0x8000_0001,
            // A PCID and a write's bit are no part of the address.
            cr3: if self.form.is_long() {
                self.root | 0x8000_0000_0000_0001
            } else {
                self.root
            },
            cr4: match self.form {
                Form::Legacy => pse,
                Form::Pae | Form::Four => pae,
                Form::Five => pae | la57,
            },
            efer: if self.form.is_long() { 0xd01 } else { 0x800 },
        }
    }

    pub(crate) fn view(&self) -> VirtualMemory<'_> {
        VirtualMemory::new(&self.memory, AddressSpace::of(&self.control()))
    }

    /// Maps a page whose size is a power of two. Addresses are multiples of it. Returns whether
    /// nothing was in the way.
    pub(crate) fn map(&mut self, gva: u64, gpa: u64, size: u32, bits: u64) -> bool {
        let mut table = self.root;
        for (low, high) in self.form.levels() {
            let index = (gva >> low) & ((1 << (high - low)) - 1);
            let entry = table + index * self.entry_size();
            let old = self.entry(entry);
            if *low == size {
                if old == 0 {
                    self.set_entry(entry, self.page(gpa, size, bits));
                }
                return old == 0;
            }
            if old & 1 == 0 {
                table = self.next_table;
                self.next_table += 0x1000;
                let rights = if self.form == Form::Pae && *low == 30 {
                    0
                } else {
                    6
                };
                self.set_entry(entry, table | 1 | rights);
            } else if old & 0x80 != 0 {
                return false;
            } else {
                table = old & 0x000f_ffff_ffff_f000;
            }
        }
        false
    }

    fn page(&self, gpa: u64, size: u32, bits: u64) -> u64 {
        let large = if size > 12 { 0x80 } else { 0 };
        let address = if self.form == Form::Legacy && size == 22 {
            (gpa & 0xffc0_0000) | ((gpa >> 32) << 13)
        } else {
            gpa
        };
        let bits = if self.form == Form::Legacy {
            bits & !NO_EXECUTE
        } else {
            bits
        };
        address | bits | large | 1
    }

    fn entry_size(&self) -> u64 {
        if self.form == Form::Legacy {
            4
        } else {
            8
        }
    }

    fn entry(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        let size = if self.form == Form::Legacy { 4 } else { 8 };
        self.memory
            .read(at, &mut bytes[..size])
            .expect("a table is RAM");
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn set_entry(&mut self, at: u64, entry: u64) {
        let size = if self.form == Form::Legacy { 4 } else { 8 };
        let bytes = entry.to_le_bytes();
        self.memory
            .write(at, &bytes[..size])
            .expect("a table is RAM");
    }
}
