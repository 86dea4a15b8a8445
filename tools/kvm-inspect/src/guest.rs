// SPDX-License-Identifier: GPL-2.0

//! A guest's physical memory.
//!
//! What reads a guest asks a [`GuestMemory`] for it, and does not know whether that is a running
//! guest or a file.

mod core_file;
mod raw_file;
mod sparse;

use std::{
    error::Error,
    fmt::{self, Display},
    io,
    ops::Range,
};

pub use self::{
    core_file::{CoreFile, CoreNote},
    raw_file::RawFile,
    sparse::SparseMemory,
};

/// The size of a page, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// A way to read guest-physical memory.
///
/// A guest may change its memory between two reads, unless it is paused or this is a copy.
pub trait GuestMemory {
    /// Fills a buffer with the bytes that begin at a guest-physical address. Pages inside of RAM
    /// that the host does not hold read as zeros.
    ///
    /// # Errors
    ///
    /// [`OutsideRam`] inside of the [`io::Error`], if not all bytes are in RAM; see
    /// [`OutsideRam::is`]. Any other error is the host's.
    fn read(&self, gpa: u64, into: &mut [u8]) -> io::Result<()>;

    /// Returns the guest-physical addresses that are RAM: page-aligned, ascending, and apart.
    fn ranges(&self) -> &[Range<u64>];
}

impl<M: GuestMemory + ?Sized> GuestMemory for &M {
    fn read(&self, gpa: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read(gpa, into)
    }

    fn ranges(&self) -> &[Range<u64>] {
        (**self).ranges()
    }
}

/// The error of a read that is not in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideRam {
    /// Where the read begins.
    pub gpa: u64,
    /// How many bytes it has.
    pub length: usize,
}

impl OutsideRam {
    /// Returns whether an error of [`GuestMemory::read`] says that the address is not in RAM.
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        let inner = error.get_ref();
        inner
            .and_then(|inner| inner.downcast_ref::<Self>())
            .is_some()
    }

    /// Returns the range of RAM that holds all these bytes.
    ///
    /// # Errors
    ///
    /// Itself: there is none.
    pub fn check(ranges: &[Range<u64>], gpa: u64, length: usize) -> Result<&Range<u64>, Self> {
        let outside = Self { gpa, length };
        let after = ranges.partition_point(|range| range.start <= gpa);
        let range = after.checked_sub(1).and_then(|index| ranges.get(index));
        let range = range.ok_or(outside)?;
        let end = u64::try_from(length).ok().and_then(|n| gpa.checked_add(n));
        if end.is_some_and(|end| gpa < range.end && end <= range.end) {
            Ok(range)
        } else {
            Err(outside)
        }
    }
}

impl Display for OutsideRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpa, length } = self;
        write!(
            f,
            "the {length} bytes at the guest-physical address {gpa:#x} are not all RAM"
        )
    }
}

impl Error for OutsideRam {}

impl From<OutsideRam> for io::Error {
    fn from(outside: OutsideRam) -> Self {
        Self::new(io::ErrorKind::InvalidInput, outside)
    }
}

/// Returns an error of the kind that says that a file is not what it should be.
fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_must_be_whole_in_one_range() {
        let ranges = [0x1000..0x3000, 0x5000..0x6000];
        for (gpa, length) in [(0x1000, 0x2000), (0x2fff, 1), (0x5000, 0), (0x5000, 0x1000)] {
            assert!(
                OutsideRam::check(&ranges, gpa, length).is_ok(),
                "{gpa:#x} {length:#x}"
            );
        }
        let outside = [
            (0, 1),
            (0xfff, 2),
            (0x2fff, 2),
            (0x3000, 0),
            (0x6000, 1),
            (u64::MAX, 2),
        ];
        for (gpa, length) in outside {
            let error = io::Error::from(OutsideRam::check(&ranges, gpa, length).unwrap_err());
            assert!(OutsideRam::is(&error), "{gpa:#x} {length:#x}");
        }
        assert!(!OutsideRam::is(&invalid("a file")));
    }
}
