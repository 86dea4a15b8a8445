// SPDX-License-Identifier: GPL-2.0

//! The memory that is searched.

use std::{fs, io, path::Path};

use memmap2::{Advice, MmapMut};

use crate::patterns::{Needle, Random};

/// The kinds of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The RAM of a Linux guest.
    Real,
    /// Random bytes.
    Random,
    /// Zeros.
    Zeros,
    /// The rarest byte of the first pattern, everywhere.
    OneByte,
    /// The first pattern without its last byte, again and again.
    Prefix,
}

impl Input {
    pub(crate) const ALL: [Self; 5] = [
        Self::Real,
        Self::Random,
        Self::Zeros,
        Self::OneByte,
        Self::Prefix,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Real => "real memory",
            Self::Random => "random",
            Self::Zeros => "zeros",
            Self::OneByte => "one byte",
            Self::Prefix => "prefix",
        }
    }

    /// Returns which share of memory's speed the best engine must reach with this many patterns.
    pub(crate) fn goal(self, patterns: usize) -> Option<f64> {
        match (self, patterns) {
            (Self::Real, 0..=8) => Some(0.9),
            (Self::Real, 9..=64) => Some(0.6),
            (Self::Real, _) => Some(0.4),
            (Self::OneByte | Self::Prefix, _) => Some(0.2),
            (Self::Random | Self::Zeros, _) => None,
        }
    }

    /// Fills `memory`. `image` is the RAM of a guest.
    pub(crate) fn fill(self, memory: &mut [u8], image: &[u8], patterns: &[Needle]) {
        let first = &patterns[0].bytes;
        match self {
            Self::Real => repeat(memory, image),
            Self::Random => {
                let mut random = Random(1);
                for bytes in memory.chunks_exact_mut(8) {
                    bytes.copy_from_slice(&random.word().to_le_bytes());
                }
            }
            Self::Zeros => memory.fill(0),
            Self::OneByte => memory.fill(rarest(first, image)),
            Self::Prefix => repeat(memory, &first[..first.len() - 1]),
        }
    }
}

fn repeat(memory: &mut [u8], with: &[u8]) {
    for part in memory.chunks_mut(with.len()) {
        part.copy_from_slice(&with[..part.len()]);
    }
}

/// Returns the byte of `pattern` that is rarest in `image`.
fn rarest(pattern: &[u8], image: &[u8]) -> u8 {
    let mut counts = [0_u64; 256];
    for byte in image {
        counts[usize::from(*byte)] += 1;
    }
    let rarest = pattern
        .iter()
        .min_by_key(|byte| counts[usize::from(**byte)]);
    *rarest.expect("no pattern is empty")
}

/// Returns memory of this size, in huge pages if the machine has some.
pub(crate) fn memory(size: usize) -> io::Result<MmapMut> {
    let memory = MmapMut::map_anon(size)?;
    // Not all kernels can.
    let _ = memory.advise(Advice::HugePage);
    Ok(memory)
}

/// Returns the RAM of a guest from a file that ends after the last byte that is not zero.
pub(crate) fn image(path: &Path) -> io::Result<Vec<u8>> {
    let image = fs::read(path)?;
    if image.is_empty() {
        return Err(io::Error::other("the image of a guest's RAM is empty"));
    }
    Ok(image)
}
