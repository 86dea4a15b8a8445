// SPDX-License-Identifier: GPL-2.0

//! The module's parameters, checked.

use kernel::{
    fmt,
    prelude::*,
    str::BStr,
    sync::Arc,
    time::Delta, //
};

use crate::{
    fpu,
    pages::Access,
    range::{
        self,
        Range,
        RangeError, //
    },
    report::refuse,
    scan::{
        digest,
        Level,
        Memory,
        Pattern,
        PatternError,
        Searcher,
        Tables, //
    },
    sys, //
};

/// The most bytes around a hit that can be asked for, on each side: with the longest pattern a
/// line still fits into the kernel log.
pub(crate) const MAX_CONTEXT: usize = 64;

/// The most hits that can be printed. They are kept in memory until the guest goes on.
const MAX_HITS: usize = 16384;

/// The most threads that search at once. More than memory can serve.
const MAX_THREADS: usize = 16;

/// The longest time that can be given, in milliseconds: a day.
const MAX_MS: i64 = 24 * 60 * 60 * 1000;

/// What the user wants.
pub(crate) struct Parameters {
    /// The VMM's process number.
    pub(crate) pid: i32,
    /// The file descriptor of the VM in the VMM, if only one VM is meant.
    pub(crate) vm_fd: Option<u32>,
    /// After what time to inspect again.
    pub(crate) interval: Option<Delta>,
    /// How long to wait for all vCPUs to stand.
    pub(crate) freeze_timeout: Delta,
    /// How long the guest may be kept from running.
    pub(crate) max_pause: Option<Delta>,
    /// How many threads may search.
    pub(crate) threads: usize,
    /// What to look for in memory.
    pub(crate) wanted: Arc<Wanted>,
}

/// What to look for in memory, and what to tell of it.
pub(crate) struct Wanted {
    /// The patterns; none if memory is not to be searched.
    pub(crate) patterns: KVVec<Pattern>,
    /// Where to search, merged.
    pub(crate) ranges: KVVec<Range>,
    /// How many hits to keep.
    pub(crate) max_hits: usize,
    /// How many bytes to show on each side of a hit; 0 shows none at all.
    pub(crate) context: usize,
    /// How pages are read.
    pub(crate) access: Access,
    /// What searches.
    pub(crate) level: Level,
    /// The patterns, prepared for it.
    tables: KVBox<Tables>,
}

impl Wanted {
    /// The patterns, ready to be searched for.
    pub(crate) fn searcher(&self) -> Searcher<'_> {
        // SAFETY: The CPU has it, see `level`.
        unsafe { Searcher::of_prepared(&self.tables, &self.patterns, self.level) }
    }

    /// The digest of some memory.
    pub(crate) fn digest(&self, key: &digest::Key, memory: &impl Memory) -> u64 {
        // SAFETY: As above.
        unsafe { digest::digest(self.level, key, memory, &fpu::Thread) }
    }
}

/// The values of the parameters as `module!` has them.
pub(crate) struct RawParameters {
    /// `pid=`, 0 if not given.
    pub(crate) pid: i64,
    /// `vm_fd=`, -1 if not given.
    pub(crate) vm_fd: i64,
    /// `interval_ms=`, 0 if not given.
    pub(crate) interval_ms: i64,
    /// `freeze_timeout_ms=`.
    pub(crate) freeze_timeout_ms: i64,
    /// `max_pause_ms=`, 0 if not given.
    pub(crate) max_pause_ms: i64,
    /// `threads=`, 0 if not given.
    pub(crate) threads: i64,
    /// `max_hits=`.
    pub(crate) max_hits: i64,
    /// `context=`.
    pub(crate) context: i64,
}

impl Parameters {
    /// Checks the parameters, and reads those that are strings.
    ///
    /// # Errors
    ///
    /// `EINVAL`, after a line that says which one is wrong and what to do. `ENOMEM`.
    pub(crate) fn check(raw: &RawParameters) -> Result<Self> {
        if raw.pid == 0 {
            return Err(refuse!(
                EINVAL,
                "pid= is missing; give the process number of the VMM"
            ));
        }
        let max_pid = i64::from(i32::MAX);
        let max_fd = i64::from(i32::MAX);
        Ok(Self {
            pid: i32::try_from(number("pid", raw.pid, 1, max_pid)?)?,
            vm_fd: u32::try_from(number("vm_fd", raw.vm_fd, -1, max_fd)?).ok(),
            interval: time("interval_ms", raw.interval_ms)?,
            freeze_timeout: Delta::from_millis(number(
                "freeze_timeout_ms",
                raw.freeze_timeout_ms,
                1,
                MAX_MS,
            )?),
            max_pause: time("max_pause_ms", raw.max_pause_ms)?,
            threads: match size("threads", raw.threads, MAX_THREADS)? {
                0 => fpu::online_cpus().clamp(1, MAX_THREADS),
                threads => threads,
            },
            wanted: Arc::new(wanted(raw)?, GFP_KERNEL)?,
        })
    }
}

fn wanted(raw: &RawParameters) -> Result<Wanted> {
    let patterns = patterns()?;
    let level = level()?;
    // Some hundreds of KiB.
    let mut tables = KVBox::init(pin_init::init_zeroed::<Tables>(), GFP_KERNEL)?;
    // SAFETY: `level` gives none that the CPU does not have.
    let _ = unsafe { Searcher::new(&mut tables, &patterns, level) };
    Ok(Wanted {
        patterns,
        ranges: ranges()?,
        max_hits: size("max_hits", raw.max_hits, MAX_HITS)?,
        context: size("context", raw.context, MAX_CONTEXT)?,
        access: access()?,
        level,
        tables,
    })
}

fn number(name: &str, value: i64, least: i64, most: i64) -> Result<i64> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(refuse!(
            EINVAL,
            "{name}={value} is out of range; give {least} to {most}"
        ))
    }
}

fn time(name: &str, value: i64) -> Result<Option<Delta>> {
    let ms = number(name, value, 0, MAX_MS)?;
    Ok((ms > 0).then(|| Delta::from_millis(ms)))
}

fn size(name: &str, value: i64, most: usize) -> Result<usize> {
    let value = number(name, value, 0, i64::try_from(most)?)?;
    Ok(usize::try_from(value)?)
}

fn access() -> Result<Access> {
    let name = sys::access_parameter();
    if name.is_empty() {
        return Ok(Access::Linear);
    }
    let mut all = Access::ALL.iter();
    match all.find(|(_, known)| known.as_bytes() == name) {
        Some((access, _)) => Ok(*access),
        None => Err(refuse!(
            EINVAL,
            "access={} is not known; give linear, vmap or copy",
            BStr::from_bytes(name)
        )),
    }
}

fn level() -> Result<Level> {
    let name = sys::engine_parameter();
    let mut all = Level::ALL.iter().rev();
    if name.is_empty() {
        let best = all.find(|level| fpu::has(**level));
        return Ok(best.copied().unwrap_or(Level::Portable));
    }
    let Some(level) = all.find(|level| level.name().as_bytes() == name) else {
        return Err(refuse!(
            EINVAL,
            "engine={} is not known; give avx512, avx2 or portable",
            BStr::from_bytes(name)
        ));
    };
    if !fpu::has(*level) {
        return Err(refuse!(
            EOPNOTSUPP,
            "engine={} is more than this CPU can do; leave it out for the best one",
            level.name()
        ));
    }
    Ok(*level)
}

fn patterns() -> Result<KVVec<Pattern>> {
    let mut patterns = KVVec::new();
    for (index, text) in sys::pattern_parameter().enumerate() {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern, GFP_KERNEL)?,
            Err(error) => return Err(refuse!(EINVAL, "pattern {index}: {error}")),
        }
    }
    Ok(patterns)
}

fn ranges() -> Result<KVVec<Range>> {
    let mut ranges = KVVec::new();
    for (index, text) in sys::range_parameter().enumerate() {
        match Range::parse(text) {
            Ok(range) => ranges.push(range, GFP_KERNEL)?,
            Err(error) => return Err(refuse!(EINVAL, "range {index}: {error}")),
        }
    }
    if ranges.is_empty() {
        ranges.push(Range::ALL, GFP_KERNEL)?;
    }
    let merged = range::merge(&mut ranges);
    ranges.truncate(merged);
    Ok(ranges)
}

// The kernel prints with a trait of its own.

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
