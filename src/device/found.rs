// SPDX-License-Identifier: GPL-2.0

//! What a search has found, as the device gives it.

use kernel::prelude::*;

use super::{
    context::nanoseconds,
    convert::{
        conclusion,
        kinds,
        to_slot,
        to_vcpu, //
    }, //
};
use crate::{
    memory::PAGE,
    outcome::Outcome,
    scan::EngineKind,
    search::Hits,
    uapi, //
};

/// What a search has found, for those who ask for parts of it.
pub(super) struct Found {
    pub(super) vcpus: KVVec<uapi::Vcpu>,
    pub(super) slots: KVVec<uapi::Slot>,
    pub(super) hits: Hits,
    pub(super) uncovered: KVVec<uapi::Uncovered>,
}

impl Found {
    /// Takes what the device can be asked for out of an outcome, and answers the search itself.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(outcome: Outcome, answer: &mut uapi::Search) -> Result<Self> {
        let (mut vcpus, mut slots) = (KVVec::new(), KVVec::new());
        for vcpu in &outcome.vcpus {
            vcpus.push(to_vcpu(vcpu), GFP_KERNEL)?;
        }
        let Outcome {
            map,
            findings,
            query,
            pauses,
            ..
        } = outcome;
        let counts = findings.pages.iter().zip(&findings.lost);
        for (slot, (pages, lost)) in map.slots().iter().zip(counts) {
            let mut to = to_slot(slot);
            to.kinds = kinds(pages);
            if *lost {
                to.flags |= uapi::SLOT_LOST;
            }
            slots.push(to, GFP_KERNEL)?;
        }
        let mut uncovered = KVVec::new();
        let mut uncovered_bytes = 0_u64;
        let mut result = Ok(());
        findings.for_each_uncovered(map.slots(), |run| {
            let Some(slot) = map.slots().get(run.slot) else {
                return;
            };
            let run = uapi::Uncovered {
                gpa: slot.gpa_at(run.first),
                pages: run.end.saturating_sub(run.first),
                address_space: u16::try_from(slot.address_space).unwrap_or(u16::MAX),
                slot: slot.id,
                reserved: 0,
            };
            uncovered_bytes = uncovered_bytes.saturating_add(run.pages.saturating_mul(PAGE));
            result = result.and(uncovered.push(run, GFP_KERNEL).map_err(Error::from));
        });
        result?;
        let left = findings.stopped_at;
        let left = left.and_then(|left| Some((map.slots().get(left.slot)?, left.gpa)));
        *answer = uapi::Search {
            threads: findings.stats.threads,
            engine: match query.engine.kind() {
                EngineKind::Portable => uapi::ENGINE_PORTABLE,
                EngineKind::Avx2 => uapi::ENGINE_AVX2,
                EngineKind::Avx512 => uapi::ENGINE_AVX512,
            },
            result: conclusion(outcome.conclusion),
            pauses: pauses.count,
            hits: findings.hit_count,
            kept: u32::try_from(findings.hits.len())?,
            uncovered: u32::try_from(uncovered.len())?,
            uncovered_bytes,
            scanned_bytes: findings.scanned_bytes,
            rescanned_bytes: findings.rescanned_bytes,
            missing_pages: findings.missing_pages,
            chunk_bytes: findings.chunk_bytes().unwrap_or(0),
            kinds: kinds(&findings.all_pages()),
            freeze_ns: nanoseconds(outcome.freeze),
            pause_ns: nanoseconds(pauses.longest),
            paused_ns: nanoseconds(pauses.all),
            scan_ns: nanoseconds(findings.stats.time),
            late_threads: findings.stats.late,
            vcpus: u32::try_from(vcpus.len())?,
            slots: u32::try_from(slots.len())?,
            left_address_space: left.map_or(0, |(slot, _)| {
                u32::try_from(slot.address_space).unwrap_or(0) //
            }),
            left_gpa: left.map_or(0, |(_, gpa)| gpa),
            ..*answer
        };
        Ok(Self {
            vcpus,
            slots,
            hits: findings.hits,
            uncovered,
        })
    }
}
