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
    arguments::{
        self,
        ArgumentError, //
    },
    bindings,
    error::refuse,
    linux::{
        arguments as written,
        cpumask,
        kernels::EOPNOTSUPP,
        pages::Access,
        sha256::sha256, //
    },
    range::{
        self,
        Range,
        RangeError, //
    },
    request::{
        Asked,
        Late,
        Limits,
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

/// The most patterns: a list of them has to be typed. What searches takes more.
const MAX_PATTERNS: usize = 256;

/// The most hits that can be printed. They stay in memory until the guest goes on.
const MAX_HITS: usize = 16384;

/// The most ranges.
const MAX_RANGES: usize = 256;

/// The most memslots and vCPUs that can be printed: more than KVM allows.
const MAX_LINES: usize = 1 << 20;

/// The most threads that search at once. More would wait for memory.
const MAX_THREADS: usize = 16;

/// The longest time, in milliseconds: a day.
pub(crate) const MAX_MS: i64 = 24 * 60 * 60 * 1000;

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
    /// `max_pause_ms=`.
    pub(crate) max_pause_ms: i64,
    /// `threads=`, 0 if not given.
    pub(crate) threads: i64,
    /// `max_hits=`.
    pub(crate) max_hits: i64,
    /// `context=`.
    pub(crate) context: i64,
    /// `bring_in=`.
    pub(crate) bring_in: i64,
    /// `max_slots=`.
    pub(crate) max_slots: i64,
    /// `max_vcpus=`.
    pub(crate) max_vcpus: i64,
}

/// Checks all parameters, the strings included. [`None`]: there are none, and the device is all
/// that is asked for.
///
/// # Errors
///
/// `EINVAL` or `EOPNOTSUPP`, after a line that says which one is wrong and what to do. `ENOMEM`.
pub(crate) fn check(raw: &RawParameters) -> Result<Option<Request>> {
    let written = are_as_written()?;
    if written == Written::None {
        return Ok(None);
    }
    if raw.pid == 0 {
        return Err(refuse!(
            EINVAL,
            "pid= is missing; give the process number of the VMM, or no parameter at all to use \
             the device"
        ));
    }
    let max_pid = i64::from(i32::MAX);
    let max_fd = i64::from(i32::MAX);
    let limits = Limits {
        max_pause_ms: number("max_pause_ms", raw.max_pause_ms, 0, MAX_MS)?,
        freeze_timeout_ms: number("freeze_timeout_ms", raw.freeze_timeout_ms, 1, MAX_MS)?,
        interval_ms: number("interval_ms", raw.interval_ms, 0, MAX_MS)?,
        threads: threads(raw.threads)?,
        max_slots: size("max_slots", raw.max_slots, MAX_LINES)?,
        max_vcpus: size("max_vcpus", raw.max_vcpus, MAX_LINES)?,
        are_checked: written == Written::Checked,
        bring_in: number("bring_in", raw.bring_in, 0, 1)? == 1,
        late: late()?,
    };
    Ok(Some(Request {
        pid: i32::try_from(number("pid", raw.pid, 1, max_pid)?)?,
        vm_fd: u32::try_from(number("vm_fd", raw.vm_fd, -1, max_fd)?).ok(),
        interval: time(limits.interval_ms),
        freeze_timeout: Delta::from_millis(limits.freeze_timeout_ms),
        late: limits.late,
        max_pause: time(limits.max_pause_ms),
        bring_in: limits.bring_in,
        threads: limits.threads,
        query: Arc::new(query(raw, limits)?, GFP_KERNEL)?,
    }))
}

/// Returns what was written. If the kernel has taken it differently, that is an error.
fn are_as_written() -> Result<Written> {
    let Some(text) = written::read()? else {
        return Ok(Written::Unknown);
    };
    // What is left of each list as the kernel has it, when the values written are taken off.
    let mut lists = [
        (&b"pattern"[..], bindings::pattern_parameter()),
        (&b"range"[..], bindings::range_parameter()),
    ];
    let mut are_same = true;
    let mut written = Written::None;
    arguments::check(&text, bindings::is_parameter, |name, value| {
        written = Written::Checked;
        if let Some((_, list)) = lists.iter_mut().find(|(other, _)| *other == name) {
            let rest = list.and_then(|list| list.strip_prefix(value));
            are_same &= rest.is_some();
            *list = rest.and_then(|rest| rest.strip_prefix(b","));
        }
    })
    .map_err(|error| refuse!(EINVAL, "{error}"))?;
    if !are_same || lists.iter().any(|(_, list)| list.is_some()) {
        return Err(refuse!(
            EINVAL,
            "the kernel has taken pattern= or range= differently than it was written; write spaces \
             and quotes as \\s and \\x22"
        ));
    }
    Ok(written)
}

/// What was written after the name of the module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Nothing.
    None,
    /// The parameters as the kernel has taken them.
    Checked,
    /// That is not to be found.
    Unknown,
}

fn query(raw: &RawParameters, limits: Limits) -> Result<Query> {
    let (patterns, asked) = patterns()?;
    let engine = engine_parameter()?;
    let ranges = ranges()?;
    let max_hits = size("max_hits", raw.max_hits, MAX_HITS)?;
    let context = size("context", raw.context, MAX_CONTEXT)?;
    let access = access()?;
    let query = Query::new(
        patterns, asked, ranges, max_hits, context, limits, access, engine,
    )?;
    if let Some((times, index, pattern)) = query.slowness() {
        pr_warn!(
            "warning: the search will take about {times} times as long as reading the memory; \
             pattern {index} has {} given bits only: give more, search less (range=), or in \
             short pauses (max_pause_ms=)\n",
            pattern.bits()
        );
    }
    Ok(query)
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

fn time(ms: i64) -> Option<Delta> {
    (ms > 0).then(|| Delta::from_millis(ms))
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

/// Returns the fastest engine that the CPU has.
pub(crate) fn best_engine() -> Engine {
    let mut all = EngineKind::ALL.into_iter().rev();
    all.find_map(host::engine).unwrap_or(Engine::PORTABLE)
}

/// Returns how many threads may work, of which so many are asked for; 0: as many as there are CPUs.
///
/// # Errors
///
/// `EINVAL`, after a line that says so: there would be too many.
pub(crate) fn threads(asked: i64) -> Result<usize> {
    Ok(match size("threads", asked, MAX_THREADS)? {
        0 => cpumask::num_online_cpus().clamp(1, MAX_THREADS),
        threads => threads,
    })
}

fn engine_parameter() -> Result<Engine> {
    let name = bindings::engine_parameter();
    let mut all = EngineKind::ALL.into_iter();
    if name.is_empty() {
        return Ok(best_engine());
    }
    let Some(kind) = all.find(|kind| kind.name().as_bytes() == name) else {
        return Err(refuse!(
            EINVAL,
            "engine={} is not known; give avx512, avx2 or portable",
            BStr::from_bytes(name)
        ));
    };
    engine(kind)
}

/// Returns the engine of a kind.
///
/// # Errors
///
/// `EOPNOTSUPP`, after a line that says so: the CPU has not got it.
pub(crate) fn engine(kind: EngineKind) -> Result<Engine> {
    host::engine(kind).ok_or_else(|| {
        refuse!(
            EOPNOTSUPP,
            "engine={} is more than this CPU can do; leave it out for the best one",
            kind.name()
        )
    })
}

/// Returns the elements of a list.
fn elements(list: Option<&'static [u8]>) -> impl Iterator<Item = (usize, &'static [u8])> {
    let lists = list.into_iter();
    lists
        .flat_map(|list| list.split(|byte| *byte == b','))
        .enumerate()
}

/// Reads the pattern with this number, as it was written.
///
/// # Errors
///
/// `EINVAL`, after a line that says what is wrong with it.
pub(crate) fn pattern(index: usize, text: &[u8]) -> Result<(Pattern, Asked)> {
    let pattern = match Pattern::parse(text) {
        Ok(pattern) => pattern,
        Err(error) => return Err(refuse!(EINVAL, "pattern {index}: {error}")),
    };
    let [a, b, c, d, e, f, g, h, ..] = sha256(text);
    let asked = Asked {
        kind: Pattern::kind(text),
        digest: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
    };
    Ok((pattern, asked))
}

fn patterns() -> Result<(KVVec<Pattern>, KVVec<Asked>)> {
    let (mut patterns, mut asked) = (KVVec::new(), KVVec::new());
    for (index, text) in elements(bindings::pattern_parameter()) {
        if index == MAX_PATTERNS {
            return Err(refuse!(
                EINVAL,
                "there are more than {MAX_PATTERNS} patterns; inspect several times"
            ));
        }
        let (pattern, is) = pattern(index, text)?;
        patterns.push(pattern, GFP_KERNEL)?;
        asked.push(is, GFP_KERNEL)?;
    }
    Ok((patterns, asked))
}

fn ranges() -> Result<KVVec<Range>> {
    let mut ranges = KVVec::new();
    for (index, text) in elements(bindings::range_parameter()) {
        if index == MAX_RANGES {
            return Err(refuse!(
                EINVAL,
                "there are more than {MAX_RANGES} ranges; give larger ones"
            ));
        }
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

impl fmt::Display for ArgumentError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
