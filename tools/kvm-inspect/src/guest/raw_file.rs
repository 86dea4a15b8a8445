// SPDX-License-Identifier: GPL-2.0

//! Guest memory in a file without a header.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use super::{invalid, GuestMemory, OutsideRam, PAGE_SIZE};

/// A file that holds ranges of RAM one after another, such as the memory backend of a VMM.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    ranges: Vec<Range<u64>>,
    /// Where each range begins in the file.
    offsets: Vec<u64>,
}

impl RawFile {
    /// Creates the memory from a file, and the guest-physical addresses of what it holds.
    ///
    /// # Errors
    ///
    /// The ranges are not page-aligned, ascending, and apart, or the file is shorter.
    pub fn new(file: File, ranges: &[Range<u64>]) -> io::Result<Self> {
        let mut offsets = Vec::new();
        let (mut offset, mut end) = (0_u64, 0);
        for range in ranges {
            let aligned = range.start % PAGE_SIZE == 0 && range.end % PAGE_SIZE == 0;
            if !aligned || range.is_empty() || range.start < end {
                return Err(invalid(
                    "ranges of RAM must be page-aligned, ascending, and apart",
                ));
            }
            offsets.push(offset);
            let next = offset.checked_add(range.end - range.start);
            offset = next.ok_or_else(|| invalid("the ranges of RAM are too long"))?;
            end = range.end;
        }
        if file.metadata()?.len() < offset {
            return Err(invalid("the file is shorter than the ranges of RAM"));
        }
        Ok(Self {
            file,
            ranges: ranges.to_vec(),
            offsets,
        })
    }
}

impl GuestMemory for RawFile {
    fn read(&self, gpa: u64, into: &mut [u8]) -> io::Result<()> {
        let start = OutsideRam::check(&self.ranges, gpa, into.len())?.start;
        let index = self.ranges.partition_point(|range| range.start < start);
        let offset = self.offsets.get(index).copied().unwrap_or_default();
        self.file.read_exact_at(into, offset + (gpa - start))
    }

    fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{open, Mode, OFlags};

    use super::*;

    /// Returns a file without a name, of which each page begins with its number.
    fn pages(count: u8) -> File {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let file = open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR);
        let mut file: File = file.expect("a file can be created").into();
        for number in 0..count {
            let mut page = [0; 4096];
            page[0] = number;
            file.write_all(&page).expect("it can be written");
        }
        file
    }

    #[test]
    fn ranges_follow_each_other_in_the_file() {
        let memory = RawFile::new(pages(4), &[0x1000..0x3000, 0x10_0000..0x10_2000]);
        let memory = memory.expect("the file is long enough");
        for (gpa, number) in [(0x1000, 0), (0x2000, 1), (0x10_0000, 2), (0x10_1000, 3)] {
            let mut byte = [9];
            memory.read(gpa, &mut byte).expect("it is RAM");
            assert_eq!(byte, [number], "{gpa:#x}");
        }
        assert!(memory
            .read(0x2fff, &mut [0; 2])
            .is_err_and(|error| OutsideRam::is(&error)));
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused() {
        for ranges in [
            [0..0x1000, 0x2000..0x4000],
            [0..0x1000, 0x1000..0x1800],
            [0x1000..0x2000, 0..0x1000],
            [0..0x1000, 0x2000..0x2000],
        ] {
            assert!(RawFile::new(pages(2), &ranges).is_err(), "{ranges:x?}");
        }
    }
}
