// SPDX-License-Identifier: GPL-2.0

//! What a CPU may have to search with.

/// The vector instructions that a search uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// None.
    Portable,
    /// AVX2: 32 bytes at once.
    Avx2,
    /// AVX-512 with its parts F, BW, VL and VBMI: 64 bytes at once.
    Avx512,
}

impl Level {
    /// All levels, from the slowest to the fastest.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}
