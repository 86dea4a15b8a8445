// SPDX-License-Identifier: GPL-2.0

//! `KVM_INSPECT_SEARCH`, and what it has found.

use kernel::{
    prelude::*,
    sync::Arc,
    time::Delta, //
};

use super::{
    arguments::{
        self,
        Argument, //
    },
    check_flags,
    context::Context, //
    found::Found,
    freeze_timeout,
    late,
    max_pause,
    session::{
        Job,
        Session, //
    },
};
use crate::{
    error::refuse,
    kvm::Memslots,
    linux::pages::Access,
    parameters,
    progress::Doing,
    range::{
        self,
        Range, //
    },
    request::{
        Limits,
        Query,
        Request,
        MAX_CONTEXT, //
    },
    scan::{
        EngineKind,
        Pattern,
        MAX_PATTERNS, //
    },
    uapi, //
};

/// The most spans of one call.
const MAX_SPANS: u32 = 1 << 16;

/// The most hits that are kept.
const MAX_HITS: u32 = 1 << 20;

/// How many bytes are kept of all hits, with those beside them, at most.
const MAX_BYTES: usize = 256 << 20;

/// The longest text of a pattern, in bytes.
const MAX_TEXT: u32 = 64 << 10;

/// `KVM_INSPECT_SEARCH`
pub(super) fn search(session: &Session, argument: &Argument) -> Result {
    let search = argument.read::<uapi::Search>()?;
    check_flags(search.flags, uapi::REPORT_LATE | uapi::BRING_IN, 0)?;
    let freeze_timeout_ms = freeze_timeout(search.freeze_timeout_ms)?;
    let max_pause_ms = max_pause(search.max_pause_ms)?;
    let limits = Limits {
        max_pause_ms: max_pause_ms.unwrap_or(0).into(),
        freeze_timeout_ms: freeze_timeout_ms.into(),
        interval_ms: 0,
        threads: parameters::threads(search.threads.into())?,
        max_slots: usize::MAX,
        max_vcpus: usize::MAX,
        are_checked: true,
        bring_in: search.flags & uapi::BRING_IN != 0,
        late: late(search.flags),
    };
    let job = session.call(SearchJob {
        request: Request {
            pid: 0,
            vm_fd: None,
            interval: None,
            freeze_timeout: Delta::from_millis(freeze_timeout_ms.into()),
            late: limits.late,
            max_pause: max_pause_ms.map(|most| Delta::from_millis(most.into())),
            bring_in: limits.bring_in,
            threads: limits.threads,
            query: Arc::new(query(&search, limits)?, GFP_KERNEL)?,
        },
        answer: search,
        found: None,
    })?;
    job.with(|job| {
        if let Some(found) = job.found.take() {
            session.shared().keep(found);
        }
        argument.write(&job.answer)
    })
}

/// Checks what is to be searched for.
fn query(search: &uapi::Search, limits: Limits) -> Result<Query> {
    let most = u32::try_from(MAX_PATTERNS)?;
    for (name, value, most) in [
        ("pattern_count", search.pattern_count, most),
        ("span_count", search.span_count, MAX_SPANS),
        ("max_hits", search.max_hits, MAX_HITS),
        ("context", search.context, u32::try_from(MAX_CONTEXT)?),
    ] {
        if value > most {
            return Err(refuse!(
                EINVAL,
                "{name}={value} is out of range; give at most {most}"
            ));
        }
    }
    let (mut patterns, mut asked) = (KVVec::new(), KVVec::new());
    let count = usize::try_from(search.pattern_count)?;
    let texts = arguments::read_elements::<uapi::Pattern>(search.patterns, count)?;
    for (index, text) in texts.iter().enumerate() {
        check_flags(0, 0, text.reserved)?;
        if text.length > MAX_TEXT {
            return Err(refuse!(
                EINVAL,
                "pattern {index} is too long; give a shorter one"
            ));
        }
        let text = arguments::read_bytes(text.text, usize::try_from(text.length)?)?;
        let (pattern, is) = parameters::pattern(index, &text)?;
        patterns.push(pattern, GFP_KERNEL)?;
        asked.push(is, GFP_KERNEL)?;
    }
    let longest = patterns.iter().map(Pattern::len).max().unwrap_or(0);
    let shown = match usize::try_from(search.context)? {
        0 => 0,
        context => longest.saturating_add(context.saturating_mul(2)),
    };
    if shown.saturating_mul(usize::try_from(search.max_hits)?) > MAX_BYTES {
        return Err(refuse!(
            E2BIG,
            "max_hits={} with context={} would take too much memory; give less of one",
            search.max_hits,
            search.context
        ));
    }
    let engine = match search.engine {
        uapi::ENGINE_BEST => parameters::best_engine(),
        uapi::ENGINE_PORTABLE => parameters::engine(EngineKind::Portable)?,
        uapi::ENGINE_AVX2 => parameters::engine(EngineKind::Avx2)?,
        uapi::ENGINE_AVX512 => parameters::engine(EngineKind::Avx512)?,
        other => return Err(refuse!(EINVAL, "engine={other} is not known; give 0 to 3")),
    };
    let access = match search.access {
        uapi::ACCESS_LINEAR => Access::Linear,
        uapi::ACCESS_VMAP => Access::Vmap,
        uapi::ACCESS_COPY => Access::Copy,
        other => return Err(refuse!(EINVAL, "access={other} is not known; give 0 to 2")),
    };
    Query::new(
        patterns,
        asked,
        ranges(search)?,
        usize::try_from(search.max_hits)?,
        usize::try_from(search.context)?,
        limits,
        access,
        engine,
    )
}

fn ranges(search: &uapi::Search) -> Result<KVVec<Range>> {
    let count = usize::try_from(search.span_count)?;
    let spans = arguments::read_elements::<uapi::Span>(search.spans, count)?;
    let mut ranges = KVVec::with_capacity(count.max(1), GFP_KERNEL)?;
    for uapi::Span { first, last } in &spans {
        let (first, last) = (*first, *last);
        if last < first {
            return Err(refuse!(
                EINVAL,
                "the span from {first:#x} to {last:#x} is empty; give its last byte's address"
            ));
        }
        ranges.push(Range { first, last }, GFP_KERNEL)?;
    }
    if ranges.is_empty() {
        ranges.push(Range::ALL, GFP_KERNEL)?;
    }
    let merged = range::merge(&mut ranges);
    ranges.truncate(merged);
    Ok(ranges)
}

struct SearchJob {
    request: Request,
    /// What was asked, and then what came of it.
    answer: uapi::Search,
    found: Option<Arc<Found>>,
}

impl Job for SearchJob {
    fn run(&mut self, context: &mut Context<'_>) -> Result {
        let slots = Memslots::read(&context.target.vm)?;
        let pages = slots.as_slice().iter().map(|slot| slot.pages);
        let pages = pages.fold(0, u64::saturating_add);
        context.progress.begin(Doing::Search, pages);
        drop(slots);
        let outcome = context.inspect(&self.request)?;
        let found = Found::new(outcome, &mut self.answer)?;
        self.found = Some(Arc::new(found, GFP_KERNEL)?);
        Ok(())
    }
}

/// `KVM_INSPECT_HITS`
pub(super) fn hits(session: &Session, argument: &Argument) -> Result {
    let mut hits = argument.read::<uapi::Hits>()?;
    let found = session.found()?;
    let bytes_room = usize::try_from(hits.bytes_room)?;
    let (mut used, mut count) = (0_usize, 0_u32);
    let first = usize::try_from(hits.first)?;
    let room = usize::try_from(hits.room)?;
    let mut error = Ok(());
    let written = found
        .hits
        .iter()
        .skip(first)
        .take(room)
        .map_while(|(hit, bytes)| {
            let end = used
                .checked_add(bytes.len())
                .filter(|end| *end <= bytes_room)?;
            let slot = found.slots.get(hit.slot)?;
            let at = hits.bytes.checked_add(u64::try_from(used).ok()?)?;
            if let Err(reason) = arguments::write_bytes(at, bytes) {
                error = Err(reason);
                return None;
            }
            let element = uapi::Hit {
                gpa: hit.gpa,
                hva: slot.hva.wrapping_add(hit.gpa.wrapping_sub(slot.gpa)),
                pattern: u32::try_from(hit.pattern).ok()?,
                address_space: slot.address_space,
                slot: slot.id,
                bytes: u32::try_from(used).ok()?,
                before: u16::try_from(hit.before).ok()?,
                length: u16::try_from(bytes.len()).ok()?,
            };
            used = end;
            count = count.saturating_add(1);
            Some(element)
        });
    arguments::write_elements(hits.hits, hits.hit_size, written)?;
    error?;
    hits.count = count;
    argument.write(&hits)
}

/// `KVM_INSPECT_UNCOVERED`
pub(super) fn uncovered(session: &Session, argument: &Argument) -> Result {
    let mut list = argument.read::<uapi::Uncovereds>()?;
    check_flags(0, 0, list.reserved)?;
    let found = session.found()?;
    let first = usize::try_from(list.first)?.min(found.uncovered.len());
    let room = usize::try_from(list.room)?;
    let runs = found.uncovered.get(first..).unwrap_or_default();
    let runs = runs.get(..room).unwrap_or(runs);
    arguments::write_elements(list.uncovered, list.uncovered_size, runs.iter().copied())?;
    list.count = u32::try_from(runs.len())?;
    argument.write(&list)
}
