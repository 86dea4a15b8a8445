// SPDX-License-Identifier: GPL-2.0

//! KSM: the kernel merges pages with the same contents.

use std::fs;

use crate::process::wait_until;

/// Returns how many pages the kernel has freed by merging.
pub(crate) fn merged_pages() -> u64 {
    let value = fs::read_to_string("/sys/kernel/mm/ksm/pages_sharing");
    let value = value.expect("the kernel can merge pages");
    value.trim().parse().expect("a number")
}

/// Lets the kernel merge pages until it has freed at least `count`, and then stops it. The pages
/// stay merged.
pub(crate) fn merge_pages(count: u64) {
    // Without rest, and without skipping pages that it could not merge before.
    for (name, value) in [
        ("sleep_millisecs", "0"),
        ("pages_to_scan", "2000"),
        ("smart_scan", "0"),
        ("run", "1"),
    ] {
        set(name, value);
    }
    let mut merged = merged_pages();
    while merged < count {
        wait_until("more merged pages", || merged_pages() > merged);
        merged = merged_pages();
    }
    set("run", "0");
}

fn set(name: &str, value: &str) {
    fs::write(format!("/sys/kernel/mm/ksm/{name}"), value)
        .unwrap_or_else(|error| panic!("{name} of KSM: {error}"));
}
