// SPDX-License-Identifier: GPL-2.0

//! Guest-virtual memory in pieces.

use std::vec;

use kvm_inspect_pure::range::Range;

use super::{
    pieces::{Piece, Pieces},
    Failure,
};
use crate::{
    device::Session,
    guest::GuestMemory,
    live::LiveMemory,
    paging::{AddressSpace, Fault, Run, RunLimit, VirtualMemory},
};

/// The most bytes of one hole. With five levels of page tables there may be more, but not each
/// program that reads JSON knows bigger numbers exactly.
const MAX_HOLE: u64 = 1 << 52;

/// The pieces of a range of guest-virtual addresses, in ascending order and without gaps.
pub(super) struct MappedPieces<'a> {
    session: &'a Session,
    parts: vec::IntoIter<Part>,
    present: Option<(Pieces<'a>, u64)>,
}

/// A part of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The guest has memory there.
    Mapped(Run),
    /// It has none, from this address on, for so many bytes.
    Hole { gva: u64, length: u64 },
}

impl<'a> MappedPieces<'a> {
    /// Walks the page tables for a range.
    pub(super) fn new(
        session: &'a Session,
        space: AddressSpace,
        range: Range,
    ) -> Result<Self, Failure> {
        let memory = LiveMemory::new(session)?;
        let mapped = VirtualMemory::new(&memory, space);
        let runs = mapped.runs(range.first..=range.last, RunLimit::default());
        let runs = runs.collect::<Result<Vec<_>, _>>().map_err(|fault| {
            let to_do = match fault {
                Fault::NotCanonical { .. } => "give one that the guest can have",
                _ => "try again, or give less",
            };
            Failure::Failed(format!("{fault}; {to_do}"))
        })?;
        let in_ram = runs.iter().flat_map(|run| run.in_ram(memory.ranges()));
        Ok(Self {
            session,
            parts: parts(range, in_ram).into_iter(),
            present: None,
        })
    }

    fn try_next(&mut self) -> Result<Option<Piece>, Failure> {
        loop {
            if let Some((pieces, distance)) = &mut self.present {
                if let Some(piece) = pieces.next().transpose()? {
                    let gva = piece.address.wrapping_add(*distance);
                    return Ok(Some(Piece {
                        address: gva,
                        ..piece
                    }));
                }
            }
            self.present = None;
            match self.parts.next() {
                None => return Ok(None),
                Some(Part::Hole { gva, length }) => {
                    return Ok(Some(Piece {
                        address: gva,
                        gpa: None,
                        size: length,
                        kind: None,
                        bytes: None,
                    }))
                }
                Some(Part::Mapped(run)) => {
                    let range = Range {
                        first: run.gpa,
                        last: run.gpa.saturating_add(run.length.saturating_sub(1)),
                    };
                    let pieces = Pieces::new(self.session, range)?;
                    self.present = Some((pieces, run.gva.wrapping_sub(run.gpa)));
                }
            }
        }
    }
}

impl Iterator for MappedPieces<'_> {
    type Item = Result<Piece, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.try_next();
        if next.is_err() {
            self.parts = Vec::new().into_iter();
        }
        next.transpose()
    }
}

/// Returns runs, cut to a range, with the holes between them.
fn parts(range: Range, runs: impl Iterator<Item = Run>) -> Vec<Part> {
    let mut parts = Vec::new();
    // Behind the last byte of the 64-bit space there is no address.
    let mut next = Some(range.first);
    for run in runs {
        let run_last = run.gva.saturating_add(run.length.saturating_sub(1));
        let (Some(from), Some(part)) = (next, range.intersect(run.gva, run_last)) else {
            continue;
        };
        if part.first > from {
            parts.extend(holes(from, part.first - 1));
        }
        parts.push(Part::Mapped(Run {
            gva: part.first,
            gpa: run.gpa.saturating_add(part.first.saturating_sub(run.gva)),
            length: part.size(),
        }));
        next = part.last.checked_add(1);
    }
    if let Some(from) = next.filter(|from| *from <= range.last) {
        parts.extend(holes(from, range.last));
    }
    parts
}

/// Returns holes from an address to the last one.
fn holes(first: u64, last: u64) -> impl Iterator<Item = Part> {
    let all = first..=last;
    all.step_by(usize::try_from(MAX_HOLE).unwrap_or(usize::MAX))
        .map(move |gva| Part::Hole {
            gva,
            length: (last - gva).min(MAX_HOLE - 1).saturating_add(1),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_no_gaps() {
        let range = Range {
            first: 0x1800,
            last: 0x57ff,
        };
        let run = |gva, gpa, length| Run { gva, gpa, length };
        let runs = [run(0x1000, 0x9000, 0x1000), run(0x4000, 0x1000, 0x4000)];
        let hole = Part::Hole {
            gva: 0x2000,
            length: 0x2000,
        };
        assert_eq!(
            parts(range, runs.into_iter()),
            [
                Part::Mapped(run(0x1800, 0x9800, 0x800)),
                hole,
                Part::Mapped(run(0x4000, 0x1000, 0x1800)),
            ]
        );
        let whole = Part::Hole {
            gva: 0x1800,
            length: 0x4000,
        };
        assert_eq!(parts(range, [].into_iter()), [whole]);
        let top = Range {
            first: u64::MAX - 0xfff,
            last: u64::MAX,
        };
        let last = run(top.first, 0x5000, 0x1000);
        assert_eq!(parts(top, [last].into_iter()), [Part::Mapped(last)]);
    }

    #[test]
    fn no_hole_is_too_big_for_json() {
        let all = Range {
            first: 1,
            last: u64::MAX,
        };
        let holes = parts(all, [].into_iter());
        assert_eq!(holes.len(), 1 << 12);
        let mut next = 1_u64;
        for hole in holes {
            let Part::Hole { gva, length } = hole else {
                panic!("{hole:?}");
            };
            assert_eq!(gva, next);
            assert!(length <= MAX_HOLE);
            next = next.wrapping_add(length);
        }
        assert_eq!(next, 0);
    }
}
