// SPDX-License-Identifier: GPL-2.0

//! The pages of a guest on their way into a file, and what is known of each.

use kvm_inspect_pure::uapi;

use super::DumpError;
use crate::{
    core::{Copied, PageKind, Range, Ranges, Writer, PAGE_SIZE},
    device::{self, CopyInto, CopyTerms, PageBuffer, Session},
    linux::{self, MAX_CANDIDATES},
};

/// How many pages are copied at once while the guest runs: 4 MiB.
const PAGES_AT_ONCE: usize = 1024;

/// How many pages are compared at once: the module takes no more.
const COMPARED_AT_ONCE: usize = 1 << 22;

/// How many ranges of pages are copied at once: the module takes no more.
const RANGES_AT_ONCE: usize = 1 << 16;

/// All pages of a guest, by their numbers: they are counted through all ranges.
pub(super) struct Image<'a> {
    session: &'a Session,
    ranges: Vec<Numbered>,
    /// What each page was when it was written.
    kinds: Vec<u8>,
    /// The digest of each page that was written; 0 for one that is not there.
    digests: Vec<u64>,
    /// Pages that begin like VMCOREINFO.
    pub(super) candidates: Vec<u64>,
}

/// A range of RAM, and the number of its first page.
#[derive(Clone, Copy)]
struct Numbered {
    range: Range,
    first: usize,
}

/// Pages that have changed since they were written.
pub(super) struct Changed {
    /// By their numbers, neighbours together.
    runs: Vec<std::ops::Range<usize>>,
    /// How many they are.
    pub(super) pages: usize,
}

impl<'a> Image<'a> {
    /// Creates it for the RAM of the guest.
    ///
    /// # Errors
    ///
    /// There is not enough memory.
    pub(super) fn new(session: &'a Session, ram: &Ranges) -> Result<Self, DumpError> {
        let (mut ranges, mut first) = (Vec::new(), 0_usize);
        for range in ram.as_slice() {
            ranges.push(Numbered {
                range: *range,
                first,
            });
            let pages = usize::try_from(range.size / PAGE_SIZE).unwrap_or(usize::MAX);
            first = first.saturating_add(pages);
        }
        Ok(Self {
            session,
            ranges,
            kinds: filled(first, 0)?,
            digests: filled(first, 0)?,
            candidates: Vec::new(),
        })
    }

    /// Returns how many pages there are.
    pub(super) fn pages(&self) -> usize {
        self.kinds.len()
    }

    /// Returns how many pages are there, of those that were written.
    pub(super) fn present(&self) -> usize {
        self.digests.iter().filter(|digest| **digest != 0).count()
    }

    /// Copies all pages into the file, while the guest runs. `progress` is told how many pages are
    /// done.
    pub(super) fn copy_all(
        &mut self,
        writer: &mut Writer,
        mut progress: impl FnMut(usize),
    ) -> Result<(), DumpError> {
        let mut buffer = PageBuffer::new(PAGES_AT_ONCE)?;
        let session = self.session;
        for Numbered { range, first } in self.ranges.clone() {
            let mut number = first;
            for extent in session.present(range.gpa, range.size / PAGE_SIZE, 0) {
                let extent = extent?;
                let pages = usize::try_from(extent.pages).unwrap_or(usize::MAX);
                let run = number..number.saturating_add(pages);
                if extent.kind == uapi::PAGE_PRESENT {
                    for part in parts(&run, PAGES_AT_ONCE) {
                        self.copy(&part, &mut buffer, writer, Copied::Late)?;
                        progress(part.end);
                    }
                } else {
                    writer.absent(self.memory(&run), page_kind(extent.kind))?;
                    let kind = u8::try_from(extent.kind).unwrap_or(u8::MAX);
                    self.kinds[run.clone()].fill(kind);
                }
                number = run.end;
                progress(number);
            }
        }
        Ok(())
    }

    /// Compares all pages with what was written.
    pub(super) fn compare(&self, is_paused: bool, terms: CopyTerms) -> Result<Changed, DumpError> {
        let mut changed = Changed {
            runs: Vec::new(),
            pages: 0,
        };
        let mut kinds = filled(self.pages().min(COMPARED_AT_ONCE), 0_u8)?;
        let mut digests = filled(self.pages().min(COMPARED_AT_ONCE), 0_u64)?;
        for part in parts(&(0..self.pages()), COMPARED_AT_ONCE) {
            let into = CopyInto {
                pages: None,
                kinds: Some(&mut kinds[..part.len()]),
                digests: Some(&mut digests[..part.len()]),
            };
            let terms = CopyTerms { is_paused, ..terms };
            let copied = self.session.copy(&self.addresses(&part), into, terms)?;
            if copied.late > 0 {
                return Err(DumpError::Expired);
            }
            for (number, (kind, digest)) in part.clone().zip(kinds.iter().zip(&digests)) {
                if self.kinds[number] != *kind || self.digests[number] != *digest {
                    changed.add(number);
                }
            }
        }
        Ok(changed)
    }

    /// Copies what has changed into the file, while the guest runs.
    pub(super) fn copy_changed(
        &mut self,
        changed: &Changed,
        writer: &mut Writer,
    ) -> Result<(), DumpError> {
        let mut buffer = PageBuffer::new(PAGES_AT_ONCE)?;
        for run in &changed.runs {
            for part in parts(run, PAGES_AT_ONCE) {
                self.copy(&part, &mut buffer, writer, Copied::Late)?;
            }
        }
        Ok(())
    }

    /// Copies what has changed into memory, while the guest stands.
    pub(super) fn take_changed(
        &self,
        changed: &Changed,
        terms: CopyTerms,
    ) -> Result<Vec<Taken>, DumpError> {
        let runs = changed.runs.iter().flat_map(|run| self.within_ranges(run));
        let runs = runs.flat_map(|run| parts(&run, COMPARED_AT_ONCE));
        let runs: Vec<_> = runs.collect();
        let groups = groups(&runs);
        groups.map(|runs| self.take(runs, terms)).collect()
    }

    /// Copies runs of pages, each within one range, while the guest stands.
    fn take(&self, runs: &[std::ops::Range<usize>], terms: CopyTerms) -> Result<Taken, DumpError> {
        let pages = runs.iter().map(std::ops::Range::len).sum();
        let mut taken = Taken {
            runs: runs.to_vec(),
            buffer: PageBuffer::new(pages)?,
            kinds: filled(pages, 0)?,
            digests: filled(pages, 0)?,
        };
        let ranges: Vec<_> = runs.iter().flat_map(|run| self.addresses(run)).collect();
        let into = CopyInto {
            pages: Some(&mut taken.buffer),
            kinds: Some(&mut taken.kinds),
            digests: Some(&mut taken.digests),
        };
        let terms = CopyTerms {
            is_paused: true,
            ..terms
        };
        if self.session.copy(&ranges, into, terms)?.late > 0 {
            return Err(DumpError::Expired);
        }
        Ok(taken)
    }

    /// Writes what was taken, and says of all other pages that they are of that instant.
    pub(super) fn put_changed(
        &mut self,
        taken: &[Taken],
        writer: &mut Writer,
    ) -> Result<(), DumpError> {
        for Numbered { range, .. } in &self.ranges {
            writer.mark(*range, Copied::InTime)?;
        }
        let size = usize::try_from(PAGE_SIZE).unwrap_or(0);
        for taken in taken {
            let mut at = 0;
            for run in &taken.runs {
                let end = at + run.len();
                let bytes = &taken.buffer.as_bytes()[at * size..end * size];
                let (kinds, digests) = (&taken.kinds[at..end], &taken.digests[at..end]);
                self.put(run, bytes, kinds, digests, writer, Copied::InTime)?;
                at = end;
            }
        }
        Ok(())
    }

    /// Copies neighbouring pages into the file.
    fn copy(
        &mut self,
        pages: &std::ops::Range<usize>,
        buffer: &mut PageBuffer,
        writer: &mut Writer,
        copied: Copied,
    ) -> Result<(), DumpError> {
        for part in self.within_ranges(pages) {
            buffer.resize(part.len());
            let mut kinds = filled(part.len(), 0)?;
            let mut digests = filled(part.len(), 0)?;
            let into = CopyInto {
                pages: Some(&mut *buffer),
                kinds: Some(&mut kinds),
                digests: Some(&mut digests),
            };
            self.session
                .copy(&self.addresses(&part), into, CopyTerms::default())?;
            let found = linux::candidates_in(self.memory(&part).gpa, buffer.as_bytes());
            let room = MAX_CANDIDATES.saturating_sub(self.candidates.len());
            let found: Vec<u64> = found.take(room).collect();
            self.candidates.extend(found);
            self.put(&part, buffer.as_bytes(), &kinds, &digests, writer, copied)?;
        }
        Ok(())
    }

    /// Writes neighbouring pages that were copied, and notes what they are.
    fn put(
        &mut self,
        pages: &std::ops::Range<usize>,
        bytes: &[u8],
        kinds: &[u8],
        digests: &[u64],
        writer: &mut Writer,
        copied: Copied,
    ) -> Result<(), DumpError> {
        let size = usize::try_from(PAGE_SIZE).unwrap_or(0);
        let mut at = 0;
        for run in kinds.chunk_by(|one, other| one == other) {
            let end = at + run.len();
            let memory = self.memory(&(pages.start + at..pages.start + end));
            match run.first().map(|kind| u32::from(*kind)) {
                Some(uapi::PAGE_PRESENT) => {
                    writer.write(memory.gpa, &bytes[at * size..end * size], copied)?;
                }
                Some(kind) => writer.absent(memory, page_kind(kind))?,
                None => (),
            }
            at = end;
        }
        self.kinds[pages.clone()].copy_from_slice(kinds);
        self.digests[pages.clone()].copy_from_slice(digests);
        Ok(())
    }

    /// Returns neighbouring numbers, cut where ranges end.
    fn within_ranges(&self, pages: &std::ops::Range<usize>) -> Vec<std::ops::Range<usize>> {
        let mut parts = Vec::new();
        for Numbered { range, first } in &self.ranges {
            let count = usize::try_from(range.size / PAGE_SIZE).unwrap_or(usize::MAX);
            let part = pages.start.max(*first)..pages.end.min(first.saturating_add(count));
            if !part.is_empty() {
                parts.push(part);
            }
        }
        parts
    }

    /// Returns where pages are that are in one range.
    fn memory(&self, pages: &std::ops::Range<usize>) -> Range {
        let after = self
            .ranges
            .partition_point(|numbered| numbered.first <= pages.start);
        let numbered = after.checked_sub(1).and_then(|at| self.ranges.get(at));
        let (base, first) = numbered.map_or((0, 0), |one| (one.range.gpa, one.first));
        let bytes = |pages: usize| (pages as u64).saturating_mul(PAGE_SIZE);
        Range::new(
            base.saturating_add(bytes(pages.start.saturating_sub(first))),
            bytes(pages.len()),
        )
    }

    /// Returns where pages are, for the device.
    fn addresses(&self, pages: &std::ops::Range<usize>) -> Vec<uapi::Pages> {
        let parts = self.within_ranges(pages).into_iter();
        let memory = parts.map(|part| self.memory(&part));
        memory
            .map(|range| uapi::Pages {
                gpa: range.gpa,
                pages: range.size / PAGE_SIZE,
            })
            .collect()
    }
}

impl Changed {
    /// Adds a page, whose number is above those before.
    fn add(&mut self, number: usize) {
        self.pages += 1;
        match self.runs.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => self.runs.push(number..number.saturating_add(1)),
        }
    }
}

/// Pages that were copied while the guest stood.
pub(super) struct Taken {
    /// Their numbers: runs of neighbours, each within one range.
    runs: Vec<std::ops::Range<usize>>,
    buffer: PageBuffer,
    kinds: Vec<u8>,
    digests: Vec<u64>,
}

/// Returns groups of runs that the module copies in one call.
fn groups(mut runs: &[std::ops::Range<usize>]) -> impl Iterator<Item = &[std::ops::Range<usize>]> {
    std::iter::from_fn(move || {
        let mut pages = 0_usize;
        let fits = |run: &&std::ops::Range<usize>| {
            pages = pages.saturating_add(run.len());
            pages <= COMPARED_AT_ONCE
        };
        let count = runs.iter().take(RANGES_AT_ONCE).take_while(fits).count();
        let (group, rest) = runs.split_at(count.max(1).min(runs.len()));
        runs = rest;
        (!group.is_empty()).then_some(group)
    })
}

/// Returns parts of a range, none of them longer than `most`.
fn parts(
    range: &std::ops::Range<usize>,
    most: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let end = range.end;
    range
        .clone()
        .step_by(most)
        .map(move |first| first..first.saturating_add(most).min(end))
}

/// Returns so many values, if there is memory for them.
fn filled<T: Clone>(count: usize, value: T) -> Result<Vec<T>, DumpError> {
    let mut values = Vec::new();
    let room = values.try_reserve_exact(count);
    room.map_err(|_| DumpError::Memory)?;
    values.resize(count, value);
    Ok(values)
}

/// Returns the kind of a page that is not there.
fn page_kind(kind: u32) -> PageKind {
    match device::PageKind::new(kind) {
        device::PageKind::Untouched => PageKind::Untouched,
        device::PageKind::Unmapped | device::PageKind::Outside => PageKind::Unmapped,
        device::PageKind::Swapped => PageKind::Swapped,
        device::PageKind::InFile => PageKind::InFile,
        device::PageKind::Userfault => PageKind::Userfault,
        device::PageKind::Poisoned => PageKind::Poisoned,
        device::PageKind::Device => PageKind::Device,
        device::PageKind::Private => PageKind::Private,
        device::PageKind::Present
        | device::PageKind::Unreadable
        | device::PageKind::Late
        | device::PageKind::Other(_) => PageKind::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_at_once_is_not_too_much() {
        let runs: Vec<_> = (0..300_000)
            .step_by(2)
            .map(|page: usize| page..page.saturating_add(1))
            .collect();
        let sizes: Vec<usize> = groups(&runs).map(<[_]>::len).collect();
        assert_eq!(
            sizes,
            [RANGES_AT_ONCE, RANGES_AT_ONCE, 150_000 - 2 * RANGES_AT_ONCE]
        );
        let long = [
            0..COMPARED_AT_ONCE - 1,
            COMPARED_AT_ONCE..COMPARED_AT_ONCE + 2,
        ];
        assert_eq!(groups(&long).map(<[_]>::len).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(groups(&[]).count(), 0);
    }
}
