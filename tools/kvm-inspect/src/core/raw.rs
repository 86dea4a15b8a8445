// SPDX-License-Identifier: GPL-2.0

//! Raw memory: each byte stands at the offset that is its guest-physical address.
//!
//! What is no RAM is a hole. A guest with memory at high addresses gets a file that appears to be
//! huge; in a pipe it is.

use super::{Extent, Layout, Range, Ranges};

/// Returns the layout of a raw file.
#[must_use]
pub fn layout(ranges: &Ranges) -> Layout {
    let extent = |range: &Range| Extent {
        range: *range,
        offset: range.gpa,
    };
    let extents: Vec<_> = ranges.as_slice().iter().map(extent).collect();
    let end = |extent: &Extent| extent.offset + extent.range.size;
    Layout {
        ranges: ranges.clone(),
        headers: Vec::new(),
        size: extents.last().map_or(0, end),
        extents,
    }
}
