// SPDX-License-Identifier: GPL-2.0

//! How many pages there are of each kind.

use crate::linux::pages::Absence;

/// Pages of guest memory, by what they are.
#[derive(Clone, Copy, Default)]
pub(crate) struct PageCounts {
    /// In memory, and readable.
    pub(crate) present: u64,
    /// Private to the guest, in guest_memfd.
    pub(crate) private: u64,
    /// Not readable, for the reason at this index of [`REASONS`].
    absent: [u64; REASONS.len()],
}

/// The reasons for which pages are not readable, with their names in the report.
const REASONS: [(Absence, &str); 8] = [
    (Absence::Untouched, "untouched"),
    (Absence::Unmapped, "unmapped"),
    (Absence::Swapped, "swapped"),
    (Absence::InFile, "in_file"),
    (Absence::Userfault, "userfault"),
    (Absence::Poisoned, "poisoned"),
    (Absence::Device, "device"),
    (Absence::Unreadable, "unreadable"),
];

impl Absence {
    /// Returns whether such a page has content that the guest may read.
    pub(crate) fn has_content(self) -> bool {
        !matches!(self, Self::Untouched | Self::Unmapped)
    }
}

/// The pages of a small part of memory, by what they are.
#[derive(Clone, Copy, Default)]
pub(crate) struct FewPages([u32; REASONS.len() + 2]);

impl FewPages {
    /// Adds pages that were counted elsewhere.
    pub(crate) fn add(&mut self, more: &PageCounts) {
        let kinds = [more.present, more.private].into_iter();
        for (count, more) in self.0.iter_mut().zip(kinds.chain(more.absent)) {
            *count = count.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        }
    }

    /// Returns the same as [`PageCounts`].
    pub(crate) fn counts(self) -> PageCounts {
        let [present, private, absent @ ..] = self.0.map(u64::from);
        PageCounts {
            present,
            private,
            absent,
        }
    }
}

impl PageCounts {
    /// Adds pages that are not readable.
    pub(crate) fn add_absent(&mut self, absence: Absence, pages: u64) {
        let absence = match absence {
            Absence::Busy => Absence::Unreadable,
            other => other,
        };
        let index = REASONS.iter().position(|(reason, _)| *reason == absence);
        if let Some(count) = index.and_then(|index| self.absent.get_mut(index)) {
            *count = count.saturating_add(pages);
        }
    }

    /// Adds pages that were counted elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        self.present = self.present.saturating_add(other.present);
        self.private = self.private.saturating_add(other.private);
        for (count, more) in self.absent.iter_mut().zip(other.absent) {
            *count = count.saturating_add(more);
        }
    }

    /// Takes out pages that were counted here before.
    pub(crate) fn remove(&mut self, other: &Self) {
        self.present = self.present.saturating_sub(other.present);
        self.private = self.private.saturating_sub(other.private);
        for (count, less) in self.absent.iter_mut().zip(other.absent) {
            *count = count.saturating_sub(less);
        }
    }

    /// Returns how many of the pages have content that cannot be read.
    pub(crate) fn missing(&self) -> u64 {
        let absent = REASONS.iter().zip(self.absent);
        let missing = absent.filter(|((absence, _), _)| absence.has_content());
        missing.fold(self.private, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Returns the number of pages of each kind but those that are present, with its name in the
    /// report.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let absent = REASONS.iter().zip(&self.absent);
        let absent = absent.map(|((_, name), count)| (*name, *count));
        absent.chain([("private", self.private)])
    }

    /// Returns how many pages there are of all kinds.
    pub(crate) fn all(&self) -> u64 {
        let readable = self.present.saturating_add(self.private);
        readable.saturating_add(self.absent())
    }

    /// Returns how many pages are neither readable nor private.
    pub(crate) fn absent(&self) -> u64 {
        self.absent.iter().copied().fold(0, u64::saturating_add)
    }
}
