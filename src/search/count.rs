// SPDX-License-Identifier: GPL-2.0

//! Counting the pages of memory that was not searched, while the guest runs.

use kernel::prelude::*;

use super::{
    chunk::{
        Chunk,
        Counted, //
    },
    queue::Cursor, //
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
    }, //
};

/// What was not searched.
pub(super) struct Left {
    /// What comes from here on.
    pub(super) cursor: Cursor,
    /// The rest of these chunks, which nobody has searched to their end.
    pub(super) returned: KVec<Chunk>,
}

/// Counts what was not searched, slot by slot: of memory that was to be read, what is `left`.
/// Calls `add` with the index of each slot and what was counted in it.
///
/// # Errors
///
/// [`Interrupted::Stopped`] if `windows` were told to stop. `ENOMEM`. What was counted before is
/// added.
pub(super) fn count_all(
    windows: &Windows<'_>,
    left: &Left,
    held: &mut HeldPages,
    mut add: impl FnMut(usize, &Counted),
) -> Result<(), Interrupted> {
    let (map, ranges) = (windows.map, windows.ranges);
    for (index, slot) in map.slots().iter().enumerate() {
        let mut counted = Counted::default();
        let mut visit = |first, end, is_asked: bool| {
            windows.visit(slot, first, end, held, |step| {
                match step {
                    Step::Absent(absence, count) => {
                        counted.pages.add_absent(absence, count);
                        if is_asked && absence.has_content() {
                            counted.missing = counted.missing.saturating_add(count);
                        }
                    }
                    Step::Window(window, _) => {
                        counted.pages.present =
                            counted.pages.present.saturating_add(window.pages());
                    }
                }
                task::cond_resched();
                Ok(())
            })
        };
        let searched_to = match left.cursor {
            Cursor::All { slot: next, page } if index == next => page,
            Cursor::All { slot: next, .. } if index > next => 0,
            _ => slot.pages,
        };
        let mut private = Counted::default();
        let mut count = |plan, first: u64, end: u64| {
            // What the search has left out, part by part.
            let for_each_left = |visit: &mut dyn FnMut(u64, u64) -> Result<(), Interrupted>| {
                for chunk in &left.returned {
                    if chunk.extent.slot == index {
                        visit(first.max(chunk.first), end.min(chunk.extent.end))?;
                    }
                }
                visit(first.max(searched_to), end)
            };
            match plan {
                Plan::Read => for_each_left(&mut |first, end| visit(first, end, true)),
                Plan::Private { is_asked } => {
                    let mut add = |first, end: u64| {
                        let pages = end.saturating_sub(first);
                        private.pages.private = private.pages.private.saturating_add(pages);
                        if is_asked {
                            private.missing = private.missing.saturating_add(pages);
                        }
                        Ok(())
                    };
                    if is_asked {
                        for_each_left(&mut add)
                    } else {
                        add(first, end)
                    }
                }
                Plan::Count | Plan::SharedWithNormal => visit(first, end, false),
            }
        };
        let result = map.for_each_stretch(ranges, slot, 0, slot.pages, &mut count);
        add(index, &counted);
        add(index, &private);
        result?;
    }
    Ok(())
}
