// SPDX-License-Identifier: GPL-2.0

//! The engines that scan.

/// The kinds of engines, by the vector instructions that they use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EngineKind {
    /// None.
    Portable,
    /// AVX2: 32 bytes at once, with BMI1 and POPCNT.
    Avx2,
    /// AVX-512 with its parts F, BW, VL and VBMI, and GFNI: 64 bytes at once.
    Avx512,
}

impl EngineKind {
    /// All kinds, from the slowest to the fastest.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Returns the name of the kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// An engine that this machine has.
///
/// # Invariants
///
/// The CPU has the instructions of this kind, and the system saves their registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engine(EngineKind);

impl Engine {
    /// The engine that each machine has.
    // INVARIANT: It needs no vector instructions.
    pub const PORTABLE: Self = Self(EngineKind::Portable);

    /// Returns the engine of this kind.
    ///
    /// # Safety
    ///
    /// The CPU has its instructions, and the system saves their registers.
    #[must_use]
    pub const unsafe fn new_unchecked(kind: EngineKind) -> Self {
        // INVARIANT: By this function's contract.
        Self(kind)
    }

    /// Returns the kind of the engine.
    #[must_use]
    pub const fn kind(self) -> EngineKind {
        self.0
    }
}
