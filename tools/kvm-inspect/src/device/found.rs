// SPDX-License-Identifier: GPL-2.0

//! What a search has found.

use std::fmt;

use kvm_inspect_pure::uapi;
use rustix::io::Errno;
use zerocopy::FromZeros;

use super::{Error, PageKind, Session, Vcpus};
use crate::report::Conclusion;

/// How many hits are taken at once.
const HITS_AT_ONCE: usize = 1 << 15;

/// For how many bytes of hits there is room: for those of several hits at least.
const BYTES_AT_ONCE: usize = 1 << 20;

/// How many stretches that are not covered are taken at once.
const UNCOVERED_AT_ONCE: usize = 1024;

/// What a search has found. The session keeps it until its next search: then the rest cannot be
/// asked for any more.
#[derive(Debug)]
pub struct Found<'a> {
    session: &'a Session,
    /// Which search of the session this is.
    number: u64,
    answer: uapi::Search,
}

/// A place where a pattern was found. Hits are ordered as in a report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// The address space of its slot: 1 in system management mode, else 0.
    pub address_space: u16,
    /// The guest-physical address of its first byte.
    pub gpa: u64,
    /// The number of the pattern, from 0.
    pub pattern: u32,
    /// The number of its memslot.
    pub slot: i16,
    /// The address of its first byte in the VMM.
    pub hva: u64,
    /// How many of the bytes come before its own.
    pub before: u16,
    /// Its bytes and those on both sides; none if no context was asked for.
    pub bytes: Vec<u8>,
}

impl<'a> Found<'a> {
    pub(super) const fn new(session: &'a Session, number: u64, answer: &uapi::Search) -> Self {
        Self {
            session,
            number,
            answer: *answer,
        }
    }

    /// Returns the figures of the search, as the device gives them.
    #[must_use]
    pub const fn figures(&self) -> &uapi::Search {
        &self.answer
    }

    /// Returns what came of the search; [`None`] if this version does not know the module's answer.
    #[must_use]
    pub const fn conclusion(&self) -> Option<Conclusion> {
        conclusion(self.answer.result)
    }

    /// Returns whether all hits are kept.
    #[must_use]
    pub fn has_all_hits(&self) -> bool {
        self.answer.hits <= u64::from(self.answer.kept)
    }

    /// Returns how many pages of each kind there are in all slots, without kinds of which there is
    /// none.
    #[must_use]
    pub fn kinds(&self) -> Vec<(PageKind, u64)> {
        kinds(&self.answer.kinds)
    }

    /// Returns the hits that are kept, in ascending order. They are taken from the session while
    /// the iterator is asked for them. After an error the iterator ends.
    #[must_use]
    pub fn hits(&self) -> Hits<'a> {
        Hits {
            session: self.session,
            number: self.number,
            taken: 0,
            kept: u64::from(self.answer.kept),
            batch: Vec::new().into_iter(),
            bytes: Vec::new(),
        }
    }

    /// Returns the memslots of the search, with counts of pages.
    ///
    /// # Errors
    ///
    /// `ESTALE`: there was another search since. Others are those of the module.
    pub fn slots(&self) -> Result<Vec<uapi::Slot>, Error> {
        let expected = usize::try_from(self.answer.slots).unwrap_or(0);
        let slots = self.session.slots_of(uapi::OF_SEARCH, expected)?;
        check(self.session, self.number)?;
        Ok(slots)
    }

    /// Returns the vCPUs of the first pause, with their registers.
    ///
    /// # Errors
    ///
    /// As [`Found::slots`].
    pub fn vcpus(&self) -> Result<Vec<uapi::Vcpu>, Error> {
        let expected = usize::try_from(self.answer.vcpus).unwrap_or(0);
        let Vcpus { vcpus, .. } = self.session.vcpus_of(uapi::OF_SEARCH, 0, expected)?;
        check(self.session, self.number)?;
        Ok(vcpus)
    }

    /// Returns the memory that is not covered in one instant.
    ///
    /// # Errors
    ///
    /// As [`Found::slots`].
    pub fn uncovered(&self) -> Result<Vec<uapi::Uncovered>, Error> {
        let mut all = Vec::new();
        let expected = usize::try_from(self.answer.uncovered).unwrap_or(usize::MAX);
        while all.len() < expected {
            let room = UNCOVERED_AT_ONCE.min(expected.saturating_sub(all.len()));
            let batch = uapi::Uncovered::new_vec_zeroed(room);
            let mut batch = batch.map_err(|_| Error::of_call(Errno::NOMEM))?;
            let first = u64::try_from(all.len()).unwrap_or(u64::MAX);
            let count = self.session.device.uncovered(first, &mut batch);
            let count = count.map_err(|errno| self.session.error(errno))?;
            check(self.session, self.number)?;
            if count == 0 {
                return Err(Error::of_answer(
                    "the module's list of uncovered memory ends early",
                ));
            }
            batch.truncate(count);
            all.append(&mut batch);
        }
        Ok(all)
    }
}

/// The hits of a search that are kept, see [`Found::hits`].
pub struct Hits<'a> {
    session: &'a Session,
    number: u64,
    /// How many were taken from the session.
    taken: u64,
    /// How many there are.
    kept: u64,
    batch: std::vec::IntoIter<uapi::Hit>,
    /// Those of the batch.
    bytes: Vec<u8>,
}

impl Hits<'_> {
    /// Takes the next hits.
    fn take(&mut self) -> Result<(), Error> {
        let no_memory = |_| Error::of_call(Errno::NOMEM);
        let mut batch = uapi::Hit::new_vec_zeroed(HITS_AT_ONCE).map_err(no_memory)?;
        self.bytes.resize(BYTES_AT_ONCE, 0);
        let count = self
            .session
            .device
            .hits(self.taken, &mut batch, &mut self.bytes);
        let count = count.map_err(|errno| self.session.error(errno))?;
        check(self.session, self.number)?;
        if count == 0 {
            return Err(Error::of_answer("the module's list of hits ends early"));
        }
        batch.truncate(count);
        self.taken = self
            .taken
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        self.batch = batch.into_iter();
        Ok(())
    }

    fn hit(&self, hit: &uapi::Hit) -> Result<Hit, Error> {
        let bytes = usize::try_from(hit.bytes).ok().and_then(|first| {
            let end = first.checked_add(usize::from(hit.length))?;
            self.bytes.get(first..end)
        });
        let bytes = bytes.filter(|bytes| usize::from(hit.before) <= bytes.len());
        let bytes = bytes.ok_or_else(|| Error::of_answer("a hit's bytes make no sense"))?;
        Ok(Hit {
            address_space: hit.address_space,
            gpa: hit.gpa,
            pattern: hit.pattern,
            slot: hit.slot,
            hva: hit.hva,
            before: hit.before,
            bytes: bytes.to_vec(),
        })
    }
}

impl Iterator for Hits<'_> {
    type Item = Result<Hit, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(hit) = self.batch.next() {
                return Some(self.hit(&hit));
            }
            if self.taken >= self.kept {
                return None;
            }
            if let Err(error) = self.take() {
                self.taken = self.kept;
                return Some(Err(error));
            }
        }
    }
}

impl fmt::Debug for Hits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Hits");
        fields.field("taken", &self.taken).field("kept", &self.kept);
        fields.finish_non_exhaustive()
    }
}

/// Fails if a search is not the session's last one: then what was read is another's.
fn check(session: &Session, number: u64) -> Result<(), Error> {
    if session.is_last_search(number) {
        Ok(())
    } else {
        Err(Error::new(
            Errno::STALE,
            "there was another search since; take what a search has found before",
        ))
    }
}

/// Returns counts by kinds of pages, without kinds of which there is none.
#[must_use]
pub fn kinds(counts: &[u64; uapi::KINDS]) -> Vec<(PageKind, u64)> {
    let kinds = (0..).map(PageKind::new);
    let counts = kinds.zip(counts.iter().copied());
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Returns what came of a search by its number (`RESULT_*` of [`uapi`]); [`None`] if this version
/// does not know it.
#[must_use]
pub const fn conclusion(number: u32) -> Option<Conclusion> {
    Some(match number {
        uapi::RESULT_OK => Conclusion::Ok,
        uapi::RESULT_NO_PATTERN => Conclusion::NoPattern,
        uapi::RESULT_MEMSLOTS_CHANGED => Conclusion::MemslotsChanged,
        uapi::RESULT_TIME_UP => Conclusion::TimeUp,
        uapi::RESULT_NOT_ONE_INSTANT => Conclusion::NotOneInstant,
        uapi::RESULT_CHANGED => Conclusion::Changed,
        uapi::RESULT_INCOMPLETE => Conclusion::Incomplete,
        uapi::RESULT_VMM_KILLED => Conclusion::VmmKilled,
        uapi::RESULT_VM_CLOSED => Conclusion::VmClosed,
        _ => return None,
    })
}
