// SPDX-License-Identifier: GPL-2.0

//! Any tables: each address leads where it was mapped to, and nowhere else.

use kvm_inspect_tool::paging::{Fault, Run, RunLimit};
use proptest::{prelude::*, sample::select};

use crate::builder::{Builder, Form, FORMS, NO_EXECUTE, USER, WRITABLE};

/// A page that is mapped.
#[derive(Clone, Copy, Debug)]
struct Page {
    gva: u64,
    gpa: u64,
    size: u32,
    bits: u64,
}

fn page(form: Form) -> impl Strategy<Value = Page> {
    let near = prop_oneof![
        any::<u64>(),
        // Neighbours, at the ends of the address space, too.
        (0..64_u64).prop_map(|page| page << 12),
        (0..64_u64).prop_map(|page| (page << 12).wrapping_neg()),
        (0..16_u64).prop_map(|page| page << 21),
    ];
    let gpa = prop_oneof![any::<u64>(), (0..64_u64).prop_map(|page| page << 12)];
    let bits = (any::<bool>(), any::<bool>(), any::<bool>());
    (near, gpa, select(form.page_sizes()), bits).prop_map(move |(gva, gpa, size, bits)| {
        let whole = !((1 << size) - 1);
        let width = match (form, size) {
            (Form::Legacy, 12) => 32,
            (Form::Legacy, _) => 40,
            _ => 52,
        };
        let choose = |set, bit| if set { bit } else { 0 };
        let (writable, user, executable) = bits;
        Page {
            gva: form.canonical(gva) & whole,
            gpa: (gpa % (1 << width)) & whole,
            size,
            bits: choose(writable, WRITABLE) | choose(user, USER) | choose(!executable, NO_EXECUTE),
        }
    })
}

/// Returns tables, and the pages that they map, by their addresses.
fn tables() -> impl Strategy<Value = (Builder, Vec<Page>)> {
    let pages = select(&FORMS[..]).prop_flat_map(|form| {
        let pages = prop::collection::vec(page(form), 1..40);
        pages.prop_map(move |pages| (form, pages))
    });
    pages.prop_map(|(form, pages)| {
        let mut tables = Builder::new(form);
        let mut mapped: Vec<Page> = Vec::new();
        for page in pages {
            if tables.map(page.gva, page.gpa, page.size, page.bits) {
                mapped.push(page);
            }
        }
        mapped.sort_by_key(|page| page.gva);
        (tables, mapped)
    })
}

proptest! {
    #[test]
    fn each_address_leads_where_it_was_mapped_to(
        (tables, pages) in tables(),
        which in any::<prop::sample::Index>(),
        offset in any::<u64>(),
    ) {
        let page = which.get(&pages);
        let offset = offset % (1 << page.size);
        let found = tables.view().translate(page.gva + offset).expect("it is mapped");
        prop_assert_eq!((found.gpa, found.page_size), (page.gpa + offset, 1 << page.size));
        let legacy = tables.form == Form::Legacy;
        prop_assert_eq!(found.access.writable, page.bits & WRITABLE != 0);
        prop_assert_eq!(found.access.user, page.bits & USER != 0);
        prop_assert_eq!(found.access.executable, legacy || page.bits & NO_EXECUTE == 0);
    }

    #[test]
    fn other_addresses_lead_nowhere((tables, pages) in tables(), gva in any::<u64>()) {
        let gva = tables.form.canonical(gva);
        let mut pages = pages.iter();
        if !pages.any(|page| gva >= page.gva && gva - page.gva < 1 << page.size) {
            let is_absent = matches!(tables.view().translate(gva), Err(Fault::NotPresent { .. }));
            prop_assert!(is_absent);
        }
    }

    #[test]
    fn runs_are_what_is_mapped(
        (tables, pages) in tables(),
        ends in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<[i16; 2]>()),
    ) {
        // The range begins and ends near pages.
        let (first, last, [before, after]) = ends;
        let near = |page: &Page, by: i16| page.gva.saturating_add_signed(i64::from(by));
        let ends = [near(first.get(&pages), before), near(last.get(&pages), after)];
        for (first, last) in [(ends[0].min(ends[1]), ends[0].max(ends[1])), (0, u64::MAX)] {
            let mut expected: Vec<Run> = Vec::new();
            for page in &pages {
                let end = page.gva + ((1 << page.size) - 1);
                let (from, to) = (page.gva.max(first), end.min(last));
                if from > to {
                    continue;
                }
                let gpa = page.gpa + (from - page.gva);
                let length = to - from + 1;
                match expected.last_mut() {
                    Some(run)
                        if run.gva + (run.length - 1) == from.wrapping_sub(1)
                            && run.gpa + run.length == gpa =>
                    {
                        run.length += length;
                    }
                    _ => expected.push(Run { gva: from, gpa, length }),
                }
            }
            let view = tables.view();
            let runs: Result<Vec<Run>, Fault> =
                view.runs(first..=last, RunLimit::default()).collect();
            prop_assert_eq!(runs.expect("there are few"), expected);
        }
    }
}
