// SPDX-License-Identifier: GPL-2.0

//! Counting the pages of memory that was not searched, while the guest runs.

use super::queue::{
    Chunk,
    Cursor, //
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

/// The pages of one slot that were not searched.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    /// How many are present.
    pub(super) present: u64,
    /// How many are absent.
    pub(super) absent: u64,
    /// How many are private to the guest.
    pub(super) private: u64,
}

/// Counts what was not searched, slot by slot. Of memory that was to be read, that is what comes
/// from `cursor` on, and the rest of `returned`: chunks that nobody has searched to their end.
/// Calls `add` with the index of each slot and what was counted in it.
///
/// # Errors
///
/// [`Interrupted::Stopped`] if `windows` were told to stop. `ENOMEM`. What was counted before is
/// added.
pub(super) fn count_all(
    windows: &Windows<'_>,
    cursor: Cursor,
    returned: &[Chunk],
    held: &mut HeldPages,
    mut add: impl FnMut(usize, Counted),
) -> Result<(), Interrupted> {
    let (map, ranges) = (windows.map, windows.ranges);
    for (index, slot) in map.slots().iter().enumerate() {
        let (mut present, mut absent, mut private) = (0, 0, 0);
        let mut visit = |first, end| {
            windows.visit(slot, first, end, held, |step| {
                match step {
                    Step::Absent(count) => absent += count,
                    Step::Window(window, _) => present += window.pages(),
                }
                task::cond_resched();
                Ok(())
            })
        };
        let searched_to = match cursor {
            Cursor::All { slot: next, page } if index == next => page,
            Cursor::All { slot: next, .. } if index > next => 0,
            _ => slot.pages,
        };
        let mut count = |plan, first: u64, end: u64| match plan {
            Plan::Read => {
                let chunks = returned.iter();
                for chunk in chunks.filter(|chunk| chunk.slot == index && !chunk.again) {
                    visit(first.max(chunk.first), end.min(chunk.end))?;
                }
                visit(first.max(searched_to), end)
            }
            Plan::Private => {
                private += end - first;
                Ok(())
            }
            Plan::Count | Plan::SharedWithNormal => visit(first, end),
        };
        let result = map.for_each_stretch(ranges, slot, 0, slot.pages, &mut count);
        add(
            index,
            Counted {
                present,
                absent,
                private,
            },
        );
        result?;
    }
    Ok(())
}
