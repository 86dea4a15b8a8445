// SPDX-License-Identifier: GPL-2.0

//! Guest memory that is made by hand.

use std::{collections::BTreeMap, io, ops::Range};

use super::{GuestMemory, OutsideRam, PAGE_SIZE};

/// Guest memory of which only what was written is held. Everything else is zero.
#[derive(Clone, Debug, Default)]
pub struct SparseMemory {
    ranges: Vec<Range<u64>>,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl SparseMemory {
    /// Creates memory with these ranges of RAM, which are page-aligned, ascending, and apart.
    #[must_use]
    pub fn new(ranges: &[Range<u64>]) -> Self {
        Self {
            ranges: ranges.to_vec(),
            pages: BTreeMap::new(),
        }
    }

    /// Creates memory whose RAM begins at address 0 and has a multiple of 4096 bytes.
    #[must_use]
    pub fn with_size(size: u64) -> Self {
        Self::new(&[Range {
            start: 0,
            end: size,
        }])
    }

    /// Writes bytes to a guest-physical address.
    ///
    /// # Errors
    ///
    /// They are not all in RAM.
    pub fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), OutsideRam> {
        OutsideRam::check(&self.ranges, gpa, bytes.len())?;
        let mut bytes = bytes.iter();
        for (page, part) in pages(gpa, bytes.len()) {
            let held = self.pages.entry(page);
            let held = held.or_insert_with(|| vec![0; PAGE_BYTES].into_boxed_slice());
            for (to, from) in held[part].iter_mut().zip(&mut bytes) {
                *to = *from;
            }
        }
        Ok(())
    }
}

impl GuestMemory for SparseMemory {
    fn read(&self, gpa: u64, into: &mut [u8]) -> io::Result<()> {
        OutsideRam::check(&self.ranges, gpa, into.len())?;
        let mut rest = into;
        for (page, part) in pages(gpa, rest.len()) {
            let (now, later) = rest.split_at_mut(part.len());
            match self.pages.get(&page) {
                Some(held) => now.copy_from_slice(&held[part]),
                None => now.fill(0),
            }
            rest = later;
        }
        Ok(())
    }

    fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

const PAGE_BYTES: usize = 4096;

/// Returns the pages that bytes lie in, and what part of each they are. The bytes do not reach
/// the end of the address space.
fn pages(gpa: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut next = gpa;
    let mut left = length;
    std::iter::from_fn(move || {
        let page = next - next % PAGE_SIZE;
        let offset = usize::try_from(next % PAGE_SIZE).ok()?;
        let now = left.min(PAGE_BYTES - offset);
        if now == 0 {
            return None;
        }
        next = page.saturating_add(PAGE_SIZE);
        left -= now;
        Some((page, offset..offset + now))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_the_rest_is_zero() {
        let mut memory = SparseMemory::new(&[0x1000..0x4000, 0x8000..0x9000]);
        let bytes: Vec<u8> = (0..0x1100_u32).map(|n| n.to_le_bytes()[0] | 1).collect();
        memory.write(0x1ff0, &bytes).expect("it is RAM");
        let mut all = vec![0xff; 0x3000];
        memory.read(0x1000, &mut all).expect("it is RAM");
        assert_eq!(all[0xff0..0x20f0], bytes);
        assert!(all[..0xff0]
            .iter()
            .chain(&all[0x20f0..])
            .all(|byte| *byte == 0));
        assert!(memory.write(0x3fff, &[1, 2]).is_err());
        assert!(memory.read(0x0fff, &mut [0]).is_err());
    }
}
