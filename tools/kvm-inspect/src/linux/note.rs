// SPDX-License-Identifier: GPL-2.0

//! Notes that look like VMCOREINFO, in a guest's memory.

use std::{
    error::Error,
    fmt::{self, Display},
    io,
};

use super::VmcoreInfo;
use crate::guest::{GuestMemory, OutsideRam, PAGE_SIZE};

/// What such a note begins with, as a pattern for the module: the sizes of its name and content,
/// its type, its name, and its first key.
pub const PATTERN: &str =
    "hex:0b000000????????00000000564d434f5245494e464f00004f5352454c454153453d";

/// The size of the header of a note with its name, in bytes.
const HEADER_SIZE: usize = 24;
/// The text is one page (`VMCOREINFO_BYTES`). There is room for it to grow.
const MAX_TEXT: usize = 16384;
/// How much [`candidates`] reads at a time, in bytes.
const CHUNK: u64 = 1 << 20;

/// A note that looks like VMCOREINFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it begins: the guest-physical address of a page.
    pub gpa: u64,
    /// What it says, in printable ASCII.
    pub info: VmcoreInfo,
}

impl Note {
    /// Reads the note at a guest-physical address. It may continue in the pages that follow.
    ///
    /// # Errors
    ///
    /// See [`NoteError`].
    pub fn read(memory: &dyn GuestMemory, gpa: u64) -> Result<Self, NoteError> {
        // Linux allocates pages for it (alloc_pages_exact). What begins elsewhere is a copy.
        if gpa % PAGE_SIZE != 0 {
            return Err(NoteError::NotAligned);
        }
        let mut header = [0; HEADER_SIZE];
        memory.read(gpa, &mut header)?;
        let size = text_size(&header).ok_or(NoteError::NotNote)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_TEXT);
        let mut text = vec![0; size.ok_or(NoteError::TooLong)?];
        memory.read(gpa + HEADER_SIZE as u64, &mut text)?;
        // So that it may be printed as it is.
        let is_text = |byte: &u8| matches!(byte, b'\n' | b' '..=b'~');
        let text = Some(text).filter(|text| text.iter().all(is_text));
        let text = text.and_then(|text| String::from_utf8(text).ok());
        let text = text.ok_or(NoteError::NotText)?;
        if !text.starts_with("OSRELEASE=") {
            return Err(NoteError::NotNote);
        }
        let info = VmcoreInfo::parse(&text);
        Ok(Self { gpa, info })
    }
}

/// Returns the size of the text of a note, in bytes, if it has the right header.
fn text_size(bytes: &[u8]) -> Option<u32> {
    let (name_size, rest) = bytes.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let is_note = *name_size == 11_u32.to_le_bytes() && rest.starts_with(b"\0\0\0\0VMCOREINFO\0");
    is_note.then(|| u32::from_le_bytes(*size))
}

/// Returns the guest-physical addresses of the pages that begin like VMCOREINFO, ascending, and at
/// most so many of them. All RAM is read; a search by the module for [`PATTERN`] takes less time.
///
/// # Errors
///
/// The host cannot read the guest's memory.
pub fn candidates(memory: &dyn GuestMemory, most: usize) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut buffer = Vec::new();
    for range in memory.ranges() {
        let mut next = range.start;
        while next < range.end {
            let length = CHUNK.min(range.end - next);
            buffer.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
            memory.read(next, &mut buffer)?;
            for gpa in candidates_in(next, &buffer) {
                if found.len() == most {
                    return Ok(found);
                }
                found.push(gpa);
            }
            next += length;
        }
    }
    Ok(found)
}

/// Returns the guest-physical addresses of those pages that begin like VMCOREINFO. The first page
/// of `pages` is at `gpa`.
pub fn candidates_in(gpa: u64, pages: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let pages = (gpa..).step_by(4096).zip(pages.chunks(4096));
    pages.filter_map(|(gpa, page)| text_size(page).map(|_| gpa))
}

/// Why there is no note at an address.
#[derive(Debug)]
pub enum NoteError {
    /// It is not the beginning of a page.
    NotAligned,
    /// There is something else.
    NotNote,
    /// The note says that it is longer than any kernel's.
    TooLong,
    /// It has other bytes than ASCII text.
    NotText,
    /// The memory cannot be read, or is not RAM.
    Memory(io::Error),
}

impl From<io::Error> for NoteError {
    fn from(error: io::Error) -> Self {
        Self::Memory(error)
    }
}

impl From<OutsideRam> for NoteError {
    fn from(error: OutsideRam) -> Self {
        Self::Memory(error.into())
    }
}

impl Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAligned => "it does not begin with a page",
            Self::NotNote => "it is no note named VMCOREINFO",
            Self::TooLong => "the note is too long",
            Self::NotText => "the note has bytes that are not text",
            Self::Memory(error) => return write!(f, "the memory of the guest: {error}"),
        })
    }
}

impl Error for NoteError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::SparseMemory;

    fn note(size: u32, text: &str) -> Vec<u8> {
        let header = [11, size, 0].map(u32::to_le_bytes).concat();
        [&header, &b"VMCOREINFO\0\0"[..], text.as_bytes()].concat()
    }

    #[test]
    fn a_note_is_found_and_read_across_pages() {
        let mut text = "OSRELEASE=7.3.4\n".to_owned();
        while text.len() < 5000 {
            text.push_str("SYMBOL(prb)=1\n");
        }
        text.push_str("KERNELOFFSET=2a\n");
        let size = u32::try_from(text.len()).expect("it is short");
        let mut memory = SparseMemory::new(&[0x1000..0x4000, 0x10_0000..0x30_0000]);
        for gpa in [0x2000, 0x20_f000, 0x21_0010] {
            memory.write(gpa, &note(size, &text)).expect("it is RAM");
        }
        // The second one has overwritten the end of the first one there.
        assert_eq!(
            candidates(&memory, 9).expect("it is memory"),
            [0x2000, 0x20_f000]
        );
        assert_eq!(candidates(&memory, 1).expect("it is memory"), [0x2000]);
        let note = Note::read(&memory, 0x2000).expect("it is a note");
        assert_eq!(note.info.kaslr_offset(), Some(42));
        assert!(matches!(
            Note::read(&memory, 0x21_0010),
            Err(NoteError::NotAligned)
        ));
        assert!(matches!(
            Note::read(&memory, 0x20_f000),
            Err(NoteError::NotText)
        ));
    }

    #[test]
    fn other_pages_are_no_notes() {
        let read = |bytes: &[u8]| {
            let mut memory = SparseMemory::with_size(0x2000);
            memory.write(0x1000, bytes).expect("it is RAM");
            Note::read(&memory, 0x1000).map(|note| note.info.text().to_owned())
        };
        assert!(matches!(read(&[]), Err(NoteError::NotNote)));
        assert!(matches!(read(&note(4, "OSRE")), Err(NoteError::NotNote)));
        assert!(matches!(
            read(&note(u32::MAX, "OSRELEASE=1")),
            Err(NoteError::TooLong)
        ));
        assert!(matches!(
            read(&note(15000, "OSRELEASE=1")),
            Err(NoteError::Memory(_))
        ));
        assert!(matches!(
            read(&note(12, "OSRELEASE=\x1b[")),
            Err(NoteError::NotText)
        ));
        assert_eq!(
            read(&note(11, "OSRELEASE=1")).expect("it is one"),
            "OSRELEASE=1"
        );
    }

    #[test]
    fn the_pattern_is_what_a_note_begins_with() {
        let digits = PATTERN.strip_prefix("hex:").expect("it is hex");
        let digits = digits.replace("????????", "01000000");
        let bytes = crate::hex::bytes(&digits).expect("it is hex");
        assert_eq!(bytes, note(1, "OSRELEASE="));
    }
}
