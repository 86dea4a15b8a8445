// SPDX-License-Identifier: GPL-2.0

//! Puts pages where a layout has them.

use std::{
    error::Error,
    fmt::{self, Display},
};

use super::{Layout, PageKind, PageMap, Range, PAGE_SIZE};
use crate::output::{Output, OutputError};

const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);

static ZERO_PAGE: [u8; PAGE] = [0; PAGE];

/// When pages were copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// At the instant of the file, or it does not matter.
    InTime,
    /// At another instant.
    Late,
}

/// Writes a file of a guest's memory.
///
/// In a file, pages may come in any order and several times; the last word counts, and pages of
/// zeros take no space. In a pipe, they must come in ascending order. Pages that never come read as
/// zeros, and are [`PageKind::Unreadable`].
pub struct Writer {
    output: Output,
    layout: Layout,
    pages: PageMap,
    /// How many headers were written.
    headers_written: usize,
}

/// A file that is whole, but for its name.
pub struct Written {
    /// Where it was written to, to be digested and committed.
    pub output: Output,
    /// Where in it memory is.
    pub layout: Layout,
    /// What became of each page.
    pub pages: PageMap,
}

impl Writer {
    /// Begins a file. A pipe gets the headers of the layout now or with the pages, and they are its
    /// last ones.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or there is not enough memory to keep account of all pages.
    pub fn begin(output: Output, layout: Layout) -> Result<Self, WriteError> {
        let pages = PageMap::new(&layout.ranges).map_err(|_| WriteError::TooManyPages)?;
        let mut writer = Self {
            output,
            layout,
            pages,
            headers_written: 0,
        };
        if writer.output.is_patchable() {
            // First: a size that cannot be is better known before hours of copying.
            writer.output.set_size(writer.layout.size)?;
            writer.write_headers(writer.layout.size)?;
        } else {
            writer.write_headers(1)?;
        }
        Ok(writer)
    }

    /// Returns the layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns what became of each page up to now.
    #[must_use]
    pub fn pages(&self) -> &PageMap {
        &self.pages
    }

    /// Returns whether pages and headers can be written a second time.
    #[must_use]
    pub fn is_patchable(&self) -> bool {
        self.output.is_patchable()
    }

    /// Writes neighbouring pages, the first of them at a guest-physical address.
    ///
    /// # Errors
    ///
    /// They are not whole pages of one range of RAM; a pipe has gone beyond them; the disk is full.
    pub fn write(&mut self, gpa: u64, bytes: &[u8], copied: Copied) -> Result<(), WriteError> {
        let range = Range::new(gpa, bytes.len() as u64);
        let offset = self.offset_of(range)?;
        let kind = match copied {
            Copied::InTime => PageKind::Present,
            Copied::Late => PageKind::Late,
        };
        if self.output.is_patchable() {
            self.write_sparsely(range, offset, bytes)?;
        } else {
            self.write_headers(offset)?;
            self.output.write_at(offset, bytes)?;
        }
        // Not before, so that an error leaves no page that is said to be there, and is not.
        self.kinds_mut(range)?.fill(kind);
        Ok(())
    }

    /// Says that neighbouring pages are not to be had, and why. They read as zeros, also if they
    /// were written before.
    ///
    /// # Errors
    ///
    /// As [`Writer::write`].
    pub fn absent(&mut self, range: Range, kind: PageKind) -> Result<(), WriteError> {
        let offset = self.offset_of(range)?;
        if kind.is_in_file() {
            return Err(WriteError::NotAbsent(kind));
        }
        if self.output.is_patchable() {
            if self.kinds_mut(range)?.iter().any(|kind| kind.is_in_file()) {
                self.output.clear_at(offset, range.size)?;
            }
        } else {
            self.write_headers(offset)?;
            self.output.clear_at(offset, range.size)?;
        }
        self.kinds_mut(range)?.fill(kind);
        Ok(())
    }

    /// Says of pages that are in the file that they are of another instant, or not. Pages that are
    /// not there stay what they are.
    ///
    /// # Errors
    ///
    /// They are not whole pages of one range of RAM.
    pub fn mark(&mut self, range: Range, copied: Copied) -> Result<(), WriteError> {
        let new = match copied {
            Copied::InTime => PageKind::Present,
            Copied::Late => PageKind::Late,
        };
        let kinds = self.kinds_mut(range)?.iter_mut();
        kinds
            .filter(|kind| kind.is_in_file())
            .for_each(|kind| *kind = new);
        Ok(())
    }

    /// Replaces the headers, for example by those with the registers of the last pause.
    ///
    /// # Errors
    ///
    /// The memory has another place in that layout; the output is a pipe.
    pub fn replace_headers(&mut self, layout: Layout) -> Result<(), WriteError> {
        if layout.extents != self.layout.extents || layout.size != self.layout.size {
            return Err(WriteError::OtherLayout);
        }
        if !self.output.is_patchable() {
            return Err(OutputError::OutOfOrder.into());
        }
        self.layout = layout;
        self.headers_written = 0;
        self.write_headers(self.layout.size)
    }

    /// Ends the file. What is left of a pipe becomes zeros.
    ///
    /// # Errors
    ///
    /// The disk is full, or the reader of a pipe has gone.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        self.write_headers(self.layout.size)?;
        self.output.set_size(self.layout.size)?;
        Ok(Written {
            output: self.output,
            layout: self.layout,
            pages: self.pages,
        })
    }

    /// Returns where pages are in the file.
    fn offset_of(&mut self, range: Range) -> Result<u64, WriteError> {
        self.kinds_mut(range)?;
        let offset = self.layout.offset_of(range.gpa);
        offset.ok_or(WriteError::NotRam(range))
    }

    fn kinds_mut(&mut self, range: Range) -> Result<&mut [PageKind], WriteError> {
        let kinds = self.pages.kinds_mut(range);
        kinds.map_err(|_| WriteError::NotRam(range))
    }

    /// Writes the headers before an offset that were not written yet.
    fn write_headers(&mut self, offset: u64) -> Result<(), WriteError> {
        while let Some(header) = self.layout.headers.get(self.headers_written) {
            if header.offset >= offset {
                break;
            }
            self.output.write_at(header.offset, &header.bytes)?;
            self.headers_written += 1;
        }
        Ok(())
    }

    /// Writes runs of pages with content at once, and makes holes of pages of zeros.
    fn write_sparsely(
        &mut self,
        range: Range,
        mut offset: u64,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let kinds = self.pages.kinds_mut(range);
        let kinds = kinds.map_err(|_| WriteError::NotRam(range))?;
        let are_zeros = bytes.chunks_exact(PAGE).map(|page| page == ZERO_PAGE);
        let pages: Vec<(bool, PageKind)> = are_zeros.zip(kinds.iter().copied()).collect();
        let mut bytes = bytes;
        for run in pages.chunk_by(|(one, _), (other, _)| one == other) {
            let (content, rest) = bytes.split_at(run.len() * PAGE);
            bytes = rest;
            let is_zeros = run.iter().all(|(is_zero, _)| *is_zero);
            if !is_zeros {
                self.output.write_at(offset, content)?;
            } else if run.iter().any(|(_, kind)| kind.is_in_file()) {
                self.output.clear_at(offset, content.len() as u64)?;
            }
            offset += content.len() as u64;
        }
        Ok(())
    }
}

/// Why pages were not written.
#[derive(Debug)]
pub enum WriteError {
    /// They are not whole pages of one range of RAM.
    NotRam(Range),
    /// Pages of this kind are not absent.
    NotAbsent(PageKind),
    /// The memory has another place in the new layout.
    OtherLayout,
    /// There is not enough memory to keep account of all pages.
    TooManyPages,
    /// Something is wrong with the output.
    Output(OutputError),
}

impl Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRam(Range { gpa, size }) => write!(
                f,
                "{size:#x} bytes at {gpa:#x} are not whole pages of one range of RAM; \
                 report this as a bug"
            ),
            Self::NotAbsent(kind) => {
                write!(
                    f,
                    "pages that are {kind:?} are not absent; report this as a bug"
                )
            }
            Self::OtherLayout => write!(
                f,
                "the notes have outgrown their place in the file; leave more room for them"
            ),
            Self::TooManyPages => {
                write!(
                    f,
                    "not enough memory to keep account of all pages; free some"
                )
            }
            Self::Output(error) => error.fmt(f),
        }
    }
}

impl Error for WriteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // It is formatted as its error, so it has the source of that, too.
            Self::Output(error) => error.source(),
            _ => None,
        }
    }
}

impl From<OutputError> for WriteError {
    fn from(error: OutputError) -> Self {
        Self::Output(error)
    }
}
