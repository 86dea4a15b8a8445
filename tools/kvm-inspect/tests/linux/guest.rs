// SPDX-License-Identifier: GPL-2.0

//! A guest with as much of a kernel as the library reads.

use kvm_inspect_tool::{
    guest::SparseMemory,
    linux::{Kernel, VmcoreInfo},
    paging::ControlRegisters,
};

/// Where the kernel's image begins in virtual memory, with KASLR.
pub(crate) const IMAGE: u64 = 0xffff_ffff_9a00_0000;
pub(crate) const DIRECT_MAP: u64 = 0xffff_8924_4000_0000;
pub(crate) const RELEASE: &str = "7.3.4-test";

/// What is where in the image.
pub(crate) const SWAPPER: u64 = IMAGE;
const UTS: u64 = IMAGE + 0x1_0000;
const NOTE_POINTER: u64 = IMAGE + 0x1_1000;
const PAGE_OFFSET_BASE: u64 = IMAGE + 0x1_1008;
pub(crate) const APIC_IDS: u64 = IMAGE + 0x1_1010;
const AFTER_APIC_IDS: u64 = IMAGE + 0x1_1030;
pub(crate) const PRB: u64 = IMAGE + 0x1_2000;
pub(crate) const RING: u64 = IMAGE + 0x1_2100;
const NUM_SYMS: u64 = IMAGE + 0x2_0000;
const OFFSETS: u64 = IMAGE + 0x2_1000;
const RELATIVE_BASE: u64 = IMAGE + 0x2_2000;
const TOKENS: u64 = IMAGE + 0x2_3000;
const TOKEN_INDEX: u64 = IMAGE + 0x2_4000;
const NAMES: u64 = IMAGE + 0x2_5000;
pub(crate) const LONG_NAMED: u64 = IMAGE + 0x3_0000;

/// What the numbers of kallsyms mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offsets {
    FromThemselves,
    FromBase,
    Absolute,
}

/// A guest, whose memory and note a test may change.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) memory: SparseMemory,
    pub(crate) note: String,
    pub(crate) note_gpa: u64,
    image_gpa: u64,
}

impl Guest {
    pub(crate) fn new(offsets: Offsets) -> Self {
        let ranges = [0..0x200_0000, 0x1_0000_0000..0x1_0200_0000];
        let mut guest = Self {
            memory: SparseMemory::new(&ranges),
            note: String::new(),
            note_gpa: 0,
            image_gpa: 0,
        };
        guest.boot(0x1_0100_0000, 0x80_0000, offsets);
        guest
    }

    /// Boots a kernel, beside one that is there.
    pub(crate) fn boot(&mut self, image_gpa: u64, note_gpa: u64, offsets: Offsets) {
        (self.image_gpa, self.note_gpa) = (image_gpa, note_gpa);
        for index in 0..2 {
            let offset = index * 0x20_0000;
            self.map(IMAGE + offset, image_gpa + offset);
        }
        for gpa in (0..0x200_0000).step_by(0x20_0000) {
            let high = 0x1_0000_0000 + gpa;
            self.map(DIRECT_MAP + gpa, gpa);
            self.map(DIRECT_MAP + high, high);
        }
        self.write(UTS + 130, format!("{RELEASE}\0").as_bytes());
        self.write_u64(NOTE_POINTER, DIRECT_MAP + note_gpa);
        self.write_u64(PAGE_OFFSET_BASE, DIRECT_MAP);
        let apic_ids = [0, 1, 2, 4, u32::MAX, u32::MAX];
        self.write(APIC_IDS, &apic_ids.map(u32::to_le_bytes).concat());
        self.write_symbols(offsets);
        self.write_u64(PRB, RING);
        self.note = self.note_text(offsets);
        self.write_note(note_gpa, &self.note.clone());
    }

    fn note_text(&self, offsets: Offsets) -> String {
        let phys_base = self.image_gpa.wrapping_sub(IMAGE - 0xffff_ffff_8000_0000);
        let phys_base = i64::from_ne_bytes(phys_base.to_ne_bytes());
        let mut note = format!(
            "OSRELEASE={RELEASE}\nSYMBOL(init_uts_ns)={UTS:x}\nOFFSET(uts_namespace.name)=0\n\
             SYMBOL(swapper_pg_dir)={SWAPPER:x}\nSYMBOL(_stext)={IMAGE:x}\nSYMBOL(prb)={PRB:x}\n\
             SYMBOL(kallsyms_names)={NAMES:x}\nSYMBOL(kallsyms_num_syms)={NUM_SYMS:x}\n\
             SYMBOL(kallsyms_token_table)={TOKENS:x}\nSYMBOL(kallsyms_offsets)={OFFSETS:x}\n\
             SYMBOL(kallsyms_token_index)={TOKEN_INDEX:x}\nNUMBER(phys_base)={phys_base}\n\
             NUMBER(pgtable_l5_enabled)=0\nKERNELOFFSET=19000000\n"
        );
        if offsets != Offsets::FromThemselves {
            note += &format!("SYMBOL(kallsyms_relative_base)={RELATIVE_BASE:x}\n");
        }
        note + crate::ring::LAYOUT
    }

    /// Writes a note with this text.
    pub(crate) fn write_note(&mut self, gpa: u64, text: &str) {
        let size = u32::try_from(text.len()).expect("it is short");
        let header = [11, size, 0].map(u32::to_le_bytes).concat();
        let note = [&header, &b"VMCOREINFO\0\0"[..], text.as_bytes()].concat();
        self.memory.write(gpa, &note).expect("it is RAM");
    }

    /// Writes to the kernel's image.
    pub(crate) fn write(&mut self, gva: u64, bytes: &[u8]) {
        let gpa = self.image_gpa + (gva - IMAGE);
        self.memory.write(gpa, bytes).expect("it is RAM");
    }

    pub(crate) fn write_u64(&mut self, gva: u64, number: u64) {
        self.write(gva, &number.to_le_bytes());
    }

    pub(crate) fn kernel(&self) -> Kernel<'_> {
        Kernel::new(&self.memory, &VmcoreInfo::parse(&self.note)).expect("it is there")
    }

    /// Returns the registers of a vCPU that runs the kernel.
    pub(crate) fn vcpu(&self) -> ControlRegisters {
        ControlRegisters {
            cr0: 0x8000_0001,
            cr3: self.image_gpa,
            cr4: 0x20,
            efer: 0xd01,
        }
    }

    /// Maps 2 MiB. The tables follow the root: two for the image, and two for the direct map, which
    /// is within one GiB but for its upper part.
    fn map(&mut self, gva: u64, gpa: u64) {
        let is_image = gva >= IMAGE;
        let upper = self.image_gpa + if is_image { 0x1000 } else { 0x2000 };
        let is_high = !is_image && gva >= DIRECT_MAP + 0x1_0000_0000;
        let lower =
            self.image_gpa + 0x3000 + 0x1000 * (u64::from(is_image) + 2 * u64::from(is_high));
        let index = |shift: u32| (gva >> shift) % 512 * 8;
        for (table, shift, entry) in [
            (self.image_gpa, 39, upper | 3),
            (upper, 30, lower | 3),
            (lower, 21, gpa | 0x83),
        ] {
            let entry: u64 = entry;
            let written = self
                .memory
                .write(table + index(shift), &entry.to_le_bytes());
            written.expect("it is RAM");
        }
    }

    fn write_symbols(&mut self, offsets: Offsets) {
        let long = "l".repeat(200);
        let symbols = [
            (
                "D__per_cpu_thing",
                if offsets == Offsets::Absolute {
                    0x1000
                } else {
                    IMAGE
                },
            ),
            ("T_stext", IMAGE),
            ("t_stext_alias", IMAGE),
            ("Dvmcoreinfo_note", NOTE_POINTER),
            ("Dpage_offset_base", PAGE_OFFSET_BASE),
            ("Dcpuid_to_apicid", APIC_IDS),
            ("dtwice", AFTER_APIC_IDS),
            (&format!("T{long}"), LONG_NAMED),
            ("dtwice", LONG_NAMED + 0x10),
        ];
        let count = u32::try_from(symbols.len()).expect("there are few");
        self.write(NUM_SYMS, &count.to_le_bytes());
        self.write_u64(RELATIVE_BASE, IMAGE);
        let mut names = Vec::new();
        for (index, (name, address)) in (0_u64..).zip(symbols) {
            let distance = |from: u64| i64::from_ne_bytes(address.wrapping_sub(from).to_ne_bytes());
            let number = match offsets {
                Offsets::FromThemselves => distance(OFFSETS + 4 * index),
                Offsets::FromBase => distance(IMAGE),
                Offsets::Absolute if address < IMAGE => distance(0),
                Offsets::Absolute => -1 - distance(IMAGE),
            };
            let number = i32::try_from(number).expect("it is near");
            self.write(OFFSETS + 4 * index, &number.to_le_bytes());
            // Token 1 is two letters; each printable character is its own token.
            let tokens = name.replace("ll", "\x01");
            if tokens.len() < 128 {
                names.push(u8::try_from(tokens.len()).expect("it is short"));
            } else {
                let [low, _] = u16::try_from(tokens.len())
                    .expect("it is short")
                    .to_le_bytes();
                names.extend([
                    low | 0x80,
                    u8::try_from(tokens.len() >> 7).expect("it is short"),
                ]);
            }
            names.extend(tokens.bytes());
        }
        self.write(NAMES, &names);
        let (mut table, mut index) = (Vec::new(), Vec::new());
        for token in 0..=255_u8 {
            index.extend(
                u16::try_from(table.len())
                    .expect("it is short")
                    .to_le_bytes(),
            );
            match token {
                1 => table.extend(b"ll"),
                b'!'..=b'~' => table.push(token),
                _ => (),
            }
            table.push(0);
        }
        self.write(TOKENS, &table);
        self.write(TOKEN_INDEX, &index);
    }
}
