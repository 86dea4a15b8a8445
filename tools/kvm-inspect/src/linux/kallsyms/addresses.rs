// SPDX-License-Identifier: GPL-2.0

//! The addresses of kallsyms (`kallsyms_sym_address`).

use super::{super::VmcoreInfo, KallsymsError};
use crate::paging::VirtualMemory;

/// What the numbers in `kallsyms_offsets` mean.
#[derive(Clone, Copy, Debug)]
enum Encoding {
    /// Signed distances from where they are: newer kernels, without `kallsyms_relative_base`.
    Itself {
        /// `kallsyms_offsets`
        offsets: u64,
    },
    /// Unsigned distances from `kallsyms_relative_base`: 6.15 and later.
    Base {
        /// Its value.
        base: u64,
    },
    /// What is not negative is an address, of something per CPU; else `!number` is the distance
    /// from `kallsyms_relative_base` (`CONFIG_KALLSYMS_ABSOLUTE_PERCPU`): before 6.15, with SMP.
    BaseOrAbsolute {
        /// Its value.
        base: u64,
    },
}

impl Encoding {
    fn address(self, index: usize, number: i32) -> u64 {
        let signed = i64::from(number);
        match self {
            Self::Itself { offsets } => {
                let own = offsets.wrapping_add(4 * index as u64);
                own.wrapping_add_signed(signed)
            }
            Self::Base { base } => {
                base.wrapping_add(u64::from(u32::from_ne_bytes(number.to_ne_bytes())))
            }
            Self::BaseOrAbsolute { base } if number < 0 => base.wrapping_add_signed(!signed),
            Self::BaseOrAbsolute { .. } => signed.unsigned_abs(),
        }
    }
}

/// Returns the addresses of all symbols.
///
/// VMCOREINFO does not name the encoding. It has the address of `_stext`, which is this symbol, and
/// which only the right one gives.
pub(super) fn read(
    memory: &VirtualMemory<'_>,
    info: &VmcoreInfo,
    count: u32,
    text_start: usize,
) -> Result<Vec<u64>, KallsymsError> {
    let offsets = info
        .symbol("kallsyms_offsets")
        .ok_or(KallsymsError::Missing)?;
    let encodings = match info.symbol("kallsyms_relative_base") {
        None => vec![Encoding::Itself { offsets }],
        Some(base) => {
            let base = memory.read_u64(base)?;
            vec![Encoding::Base { base }, Encoding::BaseOrAbsolute { base }]
        }
    };
    let size = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(4));
    let mut bytes = vec![0; size.ok_or(KallsymsError::Invalid("there are too many symbols"))?];
    memory.read(offsets, &mut bytes)?;
    let numbers: Vec<i32> = bytes
        .chunks_exact(4)
        .map(|bytes| i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let known = info.symbol("_stext").ok_or(KallsymsError::Missing)?;
    let number = numbers.get(text_start).copied();
    let number = number.ok_or(KallsymsError::Invalid("_stext is missing"))?;
    let mut encodings = encodings.into_iter();
    let encoding = encodings.find(|encoding| encoding.address(text_start, number) == known);
    let other = KallsymsError::Invalid("_stext has another address than in VMCOREINFO");
    let encoding = encoding.ok_or(other)?;
    let numbers = numbers.into_iter().enumerate();
    Ok(numbers
        .map(|(index, number)| encoding.address(index, number))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encoding_gives_the_kernels_addresses() {
        let base = 0xffff_ffff_8100_0000;
        let itself = Encoding::Itself {
            offsets: base + 0x100,
        };
        assert_eq!(itself.address(2, -0x108), base);
        assert_eq!(itself.address(0, 0x100), base + 0x200);
        let from_base = Encoding::Base { base };
        assert_eq!(from_base.address(7, 0x10), base + 0x10);
        assert_eq!(from_base.address(7, -1), base.wrapping_add(0xffff_ffff));
        let absolute = Encoding::BaseOrAbsolute { base };
        assert_eq!(absolute.address(7, 0x1000), 0x1000);
        assert_eq!(absolute.address(7, -1), base);
        assert_eq!(absolute.address(7, -0x11), base + 0x10);
    }
}
