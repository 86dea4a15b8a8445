// SPDX-License-Identifier: GPL-2.0

//! Pages with the same contents that the kernel makes one of (KSM).

use std::fs;

use crate::process::wait_until;

/// How many places the kernel has freed by merging, which is how many pages look the same as others.
pub(crate) fn merged_pages() -> u64 {
    let value = fs::read_to_string("/sys/kernel/mm/ksm/pages_sharing");
    let value = value.expect("the kernel can merge pages");
    value.trim().parse().expect("a number")
}

/// Has the kernel merge pages that it may merge until at least `wanted` are, and then no more. What
/// is merged stays so.
pub(crate) fn merge_pages(wanted: u64) {
    // Without rest, and without passing by pages that had to wait before.
    for (name, value) in [
        ("sleep_millisecs", "0"),
        ("pages_to_scan", "2000"),
        ("smart_scan", "0"),
        ("run", "1"),
    ] {
        set(name, value);
    }
    let mut merged = merged_pages();
    while merged < wanted {
        wait_until("more merged pages", || merged_pages() > merged);
        merged = merged_pages();
    }
    set("run", "0");
}

fn set(name: &str, value: &str) {
    fs::write(format!("/sys/kernel/mm/ksm/{name}"), value)
        .unwrap_or_else(|error| panic!("{name} of KSM: {error}"));
}
