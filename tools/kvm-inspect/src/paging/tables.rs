// SPDX-License-Identifier: GPL-2.0

//! The tables that were read last.

use std::{cell::RefCell, io, rc::Rc};

use crate::guest::GuestMemory;

/// How many pages with tables are kept.
const MAX_PAGES: usize = 64;

type Page = Rc<[u8; 4096]>;

/// A small cache of pages with tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    kept: RefCell<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// With their addresses.
    pages: Vec<(u64, Page)>,
    oldest: usize,
}

impl Tables {
    /// Returns the page that holds a table.
    pub(super) fn read(&self, memory: &dyn GuestMemory, table: u64) -> io::Result<Page> {
        let gpa = table & !0xfff;
        let mut kept = self.kept.borrow_mut();
        if let Some((_, page)) = kept.pages.iter().find(|(other, _)| *other == gpa) {
            return Ok(Rc::clone(page));
        }
        let mut page = [0; 4096];
        memory.read(gpa, &mut page)?;
        let page = Rc::new(page);
        let new = (gpa, Rc::clone(&page));
        if kept.pages.len() < MAX_PAGES {
            kept.pages.push(new);
        } else {
            let oldest = kept.oldest;
            kept.pages[oldest] = new;
            kept.oldest = (oldest + 1) % MAX_PAGES;
        }
        Ok(page)
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.kept.take();
    }
}
