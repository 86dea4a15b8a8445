// SPDX-License-Identifier: GPL-2.0

//! LiME, version 1: a header of 32 bytes before each range.

use zerocopy::{
    little_endian::{U32, U64},
    Immutable, IntoBytes,
};

use super::{Extent, Header, Layout, Ranges};

/// `EMiL`, read as a number.
const MAGIC: u32 = 0x4c69_4d45;

/// `lime_mem_range_header` (LiME, `src/lime.h`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct RangeHeader {
    magic: U32,
    version: U32,
    first: U64,
    /// The last address, not the one after it.
    last: U64,
    reserved: U64,
}

/// Returns the layout of a LiME file.
#[must_use]
pub fn layout(ranges: &Ranges) -> Layout {
    let mut headers = Vec::new();
    let mut extents = Vec::new();
    // At most 2^40 headers and 2^52 bytes of memory: no sum overflows.
    let mut size = 0;
    for range in ranges.as_slice() {
        let header = RangeHeader {
            magic: MAGIC.into(),
            version: 1.into(),
            first: range.gpa.into(),
            last: (range.gpa + (range.size - 1)).into(),
            reserved: 0.into(),
        };
        let bytes = header.as_bytes().to_vec();
        let offset = size + bytes.len() as u64;
        headers.push(Header {
            offset: size,
            bytes,
        });
        extents.push(Extent {
            range: *range,
            offset,
        });
        size = offset + range.size;
    }
    Layout {
        ranges: ranges.clone(),
        headers,
        extents,
        size,
    }
}
