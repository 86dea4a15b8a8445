// SPDX-License-Identifier: GPL-2.0

//! What a search says before its hits: how far to trust it, and what is missing and why.

use super::super::units::{Count, Size, Time};
use crate::{json, report::Conclusion};

/// The most stretches of memory that are listed as text. JSON has all of them.
const MAX_LISTED: usize = 16;

/// Returns the word of a result, and what it means.
pub(super) const fn words(conclusion: Option<Conclusion>) -> (&'static str, &'static str) {
    match conclusion {
        Some(Conclusion::Ok) => (
            "ok",
            "everything that has content was searched, as it was in one instant",
        ),
        Some(Conclusion::NoPattern) => ("no_pattern", "nothing was searched"),
        Some(Conclusion::Incomplete) => (
            "incomplete",
            "some memory has content and could not be searched",
        ),
        Some(Conclusion::MemslotsChanged) => (
            "memslots_changed",
            "the VMM changed memslots meanwhile; the others were searched",
        ),
        Some(Conclusion::VmmKilled) => ("vmm_killed", "the VMM was killed meanwhile"),
        Some(Conclusion::VmClosed) => ("vm_closed", "the VMM has closed the VM meanwhile"),
        Some(Conclusion::TimeUp) => ("time_up", "the search ended early: pauses are too short"),
        Some(Conclusion::NotOneInstant) => (
            "not_one_instant",
            "the guest may have run while it was searched",
        ),
        Some(Conclusion::Changed) => ("changed", "some memory changed each time it was searched"),
        None => (
            "unknown",
            "the module's answer is not known; use the kvm-inspect of the same version",
        ),
    }
}

/// Returns the lines after the first one.
pub(super) fn details(search: &json::Search<(), ()>) -> Vec<String> {
    let done = &search.done;
    let us = |us: u64| Time(us.saturating_mul(1000));
    let mut lines = vec![format!(
        "{} in {}; {}, the longest {}, all {}; {} by {} in {}",
        Count(done.hits, "hit"),
        Size(done.scanned_bytes),
        Count(done.pauses.into(), "pause"),
        us(done.pause_us),
        us(done.paused_us),
        done.engine,
        Count(done.threads.into(), "thread"),
        us(done.scan_us),
    )];
    if done.missing_pages > 0 {
        lines.push(missing(search));
    }
    if let Some(left) = search.left {
        lines.push(format!(
            "left: from {:#x} on (as={}) memory was not searched; give longer pauses (--max-pause)",
            left.gpa, left.address_space
        ));
    }
    lines.extend(stretches("lost", &search.lost));
    lines.extend(stretches("uncovered", &search.uncovered));
    if done.uncovered_bytes > 0 {
        lines.push(format!(
            "uncovered: {} in all; search in one pause (--one-pause)",
            Size(done.uncovered_bytes)
        ));
    }
    let running = search.vcpu.iter().filter(|vcpu| vcpu.state == "running");
    lines.extend(running.map(|vcpu| {
        let id = vcpu.id;
        format!("running: vcpu {id} did not stop in time; wait longer (--freeze-timeout)")
    }));
    if done.late_threads > 0 {
        lines.push(format!(
            "late: {} got too little of a CPU; use fewer (--threads)",
            Count(done.late_threads.into(), "thread")
        ));
    }
    lines
}

/// Returns the line about pages that could not be searched.
fn missing(search: &json::Search<(), ()>) -> String {
    let kinds = &search.memory.kinds;
    let counts = kinds
        .named()
        .into_iter()
        .filter(|(name, count)| *count > 0 && !["present", "untouched", "unmapped"].contains(name));
    let counts: Vec<String> = counts
        .map(|(name, count)| format!("{name}={count}"))
        .collect();
    let mut line = format!(
        "missing: {} that have content (in all slots: {})",
        Count(search.done.missing_pages, "page"),
        counts.join(" ")
    );
    if kinds.swapped > 0 || kinds.in_file > 0 {
        line.push_str("; --bring-in brings in what is swapped or in a file");
    }
    line
}

/// Returns a line for each stretch of memory.
fn stretches(what: &str, all: &[json::Stretch]) -> Vec<String> {
    let listed = all.iter().take(MAX_LISTED);
    let mut lines: Vec<String> = listed
        .map(|stretch| {
            let size = stretch.pages.saturating_mul(4096);
            let last = stretch.gpa.saturating_add(size.saturating_sub(1));
            let json::Stretch {
                address_space,
                slot,
                gpa,
                ..
            } = stretch;
            format!("{what}: {gpa:#x}-{last:#x} (as={address_space} slot={slot})")
        })
        .collect();
    let more = all.len().saturating_sub(MAX_LISTED);
    if more > 0 {
        lines.push(format!("{what}: {more} more; --json lists them"));
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::device::PageKind;

    /// What a search says that has missed much.
    pub(crate) fn search() -> json::Search<(), ()> {
        let kinds = [(PageKind::Present, 9), (PageKind::Swapped, 2)]
            .into_iter()
            .collect();
        json::Search {
            json_version: json::Version,
            vm: json::Inspected {
                pid: 812,
                fd: Some(9),
                name: None,
                vcpus: 1,
            },
            pattern: Vec::new(),
            range: Vec::new(),
            done: json::Done {
                result: "incomplete".to_owned(),
                vcpus: 1,
                slots: 1,
                hits: 1,
                scanned_bytes: 9 << 12,
                freeze_us: 5,
                pause_us: 1500,
                scan_us: 900,
                threads: 2,
                engine: "avx2".to_owned(),
                access: "linear".to_owned(),
                pauses: 1,
                paused_us: 1500,
                rescanned_bytes: 0,
                uncovered_bytes: 0,
                missing_pages: 2,
                chunk_bytes: 0,
                late_threads: 0,
            },
            memory: json::Pages::new(kinds),
            vcpu: Vec::new(),
            slot: Vec::new(),
            left: None,
            lost: Vec::new(),
            uncovered: Vec::new(),
            hit: (),
            end: (),
        }
    }

    #[test]
    fn what_is_missing_has_a_line_and_a_way_out() {
        let mut search = search();
        assert_eq!(
            details(&search),
            [
                "1 hit in 36.0 KiB; 1 pause, the longest 1.5 ms, all 1.5 ms; avx2 by 2 threads in \
                 900 µs",
                "missing: 2 pages that have content (in all slots: swapped=2); --bring-in brings \
                 in what is swapped or in a file",
            ]
        );
        search.left = Some(json::Place {
            address_space: 0,
            gpa: 0x1000,
        });
        let stretch = json::Stretch {
            address_space: 1,
            slot: 3,
            gpa: 0x2000,
            pages: 2,
        };
        search.uncovered = vec![stretch; 20];
        search.done.uncovered_bytes = 40 * 4096;
        let lines = details(&search);
        assert!(lines.contains(&"uncovered: 0x2000-0x3fff (as=1 slot=3)".to_owned()));
        assert!(lines.contains(&"uncovered: 4 more; --json lists them".to_owned()));
        assert!(lines
            .iter()
            .any(|line| line.starts_with("left: from 0x1000 on")));
    }

    #[test]
    fn each_word_is_that_of_the_report() {
        for number in 0..=8 {
            let conclusion = crate::device::conclusion(number);
            let (word, _) = words(conclusion);
            assert_eq!(word.parse::<Conclusion>().ok(), conclusion);
        }
        assert_eq!(words(crate::device::conclusion(9)).0, "unknown");
    }
}
