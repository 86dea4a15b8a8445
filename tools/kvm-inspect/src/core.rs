// SPDX-License-Identifier: GPL-2.0

//! Files of a guest's memory.
//!
//! [`elf`], [`lime`] and [`raw`] say where in a file the memory stands and what stands around it:
//! each makes a [`Layout`], without any input or output. A [`Writer`] then takes pages, and
//! puts them where the layout has them, in a file or in a pipe.
//!
//! A core file is made in these steps:
//! 1. [`Ranges::new`] takes the RAM of the guest, and [`elf::layout`] makes the layout, with the
//!    notes that are known by then.
//! 2. [`Writer::begin`] takes the layout and an [`Output`](crate::output::Output).
//! 3. [`Writer::write`] and [`Writer::absent`] take pages. In a file, later ones replace earlier.
//! 4. [`Writer::replace_headers`] takes the layout with the last notes, unless it is a pipe.
//! 5. [`Writer::finish`] returns the output, which is digested and gets its name, and the kinds of
//!    all pages, of which a [`Manifest`](crate::manifest::Manifest) is made.

#![allow(
    clippy::doc_markdown,
    reason = "LeechCore and LiME are names of programs"
)]

pub mod elf;
pub mod lime;
mod notes;
mod pages;
mod ranges;
pub mod raw;
mod writer;

pub use self::{
    notes::{CpuNote, NoteError, Notes},
    pages::{NotRam, PageKind, PageMap, Run},
    ranges::{Range, RangeError, Ranges},
    writer::{Copied, WriteError, Writer, Written},
};

/// The size of a page in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// What a file of a guest's memory looks like.
///
/// # Invariants
///
/// Extents are in ascending order of their addresses and of their offsets. Headers are in ascending
/// order of their offsets. Neither of them overlap, and all end at `size` or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    ranges: Ranges,
    headers: Vec<Header>,
    extents: Vec<Extent>,
    size: u64,
}

/// What stands in a file besides memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    offset: u64,
    bytes: Vec<u8>,
}

/// A range of RAM in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its guest-physical addresses.
    pub range: Range,
    /// Where it begins in the file.
    pub offset: u64,
}

impl Layout {
    /// Returns the guest's RAM.
    #[must_use]
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Returns where the RAM is in the file, in ascending order.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Returns the size of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns where in the file an address is.
    #[must_use]
    pub fn offset_of(&self, gpa: u64) -> Option<u64> {
        let after = self
            .extents
            .partition_point(|extent| extent.range.gpa <= gpa);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let inside = gpa - extent.range.gpa;
        (inside < extent.range.size).then(|| extent.offset + inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_an_offset_if_it_is_ram() {
        let ranges = [Range::new(0x1000, 0x1000), Range::new(0x5000, 0x2000)];
        let ranges = Ranges::new(ranges).expect("they are ranges");
        let layout = lime::layout(&ranges);
        let second = 32 + 0x1000 + 32;
        assert_eq!(layout.offset_of(0x1000), Some(32));
        assert_eq!(layout.offset_of(0x1fff), Some(32 + 0xfff));
        assert_eq!(layout.offset_of(0x6001), Some(second + 0x1001));
        for gpa in [0, 0xfff, 0x2000, 0x4fff, 0x7000, u64::MAX] {
            assert_eq!(layout.offset_of(gpa), None, "{gpa:#x}");
        }
    }
}
