// SPDX-License-Identifier: GPL-2.0

//! ELF core files of a guest, as QEMU's `dump-guest-memory` makes them.
//!
//! They are for drgn, crash, gdb, Volatility 3, LeechCore and makedumpfile, and some of what stands
//! here is for one of them alone:
//! - The program headers follow the header at once: makedumpfile looks for them there.
//! - `PT_NOTE` is the first of them, and the only one: crash takes it for granted.
//! - `p_align` is 0, by which crash knows the format.
//! - `p_filesz` is `p_memsz`: LeechCore refuses the file otherwise.
//! - `p_vaddr` is the guest's own address of its RAM (the direct map). With guest-physical
//!   addresses there, drgn returns physical memory for addresses of user space.
//! - There are at most [`MAX_SEGMENTS`] ranges, in ascending order and apart, for LeechCore and
//!   Volatility.
//!
//! gdb reads virtual addresses only, so it sees the direct map and nothing else of the kernel. A
//! file with [`Options::kernel_mappings`] is for gdb: it has one more segment for each run of
//! pages that the kernel has mapped, in the same bytes of the file. LeechCore refuses that file.

use std::{
    collections::HashMap,
    error::Error,
    fmt::{self, Display},
};

use object::{
    elf::{
        FileHeader64, Ident, ProgramHeader64, ProgramType, SymbolSection, ELFCLASS64, ELFDATA2LSB,
        ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_CORE, EV_CURRENT, PF_R, PF_W, PF_X, PN_XNUM, PT_LOAD,
        PT_NOTE,
    },
    endian::{LittleEndian, U16, U32, U64},
    pod::bytes_of,
};

use super::{Extent, Header, Layout, NoteError, Notes, Range, Ranges, PAGE_SIZE};

/// The most ranges of RAM that a core file has, unless it is for gdb. LeechCore reads all headers
/// in one block of 8 KiB, and refuses a file with more.
pub const MAX_SEGMENTS: usize = 144;

/// How many times memory is mapped at most, or it is left out. Linux has a page of stacks 65,536
/// times for each 64 CPUs (`arch/x86/kernel/espfix_64.c`), which would fill the file's headers.
const MAX_ALIASES: u32 = 64;

const HEADER_SIZE: usize = size_of::<FileHeader64<LittleEndian>>();
/// The size of the header of a segment, in bytes.
pub const SEGMENT_SIZE: usize = size_of::<ProgramHeader64<LittleEndian>>();

/// How a core file is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where the guest's kernel has all RAM mapped: `page_offset_base` of Linux. If it is not
    /// known, guest-physical addresses stand for the virtual ones.
    pub direct_map_base: Option<u64>,
    /// How many bytes are left for headers and notes at least, rounded up to pages. Notes that
    /// become longer later need that room.
    pub room: u64,
    /// What the guest's kernel has mapped elsewhere. If there is any, the file is for gdb. What is
    /// no RAM, or mapped more than 64 times, is left out.
    pub kernel_mappings: Vec<Mapping>,
}

/// Guest-virtual addresses that are mapped to neighbouring guest-physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// The first guest-virtual address.
    pub gva: u64,
    /// The guest-physical address that it is mapped to.
    pub gpa: u64,
    /// The size in bytes.
    pub size: u64,
}

/// Returns the layout of a core file. Neighbouring ranges are one segment.
///
/// # Errors
///
/// There are more than [`MAX_SEGMENTS`] ranges, or more mappings than an ELF file can have; CPUs
/// are missing; addresses overflow.
pub fn layout(ranges: &Ranges, notes: &Notes, options: &Options) -> Result<Layout, ElfError> {
    let mut segments = ram(ranges, options.direct_map_base.unwrap_or(0))?;
    let is_for_gdb = !options.kernel_mappings.is_empty();
    if !is_for_gdb && segments.len() > MAX_SEGMENTS {
        return Err(ElfError::TooManyRanges(segments.len()));
    }
    if is_for_gdb {
        segments.extend(elsewhere(ranges, options)?);
    }
    let count = segments.len().checked_add(1);
    let count = count.and_then(|count| u16::try_from(count).ok());
    let count = count.filter(|count| u32::from(*count) < u32::from(PN_XNUM));
    let count = count.ok_or(ElfError::TooManyMappings(segments.len()))?;

    let notes = notes.bytes()?;
    let notes_offset = HEADER_SIZE + SEGMENT_SIZE * usize::from(count);
    let end = notes_offset
        .checked_add(notes.len())
        .ok_or(ElfError::TooBig)?;
    let end = u64::try_from(end).map_err(|_| ElfError::TooBig)?;
    let data = end.max(options.room).checked_next_multiple_of(PAGE_SIZE);
    let data = data.ok_or(ElfError::TooBig)?;
    let (extents, size) = place(ranges, data)?;

    let mut bytes = Vec::new();
    let room = usize::try_from(data).map_err(|_| ElfError::TooBig)?;
    bytes
        .try_reserve_exact(room)
        .map_err(|_| ElfError::TooBig)?;
    bytes.extend_from_slice(bytes_of(&file_header(count)));
    let note_segment = Segment {
        kind: PT_NOTE,
        offset: notes_offset as u64,
        gva: 0,
        gpa: 0,
        size: notes.len() as u64,
    };
    bytes.extend_from_slice(bytes_of(&note_segment.header()));
    let mut layout = Layout {
        ranges: ranges.clone(),
        headers: Vec::new(),
        extents,
        size,
    };
    for mut segment in segments {
        // All segments are parts of RAM.
        segment.offset = layout.offset_of(segment.gpa).ok_or(ElfError::TooBig)?;
        bytes.extend_from_slice(bytes_of(&segment.header()));
    }
    bytes.extend_from_slice(&notes);
    // All of it, so that shorter notes leave nothing of longer ones.
    bytes.resize(room, 0);
    layout.headers.push(Header { offset: 0, bytes });
    Ok(layout)
}

/// What a program header tells.
struct Segment {
    kind: ProgramType,
    offset: u64,
    gva: u64,
    gpa: u64,
    size: u64,
}

impl Segment {
    /// Creates a segment whose offset is not known yet.
    fn load(gva: u64, range: Range) -> Self {
        Self {
            kind: PT_LOAD,
            offset: 0,
            gva,
            gpa: range.gpa,
            size: range.size,
        }
    }

    fn header(&self) -> ProgramHeader64<LittleEndian> {
        let flags = match self.kind {
            PT_LOAD => PF_R | PF_W | PF_X,
            _ => PF_R,
        };
        let word = |value| U64::new(LittleEndian, value);
        ProgramHeader64 {
            p_type: U32::new(LittleEndian, self.kind),
            p_flags: U32::new(LittleEndian, flags),
            p_offset: word(self.offset),
            p_vaddr: word(self.gva),
            p_paddr: word(self.gpa),
            p_filesz: word(self.size),
            p_memsz: word(self.size),
            p_align: word(0),
        }
    }
}

fn file_header(segments: u16) -> FileHeader64<LittleEndian> {
    let half = |value: usize| U16::new(LittleEndian, u16::try_from(value).unwrap_or(0));
    FileHeader64 {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LittleEndian, ET_CORE),
        e_machine: U16::new(LittleEndian, EM_X86_64),
        e_version: U32::new(LittleEndian, u32::from(EV_CURRENT.0)),
        e_entry: U64::new(LittleEndian, 0),
        e_phoff: U64::new(LittleEndian, HEADER_SIZE as u64),
        e_shoff: U64::new(LittleEndian, 0),
        e_flags: U32::new(LittleEndian, object::elf::FileFlags(0)),
        e_ehsize: half(HEADER_SIZE),
        e_phentsize: half(SEGMENT_SIZE),
        e_phnum: U16::new(LittleEndian, segments),
        e_shentsize: half(0),
        e_shnum: half(0),
        e_shstrndx: U16::new(LittleEndian, SymbolSection(0)),
    }
}

/// Returns the segments of RAM, in its order.
fn ram(ranges: &Ranges, base: u64) -> Result<Vec<Segment>, ElfError> {
    let segment = |range: &Range| {
        let gva = base.checked_add(range.gpa);
        // The last address must be one, too.
        let gva = gva.filter(|gva| gva.checked_add(range.size - 1).is_some());
        let gva = gva.ok_or(ElfError::DirectMap(base))?;
        Ok(Segment::load(gva, *range))
    };
    ranges.as_slice().iter().map(segment).collect()
}

/// Returns the segments of what is mapped elsewhere than in the direct map, by their virtual
/// addresses. What is no RAM is left out.
fn elsewhere(ranges: &Ranges, options: &Options) -> Result<Vec<Segment>, ElfError> {
    let base = options.direct_map_base.unwrap_or(0);
    let mappings = merged(&options.kernel_mappings)?;
    let mut aliases = HashMap::new();
    for mapping in &mappings {
        *aliases.entry(mapping.gpa).or_insert(0) += 1;
    }
    let mut segments = Vec::new();
    for mapping in mappings {
        let is_direct = base.checked_add(mapping.gpa) == Some(mapping.gva);
        if is_direct || aliases[&mapping.gpa] > MAX_ALIASES {
            continue;
        }
        let range = Range::new(mapping.gpa, mapping.size);
        for ram in ranges.as_slice() {
            if let Some(part) = ram.intersection(&range) {
                let gva = mapping.gva + (part.gpa - range.gpa);
                segments.push(Segment::load(gva, part));
            }
        }
    }
    Ok(segments)
}

/// Returns mappings by their virtual addresses, with neighbours as one.
fn merged(mappings: &[Mapping]) -> Result<Vec<Mapping>, ElfError> {
    let mut sorted: Vec<_> = mappings.iter().filter(|mapping| mapping.size > 0).collect();
    sorted.sort_unstable();
    let mut merged: Vec<Mapping> = Vec::new();
    for mapping in sorted {
        let strange = ElfError::Mapping(*mapping);
        let is_aligned = [mapping.gva, mapping.gpa, mapping.size].map(|value| value % PAGE_SIZE);
        let ends = [mapping.gva, mapping.gpa].map(|first| first.checked_add(mapping.size - 1));
        if is_aligned != [0; 3] || ends.contains(&None) {
            return Err(strange);
        }
        match merged.last_mut() {
            // A distance, because the end of the last addresses is no address.
            Some(last) if mapping.gva - last.gva < last.size => return Err(strange),
            Some(last)
                if mapping.gva - last.gva == last.size
                    && mapping.gpa.checked_sub(last.gpa) == Some(last.size) =>
            {
                last.size += mapping.size;
            }
            _ => merged.push(*mapping),
        }
    }
    Ok(merged)
}

/// Returns where the ranges are in the file, one after the other, and where it ends.
fn place(ranges: &Ranges, data: u64) -> Result<(Vec<Extent>, u64), ElfError> {
    let mut offset = data;
    let mut extents = Vec::new();
    for range in ranges.as_slice() {
        extents.push(Extent {
            range: *range,
            offset,
        });
        offset = offset.checked_add(range.size).ok_or(ElfError::TooBig)?;
    }
    Ok((extents, offset))
}

/// Why there is no core file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// The RAM has so many ranges, more than [`MAX_SEGMENTS`].
    TooManyRanges(usize),
    /// RAM and mappings have so many segments, more than an ELF file can have.
    TooManyMappings(usize),
    /// The RAM does not fit above this address.
    DirectMap(u64),
    /// It is not of whole pages, overflows, or overlaps another one.
    Mapping(Mapping),
    /// Offsets overflow, or the headers do not fit into memory.
    TooBig,
    /// There are no notes.
    Notes(NoteError),
}

impl Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyRanges(count) => write!(
                f,
                "the guest's RAM has {count} ranges, and a core file at most {MAX_SEGMENTS}; \
                 write another format"
            ),
            Self::TooManyMappings(count) => write!(
                f,
                "the guest's kernel has mapped {count} runs of pages, and an ELF file has room for \
                 {}; write a core file without them",
                PN_XNUM - 2
            ),
            Self::DirectMap(base) => write!(
                f,
                "the guest's RAM does not fit above its direct map, {base:#x}; \
                 give another address, or none"
            ),
            Self::Mapping(Mapping { gva, gpa, size }) => write!(
                f,
                "the mapping of {gva:#x} to {gpa:#x} of {size:#x} bytes is not of whole pages, \
                 overflows or overlaps another one; write a core file without mappings"
            ),
            Self::TooBig => write!(f, "the core file becomes too big; write another format"),
            Self::Notes(error) => error.fmt(f),
        }
    }
}

impl Error for ElfError {}

impl From<NoteError> for ElfError {
    fn from(error: NoteError) -> Self {
        Self::Notes(error)
    }
}
