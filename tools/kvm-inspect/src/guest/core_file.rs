// SPDX-License-Identifier: GPL-2.0

//! Guest memory in an ELF core, as QEMU's `dump-guest-memory` and `kvm-inspect dump` write it.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use super::{invalid, GuestMemory, OutsideRam, PAGE_SIZE};

/// The notes of a core are not larger, but those of a file that only looks like one might be.
const MAX_NOTE_BYTES: u64 = 64 << 20;
/// The size of an ELF64 header, in bytes.
const HEADER_SIZE: usize = 64;
/// The size of an ELF64 program header, in bytes.
const SEGMENT_SIZE: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// An ELF64 core whose segments are RAM, by `p_paddr`.
#[derive(Debug)]
pub struct CoreFile {
    file: File,
    /// Ascending and apart. Not merged, as each is elsewhere in the file.
    segments: Vec<Segment>,
    /// The same, merged.
    ranges: Vec<Range<u64>>,
    notes: Vec<CoreNote>,
}

/// A note of a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreNote {
    /// Its name, without the NUL at its end.
    pub name: Vec<u8>,
    /// Its type, which says something only together with the name.
    pub kind: u32,
    /// What it holds.
    pub content: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Segment {
    gpa: Range<u64>,
    offset: u64,
    /// How many bytes are in the file. The others are zero.
    in_file: u64,
}

impl CoreFile {
    /// Reads the headers and notes of a core.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no ELF64 core of an x86-64 guest; segments overlap
    /// or are not page-aligned.
    pub fn open(file: File) -> io::Result<Self> {
        let mut header = [0; HEADER_SIZE];
        file.read_exact_at(&mut header, 0)?;
        let is_elf64 = header.starts_with(b"\x7fELF\x02\x01");
        let (core, x86_64) = (4_u16, 62_u16);
        let is_core = header[16..18] == core.to_le_bytes();
        if !is_elf64 || !is_core || header[18..20] != x86_64.to_le_bytes() {
            return Err(invalid("it is no ELF64 core of an x86-64 guest"));
        }
        // QEMU 11 has the program headers behind the section headers, and a wrong e_ehsize.
        let table = number(&header, 32, 8);
        let entry_size = number(&header, 54, 2);
        let count = number(&header, 56, 2);
        if entry_size != 56 || count == 0xffff {
            return Err(invalid("its program headers have an unknown form"));
        }
        let mut segments = Vec::new();
        let mut notes = Vec::new();
        for index in 0..count {
            let mut segment = [0; SEGMENT_SIZE];
            let at = table.checked_add(index * entry_size);
            let at = at.ok_or_else(|| invalid("its program headers are not in the file"))?;
            file.read_exact_at(&mut segment, at)?;
            let [offset, _, gpa, in_file, size] =
                [8, 16, 24, 32, 40].map(|at| number(&segment, at, 8));
            match u32::try_from(number(&segment, 0, 4)) {
                Ok(PT_LOAD) if size > 0 => {
                    let end = gpa.checked_add(size);
                    let end = end.ok_or_else(|| invalid("a segment has no end"))?;
                    if in_file > size || offset.checked_add(in_file).is_none() {
                        return Err(invalid("a segment is longer in the file than in memory"));
                    }
                    let gpa = gpa..end;
                    segments.push(Segment {
                        gpa,
                        offset,
                        in_file,
                    });
                }
                Ok(PT_NOTE) => {
                    if in_file > MAX_NOTE_BYTES {
                        return Err(invalid("its notes are too large"));
                    }
                    let length = usize::try_from(in_file).map_err(io::Error::other)?;
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, offset)?;
                    notes.extend(parse_notes(&bytes));
                }
                _ => (),
            }
        }
        segments.sort_by_key(|segment| segment.gpa.start);
        let ranges = merge(&segments)?;
        Ok(Self {
            file,
            segments,
            ranges,
            notes,
        })
    }

    /// Returns its notes, in their order.
    #[must_use]
    pub fn notes(&self) -> &[CoreNote] {
        &self.notes
    }
}

impl GuestMemory for CoreFile {
    fn read(&self, gpa: u64, into: &mut [u8]) -> io::Result<()> {
        OutsideRam::check(&self.ranges, gpa, into.len())?;
        let after = self
            .segments
            .partition_point(|segment| segment.gpa.start <= gpa);
        let mut next = gpa;
        let mut rest = into;
        for segment in self.segments.iter().skip(after.saturating_sub(1)) {
            if rest.is_empty() {
                break;
            }
            let here = usize::try_from(segment.gpa.end - next).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(here.min(rest.len()));
            let skipped = next - segment.gpa.start;
            let held = segment.in_file.saturating_sub(skipped);
            let held = usize::try_from(held).unwrap_or(usize::MAX).min(now.len());
            let (file, zeros) = now.split_at_mut(held);
            if !file.is_empty() {
                self.file.read_exact_at(file, segment.offset + skipped)?;
            }
            zeros.fill(0);
            next = segment.gpa.end;
            rest = later;
        }
        Ok(())
    }

    fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

/// Returns a little-endian number of up to 8 bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes.iter().skip(at).take(length);
    bytes
        .rev()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn parse_notes(bytes: &[u8]) -> Vec<CoreNote> {
    let mut notes = Vec::new();
    let mut rest = bytes;
    while let Some((note, after)) = parse_note(rest) {
        notes.push(note);
        rest = after;
    }
    notes
}

/// Returns the first note, and what follows it.
fn parse_note(bytes: &[u8]) -> Option<(CoreNote, &[u8])> {
    let header = bytes.get(..12)?;
    let [name_size, size] = [0, 4].map(|at| usize::try_from(number(header, at, 4)));
    let name_end = name_size.ok()?.checked_add(12)?;
    let name = bytes.get(12..name_end)?;
    let start = name_end.checked_next_multiple_of(4)?;
    let end = start.checked_add(size.ok()?)?;
    let note = CoreNote {
        name: name.strip_suffix(b"\0").unwrap_or(name).to_vec(),
        kind: u32::try_from(number(header, 8, 4)).ok()?,
        content: bytes.get(start..end)?.to_vec(),
    };
    let next = end.checked_next_multiple_of(4)?;
    Some((note, bytes.get(next..).unwrap_or_default()))
}

/// Returns what RAM the segments are.
fn merge(segments: &[Segment]) -> io::Result<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for Segment { gpa, .. } in segments {
        if gpa.start % PAGE_SIZE != 0 || gpa.end % PAGE_SIZE != 0 {
            return Err(invalid("a segment is not page-aligned"));
        }
        match ranges.last_mut() {
            Some(last) if last.end > gpa.start => return Err(invalid("its segments overlap")),
            Some(last) if last.end == gpa.start => last.end = gpa.end,
            _ => ranges.push(gpa.clone()),
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Returns a core with these segments (guest-physical address, bytes in the file, size).
    fn core(segments: &[(u64, &[u8], u64)]) -> File {
        let note = b"\x05\0\0\0\x03\0\0\0\x07\0\0\0QEMU\0\0\0\0abc\0";
        let mut headers = vec![0; HEADER_SIZE];
        headers[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (headers[16], headers[18], headers[32], headers[54]) = (4, 62, 64, 56);
        headers[56] = u8::try_from(segments.len() + 1).expect("there are few");
        let mut content = note.to_vec();
        let mut offset = 64 + 56 * (segments.len() as u64 + 1);
        let mut segment = |kind: u32, gpa: u64, bytes: &[u8], size: u64| {
            headers.extend([kind, 0].map(u32::to_le_bytes).concat());
            let numbers = [offset, 0, gpa, bytes.len() as u64, size, 0];
            headers.extend(numbers.map(u64::to_le_bytes).concat());
            offset += bytes.len() as u64;
        };
        segment(PT_NOTE, 0, note, 0);
        for (gpa, bytes, size) in segments {
            segment(PT_LOAD, *gpa, bytes, *size);
            content.extend(*bytes);
        }
        let mut file = tempfile().expect("a file can be created");
        file.write_all(&[headers, content].concat())
            .expect("it can be written");
        file
    }

    /// Creates a file without a name.
    fn tempfile() -> io::Result<File> {
        let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        Ok(rustix::fs::open(std::env::temp_dir(), flags, mode)?.into())
    }

    #[test]
    fn memory_and_notes_are_read() {
        let (low, high) = ([1; 0x1000], [2; 0x800]);
        let file = core(&[
            (0x3000, &low, 0x1000),
            (0x2000, &high, 0x1000),
            (0x8000, &[], 0x2000),
        ]);
        let core = CoreFile::open(file).expect("it is a core");
        assert_eq!(core.ranges(), [0x2000..0x4000, 0x8000..0xa000]);
        let mut bytes = [9; 0x1801];
        core.read(0x27ff, &mut bytes).expect("it is RAM");
        assert_eq!(bytes[0], 2);
        assert!(bytes[1..0x801].iter().all(|byte| *byte == 0));
        assert!(bytes[0x801..0x1801].iter().all(|byte| *byte == 1));
        assert!(core
            .read(0x3fff, &mut bytes[..2])
            .is_err_and(|error| OutsideRam::is(&error)));
        let note = CoreNote {
            name: b"QEMU".to_vec(),
            kind: 7,
            content: b"abc".to_vec(),
        };
        assert_eq!(core.notes(), [note]);
    }

    #[test]
    fn other_files_are_refused() {
        for segments in [
            [(0x1000, &[0; 16][..], 0x2000), (0x2000, &[], 0x1000)],
            [(0x1000, &[], 0x800), (0x2000, &[], 0x1000)],
            [(0x1000, &[], u64::MAX), (0x2000, &[], 0x1000)],
        ] {
            assert!(CoreFile::open(core(&segments)).is_err());
        }
        let file = File::open("/proc/self/exe").expect("the test is a file");
        assert!(CoreFile::open(file).is_err());
    }
}
