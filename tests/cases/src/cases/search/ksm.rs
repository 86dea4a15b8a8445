// SPDX-License-Identifier: GPL-2.0

//! Merged pages (KSM).

use crate::{
    cases::secret,
    inspect::{hex, Inspection},
    ksm,
    process::{page_frames, PAGE},
    vmm::{Backing, Vm, Work},
};

const GPA: u64 = 1 << 30;
const PAGES: u64 = 2048;

/// Hits in merged pages are found at each of their addresses, and across the border of a page with
/// itself. The pages stay merged.
pub(super) fn ksm() {
    let mut vm = Vm::running(Work::Count);
    let memory = vm.add_memory(GPA, PAGES * PAGE, Backing::Anonymous);
    memory.let_merge();
    // Runs of equal pages. Each begins with the end of the secret and ends with its beginning. Some
    // have all of it in the middle.
    let secret = secret(210, 24);
    let kind = |page: u64| page / 8 % 4;
    for page in 0..PAGES {
        let offset = page * PAGE;
        memory.write(offset, &secret[10..]);
        memory.write(offset + 1000, &kind(page).to_le_bytes());
        if kind(page) == 1 {
            memory.write(offset + 2000, &secret);
        }
        memory.write(offset + PAGE - 10, &secret[..10]);
    }
    let mut places = Vec::new();
    for page in 0..PAGES {
        let gpa = GPA + page * PAGE;
        if kind(page) == 1 {
            places.push(gpa + 2000);
        }
        if page + 1 < PAGES {
            places.push(gpa + PAGE - 10);
        }
    }
    // More pages may be merged, but only of this memory.
    ksm::merge_pages(PAGES * 9 / 10);
    let frames = || page_frames(memory.address(), PAGES);
    let before = frames();
    let mut distinct = before.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() < 256, "{} page frames", distinct.len());

    let expected = vm.hits(0, &places);
    let inspection = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .set("max_hits", 4096);
    for access in ["linear", "vmap", "copy"] {
        let report = inspection.clone().set("access", access).report();
        assert_eq!(report.hits, expected, "{access}");
        assert_eq!(report.done.hits, places.len() as u64);
        vm.assert_slots(&report);
        assert!(frames() == before, "they are merged as before");
    }

    // A page that the VMM writes to has its own contents again. The others keep theirs.
    let own = 8 * 5 + 3;
    assert_eq!(kind(own), 1);
    memory.write(own * PAGE + 2000, &[0]);
    places.retain(|place| *place != GPA + own * PAGE + 2000);
    let report = inspection.report();
    assert_eq!(report.hits, vm.hits(0, &places));
    vm.wait_until_it_goes_on();
    vm.finish();
}
