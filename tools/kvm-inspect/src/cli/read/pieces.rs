// SPDX-License-Identifier: GPL-2.0

//! Guest-physical memory in pieces, each of which is there or is not.

use std::{collections::VecDeque, vec};

use kvm_inspect_pure::{range::Range, uapi};

use super::super::failure::Failure;
use crate::device::{
    CopyInto, CopyTerms, Error, Extents, PageBuffer, PageKind, Session, PAGE_BYTES,
};

/// How many pages are copied at once.
const PAGES_AT_ONCE: u64 = 256;

/// The size of a page, in bytes.
const PAGE: u64 = 4096;

/// Neighbouring bytes of pages of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The address of the first, as it was asked for.
    pub(super) address: u64,
    /// The guest-physical address of the first, if it has one.
    pub(super) gpa: Option<u64>,
    /// How many there are.
    pub(super) size: u64,
    /// What the pages are; [`None`]: the guest has nothing there.
    pub(super) kind: Option<PageKind>,
    /// The bytes, if they are present.
    pub(super) bytes: Option<Vec<u8>>,
}

/// The pieces of a range, in ascending order and without gaps. After an error there is no more.
pub(super) struct Pieces<'a> {
    session: &'a Session,
    range: Range,
    extents: Extents<'a>,
    /// What is left of an extent that is present.
    present: uapi::Pages,
    buffer: PageBuffer,
    ready: VecDeque<Piece>,
    has_failed: bool,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(session: &'a Session, range: Range) -> Result<Self, Failure> {
        let first = range.first - range.first % PAGE;
        // No overflow: the range ends in a memslot, which is not the whole 64-bit space.
        let pages = (range.last / PAGE)
            .saturating_sub(first / PAGE)
            .saturating_add(1);
        Ok(Self {
            session,
            range,
            extents: session.present(first, pages, 0),
            present: uapi::Pages { gpa: 0, pages: 0 },
            buffer: PageBuffer::new(0)?,
            ready: VecDeque::new(),
            has_failed: false,
        })
    }

    /// Copies some pages that were present. They may not be any more.
    fn copy(&mut self) -> Result<(), Error> {
        let pages = self.present.pages.min(PAGES_AT_ONCE);
        let gpa = self.present.gpa;
        let count = usize::try_from(pages).unwrap_or(0);
        self.buffer.resize(count);
        let mut kinds = vec![0; count];
        let into = CopyInto {
            pages: Some(&mut self.buffer),
            kinds: Some(&mut kinds),
            digests: None,
        };
        let ranges = [uapi::Pages { gpa, pages }];
        self.session.copy(&ranges, into, CopyTerms::default())?;
        self.ready
            .extend(pieces(self.range, gpa, &kinds, self.buffer.as_bytes()));
        self.present.gpa = gpa.saturating_add(pages.saturating_mul(PAGE));
        self.present.pages -= pages;
        Ok(())
    }

    fn try_next(&mut self) -> Result<Option<Piece>, Error> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.present.pages > 0 {
                self.copy()?;
                continue;
            }
            let Some(extent) = self.extents.next().transpose()? else {
                return Ok(None);
            };
            let (gpa, pages) = (extent.gpa, extent.pages);
            match PageKind::new(extent.kind) {
                PageKind::Present => self.present = uapi::Pages { gpa, pages },
                kind => return Ok(absent(self.range, gpa, pages, kind)),
            }
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let next = self.try_next();
        self.has_failed = next.is_err();
        next.transpose()
    }
}

/// Returns what pages that are not there have in common with a range.
fn absent(range: Range, gpa: u64, pages: u64, kind: PageKind) -> Option<Piece> {
    let last = gpa.saturating_add(pages.saturating_mul(PAGE).saturating_sub(1));
    let part = range.intersect(gpa, last)?;
    Some(Piece {
        address: part.first,
        gpa: Some(part.first),
        size: part.size(),
        kind: Some(kind),
        bytes: None,
    })
}

/// Returns what copied pages have in common with a range.
fn pieces(range: Range, gpa: u64, kinds: &[u8], bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut gpa, mut bytes) = (gpa, bytes);
    for run in kinds.chunk_by(|left, right| left == right) {
        let size = run.len().saturating_mul(PAGE_BYTES).min(bytes.len());
        let (of_run, rest) = bytes.split_at(size);
        bytes = rest;
        let pages = u64::try_from(run.len()).unwrap_or(0);
        let kind = PageKind::new(run.first().copied().unwrap_or(0).into());
        if let Some(mut piece) = absent(range, gpa, pages, kind) {
            if kind == PageKind::Present {
                let skipped =
                    usize::try_from(piece.address.saturating_sub(gpa)).unwrap_or(usize::MAX);
                let count = usize::try_from(piece.size).unwrap_or(usize::MAX);
                let of_piece = of_run.iter().skip(skipped).take(count);
                piece.bytes = Some(of_piece.copied().collect());
            }
            pieces.push(piece);
        }
        gpa = gpa.saturating_add(pages.saturating_mul(PAGE));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_what_is_in_the_range() {
        let mut bytes = vec![1; 3 * PAGE_BYTES];
        bytes[PAGE_BYTES..].fill(2);
        let range = Range {
            first: 0x1ffe,
            last: 0x3001,
        };
        let swapped = 3;
        let pieces = pieces(range, 0x1000, &[0, 0, swapped], &bytes);
        assert_eq!(pieces.len(), 2);
        assert_eq!((pieces[0].address, pieces[0].size), (0x1ffe, 4098));
        let of_first = pieces[0].bytes.as_deref().expect("present");
        assert_eq!(of_first.len(), 4098);
        assert_eq!(of_first[..3], [1, 1, 2]);
        let second = Piece {
            address: 0x3000,
            gpa: Some(0x3000),
            size: 2,
            kind: Some(PageKind::Swapped),
            bytes: None,
        };
        assert_eq!(pieces[1], second);
    }

    #[test]
    fn pages_out_of_the_range_are_no_piece() {
        let range = Range {
            first: 0x1000,
            last: 0x1fff,
        };
        assert_eq!(absent(range, 0x2000, 1, PageKind::Swapped), None);
        assert!(pieces(range, 0x2000, &[0], &[0; PAGE_BYTES]).is_empty());
    }
}
