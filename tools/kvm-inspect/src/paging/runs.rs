// SPDX-License-Identifier: GPL-2.0

//! What an address space maps.

use std::{
    ops::{Range, RangeInclusive},
    rc::Rc,
};

use super::{
    entry::{Entry, Level},
    tables::Tables,
    virtual_memory::Fault,
    AddressSpace, Mode,
};
use crate::guest::{GuestMemory, OutsideRam};

/// A range of virtual addresses that is one range of physical addresses, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first virtual address.
    pub gva: u64,
    /// The first guest-physical address.
    pub gpa: u64,
    /// How many bytes.
    pub length: u64,
}

impl Run {
    /// Returns the parts of it that are in these ranges of guest-physical addresses.
    pub fn in_ram<'a>(&self, ranges: &'a [Range<u64>]) -> impl Iterator<Item = Self> + 'a {
        let run = *self;
        let end = run.gpa.saturating_add(run.length);
        let first = ranges.partition_point(|range| range.end <= run.gpa);
        let ranges = ranges.iter().skip(first);
        let ranges = ranges.take_while(move |range| range.start < end);
        ranges.map(move |range| {
            let gpa = run.gpa.max(range.start);
            Self {
                gva: run.gva + (gpa - run.gpa),
                gpa,
                length: end.min(range.end) - gpa,
            }
        })
    }
}

/// How much work [`Runs`] may be.
///
/// A guest can make tables that contain themselves, and so map more than anyone can list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimit {
    /// How many tables are looked at.
    pub tables: u64,
    /// How many runs are returned.
    pub runs: u64,
}

impl Default for RunLimit {
    /// Returns a limit that is some seconds of work. A guest that maps a TiB by small pages is
    /// within it.
    fn default() -> Self {
        Self {
            tables: 1 << 20,
            runs: 1 << 16,
        }
    }
}

/// The iterator of [`VirtualMemory::runs`](super::VirtualMemory::runs). It ends with its first
/// error: [`Fault::Limit`] or [`Fault::Memory`].
pub struct Runs<'a> {
    memory: &'a dyn GuestMemory,
    tables: &'a Tables,
    space: AddressSpace,
    first: u64,
    last: u64,
    limit: RunLimit,
    /// The tables on the way to the next entry, the root's first.
    path: Vec<Position>,
    /// The run that may still grow.
    pending: Option<Run>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    Walking,
    Ended,
}

/// Where in a table the iterator is.
struct Position {
    table: u64,
    page: Rc<[u8; 4096]>,
    level: Level,
    /// The virtual address of the first entry, not yet sign-extended.
    base: u64,
    next: u64,
}

impl<'a> Runs<'a> {
    pub(super) fn new(
        memory: &'a dyn GuestMemory,
        tables: &'a Tables,
        space: AddressSpace,
        range: RangeInclusive<u64>,
        limit: RunLimit,
    ) -> Self {
        Self {
            memory,
            tables,
            space,
            first: *range.start(),
            last: *range.end(),
            limit,
            path: Vec::new(),
            pending: None,
            state: State::Start,
        }
    }

    /// Puts a table on the path, unless it is outside of RAM.
    fn enter(&mut self, level: Level, table: u64, base: u64) -> Result<(), Fault> {
        let tables = self.limit.tables.checked_sub(1);
        self.limit.tables = tables.ok_or(Fault::Limit)?;
        let page = match self.tables.read(self.memory, table) {
            Ok(page) => page,
            Err(error) if OutsideRam::is(&error) => return Ok(()),
            Err(error) => return Err(Fault::Memory(error)),
        };
        let position = Position {
            table,
            page,
            level,
            base,
            next: 0,
        };
        self.path.push(position);
        Ok(())
    }

    /// Begins with the first table.
    fn start(&mut self) -> Result<(), Fault> {
        let space = self.space;
        match space.mode.levels().first() {
            Some(level) => self.enter(*level, space.root, 0),
            None => Ok(()),
        }
    }

    /// Returns the next page that is in the range.
    fn next_page(&mut self) -> Result<Option<Run>, Fault> {
        while let Some(position) = self.path.last_mut() {
            let level = position.level;
            if position.next == level.count() {
                self.path.pop();
                continue;
            }
            let index = position.next;
            position.next += 1;
            let base = position.base + index * level.size();
            let first = self.space.mode.extended(base);
            let last = first + (level.size() - 1);
            if last < self.first {
                continue;
            }
            if first > self.last {
                // What follows is higher.
                self.path.clear();
                break;
            }
            match self
                .space
                .entry(level, position.table, &position.page, index)
            {
                Entry::Empty | Entry::Reserved => (),
                Entry::Table(table, _) => {
                    if let Some(level) = self.space.mode.levels().get(self.path.len()) {
                        self.enter(*level, table, base)?;
                    }
                }
                Entry::Page(gpa, _) => return Ok(Some(self.clip(first, gpa, last - first))),
            }
        }
        Ok(None)
    }

    /// Returns the part of a page that is in the range. The last offset in it is given, as a size
    /// might be all virtual addresses.
    fn clip(&self, gva: u64, gpa: u64, last_offset: u64) -> Run {
        let start = self.first.saturating_sub(gva);
        let end = last_offset.min(self.last - gva);
        Run {
            gva: gva + start,
            gpa: gpa + start,
            length: (end - start) + 1,
        }
    }

    /// Returns the next run, as long as it gets.
    fn next_run(&mut self) -> Result<Option<Run>, Fault> {
        while let Some(page) = self.next_page()? {
            match &mut self.pending {
                Some(run) if run.is_followed_by(&page) => run.length += page.length,
                pending => {
                    if let Some(run) = pending.replace(page) {
                        return Ok(Some(run));
                    }
                }
            }
        }
        Ok(self.pending.take())
    }

    /// Returns the only run there is without paging.
    fn identity(&self) -> Option<Run> {
        let last = self.last.min(0xffff_ffff);
        (self.first <= last).then(|| self.clip(0, 0, last))
    }
}

impl Run {
    fn is_followed_by(&self, page: &Self) -> bool {
        let follows = |first: u64, next| first.checked_add(self.length) == Some(next);
        follows(self.gva, page.gva) && follows(self.gpa, page.gpa)
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<Run, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match self.state {
            State::Ended => return None,
            State::Start if self.first > self.last => Ok(None),
            State::Start if self.space.mode == Mode::Off => {
                self.state = State::Ended;
                return self.identity().map(Ok);
            }
            State::Start => self.start().and_then(|()| self.next_run()),
            State::Walking => self.next_run(),
        };
        self.state = State::Walking;
        let result = match result {
            Ok(Some(_)) if self.limit.runs == 0 => Err(Fault::Limit),
            result => result,
        };
        match result {
            Ok(Some(run)) => {
                self.limit.runs -= 1;
                Some(Ok(run))
            }
            Ok(None) => {
                self.state = State::Ended;
                None
            }
            Err(fault) => {
                self.state = State::Ended;
                Some(Err(fault))
            }
        }
    }
}
