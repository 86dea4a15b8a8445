// SPDX-License-Identifier: GPL-2.0

//! Joint: two hashes, of two bytes each, choose bits of three tables. A place passes if all three
//! bits are set.
//!
//! Unlike a table for each byte it knows which bytes are together, so memory full of the letters of
//! the patterns passes no more often than other memory. The hashes are sums of products with
//! matrices over two elements (`vgf2p8affineqb`), in which bits that do not count are 0.

use super::{
    byte,
    BYTES, //
};
use crate::scan::{
    index::Windows,
    odds::Odds, //
};

/// The number of tables.
const TABLES: usize = 3;

/// The tables. All zeros are a valid value.
#[derive(Debug)]
#[repr(C)]
pub(in crate::scan) struct Joint {
    /// The matrix of each byte.
    pub(super) matrices: [u64; BYTES],
    /// Of the smaller tables only the first halves are in use.
    pub(super) tables: [[u8; 256]; TABLES],
}

/// What the matrices are made of: the first set is taken that lets no frequent word pass.
const MATRICES: [[u64; BYTES]; 4] = [
    [
        0x9e37_79b9_7f4a_7c15,
        0xd134_2543_de82_ef95,
        0xbf58_476d_1ce4_e5b9,
        0xa24b_aed4_963e_e407,
    ],
    [
        0xd6e8_feb8_6659_fd93,
        0x94d0_49bb_1331_11eb,
        0x2545_f491_4f6c_dd1d,
        0xff51_afd7_ed55_8ccd,
    ],
    [
        0xc4ce_b9fe_1a85_ec53,
        0x87c3_7b91_1142_53d5,
        0x4cf5_ad43_2745_937f,
        0x52dc_e729_3849_5b2d,
    ],
    [
        0x9fb2_1c65_1e98_df25,
        0xb492_b66f_be98_f273,
        0x9ae1_6a3b_2f90_404f,
        0xc2b2_ae3d_27d4_eb4f,
    ],
];

impl Joint {
    pub(super) const fn new() -> Self {
        Self {
            matrices: [0; BYTES],
            tables: [[0; 256]; TABLES],
        }
    }

    /// Prepares it for the `windows`. Returns at how many places something passes;
    /// [`None`] if no bits count for one of the hashes.
    pub(super) fn prepare(
        &mut self,
        windows: Windows<'_>,
        offsets: &[usize; BYTES],
        is_wide: bool,
    ) -> Option<Odds> {
        let [first, second, third, fourth] = offsets.map(|at| byte(windows.mask(), at));
        if first | second == 0 || third | fourth == 0 {
            return None;
        }
        for matrices in MATRICES {
            self.fill(windows, offsets, is_wide, matrices);
            let is_frequent = |byte| self.passes(u64::from_le_bytes([byte; 8]), offsets, is_wide);
            if ![0, 0xcc, 0xff, b' '].into_iter().any(is_frequent) {
                break;
            }
        }
        let bits = if is_wide { 256 * 8 } else { 128 * 8 };
        let mut odds = Odds::ANYWHERE;
        for table in &self.tables {
            let set: u32 = table.iter().map(|byte| byte.count_ones()).sum();
            odds = odds.times(u64::from(set), bits);
        }
        if self.passes(0, offsets, is_wide) {
            odds = odds.with_zeros();
        }
        Some(odds)
    }

    fn fill(
        &mut self,
        windows: Windows<'_>,
        offsets: &[usize; BYTES],
        is_wide: bool,
        matrices: [u64; BYTES],
    ) {
        *self = Self::new();
        for ((to, matrix), at) in self.matrices.iter_mut().zip(matrices).zip(offsets) {
            let bits = byte(windows.mask(), *at);
            *to = matrix & u64::from_le_bytes([bits; size_of::<u64>()]);
        }
        for window in windows.bits() {
            let bits = self.bits(window, offsets, is_wide);
            for (table, (at, bit)) in self.tables.iter_mut().zip(bits) {
                table[usize::from(at)] |= bit;
            }
        }
    }

    fn passes(&self, window: u64, offsets: &[usize; BYTES], is_wide: bool) -> bool {
        let bits = self.bits(window, offsets, is_wide);
        let mut tables = self.tables.iter().zip(bits);
        tables.all(|(table, (at, bit))| table[usize::from(at)] & bit != 0)
    }

    /// Returns for each table the byte, and the bit in it, that a window leads to: as the vector
    /// code does.
    fn bits(&self, window: u64, offsets: &[usize; BYTES], is_wide: bool) -> [(u8, u8); TABLES] {
        let mut products = [0; BYTES];
        for ((product, matrix), at) in products.iter_mut().zip(self.matrices).zip(offsets) {
            *product = affine(matrix, byte(window, *at));
        }
        let [a, b, c, d] = products;
        let (first, second) = (a ^ b, c ^ d);
        let at = |hash: u8| if is_wide { hash } else { hash & 0x7f };
        [
            (at(first), 1 << (second & 7)),
            (at(second), 1 << ((first >> 3) & 7)),
            (at(first ^ second), 1 << ((first >> 3) & 7)),
        ]
    }
}

/// Multiplies a byte by a matrix, as `vgf2p8affineqb` does.
fn affine(matrix: u64, byte: u8) -> u8 {
    let rows = matrix.to_be_bytes().into_iter().zip(0..u8::BITS);
    rows.fold(0, |product, (row, bit)| {
        let is_odd = (row & byte).count_ones() & 1 != 0;
        product | (u8::from(is_odd) << bit)
    })
}
