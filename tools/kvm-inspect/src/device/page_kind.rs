// SPDX-License-Identifier: GPL-2.0

//! What pages of a guest are.

use std::fmt;

use kvm_inspect_pure::uapi;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageKind {
    /// In memory, and readable.
    Present,
    /// Without content: the guest would read zeros.
    Untouched,
    /// The VMM has nothing there.
    Unmapped,
    /// Swapped out.
    Swapped,
    /// In a file, and not in memory.
    InFile,
    /// Its VMM brings it when it is touched.
    Userfault,
    /// With a memory error.
    Poisoned,
    /// Memory of a device.
    Device,
    /// Not to be read by anybody but its owner, or busy.
    Unreadable,
    /// Private to the guest.
    Private,
    /// In no memslot.
    Outside,
    /// Not reached in time.
    Late,
    /// A kind that this version does not know, by its number.
    Other(u32),
}

impl PageKind {
    /// All kinds that this version knows, by their numbers.
    pub const ALL: [Self; 12] = [
        Self::Present,
        Self::Untouched,
        Self::Unmapped,
        Self::Swapped,
        Self::InFile,
        Self::Userfault,
        Self::Poisoned,
        Self::Device,
        Self::Unreadable,
        Self::Private,
        Self::Outside,
        Self::Late,
    ];

    /// Returns the kind of a number (`PAGE_*` of [`uapi`]).
    #[must_use]
    pub const fn new(number: u32) -> Self {
        match number {
            uapi::PAGE_PRESENT => Self::Present,
            uapi::PAGE_UNTOUCHED => Self::Untouched,
            uapi::PAGE_UNMAPPED => Self::Unmapped,
            uapi::PAGE_SWAPPED => Self::Swapped,
            uapi::PAGE_IN_FILE => Self::InFile,
            uapi::PAGE_USERFAULT => Self::Userfault,
            uapi::PAGE_POISONED => Self::Poisoned,
            uapi::PAGE_DEVICE => Self::Device,
            uapi::PAGE_UNREADABLE => Self::Unreadable,
            uapi::PAGE_PRIVATE => Self::Private,
            uapi::PAGE_OUTSIDE => Self::Outside,
            uapi::PAGE_LATE => Self::Late,
            number => Self::Other(number),
        }
    }

    /// Returns its name, which is its key in a report (`docs/report.md`, `slot`).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Untouched => "untouched",
            Self::Unmapped => "unmapped",
            Self::Swapped => "swapped",
            Self::InFile => "in_file",
            Self::Userfault => "userfault",
            Self::Poisoned => "poisoned",
            Self::Device => "device",
            Self::Unreadable => "unreadable",
            Self::Private => "private",
            Self::Outside => "outside",
            Self::Late => "late",
            Self::Other(_) => "other",
        }
    }

    /// Returns whether it may have content that cannot be read.
    #[must_use]
    pub const fn is_missing(self) -> bool {
        !matches!(
            self,
            Self::Present | Self::Untouched | Self::Unmapped | Self::Outside
        )
    }
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_device() {
        for (number, kind) in (0..).zip(PageKind::ALL) {
            assert_eq!(PageKind::new(number), kind);
        }
        assert_eq!(PageKind::new(12), PageKind::Other(12));
    }
}
