// SPDX-License-Identifier: GPL-2.0

//! What became of each page of a guest.

use std::collections::{BTreeMap, TryReserveError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Range, Ranges, PAGE_SIZE};

/// What a page is in a file. The kinds that are not there are those of the module
/// (`docs/report.md`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PageKind {
    /// It is in the file, as it was at the instant of the file.
    Present,
    /// It is in the file, but was copied at another instant.
    Late,
    /// The guest reads zeros there, as does who reads the file.
    Untouched,
    /// The VMM has nothing there, so the guest cannot read it.
    Unmapped,
    /// The host has swapped it out.
    Swapped,
    /// It is in a file that the VMM has mapped, and not in memory.
    InFile,
    /// Its owner brings it when somebody touches it.
    Userfault,
    /// It has a memory error.
    Poisoned,
    /// It is memory of a device.
    Device,
    /// It has content, but could not be read, or nobody came to read it.
    Unreadable,
    /// It is private to the guest.
    Private,
}

impl PageKind {
    /// All kinds.
    pub const ALL: &'static [Self] = &[
        Self::Present,
        Self::Late,
        Self::Untouched,
        Self::Unmapped,
        Self::Swapped,
        Self::InFile,
        Self::Userfault,
        Self::Poisoned,
        Self::Device,
        Self::Unreadable,
        Self::Private,
    ];

    /// Returns whether the file has the page's content.
    #[must_use]
    pub fn is_in_file(self) -> bool {
        matches!(self, Self::Present | Self::Late)
    }

    /// Returns whether who reads the file sees what the guest saw at the instant of the file.
    #[must_use]
    pub fn is_faithful(self) -> bool {
        matches!(self, Self::Present | Self::Untouched | Self::Unmapped)
    }
}

/// Neighbouring pages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// What they are.
    pub kind: PageKind,
    /// The guest-physical address of the first.
    pub gpa: u64,
    /// Their size in bytes.
    pub size: u64,
}

/// The kind of each page of a guest's RAM.
///
/// It takes one byte for each page, 256 KiB for each GiB, however often the kind changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageMap {
    /// In ascending order.
    ranges: Vec<RangePages>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RangePages {
    range: Range,
    kinds: Vec<PageKind>,
}

/// Pages that are not RAM of the guest, or not of one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam;

impl PageMap {
    /// Creates a map in which all pages are [`PageKind::Unreadable`]: nobody has read them yet.
    ///
    /// # Errors
    ///
    /// There is not enough memory for so many pages.
    pub fn new(ranges: &Ranges) -> Result<Self, TryReserveError> {
        let pages = |range: &Range| {
            // If it does not fit, it is not to be had, either.
            let count = usize::try_from(range.size / PAGE_SIZE).unwrap_or(usize::MAX);
            let mut kinds = Vec::new();
            kinds.try_reserve_exact(count)?;
            kinds.resize(count, PageKind::Unreadable);
            Ok::<_, TryReserveError>(RangePages {
                range: *range,
                kinds,
            })
        };
        let ranges = ranges.as_slice().iter().map(pages);
        Ok(Self {
            ranges: ranges.collect::<Result<_, _>>()?,
        })
    }

    /// Returns the kinds of pages, to be read or changed.
    ///
    /// # Errors
    ///
    /// `range` is not of whole pages, or not inside one range of RAM.
    pub fn kinds_mut(&mut self, range: Range) -> Result<&mut [PageKind], NotRam> {
        let after = self
            .ranges
            .partition_point(|pages| pages.range.gpa <= range.gpa);
        let pages = after.checked_sub(1).and_then(|at| self.ranges.get_mut(at));
        let pages = pages.ok_or(NotRam)?;
        let offset = range.gpa - pages.range.gpa;
        if offset % PAGE_SIZE != 0 || range.size % PAGE_SIZE != 0 {
            return Err(NotRam);
        }
        let first = usize::try_from(offset / PAGE_SIZE).map_err(|_| NotRam)?;
        let count = usize::try_from(range.size / PAGE_SIZE).map_err(|_| NotRam)?;
        let end = first.checked_add(count).ok_or(NotRam)?;
        pages.kinds.get_mut(first..end).ok_or(NotRam)
    }

    /// Returns how many pages of each kind there are. Kinds without pages are left out.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<PageKind, u64> {
        let mut counts = BTreeMap::new();
        for run in self.runs() {
            *counts.entry(run.kind).or_default() += run.size / PAGE_SIZE;
        }
        counts
    }

    /// Returns all pages in ascending order, those of one kind as one run.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.ranges.iter().flat_map(|RangePages { range, kinds }| {
            let mut gpa = range.gpa;
            kinds.chunk_by(PartialEq::eq).map(move |run| {
                let size = run.len() as u64 * PAGE_SIZE;
                let run = Run {
                    kind: run[0],
                    gpa,
                    size,
                };
                gpa += size;
                run
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> PageMap {
        let ranges = [Range::new(0x1000, 0x4000), Range::new(0x1_0000, 0x2000)];
        PageMap::new(&Ranges::new(ranges).expect("they are ranges")).expect("memory")
    }

    #[test]
    fn runs_do_not_cross_ranges() {
        let mut map = map();
        let all = PageKind::Unreadable;
        let run = |kind, gpa, size| Run { kind, gpa, size };
        let runs: Vec<_> = map.runs().collect();
        assert_eq!(runs, [run(all, 0x1000, 0x4000), run(all, 0x1_0000, 0x2000)]);
        let kinds = map.kinds_mut(Range::new(0x2000, 0x2000)).expect("RAM");
        kinds.fill(PageKind::Swapped);
        let runs: Vec<_> = map.runs().collect();
        let expected = [
            run(all, 0x1000, 0x1000),
            run(PageKind::Swapped, 0x2000, 0x2000),
            run(all, 0x4000, 0x1000),
            run(all, 0x1_0000, 0x2000),
        ];
        assert_eq!(runs, expected);
        let counts = map.counts();
        assert_eq!(counts[&PageKind::Swapped], 2);
        assert_eq!(counts[&all], 4);
    }

    #[test]
    fn what_is_no_ram_has_no_kind() {
        let mut map = map();
        for (gpa, size) in [
            (0, 0x1000),
            (0x1000, 0x5000),
            (0x1800, 0x1000),
            (0x1000, 0x800),
            (0x5000, 0x1000),
            (0x1_2000, 0x1000),
            (u64::MAX & !0xfff, 0x1000),
        ] {
            assert_eq!(
                map.kinds_mut(Range::new(gpa, size)),
                Err(NotRam),
                "{gpa:#x}"
            );
        }
    }
}
