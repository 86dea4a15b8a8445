// SPDX-License-Identifier: GPL-2.0

//! The device of the module, `/dev/kvm_inspect`.
//!
//! A [`Session`] is one open file of it, for one VM. Dropping it ends all that it has begun, also
//! the death of its process does; the guest goes on. Several threads may use one session: the
//! device makes one call after the other, but tells [progress](Session::progress) at any time.

mod call;
mod error;
mod every_hit;
mod found;
mod hold;
mod page_buffer;
mod page_kind;

use std::{
    fmt,
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use kvm_inspect_pure::{range::Range, uapi};
use rustix::{
    io::Errno,
    process::{pidfd_open, Pid, PidfdFlags},
};
use zerocopy::FromZeros;

use self::call::{CopyRoom, Device};
pub use self::{
    error::Error,
    every_hit::{only_in_smm, Batch, EveryHit},
    found::{conclusion, kinds, Found, Hit, Hits},
    hold::{Hold, Released},
    page_buffer::PageBuffer,
    page_kind::PageKind,
};

/// The size of a page, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// The most hits that one search keeps.
pub const MAX_HITS: u32 = 1 << 20;

/// The longest lease of a [`Hold`], in milliseconds.
pub const MAX_LEASE_MS: u32 = 60_000;

/// How many extents are asked for at once.
const EXTENTS_AT_ONCE: usize = 1024;

/// How often a list is asked for again because it has grown meanwhile.
const TRIES: usize = 8;

/// A session with the device: one VM, from [`Session::attach`] on.
#[derive(Debug)]
pub struct Session {
    device: Device,
    /// How many searches were begun.
    searches: AtomicU64,
}

/// The VM of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The VMM's process number, in the PID namespace of this process.
    pub pid: i32,
    /// The VM's descriptor in the VMM, unless the VMM has closed it.
    pub fd: Option<i32>,
    /// How many vCPUs there are now.
    pub vcpus: u32,
}

/// What to do if a vCPU does not stop in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Late {
    /// Let all go on, and fail (`ETIMEDOUT`).
    #[default]
    Refuse,
    /// Go on without it, and report it.
    Report,
}

/// All vCPUs, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vcpus {
    /// The vCPUs with their registers.
    pub vcpus: Vec<uapi::Vcpu>,
    /// How long it took until all had stopped, in nanoseconds.
    pub freeze_ns: u64,
    /// How long the guest stood, in nanoseconds.
    pub pause_ns: u64,
}

/// What to search for, where, and how. The default is a search without a pattern, by the device's
/// own limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The patterns, in the module's notation (`docs/parameters.md`). Commas, spaces and quotes
    /// need no escape here.
    pub patterns: Vec<Vec<u8>>,
    /// Where to search; none: in all memory.
    pub ranges: Vec<Range>,
    /// How many hits to keep, at most [`MAX_HITS`]: those at the lowest addresses.
    pub max_hits: u32,
    /// How many bytes to keep on each side of a hit, at most 64; 0: not even its own.
    pub context: u32,
    /// What to do if a vCPU does not stop in time.
    pub late: Late,
    /// Whether to bring in, before the first pause, what is swapped out or in a file.
    pub bring_in: bool,
    /// How long to wait for all vCPUs to stop, in milliseconds; 0: a second.
    pub freeze_timeout_ms: u32,
    /// The longest pause in milliseconds; 0: a second; [`uapi::NO_LIMIT`]: one pause.
    pub max_pause_ms: u32,
    /// How many threads search at most; 0: as many as there are CPUs.
    pub threads: u32,
    /// One of `ENGINE_*` of [`uapi`].
    pub engine: u32,
    /// One of `ACCESS_*` of [`uapi`].
    pub access: u32,
}

/// How to copy pages. The default copies from address space 0 while the guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyTerms {
    /// 1: what the guest sees in system management mode.
    pub address_space: u32,
    /// Whether to copy all in one pause.
    pub is_paused: bool,
    /// Whether to copy only pages whose digests differ from those given.
    pub only_changed: bool,
    /// How long to wait for all vCPUs to stop, in milliseconds; 0: a second.
    pub freeze_timeout_ms: u32,
    /// The longest pause in milliseconds; 0: a second; [`uapi::NO_LIMIT`]: as long as it takes.
    pub max_pause_ms: u32,
    /// How many threads copy at most; 0: as many as there are CPUs.
    pub threads: u32,
}

/// Where pages are copied to. What is [`None`] is not asked for.
#[derive(Debug, Default)]
pub struct CopyInto<'a> {
    /// A page for each, in their order. Pages that are not there are zeros.
    pub pages: Option<&'a mut PageBuffer>,
    /// A byte for each page, what it is ([`PageKind::new`]).
    pub kinds: Option<&'a mut [u8]>,
    /// 64 bits for each page. In one session, pages with equal digests are equal.
    pub digests: Option<&'a mut [u64]>,
}

/// What came of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// How many pages could be read.
    pub present: u64,
    /// How many were copied.
    pub copied: u64,
    /// How many were not reached in time.
    pub late: u64,
    /// How many threads took part.
    pub threads: u32,
    /// How long it took until all vCPUs had stopped, in nanoseconds.
    pub freeze_ns: u64,
    /// How long the guest stood, in nanoseconds.
    pub pause_ns: u64,
}

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Nothing.
    Nothing,
    /// It searches.
    Search,
    /// It copies.
    Copy,
    /// It holds the guest, and does nothing else.
    Hold,
    /// What this version does not know, by its number.
    Other(u32),
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub doing: Doing,
    /// How many pages are done.
    pub done: u64,
    /// How many pages there are, as far as is known.
    pub all: u64,
    /// How many pauses there were.
    pub pauses: u32,
}

impl Session {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// `ENOENT`: the module is not loaded, or without its device. `EACCES`, `EPERM`: this process
    /// may not open it (it needs root and `CAP_SYS_RAWIO`, and a kernel without lockdown in its
    /// mode `confidentiality`).
    pub fn open() -> Result<Self, Error> {
        let device =
            Device::open().map_err(|errno| Error::of_open(errno, error::OpenFacts::of_kernel()))?;
        Ok(Self {
            device,
            searches: AtomicU64::new(0),
        })
    }

    /// Makes a VM that of the session. A session has one VM.
    ///
    /// `pidfd` is one of the VMM, `vm_fd` the VM's descriptor in the VMM; [`None`] means its only
    /// VM. A session has one VM, for good.
    ///
    /// # Errors
    ///
    /// `ESRCH`: the VMM has ended. `ENOENT`: it has no such VM. `EOPNOTSUPP`: the guest is
    /// protected. Others are those of the module (`docs/report.md`, "Other lines").
    pub fn attach(&self, pidfd: impl AsFd, vm_fd: Option<i32>) -> Result<Attached, Error> {
        let attach = self.device.attach(pidfd.as_fd(), vm_fd);
        let attach = attach.map_err(|errno| self.error(errno))?;
        Ok(Attached {
            pid: attach.pid,
            fd: u32::try_from(attach.vm_fd).is_ok().then_some(attach.vm_fd),
            vcpus: attach.vcpus,
        })
    }

    /// Returns the memslots as they are now, without counts of pages.
    ///
    /// # Errors
    ///
    /// Those of the module.
    pub fn slots(&self) -> Result<Vec<uapi::Slot>, Error> {
        self.slots_of(0, 64)
    }

    /// Freezes the guest for a moment, and returns its vCPUs with their registers.
    ///
    /// `freeze_timeout_ms` is how long to wait for all to stop; 0 means a second.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: not all vCPUs stopped in time, and `late` is [`Late::Refuse`]. Others are those
    /// of the module.
    pub fn vcpus(&self, late: Late, freeze_timeout_ms: u32) -> Result<Vcpus, Error> {
        // A guest with more of them is frozen twice.
        self.vcpus_of(late.flag(), freeze_timeout_ms, 64)
    }

    /// Returns what the pages of a range are, as extents in ascending order. They are looked at
    /// while the iterator is asked for them.
    ///
    /// `gpa` is a multiple of 4096. `address_space` is 0, or 1 for system management mode. After an
    /// error the iterator ends.
    #[must_use]
    pub fn present(&self, gpa: u64, pages: u64, address_space: u32) -> Extents<'_> {
        Extents {
            session: self,
            address_space,
            left: uapi::Pages { gpa, pages },
            batch: Vec::new().into_iter(),
        }
    }

    /// Copies pages, whose ranges begin at multiples of 4096.
    ///
    /// # Errors
    ///
    /// `EINVAL`: one of the parts of `into` has not just one element for each page. Others are
    /// those of the module.
    pub fn copy(
        &self,
        ranges: &[uapi::Pages],
        into: CopyInto<'_>,
        terms: CopyTerms,
    ) -> Result<Copied, Error> {
        let mut flags = 0;
        if terms.is_paused {
            flags |= uapi::COPY_PAUSED;
        }
        if terms.only_changed {
            flags |= uapi::COPY_CHANGED;
        }
        let request = uapi::Copy {
            address_space: terms.address_space,
            flags,
            freeze_timeout_ms: terms.freeze_timeout_ms,
            max_pause_ms: terms.max_pause_ms,
            threads: terms.threads,
            ..FromZeros::new_zeroed()
        };
        let mut room = CopyRoom {
            buffer: into.pages.map(PageBuffer::as_mut_bytes),
            kinds: into.kinds,
            digests: into.digests,
        };
        let copied = self.device.copy(ranges, &mut room, request);
        let copied = copied.map_err(|errno| self.error(errno))?;
        Ok(Copied {
            present: copied.present,
            copied: copied.copied,
            late: copied.late,
            threads: copied.threads,
            freeze_ns: copied.freeze_ns,
            pause_ns: copied.pause_ns,
        })
    }

    /// Searches the guest's memory. What was found is kept until the next search.
    ///
    /// A signal to this process ends the search, and the guest goes on.
    ///
    /// # Errors
    ///
    /// `EINVAL`: a pattern or a limit is not valid. `ETIMEDOUT`: not all vCPUs stopped in time.
    /// `EINTR`: a signal. Others are those of the module.
    pub fn search(&self, query: &Query) -> Result<Found<'_>, Error> {
        let spans = query.ranges.iter().map(|range| uapi::Span {
            first: range.first,
            last: range.last,
        });
        let spans: Vec<_> = spans.collect();
        let mut flags = query.late.flag();
        if query.bring_in {
            flags |= uapi::BRING_IN;
        }
        let request = uapi::Search {
            max_hits: query.max_hits,
            context: query.context,
            flags,
            freeze_timeout_ms: query.freeze_timeout_ms,
            max_pause_ms: query.max_pause_ms,
            threads: query.threads,
            engine: query.engine,
            access: query.access,
            ..FromZeros::new_zeroed()
        };
        let number = self.searches.fetch_add(1, Ordering::SeqCst);
        let answer = self.device.search(&query.patterns, &spans, request);
        let answer = answer.map_err(|errno| self.error(errno))?;
        Ok(Found::new(self, number.wrapping_add(1), &answer))
    }

    /// Stops the guest until the guard is dropped or [released](Hold::release), at most for
    /// `lease_ms` milliseconds: 1 to [`MAX_LEASE_MS`].
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: not all vCPUs stopped in time. `EINVAL`: the lease is out of range. Others are
    /// those of the module.
    pub fn hold(
        &self,
        lease_ms: u32,
        freeze_timeout_ms: u32,
        late: Late,
    ) -> Result<Hold<'_>, Error> {
        Hold::new(self, lease_ms, freeze_timeout_ms, late)
    }

    /// Returns how far the session has come with what it does. Another thread may ask while a call
    /// is under way.
    ///
    /// # Errors
    ///
    /// Those of the module.
    pub fn progress(&self) -> Result<Progress, Error> {
        let progress = self.device.progress().map_err(Error::of_call)?;
        Ok(Progress {
            doing: match progress.does {
                uapi::DOES_NOTHING => Doing::Nothing,
                uapi::SEARCHES => Doing::Search,
                uapi::COPIES => Doing::Copy,
                uapi::HOLDS => Doing::Hold,
                number => Doing::Other(number),
            },
            done: progress.done,
            all: progress.all,
            pauses: progress.pauses,
        })
    }

    /// Reads bytes of address space 0 as they are now, and returns how many were read: 0 after the
    /// last memslot. Pages that are not there read as zeros.
    ///
    /// # Errors
    ///
    /// Those of the module.
    pub fn read_at(&self, buffer: &mut [u8], gpa: u64) -> Result<usize, Error> {
        let count = self.device.read_at(buffer, gpa);
        count.map_err(|errno| self.error(errno))
    }

    /// Returns the error of a call that has just failed, with the module's line about it.
    fn error(&self, errno: Errno) -> Error {
        let mut text = [0; uapi::MAX_EXPLANATION];
        let length = self.device.explain(&mut text).unwrap_or(0);
        let text = text.get(..length).unwrap_or_default().trim_ascii();
        if text.is_empty() {
            return Error::of_call(errno);
        }
        // Several lines are for one reason, the last one says it.
        let lines = String::from_utf8_lossy(text);
        let line = lines.lines().last().unwrap_or_default();
        Error::new(errno, line)
    }

    fn slots_of(&self, flags: u32, expected: usize) -> Result<Vec<uapi::Slot>, Error> {
        grow(expected, |slots| {
            let count = self.device.slots(slots, flags);
            count.map(|count| (count, ()))
        })
        .map(|(slots, ())| slots)
        .map_err(|errno| self.error(errno))
    }

    fn vcpus_of(
        &self,
        flags: u32,
        freeze_timeout_ms: u32,
        expected: usize,
    ) -> Result<Vcpus, Error> {
        let answer = grow(expected, |vcpus| {
            let answer = self.device.vcpus(vcpus, flags, freeze_timeout_ms)?;
            let count = usize::try_from(answer.count).map_err(|_| Errno::OVERFLOW)?;
            Ok((count, answer))
        });
        let (vcpus, answer) = answer.map_err(|errno| self.error(errno))?;
        Ok(Vcpus {
            vcpus,
            freeze_ns: answer.freeze_ns,
            pause_ns: answer.pause_ns,
        })
    }

    /// Returns whether a search is the last one.
    fn is_last_search(&self, number: u64) -> bool {
        self.searches.load(Ordering::SeqCst) == number
    }
}

impl Late {
    const fn flag(self) -> u32 {
        match self {
            Self::Refuse => 0,
            Self::Report => uapi::REPORT_LATE,
        }
    }
}

/// Opens a pidfd of a process.
///
/// # Errors
///
/// `ESRCH`: there is none.
pub fn open_process(pid: i32) -> Result<impl AsFd, Error> {
    let ended = |errno| {
        let line = format!("there is no process {pid}; see kvm-inspect list");
        Error::new(errno, line)
    };
    let number = Pid::from_raw(pid).ok_or_else(|| ended(Errno::SRCH))?;
    pidfd_open(number, PidfdFlags::empty()).map_err(ended)
}

/// Asks for a list until there is room for all of it.
fn grow<T: FromZeros, A>(
    expected: usize,
    mut ask: impl FnMut(&mut [T]) -> Result<(usize, A), Errno>,
) -> Result<(Vec<T>, A), Errno> {
    let mut room = expected;
    for _ in 0..TRIES {
        let mut list = T::new_vec_zeroed(room).map_err(|_| Errno::NOMEM)?;
        let (count, answer) = ask(&mut list)?;
        if count <= list.len() {
            list.truncate(count);
            return Ok((list, answer));
        }
        // There may be some more by then.
        room = count.saturating_add(count / 8).saturating_add(1);
    }
    Err(Errno::AGAIN)
}

/// What pages are, see [`Session::present`].
pub struct Extents<'a> {
    session: &'a Session,
    address_space: u32,
    /// What was not asked for yet.
    left: uapi::Pages,
    batch: std::vec::IntoIter<uapi::Extent>,
}

impl Extents<'_> {
    /// Asks for the next extents.
    fn ask(&mut self) -> Result<(), Error> {
        let extents = uapi::Extent::new_vec_zeroed(EXTENTS_AT_ONCE);
        let mut extents = extents.map_err(|_| Error::of_call(Errno::NOMEM))?;
        let device = &self.session.device;
        let answer = device.present(&mut extents, self.left, self.address_space);
        let answer = answer.map_err(|errno| self.session.error(errno))?;
        let count = usize::try_from(answer.count).unwrap_or(usize::MAX);
        let bytes = answer.seen.checked_mul(4096);
        if answer.seen == 0 || answer.seen > self.left.pages || count > extents.len() {
            return Err(Error::of_answer(
                "the module's list of pages makes no sense",
            ));
        }
        extents.truncate(count);
        self.left.pages -= answer.seen;
        // After the last page of the 64-bit space nothing is left to ask for.
        self.left.gpa = self.left.gpa.wrapping_add(bytes.unwrap_or(0));
        self.batch = extents.into_iter();
        Ok(())
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<uapi::Extent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(extent) = self.batch.next() {
                return Some(Ok(extent));
            }
            if self.left.pages == 0 {
                return None;
            }
            if let Err(error) = self.ask() {
                self.left.pages = 0;
                return Some(Err(error));
            }
        }
    }
}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Extents");
        fields.field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_grows_is_asked_for_again() {
        let mut asked = Vec::new();
        let list = grow::<u64, ()>(1, |room| {
            asked.push(room.len());
            Ok((5, ()))
        });
        assert_eq!(list, Ok((vec![0; 5], ())));
        assert_eq!(asked, [1, 6]);
    }

    #[test]
    fn a_list_that_grows_for_ever_is_given_up() {
        let list = grow::<u64, ()>(1, |room| Ok((room.len() + 1, ())));
        assert_eq!(list, Err(Errno::AGAIN));
    }

    #[test]
    fn a_process_that_is_none_has_a_line() {
        for pid in [0, i32::MAX] {
            let error = open_process(pid).map(|_| ()).unwrap_err();
            assert!(error.line().contains("; see kvm-inspect list"), "{error}");
        }
    }
}
