// SPDX-License-Identifier: GPL-2.0

//! From the module's parameters to a checked [`Request`].

use kernel::{
    fmt,
    prelude::*,
    str::BStr,
    sync::Arc,
    time::Delta, //
};

use crate::{
    bindings,
    error::refuse,
    linux::{
        cpumask,
        pages::Access, //
    },
    range::{
        self,
        Range,
        RangeError, //
    },
    request::{
        Late,
        Query,
        Request,
        MAX_CONTEXT, //
    },
    scan::{
        Engine,
        EngineKind,
        Pattern,
        PatternError, //
    },
    search::host, //
};

/// The most hits that can be printed. They stay in memory until the guest goes on.
const MAX_HITS: usize = 16384;

/// The most threads that search at once. More would wait for memory.
const MAX_THREADS: usize = 16;

/// The longest time, in milliseconds: a day.
const MAX_MS: i64 = 24 * 60 * 60 * 1000;

/// The values of the parameters as `module!` has them. Strings are read by [`check`].
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

/// Checks all parameters, the strings included.
///
/// # Errors
///
/// `EINVAL` or `EOPNOTSUPP`, after a line that says which one is wrong and what to do. `ENOMEM`.
pub(crate) fn check(raw: &RawParameters) -> Result<Request> {
    if raw.pid == 0 {
        return Err(refuse!(
            EINVAL,
            "pid= is missing; give the process number of the VMM"
        ));
    }
    let max_pid = i64::from(i32::MAX);
    let max_fd = i64::from(i32::MAX);
    Ok(Request {
        pid: i32::try_from(number("pid", raw.pid, 1, max_pid)?)?,
        vm_fd: u32::try_from(number("vm_fd", raw.vm_fd, -1, max_fd)?).ok(),
        interval: time("interval_ms", raw.interval_ms)?,
        freeze_timeout: Delta::from_millis(number(
            "freeze_timeout_ms",
            raw.freeze_timeout_ms,
            1,
            MAX_MS,
        )?),
        late: late()?,
        max_pause: time("max_pause_ms", raw.max_pause_ms)?,
        threads: match size("threads", raw.threads, MAX_THREADS)? {
            0 => cpumask::num_online_cpus().clamp(1, MAX_THREADS),
            threads => threads,
        },
        query: Arc::new(query(raw)?, GFP_KERNEL)?,
    })
}

fn query(raw: &RawParameters) -> Result<Query> {
    let patterns = patterns()?;
    let engine = engine()?;
    let ranges = ranges()?;
    let max_hits = size("max_hits", raw.max_hits, MAX_HITS)?;
    let context = size("context", raw.context, MAX_CONTEXT)?;
    Query::new(patterns, ranges, max_hits, context, access()?, engine)
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
    let name = bindings::access_parameter();
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

fn late() -> Result<Late> {
    match bindings::late_parameter() {
        b"" | b"refuse" => Ok(Late::Refuse),
        b"report" => Ok(Late::Report),
        name => Err(refuse!(
            EINVAL,
            "late={} is not known; give refuse or report",
            BStr::from_bytes(name)
        )),
    }
}

fn engine() -> Result<Engine> {
    let name = bindings::engine_parameter();
    let mut all = EngineKind::ALL.into_iter().rev();
    if name.is_empty() {
        return Ok(all.find_map(host::engine).unwrap_or(Engine::PORTABLE));
    }
    let Some(kind) = all.find(|kind| kind.name().as_bytes() == name) else {
        return Err(refuse!(
            EINVAL,
            "engine={} is not known; give avx512, avx2 or portable",
            BStr::from_bytes(name)
        ));
    };
    host::engine(kind).ok_or_else(|| {
        refuse!(
            EOPNOTSUPP,
            "engine={} is more than this CPU can do; leave it out for the best one",
            kind.name()
        )
    })
}

fn patterns() -> Result<KVVec<Pattern>> {
    let mut patterns = KVVec::new();
    for (index, text) in bindings::pattern_parameter().enumerate() {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern, GFP_KERNEL)?,
            Err(error) => return Err(refuse!(EINVAL, "pattern {index}: {error}")),
        }
    }
    Ok(patterns)
}

fn ranges() -> Result<KVVec<Range>> {
    let mut ranges = KVVec::new();
    for (index, text) in bindings::range_parameter().enumerate() {
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

// The kernel prints by a trait of its own.

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
