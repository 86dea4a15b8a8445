// SPDX-License-Identifier: GPL-2.0

//! The kernel's log, as it is in memory (`kernel/printk/printk_ringbuffer.h`, since Linux 5.10).
//!
//! There are three rings: descriptors, infos with the same indexes, and blocks of text. A
//! descriptor says in one word which record it holds and whether that is complete; a writer changes
//! this word before it changes anything else. So a record is good if the word is the same before
//! and after it was read, as in the kernel's `prb_read`, even if the guest runs meanwhile.

mod record;
mod ring;

use std::{
    error::Error,
    fmt::{self, Display},
};

pub use self::record::{Caller, Record};
use self::ring::{Read, Ring};
use super::Kernel;
use crate::paging::Fault;

/// How many records are read, the newest ones. A log of 32 MiB has so many.
const MAX_RECORDS: u64 = 1 << 20;
/// How much text is read, in bytes.
const MAX_TEXT: u64 = 64 << 20;

/// The log of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The records, the oldest first.
    pub records: Vec<Record>,
    /// How many more are in the ring, but incomplete: being written, overwritten, without their
    /// text, or invalid.
    pub skipped: u64,
    /// How many older ones were not read, because there are too many.
    pub omitted: u64,
}

impl Log {
    /// Reads the log.
    ///
    /// # Errors
    ///
    /// See [`LogError`].
    pub fn read(kernel: &Kernel<'_>) -> Result<Self, LogError> {
        let ring = Ring::find(kernel)?;
        let mut log = Self::default();
        // Each byte of the ring is in one block only, unless the guest lies.
        let mut text_left = ring.text_size().min(MAX_TEXT);
        let count = ring.len();
        log.omitted = count.saturating_sub(MAX_RECORDS);
        for index in log.omitted..count {
            match ring.read(index) {
                Ok(Read::Record(record)) => {
                    let size = record.text.len() as u64;
                    match text_left.checked_sub(size) {
                        Some(left) => {
                            text_left = left;
                            log.records.push(record);
                        }
                        None => log.skipped += 1,
                    }
                }
                // The ring had to let go of it.
                Ok(Read::Free) => (),
                Err(Fault::Memory(error)) => return Err(Fault::Memory(error).into()),
                Err(_) | Ok(Read::Incomplete) => log.skipped += 1,
            }
        }
        Ok(log)
    }

    /// Returns the sequence number of the first record. If it is not 0, that many were overwritten.
    #[must_use]
    pub fn first_sequence(&self) -> Option<u64> {
        self.records.first().map(|record| record.sequence)
    }
}

/// Why the log cannot be read.
#[derive(Debug)]
pub enum LogError {
    /// VMCOREINFO lacks this key: Linux is older than 5.10, or has no log.
    Missing(String),
    /// The rings are not in memory.
    Fault(Fault),
    /// They are not what the kernel would make, for this reason.
    Invalid(&'static str),
}

impl From<Fault> for LogError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(f, "VMCOREINFO has no {key}"),
            Self::Fault(fault) => write!(f, "the kernel's log: {fault}"),
            Self::Invalid(why) => write!(f, "the kernel's log is not valid: {why}"),
        }
    }
}

impl Error for LogError {}
