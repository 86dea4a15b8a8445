// SPDX-License-Identifier: GPL-2.0

//! What a manifest tells of the memory in a file.

use std::collections::BTreeMap;

use schemars::{json_schema, JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::core::{Layout, PageKind, PageMap, Run, Writer, Written, PAGE_SIZE};

/// The most runs that a manifest lists, some megabytes of text.
pub const MAX_RUNS: usize = 65_536;

/// The memory in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// Who reads the file sees what the guest saw: all pages are `present`, `untouched` or
    /// `unmapped`.
    pub complete: bool,
    /// The size of a page in bytes.
    pub page_size: u64,
    /// The RAM, in ascending order.
    pub ranges: Vec<FileRange>,
    /// How many pages of each kind there are.
    #[schemars(schema_with = "page_counts")]
    pub pages: BTreeMap<PageKind, u64>,
    /// All pages that are not `present`, in ascending order.
    pub runs: Vec<Run>,
    /// How many runs are not listed, because there are more than 65,536. Those that are `untouched`
    /// or `unmapped` are left out first, then those with the highest addresses.
    pub runs_omitted: u64,
}

/// A range of RAM in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileRange {
    /// Its first guest-physical address.
    pub gpa: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Where it begins in the file.
    pub offset: u64,
}

/// Returns the schema of counts for all kinds of pages.
fn page_counts(generator: &mut SchemaGenerator) -> Schema {
    let kinds = PageKind::ALL.iter().map(serde_json::to_value);
    let kinds: Vec<_> = kinds.flatten().collect();
    let names = kinds.iter().filter_map(Value::as_str);
    let counts = names.map(|name| (name.to_owned(), generator.subschema_for::<u64>().into()));
    let counts: Map<String, Value> = counts.collect();
    json_schema!({ "type": "object", "properties": counts, "required": kinds })
}

impl Memory {
    /// Returns what a writer has done.
    #[must_use]
    pub fn new(layout: &Layout, pages: &PageMap) -> Self {
        let ranges = layout.extents().iter().map(|extent| FileRange {
            gpa: extent.range.gpa,
            size: extent.range.size,
            offset: extent.offset,
        });
        let mut counts: BTreeMap<_, _> = PageKind::ALL.iter().map(|kind| (*kind, 0)).collect();
        counts.extend(pages.counts());
        let runs = || pages.runs().filter(|run| run.kind != PageKind::Present);
        let all = runs().count();
        let mut listed: Vec<_>;
        if all <= MAX_RUNS {
            listed = runs().collect();
        } else {
            let harmful = runs().filter(|run| !run.kind.is_faithful());
            listed = harmful.take(MAX_RUNS).collect();
            // What is left of the room is for the others.
            let others = runs().filter(|run| run.kind.is_faithful());
            listed.extend(others.take(MAX_RUNS - listed.len()));
            listed.sort_by_key(|run| run.gpa);
        }
        Self {
            complete: pages.runs().all(|run| run.kind.is_faithful()),
            page_size: PAGE_SIZE,
            ranges: ranges.collect(),
            pages: counts,
            runs_omitted: (all - listed.len()) as u64,
            runs: listed,
        }
    }
}

impl From<&Written> for Memory {
    fn from(written: &Written) -> Self {
        Self::new(&written.layout, &written.pages)
    }
}

impl From<&Writer> for Memory {
    fn from(writer: &Writer) -> Self {
        Self::new(writer.layout(), writer.pages())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{raw, Range, Ranges};

    /// Returns what is told of pages that are `present` and another kind by turns.
    fn alternating(first: PageKind, pages: u64, second: PageKind) -> Memory {
        let ranges = Ranges::new([Range::new(0, pages * PAGE_SIZE)]).expect("a range");
        let mut map = PageMap::new(&ranges).expect("memory");
        let kinds = map.kinds_mut(ranges.as_slice()[0]).expect("RAM");
        let half = kinds.len() / 2;
        for (index, kind) in kinds.iter_mut().enumerate() {
            *kind = match index % 2 {
                0 => PageKind::Present,
                _ if index < half => first,
                _ => second,
            };
        }
        Memory::new(&raw::layout(&ranges), &map)
    }

    #[test]
    fn what_does_harm_is_listed_first() {
        let pages = 3 * MAX_RUNS as u64;
        let memory = alternating(PageKind::Untouched, pages, PageKind::Swapped);
        assert_eq!(memory.runs.len(), MAX_RUNS);
        assert_eq!(memory.runs_omitted, pages / 2 - MAX_RUNS as u64);
        let swapped = |run: &&Run| run.kind == PageKind::Swapped;
        let listed = memory.runs.iter().filter(swapped).count();
        assert_eq!(listed as u64, pages / 4);
        assert_eq!(memory.pages[&PageKind::Swapped], pages / 4);
        assert!(memory.runs.is_sorted_by_key(|run| run.gpa));
        assert!(!memory.complete);
    }

    #[test]
    fn memory_is_complete_if_zeros_are_right_where_pages_are_absent() {
        let complete = |kind| alternating(PageKind::Untouched, 8, kind).complete;
        for kind in PageKind::ALL {
            let expected = matches!(
                kind,
                PageKind::Present | PageKind::Untouched | PageKind::Unmapped
            );
            assert_eq!(complete(*kind), expected, "{kind:?}");
        }
    }
}
