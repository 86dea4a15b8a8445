// SPDX-License-Identifier: GPL-2.0

//! Looking, while the guest runs, whether memory still is what was searched.

use super::digest::{
    ChunkDigest,
    Digested,
    Home, //
};
use crate::{
    linux::{
        pages::HeldPages,
        task, //
    },
    memory::{
        Interrupted,
        Plan,
        Step,
        Windows, //
    },
    request::Query,
    scan::digest::Key, //
};

/// Digests all memory that was searched, chunk by chunk of at most `chunk_pages`, with what was
/// read beside it. Calls `compare` with the index of the slot, the chunk's first page in it, and
/// the digest.
///
/// # Errors
///
/// [`Interrupted::Stopped`] if `windows` were told to stop. `ENOMEM`.
pub(super) fn digest_all(
    windows: &Windows<'_>,
    query: &Query,
    key: &Key,
    chunk_pages: u64,
    held: &mut HeldPages,
    mut compare: impl FnMut(usize, u64, ChunkDigest),
) -> Result<(), Interrupted> {
    let (map, ranges) = (windows.map, windows.ranges);
    for (index, slot) in map.slots().iter().enumerate() {
        let mut first = 0;
        while first < slot.pages {
            let end = first.saturating_add(chunk_pages).min(slot.pages);
            let home = Home::new(slot, first, end);
            let mut digest = ChunkDigest::default();
            map.for_each_stretch(ranges, slot, first, end, |plan, first, end| {
                if plan != Plan::Read {
                    return Ok(());
                }
                windows.visit(slot, first, end, held, |step| {
                    if let Step::Window(window, pages) = step {
                        let digested = Digested {
                            query,
                            key,
                            view: &pages.view()?,
                            window,
                        };
                        let pages = window.page..window.page.saturating_add(window.pages());
                        digest.add_before(&digested, home);
                        digest.add_pages(&digested, pages);
                        digest.add_after(&digested, home);
                    }
                    Ok(())
                })
            })?;
            compare(index, first, digest);
            task::cond_resched();
            first = end;
        }
    }
    Ok(())
}
