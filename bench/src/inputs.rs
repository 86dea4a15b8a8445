// SPDX-License-Identifier: GPL-2.0

//! The memory that is searched.

use std::{fs, io, path::Path};

use memmap2::{Advice, MmapMut};
use pattern_sets::Random;

use crate::patterns::{Kind, Needle};

/// What is filled in again and again where it takes long to make. More than the caches remember.
const TILE: usize = 4 << 20;

/// The size of the parts that are taken of a large image.
const PART: usize = 1 << 20;

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
    /// Each pattern without its last byte, one after another.
    Prefixes,
    /// Each pattern without its first byte, one after another.
    Suffixes,
    /// Each pattern with one wrong bit at a random place, one after another.
    Near,
    /// Four bytes from random places of random patterns, one after another.
    Pieces,
    /// The RAM of a guest, with near misses in one page of eight.
    Sprinkled,
}

impl Input {
    pub(crate) const ALL: [Self; 10] = [
        Self::Real,
        Self::Random,
        Self::Zeros,
        Self::OneByte,
        Self::Prefix,
        Self::Prefixes,
        Self::Suffixes,
        Self::Near,
        Self::Pieces,
        Self::Sprinkled,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Real => "real memory",
            Self::Random => "random",
            Self::Zeros => "zeros",
            Self::OneByte => "one byte",
            Self::Prefix => "prefix",
            Self::Prefixes => "prefixes",
            Self::Suffixes => "suffixes",
            Self::Near => "near misses",
            Self::Pieces => "pieces",
            Self::Sprinkled => "sprinkled",
        }
    }

    /// Returns whether nobody has made it to slow a search down.
    pub(crate) fn is_ordinary(self) -> bool {
        matches!(self, Self::Real | Self::Random)
    }

    /// Returns whether it is measured by default with that many patterns.
    pub(crate) fn has(self, kind: Kind, patterns: usize) -> bool {
        match self {
            Self::Real | Self::Random => true,
            Self::Zeros | Self::Suffixes | Self::Sprinkled => patterns == 256,
            Self::OneByte | Self::Prefix if kind == Kind::Long && patterns == 1 => true,
            Self::OneByte | Self::Prefix | Self::Prefixes | Self::Near | Self::Pieces => {
                patterns == 64 || patterns == 256
            }
        }
    }

    /// Fills `memory`. `image` is the RAM of a guest.
    pub(crate) fn fill(self, memory: &mut [u8], image: &[u8], patterns: &[Needle]) {
        let mut random = Random(1);
        match self {
            Self::Real => spread(memory, image),
            Self::Random => {
                for bytes in memory.chunks_exact_mut(8) {
                    bytes.copy_from_slice(&random.word().to_le_bytes());
                }
            }
            Self::Zeros => memory.fill(0),
            Self::OneByte => memory.fill(rarest(&patterns[0], image)),
            Self::Prefix => repeat(memory, &tile(&patterns[..1], &mut random, without_last)),
            Self::Prefixes => repeat(memory, &tile(patterns, &mut random, without_last)),
            Self::Suffixes => repeat(memory, &tile(patterns, &mut random, without_first)),
            Self::Near => repeat(memory, &tile(patterns, &mut random, near)),
            Self::Pieces => repeat(memory, &tile(patterns, &mut random, piece)),
            Self::Sprinkled => {
                spread(memory, image);
                let near = tile(patterns, &mut random, near);
                for (eight, near) in memory.chunks_mut(8 << 12).zip(near.chunks(1 << 12).cycle()) {
                    let len = near.len().min(eight.len());
                    eight[..len].copy_from_slice(&near[..len]);
                }
            }
        }
    }
}

/// Returns what `make` makes of one pattern after another.
fn tile(
    patterns: &[Needle],
    random: &mut Random,
    make: fn(&[Needle], usize, &mut Random) -> Vec<u8>,
) -> Vec<u8> {
    let mut tile = Vec::with_capacity(TILE + 256);
    for index in 0.. {
        if tile.len() >= TILE {
            break;
        }
        let bytes = make(patterns, index % patterns.len(), random);
        // Nothing is left of a pattern with one byte.
        tile.extend(if bytes.is_empty() { vec![0] } else { bytes });
    }
    tile
}

fn without_last(patterns: &[Needle], index: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = patterns[index].example(random);
    bytes.pop();
    bytes
}

fn without_first(patterns: &[Needle], index: usize, random: &mut Random) -> Vec<u8> {
    patterns[index].example(random).split_off(1)
}

fn near(patterns: &[Needle], index: usize, random: &mut Random) -> Vec<u8> {
    let needle = &patterns[index];
    let mut bytes = needle.example(random);
    loop {
        let (at, bit) = (random.below(bytes.len()), 1 << random.below(8));
        if needle.mask[at] & bit != 0 {
            bytes[at] ^= bit;
            return bytes;
        }
    }
}

fn piece(patterns: &[Needle], _: usize, random: &mut Random) -> Vec<u8> {
    let bytes = patterns[random.below(patterns.len())].example(random);
    let len = bytes.len().min(4);
    let at = random.below(bytes.len() - len + 1);
    bytes[at..at + len].to_vec()
}

fn repeat(memory: &mut [u8], with: &[u8]) {
    for part in memory.chunks_mut(with.len()) {
        part.copy_from_slice(&with[..part.len()]);
    }
}

/// Fills `memory` with `image`: again and again, or, if that is larger, with parts from all over.
fn spread(memory: &mut [u8], image: &[u8]) {
    if image.len() <= memory.len() {
        return repeat(memory, image);
    }
    let parts = memory.len().div_ceil(PART);
    for (index, part) in memory.chunks_mut(PART).enumerate() {
        let from = image.len() / parts * index / 4096 * 4096;
        let from = from.min(image.len() - part.len());
        part.copy_from_slice(&image[from..][..part.len()]);
    }
}

/// Returns the byte of `pattern` that is rarest in `image`, of those that are given.
fn rarest(pattern: &Needle, image: &[u8]) -> u8 {
    let mut counts = [0_u64; 256];
    for byte in image.iter().step_by(7) {
        counts[usize::from(*byte)] += 1;
    }
    let given = pattern.bytes().filter(|(_, mask)| *mask == 0xff);
    let rarest = given.min_by_key(|(value, _)| counts[usize::from(*value)]);
    // Or else one of a byte with open bits.
    rarest.map_or(pattern.value[0], |(value, _)| value)
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
