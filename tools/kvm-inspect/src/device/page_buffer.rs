// SPDX-License-Identifier: GPL-2.0

//! Memory that the device copies pages into.

use std::fmt;

use rustix::io::Errno;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{Error, PAGE_BYTES};

/// Whole pages at page-aligned addresses, as the device wants them.
pub struct PageBuffer(Vec<Page>);

#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

impl PageBuffer {
    /// Creates a buffer of some pages, with zeros.
    ///
    /// # Errors
    ///
    /// `ENOMEM`
    pub fn new(pages: usize) -> Result<Self, Error> {
        let memory = Page::new_vec_zeroed(pages);
        memory.map(Self).map_err(|_| Error::of_call(Errno::NOMEM))
    }

    /// Returns how many pages there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.0.len()
    }

    /// Changes how many pages there are. New ones are zeros.
    pub fn resize(&mut self, pages: usize) {
        self.0.resize(pages, Page([0; PAGE_BYTES]));
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }

    /// Returns the bytes, to be written.
    #[must_use]
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }
}

impl fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not a guest's memory.
        write!(f, "PageBuffer({} pages)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_and_zeros() {
        let mut buffer = PageBuffer::new(3).expect("there is memory");
        assert_eq!(buffer.as_bytes().as_ptr().addr() % PAGE_BYTES, 0);
        assert_eq!(buffer.as_bytes(), [0; 3 * PAGE_BYTES]);
        buffer.as_mut_bytes().fill(1);
        buffer.resize(4);
        assert_eq!(buffer.pages(), 4);
        assert_eq!(buffer.as_bytes()[3 * PAGE_BYTES..], [0; PAGE_BYTES]);
    }
}
